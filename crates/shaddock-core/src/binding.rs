//! Bind, unbind and close: the steps that keep sessions and indexes consistent under concurrency.
//!
//! Lock order: shard of the uid, then the session's record. A close marks the session first and cleans the indexes afterwards, so a bind
//! finds either an open session, which the close will find in the index, or a closed one.

use crate::audience::Departure;
use crate::event::Event;
use crate::index::UidShard;
use crate::service::Inner;
use crate::session::{PendingClose, Registry};
use crate::{
    BindError, CloseReason, Conflict, Session, SessionState, SessionsPerUser, Sid, Uid, UnbindError,
};
use std::sync::Arc;

impl Registry for Inner {
    fn get(&self, sid: Sid) -> Option<Arc<Session>> {
        self.by_sid.get(sid)
    }

    /// One step under the lock of the user's shard; events and the closes of replaced sessions follow after it.
    fn bind(&self, session: &Arc<Session>, uid: Uid) -> Result<(), BindError> {
        let mut shard = self.by_uid.lock(uid.as_str());
        let rivals = self.rivals(&shard, uid.as_str());
        let refused = self.config.sessions_per_user == SessionsPerUser::One(Conflict::RejectNew)
            && rivals.iter().any(|rival| rival.blocks_a_login());

        let mut record = session.record();
        if record.state == SessionState::Closed {
            return Err(BindError::SessionClosed { sid: session.id() });
        }
        match &record.uid {
            Some(bound) if *bound == uid => return Ok(()),
            Some(bound) => return Err(BindError::AlreadyBound { uid: bound.clone() }),
            None => {}
        }
        if refused {
            return Err(BindError::SingleSession { uid });
        }
        record.uid = Some(uid.clone());
        let event = record.offer(Event::Bound(uid.clone()));
        drop(record);

        // First, so that the user always has a session, and keeps the memberships.
        shard.insert(&uid, session);
        let mut replaced = Vec::new();
        for rival in rivals {
            // The new session keeps the user in the audiences.
            let _none = shard.remove(uid.as_str(), rival.id());
            if let Some(pending) = rival.begin_close(CloseReason::Replaced) {
                replaced.push((rival, pending));
            }
        }
        drop(shard);

        for (rival, pending) in replaced {
            rival.finish_close(Some(self), pending);
        }
        session.dispatch(Some(self), event);
        Ok(())
    }

    fn unbind(&self, session: &Arc<Session>, uid: &Uid) -> Result<(), UnbindError> {
        let mut shard = self.by_uid.lock(uid.as_str());
        let mut record = session.record();
        if record.state == SessionState::Closed {
            return Err(UnbindError::SessionClosed { sid: session.id() });
        }
        if record.uid.as_ref() != Some(uid) {
            return Err(UnbindError::NotBound { uid: uid.clone() });
        }
        record.uid = None;
        let event = record.offer(Event::Unbound(uid.clone()));
        drop(record);
        let left = shard.remove(uid.as_str(), session.id());
        self.drop_memberships(shard, uid, left, Departure::Unbound);
        session.dispatch(Some(self), event);
        Ok(())
    }

    /// Removes a session from both indexes, and from the audiences of its user. Other sessions of the user are not affected.
    fn forget(&self, session: &Session, pending: &PendingClose) {
        if let Some(uid) = &pending.bound_to {
            let mut shard = self.by_uid.lock(uid.as_str());
            let left = shard.remove(uid.as_str(), session.id());
            self.drop_memberships(shard, uid, left, Departure::Closed);
        }
        self.by_sid.remove(session.id());
        self.count_closed(&pending.reason);
    }

    fn notify(&self, session: &Arc<Session>, event: &Event) {
        if let Err(message) = self.call_hook(|events| event.notify(events, session)) {
            self.report_panic(session, event.name(), &message);
        }
    }

    fn report_panic(&self, session: &Arc<Session>, event: &str, message: &str) {
        self.count_panic();
        // A panic in the reporter is counted by the line above; nothing else can be done.
        let _ = self.call_hook(|events| events.on_listener_panic(session, event, message));
    }
}

impl Inner {
    /// If users may have one session only, the other sessions of this user. The session itself is not among them while it is unbound.
    fn rivals(&self, shard: &UidShard<'_>, uid: &str) -> Vec<Arc<Session>> {
        if self.config.sessions_per_user.is_one() {
            shard.sessions(uid).to_vec()
        } else {
            Vec::new()
        }
    }
}
