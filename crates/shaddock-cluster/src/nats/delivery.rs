//! Messages for clients, on their way to frontends and at their end.

use std::sync::Arc;

use async_nats::{Message, Subject};
use bytes::Bytes;

use super::calls::{Answer, Asked};
use super::core::{Core, is_shaddock};
use super::serve::{decode, decode_or_log};
use super::subject;
use super::wire::{self, Everybody, MultiPush, MultiPushAnswer, Push};
use crate::reply::{Limit, guarded};
use crate::uid;
use crate::{
    BoxFuture, Delivered, Delivery, RawSid, Receivers, RemoteError, RemoteErrorKind, ServerInfo,
    code,
};

type Delivering = BoxFuture<'static, Result<Delivered, RemoteError>>;

/// A message with its receivers is split above this, unless the body alone is larger.
const MESSAGE_SIZE: usize = 256 * 1024;
/// Room for receivers beside a body that leaves none within [`MESSAGE_SIZE`].
const LEAST_ROOM: usize = 64 * 1024;

/// Sends a message to clients of a frontend.
pub(super) fn send(core: &Arc<Core>, frontend: &ServerInfo, delivery: &Delivery) -> Delivering {
    if frontend.id == core.info.id {
        // Without a way over NATS: also while that is away, and behind what was delivered here before.
        let delivered = deliver_here(core, delivery.clone());
        return Box::pin(std::future::ready(Ok(delivered)));
    }
    if is_shaddock(frontend) {
        let sent: Vec<_> = parts(delivery)
            .iter()
            .map(|part| send_part(core, frontend, part))
            .collect();
        return collect(core, frontend, sent);
    }
    let result = match &delivery.to {
        Receivers::Uids(uids) => send_plain(core, &frontend.server_type, delivery, uids, false),
        Receivers::Sids(_) | Receivers::All { .. } => Err(RemoteError::of(
            RemoteErrorKind::Refused,
            code::UNKNOWN,
            "the frontend is a Pitaya server, which only knows users",
        )),
    };
    Box::pin(std::future::ready(result))
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
    if is_shaddock(frontend) {
        let subject = Subject::from(subject::multi_push(frontend));
        for part in parts(delivery) {
            core.link
                .publish(subject.clone(), None, wire::encode(&part))?;
        }
        return Ok(());
    }
    match &delivery.to {
        Receivers::Uids(uids) => {
            send_plain(core, &frontend.server_type, delivery, uids, false).map(|_| ())
        }
        _ => Err(RemoteError::of(
            RemoteErrorKind::Refused,
            code::UNKNOWN,
            "the frontend is a Pitaya server, which only knows users",
        )),
    }
}

/// Sends to users of a type by the subjects that all servers know.
pub(super) fn send_to_users(
    core: &Arc<Core>,
    frontend_type: &str,
    delivery: &Delivery,
    uids: &Arc<[Arc<str>]>,
) -> Delivering {
    let frontends: Vec<_> = core
        .frontends()
        .into_iter()
        .filter(|f| *f.server_type == *frontend_type)
        .collect();
    if frontends.iter().any(|f| !is_shaddock(f)) {
        return send_mixed(core, frontend_type, &frontends, delivery, uids);
    }
    if frontends.len() <= uids.len() || core.config.lazy_user_subjects {
        let sends: Vec<_> = frontends
            .iter()
            .map(|frontend| send(core, frontend, delivery))
            .collect();
        let uids = Arc::clone(uids);
        return Box::pin(async move {
            let answers = futures_util::future::try_join_all(sends).await?;
            Ok(merge_same_receivers(answers, &uids))
        });
    }
    // Few users and many frontends: NATS knows where they are, and those who have them answer.
    let sent: Vec<_> = uids
        .iter()
        .map(|uid| {
            let push = plain(delivery, uid, false);
            let asked = if uid::is_uid(uid) {
                let subject = Subject::from(subject::push(frontend_type, uid));
                core.calls
                    .ask(subject, push, core.config.request_timeout)
                    .map(Some)
            } else {
                Ok(None)
            };
            (Arc::clone(uid), asked)
        })
        .collect();
    Box::pin(async move {
        let mut delivered = Delivered::default();
        for (uid, asked) in sent {
            match asked? {
                None => delivered.missing_uids.push(uid),
                Some(asked) => match asked.answer().await {
                    Some(Answer::NoResponder) => delivered.missing_uids.push(uid),
                    Some(answer) => delivered.merge(from_wire(decode(answer.into_payload()?)?)),
                    None => delivered.unconfirmed.push(uid),
                },
            }
        }
        Ok(delivered)
    })
}

/// Where some frontends are Pitaya's: one message to each of ours, which say whom they reached, and one for each user to the others, which
/// do not. Ours pass over the latter.
fn send_mixed(
    core: &Arc<Core>,
    frontend_type: &str,
    frontends: &[Arc<ServerInfo>],
    delivery: &Delivery,
    uids: &Arc<[Arc<str>]>,
) -> Delivering {
    let ours = frontends.iter().filter(|f| is_shaddock(f));
    let sends: Vec<_> = ours.map(|ours| send(core, ours, delivery)).collect();
    let plain = send_plain(core, frontend_type, delivery, uids, true);
    let uids = Arc::clone(uids);
    Box::pin(async move {
        let plain = plain?;
        let answers = futures_util::future::try_join_all(sends).await?;
        let mut delivered = merge_same_receivers(answers, &uids);
        // Whom ours do not have may be at one of the others, unless his name is none.
        let elsewhere = |uid: &Arc<str>| plain.unconfirmed.contains(uid);
        let (unconfirmed, missing) = delivered.missing_uids.into_iter().partition(elsewhere);
        delivered.unconfirmed = unconfirmed;
        delivered.missing_uids = missing;
        Ok(delivered)
    })
}

/// All frontends were told of the same users; one is missing if he is missing everywhere.
fn merge_same_receivers(answers: Vec<Delivered>, uids: &[Arc<str>]) -> Delivered {
    let frontends = answers.len();
    let mut merged = Delivered::default();
    let mut missing: std::collections::HashMap<Arc<str>, usize> = std::collections::HashMap::new();
    for answer in answers {
        merged.queued += answer.queued;
        merged.refused = merged.refused.or(answer.refused);
        for uid in answer
            .missing_uids
            .iter()
            .collect::<std::collections::BTreeSet<_>>()
        {
            *missing.entry(Arc::clone(uid)).or_default() += 1;
        }
    }
    merged.missing_uids = uids
        .iter()
        .filter(|uid| missing.get(*uid).copied().unwrap_or(0) == frontends)
        .cloned()
        .collect();
    merged
}

/// One message per user, as Pitaya servers know it. No answer comes.
fn send_plain(
    core: &Core,
    frontend_type: &str,
    delivery: &Delivery,
    uids: &[Arc<str>],
    not_for_shaddock: bool,
) -> Result<Delivered, RemoteError> {
    let mut delivered = Delivered::default();
    for uid in uids {
        // Nobody else is connected to a Pitaya server.
        if uid::is_plain(uid) {
            let subject = Subject::from(subject::push(frontend_type, uid));
            let push = plain(delivery, uid, not_for_shaddock);
            core.link.publish(subject, None, push)?;
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

/// The messages of one delivery: normally one.
fn parts(delivery: &Delivery) -> Vec<MultiPush> {
    let part = |uids, sids, everybody: Everybody| MultiPush {
        route: delivery.route.to_string(),
        data: delivery.body.clone(),
        uids,
        sids,
        everybody: everybody as i32,
    };
    let room = MESSAGE_SIZE
        .saturating_sub(delivery.body.len())
        .max(LEAST_ROOM);
    match &delivery.to {
        Receivers::All { bound_only } => {
            let who = if *bound_only {
                Everybody::Bound
            } else {
                Everybody::All
            };
            vec![part(Vec::new(), Vec::new(), who)]
        }
        // A number takes at most ten bytes.
        Receivers::Sids(sids) => sids
            .chunks(room / 10)
            .map(|sids| {
                part(
                    Vec::new(),
                    sids.iter().map(|sid| sid.get()).collect(),
                    Everybody::No,
                )
            })
            .collect(),
        Receivers::Uids(uids) => {
            let mut chunks = Vec::new();
            let (mut chunk, mut size) = (Vec::new(), 0);
            for uid in uids.iter() {
                // Tag and length take at most three bytes.
                if size + uid.len() + 3 > room {
                    chunks.push(part(std::mem::take(&mut chunk), Vec::new(), Everybody::No));
                    size = 0;
                }
                size += uid.len() + 3;
                chunk.push(uid.to_string());
            }
            if !chunk.is_empty() {
                chunks.push(part(chunk, Vec::new(), Everybody::No));
            }
            chunks
        }
    }
}

fn send_part(
    core: &Arc<Core>,
    frontend: &ServerInfo,
    part: &MultiPush,
) -> Result<Asked, RemoteError> {
    let subject = Subject::from(subject::multi_push(frontend));
    core.calls
        .ask(subject, wire::encode(part), core.config.request_timeout)
}

fn collect(
    core: &Arc<Core>,
    frontend: &ServerInfo,
    sent: Vec<Result<Asked, RemoteError>>,
) -> Delivering {
    let limit = Limit {
        timeout: core.config.request_timeout,
        route: "shaddock.mpush".into(),
        caller: core.info.id.clone(),
        target: frontend.id.clone(),
    };
    let core = Arc::clone(core);
    Box::pin(async move {
        let mut delivered = Delivered::default();
        for asked in sent {
            let answer = asked?.answer().await.ok_or_else(|| limit.error())?;
            if matches!(answer, Answer::NoResponder) {
                core.not_there(&limit.target);
            }
            delivered.merge(from_wire(decode(answer.into_payload()?)?));
        }
        Ok(delivered)
    })
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
        unconfirmed: Vec::new(),
        refused: (!answer.refused.is_empty()).then(|| answer.refused.into()),
    }
}

fn to_wire(delivered: &Delivered) -> MultiPushAnswer {
    MultiPushAnswer {
        queued: delivered.queued as u64,
        missing_uids: delivered
            .missing_uids
            .iter()
            .map(ToString::to_string)
            .collect(),
        missing_sids: delivered.missing_sids.iter().map(|sid| sid.get()).collect(),
        refused: delivered.refused.as_deref().unwrap_or_default().to_owned(),
    }
}

/// A message for clients of this frontend came.
pub(super) fn received(core: &Core, message: Message) {
    let Some(push) = decode_or_log::<MultiPush>(&message) else {
        return;
    };
    let route: Arc<str> = push.route.into();
    let mut delivered = Delivered::default();
    let mut deliver = |to| {
        let delivery = Delivery {
            route: Arc::clone(&route),
            body: push.data.clone(),
            to,
        };
        delivered.merge(deliver_here(core, delivery));
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
    match Everybody::try_from(push.everybody).unwrap_or(Everybody::No) {
        Everybody::No => {}
        Everybody::All => deliver(Receivers::All { bound_only: false }),
        Everybody::Bound => deliver(Receivers::All { bound_only: true }),
    }
    confirm(core, message.reply, &delivered);
}

/// A message for one user of this frontend came.
pub(super) fn received_plain(core: &Core, message: Message) {
    let Some(push) = decode_or_log::<Push>(&message) else {
        return;
    };
    if push.not_for_shaddock {
        return;
    }
    // The payload says for whom it is, not the subject.
    let to = Receivers::Uids([Arc::from(push.uid)].into());
    let delivered = deliver_here(
        core,
        Delivery {
            route: push.route.into(),
            body: push.data,
            to,
        },
    );
    confirm(core, message.reply, &delivered);
}

fn deliver_here(core: &Core, delivery: Delivery) -> Delivered {
    if core.is_fenced() {
        return deliver_fenced(core, delivery);
    }
    guarded("deliver", || core.node.deliver(delivery))
}

/// Perhaps another frontend owns the users of this one by now: only who is nobody's gets anything.
fn deliver_fenced(core: &Core, delivery: Delivery) -> Delivered {
    let mut refused = Delivered::default();
    let to = match delivery.to {
        Receivers::Uids(uids) => {
            refused.missing_uids = uids.to_vec();
            return refused;
        }
        Receivers::All { bound_only: true } => return refused,
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

fn confirm(core: &Core, reply: Option<Subject>, delivered: &Delivered) {
    if let Some(reply) = reply
        && let Err(error) = core
            .link
            .publish(reply, None, wire::encode(&to_wire(delivered)))
    {
        tracing::debug!(%error, "the confirmation of a delivery was lost");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery(body: usize, to: Receivers) -> Delivery {
        Delivery {
            route: "onChat".into(),
            body: vec![b'x'; body].into(),
            to,
        }
    }

    #[test]
    fn a_thousand_users_are_one_message_and_a_million_bytes_are_more() {
        let uids: Arc<[Arc<str>]> = (0..1000).map(|i| Arc::from(format!("user-{i}"))).collect();
        let one = parts(&delivery(100, Receivers::Uids(Arc::clone(&uids))));
        assert_eq!((one.len(), one[0].uids.len()), (1, 1000));

        let long: Arc<[Arc<str>]> = (0..10_000)
            .map(|i| Arc::from(format!("{i:0>100}")))
            .collect();
        let many = parts(&delivery(100, Receivers::Uids(long)));
        assert!(many.len() > 3);
        assert_eq!(many.iter().map(|p| p.uids.len()).sum::<usize>(), 10_000);
        for part in many {
            assert!(wire::encode(&part).len() <= MESSAGE_SIZE + 1024);
        }
    }

    #[test]
    fn a_large_body_still_finds_its_receivers() {
        let uids: Arc<[Arc<str>]> = [Arc::from("u")].into();
        assert_eq!(
            parts(&delivery(MESSAGE_SIZE * 2, Receivers::Uids(uids))).len(),
            1
        );
        assert!(parts(&delivery(1, Receivers::Uids([].into()))).is_empty());
    }

    #[test]
    fn one_who_is_somewhere_is_not_missing() {
        let uid = |n: u8| -> Arc<str> { n.to_string().into() };
        let here = |queued, missing: &[u8]| Delivered {
            queued,
            missing_uids: missing.iter().map(|n| uid(*n)).collect(),
            ..Delivered::default()
        };
        let merged = merge_same_receivers(
            vec![here(1, &[2, 3]), here(1, &[1, 3])],
            &[uid(1), uid(2), uid(3)],
        );
        assert_eq!(merged, here(2, &[3]));
    }
}
