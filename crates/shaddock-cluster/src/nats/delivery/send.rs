//! Deliveries on their way to frontends.

use std::sync::Arc;

use async_nats::Subject;
use futures_util::future::Either;

use super::here::{Answered, after_room, deliver_here, deliver_watched};
use super::parts::{from_wire, parts, plain, room};
use crate::nats::calls::{Answer, Asked};
use crate::nats::core::Core;
use crate::nats::wire::{self, MultiPush, MultiPushAnswer, decode};
use crate::nats::{servers, subject};
use crate::reply::Limit;
use crate::uid;
use crate::{
    BoxFuture, Delivered, Delivery, FailedDelivery, Receivers, RemoteError, RemoteErrorKind,
    ServerInfo, code,
};

/// The outcome of a delivery.
pub(in crate::nats) type Delivering = BoxFuture<'static, Result<Delivered, RemoteError>>;

/// Sends a message to clients of a frontend.
pub(in crate::nats) fn send(
    core: &Arc<Core>,
    frontend: &ServerInfo,
    delivery: &Delivery,
) -> Delivering {
    if frontend.id == core.info.id {
        // Without a way over NATS: also while that is away, and behind what was delivered here before.
        let delivered = deliver_here(core, delivery.clone());
        return Box::pin(after_room(core, delivered));
    }
    if frontend.is_shaddock() {
        return match parts(delivery, core.link.max_payload()) {
            Ok(parts) => {
                let answer = send_parts(core, frontend, parts);
                Box::pin(async move { answer.await.map(|answer| answer.delivered) })
            }
            Err(error) => fail(error),
        };
    }
    let result = match &delivery.to {
        Receivers::Uids(uids) => send_plain(core, &frontend.server_type, delivery, uids, false),
        _ => Err(only_users()),
    };
    Box::pin(std::future::ready(result))
}

pub(in crate::nats) fn fail(error: RemoteError) -> Delivering {
    Box::pin(std::future::ready(Err(error)))
}

fn only_users() -> RemoteError {
    RemoteError::of(
        RemoteErrorKind::Refused,
        code::UNKNOWN,
        "the frontend is a Pitaya server, which only knows users",
    )
}

/// Sends to users at a shaddock frontend, and asks it to notify this server if one of them is bound there.
pub(in crate::nats) fn send_watching(
    core: &Arc<Core>,
    frontend: &ServerInfo,
    delivery: &Delivery,
) -> BoxFuture<'static, Result<Answered, RemoteError>> {
    if frontend.id == core.info.id {
        let Answered { delivered, watched } =
            deliver_watched(core, delivery.clone(), &core.info.id);
        let delivered = after_room(core, delivered);
        return Box::pin(async move {
            let delivered = delivered.await?;
            Ok(Answered { delivered, watched })
        });
    }
    match parts(delivery, core.link.max_payload()) {
        Ok(mut parts) => {
            for part in &mut parts {
                core.info.id.as_str().clone_into(&mut part.watched_by);
            }
            Box::pin(send_parts(core, frontend, parts))
        }
        Err(error) => Box::pin(std::future::ready(Err(error))),
    }
}

/// Sends without waiting for a confirmation.
pub(in crate::nats) fn send_unconfirmed(
    core: &Core,
    frontend: &ServerInfo,
    delivery: &Delivery,
) -> Result<(), RemoteError> {
    if frontend.id == core.info.id {
        deliver_here(core, delivery.clone());
        return Ok(());
    }
    if frontend.is_shaddock() {
        for part in parts(delivery, core.link.max_payload())? {
            publish_part(core, frontend, &part)?;
        }
        return Ok(());
    }
    match &delivery.to {
        Receivers::Uids(uids) => {
            send_plain(core, &frontend.server_type, delivery, uids, false).map(|_| ())
        }
        _ => Err(only_users()),
    }
}

/// One message per user, as Pitaya servers know it. No answer comes.
pub(in crate::nats) fn send_plain(
    core: &Core,
    frontend_type: &str,
    delivery: &Delivery,
    uids: &[Arc<str>],
    not_for_shaddock: bool,
) -> Result<Delivered, RemoteError> {
    check(core, &delivery.route, &delivery.body)?;
    let mut delivered = Delivered::default();
    for uid in uids {
        // Only its own clients are connected to a Pitaya server.
        if uid::is_plain(uid) {
            let subject = Subject::from(subject::push(frontend_type, uid));
            let push = plain(delivery, uid, not_for_shaddock);
            core.link
                .publish_for(core.config.request_timeout, subject, None, push)?;
            delivered.unconfirmed.push(Arc::clone(uid));
        } else {
            delivered.missing_uids.push(Arc::clone(uid));
        }
    }
    Ok(delivered)
}

/// Whether a message can be sent to other servers at all.
pub(in crate::nats) fn check(core: &Core, route: &str, body: &[u8]) -> Result<(), RemoteError> {
    room(route, body, core.link.max_payload()).map(|_| ())
}

fn publish_part(core: &Core, frontend: &ServerInfo, part: &MultiPush) -> Result<(), RemoteError> {
    let subject = Subject::from(subject::multi_push(frontend));
    let life = core.config.request_timeout;
    core.link
        .publish_for(life, subject, None, wire::encode(part))
}

/// Sends the parts of a delivery to a frontend, which answers each.
fn send_parts(
    core: &Arc<Core>,
    frontend: &ServerInfo,
    parts: Vec<MultiPush>,
) -> impl Future<Output = Result<Answered, RemoteError>> + Send + 'static {
    let timeout = core.config.push_timeout();
    let limit = Limit {
        timeout,
        route: "shaddock.mpush".into(),
        caller: core.info.id.clone(),
        target: frontend.id.clone(),
    };
    if core.members.is_suspect(frontend.id.as_str()) {
        // The messages are sent in order, but not awaited: the server is checked by probes.
        let sent = parts
            .iter()
            .try_for_each(|part| publish_part(core, frontend, part));
        let error = sent.err().unwrap_or_else(|| limit.error());
        return Either::Left(std::future::ready(Err(error)));
    }
    let target = core.target(frontend);
    let several = parts.len() > 1;
    let sent: Vec<_> = parts
        .into_iter()
        .map(|part| {
            let subject = Subject::from(subject::multi_push(frontend));
            let asked = core
                .calls
                .ask(Some(&target), subject, wire::encode(&part), timeout);
            (asked, if several { part.uids } else { Vec::new() })
        })
        .collect();
    let core = Arc::clone(core);
    Either::Right(async move {
        let mut delivered = Delivered::default();
        let mut watched = true;
        let all = sent.len();
        for (asked, uids) in sent {
            match part_answer(&core, asked, &limit).await {
                Ok(answer) => {
                    watched &= answer.watched;
                    delivered.merge(from_wire(answer));
                }
                Err(error) => delivered.failed.push(FailedDelivery {
                    frontend: limit.target.clone(),
                    uids: uids.into_iter().map(Arc::from).collect(),
                    error,
                }),
            }
        }
        if delivered.failed.len() == all
            && let Some(failed) = delivered.failed.pop()
        {
            return Err(failed.error);
        }
        let watched = watched && delivered.failed.is_empty();
        Ok(Answered { delivered, watched })
    })
}

async fn part_answer(
    core: &Core,
    asked: Result<Asked, RemoteError>,
    limit: &Limit,
) -> Result<MultiPushAnswer, RemoteError> {
    let answer = asked?.answer().await.ok_or_else(|| limit.error())?;
    if matches!(answer, Answer::NoResponder) {
        servers::not_there(core, &limit.target);
    }
    decode(answer.into_payload()?)
}

/// Publishes to all frontends that have members of a topic.
pub(in crate::nats) fn publish_to_topic(
    core: &Core,
    name: &str,
    delivery: &Delivery,
) -> Result<(), RemoteError> {
    let life = core.config.request_timeout;
    for part in parts(delivery, core.link.max_payload())? {
        let subject = Subject::from(subject::topic(name));
        let payload = wire::encode(&part);
        core.link.publish_for(life, subject, None, payload)?;
    }
    Ok(())
}
