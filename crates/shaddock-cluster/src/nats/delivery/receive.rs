//! Messages for clients of this frontend that come over NATS.

use std::sync::Arc;

use async_nats::{Message, Subject};
use futures_util::StreamExt;
use futures_util::stream::SelectAll;
use tokio::sync::mpsc;

use super::here::{deliver_here, deliver_watched};
use super::parts::{reply_within, to_wire};
use crate::delivery::latest_key;
use crate::nats::core::Core;
use crate::nats::topics::TopicStream;
use crate::nats::wire::{MultiPush, Push, Recipients, decode_or_log};
use crate::{AudienceKey, Delivered, Delivery, RawSid, Receivers, ServerId};

/// A message for clients of this frontend came.
pub(in crate::nats) fn received(core: &Core, message: Message) {
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
pub(in crate::nats) fn received_plain(core: &Core, message: Message) {
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

/// Answers the sender; when there is room for more, if it is one that waits.
fn confirm(core: &Core, reply: Option<Subject>, mut delivered: Delivered, watched: bool) {
    let Some(reply) = reply else {
        return;
    };
    let full = std::mem::take(&mut delivered.full);
    let answer = reply_within(to_wire(&delivered, watched), core.link.max_payload());
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

/// Reads the messages of all topics, for ever.
pub(in crate::nats) async fn read_topics(core: Arc<Core>, mut opened: mpsc::Receiver<TopicStream>) {
    let mut all = SelectAll::new();
    loop {
        tokio::select! {
            stream = opened.recv() => match stream {
                Some(stream) => all.push(stream),
                None => return,
            },
            Some(message) = all.next(), if !all.is_empty() => {
                received(&core, message);
                // A burst does not outrun the sockets of clients that read. It ends soon, whatever clients do.
                if let Some(room) = core.node.room() {
                    room.await;
                }
            }
        }
    }
}
