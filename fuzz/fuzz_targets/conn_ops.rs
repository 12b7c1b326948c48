//! One connection: packages, pieces of packages, time and commands in any order. Two connections get the same, one in large pieces
//! and one in small ones, and must not differ.
#![no_main]

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use shaddock_fuzz::{Choices, bounded, pieces};
use shaddock_protocol::{
    Codec, CodecConfig, Conn, ConnState, Dialect, DialectChoice, Dictionary, Event, HashPolicy,
    Limits, MAX_BODY, Message, MessageType, Millis, PackageReader, PackageType, Protos, RejectCode,
    ResumeGrant, ResumeOutcome, ResumeRefusal, Schema, WireRoute, check_json, deflate_zlib,
    encode_package, put_heartbeat,
};

const ROUTES: [&str; 6] = [
    "area.playerHandler.enterScene",
    "chat.chatHandler.send",
    "a.b.constructor",
    "room.join",
    "x",
    "...",
];

/// Every combination of the eight switches that matter.
static CODECS: LazyLock<Vec<Arc<Codec>>> =
    LazyLock::new(|| (0..=255).map(|flags| Arc::new(codec(flags))).collect());

static HANDSHAKES: LazyLock<Vec<String>> = LazyLock::new(|| {
    let crypto: Value =
        serde_json::from_str(include_str!("../../tests/vectors/crypto.json")).unwrap();
    let rsa = &crypto["rsa"];
    [
        json!({"sys": {"type": "js-websocket", "version": "0.0.1", "rsa": rsa}}),
        json!({"sys": {"type": "js-websocket", "version": "0.0.1", "rsa": {}}, "user": {"a": 1}}),
        json!({"sys": {"platform": "mac", "libVersion": "0.3.5-release", "clientBuildNumber": "20", "clientVersion": "2.1"}}),
        json!({"sys": {}}),
        json!({}),
        json!({"sys": {"type": "t", "rsa": rsa, "resume": {"v": 1}}}),
        json!({"sys": {"resume": {"v": 1, "token": "t", "received": 3, "sent": 4}}}),
    ]
    .map(|body| body.to_string())
    .to_vec()
});

fn codec(flags: u8) -> Codec {
    let has = |bit: u8| flags >> bit & 1 == 1;
    let schema = r#"{"area.playerHandler.enterScene":{"required string name":1,"repeated uInt32 skills":2,"optional string __crypto__":3}}"#;
    let schema = || Schema::parse(schema).unwrap();
    Codec::new(
        CodecConfig::default()
            .dialect(
                [
                    DialectChoice::Auto,
                    DialectChoice::Pomelo,
                    DialectChoice::Pitaya,
                    DialectChoice::Auto,
                ][usize::from(flags & 3)],
            )
            .dictionary(has(2).then(|| {
                Arc::new(
                    Dictionary::build(ROUTES[..2].iter(), [].iter() as std::slice::Iter<'_, &str>)
                        .unwrap(),
                )
            }))
            .protos(has(3).then(|| Arc::new(Protos::new(schema(), schema()))))
            .crypto(has(4).then_some(HashPolicy::Legacy))
            .heartbeat(has(5).then_some(Duration::from_secs(3)))
            .compress_pitaya(has(6))
            .limits(if has(7) {
                Limits::default()
                    .max_package_size(200)
                    .max_handshake_size(400)
                    .max_inflated_size(300)
            } else {
                Limits::default()
            }),
    )
}

/// A connection and what came out of it so far.
struct Side {
    conn: Conn,
    pending: Bytes,
    out: BytesMut,
    events: Vec<String>,
    opened: bool,
    handshakes: usize,
}

impl Side {
    fn new(codec: &Arc<Codec>) -> Self {
        let conn = Conn::new(Arc::clone(codec), Millis(0));
        Self {
            conn,
            pending: Bytes::new(),
            out: BytesMut::new(),
            events: Vec::new(),
            opened: false,
            handshakes: 0,
        }
    }

    fn feed(&mut self, now: Millis, bytes: &[u8]) {
        // Data of a client whose handshake has no response yet is not read; what was read before is kept.
        self.pending = [&self.pending[..], bytes].concat().into();
        self.drain(now);
    }

    fn drain(&mut self, now: Millis) {
        loop {
            let mut input = std::mem::take(&mut self.pending);
            let state = self.conn.state();
            let result = self.conn.poll_event(now, &mut input, &mut self.out);
            self.pending = input;
            match result {
                Ok(Some(event)) => self.event(event),
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(self.conn.state(), ConnState::Closed);
                    assert_ne!(state, ConnState::Closed, "one error only");
                    self.events.push(format!("{error:?}"));
                    break;
                }
            }
        }
        assert!(self.pending.is_empty() || self.conn.state() == ConnState::Answering);
        assert!(self.conn.state() != ConnState::Closed || !self.conn.is_mid_package());
        assert_eq!(
            self.conn.deadline().is_none(),
            self.conn.state() == ConnState::Closed
        );
    }

    fn event(&mut self, event: Event) {
        match &event {
            Event::Handshake(_) => {
                self.handshakes += 1;
                assert_eq!(self.handshakes, 1);
                assert_eq!(self.conn.state(), ConnState::Answering);
            }
            Event::Open => {
                assert!(!self.opened);
                self.opened = true;
            }
            Event::Message(message) => {
                assert!(self.opened);
                if self.conn.dialect() == Dialect::Pomelo {
                    assert_eq!(message.route.parts(), 3);
                    check_json(&message.body).unwrap();
                    std::str::from_utf8(&message.body).unwrap();
                    assert!(!message.body.is_empty());
                }
                if let Some(id) = message.id {
                    self.answer(id.get(), message.route.as_str(), &message.body);
                }
            }
            Event::Refused { .. } | Event::Attack => assert!(self.opened),
            Event::Heartbeat { acknowledged } => {
                assert!(self.opened && self.conn.is_counted());
                // What is read can be written, and is read as the same.
                put_heartbeat(*acknowledged, &mut self.out);
            }
            Event::Goodbye => assert!(self.conn.is_counted() && self.conn.has_left()),
            _ => {}
        }
        self.events.push(format!("{event:?}"));
    }

    /// Echoes, as a handler would.
    fn answer(&mut self, id: u64, route: &str, body: &[u8]) {
        let codec = Arc::clone(self.conn.codec());
        let before = self.out.len();
        if codec
            .encode_response(self.conn.dialect(), id, route, body, false, &mut self.out)
            .is_err()
        {
            assert_eq!(self.out.len(), before, "nothing was written");
        }
        if let Ok(push) = codec.encode_push(self.conn.dialect(), route, body) {
            self.out.extend_from_slice(&push);
        }
    }
}

/// Whole packages come out, of types that servers send.
fn check_out(mut out: Bytes) {
    let mut reader = PackageReader::new();
    while let Some(package) = reader.next(&mut out, MAX_BODY).unwrap() {
        match package.kind {
            PackageType::Handshake | PackageType::Heartbeat => {}
            PackageType::Data => {
                Message::decode(package.body).unwrap();
            }
            other => panic!("a server does not send {other:?}"),
        }
    }
    assert!(!reader.is_mid_package());
}

/// The bytes of a package, if this operation is about bytes.
fn bytes_of(op: u8, choices: &mut Choices<'_>) -> Option<Vec<u8>> {
    let package = |kind, body: &[u8]| encode_package(kind, body).unwrap().to_vec();
    Some(match op {
        0 => choices.bytes().to_vec(),
        1 => {
            let kind = choices.below(7);
            let body = choices.bytes();
            [&[kind, 0, 0, body.len() as u8], body].concat()
        }
        2 => {
            let mut message = Message::new(
                [
                    MessageType::Request,
                    MessageType::Notify,
                    MessageType::Response,
                    MessageType::Push,
                ][usize::from(choices.below(4))],
                u64::from(choices.short()),
                WireRoute::None,
                Bytes::new(),
            );
            if matches!(message.kind, MessageType::Notify | MessageType::Push) {
                message.id = 0;
            }
            if message.kind != MessageType::Response {
                message.route = match choices.below(9) {
                    6 => WireRoute::Name(Bytes::copy_from_slice(choices.bytes())),
                    code @ 7.. => WireRoute::Code(u16::from(code - 6)),
                    known => {
                        WireRoute::Name(Bytes::from_static(ROUTES[usize::from(known)].as_bytes()))
                    }
                };
            }
            message.compressed = choices.flag();
            message.body = Bytes::copy_from_slice(choices.bytes());
            if message.compressed && choices.flag() {
                message.body = deflate_zlib(&message.body).into();
            }
            let mut body = BytesMut::new();
            message.encode(&mut body).ok()?;
            package(PackageType::Data, &body)
        }
        3 => package(
            PackageType::Handshake,
            HANDSHAKES[usize::from(choices.below(7))].as_bytes(),
        ),
        4 => package(PackageType::HandshakeAck, b""),
        5 => package(PackageType::Heartbeat, choices.bytes()),
        _ => return None,
    })
}

fn run(data: &[u8]) {
    let mut choices = Choices(data);
    let codec = &CODECS[usize::from(choices.byte())];
    let (mut whole, mut split) = (Side::new(codec), Side::new(codec));
    let mut now = Millis(0);
    // Long enough to reach every state; more operations only make a run slower.
    for _ in 0..64 {
        if choices.is_empty() {
            break;
        }
        let op = choices.below(12);
        if let Some(bytes) = bytes_of(op, &mut choices) {
            whole.feed(now, &bytes);
            // Heads byte by byte, bodies in larger pieces.
            for piece in pieces(&bytes, &[0, 0, 0, 0, 0, 0, 30, 100]) {
                split.feed(now, piece);
            }
        }
        let argument = choices_for(op, &mut choices);
        for side in [&mut whole, &mut split] {
            command(op, argument, now, side);
        }
        if op == 10 {
            now = now + u64::from(argument) * 10;
        }
        if op == 11 {
            now = whole.conn.deadline().filter(|at| *at >= now).unwrap_or(now);
        }
        if op >= 10 {
            for side in [&mut whole, &mut split] {
                let deadline = side.conn.deadline();
                let timeout = side.conn.poll_timeout(now);
                assert_eq!(timeout.is_some(), deadline.is_some_and(|at| at <= now));
                side.events.push(format!("{timeout:?}"));
                side.drain(now);
            }
        }
        assert_eq!(
            std::mem::take(&mut whole.events),
            std::mem::take(&mut split.events)
        );
        let (out, same) = (whole.out.split(), split.out.split());
        assert_eq!(out, same);
        check_out(out.freeze());
        assert_eq!(whole.conn.state(), split.conn.state());
        assert_eq!(whole.conn.deadline(), split.conn.deadline());
        assert_eq!(whole.conn.dialect(), split.conn.dialect());
        if whole.conn.state() != ConnState::Closed {
            assert_eq!(whole.pending.len(), split.pending.len());
            assert_eq!(whole.conn.is_mid_package(), split.conn.is_mid_package());
        }
    }
}

fn choices_for(op: u8, choices: &mut Choices<'_>) -> u16 {
    match op {
        6 | 7 => u16::from(choices.byte()),
        10 => choices.short(),
        _ => 0,
    }
}

fn command(op: u8, argument: u16, now: Millis, side: &mut Side) {
    match op {
        6 => {
            let users = [
                None,
                Some(json!(null)),
                Some(json!({"name": "😀"})),
                Some(json!(0)),
            ];
            let user = users[usize::from(argument % 4)].as_ref();
            let outcome = match argument / 4 % 4 {
                0 => None,
                1 => Some(ResumeOutcome::Granted),
                2 => Some(ResumeOutcome::Restarted(ResumeRefusal::Busy)),
                _ => Some(ResumeOutcome::Resumed {
                    received: 1,
                    position: 2,
                    missed: 1,
                }),
            };
            match outcome {
                None => side.conn.accept(now, user, &mut side.out).unwrap(),
                Some(outcome) => {
                    let grant = ResumeGrant {
                        token: "token".to_owned(),
                        window: Duration::from_secs(60),
                        ack: 32,
                        address: None,
                        outcome,
                    };
                    let out = &mut side.out;
                    side.conn.accept_resumable(now, user, &grant, out).unwrap();
                }
            }
            side.drain(now);
        }
        7 => {
            let code = if argument & 1 == 0 {
                RejectCode::Failed
            } else {
                RejectCode::OldClient
            };
            side.conn.reject(code, &mut side.out);
            side.drain(now);
        }
        8 => side.conn.touch(now),
        9 => {
            side.conn.close();
            side.drain(now);
        }
        _ => {}
    }
}

fuzz_target!(|data: &[u8]| {
    // Both connections, their events as text, and answers that are echoes.
    LazyLock::force(&CODECS);
    LazyLock::force(&HANDSHAKES);
    bounded(4 * 1024 * 1024 + 8192 * data.len(), || run(data));
});
