//! Listeners of a session, and the dispatch of its events: one after another, in order, without a lock.

use super::{Record, Session};
use crate::error::ListenerError;
use crate::event::{Event, Listener, ListenerId, guarded};
use crate::service::Inner;
use crate::{CloseReason, SessionState, Uid};
use std::sync::Arc;

impl Record {
    /// Registers an event in the order of the changes. `Some`: the caller dispatches it (and the following ones) with [`Session::tell`],
    /// after it has released all locks. `None`: another thread does.
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
impl Session {
    /// Calls `f` after each bind of the session.
    ///
    /// Listeners run in the order of registration, without any lock, before the call that caused the event returns (or, if another thread
    /// is dispatching an event of this session, on that thread after it). They must not block. A panic is caught and reported. All are
    /// dropped after `closed`.
    ///
    /// # Errors
    ///
    /// The session is closed, or has too many listeners.
    pub fn on_bind(
        &self,
        f: impl Fn(&Arc<Self>, &Uid) + Send + Sync + 'static,
    ) -> Result<ListenerId, ListenerError> {
        self.listen(Listener::Bind(Arc::new(f)))
    }

    /// Calls `f` after each unbind of the session. Not on a close.
    ///
    /// # Errors
    ///
    /// As [`on_bind`](Self::on_bind), which describes how listeners are called.
    pub fn on_unbind(
        &self,
        f: impl Fn(&Arc<Self>, &Uid) + Send + Sync + 'static,
    ) -> Result<ListenerId, ListenerError> {
        self.listen(Listener::Unbind(Arc::new(f)))
    }

    /// Calls `f` once, when the session is closed. Guaranteed if this returns `Ok`.
    ///
    /// # Errors
    ///
    /// As [`on_bind`](Self::on_bind), which describes how listeners are called.
    pub fn on_closed(
        &self,
        f: impl Fn(&Arc<Self>, &CloseReason) + Send + Sync + 'static,
    ) -> Result<ListenerId, ListenerError> {
        self.listen(Listener::Closed(Arc::new(f)))
    }

    /// Removes a listener. Returns false if there is no such listener.
    pub fn off(&self, id: ListenerId) -> bool {
        let mut record = self.record.lock();
        let listener = record
            .extra
            .as_mut()
            .and_then(|extra| extra.listeners.remove(id));
        drop(record);
        // The listener's values are dropped here, without the lock.
        listener.is_some()
    }

    fn listen(&self, listener: Listener) -> Result<ListenerId, ListenerError> {
        let limit = self
            .context
            .service
            .upgrade()
            .map_or(usize::MAX, |s| s.config.max_listeners);
        let mut record = self.record.lock();
        if record.state == SessionState::Closed {
            return Err(ListenerError::SessionClosed { sid: self.id });
        }
        let listeners = &mut record.extra().listeners;
        if listeners.len() >= limit {
            return Err(ListenerError::TooMany { limit });
        }
        Ok(listeners.add(listener))
    }

    /// Dispatches `event` and those that arrive meanwhile, one after another.
    pub(crate) fn dispatch(self: &Arc<Self>, service: Option<&Inner>, mut event: Option<Event>) {
        while let Some(now) = event {
            self.dispatch_one(service, &now);
            let mut record = self.record.lock();
            event = record.extra.as_mut().and_then(|extra| extra.events.pop());
            record.dispatching = event.is_some();
        }
    }

    fn dispatch_one(self: &Arc<Self>, service: Option<&Inner>, event: &Event) {
        if let Some(service) = service {
            service.call_hook(self, event);
        }
        let record = self.record.lock();
        let listeners = record
            .extra
            .as_ref()
            .map_or_else(Vec::new, |extra| extra.listeners.waiting_for(event));
        drop(record);
        for listener in listeners {
            if let Err(message) = guarded(|| listener.call(self, event))
                && let Some(service) = service
            {
                service.report_panic(self, event.kind(), &message);
            }
        }
        if let Event::Closed(reason) = event {
            self.end_outbox(reason);
            let mut record = self.record.lock();
            let unused = record
                .extra
                .as_mut()
                .map(|extra| extra.listeners.take_all());
            drop(record);
            // Dropping them runs foreign code too.
            let dropped = guarded(|| drop(unused));
            if let (Err(message), Some(service)) = (dropped, service) {
                service.report_panic(self, event.kind(), &message);
            }
        }
    }
}
