//! Operations that other servers ask of this one.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Message;

use super::convert::{from_wire, to_wire_answer};
use crate::clock;
use crate::nats::core::Core;
use crate::nats::lateness::Clocks;
use crate::nats::owners;
use crate::nats::run::{Turn, is_busy, run, time_left, too_late};
use crate::nats::wire::{self, BUSY, Op, OpAnswer, OpKind, decode_or_log};
use crate::reply::guarded;
use crate::{BoxFuture, RemoteError, ServerId, code};

/// Serves an operation of another server.
pub(in crate::nats) fn received(core: &Arc<Core>, message: Message, clocks: &mut Clocks) {
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
                core.directory
                    .bound_at(&op.name, &op.uid, &frontend, unique);
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
