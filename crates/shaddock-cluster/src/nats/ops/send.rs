//! Session operations on their way to frontends.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Subject;

use super::convert::{from_wire_answer, to_wire};
use super::pitaya;
use crate::clock;
use crate::nats::calls::Answer;
use crate::nats::core::Core;
use crate::nats::wire::{self, Op, decode};
use crate::nats::{servers, subject};
use crate::reply::Limit;
use crate::{BoxFuture, Context, RemoteError, ServerInfo, SessionAnswer, SessionOp};

type Answering = BoxFuture<'static, Result<SessionAnswer, RemoteError>>;

/// Sends an operation to a frontend.
pub(in crate::nats) fn send(
    core: &Arc<Core>,
    frontend: &ServerInfo,
    op: SessionOp,
    context: &Context,
) -> Answering {
    let timeout = context.timeout().unwrap_or(core.config.request_timeout);
    if frontend.is_shaddock() {
        return ask(core, frontend, to_wire(op, timeout), timeout);
    }
    pitaya::send(core, frontend, op, context)
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
