//! The state machine of a connection, driven by hand: bytes in, events out, a clock that jumps.
#![allow(
    clippy::unwrap_used,
    reason = "a helper of tests that cannot go on may panic"
)]

mod common;

use bytes::Bytes;
use common::{ACK, HEARTBEAT, Link, PITAYA, POMELO, handshake, notify, package, request};
use serde_json::json;
use shaddock_protocol::{
    CodecConfig, ConnState, Dialect, DialectChoice, Dictionary, DropReason, Event, HandshakeError,
    HandshakeRequest, Limits, Millis, PITAYA_HEARTBEAT, PackageError, PackageType,
    PitayaSerializer, ProtocolError, RejectCode, ResumeGrant, ResumeOutcome, ResumeRefusal,
    ResumeRequest, TimeoutKind, deflate_zlib, inflate,
};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const MILLI: Duration = Duration::from_millis(1);

fn beating() -> CodecConfig {
    CodecConfig::default().heartbeat(3 * SECOND)
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
    assert_eq!(request.user(), json!({"token": "😀"}));
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
    let config = CodecConfig::default().dialect(DialectChoice::Pitaya);
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
        request.user(),
        json!({"escaped": "\u{fffd}", "raw": "😀\u{fffd}"})
    );
}

#[test]
fn prototype_names_are_names() {
    let mut link = Link::new(CodecConfig::default());
    let text = r#"{"sys":{"__proto__":{"type":"x"},"constructor":1},"user":{"__proto__":{"a":1}}}"#;
    let request = handshake_of(only(link.feed(&handshake(text))));
    assert_eq!(request.client_type, None);
    assert_eq!(request.user()["__proto__"]["a"], 1);
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
            let config = CodecConfig::default().dialect(choice);
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
    let config = |compress_pitaya| {
        CodecConfig::default()
            .heartbeat(1500 * MILLI)
            .dictionary(Arc::new(dictionary.clone()))
            .pitaya_serializer(PitayaSerializer::Protobuf)
            .compress_pitaya(compress_pitaya)
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
fn short_answers_of_pitaya_are_not_deflated() {
    let mut link = Link::new(CodecConfig::default().compress_pitaya(true));
    link.feed_accepting(&handshake(PITAYA)).unwrap();
    let plain = r#"{"code":200,"sys":{"dict":{},"heartbeat":30,"serializer":"json"}}"#;
    assert!(deflate_zlib(plain.as_bytes()).len() >= plain.len());
    assert_eq!(link.written_text()[0].1, plain);
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
        for state in [
            ConnState::WaitHandshake,
            ConnState::WaitAck,
            ConnState::Working,
        ] {
            let link = || {
                let mut link = Link::new(CodecConfig::default());
                if state != ConnState::WaitHandshake {
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

    let mut link =
        Link::new(CodecConfig::default().limits(Limits::default().max_handshake_size(16 * 1024)));
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
    let limits = Limits::default().idle_timeout(5 * SECOND);
    let mut link = Link::new(CodecConfig::default().limits(limits));
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
    let config = beating().heartbeat_timeout(20 * SECOND);
    let link = working(config);
    assert_eq!(link.conn.deadline(), Some(link.now + 20 * SECOND));
}

#[test]
fn without_heartbeats_none_is_answered() {
    for heartbeat in [None, Some(Duration::ZERO)] {
        let mut link = working(CodecConfig::default().heartbeat(heartbeat));
        assert!(link.feed(HEARTBEAT).unwrap().is_empty());
        assert!(link.out.is_empty());
    }
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

/// Where messages must be signed, no handshake gets around it: not by a dialect that cannot sign, and not with a key that costs too much.
#[test]
fn a_client_that_must_sign_cannot_choose_not_to() {
    let good = "f".repeat(256);
    let key =
        |e: u64| format!(r#"{{"sys":{{"type":"js","rsa":{{"rsa_n":"{good}","rsa_e":{e}}}}}}}"#);
    let accepted = [key(3), key(65_537), key((1 << 17) - 1)];
    let refused = [
        POMELO.to_owned(),
        r#"{"sys":{"type":"js","rsa":{"rsa_n":"ff","rsa_e":3}}}"#.to_owned(),
        key(2),
        key((1 << 17) + 1),
        key((1 << 32) - 1),
        key(u64::MAX),
    ];
    let pitaya = [
        PITAYA.to_owned(),
        r#"{"sys":{"platform":"mac","rsa":{"rsa_n":"ff","rsa_e":3}}}"#.to_owned(),
    ];
    for unsigned_pitaya in [false, true] {
        let judge = |hello: &str| {
            let mut link = Link::new(
                CodecConfig::default()
                    .crypto(shaddock_protocol::HashPolicy::Sha2)
                    .unsigned_pitaya(unsigned_pitaya),
            );
            match link.feed(&handshake(hello)) {
                Ok(_) => None,
                Err(error) => Some((error.name(), link.written_text()[0].1.clone())),
            }
        };
        for hello in &accepted {
            assert_eq!(judge(hello), None, "{hello}");
        }
        for hello in &refused {
            let answer = r#"{"code":500}"#.to_owned();
            assert_eq!(judge(hello), Some(("bad_handshake", answer)), "{hello}");
        }
        for hello in &pitaya {
            let judged = judge(hello);
            assert_eq!(judged.is_none(), unsigned_pitaya, "{hello}");
            if let Some((name, answer)) = judged {
                assert_eq!(name, "bad_handshake");
                assert!(answer.starts_with(r#"{"code":400,"#), "{answer}");
            }
        }
    }
}

/// Input that a tree would have rejected is rejected at once, although no tree is made.
#[test]
fn handshakes_are_read_as_a_parser_reads_them() {
    #[derive(serde::Deserialize)]
    struct User {
        n: Vec<u8>,
    }
    let deep = |n: usize| {
        format!(
            r#"{{"sys":{{}},"user":{}{}}}"#,
            "[".repeat(n),
            "]".repeat(n)
        )
    };
    let read = |text: &str| {
        let mut link = Link::new(CodecConfig::default());
        link.feed(&handshake(text))
            .map(|mut events| handshake_of(events.remove(0)))
    };
    for text in [
        "",
        "null",
        "[]",
        "{",
        r#"{"sys":{}} x"#,
        r#"{"sys":{},"user":1e999}"#,
        r#"{"sys":{"type":1e999}}"#,
        r#"{"sys":{},"x":{"a":[1e999]}}"#,
        &deep(127),
        &deep(100_000),
    ] {
        assert!(read(text).is_err(), "{text}");
    }
    for text in [
        "{}",
        r#"{"sys":0}"#,
        r#"{"sys":""}"#,
        r#"{"sys":null}"#,
        r#"{"sys":{},"sys":false}"#,
    ] {
        assert!(read(text).is_err(), "{text}");
    }
    assert!(read(&deep(126)).unwrap().user().is_array());
    let twice = r#" {"sys":{"type":"a"},"user":1,"x":{"user":2},"sys":{"type":"b","type":"c","ty\u0070e":7},"user":{"n":[3]}} "#;
    let request = read(twice).unwrap();
    assert_eq!(request.client_type.as_deref(), Some("7"));
    assert_eq!(request.user_text(), r#"{"n":[3]}"#);
    assert_eq!(request.user(), json!({"n": [3]}));
    assert_eq!(request.user_as::<User>().unwrap().n, [3]);
    assert!(request.user_as::<Vec<u8>>().is_err());
    let none = read(r#"{"sys":true}"#).unwrap();
    assert_eq!((none.user_text(), none.user()), ("null", json!(null)));
}

// Resumption

fn grant(outcome: ResumeOutcome) -> ResumeGrant {
    ResumeGrant {
        token: "t0k".into(),
        window: 60 * SECOND + 999 * MILLI,
        ack: 32,
        address: None,
        outcome,
    }
}

/// A connection whose client asked for resumption and was granted it.
fn counted(config: CodecConfig, grant: &ResumeGrant) -> (Link, String) {
    let mut link = Link::new(config);
    let asked = r#"{"sys":{"type":"t","resume":{"v":1}}}"#;
    let request = handshake_of(only(link.feed(&handshake(asked))));
    assert_eq!(request.resume, ResumeRequest::New);
    link.conn
        .accept_resumable(link.now, None, grant, &mut link.out)
        .unwrap();
    assert!(link.conn.is_counted());
    let answer = link.written_text().remove(0).1;
    (link, answer)
}

#[test]
fn what_is_granted_stands_at_the_end_of_sys() {
    let resumed = ResumeOutcome::Resumed {
        received: 3,
        position: 70,
        missed: 5,
    };
    let with_dictionary =
        || beating().dictionary(Arc::new(Dictionary::build(["a.b.c"], [""; 0]).unwrap()));
    let restarted = ResumeOutcome::Restarted(ResumeRefusal::Unknown);
    let plain = r#""v":1,"token":"t0k","window":60,"ack":32"#;
    for (config, outcome, expected) in [
        (
            CodecConfig::default(),
            ResumeOutcome::Granted,
            format!(r#"{{"code":200,"sys":{{"resume":{{{plain}}}}}}}"#),
        ),
        (
            beating(),
            restarted,
            format!(
                r#"{{"code":200,"sys":{{"heartbeat":3,"resume":{{{plain},"resumed":false,"why":"unknown"}}}}}}"#
            ),
        ),
        (
            with_dictionary(),
            resumed,
            format!(
                r#"{{"code":200,"sys":{{"heartbeat":3,"useDict":true,"resume":{{{plain},"resumed":true,"received":3,"position":70,"missed":5}}}}}}"#
            ),
        ),
    ] {
        assert_eq!(counted(config, &grant(outcome)).1, expected);
    }
    // A client with a new session also receives the dictionary: a resuming client names no version.
    let (_, answer) = counted(with_dictionary(), &grant(restarted));
    assert!(answer.contains(r#""routeToCode":{"a.b.c":1}"#), "{answer}");
    let address = ResumeGrant {
        address: Some("wss://c1.example.com".into()),
        ..grant(ResumeOutcome::Granted)
    };
    let (_, answer) = counted(CodecConfig::default(), &address);
    assert!(
        answer.contains(r#""ack":32,"address":"wss://c1.example.com"}"#),
        "{answer}"
    );
}

#[test]
fn in_pitayas_answer_the_members_stay_sorted() {
    let resumed = ResumeOutcome::Resumed {
        received: 0,
        position: 0,
        missed: 0,
    };
    for (outcome, dict) in [(ResumeOutcome::Granted, true), (resumed, false)] {
        let mut link = Link::new(CodecConfig::default());
        handshake_of(only(link.feed(&handshake(PITAYA))));
        link.conn
            .accept_resumable(link.now, Some(&json!(7)), &grant(outcome), &mut link.out)
            .unwrap();
        let answer: serde_json::Value = serde_json::from_str(&link.written_text()[0].1).unwrap();
        let members: Vec<_> = answer["sys"].as_object().unwrap().keys().collect();
        let expected = ["dict", "heartbeat", "resume", "serializer"];
        assert_eq!(members, expected[usize::from(!dict)..]);
        assert_eq!(answer["user"], 7);
    }
}

#[test]
fn heartbeats_of_counted_connections_are_events_and_others_are_answered_directly() {
    let (mut link, _) = counted(beating(), &grant(ResumeOutcome::Granted));
    assert!(matches!(only(link.feed(ACK)), Event::Open));
    assert_eq!(link.written_text().len(), 1, "the first heartbeat");
    for (body, expected) in [(&[][..], None), (&[5], Some(5)), (&[0x80, 1], Some(128))] {
        let event = only(link.feed(&package(PackageType::Heartbeat, body)));
        let Event::Heartbeat { acknowledged } = event else {
            panic!("{event:?}");
        };
        assert_eq!(acknowledged, expected);
        assert!(link.out.is_empty(), "the caller answers");
    }
    let refused = link.feed(&package(PackageType::Heartbeat, &[0x80]));
    assert!(matches!(refused, Err(ProtocolError::Acknowledgement)));
    // Clients without resumption may send any body, as before.
    let mut link = working(beating());
    link.out.clear();
    assert!(
        link.feed(&package(PackageType::Heartbeat, &[0x80]))
            .unwrap()
            .is_empty()
    );
    assert_eq!(&link.out[..], HEARTBEAT);
}

#[test]
fn a_goodbye_is_an_empty_kick_of_a_counted_connection() {
    for (acknowledged, body, goodbye) in [
        (true, &b""[..], true),
        (false, b"", true),
        (true, b"x", false),
    ] {
        let (mut link, _) = counted(beating(), &grant(ResumeOutcome::Granted));
        if acknowledged {
            link.feed(ACK).unwrap();
        }
        let result = link.feed(&package(PackageType::Kick, body));
        if goodbye {
            assert!(matches!(only(result), Event::Goodbye));
        } else {
            assert!(matches!(result, Err(ProtocolError::Kick)));
        }
        assert_eq!(link.conn.has_left(), goodbye);
        assert_eq!(link.conn.state(), ConnState::Closed);
    }
    let mut link = working(beating());
    let result = link.feed(&package(PackageType::Kick, b""));
    assert!(matches!(result, Err(ProtocolError::Kick)));
}

#[test]
fn data_counts_whatever_becomes_of_it() {
    let (mut link, _) = counted(CodecConfig::default(), &grant(ResumeOutcome::Granted));
    let early = only(link.feed(&request(1, "a.b.c", b"{}")));
    assert!(!early.is_of_data(), "{early:?}");
    assert!(!only(link.feed(ACK)).is_of_data());
    for bytes in [
        request(1, "a.b.c", b"{}"),
        notify("a.b.c", b"{}"),
        request(1, "a.b.c", b"no JSON"),
        notify("nowhere", b"{}"),
        request(1, "a.b.constructor", b"{}"),
        package(PackageType::Data, b"\x04\x01"),
        package(PackageType::Data, b"\x0e"),
    ] {
        let event = only(link.feed(&bytes));
        assert!(event.is_of_data(), "{event:?}");
    }
    for bytes in [ACK.to_vec(), HEARTBEAT.to_vec(), handshake(POMELO)] {
        let event = only(link.feed(&bytes));
        assert!(!event.is_of_data(), "{event:?}");
    }
}
