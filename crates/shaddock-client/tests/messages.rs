//! Requests, notifies and pushes in both dialects, against a scripted server in memory.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, which clippy does not see as tests"
)]

mod support;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use shaddock_client::{
    Client, Dialect, EncodeError, HandshakeCache, NotifyError, RequestError, SigningKey,
};
use shaddock_protocol::{
    Codec, CodecConfig, Dictionary, HashPolicy, Message, MessageType, PackageType, Protos, RsaKey,
    Schema, WireRoute, deflate_zlib,
};
use std::sync::Arc;
use support::{pair, plain, plain_pair, response};
use tokio::io::AsyncWriteExt as _;

const ROUTE: &str = "chat.chatHandler.send";

#[derive(Debug, Deserialize, PartialEq)]
struct Sent {
    n: u32,
}

#[tokio::test]
async fn requests_are_answered_in_any_order() {
    let (client, mut peer) = plain_pair().await;
    let server = async {
        let first = peer.message().await;
        let second = peer.message().await;
        assert_eq!((first.kind, first.id), (MessageType::Request, 1));
        assert_eq!(&first.body[..], br#"{"n":1}"#);
        assert_eq!(first.route, WireRoute::Name(ROUTE.into()));
        assert_eq!(second.id, 2);
        peer.answer(second.id, &second.body).await;
        peer.answer(first.id, &first.body).await;
    };
    let (first, second) = (json!({"n": 1}), json!({"n": 2}));
    let (one, two, ()) = tokio::join!(
        client.request::<_, Sent>(ROUTE, &first),
        client.request::<_, Sent>(ROUTE, &second),
        server
    );
    assert_eq!((one.unwrap(), two.unwrap()), (Sent { n: 1 }, Sent { n: 2 }));
    assert_eq!(client.pending_requests(), 0);
}

#[tokio::test]
async fn notifies_and_pushes() {
    let (client, mut peer) = plain_pair().await;
    let mut chat = client.subscribe("onChat");
    let mut all = client.subscribe_all();
    let (report, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let handler = client.on("onChat", move |push| {
        let report = report.clone();
        async move { report.send(push.json::<Value>().unwrap()).unwrap() }
    });

    client.notify(ROUTE, "😀").await.unwrap();
    let notify = peer.message().await;
    assert_eq!((notify.kind, notify.id), (MessageType::Notify, 0));
    assert_eq!(notify.body, "\"😀\"");

    peer.push("onAdd", "{}").await;
    peer.push("onChat", r#"{"msg":"\ud83d\ude00"}"#).await;
    let push = chat.recv().await.unwrap();
    assert_eq!(push.route(), "onChat");
    assert_eq!(push.json::<Value>().unwrap()["msg"], "😀");
    assert_eq!(seen.recv().await.unwrap()["msg"], "😀");
    assert_eq!(all.recv().await.unwrap().route(), "onAdd");
    assert_eq!(all.recv().await.unwrap().route(), "onChat");

    handler.off();
    peer.push("onChat", "1").await;
    assert_eq!(chat.recv().await.unwrap().body(), "1");
    assert!(seen.recv().await.is_none(), "the handler is gone");
}

#[tokio::test]
async fn nothing_is_missed_that_comes_with_the_handshake() {
    let (near, far) = tokio::io::duplex(1 << 16);
    let mut peer = support::Peer::new(far);
    let server = async {
        peer.expect(PackageType::Handshake).await;
        // In one write, before the ACK: the original drops it, others may not.
        let mut bytes = b"\x03\x00\x00\x00\x01\x00\x00\x15{\"code\":200,\"sys\":{}}".to_vec();
        bytes.extend_from_slice(b"\x04\x00\x00\x09\x06\x06onNews1");
        peer.io.write_all(&bytes).await.unwrap();
    };
    let builder = Client::builder();
    let (connected, ()) = tokio::join!(
        builder.connect_io(near, |client| client.subscribe("onNews")),
        server
    );
    let (_client, mut news) = connected.unwrap();
    assert_eq!(news.recv().await.unwrap().body(), "1");
}

/// Dictionary and schemas of the server, and a codec that speaks with them.
fn codec() -> Codec {
    let server = r#"{"onChat":{"required string msg":1},"chat.chatHandler.send":{"optional uInt32 code":1,"optional uInt32 n":2}}"#;
    let client = r#"{"chat.chatHandler.send":{"required uInt32 n":1}}"#;
    let protos = Protos::new(
        Schema::parse(server).unwrap(),
        Schema::parse(client).unwrap(),
    );
    Codec::new(
        CodecConfig::default()
            .dictionary(Arc::new(Dictionary::build([ROUTE], ["onChat"]).unwrap()))
            .protos(Arc::new(protos)),
    )
}

fn announcement(codec: &Codec) -> Value {
    let parsed = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    let dictionary = codec.config().dictionary.as_ref().unwrap();
    let protos = codec.config().protos.as_ref().unwrap();
    json!({"code": 200, "sys": {
        "dict": parsed(dictionary.json()),
        "routeToCode": parsed(dictionary.json()),
        "codeToRoute": parsed(dictionary.code_json()),
        "dictVersion": dictionary.version(),
        "useDict": true,
        "protos": {
            "server": parsed(protos.server_json()),
            "client": parsed(protos.client_json()),
            "version": protos.version(),
        },
        "useProto": true,
    }, "user": {"welcome": true}})
}

#[tokio::test]
async fn dictionary_and_schemas_both_ways_and_cached() {
    let codec = codec();
    let (client, mut peer) = pair(&Client::builder(), announcement(&codec)).await;
    assert_eq!(client.handshake_user().unwrap()["welcome"], true);
    exchange(&codec, &client, &mut peer).await;

    let kept = client.cache().to_json();
    let cache = HandshakeCache::from_json(&kept).unwrap();
    let (near, far) = tokio::io::duplex(1 << 16);
    let mut peer = support::Peer::new(far);
    let short = json!({"code": 200, "sys": {"useDict": true, "useProto": true}});
    let builder = Client::builder().cache(cache);
    let (client, said) = tokio::join!(builder.connect_io(near, |_| ()), peer.handshake(&short));
    let config = codec.config();
    let (dictionary, protos) = (config.dictionary.as_ref(), config.protos.as_ref());
    assert_eq!(said["sys"]["dictVersion"], dictionary.unwrap().version());
    assert_eq!(said["sys"]["protoVersion"], protos.unwrap().version());
    exchange(&codec, &client.unwrap().0, &mut peer).await;
}

/// One request, one push, one error: codes and protobuf on the wire, JSON at the client.
async fn exchange(
    codec: &Codec,
    client: &Client,
    peer: &mut support::Peer<tokio::io::DuplexStream>,
) {
    let mut chat = client.subscribe("onChat");
    let server = async {
        for answer in [r#"{"n":8}"#, r#"{"code":500}"#] {
            let request = peer.message().await;
            assert_eq!(request.route, WireRoute::Code(1));
            assert_eq!(&request.body[..], b"\x08\x07");
            let mut out = bytes::BytesMut::new();
            codec
                .encode_response(
                    Dialect::Pomelo,
                    request.id,
                    ROUTE,
                    answer.as_bytes(),
                    false,
                    &mut out,
                )
                .unwrap();
            peer.io.write_all(&out).await.unwrap();
        }
        let push = codec
            .encode_push(Dialect::Pomelo, "onChat", br#"{"msg":"hi"}"#)
            .unwrap();
        peer.io.write_all(&push).await.unwrap();
    };
    let client_side = async {
        let body = json!({"n": 7});
        let answer = client.request::<_, Sent>(ROUTE, &body).await;
        assert_eq!(answer.unwrap(), Sent { n: 8 });
        match client.request::<_, Value>(ROUTE, &body).await {
            Err(RequestError::Server(error)) => assert_eq!(error.code(), "500"),
            other => panic!("{other:?}"),
        }
        let wrong = client.request::<_, Value>(ROUTE, &json!({})).await;
        assert!(
            matches!(wrong, Err(RequestError::Encode(EncodeError::Protobuf(_)))),
            "{wrong:?}"
        );
        assert_eq!(chat.recv().await.unwrap().body(), r#"{"msg":"hi"}"#);
    };
    tokio::join!(server, client_side);
    assert_eq!(client.pending_requests(), 0);
}

#[tokio::test]
async fn pomelo_errors_are_a_matter_of_taste() {
    let body = r#"{"code":500,"error":true}"#;
    for (builder, is_error) in [
        (Client::builder(), true),
        (Client::builder().error_codes(|_| false), false),
    ] {
        let (client, mut peer) = pair(&builder, plain()).await;
        let server = async {
            for _ in 0..2 {
                let request = peer.message().await;
                peer.answer(request.id, body).await;
            }
        };
        let object = json!({});
        let (typed, raw, ()) = tokio::join!(
            client.request::<_, Value>(ROUTE, &object),
            client.request_raw(ROUTE, "{}"),
            server
        );
        assert_eq!(matches!(typed, Err(RequestError::Server(_))), is_error);
        assert_eq!(raw.unwrap(), body);
    }
}

#[tokio::test]
async fn pitaya_marks_errors_and_compresses() {
    let builder = Client::builder().dialect(Dialect::Pitaya);
    let answer = json!({"code": 200, "sys": {"dict": {ROUTE: 3}, "serializer": "json"}});
    let (client, mut peer) = pair(&builder, answer).await;
    let server = async {
        let request = peer.message().await;
        assert_eq!(request.route, WireRoute::Code(3));
        let body = r#"{"code":"PIT-404","msg":"no route","metadata":{"a":"b"}}"#;
        let mut error = response(request.id, body);
        error.error = true;
        peer.send_message(error).await;

        let request = peer.message().await;
        let mut deflated = response(request.id, deflate_zlib(br#"{"n":5,"code":500}"#));
        deflated.compressed = true;
        peer.send_message(deflated).await;

        let request = peer.message().await;
        let mut bomb = response(request.id, deflate_zlib(&vec![b' '; 2 << 20]));
        bomb.compressed = true;
        peer.send_message(bomb).await;
    };
    let client_side = async {
        match client.request::<_, Value>(ROUTE, &json!({})).await {
            Err(RequestError::Server(error)) => {
                assert_eq!((error.code(), error.message()), ("PIT-404", "no route"));
                assert_eq!(error.metadata("a"), Some("b"));
            }
            other => panic!("{other:?}"),
        }
        // `code` means nothing to Pitaya.
        let answer = client.request::<_, Sent>(ROUTE, &json!({})).await;
        assert_eq!(answer.unwrap(), Sent { n: 5 });
        let bomb = client.request::<_, Value>(ROUTE, &json!({})).await;
        assert!(matches!(bomb, Err(RequestError::Decode(_))), "{bomb:?}");
    };
    tokio::join!(server, client_side);
}

#[tokio::test]
async fn pitaya_with_protobuf_bodies_is_raw() {
    let builder = Client::builder().dialect(Dialect::Pitaya);
    let answer = json!({"code": 200, "sys": {"dict": {}, "serializer": "protobuf"}});
    let (client, mut peer) = pair(&builder, answer).await;
    let error = client.notify(ROUTE, &json!({})).await;
    assert_eq!(error, Err(NotifyError::Encode(EncodeError::NotJson)));
    let server = async {
        let request = peer.message().await;
        peer.answer(request.id, &request.body).await;
    };
    let body = Bytes::from_static(b"\x0a\x01\xff");
    let (answer, ()) = tokio::join!(client.request_raw(ROUTE, body.clone()), server);
    assert_eq!(answer.unwrap(), body);
}

#[tokio::test]
async fn signed_messages_can_be_verified() {
    let key = SigningKey::from_pkcs8_pem(include_str!("keys/rsa2048.pem")).unwrap();
    let (near, far) = tokio::io::duplex(1 << 16);
    let mut peer = support::Peer::new(far);
    let builder = Client::builder().signing_key(key);
    let answer = plain();
    let (client, said) = tokio::join!(builder.connect_io(near, |_| ()), peer.handshake(&answer));
    let rsa = &said["sys"]["rsa"];
    let public = RsaKey::from_handshake(
        rsa["rsa_n"].as_str().unwrap(),
        rsa["rsa_e"].as_u64().unwrap(),
    )
    .unwrap();
    let client = client.unwrap().0;
    client
        .notify(ROUTE, &json!({"msg": "你好", "n": 1.0}))
        .await
        .unwrap();
    let signed = peer.message().await;
    let text = public.verify_json(&signed.body, HashPolicy::Sha2).unwrap();
    assert_eq!(text, r#"{"msg":"你好","n":1}"#.as_bytes());
    let error = client.notify(ROUTE, &[1]).await;
    assert_eq!(error, Err(NotifyError::Encode(EncodeError::NotAnObject)));
}

#[tokio::test]
async fn what_servers_do_not_send_is_counted() {
    let (client, mut peer) = plain_pair().await;
    let mut all = client.subscribe_all();
    // A response without a request, a push with an unknown code, a request, a message of type 7.
    peer.answer(77, "{}").await;
    for kind in [MessageType::Push, MessageType::Request] {
        let message = Message::new(kind, 1, WireRoute::Code(9), Bytes::new());
        peer.send_message(message).await;
    }
    peer.send(PackageType::Data, b"\x0e\x01").await;
    peer.send(PackageType::Handshake, b"again").await;
    peer.push("onEnd", "1").await;
    assert_eq!(all.recv().await.unwrap().route(), "onEnd");
    let stats = client.stats();
    assert_eq!((stats.unreadable, stats.late_answers), (3, 1));
    assert!(all.try_recv().is_none());
}

#[tokio::test]
async fn a_panicking_handler_affects_no_other_message() {
    let (client, mut peer) = plain_pair().await;
    client.on("onChat", |_| async { panic!("expected by the test") });
    let mut chat = client.subscribe("onChat");
    for body in ["1", "2"] {
        peer.push("onChat", body).await;
        assert_eq!(chat.recv().await.unwrap().body(), body);
    }
    assert_eq!(client.close_kind(), None);
}
