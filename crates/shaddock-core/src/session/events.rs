//! Events of a session: one after another, in order, without a lock.

use super::{Record, Registry, Session};
use crate::error::ListenerError;
use crate::event::{Event, ListenerId, guarded};
use crate::{CloseReason, SessionState};
use std::sync::Arc;

impl Record {
    /// Registers an event in the order of the changes. `Some`: the caller dispatches it (and the following ones) with
    /// [`Session::dispatch`], after it has released all locks. `None`: another thread does.
    pub(crate) fn offer(&mut self, event: Event) -> Option<Event> {
        if self.dispatching {
            self.extra().events.push(event);
            return None;
        }
        self.dispatching = true;
        Some(event)
    }
}

/// # Events
///
/// All events of all sessions are dispatched to [`SessionEvents`](crate::SessionEvents). Work that belongs to one session can listen for
/// its close.
impl Session {
    /// Calls `f` once, when the session is closed. Guaranteed if this returns `Ok`, unless [`off`](Self::off) removes it.
    ///
    /// Listeners run in the order of registration, without any lock, before the call that closes the session returns (or, if another
    /// thread is dispatching an event of this session, on that thread after it). They must not block. A panic is caught and reported.
    ///
    /// # Errors
    ///
    /// The session is closed, or has too many listeners.
    pub fn on_closed(
        &self,
        f: impl FnOnce(&Arc<Self>, &CloseReason) + Send + 'static,
    ) -> Result<ListenerId, ListenerError> {
        let limit = self.context.config.max_listeners;
        let mut record = self.record.lock();
        if record.state == SessionState::Closed {
            return Err(ListenerError::SessionClosed { sid: self.id });
        }
        let listeners = &mut record.extra().on_closed;
        if listeners.len() >= limit {
            return Err(ListenerError::TooMany { limit });
        }
        Ok(listeners.add(Box::new(f)))
    }

    /// Removes a listener. Returns false if there is no such listener.
    pub fn off(&self, id: ListenerId) -> bool {
        let mut record = self.record.lock();
        let extra = record.extra.as_mut();
        let listener = extra.and_then(|extra| extra.on_closed.remove(id));
        drop(record);
        // The listener's values are dropped here, without the lock.
        listener.is_some()
    }

    /// Dispatches `event` and those that arrive meanwhile, one after another.
    pub(crate) fn dispatch<R: Registry + ?Sized>(
        self: &Arc<Self>,
        registry: Option<&R>,
        mut event: Option<Event>,
    ) {
        while let Some(now) = event {
            if let Some(registry) = registry {
                registry.notify(self, &now);
            }
            if let Event::Closed(reason) = &now {
                self.call_listeners(registry, reason);
                self.end_outbox(reason);
            }
            let mut record = self.record.lock();
            event = record.extra.as_mut().and_then(|extra| extra.events.pop());
            record.dispatching = event.is_some();
        }
    }

    /// Calls the listeners of the close, and drops each after its call: it often holds the session.
    fn call_listeners<R: Registry + ?Sized>(
        self: &Arc<Self>,
        registry: Option<&R>,
        reason: &CloseReason,
    ) {
        let mut record = self.record.lock();
        let extra = record.extra.as_mut();
        let listeners = extra.map_or_else(Vec::new, |extra| extra.on_closed.take_all());
        drop(record);
        for listener in listeners {
            if let Err(message) = guarded(|| listener(self, reason))
                && let Some(registry) = registry
            {
                registry.report_panic(self, "closed", &message);
            }
        }
    }
}
