//! Servers that send anything at all. The client never panics, always ends, and says why.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, which clippy does not see as tests"
)]

mod support;

use proptest::prelude::*;
use serde_json::json;
use shaddock_client::{Client, CloseKind, Dialect};
use shaddock_protocol::{MessageType, PackageType, encode_package};
use support::{Peer, pair};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Sends `bytes` to a client with a dictionary, schemas, a request that waits and a subscription, and then closes.
fn survives(dialect: Dialect, bytes: &[u8], step: usize) -> CloseKind {
    let schema = json!({"r": {
        "s": {"option": "optional", "type": "string", "tag": 1},
        "l": {"option": "repeated", "type": "uInt32", "tag": 2},
        "__messages": {},
        "__tags": {"1": "s", "2": "l"},
    }});
    let schema = json!({"r": schema["r"], "p": schema["r"]});
    let answer = json!({"code": 200, "sys": {
        "heartbeat": 60,
        "dict": {"r": 1, "p": 2},
        "protos": {"server": schema, "client": {}, "version": "v"},
    }});
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let builder = Client::builder().dialect(dialect).max_package_size(4096);
        let (client, mut peer) = pair(&builder, answer).await;
        let mut all = client.subscribe_all();
        let request = client.request_raw("r", "{}");
        let server = async {
            for chunk in bytes.chunks(step) {
                // The client may have had enough.
                if peer.io.write_all(chunk).await.is_err() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            peer.io.shutdown().await.ok();
            let mut rest = Vec::new();
            peer.io.read_to_end(&mut rest).await.ok();
        };
        let (_answer, kind, ()) = tokio::join!(request, client.closed(), server);
        while let Some(push) = all.recv().await {
            assert!(matches!(push.route(), _), "{push:?}");
        }
        assert_eq!(client.pending_requests(), 0);
        kind
    })
}

/// Packages that are well-formed on the outside, and messages that nearly are.
fn packages() -> impl Strategy<Value = Vec<u8>> {
    let body = prop::collection::vec(any::<u8>(), 0..40);
    let nearly = (
        0_u8..64,
        prop::collection::vec(prop_oneof![0_u8..4, any::<u8>()], 0..40),
    )
        .prop_map(|(flag, mut rest)| {
            rest.insert(0, flag);
            rest
        });
    let package = prop_oneof![
        8 => nearly.prop_map(|body| (PackageType::Data, body)),
        1 => body.clone().prop_map(|body| (PackageType::Handshake, body)),
        1 => body.clone().prop_map(|body| (PackageType::Heartbeat, body)),
        1 => body.prop_map(|body| (PackageType::HandshakeAck, body)),
    ];
    prop::collection::vec(package, 0..20).prop_map(|packages| {
        let encoded = packages
            .iter()
            .flat_map(|(kind, body)| encode_package(*kind, body).unwrap());
        encoded.collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn bytes(bytes in prop::collection::vec(any::<u8>(), 0..200), step in 1_usize..50, pitaya: bool) {
        let dialect = if pitaya { Dialect::Pitaya } else { Dialect::Pomelo };
        survives(dialect, &bytes, step);
    }

    #[test]
    fn messages(bytes in packages(), step in 1_usize..50, pitaya: bool) {
        let dialect = if pitaya { Dialect::Pitaya } else { Dialect::Pomelo };
        survives(dialect, &bytes, step);
    }
}

#[test]
fn known_nonsense_has_its_reason() {
    for bytes in [
        &b"\x00\x00\x00\x00"[..],
        b"\x06\x00\x00\x00",
        // Longer than allowed: judged by the head.
        b"\x04\x00\x10\x01",
        // No message, an id without end, a route beyond the end.
        b"\x04\x00\x00\x00",
        b"\x04\x00\x00\x02\x04\x80",
        b"\x04\x00\x00\x02\x06\x05",
    ] {
        for step in [1, bytes.len()] {
            let kind = survives(Dialect::Pomelo, bytes, step);
            assert!(
                matches!(kind, CloseKind::Protocol(_)),
                "{bytes:02x?}: {kind}"
            );
        }
    }
}

#[tokio::test]
async fn an_endless_server_costs_a_queue() {
    let (client, mut peer) = support::plain_pair().await;
    let subscription = client.subscribe_all();
    for _ in 0..5_000 {
        peer.push("onFlood", [b'1'; 1000]).await;
    }
    let mut end = client.subscribe("onEnd");
    peer.push("onEnd", "1").await;
    end.recv().await.unwrap();
    assert_eq!(subscription.missed(), 5_001 - 256);
}

#[tokio::test]
async fn answers_in_the_wrong_form_are_errors_of_the_request() {
    let (client, mut peer) = support::plain_pair().await;
    let bodies = [&b"\xff\xfe"[..], b"{", b"[500]", b"{\"code\":1e999}"];
    for body in bodies {
        let server = async {
            let request = peer.message().await;
            assert_eq!(request.kind, MessageType::Request);
            peer.answer(request.id, body).await;
        };
        let object = json!({});
        let request = client.request::<_, std::collections::HashMap<String, u8>>("r", &object);
        let (answer, ()) = tokio::join!(request, server);
        answer.unwrap_err();
    }
    assert_eq!(client.close_kind(), None);
}

#[tokio::test]
async fn deep_json_in_the_handshake_is_no_stack_overflow() {
    let (near, far) = tokio::io::duplex(1 << 20);
    let mut peer = Peer::new(far);
    let deep = format!("{{\"code\":200,\"user\":{}", "[".repeat(500_000));
    let server = async {
        peer.expect(PackageType::Handshake).await;
        peer.send(PackageType::Handshake, deep.as_bytes()).await;
    };
    let builder = Client::builder();
    let (client, ()) = tokio::join!(builder.connect_io(near, |_| ()), server);
    client.unwrap_err();
}
