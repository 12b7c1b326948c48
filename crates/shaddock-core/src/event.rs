//! Events of a session: registration and dispatch of listeners.

use crate::{AudienceChange, CloseReason, Session, Uid};
use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Identifies a listener of one session, for [`Session::off`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenerId(pub(crate) u32);

/// The events of a session, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EventKind {
    /// The session was bound to a user.
    Bind,
    /// The session was unbound; the connection stays open.
    Unbind,
    /// The connection was lost, and the session waits for its client.
    Suspended,
    /// The client has resumed its suspended session.
    Resumed,
    /// The session is closed. Emitted exactly once, and last.
    Closed,
}

impl EventKind {
    /// `bind`, `unbind`, `suspended`, `resumed` or `closed`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bind => "bind",
            Self::Unbind => "unbind",
            Self::Suspended => "suspended",
            Self::Resumed => "resumed",
            Self::Closed => "closed",
        }
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The events of all sessions of a service, for the layer above. See [`SessionService::set_events`].
///
/// Called before the listeners of the session itself, without any lock, by the thread that caused the event or by one that is dispatching
/// an earlier event of the same session: the events of one session are dispatched one after another and in order. A panic is caught and
/// reported to [`on_listener_panic`](Self::on_listener_panic). A blocking call blocks the caller of `bind`, `unbind` or `close`, but no
/// other session.
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

    /// A listener or a method of this trait panicked with `message`.
    fn on_listener_panic(&self, session: &Arc<Session>, event: EventKind, message: &str) {
        let _ = (session, event, message);
    }
}

/// An event to be dispatched to listeners.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Bind(Uid),
    Unbind(Uid),
    Suspended,
    Resumed,
    Closed(CloseReason),
}

impl Event {
    pub(crate) const fn kind(&self) -> EventKind {
        match self {
            Self::Bind(_) => EventKind::Bind,
            Self::Unbind(_) => EventKind::Unbind,
            Self::Suspended => EventKind::Suspended,
            Self::Resumed => EventKind::Resumed,
            Self::Closed(_) => EventKind::Closed,
        }
    }

    /// Calls the hook of the service.
    pub(crate) fn notify(&self, events: &dyn SessionEvents, session: &Arc<Session>) {
        match self {
            Self::Bind(uid) => events.bound(session, uid),
            Self::Unbind(uid) => events.unbound(session, uid),
            Self::Suspended => events.suspended(session),
            Self::Resumed => events.resumed(session),
            Self::Closed(reason) => events.closed(session, reason),
        }
    }
}

type OfUid = dyn Fn(&Arc<Session>, &Uid) + Send + Sync;
type OfReason = dyn Fn(&Arc<Session>, &CloseReason) + Send + Sync;

/// A closure and its event.
#[derive(Clone)]
pub(crate) enum Listener {
    Bind(Arc<OfUid>),
    Unbind(Arc<OfUid>),
    Closed(Arc<OfReason>),
}

impl Listener {
    fn wants(&self, event: &Event) -> bool {
        matches!(
            (self, event),
            (Self::Bind(_), Event::Bind(_))
                | (Self::Unbind(_), Event::Unbind(_))
                | (Self::Closed(_), Event::Closed(_))
        )
    }

    pub(crate) fn call(&self, session: &Arc<Session>, event: &Event) {
        match (self, event) {
            (Self::Bind(f), Event::Bind(uid)) | (Self::Unbind(f), Event::Unbind(uid)) => {
                f(session, uid);
            }
            (Self::Closed(f), Event::Closed(reason)) => f(session, reason),
            _ => {}
        }
    }
}

/// The listeners of one session, in the order of registration.
#[derive(Default)]
pub(crate) struct Listeners {
    list: Vec<(ListenerId, Listener)>,
    next: u32,
}

impl Listeners {
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

    /// The listeners for `event`, to be called without a lock.
    pub(crate) fn waiting_for(&self, event: &Event) -> Vec<Listener> {
        let wanting = self
            .list
            .iter()
            .filter(|(_, listener)| listener.wants(event));
        wanting.map(|(_, listener)| listener.clone()).collect()
    }

    /// Removes all listeners: there is no event after `closed`, and listeners often hold the session.
    pub(crate) fn take_all(&mut self) -> Vec<(ListenerId, Listener)> {
        std::mem::take(&mut self.list)
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
