//! Keeps the promises of this frontend to notify senders of binds ([`watches`](super::watches)).
//!
//! A promise is kept before the bind completes, so later pushes to the user find this frontend. A promise that cannot be kept (the sender
//! does not reply in time, or the link is down) is revoked explicitly: all servers are notified that leases are void, repeatedly until NATS
//! has accepted the message.

use std::sync::Arc;
use std::time::Duration;

use super::core::Core;
use super::{events, questions, servers};
use crate::ServerId;
use crate::clock;

/// How long a server may take to confirm that it was notified.
const TELL: Duration = Duration::from_secs(1);
/// Time between attempts to revoke promises.
const AGAIN: Duration = Duration::from_millis(250);

/// Notifies the servers that were promised it that a user is being bound here. Completes when they have confirmed it, or were too late.
pub(super) async fn keep(core: &Arc<Core>, uid: &Arc<str>) {
    let servers = core.watches.of(uid, clock::now());
    if servers.is_empty() {
        return;
    }
    let told =
        futures_util::future::join_all(servers.iter().map(|server| notify(core, server, uid)));
    let told = told.await;
    for (server, told) in servers.iter().zip(told) {
        if !told {
            // It will be notified that no promise counts any more.
            core.watches.forget(server);
            core.watches.broken.notify_one();
        }
    }
}

async fn notify(core: &Arc<Core>, server: &ServerId, uid: &Arc<str>) -> bool {
    if *server == core.info.id {
        let unique = core.is_unique();
        core.directory
            .bound_at(&core.info.server_type, uid, server, unique);
        return true;
    }
    match servers::find(core, server.as_str()) {
        Some(info) => questions::tell_bound_here(core, &info, uid, TELL).await,
        None => false,
    }
}

/// Revokes all promises whenever one was broken, for ever.
pub(super) async fn revoke_broken(core: Arc<Core>) {
    loop {
        core.watches.broken.notified().await;
        tracing::debug!(server = %core.info.id, "not every server could be notified of a user's frontend; all servers are asked to forget the frontends of users");
        while !(events::end_leases(&core) && core.link.round_trip(TELL).await) {
            tokio::time::sleep(AGAIN).await;
        }
    }
}
