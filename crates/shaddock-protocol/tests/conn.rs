//! The state machine of a connection, driven by hand: bytes in, events out, a clock that jumps.
#![allow(
    clippy::unwrap_used,
    reason = "a helper of tests that cannot go on may panic"
)]

mod common;

use bytes::Bytes;
use common::{ACK, HEARTBEAT, Link, PITAYA, POMELO, data, handshake, notify, package, request};
use serde_json::json;
use shaddock_protocol::{
    CodecConfig, ConnState, Dialect, DialectChoice, Dictionary, DropReason, Event, HandshakeError,
    HandshakeRequest, HashPolicy, Inbound, Limits, MessageError, Millis, PITAYA_HEARTBEAT,
    PackageError, PackageType, PitayaSerializer, ProtocolError, Protos, RefuseReason, RejectCode,
    Schema, TimeoutKind, deflate_zlib, inflate,
};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const MILLI: Duration = Duration::from_millis(1);

fn beating() -> CodecConfig {
    CodecConfig {
        heartbeat: Some(3 * SECOND),
        ..CodecConfig::default()
    }
}

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

fn handshake_of(event: Event) -> Box<HandshakeRequest> {
    match event {
        Event::Handshake(request) => request,
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

// Handshake

#[test]
fn the_request_is_handed_over_and_answered() {
    let mut link = Link::new(CodecConfig::default());
    let text = r#"{"sys":{"type":"unity","version":1.5,"dictVersion":"d","protoVersion":0,"rsa":{}},"user":{"token":"😀"}}"#;
    let request = handshake_of(only(link.feed(&handshake(text))));
    assert_eq!(request.dialect, Dialect::Pomelo);
    assert_eq!(request.client_type.as_deref(), Some("unity"));
    assert_eq!(request.version.as_deref(), Some("1.5"));
    assert_eq!(request.dict_version.as_deref(), Some("d"));
    assert_eq!(request.proto_version.as_deref(), Some("0"));
    assert!(request.rsa.as_ref().unwrap().is_empty());
    assert_eq!(request.user, json!({"token": "😀"}));
    assert_eq!(request.raw, text);
    assert!(link.out.is_empty());

    link.conn
        .accept(link.now, Some(&json!({"name": "😀"})), &mut link.out)
        .unwrap();
    let answer = r#"{"code":200,"sys":{},"user":{"name":"\ud83d\ude00"}}"#;
    assert_eq!(
        link.written_text(),
        [(PackageType::Handshake, answer.to_owned())]
    );
    assert_eq!(link.conn.state(), ConnState::WaitAck);
    assert!(matches!(only(link.feed(ACK)), Event::Open));
    assert_eq!(link.conn.state(), ConnState::Working);
}

#[test]
fn falsy_user_data_are_left_out() {
    for user in [json!(null), json!(false), json!(0), json!("")] {
        let mut link = Link::new(CodecConfig::default());
        link.feed(&handshake(POMELO)).unwrap();
        link.conn
            .accept(link.now, Some(&user), &mut link.out)
            .unwrap();
        assert_eq!(link.written_text()[0].1, r#"{"code":200,"sys":{}}"#);
    }
}

#[test]
fn ack_and_requests_in_the_chunk_of_the_handshake_wait_for_the_answer() {
    let mut link = Link::new(beating());
    let chunk = [&handshake(POMELO), ACK, &request(1, "a.b.c", b"{}")].concat();
    handshake_of(only(link.feed(&chunk)));
    assert_eq!(link.conn.state(), ConnState::Answering);
    let waiting = link.input.len();
    assert!(waiting > ACK.len());
    assert!(link.next().unwrap().is_none());
    assert_eq!(
        link.input.len(),
        waiting,
        "nothing is consumed while the application thinks"
    );

    link.conn.accept(link.now, None, &mut link.out).unwrap();
    let events = link.feed(b"").unwrap();
    assert!(
        matches!(&events[..], [Event::Open, Event::Message(m)] if m.id == NonZeroU64::new(1)),
        "{events:?}"
    );
    let kinds: Vec<_> = link.written().iter().map(|package| package.kind).collect();
    assert_eq!(kinds, [PackageType::Handshake, PackageType::Heartbeat]);
}

#[test]
fn rejections_have_the_code_of_the_dialect() {
    for (hello, code, expected) in [
        (POMELO, RejectCode::Failed, r#"{"code":500}"#),
        (POMELO, RejectCode::OldClient, r#"{"code":501}"#),
        (
            PITAYA,
            RejectCode::Failed,
            r#"{"code":400,"sys":{"dict":{},"heartbeat":30,"serializer":"json"}}"#,
        ),
        (
            PITAYA,
            RejectCode::OldClient,
            r#"{"code":400,"sys":{"dict":{},"heartbeat":30,"serializer":"json"}}"#,
        ),
    ] {
        let mut link = Link::new(CodecConfig::default());
        link.feed(&handshake(hello)).unwrap();
        link.conn.reject(code, &mut link.out);
        assert_eq!(
            link.written_text(),
            [(PackageType::Handshake, expected.to_owned())]
        );
        assert_eq!(link.conn.state(), ConnState::Closed);
        assert_eq!(link.conn.deadline(), None);
        // Whatever the client still sends leads nowhere.
        assert!(
            link.feed(&[ACK, &request(1, "a.b.c", b"{}")].concat())
                .unwrap()
                .is_empty()
        );
        assert!(link.input.is_empty());
    }
}

#[test]
fn unreadable_handshakes_are_answered_and_closed() {
    let deep = format!(
        "{{\"sys\":{{}},\"user\":{}{}}}",
        "[".repeat(4000),
        "]".repeat(4000)
    );
    for (text, expected) in [
        ("", HandshakeError::NotJson),
        ("{bad", HandshakeError::NotJson),
        ("null", HandshakeError::NotJson),
        ("[]", HandshakeError::NotJson),
        ("{\"sys\":{}}x", HandshakeError::NotJson),
        (&deep, HandshakeError::NotJson),
        ("{}", HandshakeError::NoSys),
        ("{\"sys\":null}", HandshakeError::NoSys),
        ("{\"sys\":0}", HandshakeError::NoSys),
        ("{\"sys\":\"\"}", HandshakeError::NoSys),
    ] {
        let mut link = Link::new(CodecConfig::default());
        let error = link.feed(&handshake(text)).unwrap_err();
        assert_eq!(error, ProtocolError::Handshake(expected), "{text:.20}");
        assert_eq!(link.written_text()[0].1, r#"{"code":500}"#);
        assert_eq!(link.conn.state(), ConnState::Closed);
    }
}

#[test]
fn a_listener_for_pitaya_refuses_in_its_dialect() {
    let config = CodecConfig {
        dialect: DialectChoice::Pitaya,
        ..CodecConfig::default()
    };
    let mut link = Link::new(config);
    link.feed(&handshake("nonsense")).unwrap_err();
    assert!(
        link.written_text()[0]
            .1
            .starts_with(r#"{"code":400,"sys":{"#)
    );
}

#[test]
fn browsers_may_send_halves_of_characters() {
    let mut link = Link::new(CodecConfig::default());
    let mut body = br#"{"sys":{},"user":{"escaped":"\ud83d","raw":""#.to_vec();
    body.extend_from_slice(b"\xed\xa0\xbd\xed\xb8\x80\xed\xa0\xbd\"}}");
    let request = handshake_of(only(link.feed(&package(PackageType::Handshake, &body))));
    assert_eq!(
        request.user,
        json!({"escaped": "\u{fffd}", "raw": "😀\u{fffd}"})
    );
}

#[test]
fn prototype_names_are_names() {
    let mut link = Link::new(CodecConfig::default());
    let text = r#"{"sys":{"__proto__":{"type":"x"},"constructor":1},"user":{"__proto__":{"a":1}}}"#;
    let request = handshake_of(only(link.feed(&handshake(text))));
    assert_eq!(request.client_type, None);
    assert_eq!(request.user["__proto__"]["a"], 1);
}

// Dialects

#[test]
fn auto_finds_the_dialect() {
    for (sys, expected) in [
        (r#"{"platform":"mac"}"#, Dialect::Pitaya),
        (r#"{"libVersion":"1"}"#, Dialect::Pitaya),
        (r#"{"clientBuildNumber":"1"}"#, Dialect::Pitaya),
        (r#"{"clientVersion":"1"}"#, Dialect::Pitaya),
        (r#"{"type":"unity","platform":"mac"}"#, Dialect::Pomelo),
        (
            r#"{"type":"js-websocket","version":"0.0.1"}"#,
            Dialect::Pomelo,
        ),
        ("{}", Dialect::Pomelo),
        ("\"x\"", Dialect::Pomelo),
    ] {
        let mut link = Link::new(CodecConfig::default());
        assert_eq!(link.conn.dialect(), Dialect::Pomelo);
        let request = handshake_of(only(link.feed(&handshake(&format!("{{\"sys\":{sys}}}")))));
        assert_eq!(
            (request.dialect, link.conn.dialect()),
            (expected, expected),
            "{sys}"
        );
    }
}

#[test]
fn a_listener_may_fix_the_dialect() {
    for (choice, expected) in [
        (DialectChoice::Pomelo, Dialect::Pomelo),
        (DialectChoice::Pitaya, Dialect::Pitaya),
    ] {
        for hello in [POMELO, PITAYA] {
            let config = CodecConfig {
                dialect: choice,
                ..CodecConfig::default()
            };
            let mut link = Link::new(config);
            assert_eq!(link.conn.dialect(), expected);
            assert_eq!(
                handshake_of(only(link.feed(&handshake(hello)))).dialect,
                expected
            );
        }
    }
}

#[test]
fn pitaya_answers() {
    let dictionary = Dictionary::with_codes([("b.c", 2), ("a.b", 7)]).unwrap();
    let config = |compress_pitaya| CodecConfig {
        heartbeat: Some(1500 * MILLI),
        dictionary: Some(Arc::new(dictionary.clone())),
        pitaya_serializer: PitayaSerializer::Protobuf,
        compress_pitaya,
        ..CodecConfig::default()
    };
    let sys = r#""sys":{"dict":{"a.b":7,"b.c":2},"heartbeat":2,"serializer":"protobuf"}"#;
    let answer = |link: &mut Link, user: Option<&serde_json::Value>| {
        link.feed(&handshake(PITAYA)).unwrap();
        link.conn.accept(link.now, user, &mut link.out).unwrap();
        link.written()[0].body.clone()
    };
    let mut link = Link::new(config(false));
    assert_eq!(answer(&mut link, None), format!("{{\"code\":200,{sys}}}"));

    // A body that deflates well: the user's data.
    let user = json!("a".repeat(1000));
    let mut link = Link::new(config(true));
    let body = answer(&mut link, Some(&user));
    assert_eq!(body[0], 0x78);
    let text = inflate(&body, 1 << 16).unwrap();
    assert_eq!(
        String::from_utf8(text).unwrap(),
        format!("{{\"code\":200,{sys},\"user\":{user}}}")
    );
}

#[test]
fn pitaya_clients_always_have_heartbeats() {
    let mut link = Link::new(CodecConfig::default());
    link.feed_accepting(&[&handshake(PITAYA), ACK].concat())
        .unwrap();
    assert_eq!(link.written().last().unwrap().kind, PackageType::Heartbeat);
    assert_eq!(link.conn.deadline(), Some(link.now + 2 * PITAYA_HEARTBEAT));
}

// Packages and states

#[test]
fn packages_in_the_wrong_state_are_dropped() {
    let mut link = Link::new(beating());
    assert_dropped(link.feed(ACK), DropReason::UnexpectedAck);
    assert_dropped(link.feed(HEARTBEAT), DropReason::EarlyHeartbeat);
    assert_dropped(
        link.feed(&request(1, "a.b.c", b"{}")),
        DropReason::DataBeforeAck,
    );
    link.feed(&handshake(POMELO)).unwrap();
    link.conn.accept(link.now, None, &mut link.out).unwrap();
    link.out.clear();
    assert_dropped(
        link.feed(&request(1, "a.b.c", b"{}")),
        DropReason::DataBeforeAck,
    );
    assert_dropped(link.feed(HEARTBEAT), DropReason::EarlyHeartbeat);
    assert_dropped(link.feed(&handshake(POMELO)), DropReason::SecondHandshake);
    assert!(matches!(only(link.feed(ACK)), Event::Open));
    link.out.clear();
    assert_dropped(link.feed(&handshake(PITAYA)), DropReason::SecondHandshake);
    assert_dropped(link.feed(ACK), DropReason::UnexpectedAck);
    assert_eq!(
        (link.conn.state(), link.conn.dialect()),
        (ConnState::Working, Dialect::Pomelo)
    );
    assert!(link.out.is_empty());
}

#[test]
fn two_handshakes_in_one_chunk_make_one_session() {
    let mut link = Link::new(CodecConfig::default());
    let events = link
        .feed_accepting(&[handshake(POMELO), handshake(POMELO), ACK.to_vec()].concat())
        .unwrap();
    assert!(
        matches!(
            events[..],
            [
                Event::Handshake(_),
                Event::Dropped(DropReason::SecondHandshake),
                Event::Open
            ]
        ),
        "{events:?}"
    );
    assert_eq!(link.written().len(), 1);
}

#[test]
fn kicks_and_unknown_packages_close_in_every_state_and_dialect() {
    for hello in [POMELO, PITAYA] {
        for state in [ConnState::Inited, ConnState::WaitAck, ConnState::Working] {
            let link = || {
                let mut link = Link::new(CodecConfig::default());
                if state != ConnState::Inited {
                    link.feed_accepting(&handshake(hello)).unwrap();
                }
                if state == ConnState::Working {
                    link.feed(ACK).unwrap();
                }
                assert_eq!(link.conn.state(), state);
                link.out.clear();
                link
            };
            let mut kicked = link();
            assert_eq!(
                kicked.feed(&package(PackageType::Kick, b"")).unwrap_err(),
                ProtocolError::Kick
            );
            let mut unknown = link();
            let error = unknown.feed(b"\x06\x00\x00\x00").unwrap_err();
            assert_eq!(error, ProtocolError::Package(PackageError::UnknownType(6)));
            for mut link in [kicked, unknown] {
                assert_eq!(link.conn.state(), ConnState::Closed);
                assert!(link.out.is_empty(), "no KICK");
                assert!(link.feed(&request(1, "a.b.c", b"{}")).unwrap().is_empty());
            }
        }
    }
}

#[test]
fn long_packages_are_refused_with_their_head() {
    let mut link = working(CodecConfig::default());
    assert!(
        link.feed(b"\x04\x01\x00\x00").unwrap().is_empty(),
        "65,536 bytes may follow"
    );
    assert!(link.conn.is_mid_package());
    let mut link = working(CodecConfig::default());
    assert!(link.feed(b"\x04\x01\x00").unwrap().is_empty());
    let error = link.feed(b"\x01").unwrap_err();
    let expected = PackageError::TooLarge {
        announced: 65_537,
        limit: 65_536,
    };
    assert_eq!(error, ProtocolError::Package(expected));
    assert!(
        !link.conn.is_mid_package(),
        "a closed connection holds no bytes"
    );

    let mut link = Link::new(CodecConfig::default());
    let error = link.feed(b"\x01\x00\x40\x01").unwrap_err();
    let expected = PackageError::TooLarge {
        announced: 16_385,
        limit: 16_384,
    };
    assert_eq!(error, ProtocolError::Package(expected));
}

#[test]
fn bodies_of_acks_and_heartbeats_are_ignored() {
    let mut link = Link::new(beating());
    link.feed_accepting(&handshake(POMELO)).unwrap();
    assert!(matches!(
        only(link.feed(&package(PackageType::HandshakeAck, b"x"))),
        Event::Open
    ));
    link.out.clear();
    assert!(
        link.feed(&package(PackageType::Heartbeat, b"x"))
            .unwrap()
            .is_empty()
    );
    assert_eq!(&link.out[..], HEARTBEAT);
}

// Time

#[test]
fn each_step_of_the_handshake_has_a_deadline() {
    let steps: [(&str, TimeoutKind); 3] = [
        ("", TimeoutKind::Handshake),
        ("handshake", TimeoutKind::Answer),
        ("answer", TimeoutKind::Ack),
    ];
    for (step, kind) in steps {
        let mut link = Link::new(CodecConfig::default());
        link.wait(4 * SECOND);
        if !step.is_empty() {
            link.feed(&handshake(POMELO)).unwrap();
        }
        if step == "answer" {
            link.wait(4 * SECOND);
            link.conn.accept(link.now, None, &mut link.out).unwrap();
        }
        // Bytes, even packages, that are not the expected step do not help.
        if step != "handshake" {
            link.wait(SECOND);
            link.feed(HEARTBEAT).unwrap();
        }
        link.now = Millis(link.conn.deadline().unwrap().0 - 1);
        assert_eq!(link.conn.poll_timeout(link.now), None, "{kind}");
        link.wait(MILLI);
        assert_eq!(link.conn.poll_timeout(link.now), Some(kind));
        assert_eq!(link.conn.state(), ConnState::Closed);
        assert_eq!(
            (link.conn.deadline(), link.conn.poll_timeout(link.now)),
            (None, None)
        );
    }
    let mut link = Link::new(CodecConfig::default());
    assert_eq!(link.conn.deadline(), Some(link.now + 10 * SECOND));
    link.wait(4 * SECOND);
    link.feed(&handshake(POMELO)).unwrap();
    assert_eq!(link.conn.deadline(), Some(link.now + 10 * SECOND));
}

#[test]
fn idle_time_governs_without_heartbeats() {
    let mut link = working(CodecConfig::default());
    assert_eq!(link.conn.deadline(), Some(link.now + 90 * SECOND));
    link.wait(60 * SECOND);
    assert!(link.feed(b"\x04").unwrap().is_empty());
    assert_eq!(
        link.conn.deadline(),
        Some(link.now + 90 * SECOND),
        "any byte counts"
    );
    link.wait(60 * SECOND);
    link.conn.touch(link.now);
    assert_eq!(
        link.conn.deadline(),
        Some(link.now + 90 * SECOND),
        "in either direction"
    );
    link.wait(Duration::from_millis(89_999));
    assert_eq!(link.conn.poll_timeout(link.now), None);
    link.wait(MILLI);
    assert_eq!(link.conn.poll_timeout(link.now), Some(TimeoutKind::Idle));
}

#[test]
fn idle_time_may_be_shorter_than_the_handshake() {
    let limits = Limits {
        idle_timeout: 5 * SECOND,
        ..Limits::default()
    };
    let mut link = Link::new(CodecConfig {
        limits,
        ..CodecConfig::default()
    });
    link.wait(3 * SECOND);
    link.feed(b"\x01").unwrap();
    assert_eq!(link.conn.deadline(), Some(link.now + 5 * SECOND));
    link.wait(5 * SECOND);
    assert_eq!(link.conn.poll_timeout(link.now), Some(TimeoutKind::Idle));
}

#[test]
fn the_server_beats_first_and_answers_each_beat() {
    let mut link = Link::new(beating());
    link.feed_accepting(&[&handshake(POMELO), ACK].concat())
        .unwrap();
    let answer = r#"{"code":200,"sys":{"heartbeat":3}}"#.to_owned();
    let expected = [
        (PackageType::Handshake, answer),
        (PackageType::Heartbeat, String::new()),
    ];
    assert_eq!(link.written_text(), expected);
    for _ in 0..3 {
        link.wait(3 * SECOND);
        assert!(link.feed(HEARTBEAT).unwrap().is_empty());
        assert_eq!(&link.out.split()[..], HEARTBEAT);
    }
    let two = [HEARTBEAT, HEARTBEAT].concat();
    assert!(link.feed(&two).unwrap().is_empty());
    assert_eq!(link.out, two);
}

#[test]
fn silence_ends_a_connection_with_heartbeats() {
    let mut link = working(beating());
    assert_eq!(link.conn.deadline(), Some(link.now + 6 * SECOND));
    link.wait(5 * SECOND);
    link.feed(&request(1, "a.b.c", b"{}")).unwrap();
    assert_eq!(
        link.conn.deadline(),
        Some(link.now + 6 * SECOND),
        "any complete package is life"
    );
    link.wait(5 * SECOND);
    link.feed(b"\x03\x00").unwrap();
    link.conn.touch(link.now);
    link.wait(SECOND);
    assert_eq!(
        link.conn.poll_timeout(link.now),
        Some(TimeoutKind::Heartbeat),
        "half a package is not"
    );
    assert!(link.out.is_empty());
}

#[test]
fn the_heartbeat_timeout_can_be_set() {
    let config = CodecConfig {
        heartbeat_timeout: Some(20 * SECOND),
        ..beating()
    };
    let link = working(config);
    assert_eq!(link.conn.deadline(), Some(link.now + 20 * SECOND));
}

#[test]
fn without_heartbeats_none_is_answered() {
    for heartbeat in [None, Some(Duration::ZERO)] {
        let mut link = working(CodecConfig {
            heartbeat,
            ..CodecConfig::default()
        });
        assert!(link.feed(HEARTBEAT).unwrap().is_empty());
        assert!(link.out.is_empty());
    }
}

// Messages

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
    let config = || CodecConfig {
        dictionary: Some(Arc::new(dictionary.clone())),
        ..CodecConfig::default()
    };
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
    let config = || CodecConfig {
        protos: Some(protos()),
        ..CodecConfig::default()
    };
    let mut link = working(config());
    let read = message(link.feed(&request(5, "a.b.c", b"\x08\x07\x12\x01x")));
    assert_eq!(&read.body[..], br#"{"id":7,"name":"x"}"#);
    for body in [&b"\x08"[..], b"\x78\x01", b"\x12\x09x", b"{\"id\":1}"] {
        assert_refused(
            link.feed(&request(5, "a.b.c", body)),
            5,
            RefuseReason::BadProtobuf,
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
    let mut link = Link::open(config(), PITAYA);
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

    let limits = Limits {
        max_inflated_size: 59_999,
        ..Limits::default()
    };
    let mut link = Link::open(
        CodecConfig {
            limits,
            ..CodecConfig::default()
        },
        PITAYA,
    );
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
    let config = || CodecConfig {
        crypto: Some(HashPolicy::default()),
        ..CodecConfig::default()
    };
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
    // Pitaya clients cannot sign.
    let mut link = Link::open(config(), PITAYA);
    message(link.feed(&request(1, "a.b", b"{}")));
}

// Splitting

#[test]
fn one_byte_at_a_time() {
    let stream = [
        &handshake(POMELO),
        ACK,
        &request(1, "a.b.c", b"{}"),
        HEARTBEAT,
        &notify("a.b.c", b""),
    ]
    .concat();
    let mut link = Link::new(beating());
    let mut events = Vec::new();
    for byte in &stream {
        events.extend(link.feed_accepting(&[*byte]).unwrap());
    }
    assert!(
        matches!(
            events[..],
            [
                Event::Handshake(_),
                Event::Open,
                Event::Message(_),
                Event::Message(_)
            ]
        ),
        "{events:?}"
    );
    assert!(!link.conn.is_mid_package());
}

#[test]
fn bodies_are_slices_of_the_chunk() {
    let mut link = working(CodecConfig::default());
    let chunk = Bytes::from(
        [
            request(1, "a.b.c", b"{\"x\":1}"),
            request(2, "a.b.c", b"{}"),
        ]
        .concat(),
    );
    let range = chunk.as_ptr() as usize..chunk.as_ptr() as usize + chunk.len();
    link.input = chunk.clone();
    for _ in 0..2 {
        let Ok(Some(Event::Message(message))) = link.next() else {
            panic!()
        };
        assert!(range.contains(&(message.body.as_ptr() as usize)));
        assert!(range.contains(&(message.route.as_str().as_ptr() as usize)));
        let own = message.route.detach();
        assert!(own == message.route && !range.contains(&(own.as_str().as_ptr() as usize)));
    }
}
