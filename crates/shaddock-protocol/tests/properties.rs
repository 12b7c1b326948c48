//! Properties: what holds for any bytes, cut anywhere, at any time.
#![allow(
    clippy::unwrap_used,
    reason = "a helper of tests that cannot go on may panic"
)]

mod common;

use bytes::{Bytes, BytesMut};
use common::{ACK, HEARTBEAT, Link, PITAYA, POMELO, data, handshake, notify, package, request};
use proptest::collection::vec;
use proptest::prelude::*;
use shaddock_protocol::{
    CodecConfig, ConnState, DialectChoice, Dictionary, Event, HandshakeRequest, Limits, MAX_BODY,
    Message, MessageType, PackageReader, PackageType, WireRoute, encode_package,
};
use std::sync::Arc;
use std::time::Duration;

fn kinds() -> impl Strategy<Value = PackageType> {
    (1_u8..=5).prop_map(|byte| PackageType::try_from(byte).unwrap())
}

fn messages() -> impl Strategy<Value = Message> {
    let route = prop_oneof![
        any::<u16>().prop_map(WireRoute::Code),
        vec(any::<u8>(), 0..=255).prop_map(|name| WireRoute::Name(name.into())),
    ];
    let id = prop_oneof![0_u64..300, any::<u64>()];
    let flags = (any::<bool>(), any::<bool>());
    (0..4, id, route, vec(any::<u8>(), 0..64), flags).prop_map(|(kind, id, route, body, flags)| {
        let (kind, id, route) = match kind {
            0 => (MessageType::Request, id, route),
            1 => (MessageType::Notify, 0, route),
            2 => (MessageType::Response, id, WireRoute::None),
            _ => (MessageType::Push, 0, route),
        };
        let mut message = Message::new(kind, id, route, body.into());
        (message.compressed, message.error) = flags;
        message
    })
}

/// Bytes cut at these places, in some order, repeated or out of range.
fn cut<'a>(bytes: &'a [u8], places: &[usize]) -> Vec<&'a [u8]> {
    let mut places: Vec<usize> = places
        .iter()
        .map(|place| place % (bytes.len() + 1))
        .collect();
    places.extend([0, bytes.len()]);
    places.sort_unstable();
    places
        .windows(2)
        .map(|ends| &bytes[ends[0]..ends[1]])
        .collect()
}

fn config() -> CodecConfig {
    let dictionary = Dictionary::build(["a.b.c", "a.b.d"], ["onX"]).unwrap();
    CodecConfig::default()
        .heartbeat(Duration::from_secs(3))
        .dictionary(Arc::new(dictionary))
        .limits(Limits::default().max_package_size(512))
}

/// Pieces of what clients send, right and wrong.
fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let route = prop_oneof![
        Just("a.b.c"),
        Just("x.y.constructor"),
        Just("a.b"),
        Just("")
    ];
    let body = prop_oneof![
        Just(b"{}".to_vec()),
        Just(b"".to_vec()),
        Just(b"{\"m\":\"\xed\xa0\xbd\xed\xb8\x80\"}".to_vec()),
        Just(b"{".to_vec()),
        vec(any::<u8>(), 0..32),
    ];
    prop_oneof![
        2 => Just(handshake(POMELO)),
        1 => Just(handshake(PITAYA)),
        3 => Just(ACK.to_vec()),
        1 => Just(HEARTBEAT.to_vec()),
        4 => (any::<u8>(), route.clone(), body.clone()).prop_map(|(id, route, body)| request(id & 0x7f, route, &body)),
        2 => (route, body).prop_map(|(route, body)| notify(route, &body)),
        1 => vec(any::<u8>(), 0..24).prop_map(|bytes| data(&bytes)),
        1 => Just(data(b"\x01\x05\x00\x01{}")),
        1 => (kinds(), vec(any::<u8>(), 0..24)).prop_map(|(kind, body)| package(kind, &body)),
        1 => vec(any::<u8>(), 0..8),
    ]
}

/// The events of a connection, with everything that must not depend on how the bytes were cut.
fn trace(chunks: &[&[u8]]) -> (Vec<String>, Vec<u8>, ConnState) {
    let mut link = Link::new(config());
    let mut said = Vec::new();
    for chunk in chunks {
        link.input = Bytes::from([&link.input, *chunk].concat());
        loop {
            match link.next() {
                Ok(Some(Event::Handshake(request))) => {
                    said.push(format!("handshake {:?}", request.dialect));
                    link.conn.accept(link.now, None, &mut link.out).unwrap();
                }
                Ok(Some(event)) => said.push(format!("{event:?}")),
                Ok(None) => break,
                Err(error) => said.push(format!("{error:?}")),
            }
        }
    }
    (said, link.out.to_vec(), link.conn.state())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn messages_survive(message in messages()) {
        let mut bytes = BytesMut::new();
        message.encode(&mut bytes).unwrap();
        prop_assert_eq!(Message::decode(bytes.freeze()), Ok(message));
    }

    #[test]
    fn any_bytes_are_a_message_or_not(bytes in vec(any::<u8>(), 0..64)) {
        let len = bytes.len();
        if let Ok(message) = Message::decode(bytes.into()) {
            prop_assert!(message.body.len() < len);
        }
    }

    #[test]
    fn packages_survive_any_split(
        list in vec((kinds(), vec(any::<u8>(), 0..40)), 0..8),
        places in vec(any::<usize>(), 0..20),
    ) {
        let mut bytes = Vec::new();
        for (kind, body) in &list {
            bytes.extend_from_slice(&encode_package(*kind, body).unwrap());
        }
        let mut reader = PackageReader::new();
        let mut read = Vec::new();
        for piece in cut(&bytes, &places) {
            let mut input = Bytes::copy_from_slice(piece);
            while let Some(package) = reader.next(&mut input, MAX_BODY).unwrap() {
                read.push((package.kind, package.body.to_vec()));
            }
            prop_assert!(input.is_empty());
        }
        prop_assert!(!reader.is_mid_package());
        prop_assert_eq!(read, list);
    }

    #[test]
    fn events_do_not_depend_on_how_bytes_are_cut(
        pieces in vec(pieces(), 0..12),
        polite in any::<bool>(),
        places in vec(any::<usize>(), 0..24),
    ) {
        let hello = if polite { [&handshake(POMELO), ACK].concat() } else { Vec::new() };
        let bytes = [hello, pieces.concat()].concat();
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        let whole = trace(&[&bytes]);
        prop_assert_eq!(&trace(&cut(&bytes, &places)), &whole);
        prop_assert_eq!(&trace(&single), &whole);
    }

    /// Anything may happen in any order. What must hold: nothing reaches a handler before the handshake is complete, a closed
    /// connection is silent and has no deadline, an open one always has one, and what is written is packages.
    #[test]
    fn operations(operations in vec(operation(), 0..40)) {
        let mut link = Link::new(config());
        let (mut accepted, mut open) = (false, false);
        for operation in operations {
            let before = link.conn.state();
            match operation {
                Operation::Feed(bytes) => {
                    let fed = link.feed(&bytes);
                    let closed = link.conn.state() == ConnState::Closed;
                    prop_assert_eq!(fed.is_err(), closed && before != ConnState::Closed);
                    for event in fed.unwrap_or_default() {
                        prop_assert!(before != ConnState::Closed);
                        match event {
                            Event::Handshake(_) => prop_assert!(!accepted && !open),
                            Event::Open => {
                                prop_assert!(accepted && !open);
                                open = true;
                            }
                            Event::Message(_) | Event::Refused { .. } | Event::Attack => prop_assert!(open),
                            _ => {}
                        }
                    }
                }
                Operation::Accept => {
                    link.conn.accept(link.now, None, &mut link.out).unwrap();
                    accepted |= before == ConnState::Answering;
                }
                Operation::Reject => {
                    link.conn.reject(shaddock_protocol::RejectCode::Failed, &mut link.out);
                }
                Operation::Wait(millis) => {
                    link.wait(Duration::from_millis(millis));
                    let due = link.conn.deadline().is_some_and(|at| at <= link.now);
                    prop_assert_eq!(link.conn.poll_timeout(link.now).is_some(), due);
                    prop_assert!(!due || link.conn.state() == ConnState::Closed);
                }
                Operation::Touch => link.conn.touch(link.now),
            }
            prop_assert_eq!(link.conn.deadline().is_none(), link.conn.state() == ConnState::Closed);
            link.written();
        }
    }

    #[test]
    fn any_bytes_are_a_handshake_or_not(bytes in vec(any::<u8>(), 0..128)) {
        let _ = HandshakeRequest::parse(bytes.into(), DialectChoice::Auto);
    }
}

#[derive(Clone, Debug)]
enum Operation {
    Feed(Vec<u8>),
    Accept,
    Reject,
    Wait(u64),
    Touch,
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        8 => vec(pieces(), 1..4).prop_map(|pieces| Operation::Feed(pieces.concat())),
        4 => Just(Operation::Accept),
        1 => Just(Operation::Reject),
        2 => (0_u64..7_000).prop_map(Operation::Wait),
        1 => Just(Operation::Touch),
    ]
}
