//! Frames as RFC 6455 specifies them, case by case in the order of the Autobahn test suite: <https://github.com/crossbario/autobahn-testsuite>.
//!
//! Every case is read whole and cut at every byte (long ones: at every byte of the first and last twenty, and in pieces), and must come
//! to the same.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::Write;

use bytes::Bytes;
use shaddock_net::{WsError, WsEvent, WsReader};

const MAX: usize = 70_000;

const CONTINUE: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;
const FIN: u8 = 0x80;

fn masked(first: u8, payload: &[u8], key: [u8; 4]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        short @ 0..=125 => frame.push(0x80 | u8::try_from(short).unwrap()),
        medium @ 126..=65_535 => {
            frame.push(0x80 | 0x7e);
            frame.extend_from_slice(&u16::try_from(medium).unwrap().to_be_bytes());
        }
        long => {
            frame.push(0x80 | 0x7f);
            frame.extend_from_slice(&u64::try_from(long).unwrap().to_be_bytes());
        }
    }
    frame.extend_from_slice(&key);
    frame.extend(
        payload
            .iter()
            .zip(key.iter().cycle())
            .map(|(byte, key)| byte ^ key),
    );
    frame
}

/// A frame of a client; `first` is its first byte.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    masked(first, payload, [0x37, 0xfa, 0x21, 0x3d])
}

fn message(payload: &[u8]) -> WsEvent {
    WsEvent::Message(Bytes::copy_from_slice(payload))
}

fn ping(payload: &[u8]) -> WsEvent {
    WsEvent::Ping(Bytes::copy_from_slice(payload))
}

/// The events, and why it ended, if it did. After a close nothing is read.
fn read<'a>(chunks: impl Iterator<Item = &'a [u8]>) -> (Vec<WsEvent>, Option<WsError>) {
    let mut reader = WsReader::default();
    let mut events = Vec::new();
    for chunk in chunks {
        let mut frames = reader.take(&mut chunk.to_vec(), MAX);
        loop {
            match reader.next(&mut frames, MAX) {
                Ok(None) => break,
                Ok(Some(event @ WsEvent::Close(_))) => {
                    events.push(event);
                    return (events, None);
                }
                Ok(Some(event)) => events.push(event),
                Err(error) => return (events, Some(error)),
            }
        }
    }
    (events, None)
}

#[track_caller]
fn check(name: &str, frames: &[Vec<u8>], events: &[WsEvent], error: Option<WsError>) {
    let bytes = frames.concat();
    let wanted = (events, error);
    let compare = |how: String, (events, error): (Vec<WsEvent>, Option<WsError>)| {
        assert!((&events[..], error) == wanted, "{name}, {how}: {error:?}");
    };
    compare("whole".into(), read(std::iter::once(&bytes[..])));
    let edge = |at: &usize| bytes.len() < 1000 || *at < 20 || *at > bytes.len() - 20;
    for at in (0..bytes.len()).filter(edge) {
        let (first, second) = bytes.split_at(at);
        compare(format!("cut at {at}"), read([first, second].into_iter()));
    }
    for step in [1, 2, 3, 997, 1460] {
        if bytes.len() / step < 2000 {
            compare(format!("{step} at a time"), read(bytes.chunks(step)));
        }
    }
}

#[track_caller]
fn good(name: &str, frames: &[Vec<u8>], events: &[WsEvent]) {
    check(name, frames, events, None);
}

#[track_caller]
fn bad(name: &str, frames: &[Vec<u8>], events: &[WsEvent], error: WsError) {
    check(name, frames, events, Some(error));
}

/// 1: messages of all forms of length, with all kinds of masks.
#[test]
fn case_1_messages() {
    for kind in [TEXT, BINARY] {
        for length in [0, 1, 125, 126, 127, 128, 65_535, 65_536, MAX] {
            let payload = vec![b'*'; length];
            good(
                &format!("{length}"),
                &[frame(FIN | kind, &payload)],
                &[message(&payload)],
            );
        }
        let too_long = vec![b'*'; MAX + 1];
        bad(
            "too long",
            &[frame(FIN | kind, &too_long)],
            &[],
            WsError::TooLong { max: MAX },
        );
        for key in [[0; 4], [0xff; 4], [0, 0, 0, 1], [1, 2, 3, 4]] {
            for length in [0, 1, 2, 3, 4, 5, 7, 8, 9, 200] {
                let payload: Vec<u8> = (0..=u8::MAX).take(length).collect();
                good(
                    "mask",
                    &[masked(FIN | kind, &payload, key)],
                    &[message(&payload)],
                );
            }
        }
        // Text is handed on as it is, whatever it is.
        good(
            "not UTF-8",
            &[frame(FIN | kind, b"\xce\xba\xff")],
            &[message(b"\xce\xba\xff")],
        );
    }
    for announced in [1u64 << 31, 1 << 32, 1 << 62, 1 << 63, u64::MAX] {
        let head = [
            &[FIN | BINARY, 0x80 | 0x7f][..],
            &announced.to_be_bytes(),
            &[0; 4],
        ]
        .concat();
        bad("announced", &[head], &[], WsError::TooLong { max: MAX });
    }
}

/// "The minimal number of bytes MUST be used to encode the length" (RFC 6455, 5.2).
#[test]
fn lengths_in_more_bytes_than_they_need() {
    let with_length = |first: u8, form: u8, length: u64| {
        let long = length.to_be_bytes();
        let announced = if form == 126 { &long[6..] } else { &long[..] };
        let payload = vec![b'*'; usize::try_from(length).unwrap()];
        [&[first, 0x80 | form], announced, &[0; 4], &payload].concat()
    };
    for first in [
        FIN | TEXT,
        FIN | BINARY,
        BINARY,
        FIN | PING,
        FIN | PONG,
        FIN | CLOSE,
    ] {
        for (form, length) in [
            (126, 0),
            (126, 5),
            (126, 125),
            (127, 0),
            (127, 125),
            (127, 126),
            (127, 65_535),
        ] {
            let long = with_length(first, form, length);
            let name = format!("{first:02x}: {length} in the form of {form}");
            bad(&name, std::slice::from_ref(&long), &[], WsError::LongLength);
            let behind = [frame(FIN | TEXT, b"a"), long];
            bad(&name, &behind, &[message(b"a")], WsError::LongLength);
        }
    }
    for (form, length) in [(126, 126), (126, 65_535), (127, 65_536)] {
        let payload = vec![b'*'; usize::try_from(length).unwrap()];
        good(
            "as short as can be",
            &[with_length(FIN | BINARY, form, length)],
            &[message(&payload)],
        );
    }
}

/// A client masks every frame (RFC 6455, 5.1).
#[test]
fn frames_without_a_mask() {
    for first in [
        FIN | TEXT,
        FIN | BINARY,
        BINARY,
        FIN | PING,
        FIN | PONG,
        FIN | CLOSE,
    ] {
        bad("unmasked", &[vec![first, 0]], &[], WsError::Unmasked);
        let unmasked = vec![first, 3, 0x03, 0xe8, b'x'];
        bad(
            "unmasked",
            &[frame(FIN | BINARY, b"a"), unmasked],
            &[message(b"a")],
            WsError::Unmasked,
        );
    }
}

/// 2: pings and pongs.
#[test]
fn case_2_pings_and_pongs() {
    for payload in [&b""[..], b"Hello", &[0, 0xff, 0xfe, 0xfd], &[0xfe; 125]] {
        good("ping", &[frame(FIN | PING, payload)], &[ping(payload)]);
        good(
            "unsolicited pong",
            &[frame(FIN | PONG, payload)],
            &[WsEvent::Pong],
        );
    }
    for kind in [PING, PONG, CLOSE] {
        bad(
            "long",
            &[frame(FIN | kind, &[0xfe; 126])],
            &[],
            WsError::BadControl,
        );
        bad(
            "very long",
            &[frame(FIN | kind, &vec![0xfe; 65_536])],
            &[],
            WsError::BadControl,
        );
    }
    let many: Vec<_> = (0..10u8).map(|n| frame(FIN | PING, &[n])).collect();
    let answers: Vec<_> = (0..10u8).map(|n| ping(&[n])).collect();
    good("ten pings", &many, &answers);
}

/// 3: reserved bits, alone, behind and in front of other frames.
#[test]
fn case_3_reserved_bits() {
    for bits in 1..8u8 {
        for kind in [TEXT, BINARY, CONTINUE, PING, PONG, CLOSE] {
            let reserved = frame(FIN | bits << 4 | kind, b"Hello");
            bad(
                "alone",
                std::slice::from_ref(&reserved),
                &[],
                WsError::Reserved,
            );
            let around = [frame(FIN | TEXT, b"a"), reserved, frame(FIN | TEXT, b"b")];
            bad("between", &around, &[message(b"a")], WsError::Reserved);
        }
    }
}

/// 4: reserved opcodes.
#[test]
fn case_4_reserved_opcodes() {
    for kind in (3..8).chain(11..16) {
        for payload in [&b""[..], b"x"] {
            let reserved = frame(FIN | kind, payload);
            bad(
                "alone",
                std::slice::from_ref(&reserved),
                &[],
                WsError::Reserved,
            );
            let around = [frame(FIN | TEXT, b"a"), reserved, frame(FIN | PING, b"")];
            bad("between", &around, &[message(b"a")], WsError::Reserved);
        }
    }
}

/// 5: fragments.
#[test]
fn case_5_fragments() {
    for kind in [PING, PONG, CLOSE] {
        let parts = [frame(kind, b"frag"), frame(FIN | CONTINUE, b"ment")];
        bad("5.1, 5.2", &parts, &[], WsError::BadControl);
    }
    for kind in [TEXT, BINARY] {
        let parts = [frame(kind, b"frag"), frame(FIN | CONTINUE, b"ment")];
        good("5.3 to 5.5", &parts, &[message(b"fragment")]);
        let parts = [
            frame(kind, b"frag"),
            frame(FIN | PING, b"p"),
            frame(FIN | CONTINUE, b"ment"),
        ];
        good("5.6 to 5.8", &parts, &[ping(b"p"), message(b"fragment")]);
        let parts = [
            frame(kind, b""),
            frame(FIN | PONG, b"p"),
            frame(CONTINUE, b""),
            frame(CONTINUE, b"x"),
            frame(FIN | PING, b""),
            frame(FIN | CONTINUE, b""),
            frame(FIN | kind, b"next"),
        ];
        good(
            "empty fragments",
            &parts,
            &[WsEvent::Pong, ping(b""), message(b"x"), message(b"next")],
        );
        let parts = [
            frame(kind, b"a"),
            frame(FIN | CLOSE, b""),
            frame(FIN | CONTINUE, b"b"),
        ];
        good("a close between", &parts, &[WsEvent::Close(None)]);
        for continued in [CONTINUE, FIN | CONTINUE] {
            let parts = [frame(continued, b"lone"), frame(FIN | kind, b"x")];
            bad("5.9 to 5.14", &parts, &[], WsError::BadFragment);
            let parts = [frame(FIN | kind, b"x"), frame(continued, b"lone")];
            bad(
                "behind a message",
                &parts,
                &[message(b"x")],
                WsError::BadFragment,
            );
        }
        for second in [FIN | TEXT, FIN | BINARY, TEXT, BINARY] {
            let parts = [frame(kind, b"a"), frame(second, b"b")];
            bad("5.15 to 5.18", &parts, &[], WsError::BadFragment);
        }
        let half = vec![b'*'; MAX / 2];
        let parts = [
            frame(kind, &half),
            frame(CONTINUE, &half),
            frame(FIN | CONTINUE, b""),
        ];
        good("as long as may be", &parts, &[message(&vec![b'*'; MAX])]);
        let parts = [
            frame(kind, &half),
            frame(CONTINUE, &half),
            frame(FIN | CONTINUE, b"*"),
        ];
        bad("longer", &parts, &[], WsError::TooLong { max: MAX });
        let mut bytes = vec![frame(kind, b"*")];
        bytes.extend(std::iter::repeat_n(frame(CONTINUE, b"*"), 98));
        bytes.push(frame(FIN | CONTINUE, b"*"));
        good("a hundred", &bytes, &[message(&[b'*'; 100])]);
    }
}

/// 7: closing, and every status there is.
#[test]
fn case_7_closing() {
    good(
        "7.1, 7.3.1",
        &[frame(FIN | CLOSE, b""), frame(FIN | TEXT, b"x")],
        &[WsEvent::Close(None)],
    );
    bad(
        "7.3.2",
        &[frame(FIN | CLOSE, b"\x03")],
        &[],
        WsError::BadClose,
    );
    let with = |status: u16, reason: &[u8]| {
        frame(FIN | CLOSE, &[&status.to_be_bytes()[..], reason].concat())
    };
    for reason in [&b""[..], b"Hello World!", "\u{e9}".as_bytes(), &[b'*'; 123]] {
        good(
            "7.3.3 to 7.3.5",
            &[with(1000, reason)],
            &[WsEvent::Close(Some(1000))],
        );
    }
    bad(
        "7.3.6",
        &[with(1000, &[b'*'; 124])],
        &[],
        WsError::BadControl,
    );
    for reason in [
        &b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80"[..],
        b"\xff",
        b"ab\xc3",
    ] {
        bad("7.5.1", &[with(1000, reason)], &[], WsError::CloseNotText);
    }
    for status in 0..=u16::MAX {
        let bytes = with(status, b"");
        let (events, error) = read(std::iter::once(&bytes[..]));
        // The registry of RFC 6455: https://www.iana.org/assignments/websocket/websocket.xhtml
        let may_be_sent = matches!(status, 1000..=1003 | 1007..=1014 | 3000..=4999);
        if may_be_sent {
            assert_eq!(
                (&events[..], error),
                (&[WsEvent::Close(Some(status))][..], None)
            );
        } else {
            assert_eq!(
                (&events[..], error),
                (&[][..], Some(WsError::BadClose)),
                "{status}"
            );
        }
    }
}

const UPGRADE: &[u8] =
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: keep-alive\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Protocol: pomelo\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// The frames that a client receives until the end if it sends `bytes` after its upgrade, each with its first byte.
fn frames_for(server: &support::Server, bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut stream = support::connect(server).stream;
    stream.write_all(&[UPGRADE, bytes].concat()).unwrap();
    let mut all = Vec::new();
    std::io::Read::read_to_end(&mut stream, &mut all).unwrap();
    let end = all.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    let head = String::from_utf8(all[..end].to_vec()).unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(
        head.contains("\r\nSec-WebSocket-Protocol: pomelo\r\n"),
        "{head}"
    );
    let mut frames = Vec::new();
    let mut rest = &all[end..];
    while let [first, length, more @ ..] = rest {
        let (payload, more) = more.split_at(usize::from(*length));
        frames.push((*first, payload.to_vec()));
        rest = more;
    }
    frames
}

/// Over a socket: the answers to pings, and the status that a client hears.
#[test]
fn clients_receive_pongs_and_close_statuses() {
    let server = support::start();
    let close = |status: u16| frame(FIN | CLOSE, &status.to_be_bytes());
    let heard = |bytes: &[u8]| {
        let frames = frames_for(&server, bytes);
        let (first, payload) = frames.last().unwrap();
        assert_eq!(*first, FIN | CLOSE);
        u16::from_be_bytes([payload[0], payload[1]])
    };
    for status in [1000, 1001, 1011, 3000, 4001, 4999] {
        assert_eq!(heard(&close(status)), status);
    }
    assert_eq!(heard(&frame(FIN | CLOSE, b"")), 1000);
    for wrong in [
        frame(FIN | CLOSE, b"\x03"),
        close(999),
        close(1005),
        close(1006),
        close(1015),
        close(2999),
        close(5000),
        frame(0xc0 | TEXT, b"x"),
        frame(FIN | 3, b"x"),
        frame(PING, b"x"),
        frame(FIN | CONTINUE, b"x"),
        vec![FIN | TEXT, 1, b'x'],
        // One byte, and its length in the form of 126.
        vec![FIN | TEXT, 0xfe, 0, 1, 0, 0, 0, 0, b'x'],
    ] {
        assert_eq!(heard(&wrong), 1002, "{wrong:02x?}");
    }
    assert_eq!(heard(&frame(FIN | CLOSE, b"\x03\xe8\xff")), 1007);
    let too_long = [
        &[FIN | BINARY, 0x80 | 0x7f][..],
        &(1u64 << 40).to_be_bytes(),
        &[0; 4],
    ]
    .concat();
    assert_eq!(heard(&too_long), 1009);
    let pings = [
        frame(FIN | PING, b"one"),
        frame(FIN | PING, b""),
        close(1000),
    ]
    .concat();
    let answers = frames_for(&server, &pings);
    assert_eq!(answers[0], (FIN | PONG, b"one".to_vec()));
    assert_eq!(answers[1], (FIN | PONG, Vec::new()));
    server.finish();
}
