//! Session operations, between shaddock servers and with Pitaya frontends.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Message, Subject};
use bytes::Bytes;

use super::calls::Answer;
use super::core::Core;
use super::lateness::Clocks;
use super::serve::{Turn, is_busy, run, time_left, too_late};
use super::wire::{
    self, BUSY, KickMsg, Msg, MsgType, Op, OpAnswer, OpKind, Request, RpcType, Session, decode,
    decode_or_log, session_of, session_to_wire,
};
use super::{owners, servers, subject};
use crate::clock;
use crate::reply::{Limit, guarded};
use crate::{
    AudienceKey, AudiencePart, BoxFuture, Context, JoinAnswer, RawSid, RemoteError,
    RemoteErrorKind, Reply, ServerId, ServerInfo, SessionAnswer, SessionData, SessionOp, code,
};

/// What a Pitaya frontend says that has kicked a client, wants to close its session, and finds it closed.
const CLOSED_ITSELF: &str = "close closed session";

type Answering = BoxFuture<'static, Result<SessionAnswer, RemoteError>>;

/// Sends an operation to a frontend.
pub(super) fn send(
    core: &Arc<Core>,
    frontend: &ServerInfo,
    op: SessionOp,
    context: &Context,
) -> Answering {
    let timeout = context.timeout().unwrap_or(core.config.request_timeout);
    if frontend.is_shaddock() {
        return ask(core, frontend, to_wire(op, timeout), timeout);
    }
    match to_pitaya(op) {
        Ok((route, argument)) => {
            let reply = call_pitaya(core, frontend, route, argument, context);
            Box::pin(async move {
                let answer = reply.await;
                if route != "sys.kick" {
                    // What an ack says is of no interest.
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

/// Asks a shaddock frontend.
fn ask(core: &Arc<Core>, frontend: &ServerInfo, mut op: Op, timeout: Duration) -> Answering {
    core.info.id.as_str().clone_into(&mut op.from);
    op.stamp = Some(core.stamp(clock::now(), None));
    let kind = op.kind;
    let frontend_id = frontend.id.clone();
    let limit = Limit {
        timeout,
        route: "shaddock.op".into(),
        caller: core.info.id.clone(),
        target: frontend_id.clone(),
    };
    let subject = Subject::from(subject::operation(frontend));
    let target = core.target(frontend);
    match core
        .calls
        .ask(Some(&target), subject, wire::encode(&op), timeout)
    {
        Err(error) => Box::pin(std::future::ready(Err(error))),
        Ok(asked) => Box::pin({
            let core = Arc::clone(core);
            async move {
                let answer = asked.answer().await.ok_or_else(|| limit.error())?;
                if matches!(answer, Answer::NoResponder) {
                    servers::not_there(&core, &frontend_id);
                }
                let data = wire::decode_answer(answer.into_payload()?)?;
                from_wire_answer(kind, decode(data)?, &frontend_id)
            }
        }),
    }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn to_wire(op: SessionOp, timeout: Duration) -> Op {
    let mut wire = Op {
        timeout_ms: millis(timeout),
        ..Op::default()
    };
    let mut sid_of = |sid: RawSid| wire.sid = sid.get();
    let kind = match op {
        SessionOp::Bind { sid, uid } => {
            sid_of(sid);
            wire.uid = uid.to_string();
            OpKind::Bind
        }
        SessionOp::Unbind { sid, uid } => {
            sid_of(sid);
            wire.uid = uid.to_string();
            OpKind::Unbind
        }
        SessionOp::Merge {
            sid,
            changes,
            removed,
            view: _,
        } => {
            sid_of(sid);
            wire.removed = removed;
            wire.data = SessionData::from(changes).to_json();
            OpKind::Merge
        }
        SessionOp::Replace { sid, data } => {
            sid_of(sid);
            wire.data = data.to_json();
            OpKind::Replace
        }
        SessionOp::Kick {
            sid,
            uid: _,
            reason,
        } => {
            sid_of(sid);
            wire.reason = reason.map(|r| r.to_string());
            OpKind::Kick
        }
        SessionOp::KickUser { uid, reason } => {
            wire.uid = uid.to_string();
            wire.reason = reason.map(|r| r.to_string());
            OpKind::KickUser
        }
        SessionOp::Get { sid } => {
            sid_of(sid);
            OpKind::Get
        }
        SessionOp::GetByUid { uid } => {
            wire.uid = uid.to_string();
            OpKind::GetByUid
        }
        SessionOp::ClientAddress { sid } => {
            sid_of(sid);
            OpKind::ClientAddress
        }
        SessionOp::Custom { name, argument } => {
            wire.name = name.to_string();
            wire.data = argument;
            OpKind::Custom
        }
        of_audiences => audience_op(&mut wire, of_audiences),
    };
    wire.kind = kind as i32;
    wire
}

/// The operations on audiences.
fn audience_op(wire: &mut Op, op: SessionOp) -> OpKind {
    match op {
        SessionOp::Join { audience, uid, sid } => {
            wire.sid = sid.map_or(0, RawSid::get);
            wire.uid = uid.to_string();
            audience.as_str().clone_into(&mut wire.name);
            OpKind::Join
        }
        SessionOp::Leave {
            audience,
            is_prefix,
            uid,
        } => {
            wire.uid = uid.to_string();
            wire.name = audience.to_string();
            wire.flag = is_prefix;
            OpKind::Leave
        }
        SessionOp::EndAudience { audience } => {
            audience.as_str().clone_into(&mut wire.name);
            OpKind::EndAudience
        }
        SessionOp::Audience {
            audience,
            named,
            only,
        } => {
            audience.as_str().clone_into(&mut wire.name);
            wire.flag = named;
            wire.uid = only.map_or_else(String::new, |only| only.to_string());
            OpKind::Audience
        }
        SessionOp::Audiences {
            prefixes,
            after,
            named,
            watcher,
        } => {
            wire.prefixes = prefixes;
            wire.name = after.to_string();
            wire.flag = named;
            wire.uid = watcher.map_or_else(String::new, |watcher| watcher.to_string());
            OpKind::Audiences
        }
        SessionOp::NextNotice { watcher } => {
            wire.uid = watcher.to_string();
            OpKind::NextNotice
        }
        _ => OpKind::Unknown,
    }
}

/// Reads an operation on audiences.
fn audience_op_from_wire(kind: OpKind, op: Op) -> Result<SessionOp, RemoteError> {
    let key = |name: &str| {
        AudienceKey::parse(name)
            .ok_or_else(|| RemoteError::new(code::BAD_REQUEST, "not the key of an audience"))
    };
    let watcher = |id: &str| {
        ServerId::new(id).map_err(|e| RemoteError::new(code::BAD_REQUEST, e.to_string()))
    };
    Ok(match kind {
        OpKind::Join => SessionOp::Join {
            audience: key(&op.name)?,
            uid: op.uid.into(),
            sid: RawSid::new(op.sid),
        },
        OpKind::Leave => SessionOp::Leave {
            audience: op.name.into(),
            is_prefix: op.flag,
            uid: op.uid.into(),
        },
        OpKind::EndAudience => SessionOp::EndAudience {
            audience: key(&op.name)?,
        },
        OpKind::Audience => SessionOp::Audience {
            audience: key(&op.name)?,
            named: op.flag,
            only: (!op.uid.is_empty()).then(|| op.uid.into()),
        },
        OpKind::NextNotice => SessionOp::NextNotice {
            watcher: watcher(&op.uid)?,
        },
        _ => SessionOp::Audiences {
            prefixes: op.prefixes,
            after: op.name.into(),
            named: op.flag,
            watcher: if op.uid.is_empty() {
                None
            } else {
                Some(watcher(&op.uid)?)
            },
        },
    })
}

fn from_wire(op: Op) -> Result<SessionOp, RemoteError> {
    let kind = OpKind::try_from(op.kind).unwrap_or(OpKind::Unknown);
    if kind as i32 >= OpKind::Join as i32 {
        return audience_op_from_wire(kind, op);
    }
    let sid = || RawSid::new(op.sid).ok_or_else(RemoteError::session_not_found);
    let uid: Arc<str> = op.uid.into();
    let reason = op.reason.map(Arc::from);
    Ok(match kind {
        OpKind::Bind => SessionOp::Bind { sid: sid()?, uid },
        OpKind::Unbind => SessionOp::Unbind { sid: sid()?, uid },
        OpKind::Merge => {
            let changes = SessionData::from_json(op.data).to_map();
            let changes =
                changes.map_err(|e| RemoteError::new(code::BAD_REQUEST, e.to_string()))?;
            SessionOp::Merge {
                sid: sid()?,
                changes,
                removed: op.removed,
                view: SessionData::empty(),
            }
        }
        OpKind::Replace => SessionOp::Replace {
            sid: sid()?,
            data: SessionData::from_json(op.data),
        },
        OpKind::Kick => SessionOp::Kick {
            sid: sid()?,
            uid: None,
            reason,
        },
        OpKind::KickUser => SessionOp::KickUser { uid, reason },
        OpKind::Get => SessionOp::Get { sid: sid()? },
        OpKind::GetByUid => SessionOp::GetByUid { uid },
        OpKind::ClientAddress => SessionOp::ClientAddress { sid: sid()? },
        OpKind::Custom => SessionOp::Custom {
            name: op.name.into(),
            argument: op.data,
        },
        _ => {
            return Err(RemoteError::new(
                code::NOT_FOUND,
                "no such session operation",
            ));
        }
    })
}

fn to_wire_answer(answer: SessionAnswer) -> OpAnswer {
    match answer {
        SessionAnswer::Done => OpAnswer::default(),
        SessionAnswer::Kicked(count) => OpAnswer {
            count,
            ..OpAnswer::default()
        },
        SessionAnswer::Sessions(sessions) => OpAnswer {
            sessions: sessions.iter().map(session_to_wire).collect(),
            ..OpAnswer::default()
        },
        SessionAnswer::Address(address) => OpAnswer {
            address: address.map(|a| a.to_string()).unwrap_or_default(),
            ..OpAnswer::default()
        },
        SessionAnswer::Custom(data) => OpAnswer {
            data,
            ..OpAnswer::default()
        },
        SessionAnswer::Joined(answer) => join_to_wire(&answer),
        SessionAnswer::Count(number) => OpAnswer {
            number,
            ..OpAnswer::default()
        },
        SessionAnswer::Audiences {
            parts,
            more,
            notices,
        } => OpAnswer {
            audiences: parts.iter().map(part_to_wire).collect(),
            count: u32::from(more),
            number: notices,
            ..OpAnswer::default()
        },
    }
}

fn join_to_wire(answer: &JoinAnswer) -> OpAnswer {
    let (count, text) = match answer {
        JoinAnswer::Already => (0, ""),
        JoinAnswer::Joined => (1, ""),
        JoinAnswer::NotBound => (2, ""),
        JoinAnswer::Closed => (3, ""),
        JoinAnswer::Refused(reason) => (4, &**reason),
    };
    OpAnswer {
        count,
        text: text.to_owned(),
        ..OpAnswer::default()
    }
}

fn join_from_wire(answer: OpAnswer) -> JoinAnswer {
    match answer.count {
        0 => JoinAnswer::Already,
        1 => JoinAnswer::Joined,
        2 => JoinAnswer::NotBound,
        3 => JoinAnswer::Closed,
        _ => JoinAnswer::Refused(answer.text.into()),
    }
}

fn part_to_wire(part: &AudiencePart) -> wire::Audience {
    wire::Audience {
        key: part.audience.to_string(),
        uids: part.uids.iter().map(ToString::to_string).collect(),
        count: part.count,
    }
}

fn part_from_wire(part: wire::Audience) -> AudiencePart {
    AudiencePart {
        audience: part.key.into(),
        uids: part.uids.into_iter().map(Arc::from).collect(),
        count: part.count,
    }
}

fn from_wire_answer(
    kind: i32,
    answer: OpAnswer,
    frontend: &ServerId,
) -> Result<SessionAnswer, RemoteError> {
    Ok(match OpKind::try_from(kind).unwrap_or(OpKind::Unknown) {
        OpKind::Kick | OpKind::KickUser => SessionAnswer::Kicked(answer.count),
        OpKind::Get | OpKind::GetByUid => {
            let sessions = answer
                .sessions
                .into_iter()
                .map(|s| session_of(s, Some(frontend.clone())))
                .collect();
            SessionAnswer::Sessions(sessions)
        }
        OpKind::ClientAddress if answer.address.is_empty() => SessionAnswer::Address(None),
        OpKind::ClientAddress => {
            let bad =
                |_| RemoteError::of(RemoteErrorKind::BadAnswer, code::UNKNOWN, "not an address");
            SessionAnswer::Address(Some(answer.address.parse().map_err(bad)?))
        }
        OpKind::Custom => SessionAnswer::Custom(answer.data),
        OpKind::Join => SessionAnswer::Joined(join_from_wire(answer)),
        OpKind::Leave | OpKind::EndAudience | OpKind::NextNotice => {
            SessionAnswer::Count(answer.number)
        }
        OpKind::Audience | OpKind::Audiences => SessionAnswer::Audiences {
            more: answer.count > 0,
            notices: answer.number,
            parts: answer.audiences.into_iter().map(part_from_wire).collect(),
        },
        _ => SessionAnswer::Done,
    })
}

/// Route and argument of a remote of a Pitaya frontend, which has three.
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

/// Serves an operation that came.
pub(super) fn received(core: &Arc<Core>, message: Message, clocks: &mut Clocks) {
    let Some(op) = decode_or_log::<Op>(&message) else {
        return;
    };
    let reply = message.reply;
    let kind = OpKind::try_from(op.kind).unwrap_or(OpKind::Unknown);
    if matches!(kind, OpKind::Probe | OpKind::Release) {
        let Some(count) = owners::asked(core, kind, &op) else {
            return;
        };
        core.answer(
            reply,
            &Ok(wire::encode(&OpAnswer {
                count,
                ..OpAnswer::default()
            })),
        );
        return;
    }
    if kind == OpKind::Here {
        let told = ServerId::new(op.from)
            .map(|frontend| {
                let unique = core.directory.facts(&core.members, &op.name).unique;
                core.directory.came(&op.name, &op.uid, &frontend, unique);
            })
            .map(|()| wire::encode(&OpAnswer::default()))
            .map_err(|e| RemoteError::new(code::BAD_REQUEST, e.to_string()));
        core.answer(reply, &told);
        return;
    }
    if is_busy(core) {
        core.answer(reply, &Err(RemoteError::new(code::UNAVAILABLE, BUSY)));
        return;
    }
    let timeout = Duration::from_millis(op.timeout_ms);
    let stamp = op.stamp.unwrap_or_default();
    let Some(left) = time_left(clocks, &stamp, timeout, clock::now()) else {
        return too_late(core, reply);
    };
    match from_wire(op) {
        Err(error) => core.answer(reply, &Err(error)),
        Ok(op) => {
            let node = Arc::clone(&core.node);
            let operation = move || {
                let operation = guarded("session_op", || Some(node.session_op(op)))?;
                let work: BoxFuture<'static, _> =
                    Box::pin(async move { Ok(wire::encode(&to_wire_answer(operation.await?))) });
                Some(work)
            };
            // Almost all are done at once, and then in order. Only a bind asks the application, which may take its time.
            let route = (kind == OpKind::Bind).then(|| Arc::from("shaddock.bind"));
            let turn = &mut Turn::start();
            run(core, (reply, left, route), turn, operation, |data| data);
        }
    }
}
