//! Nanoseconds per request on the path of a request: chunk of 16 DATA packages in, 16 responses out.
//!
//! `cargo bench -p shaddock-protocol`. No harness: the work is far longer than the clock's step, and the median of many rounds is
//! all that is wanted.
#![allow(clippy::unwrap_used, reason = "a bench that cannot go on may panic")]
#![expect(
    clippy::disallowed_methods,
    reason = "a bench is where a clock is read"
)]

mod support;

use bytes::{Bytes, BytesMut};
use shaddock_protocol::{
    Codec, CodecConfig, Conn, Dialect, Dictionary, Event, Millis, PackageType, encode_package,
};
use std::hint::black_box;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;
use support::median;

const REQUESTS: usize = 16;
const ROUTE: &str = "chat.chatHandler.send";
const BODY: &[u8] = br#"{"rid":"room-1","content":"hello, everybody","from":"alice","target":"*"}"#;

fn codec() -> Arc<Codec> {
    let dictionary = Dictionary::build([ROUTE], ["onChat"]).unwrap();
    Arc::new(Codec::new(
        CodecConfig::default()
            .heartbeat(Duration::from_secs(30))
            .dictionary(Arc::new(dictionary)),
    ))
}

fn open(codec: &Arc<Codec>) -> Conn {
    let mut conn = Conn::new(codec.clone(), Millis(0));
    let mut out = BytesMut::new();
    let mut input = Bytes::from_static(b"\x01\x00\x00\x0a{\"sys\":{}}\x02\x00\x00\x00");
    conn.poll_event(Millis(0), &mut input, &mut out).unwrap();
    conn.accept(Millis(0), None, &mut out).unwrap();
    conn.poll_event(Millis(0), &mut input, &mut out).unwrap();
    conn
}

fn chunk(head: &[u8]) -> Bytes {
    let message = [head, BODY].concat();
    let package = encode_package(PackageType::Data, &message).unwrap();
    Bytes::from(package.repeat(REQUESTS))
}

/// One chunk in, answers to all of it out.
fn serve(conn: &mut Conn, mut input: Bytes, out: &mut BytesMut) {
    while let Some(event) = conn.poll_event(Millis(1), &mut input, out).unwrap() {
        let Event::Message(message) = event else {
            panic!("{event:?}")
        };
        let id = message.id.map_or(0, NonZeroU64::get);
        let route = message.route.as_str();
        let codec = conn.codec();
        codec
            .encode_response(Dialect::Pomelo, id, route, &message.body, false, out)
            .unwrap();
    }
}

#[expect(clippy::cast_precision_loss, reason = "16 is not a large number")]
fn per_request(codec: &Arc<Codec>, chunk: &Bytes) -> f64 {
    let mut conn = open(codec);
    let mut out = BytesMut::with_capacity(1 << 16);
    median(|| {
        out.clear();
        serve(&mut conn, black_box(chunk).clone(), &mut out);
        black_box(&out);
    }) / REQUESTS as f64
}

fn main() {
    let named = chunk(&[&[0, 1, 21], ROUTE.as_bytes()].concat());
    let coded = chunk(&[1, 1, 0, 1]);
    let shared = codec();
    println!(
        "route as text     {:6.1} ns per request",
        per_request(&shared, &named)
    );
    println!(
        "route as code     {:6.1} ns per request",
        per_request(&shared, &coded)
    );

    // Two workers: what they share costs, if it is written to.
    for (name, chunk) in [("text", &named), ("code", &coded)] {
        for (how, codecs) in [
            ("one codec", [shared.clone(), shared.clone()]),
            ("own codecs", [codec(), codec()]),
        ] {
            let times: Vec<f64> = std::thread::scope(|scope| {
                let run = |codec: Arc<Codec>| {
                    let chunk = Bytes::copy_from_slice(chunk);
                    scope.spawn(move || per_request(&codec, &chunk))
                };
                let running = codecs.map(run);
                running
                    .into_iter()
                    .map(|thread| thread.join().unwrap())
                    .collect()
            });
            println!("{name}, 2 threads, {how}: {times:.1?} ns per request");
        }
    }
    let push = median(|| {
        black_box(
            shared
                .encode_push(Dialect::Pomelo, "onChat", black_box(BODY))
                .unwrap(),
        );
    });
    println!("encode_push       {push:6.1} ns");
    let check = median(|| shaddock_protocol::check_json(black_box(BODY)).unwrap());
    println!("check_json        {check:6.1} ns for {} bytes", BODY.len());
    let long = [b"\"", "text of a chat ".repeat(70).as_bytes(), b"\""].concat();
    let check = median(|| shaddock_protocol::check_json(black_box(&long)).unwrap());
    println!(
        "check_json        {check:6.1} ns for a string of {} bytes",
        long.len()
    );
}
