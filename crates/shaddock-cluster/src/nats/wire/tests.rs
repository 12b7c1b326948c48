//! Golden bytes of `vectors/cluster.json`.

use serde_json::Value;

use super::*;
use crate::info::is_name;
use crate::nats::subject;
use crate::tests::vectors::{hex, vectors};
use crate::uid::is_plain;
use crate::{format_duration, parse_duration};

fn text(fields: &Value, key: &str) -> String {
    fields[key].as_str().unwrap_or_default().to_owned()
}

fn bytes(fields: &Value, key: &str) -> Bytes {
    match &fields[key] {
        Value::Null => Bytes::new(),
        value => match value["hex"].as_str() {
            Some(digits) => hex(digits),
            None => value["text"].as_str().unwrap().to_owned().into(),
        },
    }
}

fn number(fields: &Value, key: &str) -> i64 {
    fields[key]
        .as_str()
        .map_or_else(|| fields[key].as_i64().unwrap_or(0), |n| n.parse().unwrap())
}

fn unsigned(fields: &Value, key: &str) -> u64 {
    fields[key]
        .as_str()
        .map_or_else(|| fields[key].as_u64().unwrap_or(0), |n| n.parse().unwrap())
}

fn session(f: &Value) -> Session {
    Session {
        id: number(f, "id"),
        uid: text(f, "uid"),
        data: bytes(f, "data"),
    }
}

fn enumeration(f: &Value, names: &[&str]) -> i32 {
    match f {
        Value::Null => 0,
        Value::Number(n) => i32::try_from(n.as_i64().unwrap()).unwrap(),
        name => i32::try_from(
            names
                .iter()
                .position(|n| *n == name.as_str().unwrap())
                .unwrap(),
        )
        .unwrap(),
    }
}

fn request(f: &Value) -> Request {
    let msg = |m: &Value| Msg {
        id: unsigned(m, "id"),
        route: text(m, "route"),
        data: bytes(m, "data"),
        reply: text(m, "reply"),
        r#type: enumeration(
            &m["type"],
            &["MsgRequest", "MsgNotify", "MsgResponse", "MsgPush"],
        ),
    };
    Request {
        r#type: enumeration(&f["type"], &["Sys", "User"]),
        session: f.get("session").map(session),
        msg: f.get("msg").map(msg),
        frontend_id: text(f, "frontendID"),
        metadata: bytes(f, "metadata"),
        stamp: None,
    }
}

fn response(f: &Value) -> Response {
    let error = |e: &Value| Error {
        code: text(e, "code"),
        msg: text(e, "msg"),
        metadata: e["metadata"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(k, v)| (k.clone(), v.as_str().unwrap().to_owned()))
            .collect(),
    };
    Response {
        data: bytes(f, "data"),
        error: f.get("error").map(error),
    }
}

/// Same bytes both ways; maps are compared decoded, their order is free.
fn check<M: Message + Default + PartialEq + std::fmt::Debug>(
    name: &str,
    wire: &Bytes,
    expected: &M,
    exact: bool,
) {
    let decoded = M::decode(wire.clone()).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(&decoded, expected, "{name}");
    if exact {
        assert_eq!(encode(expected), wire, "{name}");
    } else {
        assert_eq!(&M::decode(encode(expected)).unwrap(), expected, "{name}");
    }
}

#[test]
fn messages() {
    let vectors = vectors();
    let mut seen = 0;
    for v in vectors["messages"].as_array().unwrap() {
        let (name, f, wire) = (
            v["name"].as_str().unwrap(),
            &v["fields"],
            hex(v["hex"].as_str().unwrap()),
        );
        match v["message"].as_str().unwrap() {
            "protos.Request" => check(name, &wire, &request(f), true),
            "protos.Response" => {
                let one = f["error"]["metadata"]
                    .as_object()
                    .is_none_or(|m| m.len() < 2);
                check(name, &wire, &response(f), one);
            }
            "protos.Session" => check(name, &wire, &session(f), true),
            "protos.Push" => {
                let push = Push {
                    route: text(f, "route"),
                    uid: text(f, "uid"),
                    data: bytes(f, "data"),
                    not_for_shaddock: false,
                };
                check(name, &wire, &push, true);
            }
            "protos.KickMsg" => {
                check(
                    name,
                    &wire,
                    &KickMsg {
                        user_id: text(f, "userId"),
                        not_for_shaddock: false,
                    },
                    true,
                );
            }
            "protos.KickAnswer" => {
                check(
                    name,
                    &wire,
                    &KickAnswer {
                        kicked: f["kicked"].as_bool().unwrap_or(false),
                    },
                    true,
                );
            }
            "protos.BindMsg" => check(
                name,
                &wire,
                &BindMsg {
                    uid: text(f, "uid"),
                    fid: text(f, "fid"),
                },
                true,
            ),
            "protos.Error" => {
                let wrapped = response(&serde_json::json!({ "error": f }));
                check(name, &wire, &wrapped.error.unwrap(), false);
            }
            "protos.Msg" => {
                let wrapped = request(&serde_json::json!({ "msg": f }));
                check(name, &wire, &wrapped.msg.unwrap(), true);
            }
            other => panic!("{name}: {other}"),
        }
        seen += 1;
    }
    assert_eq!(seen, 30);
}

#[test]
fn durations() {
    for v in vectors()["durations"].as_array().unwrap() {
        let text = v["text"].as_str().unwrap();
        if v["error"] == true {
            assert!(parse_duration(text).is_none(), "{text:?}");
            continue;
        }
        let nanos: i64 = v["nanos"].as_str().unwrap().parse().unwrap();
        assert_eq!(parse_duration(text), Some(nanos), "{text:?}");
        if let Ok(nanos) = u64::try_from(nanos) {
            let printed = format_duration(std::time::Duration::from_nanos(nanos));
            assert_eq!(printed, v["formatted"].as_str().unwrap());
        }
    }
}

#[test]
fn subjects() {
    for v in vectors()["subjects"].as_array().unwrap() {
        let server_type = v["type"].as_str().unwrap();
        assert!(is_name(server_type));
        let uid = v["uid"].as_str().unwrap_or_default();
        if v["reject_uid"] == true {
            assert!(!is_plain(uid), "{uid:?}");
            continue;
        }
        let subject = match v["what"].as_str().unwrap() {
            "rpc" => subject::server(server_type, v["id"].as_str().unwrap()),
            "push" => subject::push(server_type, uid),
            "kick" => subject::kick(server_type, uid),
            "bindings" => subject::bindings(server_type),
            other => panic!("{other}"),
        };
        assert!(uid.is_empty() || is_plain(uid));
        assert_eq!(subject, v["subject"].as_str().unwrap());
    }
}

#[test]
fn an_error_without_code_is_unknown_and_its_presence_is_what_counts() {
    let error = decode_answer(Bytes::from_static(&[0x0a, 1, b'x', 0x12, 0])).unwrap_err();
    assert_eq!((error.code(), error.message()), ("PIT-000", ""));
    assert_eq!(decode_answer(Bytes::new()).unwrap(), Bytes::new());
    assert_eq!(
        decode_answer(Bytes::from_static(b"\x0a\x05x"))
            .unwrap_err()
            .kind(),
        RemoteErrorKind::BadAnswer
    );
}
