//! Short questions to one server: to the owner of a user, to a server that watches a user, to a server that may be dead.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Subject;
use bytes::Bytes;

use super::calls::Answer;
use super::core::Core;
use super::detector::Probed;
use super::ops::millis;
use super::subject;
use super::wire::{self, Msg, Op, OpAnswer, OpKind, Request, RpcType, decode};
use crate::{RemoteError, ServerInfo};

/// Asks the owner of a user about that user. Returns how many sessions stay there; `Ok(None)` without a reply in time.
pub(super) async fn ask_owner(
    core: &Arc<Core>,
    owner: &ServerInfo,
    kind: OpKind,
    uid: &str,
    (revision, lease): (i64, i64),
    timeout: Duration,
) -> Result<Option<u32>, RemoteError> {
    let op = Op {
        kind: kind as i32,
        uid: uid.to_owned(),
        from: core.info.id.as_str().to_owned(),
        timeout_ms: millis(timeout),
        revision,
        lease,
        ..Op::default()
    };
    let subject = Subject::from(subject::operation(owner));
    let target = core.target(owner);
    let asked = core
        .calls
        .ask(Some(&target), subject, wire::encode(&op), timeout)?;
    let Some(answer) = asked.answer().await else {
        return Ok(None);
    };
    let data = wire::decode_answer(answer.into_payload()?)?;
    Ok(Some(decode::<OpAnswer>(data)?.count))
}

/// Tells a server that a user whom it watches is being bound here. True if it confirms that.
pub(super) async fn tell_bound_here(
    core: &Arc<Core>,
    server: &ServerInfo,
    uid: &str,
    timeout: Duration,
) -> bool {
    let op = Op {
        kind: OpKind::Here as i32,
        uid: uid.to_owned(),
        name: core.info.server_type.to_string(),
        from: core.info.id.as_str().to_owned(),
        timeout_ms: millis(timeout),
        ..Op::default()
    };
    let subject = Subject::from(subject::operation(server));
    let asked = core.calls.ask(None, subject, wire::encode(&op), timeout);
    let Ok(asked) = asked else { return false };
    let Some(Answer::Payload(payload)) = asked.answer().await else {
        return false;
    };
    wire::decode_answer(payload).is_ok()
}

/// Asks a shaddock server whether it reads its messages.
pub(super) async fn probe(core: &Arc<Core>, server: &ServerInfo, timeout: Duration) -> Probed {
    let op = Op {
        kind: OpKind::Probe as i32,
        from: core.info.id.as_str().to_owned(),
        timeout_ms: millis(timeout),
        ..Op::default()
    };
    let subject = Subject::from(subject::operation(server));
    // The result goes to the detector as that of a probe, not of a call.
    let asked = core.calls.ask(None, subject, wire::encode(&op), timeout);
    match asked {
        Ok(asked) => asked.probed().await,
        Err(_) => Probed::Silent,
    }
}

/// A call of a remote that no server has. Complete, because a Pitaya server ends when it gets a request without a message.
pub(super) fn are_you_there() -> Bytes {
    wire::encode(&Request {
        r#type: RpcType::User as i32,
        msg: Some(Msg {
            route: "sys.arethere".to_owned(),
            ..Msg::default()
        }),
        metadata: Bytes::from_static(b"{}"),
        ..Request::default()
    })
}
