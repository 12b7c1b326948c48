//! Which users are bound at which frontend of the process.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, MutexGuard};

use shaddock_core::Shards;

use crate::owners::{Hold, Seats};
use crate::uid::is_uid;
use crate::{BindError, Conflict, Located, RawSid, ServerId, ServerInfo, SessionsPerUser};

/// Binds of different users rarely meet in one of so many locks.
const SHARDS: usize = 32;

#[derive(Debug, Default)]
pub(super) struct Users {
    key: RandomState,
    shards: Shards<Shard, SHARDS>,
    /// Counts binds.
    binds: AtomicU32,
}

/// By uid: the frontends that have the user, of all types, in the order of their binds.
type Shard = HashMap<Arc<str>, Vec<Place>>;

/// The sessions of a user at one frontend.
#[derive(Debug)]
struct Place {
    frontend: ServerId,
    server_type: Arc<str>,
    seats: Seats,
}

impl Place {
    fn located(&self) -> Located {
        Located {
            frontend: self.frontend.clone(),
            server_type: Arc::clone(&self.server_type),
            sids: self.seats.sids().collect(),
        }
    }
}

impl Users {
    fn shard(&self, uid: &str) -> MutexGuard<'_, Shard> {
        self.shards.lock(self.key.hash_one(uid))
    }

    /// Binds, and says which other frontends have lost the user by it. The hold has to go back.
    pub(super) fn bind(
        &self,
        uid: &Arc<str>,
        sid: RawSid,
        frontend: &ServerInfo,
        unique: SessionsPerUser,
    ) -> Result<(Hold, Vec<ServerId>), BindError> {
        if !is_uid(uid) {
            return Err(BindError::IllegalUid);
        }
        let mut shard = self.shard(uid);
        let places = shard.entry(Arc::clone(uid)).or_default();
        let same_type = |place: &Place| place.server_type == frontend.server_type;
        let mut lost = Vec::new();
        match unique {
            SessionsPerUser::Any => {}
            SessionsPerUser::One(Conflict::RejectNew) => {
                let other = |p: &&Place| {
                    same_type(p) && (p.frontend != frontend.id || p.seats.has_other_than(sid))
                };
                if let Some(other) = places.iter().find(other) {
                    return Err(BindError::Taken(other.frontend.clone()));
                }
            }
            SessionsPerUser::One(Conflict::ReplaceOld) => places.retain(|place| {
                let stays = !same_type(place) || place.frontend == frontend.id;
                if !stays {
                    lost.push(place.frontend.clone());
                }
                stays
            }),
        }
        let fresh = self.binds.fetch_add(1, Ordering::Relaxed);
        let mut places_here = places.iter_mut();
        if let Some(place) = places_here.find(|place| place.frontend == frontend.id) {
            return Ok((place.seats.hold(sid, fresh), lost));
        }
        let mut seats = Seats::default();
        let hold = seats.hold(sid, fresh);
        places.push(Place {
            frontend: frontend.id.clone(),
            server_type: Arc::clone(&frontend.server_type),
            seats,
        });
        Ok((hold, lost))
    }

    /// A bind is kept if it is the session's (`is_bound`), or undone without one. Whether the user is still this frontend's.
    pub(super) fn end(
        &self,
        frontend: &ServerInfo,
        uid: &str,
        hold: &Hold,
        is_bound: Option<&dyn Fn() -> bool>,
    ) -> bool {
        let mut kept = false;
        self.change(frontend, uid, |seats| match is_bound {
            Some(is_bound) => kept = seats.keep(hold, is_bound()),
            None => seats.undo(hold),
        });
        kept
    }

    pub(super) fn unbind(&self, frontend: &ServerInfo, uid: &str, sid: RawSid) {
        self.change(frontend, uid, |seats| seats.unbind(sid));
    }

    fn change(&self, frontend: &ServerInfo, uid: &str, change: impl FnOnce(&mut Seats)) {
        let mut shard = self.shard(uid);
        let Some(places) = shard.get_mut(uid) else {
            return;
        };
        let mut places_here = places.iter_mut();
        if let Some(place) = places_here.find(|place| place.frontend == frontend.id) {
            change(&mut place.seats);
        }
        places.retain(|place| !place.seats.is_empty());
        if places.is_empty() {
            shard.remove(uid);
        }
    }

    pub(super) fn is_bound(&self, frontend: &ServerInfo, uid: &str, sid: RawSid) -> bool {
        let shard = self.shard(uid);
        let mut places = shard.get(uid).into_iter().flatten();
        places.any(|place| place.frontend == frontend.id && place.seats.has(sid))
    }

    pub(super) fn find(&self, uid: &str) -> Vec<Located> {
        let shard = self.shard(uid);
        let places = shard.get(uid).into_iter().flatten();
        places.map(Place::located).collect()
    }

    /// Sorts users by their frontends of a type, those without one apart. Keeps the order within each.
    #[allow(clippy::type_complexity)]
    pub(super) fn group(
        &self,
        frontend_type: &str,
        uids: &[Arc<str>],
    ) -> (Vec<(ServerId, Vec<Arc<str>>)>, Vec<Arc<str>>) {
        let mut groups: HashMap<ServerId, Vec<Arc<str>>> = HashMap::new();
        let mut missing = Vec::new();
        for uid in uids {
            let mut found = false;
            for place in self.shard(uid).get(uid).into_iter().flatten() {
                if &*place.server_type == frontend_type {
                    found = true;
                    groups
                        .entry(place.frontend.clone())
                        .or_default()
                        .push(Arc::clone(uid));
                }
            }
            if !found {
                missing.push(Arc::clone(uid));
            }
        }
        (groups.into_iter().collect(), missing)
    }

    /// How many users a frontend has. Walks over all: for status pages and tests.
    pub(super) fn count(&self, frontend: &ServerId) -> usize {
        let is_there =
            |places: &&Vec<Place>| places.iter().any(|place| place.frontend == *frontend);
        let of_shard = |shard: MutexGuard<'_, Shard>| shard.values().filter(is_there).count();
        self.shards.each().map(of_shard).sum()
    }

    /// A frontend is gone.
    pub(super) fn forget(&self, frontend: &ServerId) {
        for mut shard in self.shards.each() {
            shard.retain(|_, places| {
                places.retain(|place| place.frontend != *frontend);
                !places.is_empty()
            });
        }
    }
}
