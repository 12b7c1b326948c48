//! The receiver of the events of all sessions of a service.

use crate::event::Event;
use crate::{AudienceChange, CloseReason, Session, Uid};
use std::sync::Arc;

/// The events of all sessions of a service, for the layer above. See [`SessionService::set_events`].
///
/// Called before the listeners of the session itself ([`Session::on_closed`]), without any lock, by the thread that caused the event or by
/// one that is dispatching an earlier event of the same session: the events of one session are dispatched one after another and in order. A
/// panic is caught and reported to [`on_listener_panic`](Self::on_listener_panic). A blocking call blocks the caller of `bind`, `unbind` or
/// `close`, but no other session.
///
/// [`SessionService::set_events`]: crate::SessionService::set_events
pub trait SessionEvents: Send + Sync + 'static {
    /// The session was bound to `uid` and is indexed by it.
    fn bound(&self, session: &Arc<Session>, uid: &Uid) {
        let _ = (session, uid);
    }

    /// The session was unbound from `uid` and is no longer indexed by it.
    fn unbound(&self, session: &Arc<Session>, uid: &Uid) {
        let _ = (session, uid);
    }

    /// The connection was lost, and the session waits for its client. Its other state and work continue.
    fn suspended(&self, session: &Arc<Session>) {
        let _ = session;
    }

    /// The client has resumed its suspended session and receives the kept messages.
    fn resumed(&self, session: &Arc<Session>) {
        let _ = session;
    }

    /// The session is closed and removed from all indexes; its uid and settings can still be read.
    ///
    /// The client was not notified yet: the KICK package, if any, follows after all listeners.
    fn closed(&self, session: &Arc<Session>, reason: &CloseReason) {
        let _ = (session, reason);
    }

    /// A user has joined or left an audience. Only called while [`watch_audiences`](crate::SessionService::watch_audiences) is on. All
    /// changes of a user are dispatched in order, one after another, without any lock; a leave because of a close precedes `closed`.
    fn audience_changed(&self, change: &AudienceChange) {
        let _ = change;
    }

    /// Changes of audiences were dropped, because 65,536 waited while one was dispatched. Code that derives members from changes must query
    /// them again. Called in place of the lost changes.
    fn audience_changes_lost(&self) {}

    /// A listener or a method of this trait panicked with `message`. The event is `bound`, `unbound`, `suspended`, `resumed` or `closed`.
    fn on_listener_panic(&self, session: &Arc<Session>, event: &str, message: &str) {
        let _ = (session, event, message);
    }
}

impl Event {
    /// Calls the method of the receiver that is named for this event.
    pub(crate) fn notify(&self, events: &dyn SessionEvents, session: &Arc<Session>) {
        match self {
            Self::Bound(uid) => events.bound(session, uid),
            Self::Unbound(uid) => events.unbound(session, uid),
            Self::Suspended => events.suspended(session),
            Self::Resumed => events.resumed(session),
            Self::Closed(reason) => events.closed(session, reason),
        }
    }
}
