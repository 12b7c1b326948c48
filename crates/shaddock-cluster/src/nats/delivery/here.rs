//! Deliveries to clients of this frontend.

use crate::clock;
use crate::nats::core::Core;
use crate::reply::guarded;
use crate::{Delivered, Delivery, Receivers, RemoteError, ServerId};

/// The reply of a frontend.
pub(in crate::nats) struct Answered {
    pub(in crate::nats) delivered: Delivered,
    /// The frontend will notify this server if one of the users is bound there.
    pub(in crate::nats) watched: bool,
}

/// Delivers to clients of this frontend.
pub(super) fn deliver_here(core: &Core, delivery: Delivery) -> Delivered {
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

/// Delivers to users here, and promises to notify `by` if one of them is bound here.
pub(super) fn deliver_watched(core: &Core, delivery: Delivery, by: &ServerId) -> Answered {
    let Receivers::Uids(uids) = &delivery.to else {
        let delivered = deliver_here(core, delivery);
        return Answered {
            delivered,
            watched: false,
        };
    };
    // Before users are found missing: a bind that comes later finds the promise.
    let promised = core.watches.promise(uids, by, clock::now());
    let delivered = deliver_here(core, delivery);
    // And a bind that came before is known, even if its session does not receive messages yet.
    let mut missing = delivered.missing_uids.iter();
    let watched = promised && !missing.any(|uid| core.users.knows(uid));
    Answered { delivered, watched }
}

/// The report of a delivery, sent when there is room for more.
pub(super) fn after_room(
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
