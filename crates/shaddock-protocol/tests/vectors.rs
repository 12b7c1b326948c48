//! The golden vectors: bytes of the original implementations.
#![allow(
    clippy::unwrap_used,
    reason = "a helper of tests that cannot go on may panic"
)]

mod common;

use bytes::{Bytes, BytesMut};
use common::{Link, cases, codec, data, hex, packages, unhex, vectors};
use serde_json::Value;
use shaddock_protocol::{
    CodecConfig, ConnState, Dialect, DialectChoice, Dictionary, DictionaryError, Event, MAX_BODY,
    Message, MessageError, MessageType, PackageError, PackageReader, PackageType, Protos,
    RejectCode, Route, Schema, WireRoute, encode_package, inflate, utf8_of_client,
};
use std::sync::Arc;
use std::time::Duration;

fn kind_of_package(value: &Value) -> PackageType {
    PackageType::try_from(u8::try_from(value.as_u64().unwrap()).unwrap()).unwrap()
}

/// `bodyHex`, or `bodyFill`: so many copies of a byte.
fn body(value: &Value) -> Vec<u8> {
    match &value["bodyFill"] {
        Value::Null => unhex(value["bodyHex"].as_str().unwrap()),
        fill => fill_of(fill),
    }
}

fn fill_of(fill: &Value) -> Vec<u8> {
    let count = usize::try_from(fill["count"].as_u64().unwrap()).unwrap();
    vec![unhex(fill["byte"].as_str().unwrap())[0]; count]
}

#[test]
fn package_vectors() {
    for case in cases("packages") {
        let inputs = match &case["input"] {
            Value::Array(list) => list.clone(),
            one => vec![one.clone()],
        };
        let mut expected = unhex(case["hex"].as_str().unwrap());
        if !case["tail"].is_null() {
            expected.extend(fill_of(&case["tail"]));
        }
        let mut encoded = Vec::new();
        let mut list = Vec::new();
        for input in &inputs {
            let (kind, body) = (kind_of_package(&input["type"]), body(input));
            encoded.extend_from_slice(&encode_package(kind, &body).unwrap());
            list.push((kind, body));
        }
        assert!(encoded == expected, "{}", case["name"]);
        // Whole, and in pieces of a few sizes.
        for size in [expected.len(), 1, 3, 4, 5, 4096] {
            if expected.len() / size > 100_000 {
                continue;
            }
            let mut reader = PackageReader::new();
            let mut read = Vec::new();
            for piece in expected.chunks(size) {
                let mut input = Bytes::copy_from_slice(piece);
                while let Some(package) = reader.next(&mut input, MAX_BODY).unwrap() {
                    read.push((package.kind, package.body.to_vec()));
                }
            }
            assert!(!reader.is_mid_package());
            assert!(read == list, "{} in pieces of {size}", case["name"]);
        }
    }
}

fn kind_of_message(value: &Value) -> Option<MessageType> {
    Some(match value.as_u64().unwrap() {
        0 => MessageType::Request,
        1 => MessageType::Notify,
        2 => MessageType::Response,
        3 => MessageType::Push,
        _ => return None,
    })
}

fn is_set(value: &Value) -> bool {
    value.as_u64() == Some(1) || value.as_bool() == Some(true)
}

#[test]
fn message_vectors() {
    for case in cases("messages") {
        let name = &case["name"];
        let input = &case["input"];
        let kind = kind_of_message(&input["type"]).unwrap();
        let route = match (kind, &input["route"]) {
            (MessageType::Response, _) => WireRoute::None,
            (_, Value::Number(code)) => {
                WireRoute::Code(u16::try_from(code.as_u64().unwrap()).unwrap())
            }
            (_, text) => WireRoute::Name(Bytes::from(text.as_str().unwrap().to_owned())),
        };
        let mut message = Message::new(
            kind,
            input["id"].as_u64().unwrap(),
            route,
            body(input).into(),
        );
        message.compressed = is_set(&input["compressGzip"]);
        let bytes = unhex(case["hex"].as_str().unwrap());
        assert_eq!(
            Message::decode(bytes.clone().into()).as_ref(),
            Ok(&message),
            "{name}"
        );

        let mut encoded = BytesMut::new();
        message.encode(&mut encoded).unwrap();
        // On responses bit 0 has no meaning: the original may set it, shaddock writes 0.
        let mut expected = bytes;
        if kind == MessageType::Response {
            expected[0] &= !1;
        }
        assert_eq!(hex(&encoded), hex(&expected), "{name}");
    }
}

#[test]
fn pitaya_vectors() {
    for case in cases("pitaya-messages") {
        let name = case["name"].as_str().unwrap();
        let bytes = case["hex"].as_str().map(unhex);
        match case["op"].as_str().unwrap() {
            "both" => pitaya_message(name, &case["input"], &bytes.unwrap()),
            "decode" => assert!(Message::decode(bytes.unwrap().into()).is_err(), "{name}"),
            "packet-decode" => pitaya_packet(name, &case, &bytes.unwrap()),
            "packet-encode" if case["error"].is_null() => {
                let kind = kind_of_package(&case["input"]["type"]);
                let encoded = encode_package(kind, &body(&case["input"])).unwrap();
                assert_eq!(hex(&encoded), hex(&bytes.unwrap()), "{name}");
            }
            "packet-encode" if case["input"]["bodyFill"].is_null() => {
                let kind = u8::try_from(case["input"]["type"].as_u64().unwrap()).unwrap();
                assert_eq!(
                    PackageType::try_from(kind),
                    Err(PackageError::UnknownType(kind))
                );
            }
            "packet-encode" => {
                let body = body(&case["input"]);
                assert!(encode_package(PackageType::Data, &body).is_err(), "{name}");
            }
            "encode" => assert!(kind_of_message(&case["input"]["type"]).is_none(), "{name}"),
            "dictionary" => pitaya_dictionary(&case),
            other => panic!("{name}: {other}"),
        }
    }
}

fn pitaya_message(name: &str, input: &Value, bytes: &[u8]) {
    let kind = kind_of_message(&input["type"]).unwrap();
    let text = input["route"].as_str().unwrap();
    let route = match (kind, input["dictionary"].get(text)) {
        (MessageType::Response, _) => WireRoute::None,
        (_, Some(code)) => WireRoute::Code(u16::try_from(code.as_u64().unwrap()).unwrap()),
        (_, None) => WireRoute::Name(Bytes::from(text.to_owned())),
    };
    let plain = unhex(input["dataHex"].as_str().unwrap());
    let mut message = Message::new(kind, input["id"].as_u64().unwrap(), route, plain.into());
    message.error = is_set(&input["err"]);
    message.compressed = is_set(&input["compressData"]);
    let mut decoded = Message::decode(Bytes::copy_from_slice(bytes)).unwrap();
    if decoded.compressed {
        decoded.body = inflate(&decoded.body, 1 << 16).unwrap().into();
        assert_eq!(decoded, message, "{name}");
    } else {
        assert_eq!(decoded, message, "{name}");
        let mut encoded = BytesMut::new();
        message.encode(&mut encoded).unwrap();
        assert_eq!(hex(&encoded), hex(bytes), "{name}");
    }
}

fn pitaya_packet(name: &str, case: &Value, bytes: &[u8]) {
    let mut input = Bytes::copy_from_slice(bytes);
    let mut reader = PackageReader::new();
    let mut read = Vec::new();
    let end = loop {
        match reader.next(&mut input, MAX_BODY) {
            Ok(Some(package)) => read.push(package),
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    assert_eq!(end.is_err(), !case["error"].is_null(), "{name}");
    let expected = case["packets"].as_array().cloned().unwrap_or_default();
    assert_eq!(read.len(), expected.len(), "{name}");
    for (package, expected) in read.iter().zip(&expected) {
        assert_eq!(package.kind, kind_of_package(&expected["type"]), "{name}");
        assert_eq!(package.body, body(expected), "{name}");
    }
}

/// Each element of the input adds its entries to the dictionary.
fn pitaya_dictionary(case: &Value) {
    let steps = case["input"].as_array().unwrap();
    let entries = steps.iter().flat_map(|step| step.as_object().unwrap());
    let entries =
        entries.map(|(route, code)| (route, u16::try_from(code.as_u64().unwrap()).unwrap()));
    let error = Dictionary::with_codes(entries).unwrap_err();
    assert!(matches!(error, DictionaryError::Duplicate { .. }));
    let text = error.to_string().replace("route (", "route(");
    assert_eq!(text, case["error"].as_str().unwrap());
}

#[test]
fn dictionary_vectors() {
    for case in cases("dictionary") {
        let name = &case["name"];
        let user: Vec<&str> = match case["input"]["userDictionary"].as_array() {
            Some(list) => list.iter().map(|route| route.as_str().unwrap()).collect(),
            None => Vec::new(),
        };
        let handlers = handler_routes(&case, &user);
        let dictionary = Dictionary::build(&handlers, &user).unwrap();
        assert_eq!(
            dictionary.json(),
            case["dictJson"].as_str().unwrap(),
            "{name}"
        );
        assert_eq!(
            dictionary.version(),
            case["version"].as_str().unwrap(),
            "{name}"
        );
        let codes = case["dict"].as_object().unwrap();
        assert_eq!(dictionary.len(), codes.len(), "{name}");
        for (route, code) in codes {
            assert_eq!(
                dictionary.code(route).map(u64::from),
                code.as_u64(),
                "{name}"
            );
        }
        let routes = case["abbrs"].as_object().unwrap();
        assert_eq!(dictionary.iter().count(), routes.len(), "{name}");
        for (code, route) in routes {
            let found = dictionary.route(code.parse().unwrap()).map(Route::as_str);
            assert_eq!(found, route.as_str(), "{name}");
        }
        assert_eq!(
            serde_json::from_str::<Value>(dictionary.code_json()).unwrap(),
            case["abbrs"],
            "{name}"
        );
    }
}

/// Handlers given as lists of methods. Where the vector has a piece of JavaScript, what the original found in it.
fn handler_routes(case: &Value, user: &[&str]) -> Vec<String> {
    let mut routes = Vec::new();
    for (kind, handlers) in case["input"]["handlers"].as_object().unwrap() {
        for (handler, methods) in handlers.as_object().unwrap() {
            match methods.as_array() {
                Some(methods) => routes.extend(
                    methods
                        .iter()
                        .map(|method| format!("{kind}.{handler}.{}", method.as_str().unwrap())),
                ),
                None => routes.extend(
                    case["dict"]
                        .as_object()
                        .unwrap()
                        .keys()
                        .filter(|key| !user.contains(&key.as_str()))
                        .cloned(),
                ),
            }
        }
    }
    routes.reverse();
    routes
}

#[test]
fn handshake_vectors() {
    for case in cases("handshake") {
        let (name, options) = (&case["name"], &case["options"]);
        let protos = is_set(&options["useProtobuf"])
            .then(handshake_protos)
            .map(Arc::new);
        let version = protos
            .as_ref()
            .map_or("", |protos| protos.version())
            .to_owned();
        let dictionary = Dictionary::build(
            ["connector.entryHandler.entry", "chat.chatHandler.send"],
            ["onChat"],
        );
        let config = CodecConfig::default()
            .heartbeat(options["heartbeat"].as_f64().map(Duration::from_secs_f64))
            .dictionary(is_set(&options["useDict"]).then(|| Arc::new(dictionary.unwrap())))
            .crypto(is_set(&options["useCrypto"]).then(Default::default))
            .protos(protos);
        let mut link = Link::new(config);
        // The version in the vectors is made up: `v1` stands for whatever the schemas hash to.
        let input = case["input"]
            .as_str()
            .unwrap_or_default()
            .replace("\"v1\"", &format!("\"{version}\""));
        let fed = link.feed(&common::handshake(&input));
        match fed.as_deref() {
            Ok([Event::Handshake(_)]) => {
                if options["checkClient"].as_bool() == Some(false) {
                    link.conn.reject(RejectCode::OldClient, &mut link.out);
                } else if is_set(&options["userError"]) {
                    link.conn.reject(RejectCode::Failed, &mut link.out);
                } else {
                    let user = options.get("userResponse");
                    link.conn.accept(link.now, user, &mut link.out).unwrap();
                }
            }
            Ok(other) => panic!("{name}: {other:?}"),
            Err(_) => {}
        }
        let closes = link.conn.state() == ConnState::Closed;
        assert_eq!(closes, case["closes"].as_bool().unwrap(), "{name}");
        assert!(fed.is_ok() || closes, "{name}");

        let response = case["response"].as_str().unwrap();
        let expected = response.replace("\"v1\"", &format!("\"{version}\""));
        if version.is_empty() {
            assert_eq!(hex(&link.out), case["hex"].as_str().unwrap(), "{name}");
        }
        assert_eq!(
            link.written_text(),
            [(PackageType::Handshake, expected)],
            "{name}"
        );
    }
}

fn handshake_protos() -> Protos {
    let everything = cases("handshake")
        .into_iter()
        .find(|case| case["name"] == "protobuf")
        .unwrap();
    let answer: Value = serde_json::from_str(everything["response"].as_str().unwrap()).unwrap();
    let schema =
        |side: &str| Schema::from_parsed(&answer["sys"]["protos"][side].to_string()).unwrap();
    Protos::new(schema("server"), schema("client"))
}

#[test]
fn browser_string_vectors() {
    let codec = codec(CodecConfig::default());
    for case in cases("browser-strings") {
        let units: Vec<u16> = case["input"]["utf16"]
            .as_array()
            .unwrap()
            .iter()
            .map(|unit| u16::try_from(unit.as_u64().unwrap()).unwrap())
            .collect();
        let text = String::from_utf16_lossy(&units);
        let sent = Bytes::from(unhex(case["hex"].as_str().unwrap()));
        assert_eq!(utf8_of_client(sent), text.as_bytes(), "{}", case["name"]);

        // Towards the client: as JSON, read by the browser's decoder.
        let json = serde_json::to_string(&text).unwrap();
        let push = codec
            .encode_push(Dialect::Pomelo, "onChat", json.as_bytes())
            .unwrap();
        let message = Message::decode(packages(&push)[0].body.clone()).unwrap();
        let seen: String = String::from_utf16_lossy(&browser_reads(&message.body));
        assert_eq!(
            serde_json::from_str::<String>(&seen).unwrap(),
            text,
            "{}",
            case["name"]
        );
    }
}

/// The decoder of browser clients: one to three bytes make one unit, and nothing else is known.
fn browser_reads(bytes: &[u8]) -> Vec<u16> {
    let mut units = Vec::new();
    let mut rest = bytes;
    while let [first, tail @ ..] = rest {
        let (unit, taken) = match (*first, tail) {
            (0..=0x7f, _) => (u16::from(*first), 0),
            (0x80..=0xdf, [second, ..]) => {
                (u16::from(first & 0x3f) << 6 | u16::from(second & 0x3f), 1)
            }
            (_, [second, third, ..]) => (
                u16::from(first & 15) << 12
                    | u16::from(second & 0x3f) << 6
                    | u16::from(third & 0x3f),
                2,
            ),
            _ => panic!("cut"),
        };
        units.push(unit);
        rest = &tail[taken..];
    }
    units
}

#[test]
fn malformed_vectors() {
    for case in cases("malformed") {
        let Some(bytes) = case["hex"].as_str().map(unhex) else {
            continue;
        };
        match case["op"].as_str().unwrap() {
            "Package.decode" | "pinus Package.decode" => {
                let mut reader = PackageReader::new();
                let mut input = Bytes::from(bytes);
                while let Ok(Some(_)) = reader.next(&mut input, 1 << 16) {}
            }
            "Message.decode" => malformed_message(&case, &bytes),
            // Protobuf has its own test of these.
            _ => {}
        }
    }
}

/// Where the original throws, decoding fails; and no connection dies of anything but a reason.
fn malformed_message(case: &Value, bytes: &[u8]) {
    let decoded = Message::decode(Bytes::copy_from_slice(bytes));
    let name = case["name"].as_str().unwrap();
    if !case["throws"].is_null() {
        assert!(decoded.is_err(), "{name}: {decoded:?}");
    }
    if name.starts_with("type ") {
        assert!(
            matches!(decoded, Err(MessageError::InvalidType(4..=7))),
            "{name}"
        );
    }
    for dialect in [DialectChoice::Pomelo, DialectChoice::Pitaya] {
        let config = CodecConfig::default().dialect(dialect);
        let mut link = Link::open(config, common::POMELO);
        let fed = link.feed(&data(bytes));
        assert_eq!(
            fed.is_err(),
            link.conn.state() == ConnState::Closed,
            "{name}"
        );
    }
}

#[test]
fn ids_that_do_not_fit() {
    let id = |hex: &str| Message::decode(unhex(hex).into()).map(|message| message.id);
    assert_eq!(id("04ffffffffffffffffff01"), Ok(u64::MAX));
    assert_eq!(id("04ffffffffffffffffff02"), Err(MessageError::IdOverflow));
    assert_eq!(
        id("04ffffffffffffffffffff01"),
        Err(MessageError::IdOverflow)
    );
    assert_eq!(id("0481808080808080808000"), Ok(1));
    assert_eq!(
        id("048180808080808080808000"),
        Err(MessageError::IdOverflow)
    );
    assert_eq!(id("04808080"), Err(MessageError::IdCut));
}

/// Every file of vectors that is this crate's has a test here or in the module it belongs to.
#[test]
fn no_file_is_empty() {
    for name in [
        "packages",
        "messages",
        "dictionary",
        "handshake",
        "browser-strings",
        "pitaya-messages",
        "malformed",
    ] {
        assert!(
            vectors(name)["cases"]
                .as_array()
                .is_some_and(|cases| cases.len() > 5),
            "{name}"
        );
    }
}
