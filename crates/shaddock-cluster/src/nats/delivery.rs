//! Messages for clients, on their way to frontends and at their end.

use std::sync::Arc;

use async_nats::{Message, Subject};
use bytes::Bytes;
use futures_util::future::Either;

use super::calls::{Answer, Asked};
use super::core::Core;
use super::wire::{self, MultiPush, MultiPushAnswer, Push, Recipients, decode, decode_or_log};
use super::{servers, subject};
use crate::clock;
use crate::delivery::latest_key;
use crate::reply::{Limit, guarded};
use crate::uid;
use crate::{
    AudienceKey, BoxFuture, Delivered, Delivery, FailedDelivery, MAX_LATEST_KEY, RawSid, Receivers,
    RemoteError, RemoteErrorKind, ServerId, ServerInfo, code,
};

pub(super) type Delivering = BoxFuture<'static, Result<Delivered, RemoteError>>;

/// A message with its receivers is split above this, unless the body alone is larger.
const MESSAGE_SIZE: usize = 256 * 1024;
/// Room for receivers beside a body that leaves none within [`MESSAGE_SIZE`].
const LEAST_ROOM: usize = 64 * 1024;
/// The longest receiver: an audience with its longest name, and a member who does not get it. A uid is shorter.
const RECEIVER: usize = 1024;
/// Tags, lengths and numbers of a message, and more than they ever take; and the key of the newest one.
const OVERHEAD: usize = 64 + MAX_LATEST_KEY;

/// Sends a message to clients of a frontend.
pub(super) fn send(core: &Arc<Core>, frontend: &ServerInfo, delivery: &Delivery) -> Delivering {
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

pub(super) fn fail(error: RemoteError) -> Delivering {
    Box::pin(std::future::ready(Err(error)))
}

fn only_users() -> RemoteError {
    RemoteError::of(
        RemoteErrorKind::Refused,
        code::UNKNOWN,
        "the frontend is a Pitaya server, which only knows users",
    )
}

/// The report of a delivery, sent when there is room for more.
fn after_room(
    core: &Core,
    mut delivered: Delivered,
) -> impl Future<Output = Result<Delivered, RemoteError>> + Send + 'static {
    let full = std::mem::take(&mut delivered.full);
    let room = (!full.is_empty()).then(|| core.node.kept_room(full));
    async move {
        if let Some(room) = room {
            room.await;
        }
        Ok(delivered)
    }
}

/// Sends to users at a frontend of ours, and asks to be told if one of them is bound there.
pub(super) fn send_watching(
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

/// What a frontend answered.
pub(super) struct Answered {
    pub(super) delivered: Delivered,
    /// It tells if one of the users is bound there.
    pub(super) watched: bool,
}

/// Delivers to users here, and promises to tell if one of them is bound here.
fn deliver_watched(core: &Core, delivery: Delivery, by: &ServerId) -> Answered {
    let Receivers::Uids(uids) = &delivery.to else {
        let delivered = deliver_here(core, delivery);
        return Answered {
            delivered,
            watched: false,
        };
    };
    // Before anyone is found missing: a bind that comes later finds the promise.
    let promised = core.watches.promise(uids, by, clock::now());
    let delivered = deliver_here(core, delivery);
    // And a bind that came before is known, even if its session does not hear yet.
    let mut missing = delivered.missing_uids.iter();
    let watched = promised && !missing.any(|uid| core.users.knows(uid));
    Answered { delivered, watched }
}

/// Sends without waiting for what becomes of it.
pub(super) fn send_unconfirmed(
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
pub(super) fn send_plain(
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

fn plain(delivery: &Delivery, uid: &str, not_for_shaddock: bool) -> Bytes {
    wire::encode(&Push {
        route: delivery.route.to_string(),
        uid: uid.to_owned(),
        data: delivery.body.clone(),
        not_for_shaddock,
    })
}

/// Whether a message can be sent to other servers at all.
pub(super) fn check(core: &Core, route: &str, body: &[u8]) -> Result<(), RemoteError> {
    room(route, body, core.link.max_payload()).map(|_| ())
}

/// How many bytes of receivers one message takes. An error if there is no room for any.
fn room(route: &str, body: &[u8], max_payload: usize) -> Result<usize, RemoteError> {
    let content = body.len() + route.len();
    let left = max_payload.saturating_sub(content + OVERHEAD);
    if left < RECEIVER {
        let text = format!(
            "the message has {content} bytes with its route, and the limit of NATS is {}",
            max_payload.saturating_sub(RECEIVER + OVERHEAD)
        );
        let kind = RemoteErrorKind::Refused;
        return Err(RemoteError::of(kind, code::INTERNAL, text));
    }
    Ok(MESSAGE_SIZE
        .saturating_sub(content)
        .max(LEAST_ROOM)
        .min(left))
}

/// The messages of one delivery: normally one. All of them are no longer than NATS takes.
pub(super) fn parts(
    delivery: &Delivery,
    max_payload: usize,
) -> Result<Vec<MultiPush>, RemoteError> {
    let part = |uids, sids, everybody: Recipients| MultiPush {
        route: delivery.route.to_string(),
        data: delivery.body.clone(),
        uids,
        sids,
        everybody: everybody as i32,
        latest: (delivery.latest.as_deref().and_then(latest_key))
            .unwrap_or_default()
            .to_owned(),
        ..MultiPush::default()
    };
    let room = room(&delivery.route, &delivery.body, max_payload)?;
    Ok(match &delivery.to {
        Receivers::All { bound_only } => {
            let who = if *bound_only {
                Recipients::Bound
            } else {
                Recipients::All
            };
            vec![part(Vec::new(), Vec::new(), who)]
        }
        Receivers::Audience {
            key,
            except,
            name_missing,
        } => vec![MultiPush {
            audience: key.as_str().to_owned(),
            except: except.as_deref().unwrap_or_default().to_owned(),
            name_missing: *name_missing,
            ..part(Vec::new(), Vec::new(), Recipients::No)
        }],
        // A number takes at most ten bytes.
        Receivers::Sids(sids) => sids
            .chunks(room / 10)
            .map(|sids| {
                let sids = sids.iter().map(|sid| sid.get()).collect();
                part(Vec::new(), sids, Recipients::No)
            })
            .collect(),
        Receivers::Uids(uids) => {
            let mut chunks = Vec::new();
            let (mut chunk, mut size) = (Vec::new(), 0);
            for uid in uids.iter() {
                // Tag and length take at most three bytes.
                if size + uid.len() + 3 > room {
                    chunks.push(part(std::mem::take(&mut chunk), Vec::new(), Recipients::No));
                    size = 0;
                }
                size += uid.len() + 3;
                chunk.push(uid.to_string());
            }
            if !chunk.is_empty() {
                chunks.push(part(chunk, Vec::new(), Recipients::No));
            }
            chunks
        }
    })
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

fn from_wire(answer: MultiPushAnswer) -> Delivered {
    Delivered {
        queued: usize::try_from(answer.queued).unwrap_or(usize::MAX),
        missing_uids: answer.missing_uids.into_iter().map(Arc::from).collect(),
        missing_sids: answer
            .missing_sids
            .into_iter()
            .filter_map(RawSid::new)
            .collect(),
        refused: (!answer.refused.is_empty()).then(|| answer.refused.into()),
        missing: usize::try_from(answer.missing).unwrap_or(usize::MAX),
        no_audience: answer.no_audience,
        ..Delivered::default()
    }
}

fn to_wire(delivered: &Delivered, watched: bool) -> MultiPushAnswer {
    MultiPushAnswer {
        queued: delivered.queued as u64,
        missing_uids: delivered
            .missing_uids
            .iter()
            .map(ToString::to_string)
            .collect(),
        missing_sids: delivered.missing_sids.iter().map(|sid| sid.get()).collect(),
        refused: delivered.refused.as_deref().unwrap_or_default().to_owned(),
        watched,
        missing: delivered.missing as u64,
        no_audience: delivered.no_audience,
    }
}

/// A message for clients of this frontend came.
pub(super) fn received(core: &Core, message: Message) {
    let Some(push) = decode_or_log::<MultiPush>(&message) else {
        return;
    };
    let route: Arc<str> = push.route.into();
    let latest = latest_key(&push.latest).map(Arc::from);
    let watched_by = ServerId::new(push.watched_by).ok();
    let mut delivered = Delivered::default();
    let mut watched = false;
    let mut deliver = |to| {
        let delivery = Delivery {
            route: Arc::clone(&route),
            body: push.data.clone(),
            latest: latest.clone(),
            to,
        };
        delivered.merge(match &watched_by {
            Some(by) => {
                let answered = deliver_watched(core, delivery, by);
                watched = answered.watched;
                answered.delivered
            }
            None => deliver_here(core, delivery),
        });
    };
    if !push.uids.is_empty() {
        deliver(Receivers::Uids(
            push.uids.into_iter().map(Arc::from).collect(),
        ));
    }
    if !push.sids.is_empty() {
        deliver(Receivers::Sids(
            push.sids.into_iter().filter_map(RawSid::new).collect(),
        ));
    }
    if let Some(key) = AudienceKey::parse(&push.audience) {
        deliver(Receivers::Audience {
            key,
            except: (!push.except.is_empty()).then(|| push.except.into()),
            name_missing: push.name_missing,
        });
    }
    match Recipients::try_from(push.everybody).unwrap_or(Recipients::No) {
        Recipients::No => {}
        Recipients::All => deliver(Receivers::All { bound_only: false }),
        Recipients::Bound => deliver(Receivers::All { bound_only: true }),
    }
    confirm(core, message.reply, delivered, watched);
}

/// A message for one user of this frontend came.
pub(super) fn received_plain(core: &Core, message: Message) {
    let Some(push) = decode_or_log::<Push>(&message) else {
        return;
    };
    if push.not_for_shaddock {
        return;
    }
    // The payload names the receivers, not the subject.
    let to = Receivers::Uids([Arc::from(push.uid)].into());
    let delivered = deliver_here(
        core,
        Delivery {
            route: push.route.into(),
            body: push.data,
            latest: None,
            to,
        },
    );
    confirm(core, message.reply, delivered, false);
}

fn deliver_here(core: &Core, delivery: Delivery) -> Delivered {
    if core.is_fenced() {
        return deliver_fenced(core, delivery);
    }
    guarded("deliver", || core.node.deliver(delivery))
}

/// Another frontend may now own the users of this one: only sessions without a user receive the message.
fn deliver_fenced(core: &Core, delivery: Delivery) -> Delivered {
    let mut refused = Delivered::default();
    let to = match delivery.to {
        Receivers::Uids(uids) => {
            refused.missing_uids = uids.to_vec();
            return refused;
        }
        Receivers::Audience { .. } | Receivers::All { bound_only: true } => return refused,
        Receivers::Sids(sids) => {
            let bound = core.users.bound_sids();
            let guests;
            (refused.missing_sids, guests) = sids.iter().partition(|sid| bound.contains(sid));
            Receivers::Sids(Vec::into(guests))
        }
        // The node knows that it is fenced.
        everybody @ Receivers::All { bound_only: false } => everybody,
    };
    let delivery = Delivery { to, ..delivery };
    refused.merge(guarded("deliver", || core.node.deliver(delivery)));
    refused
}

/// Answers the sender; when there is room for more, if it is one that waits.
fn confirm(core: &Core, reply: Option<Subject>, mut delivered: Delivered, watched: bool) {
    let Some(reply) = reply else {
        return;
    };
    let full = std::mem::take(&mut delivered.full);
    let answer = wire::encode(&to_wire(&delivered, watched));
    let (link, life) = (Arc::clone(&core.link), core.config.request_timeout);
    let answer = move || {
        if let Err(error) = link.publish_for(life, reply, None, answer) {
            tracing::debug!(%error, "the confirmation of a delivery was lost");
        }
    };
    if full.is_empty() {
        return answer();
    }
    // Other messages for this frontend do not wait for these clients. Without a place the reply is sent at once.
    let Ok(place) = Arc::clone(&core.waits).try_acquire_owned() else {
        return answer();
    };
    // The sender gives up a frontend that does not answer in time.
    let (room, limit) = (core.node.kept_room(full), core.config.push_timeout() / 2);
    core.home.spawn(async move {
        let _ = tokio::time::timeout(limit, room).await;
        answer();
        drop(place);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery(body: usize, to: Receivers) -> Delivery {
        Delivery {
            route: "onChat".into(),
            body: vec![b'x'; body].into(),
            latest: Some("k".repeat(MAX_LATEST_KEY).into()),
            to,
        }
    }

    /// What NATS takes unless it is told otherwise.
    const MAX_PAYLOAD: usize = 1024 * 1024;

    fn some_uids(n: usize) -> Arc<[Arc<str>]> {
        (0..n).map(|i| Arc::from(format!("{i:0>100}"))).collect()
    }

    #[test]
    fn a_thousand_users_are_one_message_and_a_million_bytes_are_more() {
        let uids: Arc<[Arc<str>]> = (0..1000).map(|i| Arc::from(format!("user-{i}"))).collect();
        let one = parts(
            &delivery(100, Receivers::Uids(Arc::clone(&uids))),
            MAX_PAYLOAD,
        )
        .unwrap();
        assert_eq!((one.len(), one[0].uids.len()), (1, 1000));

        let many = delivery(100, Receivers::Uids(some_uids(10_000)));
        let many = parts(&many, MAX_PAYLOAD).unwrap();
        assert!(many.len() > 3);
        assert_eq!(many.iter().map(|p| p.uids.len()).sum::<usize>(), 10_000);
        for part in many {
            assert!(wire::encode(&part).len() <= MESSAGE_SIZE + 1024);
        }
        assert!(
            parts(&delivery(1, Receivers::Uids([].into())), MAX_PAYLOAD)
                .unwrap()
                .is_empty()
        );
    }

    /// Whatever its length: either every part of a message fits, or none is sent.
    #[test]
    fn a_message_of_any_length_fits_in_all_its_parts_or_is_refused() {
        let sids: Arc<[RawSid]> = (1..3000)
            .filter_map(|n| RawSid::new(u64::MAX - n))
            .collect();
        for max in [4096, 65_536, MAX_PAYLOAD] {
            let mut refused = 0;
            for short_of in (0..2000).step_by(7).chain([max / 2, max / 4, max - 10]) {
                for to in [
                    Receivers::Uids(some_uids(500)),
                    Receivers::Sids(Arc::clone(&sids)),
                    Receivers::All { bound_only: true },
                    Receivers::Audience {
                        key: AudienceKey::topic(&"x".repeat(256)).unwrap(),
                        except: Some("x".repeat(256).into()),
                        name_missing: true,
                    },
                ] {
                    match parts(&delivery(max.saturating_sub(short_of), to), max) {
                        Ok(parts) => {
                            for part in parts {
                                assert!(wire::encode(&part).len() <= max, "{short_of} of {max}");
                            }
                        }
                        Err(error) => {
                            assert_eq!(error.kind(), RemoteErrorKind::Refused);
                            assert!(short_of < 1300, "{short_of}: {error}");
                            refused += 1;
                        }
                    }
                }
            }
            assert!(refused > 0);
        }
    }
}
