//! The audiences of a frontend, as methods of [`SessionService`].

use super::{Departure, NotJoined, Tie};
use crate::{Session, SessionService, Sid, Uid};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// # Audiences
///
/// Channels and topics are audiences on this frontend. Each [`AudienceChange`](crate::AudienceChange) is dispatched to [`SessionEvents`](crate::SessionEvents).
///
/// ```
/// use shaddock_core::{ClientInfo, CloseReason, FrontendId, NotJoined, SessionConfig, SessionService, SidAllocator, Uid};
/// # let service = SessionService::new(FrontendId::new("connector-1")?, SidAllocator::new(1, 1), SessionConfig::default());
/// let ann = Uid::new("ann")?;
/// let session = service.create(ClientInfo::default());
/// session.bind(ann.clone())?;
/// assert!(service.join("room", &ann, Some(session.id()), None)?);
/// assert_eq!(service.audience("room"), [ann.clone()]);
/// assert_eq!(*service.audiences_of("ann")[0], *"room");
///
/// session.close(CloseReason::ClientClosed);
/// assert!(service.audience("room").is_empty());
/// assert_eq!(service.join("room", &ann, Some(session.id()), None), Err(NotJoined::Closed));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
impl SessionService {
    /// Adds a user of this frontend to an audience, which is created with its first member. Returns false if the user is already a member.
    ///
    /// With a `sid`, that session must be open and bound to the user. `tie` is kept until the audience ends, if it has none yet.
    ///
    /// # Errors
    ///
    /// See [`NotJoined`].
    pub fn join(
        &self,
        audience: impl Into<Arc<str>>,
        uid: &Uid,
        sid: Option<Sid>,
        tie: Option<&Tie>,
    ) -> Result<bool, NotJoined> {
        self.inner().join(&audience.into(), uid, sid, tie)
    }

    /// Removes a user from an audience. Returns false if the user is not a member.
    pub fn leave(&self, audience: &str, uid: &Uid) -> bool {
        self.inner().leave(audience, uid, Departure::Left)
    }

    /// Removes all members from an audience, and returns their number. Users who join meanwhile stay.
    pub fn end_audience(&self, audience: &str) -> usize {
        let members = self.audience(audience);
        let leaves = |uid: &&Uid| self.inner().leave(audience, uid, Departure::Ended);
        members.iter().filter(leaves).count()
    }

    /// The members of an audience, in the order of joining.
    pub fn audience(&self, name: &str) -> Vec<Uid> {
        let inner = self.inner();
        let Some(audience) = inner.audiences.find(name) else {
            return Vec::new();
        };
        let mut uids = Vec::new();
        let mut seen = hashbrown::HashSet::new();
        for session in audience.sessions().0 {
            // The session may have been unbound, or bound to another user, since the list was copied.
            let Some(uid) = session.uid().filter(|uid| !seen.contains(uid)) else {
                continue;
            };
            let shard = inner.by_uid.lock(uid.as_str());
            let mut list = shard.audiences(uid.as_str()).iter();
            let is_member = list.any(|known| Arc::ptr_eq(known, &audience));
            drop(shard);
            if is_member {
                seen.insert(uid.clone());
                uids.push(uid);
            }
        }
        uids
    }

    /// The number of members of an audience.
    pub fn audience_len(&self, name: &str) -> usize {
        let audience = self.inner().audiences.find(name);
        audience.map_or(0, |audience| audience.members.lock().users)
    }

    /// The names of a user's audiences, in no particular order.
    pub fn audiences_of(&self, uid: &str) -> Vec<Arc<str>> {
        let shard = self.inner().by_uid.lock(uid);
        let list = shard.audiences(uid).iter();
        list.map(|audience| Arc::clone(&audience.name)).collect()
    }

    /// The names of the audiences that `which` selects, in no particular order.
    pub fn audiences(&self, which: impl Fn(&str) -> bool) -> Vec<Arc<str>> {
        let mut names: Vec<Arc<str>> = Vec::new();
        for shard in self.inner().audiences.names.each() {
            names.extend(shard.keys().cloned());
        }
        names.retain(|name| which(name));
        names
    }

    /// Calls `f` for the sessions of all members, and returns the number of members. No lock is held.
    pub fn visit_audience(&self, name: &str, f: impl FnMut(&Arc<Session>)) -> usize {
        let Some(audience) = self.inner().audiences.find(name) else {
            return 0;
        };
        let (sessions, users) = audience.sessions();
        sessions.iter().for_each(f);
        users
    }

    /// Enables or disables the dispatch of audience changes, which is initially disabled.
    pub fn watch_audiences(&self, watch: bool) {
        let audiences = &self.inner().audiences;
        let mut changes = audiences.changes.lock();
        audiences.is_watched.store(watch, Ordering::Release);
        if !watch {
            // Later watchers must not receive old changes.
            changes.waiting.clear();
            changes.is_lost = false;
        }
    }
}
