//! A frontend's promises to senders: to notify them if one of these users is bound here ([`directory`](super::directory)).
//!
//! The table of promises; [`promises`](super::promises) keeps them. No IO.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::directory::LEASE;
use crate::owners::Moment;
use crate::{ServerId, SessionsPerUser};
use parking_lot::{Mutex, MutexGuard};

/// The limit of watched users. Above it nothing is promised: pushes to other users go to all frontends.
const USERS: usize = 65_536;
/// Time between looks for promises that have ended, when the table is full.
const LOOK: Duration = Duration::from_secs(1);

/// Servers that are notified about one user. With unique sessions one, because a bind also has to determine the owner of the user.
const SERVERS: usize = 2;
const SERVERS_IF_UNIQUE: usize = 1;

/// The promises by user.
pub(super) struct Watches {
    table: Mutex<Table>,
    /// Servers that are notified about one user.
    servers: usize,
    /// A promise could not be kept.
    pub(super) broken: Notify,
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
    pub(super) fn new(unique: SessionsPerUser) -> Self {
        let servers = if unique == SessionsPerUser::Any {
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
        self.table.lock()
    }

    /// Promises to notify a server of binds of these users. False if that is not possible for all of them.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Conflict;

    #[test]
    fn promises_are_bounded_and_end() {
        let server = |n: u8| ServerId::new(format!("chat-{n}")).unwrap();
        let user = |n: usize| -> Arc<str> { format!("user-{n}").into() };
        let at = |seconds| Moment(0).after(Duration::from_secs(seconds));
        for (unique, servers) in [
            (SessionsPerUser::Any, 2),
            (SessionsPerUser::One(Conflict::ReplaceOld), 1),
        ] {
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
        let watches = Watches::new(SessionsPerUser::Any);
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
