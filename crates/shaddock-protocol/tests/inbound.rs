//! Valid and invalid messages on a WORKING connection.
#![allow(
    clippy::unwrap_used,
    reason = "a helper of tests that cannot go on may panic"
)]

mod common;

use common::{Link, PITAYA, POMELO, data, handshake, notify, request};
use serde_json::json;
use shaddock_protocol::{
    CodecConfig, ConnState, Dictionary, DropReason, Event, HandshakeError, HashPolicy, Inbound,
    Limits, MessageError, ProtocolError, Protos, RefuseReason, Schema, deflate_zlib,
};
use std::num::NonZeroU64;
use std::sync::Arc;

/// A Pomelo connection that is WORKING.
fn working(config: CodecConfig) -> Link {
    Link::open(config, POMELO)
}

fn only(events: Result<Vec<Event>, ProtocolError>) -> Event {
    let mut events = events.unwrap();
    assert_eq!(events.len(), 1, "{events:?}");
    events.remove(0)
}

fn message(events: Result<Vec<Event>, ProtocolError>) -> Inbound {
    match only(events) {
        Event::Message(message) => message,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn assert_dropped(events: Result<Vec<Event>, ProtocolError>, expected: DropReason) {
    let event = only(events);
    assert!(
        matches!(event, Event::Dropped(reason) if reason == expected),
        "{event:?}"
    );
}

#[track_caller]
fn assert_refused(events: Result<Vec<Event>, ProtocolError>, number: u64, expected: RefuseReason) {
    let event = only(events);
    assert!(
        matches!(&event, Event::Refused { id, reason, .. } if id.get() == number && *reason == expected),
        "{event:?}"
    );
}

#[test]
fn requests_and_notifies() {
    let mut link = working(CodecConfig::default());
    let asked = message(link.feed(&request(7, "chat.chatHandler.send", b"{\"a\":1}")));
    assert_eq!(asked.id, NonZeroU64::new(7));
    assert_eq!(asked.route, "chat.chatHandler.send");
    let parts = (
        asked.route.server_type(),
        asked.route.handler(),
        asked.route.method(),
    );
    assert_eq!(parts, (Some("chat"), Some("chatHandler"), Some("send")));
    assert_eq!(&asked.body[..], b"{\"a\":1}");

    let told = message(link.feed(&notify("a.b.c", b"[1,2]")));
    assert_eq!((told.id, &told.body[..]), (None, &b"[1,2]"[..]));
    let zero = message(link.feed(&request(0, "a.b.c", b"1")));
    assert_eq!(zero.id, None, "id 0 wants no answer");
    let pushed = message(link.feed(&data(b"\x06\x05a.b.c{}")));
    assert_eq!(pushed.id, None, "a push from a client is a notify");
    let empty = message(link.feed(&request(1, "a.b.c", b"")));
    assert_eq!(&empty.body[..], b"{}");
    let compressed = message(link.feed(&data(b"\x10\x01\x05a.b.c{}")));
    assert_eq!(
        &compressed.body[..],
        b"{}",
        "Pomelo carries the bit and does nothing with it"
    );
}

#[test]
fn sixty_four_bit_ids() {
    let mut link = working(CodecConfig::default());
    let big = message(link.feed(&data(
        b"\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x05a.b.c",
    )));
    assert_eq!(big.id, NonZeroU64::new(u64::MAX));
    let padded = message(link.feed(&data(b"\x00\x81\x80\x00\x05a.b.c")));
    assert_eq!(padded.id, NonZeroU64::new(1));
}

#[test]
fn malformed_messages_close() {
    for (bytes, expected) in [
        (&b""[..], MessageError::Empty),
        (b"\x00", MessageError::IdCut),
        (b"\x00\x80\x80", MessageError::IdCut),
        (
            b"\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02\x01a",
            MessageError::IdOverflow,
        ),
        (
            b"\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x01a",
            MessageError::IdOverflow,
        ),
        (b"\x00\x01", MessageError::RouteCut),
        (b"\x02\x05abc", MessageError::RouteCut),
        (b"\x03\x01", MessageError::RouteCut),
    ] {
        for hello in [POMELO, PITAYA] {
            let mut link = Link::open(CodecConfig::default(), hello);
            assert_eq!(
                link.feed(&data(bytes)).unwrap_err(),
                ProtocolError::Message(expected),
                "{bytes:?}"
            );
            assert_eq!(link.conn.state(), ConnState::Closed);
        }
    }
}

#[test]
fn messages_that_lead_nowhere_are_dropped() {
    let mut link = working(CodecConfig::default());
    for flag in [0x08_u8, 0x0a, 0x0c, 0x0e] {
        assert_dropped(link.feed(&data(&[flag, 1, b'a'])), DropReason::InvalidType);
    }
    assert_dropped(link.feed(&data(b"\x04\x01{}")), DropReason::Response);
    assert_dropped(link.feed(&data(b"\x04\x01")), DropReason::Response);
    assert_dropped(
        link.feed(&notify("a.b", b"{}")),
        DropReason::BadNotify(RefuseReason::BadRoute),
    );
    assert_dropped(
        link.feed(&notify("a.b.c", b"{")),
        DropReason::BadNotify(RefuseReason::BadJson),
    );
    assert_dropped(
        link.feed(&data(b"\x03\x00\x09{}")),
        DropReason::BadNotify(RefuseReason::UnknownCode),
    );
    assert_eq!(link.conn.state(), ConnState::Working);
}

#[test]
fn routes_of_pomelo_have_three_parts() {
    let mut link = working(CodecConfig::default());
    for route in ["", "a", ".", "a.b", "a.b.c.d", ".b.c.d"] {
        assert_refused(
            link.feed(&request(3, route, b"{}")),
            3,
            RefuseReason::BadRoute,
        );
    }
    for route in [
        "a.b.c",
        "a..c",
        "..",
        "聊天.处理.发送",
        "__proto__.toString.valueOf",
        "a.constructor.b",
    ] {
        assert_eq!(message(link.feed(&request(3, route, b"{}"))).route, route);
    }
    for bytes in [
        request(3, "x.y.constructor", b"{}"),
        notify("x.y.constructor", b""),
    ] {
        assert!(matches!(only(link.feed(&bytes)), Event::Attack));
    }
    assert_refused(
        link.feed(&request(3, "a.constructor", b"{}")),
        3,
        RefuseReason::BadRoute,
    );
}

#[test]
fn routes_of_pitaya_have_two_or_three_parts() {
    let mut link = Link::open(CodecConfig::default(), PITAYA);
    for route in ["room.join", "game.room.join", "a.b.constructor"] {
        assert_eq!(message(link.feed(&request(3, route, b"{}"))).route, route);
    }
    for route in ["join", "a.b.c.d"] {
        assert_refused(
            link.feed(&request(3, route, b"{}")),
            3,
            RefuseReason::BadRoute,
        );
    }
    for route in ["", "a..b", "a. .b", ".a.b", "a.b.", "."] {
        assert_refused(
            link.feed(&request(3, route, b"{}")),
            3,
            RefuseReason::BlankRoute,
        );
    }
}

#[test]
fn routes_that_are_not_utf8() {
    for hello in [POMELO, PITAYA] {
        let mut link = Link::open(CodecConfig::default(), hello);
        let cesu = message(link.feed(&data(b"\x00\x01\x0aa.b.\xed\xa0\xbd\xed\xb8\x80{}")));
        assert_eq!(cesu.route, "a.b.😀");
        for bytes in [
            &b"\x00\x05\x06a.b.\xff\x80{}"[..],
            b"\x00\x05\x07a.b.\xed\xa0\xbd{}",
        ] {
            assert_refused(link.feed(&data(bytes)), 5, RefuseReason::RouteNotText);
        }
    }
}

#[test]
fn route_codes() {
    let dictionary = Dictionary::build(["a.b.c", "a.b.b"], ["onX"]).unwrap();
    let config = || CodecConfig::default().dictionary(Arc::new(dictionary.clone()));
    for hello in [POMELO, PITAYA] {
        let mut link = Link::open(config(), hello);
        assert_eq!(
            message(link.feed(&data(b"\x01\x09\x00\x02{}"))).route,
            "a.b.c"
        );
        for code in [0_u8, 4, 255] {
            let bytes = [1, 9, 0, code, b'{', b'}'];
            assert_refused(link.feed(&data(&bytes)), 9, RefuseReason::UnknownCode);
        }
        // In the dictionary, but nothing that a client may ask for.
        assert_refused(
            link.feed(&data(b"\x01\x09\x00\x03{}")),
            9,
            RefuseReason::BadRoute,
        );
    }
    let mut link = working(CodecConfig::default());
    assert_refused(
        link.feed(&data(b"\x01\x09\x00\x02{}")),
        9,
        RefuseReason::UnknownCode,
    );
}

#[test]
fn bodies_of_pomelo_are_json() {
    let mut link = working(CodecConfig::default());
    for body in [&b"{"[..], b"{}x", b"nul", b"\xff", b"{\"a\":01}", b"\x00"] {
        assert_refused(
            link.feed(&request(5, "a.b.c", body)),
            5,
            RefuseReason::BadJson,
        );
    }
    let deep = [vec![b'['; 5000], vec![b']'; 5000]].concat();
    assert_refused(
        link.feed(&request(5, "a.b.c", &deep)),
        5,
        RefuseReason::BadJson,
    );
    let read = message(link.feed(&request(
        5,
        "a.b.c",
        b"{\"m\":\"\xed\xa0\xbd\xed\xb8\x80\\ude00\"}",
    )));
    assert_eq!(&read.body[..], "{\"m\":\"😀\\ufffd\"}".as_bytes());
}

#[test]
fn bodies_of_pitaya_are_not_touched() {
    let mut link = Link::open(CodecConfig::default(), PITAYA);
    for body in [&b""[..], b"{", b"\xff\x00", b"\x0a\x01a"] {
        assert_eq!(message(link.feed(&request(5, "a.b", body))).body, body);
    }
}

fn protos() -> Arc<Protos> {
    let client =
        Schema::parse(r#"{"a.b.c":{"required uInt32 id":1,"optional string name":2}}"#).unwrap();
    let server =
        Schema::parse(r#"{"a.b.c":{"required uInt32 n":1},"onX":{"optional string m":1}}"#)
            .unwrap();
    Arc::new(Protos::new(server, client))
}

#[test]
fn protobuf_bodies() {
    let config = || CodecConfig::default().protos(protos());
    let mut link = working(config());
    let read = message(link.feed(&request(5, "a.b.c", b"\x08\x07\x12\x01x")));
    assert_eq!(&read.body[..], br#"{"id":7,"name":"x"}"#);
    for body in [&b"\x08"[..], b"\x78\x01", b"\x12\x09x", b"\x7a\x01"] {
        assert_refused(
            link.feed(&request(5, "a.b.c", body)),
            5,
            RefuseReason::BadProtobuf,
        );
    }
    // Clients that do no protobuf send JSON whatever the schema says.
    for (sent, read) in [
        (&b"{\"id\":1}"[..], &b"{\"id\":1}"[..]),
        (b"{}", b"{}"),
        (b"[1,\"x\"]", b"[1,\"x\"]"),
        (
            "{\"name\":\"\u{1f600}\"}".as_bytes(),
            "{\"name\":\"\u{1f600}\"}".as_bytes(),
        ),
    ] {
        let body = message(link.feed(&request(5, "a.b.c", sent))).body;
        assert_eq!(&body[..], read);
    }
    for body in [&b"{\"id\":"[..], b"{", b"[", b"{\"id\":1}x"] {
        assert_refused(
            link.feed(&request(5, "a.b.c", body)),
            5,
            RefuseReason::BadJson,
        );
    }
    let other = message(link.feed(&request(6, "a.b.d", b"{\"id\":1}")));
    assert_eq!(
        &other.body[..],
        b"{\"id\":1}",
        "a route without a schema is JSON"
    );
    assert_eq!(link.conn.state(), ConnState::Working);

    // Pitaya's serializer has nothing to do with these schemas.
    let mut link = Link::open(config().unsigned_pitaya(true), PITAYA);
    assert_eq!(
        &message(link.feed(&request(5, "a.b.c", b"\x78\x01"))).body[..],
        b"\x78\x01"
    );
}

#[test]
fn compressed_bodies_of_pitaya() {
    let body = vec![b' '; 60_000];
    let mut bytes = b"\x10\x05\x03a.b".to_vec();
    bytes.extend_from_slice(&deflate_zlib(&body));
    let mut link = Link::open(CodecConfig::default(), PITAYA);
    assert_eq!(message(link.feed(&data(&bytes))).body, body);

    let limits = Limits::default().max_inflated_size(59_999);
    let mut link = Link::open(CodecConfig::default().limits(limits), PITAYA);
    assert_eq!(
        link.feed(&data(&bytes)).unwrap_err(),
        ProtocolError::Compression
    );
    let mut link = Link::open(CodecConfig::default(), PITAYA);
    assert_eq!(
        link.feed(&data(b"\x10\x05\x03a.bnot zlib")).unwrap_err(),
        ProtocolError::Compression
    );
}

// Signed messages

#[test]
fn signed_messages() {
    let vectors = common::vectors("crypto");
    let hello = json!({"sys": {"type": "js-websocket", "rsa": vectors["rsa"]}}).to_string();
    let signed = vectors["cases"][0]["input"]["bodyJson"].as_str().unwrap();
    let config = || CodecConfig::default().crypto(HashPolicy::default());
    let mut link = Link::open(config(), &hello);
    let read = message(link.feed(&request(1, "a.b.c", signed.as_bytes())));
    assert_eq!(
        read.body,
        vectors["cases"][0]["input"]["signedText"].as_str().unwrap()
    );
    let forged = signed.replacen('{', "{ ", 1);
    assert_dropped(
        link.feed(&request(1, "a.b.c", forged.as_bytes())),
        DropReason::BadSignature,
    );
    for body in [&b""[..], b"{}", b"null", b"7", b"{\"__crypto__\":5}"] {
        assert_dropped(
            link.feed(&request(1, "a.b.c", body)),
            DropReason::BadSignature,
        );
    }
    // `rsa: {}` is accepted; nothing it sends is.
    let mut link = Link::open(config(), r#"{"sys":{"rsa":{}}}"#);
    assert_dropped(
        link.feed(&request(1, "a.b.c", signed.as_bytes())),
        DropReason::BadSignature,
    );
    for rsa in [
        r#"{"rsa_n":"xyz","rsa_e":3}"#,
        r#"{"rsa_n":"ff"}"#,
        r#"{"rsa_e":65537}"#,
    ] {
        let mut link = Link::new(config());
        let error = link
            .feed(&handshake(&format!("{{\"sys\":{{\"rsa\":{rsa}}}}}")))
            .unwrap_err();
        assert_eq!(error, ProtocolError::Handshake(HandshakeError::NoKey));
        assert_eq!(link.written_text()[0].1, r#"{"code":500}"#);
    }
    for sys in ["{\"type\":\"x\"}", "{\"rsa\":null}", "{\"rsa\":0}"] {
        let mut link = Link::new(config());
        let error = link
            .feed(&handshake(&format!("{{\"sys\":{sys}}}")))
            .unwrap_err();
        assert_eq!(error, ProtocolError::Handshake(HandshakeError::NoKey));
    }
    // Pitaya clients cannot sign.
    let mut link = Link::open(config().unsigned_pitaya(true), PITAYA);
    message(link.feed(&request(1, "a.b", b"{}")));
}

/// The text as the client wrote it was signed: with the half of a character that is mended only afterwards.
#[test]
fn signed_text_is_mended_after_the_check() {
    let hello = json!({"sys": {"rsa": {"rsa_n": MODULUS, "rsa_e": "65537"}}}).to_string();
    let config = CodecConfig::default().crypto(HashPolicy::Sha2);
    let mut link = Link::open(config, &hello);
    let mut body = b"{\"m\":\"\\ud83d\xed\xa0\xbd\xed\xb8\x80\",\"__crypto__\":\"".to_vec();
    body.extend_from_slice(SIGNATURE.as_bytes());
    body.extend_from_slice(b"\"}");
    let read = message(link.feed(&request(1, "a.b.c", &body)));
    assert_eq!(read.body, "{\"m\":\"\\ufffd😀\"}");
}

/// Made for this test only, as is the signature: PKCS #1 v1.5 with SHA-256 over `{"m":"\ud83d😀"}`.
const MODULUS: &str = "deea09d1f2963929e00a588f61450939ed31e5ca042e52232be947e5b5aadf606c85e7a09d2121426ee7d6430ccb2608a8c2991d8c5759ae777cb25724a86791916f83efa3530dcbc494ba230f31140b64e39389f2f1b06a67738b97a9e5d5ff7dac927a9ea1b5948a2763a73eeb6524c9e078cf54d326667789e29a69d9dcb1";
const SIGNATURE: &str = "93c71e15799312b603a11bd2b150a48f26b124711a9521e5f2e7baebf64c2fb272acff6b0df9db29e46c2ee43d4d7273afe6d4c5a02055062d5149fd4bf4d18fa7cfae5c6e9c0ec80fec77447df45cd91d2733a3046c978d78c35ba883b80a831f5b27bfae08acf67ff6091f6f4d2e9fc8fd0530af6ea3a779dc9bdcd16d9000";
