//! A frontend's promises to senders: to notify them if one of these users is bound here ([`directory`](super::directory)).
//!
//! A promise is kept before the bind completes, so later pushes to the user find this frontend. A promise that cannot be kept (the sender
//! does not reply in time, or the link is down) is revoked explicitly: all servers are notified that leases are void, repeatedly until NATS
//! has accepted the message.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::core::Core;
use super::directory::LEASE;
use super::{events, questions, servers};
use crate::clock;
use crate::owners::Moment;
use crate::{ServerId, Unique};

/// Users who are watched. Of more than that nothing is promised: pushes to them go to all frontends.
const USERS: usize = 65_536;
/// Time between looks for promises that have ended, when the table is full.
const LOOK: Duration = Duration::from_secs(1);

/// Servers that are notified about one user. With unique sessions one, because a bind also has to determine the owner of the user.
const SERVERS: usize = 2;
const SERVERS_IF_UNIQUE: usize = 1;

/// How long a server may take to say that it has been told.
const TELL: Duration = Duration::from_secs(1);
/// Time between attempts to say that promises were broken.
const AGAIN: Duration = Duration::from_millis(250);

/// The promises by user.
pub(super) struct Watches {
    table: Mutex<Table>,
    /// Servers that are notified about one user.
    servers: usize,
    /// A promise could not be kept.
    broken: Notify,
}

#[derive(Default)]
struct Table {
    users: HashMap<Arc<str>, Vec<Watch>>,
    looked: Moment,
}

struct Watch {
    server: ServerId,
    until: Moment,
}

impl Watches {
    pub(super) fn new(unique: Unique) -> Self {
        let servers = if unique == Unique::No {
            SERVERS
        } else {
            SERVERS_IF_UNIQUE
        };
        Self {
            table: Mutex::default(),
            servers,
            broken: Notify::new(),
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Promises to tell a server of these users. False if that is not possible for all of them.
    pub(super) fn promise(&self, uids: &[Arc<str>], server: &ServerId, now: Moment) -> bool {
        let mut table = self.table();
        let Table { users, looked } = &mut *table;
        let ends = now.after(LEASE);
        for uid in uids {
            if users.len() >= USERS && !users.contains_key(uid) {
                if now < looked.after(LOOK) {
                    return false;
                }
                *looked = now;
                users.retain(|_, watches| watches.iter().any(|watch| now < watch.until));
                if users.len() >= USERS {
                    return false;
                }
            }
            let watches = users
                .entry(Arc::clone(uid))
                .or_insert_with(|| Vec::with_capacity(1));
            watches.retain(|watch| now < watch.until && watch.server != *server);
            if watches.len() >= self.servers {
                return false;
            }
            watches.push(Watch {
                server: server.clone(),
                until: ends,
            });
        }
        true
    }

    /// The servers to notify about a user.
    pub(super) fn of(&self, uid: &str, now: Moment) -> Vec<ServerId> {
        let table = self.table();
        let watches = table.users.get(uid).into_iter().flatten();
        let promised = watches.filter(|watch| now < watch.until);
        promised.map(|watch| watch.server.clone()).collect()
    }

    /// A server has left: promises to it end.
    pub(super) fn forget(&self, server: &ServerId) {
        self.table().users.retain(|_, watches| {
            watches.retain(|watch| watch.server != *server);
            !watches.is_empty()
        });
    }
}

/// Tells those who were promised it that a user is being bound here. It is done when they know.
pub(super) async fn keep_promises(core: &Arc<Core>, uid: &Arc<str>) {
    let servers = core.watches.of(uid, clock::now());
    if servers.is_empty() {
        return;
    }
    let told =
        futures_util::future::join_all(servers.iter().map(|server| notify(core, server, uid)));
    let told = told.await;
    for (server, told) in servers.iter().zip(told) {
        if !told {
            // It will hear that no promise counts any more.
            core.watches.forget(server);
            core.watches.broken.notify_one();
        }
    }
}

async fn notify(core: &Arc<Core>, server: &ServerId, uid: &Arc<str>) -> bool {
    if *server == core.info.id {
        let unique = core.is_unique();
        core.directory
            .came(&core.info.server_type, uid, server, unique);
        return true;
    }
    match servers::find(core, server.as_str()) {
        Some(info) => questions::tell_bound_here(core, &info, uid, TELL).await,
        None => false,
    }
}

/// Says that promises were broken, whenever one was, for ever.
pub(super) async fn break_aloud(core: Arc<Core>) {
    loop {
        core.watches.broken.notified().await;
        tracing::debug!(server = %core.info.id, "not every server could be notified of a user's frontend; all servers are asked to forget the frontends of users");
        while !(events::end_leases(&core) && core.link.round_trip(TELL).await) {
            tokio::time::sleep(AGAIN).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promises_are_bounded_and_end() {
        let server = |n: u8| ServerId::new(format!("chat-{n}")).unwrap();
        let user = |n: usize| -> Arc<str> { format!("user-{n}").into() };
        let at = |seconds| Moment(0).after(Duration::from_secs(seconds));
        for (unique, servers) in [(Unique::No, 2), (Unique::ReplaceOld, 1)] {
            let watches = Watches::new(unique);
            let mut promised = Vec::new();
            for n in 0..4 {
                if watches.promise(&[user(0)], &server(n), at(u64::from(n))) {
                    promised.push(server(n));
                }
            }
            assert_eq!(promised.len(), servers);
            assert_eq!(watches.of("user-0", at(10)), promised);
            assert!(watches.of("user-1", at(10)).is_empty());
            assert!(
                watches.promise(&[user(0)], &server(0), at(50)),
                "a promise is renewed"
            );
            assert_eq!(watches.of("user-0", at(100)), [server(0)]);
            watches.forget(&server(0));
            assert!(watches.of("user-0", at(100)).is_empty());
        }
        let watches = Watches::new(Unique::No);
        let all: Vec<_> = (0..USERS).map(user).collect();
        assert!(watches.promise(&all, &server(1), at(0)));
        assert!(!watches.promise(&[user(USERS)], &server(1), at(59)));
        assert!(
            watches.promise(&[user(7)], &server(1), at(59)),
            "this one is there"
        );
        assert!(watches.promise(&[user(USERS)], &server(1), at(61)));
        assert_eq!(watches.table().users.len(), 2);
    }
}
