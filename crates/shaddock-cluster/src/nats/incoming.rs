//! The content of a received request: checked in the order that all servers keep, before anything runs.

use std::num::NonZeroU64;

use bytes::Bytes;
use hashbrown::HashMap;
use prost::Message;

use super::wire::{KickMsg, MsgType, Request, RpcType, Session, Stamp, raw_sid, session_of};
use crate::context::is_json_object;
use crate::{
    Context, ContextError, ForwardedRequest, RemoteCall, RemoteError, ServerId, SessionData,
    SessionOp, code, split_route,
};

/// A request, ready to run.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// Neither run nor answered: it cannot be read.
    Unreadable(String),
    /// Answered at once.
    Refused(RemoteError),
    Handler(ForwardedRequest),
    Remote(RemoteCall),
    /// A session operation of Pitaya, and how its success is answered.
    Session {
        op: SessionOp,
        context: Context,
        answer: SysAnswer,
    },
}

/// The payload of a successful session operation in Pitaya's protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SysAnswer {
    Ack,
    Kicked,
}

/// Contexts that were read before: most requests have one of few, with nothing in it but the sender and how long the caller waits.
///
/// At the bound all are forgotten. One with anything else in it is not kept, because that differs from request to request.
#[derive(Debug, Default)]
pub(crate) struct Contexts(HashMap<Bytes, Context>);

/// Contexts that are kept.
const CONTEXTS: usize = 1024;
/// Bytes of a context that is kept, at most.
const CONTEXT_BYTES: usize = 512;

impl Contexts {
    fn read(&mut self, json: Bytes) -> Result<Context, ContextError> {
        if let Some(known) = self.0.get(&json) {
            return Ok(known.clone());
        }
        let context = Context::from_json(json)?;
        if let Some(kept) = context.only_of_the_cluster(CONTEXT_BYTES) {
            if self.0.len() >= CONTEXTS {
                self.0.clear();
            }
            self.0.insert(kept.received().clone(), kept);
        }
        Ok(context)
    }
}

/// Reads a request. `frontend`: whether this server has sessions of its own. A sender that is none of ours has stamped nothing.
pub(crate) fn read(payload: Bytes, frontend: bool, contexts: &mut Contexts) -> (Stamp, Incoming) {
    match Request::decode(payload) {
        Ok(request) => (
            request.stamp.unwrap_or_default(),
            incoming(request, frontend, contexts),
        ),
        Err(error) => (Stamp::default(), Incoming::Unreadable(error.to_string())),
    }
}

fn incoming(request: Request, frontend: bool, contexts: &mut Contexts) -> Incoming {
    let Some(msg) = request.msg else {
        return Incoming::Unreadable("no msg in the request".to_owned());
    };
    let context = match contexts.read(request.metadata) {
        Ok(context) => context,
        Err(error) => {
            return Incoming::Refused(RemoteError::new(code::INTERNAL, error.to_string()));
        }
    };
    let refuse = |text: &'static str| {
        Incoming::Refused(
            RemoteError::new(code::BAD_REQUEST, text).with("route", msg.route.as_str()),
        )
    };
    let Ok((_, short)) = split_route(&msg.route) else {
        return refuse("cannot decode route");
    };
    match RpcType::try_from(request.r#type) {
        Err(_) => refuse("invalid rpc type"),
        Ok(RpcType::Sys) => {
            let session = request.session.unwrap_or_default();
            if !session.data.is_empty() && !is_json_object(&session.data) {
                return Incoming::Refused(RemoteError::new(
                    code::INTERNAL,
                    "session data is not a JSON object",
                ));
            }
            let id = match MsgType::try_from(msg.r#type) {
                // A request has an answer even if its number is 0, which no client of ours sends.
                Ok(MsgType::Request) => Some(NonZeroU64::new(msg.id).unwrap_or(NonZeroU64::MIN)),
                _ => None,
            };
            Incoming::Handler(ForwardedRequest {
                route: msg.route.into(),
                body: msg.data,
                id,
                session: session_of(session, ServerId::new(request.frontend_id).ok()),
                context,
            })
        }
        Ok(RpcType::User) if frontend && short.starts_with("sys.") => {
            session_operation(short, msg.data, context)
                .unwrap_or_else(|| Incoming::Refused(RemoteError::remote_not_found(short)))
        }
        Ok(RpcType::User) => {
            let from = context.get_str("peer.id").unwrap_or(request.frontend_id);
            Incoming::Remote(RemoteCall {
                route: msg.route.into(),
                body: msg.data,
                from: ServerId::new(from).ok(),
                context,
            })
        }
    }
}

/// The three remotes of a Pitaya frontend. Other `sys` routes are not found.
fn session_operation(short: &str, argument: Bytes, context: Context) -> Option<Incoming> {
    let bad = |e: prost::DecodeError| {
        Incoming::Refused(RemoteError::new(code::BAD_REQUEST, e.to_string()))
    };
    let not_found = || Incoming::Refused(RemoteError::session_not_found());
    let (op, answer) = match short {
        "sys.bindsession" | "sys.pushsession" => {
            let session = match Session::decode(argument) {
                Ok(session) => session,
                Err(error) => return Some(bad(error)),
            };
            let Some(sid) = raw_sid(session.id) else {
                return Some(not_found());
            };
            let op = if short == "sys.bindsession" {
                if session.uid.is_empty() {
                    return Some(Incoming::Refused(RemoteError::new(
                        code::UNKNOWN,
                        "illegal uid",
                    )));
                }
                SessionOp::Bind {
                    sid,
                    uid: session.uid.into(),
                }
            } else {
                if !session.data.is_empty() && !is_json_object(&session.data) {
                    let text = "session data is not a JSON object";
                    return Some(Incoming::Refused(RemoteError::new(code::UNKNOWN, text)));
                }
                SessionOp::Replace {
                    sid,
                    data: SessionData::from_json(session.data),
                }
            };
            (op, SysAnswer::Ack)
        }
        "sys.kick" => {
            let uid = match KickMsg::decode(argument) {
                Ok(kick) => kick.user_id,
                Err(error) => return Some(bad(error)),
            };
            // Pitaya has no reasons, and always a KICK package.
            (
                SessionOp::KickUser {
                    uid: uid.into(),
                    reason: Some("kick".into()),
                },
                SysAnswer::Kicked,
            )
        }
        _ => return None,
    };
    Some(Incoming::Session {
        op,
        context,
        answer,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(payload: Bytes, frontend: bool) -> Incoming {
        super::read(payload, frontend, &mut Contexts::default()).1
    }
    use crate::tests::vectors::{hex, vectors};

    fn refusal(incoming: Incoming) -> RemoteError {
        match incoming {
            Incoming::Refused(error) => error,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn hostile_requests() {
        for v in vectors()["hostile"].as_array().unwrap() {
            let (name, wire) = (v["name"].as_str().unwrap(), hex(v["hex"].as_str().unwrap()));
            let expect = &v["expect"];
            match expect["action"].as_str().unwrap() {
                "drop_without_answer" => {
                    assert!(
                        matches!(read(wire, true), Incoming::Unreadable(_)),
                        "{name}"
                    );
                }
                "handle" => assert!(matches!(read(wire, true), Incoming::Remote(_)), "{name}"),
                "answer" => {
                    let error = match read(wire, true) {
                        Incoming::Refused(error) => error,
                        // These two are looked up by the node, in its own tables.
                        Incoming::Remote(call) if name == "request_remote_not_found" => {
                            RemoteError::remote_not_found(split_route(&call.route).unwrap().1)
                        }
                        Incoming::Handler(request) if name == "request_handler_not_found" => {
                            RemoteError::handler_not_found(&request.route)
                        }
                        other => panic!("{name}: {other:?}"),
                    };
                    assert_eq!(error.code(), expect["code"].as_str().unwrap(), "{name}");
                    if let Some(text) = expect["msg"].as_str() {
                        assert_eq!(error.message(), text, "{name}");
                    }
                    let metadata = serde_json::to_value(error.metadata()).unwrap();
                    assert!(
                        expect["metadata"].is_null() || expect["metadata"] == metadata,
                        "{name}: {metadata}"
                    );
                }
                "caller_error" => {
                    let error = super::super::wire::decode_answer(wire).unwrap_err();
                    assert_eq!(error.code(), expect["code"].as_str().unwrap(), "{name}");
                }
                other => panic!("{name}: {other}"),
            }
        }
    }

    /// A known context equals a newly parsed one, and values that belong to one request are not remembered.
    #[test]
    fn contexts_are_read_once() {
        let mut contexts = Contexts::default();
        let mut read = |json: &str| {
            let context = contexts.read(Bytes::copy_from_slice(json.as_bytes()));
            (
                context.map(|context| format!("{context:?}")),
                contexts.0.len(),
            )
        };
        let plain = r#"{"reqTimeout":"30s","peer.id":"c-1","peer.service":"c"}"#;
        let (first, kept) = read(plain);
        assert!(first.as_ref().unwrap().contains("timeout: Some(30s)"));
        assert_eq!((read(plain), kept), ((first, 1), 1));
        let (other, kept) = read(&plain.replace("30s", "5s"));
        assert!(other.unwrap().contains("timeout: Some(5s)") && kept == 2);
        let long = format!(r#"{{"peer.id":"{}"}}"#, "x".repeat(CONTEXT_BYTES));
        let own = plain.replace("peer.service", "traceparent");
        for (json, is_context) in [
            (&*own, true),
            (&*long, true),
            ("", false),
            ("[]", false),
            (r#"{"reqTimeout":"soon"}"#, false),
        ] {
            let (context, kept) = read(json);
            assert_eq!((context.is_ok(), kept), (is_context, 2), "{json}");
        }
        for n in 0..3 * CONTEXTS {
            assert!(read(&plain.replace("30", &n.to_string())).1 <= CONTEXTS);
        }
    }

    #[test]
    fn every_prefix_of_every_message_is_read_without_harm() {
        for v in vectors()["messages"].as_array().unwrap() {
            let wire = hex(v["hex"].as_str().unwrap());
            for end in 0..wire.len() {
                let _ = read(wire.slice(..end), true);
            }
        }
    }

    #[test]
    fn session_operations_of_a_go_backend() {
        let read_vector = |name: &str| {
            let vectors = vectors();
            let v = vectors["messages"]
                .as_array()
                .unwrap()
                .iter()
                .find(|v| v["name"] == name)
                .unwrap();
            read(hex(v["hex"].as_str().unwrap()), true)
        };
        let Incoming::Session {
            op: SessionOp::Bind { sid, uid },
            answer: SysAnswer::Ack,
            ..
        } = read_vector("request_bindsession")
        else {
            panic!()
        };
        assert_eq!((sid.get(), &*uid), (7, "u42"));
        let Incoming::Session {
            op: SessionOp::Replace { .. },
            ..
        } = read_vector("request_pushsession")
        else {
            panic!()
        };
        let Incoming::Session {
            op: SessionOp::KickUser { uid, reason },
            answer: SysAnswer::Kicked,
            ..
        } = read_vector("request_kick")
        else {
            panic!()
        };
        assert_eq!((&*uid, reason.as_deref()), ("u42", Some("kick")));
    }

    #[test]
    fn clients_cannot_reach_remotes_and_backends_have_no_sessions() {
        let request = |kind: RpcType, route: &str| {
            let msg = super::super::wire::Msg {
                route: route.to_owned(),
                ..Default::default()
            };
            let metadata = Bytes::from_static(b"{}");
            Request {
                r#type: kind as i32,
                msg: Some(msg),
                metadata,
                ..Default::default()
            }
            .encode_to_vec()
            .into()
        };
        assert!(matches!(
            read(request(RpcType::Sys, "sys.kick"), true),
            Incoming::Handler(_)
        ));
        assert!(matches!(
            read(request(RpcType::User, "sys.kick"), false),
            Incoming::Remote(_)
        ));
        assert_eq!(
            refusal(read(request(RpcType::User, "sys.other"), true)).code(),
            "PIT-404"
        );
        assert_eq!(
            refusal(read(
                request(RpcType::User, "connector.sys.bindsession"),
                true
            ))
            .message(),
            "session not found"
        );
    }
}
