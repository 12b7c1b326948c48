//! Events of sessions: their kinds, their receiver, and the queue of those that wait for it.

use crate::{AudienceChange, CloseReason, Session, Uid};
use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
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

/// An event to be dispatched.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Bound(Uid),
    Unbound(Uid),
    Suspended,
    Resumed,
    Closed(CloseReason),
}

impl Event {
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Bound(_) => "bound",
            Self::Unbound(_) => "unbound",
            Self::Suspended => "suspended",
            Self::Resumed => "resumed",
            Self::Closed(_) => "closed",
        }
    }

    /// Calls the hook of the service.
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

/// Identifies a listener of one session, for [`Session::off`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenerId(u32);

type Listener = Box<dyn FnOnce(&Arc<Session>, &CloseReason) + Send>;

/// The listeners for the close of one session, in the order of registration.
#[derive(Default)]
pub(crate) struct ClosedListeners {
    list: Vec<(ListenerId, Listener)>,
    next: u32,
}

impl ClosedListeners {
    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    pub(crate) fn add(&mut self, listener: Listener) -> ListenerId {
        let id = ListenerId(self.next);
        self.next = self.next.wrapping_add(1);
        self.list.push((id, listener));
        id
    }

    pub(crate) fn remove(&mut self, id: ListenerId) -> Option<Listener> {
        let at = self.list.iter().position(|(known, _)| *known == id)?;
        Some(self.list.remove(at).1)
    }

    /// Removes all listeners, to be called without a lock.
    pub(crate) fn take_all(&mut self) -> Vec<Listener> {
        let all = std::mem::take(&mut self.list);
        all.into_iter().map(|(_, listener)| listener).collect()
    }
}

/// Events of one session that wait for the dispatch of an earlier one.
#[derive(Default)]
pub(crate) struct EventQueue(VecDeque<Event>);

impl EventQueue {
    pub(crate) fn push(&mut self, event: Event) {
        self.0.push_back(event);
    }

    pub(crate) fn pop(&mut self) -> Option<Event> {
        self.0.pop_front()
    }
}

/// Runs foreign code. `Err` is the message of its panic.
pub(crate) fn guarded(call: impl FnOnce()) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|panic| message_of(&*panic))
}

fn message_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "panic without a text".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_become_text() {
        assert_eq!(guarded(|| ()), Ok(()));
        assert_eq!(guarded(|| panic!("plain")), Err("plain".into()));
        assert_eq!(guarded(|| panic!("with {}", 1)), Err("with 1".into()));
        assert_eq!(
            guarded(|| std::panic::panic_any(5)),
            Err("panic without a text".into())
        );
    }
}
