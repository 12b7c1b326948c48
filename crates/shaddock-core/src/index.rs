//! The two indexes: sessions by sid, and open bound sessions by uid. Each is split into shards with separate locks.

use crate::audience::{Audience, AudienceList, listed};
use crate::few::{Few, Removed};
use crate::shards::Shards;
use crate::sync::MutexGuard;
use crate::{Session, Sid, Uid};
use hashbrown::hash_table::Entry;
use hashbrown::{DefaultHashBuilder, HashTable};
use std::hash::BuildHasher;
use std::sync::Arc;

/// A shard that becomes empty releases its memory if its capacity exceeds this, so that memory is returned after a load peak, but not
/// reallocated for every client of a quiet server.
const KEPT: usize = 32;

/// Every session that is not closed, by sid. The sid is stored in the session only, which halves the memory of a map with keys.
#[derive(Debug, Default)]
pub(crate) struct SidIndex {
    sessions: Shards<HashTable<Arc<Session>>>,
    hasher: DefaultHashBuilder,
}

impl SidIndex {
    fn hash(&self, sid: Sid) -> u64 {
        self.hasher.hash_one(sid)
    }

    /// Inserts a new session with a unique sid.
    pub(crate) fn insert(&self, session: &Arc<Session>) {
        let sid = session.id();
        let mut shard = self.sessions.of(sid);
        shard.insert_unique(self.hash(sid), Arc::clone(session), |other| {
            self.hash(other.id())
        });
    }

    pub(crate) fn get(&self, sid: Sid) -> Option<Arc<Session>> {
        let shard = self.sessions.of(sid);
        shard
            .find(self.hash(sid), |session| session.id() == sid)
            .cloned()
    }

    pub(crate) fn remove(&self, sid: Sid) -> Option<Arc<Session>> {
        let mut shard = self.sessions.of(sid);
        let entry = shard.find_entry(self.hash(sid), |session| session.id() == sid);
        let (session, _) = entry.ok()?.remove();
        if shard.is_empty() && shard.capacity() > KEPT {
            shard.shrink_to_fit(|session| self.hash(session.id()));
        }
        Some(session)
    }

    pub(crate) fn len(&self) -> usize {
        self.sessions.each().map(|shard| shard.len()).sum()
    }

    /// Calls `f` for all sessions, [in memory order](by_place). No lock is held meanwhile.
    pub(crate) fn visit(&self, f: impl FnMut(&Arc<Session>)) {
        let mut all = Vec::new();
        for shard in self.sessions.each() {
            all.extend(shard.iter().cloned());
        }
        by_place(all).iter().for_each(f);
    }

    /// All sessions, ascending.
    pub(crate) fn sorted(&self) -> Vec<Arc<Session>> {
        let mut all = Vec::new();
        for shard in self.sessions.each() {
            all.extend(shard.iter().cloned());
        }
        all.sort_unstable_by_key(|session| session.id());
        all
    }
}

/// Sorts sessions by their memory address, without accessing them.
///
/// Clients that connected one after another have adjacent records, sockets and other state, here and in the kernel. Visiting all of them in
/// this order finds the next one's data where the processor has already fetched them.
fn by_place(mut sessions: Vec<Arc<Session>>) -> Vec<Arc<Session>> {
    sessions.sort_unstable_by_key(|session| Arc::as_ptr(session).addr());
    sessions
}

#[derive(Debug)]
pub(crate) struct User {
    uid: Uid,
    /// In the order of binding. Most users have one.
    pub(crate) bound: Few<Arc<Session>>,
    /// The user's audiences. They end with the last session, in the step that removes it.
    pub(crate) audiences: AudienceList,
}

/// Open sessions that are bound, by uid. A user without a session has no entry.
#[derive(Debug, Default)]
pub(crate) struct UidIndex {
    users: Shards<HashTable<User>>,
    hasher: DefaultHashBuilder,
}

impl UidIndex {
    /// Locks the shard of a user. A bind holds the lock from its checks to its entry.
    pub(crate) fn lock(&self, uid: &str) -> UidShard<'_> {
        let hash = self.hasher.hash_one(uid);
        // The table uses the lowest and the highest bits.
        UidShard {
            users: self.users.lock(hash >> 32),
            hash,
            hasher: &self.hasher,
        }
    }

    /// Calls `f` for the sessions of one user without a lock, and returns their number.
    pub(crate) fn visit_user(&self, uid: &str, f: impl FnMut(&Arc<Session>)) -> usize {
        let shard = self.lock(uid);
        // For a user with one session this clones a pointer and no list.
        let Some(sessions) = shard.user(uid).map(|user| user.bound.clone()) else {
            return 0;
        };
        drop(shard);
        sessions.as_slice().iter().for_each(f);
        sessions.as_slice().len()
    }

    /// Calls `f` for all bound sessions, [in memory order](by_place). No lock is held meanwhile.
    pub(crate) fn visit(&self, f: impl FnMut(&Arc<Session>)) {
        let mut all = Vec::new();
        for shard in self.users.each() {
            all.extend(shard.iter().flat_map(|user| user.bound.as_slice()).cloned());
        }
        by_place(all).iter().for_each(f);
    }

    /// The number of users with a session.
    pub(crate) fn users(&self) -> usize {
        self.users.each().map(|shard| shard.len()).sum()
    }
}

/// The locked shard of one user.
pub(crate) struct UidShard<'a> {
    users: MutexGuard<'a, HashTable<User>>,
    hash: u64,
    hasher: &'a DefaultHashBuilder,
}

impl UidShard<'_> {
    fn user(&self, uid: &str) -> Option<&User> {
        self.users.find(self.hash, |user| user.uid == *uid)
    }

    /// The sessions of the user.
    pub(crate) fn sessions(&self, uid: &str) -> &[Arc<Session>] {
        self.user(uid).map_or(&[], |user| user.bound.as_slice())
    }

    pub(crate) fn user_mut(&mut self, uid: &str) -> Option<&mut User> {
        self.users.find_mut(self.hash, |user| user.uid == *uid)
    }

    /// The audiences of the user.
    pub(crate) fn audiences(&self, uid: &str) -> &[Arc<Audience>] {
        self.user(uid).map_or(&[], |user| listed(&user.audiences))
    }

    /// Appends a session to its user's sessions. It receives what the user's audiences receive.
    pub(crate) fn insert(&mut self, uid: &Uid, session: &Arc<Session>) {
        let hasher = self.hasher;
        let entry = self.users.entry(
            self.hash,
            |user| user.uid == *uid,
            |user| hasher.hash_one(user.uid.as_str()),
        );
        match entry {
            Entry::Occupied(mut user) => {
                let user = user.get_mut();
                user.bound.push(Arc::clone(session));
                for audience in listed(&user.audiences) {
                    audience.add_session(session);
                }
            }
            Entry::Vacant(place) => {
                let bound = Few::One(Arc::clone(session));
                place.insert(User {
                    uid: uid.clone(),
                    bound,
                    audiences: None,
                });
            }
        }
    }

    /// Removes a session, if present, also from the audiences of its user. Returns the audiences that the user has left, if it was the last
    /// session; those that are over must be buried.
    pub(crate) fn remove(&mut self, uid: &str, sid: Sid) -> AudienceList {
        let Ok(mut entry) = self.users.find_entry(self.hash, |user| user.uid == *uid) else {
            return None;
        };
        let user = entry.get_mut();
        let removed = user.bound.remove(|session| session.id() == sid);
        let mut left = None;
        match removed {
            Removed::Nothing => return None,
            Removed::Some => {
                for audience in listed(&user.audiences) {
                    audience.remove_session(sid);
                }
            }
            Removed::Last => {
                left = entry.remove().0.audiences;
                for audience in listed(&left) {
                    audience.remove_user([sid]);
                }
                if self.users.is_empty() && self.users.capacity() > KEPT {
                    let hasher = self.hasher;
                    self.users
                        .shrink_to_fit(|user| hasher.hash_one(user.uid.as_str()));
                }
            }
        }
        left
    }
}
