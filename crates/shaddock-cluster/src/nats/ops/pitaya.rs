//! Session operations at Pitaya frontends: calls of their three remotes.

use std::sync::Arc;

use bytes::Bytes;

use crate::nats::core::Core;
use crate::nats::wire::{self, KickMsg, Msg, MsgType, Request, RpcType, Session};
use crate::reply::Limit;
use crate::{
    BoxFuture, Context, RawSid, RemoteError, RemoteErrorKind, Reply, ServerInfo, SessionAnswer,
    SessionOp, code,
};

/// The error of a Pitaya frontend that has kicked a client and finds the session closed when it wants to close it.
const CLOSED_ITSELF: &str = "close closed session";

/// Sends an operation to a Pitaya frontend.
pub(super) fn send(
    core: &Arc<Core>,
    frontend: &ServerInfo,
    op: SessionOp,
    context: &Context,
) -> BoxFuture<'static, Result<SessionAnswer, RemoteError>> {
    match to_pitaya(op) {
        Ok((route, argument)) => {
            let reply = call_pitaya(core, frontend, route, argument, context);
            Box::pin(async move {
                let answer = reply.await;
                if route != "sys.kick" {
                    // An ack has no content.
                    return answer.map(|_ack| SessionAnswer::Done);
                }
                match answer {
                    // A client that closes at the KICK may be faster than its frontend.
                    Err(error) if error.message() != CLOSED_ITSELF => Err(error),
                    _ => Ok(SessionAnswer::Kicked(1)),
                }
            })
        }
        Err(error) => Box::pin(std::future::ready(Err(error))),
    }
}

/// Route and argument of the remote for an operation.
fn to_pitaya(op: SessionOp) -> Result<(&'static str, Bytes), RemoteError> {
    let session = |sid: RawSid, uid: &str, data: Bytes| {
        let id = i64::try_from(sid.get()).unwrap_or(0);
        wire::encode(&Session {
            id,
            uid: uid.to_owned(),
            data,
        })
    };
    let kick = |uid: &str| {
        wire::encode(&KickMsg {
            user_id: uid.to_owned(),
            not_for_shaddock: false,
        })
    };
    Ok(match op {
        SessionOp::Bind { sid, uid } => ("sys.bindsession", session(sid, &uid, Bytes::new())),
        SessionOp::Merge {
            sid,
            changes: _,
            removed: _,
            view: data,
        }
        | SessionOp::Replace { sid, data } => ("sys.pushsession", session(sid, "", data.to_json())),
        SessionOp::Kick {
            sid: _,
            uid: Some(uid),
            reason: _,
        }
        | SessionOp::KickUser { uid, reason: _ } => ("sys.kick", kick(&uid)),
        SessionOp::Kick { .. } => {
            return Err(refused("you have to bind an UID to the session to do that"));
        }
        _ => {
            return Err(refused(
                "the frontend is a Pitaya server, which has no such operation",
            ));
        }
    })
}

fn refused(text: &'static str) -> RemoteError {
    RemoteError::of(RemoteErrorKind::Refused, code::UNKNOWN, text)
}

fn call_pitaya(
    core: &Arc<Core>,
    to: &ServerInfo,
    route: &'static str,
    argument: Bytes,
    context: &Context,
) -> Reply {
    let timeout = context.timeout().unwrap_or(core.config.request_timeout);
    let request = Request {
        r#type: RpcType::User as i32,
        session: None,
        msg: Some(Msg {
            route: route.to_owned(),
            data: argument,
            r#type: MsgType::Request as i32,
            ..Msg::default()
        }),
        frontend_id: if core.info.frontend {
            core.info.id.as_str().to_owned()
        } else {
            String::new()
        },
        metadata: context.to_json(&core.info, timeout),
        stamp: None,
    };
    let limit = Limit {
        timeout,
        route: route.into(),
        caller: core.info.id.clone(),
        target: to.id.clone(),
    };
    core.calls
        .call(&core.target(to), wire::encode(&request), limit, None)
}
