//! Session operations and their answers as messages between shaddock servers.

use std::sync::Arc;
use std::time::Duration;

use crate::nats::wire::{self, Op, OpAnswer, OpKind, session_of, session_to_wire};
use crate::{
    AudienceKey, AudiencePart, JoinAnswer, RawSid, RemoteError, RemoteErrorKind, ServerId,
    SessionAnswer, SessionData, SessionOp, code,
};

/// A duration in milliseconds, as messages have it.
pub(in crate::nats) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The message for an operation whose caller waits for `timeout`.
pub(super) fn to_wire(op: SessionOp, timeout: Duration) -> Op {
    let mut wire = Op {
        timeout_ms: millis(timeout),
        ..Op::default()
    };
    let kind = match op {
        SessionOp::KickUser { uid, reason } => {
            wire.uid = uid.to_string();
            wire.reason = reason.map(|r| r.to_string());
            OpKind::KickUser
        }
        SessionOp::GetByUid { uid } => {
            wire.uid = uid.to_string();
            OpKind::GetByUid
        }
        SessionOp::Custom { name, argument } => {
            wire.name = name.to_string();
            wire.data = argument;
            OpKind::Custom
        }
        of_one @ (SessionOp::Bind { .. }
        | SessionOp::Unbind { .. }
        | SessionOp::Merge { .. }
        | SessionOp::Replace { .. }
        | SessionOp::Kick { .. }
        | SessionOp::Get { .. }
        | SessionOp::ClientAddress { .. }) => op_on_session(&mut wire, of_one),
        of_audiences => audience_op(&mut wire, of_audiences),
    };
    wire.kind = kind as i32;
    wire
}

/// The operations on one session.
fn op_on_session(wire: &mut Op, op: SessionOp) -> OpKind {
    let mut sid_of = |sid: RawSid| wire.sid = sid.get();
    match op {
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
        SessionOp::Get { sid } => {
            sid_of(sid);
            OpKind::Get
        }
        SessionOp::ClientAddress { sid } => {
            sid_of(sid);
            OpKind::ClientAddress
        }
        _ => OpKind::Unknown,
    }
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

/// Reads an operation.
pub(super) fn from_wire(op: Op) -> Result<SessionOp, RemoteError> {
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

/// The message for the answer of this frontend.
pub(super) fn to_wire_answer(answer: SessionAnswer) -> OpAnswer {
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

/// Reads the answer of a frontend to an operation of this kind.
pub(super) fn from_wire_answer(
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
