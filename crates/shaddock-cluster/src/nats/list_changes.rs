//! Applies changes of the list of servers to this server.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::core::Core;
use super::{events, servers};
use crate::MemberChange;
use crate::clock;

/// How long users keep their subscriptions after the last Pitaya server has left the list: it may still finish what it has.
const LINGER: u32 = 2;
/// How long a Pitaya server is kept out of the list of this server until all users have their subscriptions.
const SUBSCRIBE: Duration = Duration::from_secs(5);

/// The list was read for the first time: the node is not notified of the servers in it.
pub(super) fn entered(core: &Arc<Core>) {
    check_user_subjects(core);
    servers::read_interests(core);
    core.set_entered();
}

/// The list has changed.
pub(super) fn member_changed(core: &Arc<Core>, change: MemberChange) {
    if !core.has_entered() {
        return;
    }
    check_user_subjects(core);
    // Before the node is notified of the change: from then on its events reach the subscribers.
    servers::read_interests(core);
    if matches!(&change, MemberChange::Joined(info) if info.frontend) {
        // It has promised nothing.
        core.directory.end_leases();
    }
    if matches!(change, MemberChange::Joined(_)) && is_withdrawn(core) {
        // It has not received the goodbye, and sends nothing to a server that it does not know.
        events::say_goodbye(core, false);
    }
    let now = clock::now();
    let news = match change {
        MemberChange::Joined(info) => core.departing.lock().listed(info, now),
        MemberChange::Left(info) => {
            let can_be_asked = info.is_shaddock();
            let mut table = core.departing.lock();
            table.unlisted(info, can_be_asked, now)
        }
        // The list has no such change; it is decided here.
        MemberChange::Returned(_) => return,
    };
    servers::execute(core, news);
}

/// Whether this server has left the list and still serves what it has.
fn is_withdrawn(core: &Core) -> bool {
    let is_over = core.options.hidden || core.left.load(Ordering::Acquire);
    !core.lease.is_wanted() && !is_over
}

/// Whether users need subscriptions of their own depends on the servers in the list.
fn check_user_subjects(core: &Arc<Core>) {
    if core.need_user_subjects() {
        if core.users.are_needed() {
            let core = Arc::clone(core);
            tokio::spawn(async move { core.users.subscribe_all(&core.link).await });
        }
    } else if !core.has_entered() {
        core.users.give_subscriptions_up(0);
    } else if let Some(count) = core.users.are_not_needed() {
        let (core, linger) = (Arc::downgrade(core), core.config.request_timeout * LINGER);
        tokio::spawn(async move {
            tokio::time::sleep(linger).await;
            if let Some(core) = core.upgrade() {
                core.users.give_subscriptions_up(count);
            }
        });
    }
}

/// A Pitaya server is about to be in the list: users get their subscriptions before anything is sent to it.
pub(super) async fn expect_pitaya(core: &Core) {
    if !(core.info.frontend && core.users.are_needed()) {
        return;
    }
    let subscribed = async {
        core.users.subscribe_all(&core.link).await;
        core.link.round_trip(SUBSCRIBE).await
    };
    if !matches!(tokio::time::timeout(SUBSCRIBE, subscribed).await, Ok(true)) {
        tracing::warn!(server = %core.info.id, "a Pitaya server has joined before it can reach all users");
    }
}
