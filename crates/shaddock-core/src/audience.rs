//! Audiences: named sets of users who receive the same pushes, stored with their sessions.
//!
//! A member is a *user on this frontend*: all sessions of the user on this frontend receive pushes to the audience, and the membership ends
//! with the last of them. The record of a user (in the uid index) lists the user's audiences, and an audience lists the sessions of its
//! members, so that a push needs no look-up of users. Both lists change under the lock of the user's shard, in the same step in which the
//! session is removed from the index: an audience has no member without a session, under any concurrency.
//!
//! An audience without members does not exist. Its name encodes its kind (a channel, a topic); this crate does not interpret the name.
//!
//! Lock order: shard of the uid, then (never both) shard of the names or one audience. Session records are not locked under an audience.

mod membership;
mod service;

use crate::few::Few;
use crate::shards::Shards;
use crate::sync::Mutex;
use crate::{Session, Sid, Uid};
use hashbrown::{DefaultHashBuilder, HashMap, HashTable};
use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// An object with the lifetime of an audience, such as a subscription. Dropped without a lock.
pub type Tie = Arc<dyn Any + Send + Sync>;

/// A user did not join an audience. Nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotJoined {
    /// The session is closed, or the user has no open session on this frontend.
    #[error("the session is closed")]
    Closed,
    /// The session is not bound to this user.
    #[error("the session is not bound to the user")]
    NotBound,
    /// The user is already in [`max_memberships`](crate::SessionConfig::max_memberships) audiences.
    #[error("a user may be in at most {limit} channels and topics")]
    TooMany {
        /// The limit.
        limit: usize,
    },
}

/// Why a user is no longer a member of an audience.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Departure {
    /// The server removed the user.
    Left,
    /// The user's last session on this frontend was closed.
    Closed,
    /// The user's last session on this frontend was unbound.
    Unbound,
    /// The audience was ended.
    Ended,
}

/// A user joined an audience (`departure` is `None`), or left it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AudienceChange {
    /// The name of the audience.
    pub audience: Arc<str>,
    /// The user.
    pub uid: Uid,
    /// Why the user left; `None` if the user joined.
    pub departure: Option<Departure>,
}

/// The sessions of the members, and the number of users.
pub(crate) struct Audience {
    name: Arc<str>,
    members: Mutex<Members>,
}

#[derive(Default)]
struct Members {
    /// In the order of joining, with holes for removed sessions.
    slots: Vec<Option<Arc<Session>>>,
    places: HashTable<u32>,
    hasher: DefaultHashBuilder,
    users: usize,
    /// The last member has left: no further user can join, and a new audience takes the name.
    is_over: bool,
    tie: Option<Tie>,
}

impl Members {
    fn find(&self, sid: Sid) -> Option<u32> {
        let is_it = |place: &u32| self.sid_at(*place) == Some(sid);
        self.places.find(self.hasher.hash_one(sid), is_it).copied()
    }

    fn sid_at(&self, place: u32) -> Option<Sid> {
        Some(self.slots.get(place as usize)?.as_ref()?.id())
    }

    fn add(&mut self, session: &Arc<Session>) {
        if self.find(session.id()).is_some() {
            return;
        }
        // The number of sessions never reaches this limit.
        let Ok(place) = u32::try_from(self.slots.len()) else {
            return;
        };
        self.slots.push(Some(Arc::clone(session)));
        let (slots, hasher) = (&self.slots, &self.hasher);
        self.places
            .insert_unique(hasher.hash_one(session.id()), place, |place| {
                hash_at(slots, hasher, *place)
            });
    }

    fn remove(&mut self, sid: Sid) {
        let slots = &self.slots;
        let is_it = |place: &u32| {
            slots
                .get(*place as usize)
                .and_then(Option::as_ref)
                .is_some_and(|session| session.id() == sid)
        };
        let Ok(entry) = self.places.find_entry(self.hasher.hash_one(sid), is_it) else {
            return;
        };
        let (place, _) = entry.remove();
        self.slots[place as usize] = None;
        // Half of the slots are holes: compact them. Each removal pays for one slot, so this is constant on average.
        if self.slots.len() > 2 * self.places.len() + 8 {
            self.compact();
        }
    }

    fn compact(&mut self) {
        self.slots.retain(Option::is_some);
        self.slots.shrink_to(2 * self.slots.len());
        self.places.clear();
        let (slots, hasher) = (&self.slots, &self.hasher);
        let hash = |place: &u32| hash_at(slots, hasher, *place);
        self.places.shrink_to(2 * slots.len(), hash);
        for place in (0_u32..).take(slots.len()) {
            self.places.insert_unique(hash(&place), place, hash);
        }
    }
}

fn hash_at(slots: &[Option<Arc<Session>>], hasher: &DefaultHashBuilder, place: u32) -> u64 {
    let session = slots.get(place as usize).and_then(Option::as_ref);
    // Every place has a session; a hole would never be found.
    session.map_or(0, |session| hasher.hash_one(session.id()))
}

impl Audience {
    fn new(name: &Arc<str>) -> Arc<Self> {
        Arc::new(Self {
            name: Arc::clone(name),
            members: Mutex::default(),
        })
    }

    /// Adds a user with these sessions. Returns false if the audience is over.
    fn enter(&self, sessions: &[Arc<Session>], tie: Option<&Tie>) -> bool {
        let mut members = self.members.lock();
        if members.is_over {
            return false;
        }
        members.users += 1;
        for session in sessions {
            members.add(session);
        }
        if members.tie.is_none() {
            members.tie = tie.cloned();
        }
        true
    }

    /// Adds another session of a member.
    pub(crate) fn add_session(&self, session: &Arc<Session>) {
        self.members.lock().add(session);
    }

    /// Removes a session of a member who has others.
    pub(crate) fn remove_session(&self, sid: Sid) {
        self.members.lock().remove(sid);
    }

    /// Removes a member with all sessions. The caller buries the audience afterwards, without a lock.
    pub(crate) fn remove_user(&self, sessions: impl IntoIterator<Item = Sid>) {
        let mut members = self.members.lock();
        for sid in sessions {
            members.remove(sid);
        }
        members.users = members.users.saturating_sub(1);
        members.is_over |= members.users == 0;
    }

    fn sessions(&self) -> (Vec<Arc<Session>>, usize) {
        let members = self.members.lock();
        let sessions = members.slots.iter().flatten().cloned().collect();
        (sessions, members.users)
    }
}

impl fmt::Debug for Audience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Audience")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// The audiences of a user. Boxed: most users are in none, and every user pays for the field.
pub(crate) type AudienceList = Option<Box<Few<Arc<Audience>>>>;

pub(crate) fn listed(list: &AudienceList) -> &[Arc<Audience>] {
    list.as_deref().map_or(&[], Few::as_slice)
}

fn is_among(list: &AudienceList, audience: &Arc<Audience>) -> bool {
    listed(list)
        .iter()
        .any(|known| Arc::ptr_eq(known, audience))
}

/// All audiences of a frontend, and the changes to be dispatched.
#[derive(Default)]
pub(crate) struct Audiences {
    names: Shards<HashMap<Arc<str>, Arc<Audience>>>,
    hasher: DefaultHashBuilder,
    /// Whether changes are dispatched.
    is_watched: AtomicBool,
    changes: Mutex<Changes>,
}

#[derive(Default)]
struct Changes {
    /// At most [`MAX_CHANGES`].
    waiting: VecDeque<AudienceChange>,
    /// Some changes were dropped before the waiting ones.
    is_lost: bool,
    /// A thread is dispatching; other threads leave their changes to it.
    dispatching: bool,
}

/// Limit of changes that wait while one is dispatched. Beyond it all of them are dropped, and
/// [`audience_changes_lost`](crate::SessionEvents::audience_changes_lost) is called.
const MAX_CHANGES: usize = 65_536;

impl Audiences {
    fn find(&self, name: &str) -> Option<Arc<Audience>> {
        let names = self.names.lock(self.hasher.hash_one(name));
        names.get(name).cloned()
    }

    /// The audience with this name, or a new one in place of one that is over.
    fn obtain(&self, name: &Arc<str>, instead_of: Option<&Arc<Audience>>) -> Arc<Audience> {
        let mut names = self.names.lock(self.hasher.hash_one(name));
        let known = names
            .entry(Arc::clone(name))
            .or_insert_with(|| Audience::new(name));
        if instead_of.is_some_and(|over| Arc::ptr_eq(over, known)) {
            *known = Audience::new(name);
        }
        Arc::clone(known)
    }

    /// Removes an audience if it is over. Without a lock, because its tie is dropped.
    fn retire(&self, audience: &Arc<Audience>) {
        let tie = {
            let mut members = audience.members.lock();
            if !members.is_over {
                return;
            }
            members.tie.take()
        };
        let mut names = self.names.lock(self.hasher.hash_one(&*audience.name));
        if let hashbrown::hash_map::EntryRef::Occupied(entry) = names.entry_ref(&*audience.name)
            && Arc::ptr_eq(entry.get(), audience)
        {
            entry.remove();
        }
        drop(names);
        drop(tie);
    }

    /// Called under the lock of the user's shard, so that the changes of one user stay in order.
    fn note(&self, name: &Arc<str>, uid: &Uid, departure: Option<Departure>) {
        if !self.is_watched.load(Ordering::Acquire) {
            return;
        }
        let mut changes = self.changes.lock();
        // Checked again: no change may be added after the end of watching has cleared the queue.
        if self.is_watched.load(Ordering::Acquire) {
            if changes.waiting.len() >= MAX_CHANGES {
                changes.waiting.clear();
                changes.is_lost = true;
            }
            changes.waiting.push_back(AudienceChange {
                audience: Arc::clone(name),
                uid: uid.clone(),
                departure,
            });
        }
    }
}
