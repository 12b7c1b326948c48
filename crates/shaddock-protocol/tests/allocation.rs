//! The cost model, counted: what the hot path and an idle connection may ask of the allocator.
#![allow(
    clippy::unwrap_used,
    reason = "a helper of tests that cannot go on may panic"
)]
#![expect(
    unsafe_code,
    reason = "a counting allocator is an implementation of an unsafe trait; it forwards to the system's"
)]

mod common;

use bytes::{Bytes, BytesMut};
use common::{ACK, HEARTBEAT, Link, POMELO, handshake, request};
use shaddock_protocol::{CodecConfig, Dictionary, Event};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
    static LARGEST: Cell<usize> = const { Cell::new(0) };
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn live(change: isize) {
    let _ = LIVE.try_with(|live| {
        live.set(live.get() + change);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(live.get())));
    });
}

// SAFETY: every method forwards to the system allocator with the arguments it was given.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread that ends may free after its cells are gone.
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        let _ = LARGEST.try_with(|largest| largest.set(largest.get().max(layout.size())));
        live(layout.size().cast_signed());
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        live(-layout.size().cast_signed());
        // SAFETY: the pointer came from `alloc` above, with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How often `work` allocates, and the most it asks for at once.
fn counted<T>(work: impl FnOnce() -> T) -> (T, usize, usize) {
    let before = ALLOCATIONS.get();
    LARGEST.set(0);
    let result = work();
    (result, ALLOCATIONS.get() - before, LARGEST.get())
}

fn config() -> CodecConfig {
    let dictionary = Dictionary::build(["chat.chatHandler.send"], [""; 0]).unwrap();
    CodecConfig::default()
        .heartbeat(Duration::from_secs(3))
        .dictionary(Arc::new(dictionary))
}

#[test]
fn requests_and_responses_cost_no_allocation() {
    let mut link = Link::open(config(), POMELO);
    link.out = BytesMut::with_capacity(1 << 16);
    let body = br#"{"content":"hello","nested":[{"a":[1,2.5,null]}],"text":"caf\u00e9"}"#;
    let mut chunk = Vec::new();
    for id in 1..=16 {
        chunk.extend_from_slice(&request(id, "chat.chatHandler.send", body));
        chunk.extend_from_slice(&common::data(&[&[1, id, 0, 1], &body[..]].concat()));
        chunk.extend_from_slice(HEARTBEAT);
    }
    link.input = Bytes::from(chunk);
    // The first slice of a vector makes its reference count.
    let keep = link.input.slice(1..);
    let codec = link.conn.codec().clone();

    let (messages, allocations, _) = counted(|| {
        let mut messages = 0;
        while let Ok(Some(event)) = link.next() {
            let Event::Message(message) = event else {
                panic!()
            };
            let (route, body) = (message.route.as_str(), &message.body);
            codec
                .encode_response(
                    link.conn.dialect(),
                    messages,
                    route,
                    body,
                    false,
                    &mut link.out,
                )
                .unwrap();
            messages += 1;
        }
        messages
    });
    assert_eq!((messages, allocations), (32, 0));
    drop(keep);
}

#[test]
fn a_push_is_one_allocation() {
    let codec = common::codec(config());
    let body = br#"{"msg":"hello"}"#;
    let dialect = shaddock_protocol::Dialect::Pomelo;
    let (push, allocations, _) = counted(|| codec.encode_push(dialect, "onChat", body).unwrap());
    // The buffer, and the reference count that makes it shareable.
    assert!(allocations <= 2, "{allocations}");
    let (_, allocations, _) = counted(|| vec![push.clone(); 1].len());
    assert!(allocations <= 2);
}

#[test]
fn an_idle_connection_owns_no_memory() {
    let codec = common::codec(config());
    let now = shaddock_protocol::Millis(0);
    let (conn, allocations, _) = counted(|| shaddock_protocol::Conn::new(codec.clone(), now));
    assert_eq!(allocations, 0);
    drop(conn);

    let mut link = Link::new(config());
    link.feed_accepting(&[&handshake(POMELO), ACK].concat())
        .unwrap();
    link.out = BytesMut::with_capacity(64);
    let bytes = Bytes::from_static(b"\x03\x00\x00\x00\x03\x00\x00\x00");
    let (_, allocations, _) = counted(|| {
        link.input = bytes;
        link.next().unwrap().is_none()
    });
    assert_eq!(allocations, 0);
}

#[test]
fn announced_lengths_reserve_nothing() {
    let mut link = Link::open(config(), POMELO);
    // 64 KiB are announced, one byte after the other arrives.
    let ((), _, largest) = counted(|| {
        for piece in [&b"\x04\x01"[..], b"\x00", b"\x00", b"a", b"b"] {
            link.input = Bytes::copy_from_slice(piece);
            assert!(link.next().unwrap().is_none());
        }
    });
    assert!(largest < 64, "{largest}");
    assert!(link.conn.is_mid_package());
}

/// Before its login a connection costs at most twice what its client sent, whatever that is and however it arrives: what stays while the
/// application judges the handshake, and while it waits for the acknowledgement.
#[test]
fn a_hostile_handshake_costs_at_most_twice_its_length() {
    /// For the request itself and the ends of allocations.
    const FIXED: usize = 1024;
    let user = |text: String| format!("{{\"sys\":{{}},\"user\":{text}}}");
    let sys = |text: &str| format!("{{\"sys\":{{{text}}}}}");
    let texts = [
        user(format!("[{}0]", "{\"a\":0},".repeat(8_000))),
        user(format!("[{}0]", "0,".repeat(32_000))),
        user(format!("[{}0]", "[],".repeat(21_000))),
        user(format!(
            "[{}0]",
            format!("{}{},", "[".repeat(120), "]".repeat(120)).repeat(270)
        )),
        user(format!("\"{}\"", "\\u00e9".repeat(10_000))),
        user(format!("\"{}\"", "\u{e9}".repeat(32_000))),
        user(format!("\"{}\"", "\\ud83d".repeat(10_000))),
        user(format!("{{{}\"z\":0}}", "\"a\":{\"\":0},".repeat(5_000))),
        sys(&format!("\"x\":[{}0]", "{\"a\":0},".repeat(8_000))),
        sys(&format!("\"type\":\"{}\"", "x".repeat(64_000))),
        sys(&format!("\"type\":\"{}\"", "\\n".repeat(32_000))),
        sys(&format!(
            "\"type\":\"{0}\",\"version\":\"{0}\",\"platform\":\"{0}\"",
            "\u{e9}".repeat(10_000)
        )),
        sys(&format!("\"rsa\":{{\"rsa_n\":\"{}\"}}", "f".repeat(64_000))),
        sys(&format!("\"type\":[{}0]", "{\"a\":0},".repeat(8_000))),
        format!("{{\"sys\":[{}0]}}", "{\"a\":0},".repeat(8_000)),
        format!("{{{}\"sys\":{{}}}}", "\"a\":{\"b\":0},".repeat(4_500)),
        user("\"x\"".to_owned()),
    ];
    let codec = common::codec(config());
    for text in texts {
        for step in [1, 100, 1460, 32 * 1024, 1 << 20] {
            let bytes = handshake(&text);
            let limit = 2 * bytes.len() + FIXED;
            let now = shaddock_protocol::Millis(0);
            let mut conn = shaddock_protocol::Conn::new(codec.clone(), now);
            let mut out = BytesMut::new();
            let before = LIVE.get();
            PEAK.set(before);
            let mut request = None;
            for chunk in bytes.chunks(step) {
                // As a connection does it: an exact copy of what was read.
                let mut input = Bytes::copy_from_slice(chunk);
                if let Ok(Some(Event::Handshake(read))) = conn.poll_event(now, &mut input, &mut out)
                {
                    request = Some(Arc::new(*read));
                }
            }
            assert!(request.is_some(), "{} is a handshake", &text[..40]);
            let held = (LIVE.get() - before).unsigned_abs();
            assert!(
                held <= limit,
                "{held} held of {limit}, {step} at a time: {}",
                &text[..40]
            );
            // While it is read, one more copy may be there: of text that has to be mended, or of a string without its escapes.
            let peak = (PEAK.get() - before).unsigned_abs();
            assert!(
                peak <= 2 * limit,
                "{peak} at once of {limit}, {step} at a time: {}",
                &text[..40]
            );
        }
    }
}
