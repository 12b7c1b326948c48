//! The directory of users: for pushes to users whose frontend type, but not frontend, is known.
//!
//! The push to an unknown user is sent to all frontends of the type, in order with everything else that is sent to them; the replies name
//! the user's frontend. From then on a push to the user is one message to that frontend.
//!
//! An entry may be wrong in two ways, and neither loses a push:
//!
//! - **The user has left that frontend.** The frontend reports the user as missing; the push is sent to all frontends again, once.
//! - **The user is on another frontend, too.** An entry counts as complete only with a *lease* ([`LEASE`]): every frontend of the type has
//!   promised to notify this server if the user is bound there ([`watches`](super::watches)), before that bind completes. An expired lease
//!   is no promise; then all frontends are asked again. Only with unique sessions an entry counts without a lease: the user has no other
//!   session.
//!
//! With a lease, "nowhere" is an answer too: a push to a user without a connection costs no message.
//!
//! All leases end when a frontend joins (it has promised nothing), when a frontend revokes its promises because it could not keep one, and
//! when the own link is lost (and notifications with it).
//!
//! No IO, no tasks, no clock: the time is an argument.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use arc_swap::ArcSwap;
use shaddock_core::Shards;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::owners::{Moment, counts_for};
use crate::{Members, ServerId, ServerInfo};

/// How long a frontend keeps the promise to notify a server of a user's bind. That server counts a little less, from before its question.
pub(super) const LEASE: Duration = Duration::from_secs(60);

/// Users rarely meet in one of so many locks.
const SHARDS: usize = 16;

/// Pushes by the directory that are on their way. Above, a push goes to all frontends.
const ON_THEIR_WAY: usize = 4096;

/// Users and where they are.
pub(super) struct Directory {
    key: RandomState,
    shards: Shards<Shard, SHARDS>,
    /// Users in one generation of a shard.
    capacity: usize,
    questions: AtomicU64,
    /// Grows with each event that invalidates older leases.
    epoch: AtomicU64,
    /// A user was the receiver of a push by uid.
    used: AtomicBool,
    facts: ArcSwap<HashMap<Arc<str>, Arc<Facts>>>,
    permits: Arc<Semaphore>,
}

/// Properties of a type of frontends. Made anew when a server of the type joins or leaves.
#[derive(Debug)]
pub(super) struct Facts {
    servers: Arc<[Arc<ServerInfo>]>,
    /// There is more than one.
    pub(super) several: bool,
    /// One of them is a Pitaya server.
    pub(super) has_pitaya: bool,
    /// All of them let a user have one session only.
    pub(super) unique: bool,
}

/// By frontend type.
type Shard = HashMap<Arc<str>, Generations>;

/// The users of a type: when the younger generation is full it becomes the older one, and that is forgotten. Who is asked for stays.
#[derive(Default)]
struct Generations {
    young: HashMap<Arc<str>, Entry>,
    old: HashMap<Arc<str>, Entry>,
}

enum Entry {
    /// The question with this number is on its way; at these frontends the user was bound meanwhile.
    Asked { question: u64, came: Vec<ServerId> },
    Known {
        places: Vec<ServerId>,
        lease: Option<Lease>,
    },
}

#[derive(Clone, Copy)]
struct Lease {
    epoch: u64,
    until: Moment,
}

/// A question to all frontends of a type: where are these users?
#[derive(Debug)]
pub(super) struct Question {
    number: u64,
    epoch: u64,
    at: Moment,
}

/// Where a push goes.
#[derive(Debug)]
pub(super) struct Plan {
    /// Users whose frontends are known, by frontend. A user at several of them is named at each.
    pub(super) known: Vec<(ServerId, Vec<Arc<str>>)>,
    /// Users at several frontends, and at how many.
    pub(super) several: HashMap<Arc<str>, usize>,
    /// Users without a frontend.
    pub(super) nowhere: Vec<Arc<str>>,
    /// Users whose frontends have to be asked for.
    pub(super) unknown: Vec<Arc<str>>,
    pub(super) question: Question,
}

impl Generations {
    fn get_mut(&mut self, uid: &str, capacity: usize) -> Option<&mut Entry> {
        if let Some((uid, entry)) = self.old.remove_entry(uid) {
            self.insert(uid, entry, capacity);
        }
        self.young.get_mut(uid)
    }

    fn insert(&mut self, uid: Arc<str>, entry: Entry, capacity: usize) {
        if self.young.len() >= capacity && !self.young.contains_key(&uid) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(uid, entry);
    }

    fn remove(&mut self, uid: &str) {
        self.young.remove(uid);
        self.old.remove(uid);
    }
}

impl Directory {
    /// A directory for so many users of each type of frontends. 0: none; every push goes to all frontends.
    pub(super) fn new(users: usize) -> Self {
        Self {
            key: RandomState::new(),
            shards: Shards::default(),
            capacity: users.div_ceil(2 * SHARDS),
            questions: AtomicU64::new(1),
            epoch: AtomicU64::new(0),
            used: AtomicBool::new(false),
            facts: ArcSwap::default(),
            permits: Arc::new(Semaphore::new(ON_THEIR_WAY)),
        }
    }

    /// A place among the pushes that are on their way, if there is one.
    pub(super) fn permit(&self) -> Option<OwnedSemaphorePermit> {
        if self.capacity == 0 {
            return None;
        }
        Arc::clone(&self.permits).try_acquire_owned().ok()
    }

    /// The properties of a type of frontends.
    pub(super) fn facts(&self, members: &Members, frontend_type: &str) -> Arc<Facts> {
        let servers = members.servers_of(frontend_type);
        if let Some(facts) = self.facts.load().get(frontend_type)
            && Arc::ptr_eq(&facts.servers, &servers)
        {
            return Arc::clone(facts);
        }
        let is_ours = |server: &Arc<ServerInfo>| server.is_shaddock();
        let facts = Arc::new(Facts {
            several: servers.len() > 1,
            has_pitaya: !servers.iter().all(is_ours),
            unique: servers
                .iter()
                .all(|server| server.can(super::capabilities::UNIQUE)),
            servers,
        });
        // Only of types that are there, so that callers cannot fill it.
        if !facts.servers.is_empty() {
            self.facts.rcu(|all| {
                let mut all = HashMap::clone(all);
                all.insert(frontend_type.into(), Arc::clone(&facts));
                all
            });
        }
        facts
    }

    fn shard(&self, uid: &str) -> MutexGuard<'_, Shard> {
        self.shards.lock(self.key.hash_one(uid))
    }

    fn entry<T>(
        &self,
        frontend_type: &str,
        uid: &str,
        change: impl FnOnce(&mut Generations) -> T,
    ) -> T {
        let mut shard = self.shard(uid);
        if let Some(of_type) = shard.get_mut(frontend_type) {
            return change(of_type);
        }
        change(shard.entry(frontend_type.into()).or_default())
    }

    /// A question that is asked now.
    fn question(&self, now: Moment) -> Question {
        Question {
            number: self.questions.fetch_add(1, Ordering::Relaxed),
            epoch: self.epoch.load(Ordering::Acquire),
            at: now,
        }
    }

    /// Where a push to these users goes. Who is unknown counts as asked for from now on, so [`settle`](Self::settle) has to follow.
    pub(super) fn plan(
        &self,
        frontend_type: &str,
        uids: &[Arc<str>],
        unique: bool,
        is_there: impl Fn(&ServerId) -> bool,
        now: Moment,
    ) -> Plan {
        self.used.store(true, Ordering::Relaxed);
        let question = self.question(now);
        let mut plan = Plan {
            known: Vec::new(),
            several: HashMap::new(),
            nowhere: Vec::new(),
            unknown: Vec::new(),
            question,
        };
        let mut at: HashMap<ServerId, usize> = HashMap::new();
        for uid in uids {
            let places = self.places(frontend_type, uid, unique, &is_there, &plan.question);
            let Some(places) = places else {
                plan.unknown.push(Arc::clone(uid));
                continue;
            };
            if places.is_empty() {
                plan.nowhere.push(Arc::clone(uid));
            }
            if places.len() > 1 {
                plan.several.insert(Arc::clone(uid), places.len());
            }
            for place in places {
                let next = plan.known.len();
                let n = *at.entry(place.clone()).or_insert(next);
                if n == next {
                    plan.known.push((place, Vec::new()));
                }
                plan.known[n].1.push(Arc::clone(uid));
            }
        }
        plan
    }

    /// Where a user is; `None` if the user has to be asked for.
    fn places(
        &self,
        frontend_type: &str,
        uid: &Arc<str>,
        unique: bool,
        is_there: impl Fn(&ServerId) -> bool,
        question: &Question,
    ) -> Option<Vec<ServerId>> {
        self.entry(frontend_type, uid, |users| {
            match users.get_mut(uid, self.capacity) {
                Some(Entry::Asked { .. }) => return None,
                Some(Entry::Known { places, lease }) => {
                    let holds = |lease: &mut Lease| {
                        lease.epoch == question.epoch && question.at < lease.until
                    };
                    let counts =
                        lease.as_mut().is_some_and(holds) || (unique && !places.is_empty());
                    if counts && places.iter().all(is_there) {
                        return Some(places.clone());
                    }
                }
                None => {}
            }
            let asked = Entry::Asked {
                question: question.number,
                came: Vec::new(),
            };
            users.insert(Arc::clone(uid), asked, self.capacity);
            None
        })
    }

    /// These users were not where they were thought to be and are asked for again.
    pub(super) fn ask_again(
        &self,
        frontend_type: &str,
        uids: &[Arc<str>],
        now: Moment,
    ) -> Question {
        let question = self.question(now);
        for uid in uids {
            self.entry(frontend_type, uid, |users| {
                if users.get_mut(uid, self.capacity).is_none() {
                    let asked = Entry::Asked {
                        question: question.number,
                        came: Vec::new(),
                    };
                    users.insert(Arc::clone(uid), asked, self.capacity);
                }
            });
        }
        question
    }

    /// A question has ended. `found` has the frontends of each user, as far as frontends have answered; `leased` means that all have answered,
    /// and promised to notify this server.
    pub(super) fn settle(
        &self,
        frontend_type: &str,
        question: &Question,
        uids: &[Arc<str>],
        mut found: HashMap<Arc<str>, Vec<ServerId>>,
        leased: bool,
        unique: bool,
    ) {
        for uid in uids {
            self.entry(frontend_type, uid, |users| {
                let Some(Entry::Asked { question: of, came }) = users.get_mut(uid, self.capacity)
                else {
                    return;
                };
                if *of != question.number {
                    return;
                }
                let mut places = found.remove(uid).unwrap_or_default();
                if unique && let Some(last) = came.pop() {
                    places = vec![last];
                } else {
                    came.retain(|place| !places.contains(place));
                    places.append(came);
                }
                let lease = leased.then(|| Lease {
                    epoch: question.epoch,
                    until: question.at.after(counts_for(LEASE)),
                });
                if lease.is_none() && (places.is_empty() || !unique) {
                    users.remove(uid);
                } else {
                    let known = Entry::Known { places, lease };
                    users.insert(Arc::clone(uid), known, self.capacity);
                }
            });
        }
    }

    /// A user is not at a frontend, or that is not known. Forgets the whole entry, and not that frontend alone: the answer may be older than
    /// the notification that the user is being bound there, which will not be repeated.
    pub(super) fn missed(&self, frontend_type: &str, uid: &str, frontend: &ServerId) {
        self.entry(frontend_type, uid, |users| {
            if let Some(Entry::Known { places, .. }) = users.get_mut(uid, self.capacity)
                && places.contains(frontend)
            {
                users.remove(uid);
            }
        });
    }

    /// A frontend has notified this server that it is binding a user. With unique sessions the user is at no other frontend.
    pub(super) fn bound_at(
        &self,
        frontend_type: &str,
        uid: &str,
        frontend: &ServerId,
        unique: bool,
    ) {
        if !self.is_used() {
            return;
        }
        self.entry(frontend_type, uid, |users| {
            let places = match users.get_mut(uid, self.capacity) {
                Some(Entry::Known { places, .. }) => places,
                Some(Entry::Asked { came, .. }) => came,
                None => return,
            };
            places.retain(|place| !unique && place != frontend);
            places.push(frontend.clone());
        });
    }

    /// Whether this server pushes to users by uid, so that the frontends of requests are worth knowing.
    pub(super) fn is_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }

    /// A user with unique sessions is at this frontend: a request of the user came from there.
    pub(super) fn seen(&self, frontend_type: &str, uid: &Arc<str>, frontend: &ServerId) {
        if self.capacity == 0 {
            return;
        }
        self.entry(frontend_type, uid, |users| {
            match users.get_mut(uid, self.capacity) {
                Some(Entry::Asked { .. }) => return,
                Some(Entry::Known { places, .. }) if places.contains(frontend) => return,
                _ => {}
            }
            let known = Entry::Known {
                places: vec![frontend.clone()],
                lease: None,
            };
            users.insert(Arc::clone(uid), known, self.capacity);
        });
    }

    /// No lease that was given before counts any more.
    pub(super) fn end_leases(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests;
