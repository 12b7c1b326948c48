//! Joining and leaving: the steps that keep the list of a user and the audiences equal, and the dispatch of the changes.

use super::{Audience, AudienceList, Departure, NotJoined, Tie, is_among, listed};
use crate::few::{Few, Removed};
use crate::index::UidShard;
use crate::service::Inner;
use crate::{SessionEvents, SessionState, Sid, Uid};
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Inner {
    pub(super) fn join(
        &self,
        name: &Arc<str>,
        uid: &Uid,
        sid: Option<Sid>,
        tie: Option<&Tie>,
    ) -> Result<bool, NotJoined> {
        let session = match sid {
            Some(sid) => Some(self.by_sid.get(sid).ok_or(NotJoined::Closed)?),
            None => None,
        };
        let mut shard = self.by_uid.lock(uid.as_str());
        if let Some(session) = session {
            let record = session.record();
            if record.state == SessionState::Closed {
                return Err(NotJoined::Closed);
            }
            if record.uid.as_ref() != Some(uid) {
                return Err(NotJoined::NotBound);
            }
        }
        let user = shard.user_mut(uid.as_str()).ok_or(NotJoined::Closed)?;
        if user.bound.as_slice().iter().all(|one| one.is_closed()) {
            return Err(NotJoined::Closed);
        }
        let known = self.audiences.find(name);
        if known.is_some_and(|audience| is_among(&user.audiences, &audience)) {
            return Ok(false);
        }
        let limit = self.config.max_memberships;
        if listed(&user.audiences).len() >= limit {
            return Err(NotJoined::TooMany { limit });
        }
        let mut audience = self.audiences.obtain(name, None);
        while !audience.enter(user.bound.as_slice(), tie) {
            audience = self.audiences.obtain(name, Some(&audience));
        }
        self.audiences.note(&audience.name, uid, None);
        match &mut user.audiences {
            Some(list) => list.push(audience),
            none => *none = Some(Box::new(Few::One(audience))),
        }
        drop(shard);
        self.dispatch_changes();
        Ok(true)
    }

    pub(super) fn leave(&self, name: &str, uid: &Uid, departure: Departure) -> bool {
        let mut shard = self.by_uid.lock(uid.as_str());
        let (Some(user), Some(audience)) =
            (shard.user_mut(uid.as_str()), self.audiences.find(name))
        else {
            return false;
        };
        if !is_among(&user.audiences, &audience) {
            return false;
        }
        let list = user.audiences.as_mut();
        let removed = list.map(|list| list.remove(|known| Arc::ptr_eq(known, &audience)));
        if removed == Some(Removed::Last) {
            user.audiences = None;
        }
        audience.remove_user(user.bound.as_slice().iter().map(|session| session.id()));
        self.audiences.note(&audience.name, uid, Some(departure));
        drop(shard);
        self.audiences.retire(&audience);
        self.dispatch_changes();
        true
    }

    /// Releases the lock of a user's shard, and completes the user's departure from all audiences with the last session.
    #[inline]
    pub(crate) fn drop_memberships(
        &self,
        shard: UidShard<'_>,
        uid: &Uid,
        left: AudienceList,
        departure: Departure,
    ) {
        if let Some(left) = left {
            self.leave_all_of(shard, uid, left.as_slice(), departure);
        }
    }

    #[cold]
    fn leave_all_of(
        &self,
        shard: UidShard<'_>,
        uid: &Uid,
        left: &[Arc<Audience>],
        departure: Departure,
    ) {
        for audience in left {
            self.audiences.note(&audience.name, uid, Some(departure));
        }
        drop(shard);
        for audience in left {
            self.audiences.retire(audience);
        }
        self.dispatch_changes();
    }

    /// Dispatches changes one after another. A thread that arrives while another one dispatches leaves its changes to that one.
    fn dispatch_changes(&self) {
        let audiences = &self.audiences;
        if !audiences.is_watched.load(Ordering::Acquire) {
            return;
        }
        let mut changes = audiences.changes.lock();
        if std::mem::replace(&mut changes.dispatching, true) {
            return;
        }
        loop {
            let some = std::mem::take(&mut changes.waiting);
            let is_lost = std::mem::take(&mut changes.is_lost);
            if some.is_empty() && !is_lost {
                changes.dispatching = false;
                return;
            }
            drop(changes);
            if is_lost {
                self.call_watcher(SessionEvents::audience_changes_lost);
            }
            for change in &some {
                self.call_watcher(|events| events.audience_changed(change));
            }
            changes = audiences.changes.lock();
        }
    }

    fn call_watcher(&self, call: impl FnOnce(&(dyn SessionEvents + 'static))) {
        if self.call_hook(call).is_err() {
            self.count_panic();
        }
    }
}
