//! Messages to clients: pushes, responses, kicks and errors, in both dialects.
#![allow(
    clippy::unwrap_used,
    reason = "a helper of tests that cannot go on may panic"
)]

mod common;

use bytes::{Bytes, BytesMut};
use common::{cases, codec, packages, unhex, vectors};
use shaddock_protocol::{
    BrowserClients, Codec, CodecConfig, Dialect, Dictionary, EncodeError, MAX_BODY, MAX_ROUTE_LEN,
    Message, MessageError, MessageType, PackageType, PitayaSerializer, Protos, RefuseReason, Route,
    Schema, Variant, WireRoute, inflate,
};
use std::sync::Arc;

const DIALECTS: [Dialect; 2] = [Dialect::Pomelo, Dialect::Pitaya];

/// The one message in the one DATA package.
fn message(bytes: &[u8]) -> Message {
    let packages = packages(bytes);
    assert_eq!(packages.len(), 1);
    assert_eq!(packages[0].kind, PackageType::Data);
    Message::decode(packages[0].body.clone()).unwrap()
}

fn push(codec: &Codec, dialect: Dialect, route: &str, json: &[u8]) -> Message {
    message(&codec.encode_push(dialect, route, json).unwrap())
}

fn respond(codec: &Codec, dialect: Dialect, route: &str, json: &[u8], error: bool) -> Message {
    let mut out = BytesMut::new();
    codec
        .encode_response(dialect, 300, route, json, error, &mut out)
        .unwrap();
    message(&out)
}

fn with_dictionary() -> CodecConfig {
    let dictionary = Dictionary::build(["a.b.c"], ["onChat"]).unwrap();
    CodecConfig::default().dictionary(Arc::new(dictionary))
}

#[test]
fn pushes_are_compressed_by_route_for_pomelo_only() {
    let codec = codec(with_dictionary());
    let short = push(&codec, Dialect::Pomelo, "onChat", b"{}");
    assert_eq!(
        (short.kind, short.route),
        (MessageType::Push, WireRoute::Code(2))
    );
    for (dialect, route) in [(Dialect::Pomelo, "onOther"), (Dialect::Pitaya, "onChat")] {
        let named = push(&codec, dialect, route, b"{}");
        assert_eq!(named.route, WireRoute::Name(Bytes::from(route)));
    }
}

#[test]
fn responses_have_id_and_body_and_nothing_else() {
    let codec = codec(with_dictionary());
    for dialect in DIALECTS {
        let mut out = BytesMut::from(&b"before"[..]);
        codec
            .encode_response(dialect, 300, "a.b.c", b"{\"a\":1}", false, &mut out)
            .unwrap();
        assert_eq!(&out[..], b"before\x04\x00\x00\x0a\x04\xac\x02{\"a\":1}");
    }
}

#[test]
fn the_error_flag_is_pitayas() {
    let codec = codec(CodecConfig::default());
    assert!(!respond(&codec, Dialect::Pomelo, "a.b.c", b"{}", true).error);
    assert!(respond(&codec, Dialect::Pitaya, "a.b.c", b"{}", true).error);
    assert!(!respond(&codec, Dialect::Pitaya, "a.b.c", b"{}", false).error);
}

#[test]
fn pomelo_bodies_are_never_empty() {
    let codec = codec(CodecConfig::default());
    assert_eq!(
        codec.encode_push(Dialect::Pomelo, "onChat", b""),
        Err(EncodeError::EmptyBody)
    );
    assert_eq!(
        &respond(&codec, Dialect::Pomelo, "a.b.c", b"", false).body[..],
        b"{}"
    );
    assert!(push(&codec, Dialect::Pitaya, "onChat", b"").body.is_empty());
    assert!(
        respond(&codec, Dialect::Pitaya, "a.b.c", b"", false)
            .body
            .is_empty()
    );
}

#[test]
fn characters_outside_the_bmp_are_escaped_for_pomelo_only() {
    let codec = codec(CodecConfig::default());
    let json = "{\"m\":\"中😀b\"}".as_bytes();
    let escaped = "{\"m\":\"中\\ud83d\\ude00b\"}".as_bytes();
    assert_eq!(push(&codec, Dialect::Pomelo, "on", json).body, escaped);
    assert_eq!(
        respond(&codec, Dialect::Pomelo, "a.b.c", json, false).body,
        escaped
    );
    assert_eq!(push(&codec, Dialect::Pitaya, "on", json).body, json);
    assert_eq!(
        respond(&codec, Dialect::Pitaya, "a.b.c", json, false).body,
        json
    );
}

#[test]
fn what_cannot_be_written_is_an_error_and_leaves_no_trace() {
    let codec = codec(CodecConfig::default());
    let mut out = BytesMut::from(&b"before"[..]);
    for dialect in DIALECTS {
        let long = "r".repeat(MAX_ROUTE_LEN + 1);
        let error = codec.put_push(dialect, &long, b"{}", &mut out).unwrap_err();
        assert_eq!(error, EncodeError::Route(MessageError::RouteTooLong(256)));
        assert_eq!(
            push(&codec, dialect, &long[1..], b"{}").route,
            WireRoute::Name(Bytes::from(long[1..].to_owned()))
        );

        let huge = vec![b'1'; MAX_BODY - 1];
        let error = codec
            .encode_response(dialect, 1, "a.b.c", &huge, false, &mut out)
            .unwrap_err();
        assert!(matches!(error, EncodeError::TooLarge(_)), "{error}");
        let error = codec.put_push(dialect, "on", &huge, &mut out).unwrap_err();
        assert!(matches!(error, EncodeError::TooLarge(_)), "{error}");
        assert_eq!(&out[..], b"before");
        assert_eq!(
            respond(&codec, dialect, "", &huge[3..], false).body.len(),
            MAX_BODY - 4
        );
    }
}

#[test]
fn a_long_route_with_a_code_can_be_pushed() {
    let long = "r".repeat(MAX_ROUTE_LEN + 1);
    let dictionary = Dictionary::build([""; 0], [&long]).unwrap();
    let codec = codec(CodecConfig::default().dictionary(Arc::new(dictionary)));
    assert_eq!(
        push(&codec, Dialect::Pomelo, &long, b"{}").route,
        WireRoute::Code(1)
    );
}

#[test]
fn schemas_of_the_server_are_for_what_pomelo_clients_receive() {
    let server = r#"{"a.b.c":{"required uInt32 n":1},"onX":{"optional string m":1}}"#;
    let protos = Protos::new(Schema::parse(server).unwrap(), Schema::parse("{}").unwrap());
    let codec = codec(CodecConfig::default().protos(Arc::new(protos)));
    assert_eq!(
        &push(&codec, Dialect::Pomelo, "onX", "{\"m\":\"😀\"}".as_bytes()).body[..],
        b"\x0a\x04\xf0\x9f\x98\x80"
    );
    assert_eq!(
        &respond(&codec, Dialect::Pomelo, "a.b.c", b"{\"n\":7}", false).body[..],
        b"\x08\x07"
    );
    assert_eq!(
        &respond(&codec, Dialect::Pitaya, "a.b.c", b"{\"n\":7}", false).body[..],
        b"{\"n\":7}"
    );

    let mut out = BytesMut::new();
    let missing = codec.encode_response(
        Dialect::Pomelo,
        1,
        "a.b.c",
        b"{\"code\":200}",
        false,
        &mut out,
    );
    assert!(
        matches!(missing, Err(EncodeError::Protobuf(_))),
        "{missing:?}"
    );
    assert!(out.is_empty());
    // The error that follows has no place in the schema either. It is an answer all the same.
    let error = codec.error_body(Dialect::Pomelo, "PIT-500", "", &[]);
    assert_eq!(
        respond(&codec, Dialect::Pomelo, "a.b.c", &error, true).body,
        Bytes::new()
    );
}

/// Everything that a browser reads without JSON's escapes: strings of schemas, also as keys of maps, and routes.
#[test]
fn browsers_read_emoji_in_schemas_and_routes() {
    let server = r#"{
        "onX": {"optional string m": 1, "repeated string all": 2},
        "a.b.c": {"optional string m": 1},
        "on😀": {"optional string m": 1}
    }"#;
    let protos = Protos::new(Schema::parse(server).unwrap(), Schema::parse("{}").unwrap());
    let codec = codec(CodecConfig::default().protos(Arc::new(protos)));
    let read = |variant, route, json: &str| {
        let bytes = codec.encode_push(variant, route, json.as_bytes());
        message(&bytes.unwrap())
    };
    // As Pomelo's own browser client writes them, and so reads them.
    for case in cases("browser-strings") {
        let units: Vec<u16> = serde_json::from_value(case["input"]["utf16"].clone()).unwrap();
        let Ok(text) = String::from_utf16(&units) else {
            continue;
        };
        let browser = unhex(case["hex"].as_str().unwrap());
        let plain = text.as_bytes();
        let json = serde_json::json!({ "m": text }).to_string();
        for (variant, bytes) in [(Variant::Browser, &browser[..]), (Variant::Pomelo, plain)] {
            let body = read(variant, "onX", &json).body;
            let expected = [&[0x0a, u8::try_from(bytes.len()).unwrap()], bytes].concat();
            assert_eq!(body, expected, "{text}");
            let mut out = BytesMut::new();
            codec
                .encode_response(variant, 1, "a.b.c", json.as_bytes(), false, &mut out)
                .unwrap();
            assert_eq!(message(&out).body, expected, "{text}");
        }
        // Without a schema all are escaped, and nothing is written twice.
        let [one, other] = [Variant::Browser, Variant::Pomelo]
            .map(|variant| codec.encode_push(variant, "onY", json.as_bytes()).unwrap());
        assert_eq!(one, other);
        assert!(!codec.differs_for_browsers("onY", json.as_bytes()));
        if browser != plain {
            assert!(codec.differs_for_browsers("onX", json.as_bytes()));
            let escaped = shaddock_protocol::escape_non_bmp(json.as_bytes());
            assert!(codec.differs_for_browsers("onX", &escaped));
        }
    }
    let all = read(Variant::Browser, "onX", r#"{"all":["a😀","\ud83d\ude00"]}"#).body;
    assert_eq!(
        &all[..],
        b"\x12\x07a\xed\xa0\xbd\xed\xb8\x80\x12\x06\xed\xa0\xbd\xed\xb8\x80"
    );
    assert!(codec.differs_for_browsers("on😀", b"{}"));
    let browser = read(Variant::Browser, "on😀", "{}").route;
    assert_eq!(
        browser,
        WireRoute::Name(Bytes::from_static(b"on\xed\xa0\xbd\xed\xb8\x80"))
    );
    let plain = read(Variant::Pomelo, "on😀", "{}").route;
    assert_eq!(plain, WireRoute::Name(Bytes::from("on😀")));
}

#[test]
fn browsers_are_recognised_by_their_handshake() {
    let codec_of = |kinds: &[&str]| {
        codec(CodecConfig::default().browser_clients(BrowserClients(
            kinds.iter().map(|&kind| kind.to_owned()).collect(),
        )))
    };
    let default = codec(CodecConfig::default());
    for (codec, dialect, kind, variant) in [
        (
            &default,
            Dialect::Pomelo,
            Some("js-websocket"),
            Variant::Browser,
        ),
        (
            &default,
            Dialect::Pomelo,
            Some("unity-socket"),
            Variant::Pomelo,
        ),
        (&default, Dialect::Pomelo, None, Variant::Pomelo),
        (
            &default,
            Dialect::Pitaya,
            Some("js-websocket"),
            Variant::Pitaya,
        ),
        (
            &codec_of(&[]),
            Dialect::Pomelo,
            Some("js-websocket"),
            Variant::Pomelo,
        ),
        (
            &codec_of(&["cocos", "h5"]),
            Dialect::Pomelo,
            Some("h5"),
            Variant::Browser,
        ),
    ] {
        assert_eq!(codec.variant(dialect, kind), variant, "{dialect} {kind:?}");
    }
}

#[test]
fn pitaya_bodies_are_deflated_where_that_helps() {
    let codec = codec(CodecConfig::default().compress_pitaya(true));
    let long = [b"{\"m\":\"".to_vec(), vec![b'a'; 500], b"\"}".to_vec()].concat();
    for message in [
        push(&codec, Dialect::Pitaya, "on", &long),
        respond(&codec, Dialect::Pitaya, "a.b", &long, true),
    ] {
        assert!(message.compressed && message.body.len() < long.len());
        assert_eq!(inflate(&message.body, 1 << 16).unwrap(), long);
        assert_eq!(message.error, message.kind == MessageType::Response);
    }
    let short = push(&codec, Dialect::Pitaya, "on", b"{}");
    assert!(!short.compressed && &short.body[..] == b"{}");
    assert!(!push(&codec, Dialect::Pomelo, "on", &long).compressed);
}

#[test]
fn kicks_carry_their_reason_as_json() {
    let codec = codec(CodecConfig::default());
    for (reason, expected) in [
        ("kick", "{\"reason\":\"kick\"}"),
        ("", "{\"reason\":\"\"}"),
        ("a\"\\\n😀", "{\"reason\":\"a\\\"\\\\\\n\\ud83d\\ude00\"}"),
    ] {
        let packages = packages(&codec.encode_kick(reason));
        assert_eq!(packages.len(), 1);
        assert_eq!(packages[0].kind, PackageType::Kick);
        assert_eq!(packages[0].body, expected);
    }
    let huge = packages(&codec.encode_kick(&"r".repeat(MAX_BODY)));
    assert_eq!(huge[0].body, "{\"reason\":\"\"}");
}

#[test]
fn errors_of_pitaya_are_those_of_the_vectors() {
    let codec = codec(CodecConfig::default());
    for case in vectors("cluster")["client_errors"].as_array().unwrap() {
        let body: serde_json::Value =
            serde_json::from_str(case["body_json"].as_str().unwrap()).unwrap();
        let mut metadata: Vec<(&str, &str)> = Vec::new();
        if let Some(members) = body["metadata"].as_object() {
            metadata.extend(
                members
                    .iter()
                    .map(|(key, value)| (key.as_str(), value.as_str().unwrap())),
            );
            metadata.reverse();
        }
        let (code, text) = (
            body["code"].as_str().unwrap(),
            body["msg"].as_str().unwrap(),
        );
        let body = codec.error_body(Dialect::Pitaya, code, text, &metadata);
        assert_eq!(body, case["body_json"].as_str().unwrap());
        let mut out = BytesMut::new();
        let id = case["request_id"].as_u64().unwrap();
        codec
            .encode_response(Dialect::Pitaya, id, "", &body, true, &mut out)
            .unwrap();
        assert_eq!(
            packages(&out)[0].body,
            unhex(case["client_message_hex"].as_str().unwrap())
        );
    }
}

#[test]
fn error_bodies() {
    let json = codec(CodecConfig::default());
    assert_eq!(
        json.error_body(Dialect::Pomelo, "PIT-404", "x", &[("a", "b")]),
        "{\"code\":500}"
    );
    assert_eq!(json.error_body(Dialect::Pitaya, "", "", &[]), "{}");
    let pitaya_serializer = PitayaSerializer::Protobuf;
    let protobuf = codec(CodecConfig::default().pitaya_serializer(pitaya_serializer));
    let body = protobuf.error_body(
        Dialect::Pitaya,
        "PIT-404",
        &"m".repeat(200),
        &[("k", "v"), ("a", "")],
    );
    let expected = [
        b"\x0a\x07PIT-404\x12\xc8\x01",
        "m".repeat(200).as_bytes(),
        b"\x1a\x03\x0a\x01a\x1a\x06\x0a\x01k\x12\x01v",
    ]
    .concat();
    assert_eq!(body, expected);
}

#[test]
fn refusals() {
    let codec = codec(CodecConfig::default());
    let route = Route::from("join");
    let refusal = |dialect, reason| {
        let mut out = BytesMut::new();
        codec.put_refusal(dialect, 9, Some(&route), reason, &mut out);
        message(&out)
    };
    let pomelo = refusal(Dialect::Pomelo, RefuseReason::BadRoute);
    assert_eq!(
        (pomelo.id, pomelo.error, &pomelo.body[..]),
        (9, false, &b"{\"code\":500}"[..])
    );
    let pitaya = refusal(Dialect::Pitaya, RefuseReason::BadRoute);
    assert_eq!((pitaya.id, pitaya.error), (9, true));
    assert_eq!(
        pitaya.body,
        "{\"code\":\"PIT-400\",\"msg\":\"invalid route\"}"
    );
    let blank = refusal(Dialect::Pitaya, RefuseReason::BlankRoute);
    assert_eq!(
        blank.body,
        "{\"code\":\"PIT-400\",\"msg\":\"route field can not be empty\"}"
    );
}

/// Routes as the cluster's vectors cut them.
#[test]
fn parts_of_routes() {
    for case in vectors("cluster")["routes"].as_array().unwrap() {
        if !case["error"].is_null() {
            continue;
        }
        let route = Route::from(case["route"].as_str().unwrap());
        assert_eq!(route.server_type().unwrap_or_default(), case["type"]);
        assert_eq!(route.handler().unwrap(), case["service"]);
        assert_eq!(route.method().unwrap(), case["method"]);
        assert_eq!(route.short().unwrap(), case["short"]);
    }
    assert!(cases("messages").len() > 100);
}
