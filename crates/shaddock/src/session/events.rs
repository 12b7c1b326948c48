//! Events of sessions for the application: in order per session, on the app's runtime, harmless to others.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use hashbrown::HashMap;
use shaddock_cluster::SessionEvent as ClusterEvent;
use shaddock_core::{CloseReason, EventKind as CoreEvent, Session, SessionEvents, Sid, Uid};

use super::{FrontendSession, SessionView, view::raw};
use crate::{
    app::{AppHandle, AppInner},
    handler::BoxFuture,
};

/// A listener of the application.
pub(crate) type EventHook = Arc<dyn Fn(AppHandle, SessionEvent) -> BoxFuture<()> + Send + Sync>;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventKind {
    /// The session was bound to a user.
    Bound,
    /// The user was taken away; the session stays open.
    Unbound,
    /// The session is closed.
    Closed,
}

/// Something that happened to a session of this frontend.
#[derive(Debug, Clone)]
pub struct SessionEvent {
    session: FrontendSession,
    uid: Option<Uid>,
    reason: Option<CloseReason>,
    kind: EventKind,
}

impl SessionEvent {
    /// The session. Its user and settings are those of the moment the listener looks; after a close they stay as they were last.
    pub const fn session(&self) -> &FrontendSession {
        &self.session
    }

    /// The user the event is about: who was bound, who was unbound, or whose session was closed, if it was bound.
    pub const fn uid(&self) -> Option<&Uid> {
        self.uid.as_ref()
    }

    /// Why the session was closed; only of a close.
    pub const fn reason(&self) -> Option<&CloseReason> {
        self.reason.as_ref()
    }

    /// What happened.
    pub const fn kind(&self) -> EventKind {
        self.kind
    }
}

/// The application's listeners, and the events that wait for them.
#[derive(Default)]
pub(crate) struct EventHooks {
    bound: Vec<EventHook>,
    unbound: Vec<EventHook>,
    closed: Vec<EventHook>,
    waiting: [Mutex<HashMap<Sid, VecDeque<SessionEvent>>>; SHARDS],
}

const SHARDS: usize = 16;

impl EventHooks {
    pub(crate) fn add(&mut self, kind: EventKind, hook: EventHook) {
        match kind {
            EventKind::Bound => self.bound.push(hook),
            EventKind::Unbound => self.unbound.push(hook),
            EventKind::Closed => self.closed.push(hook),
        }
    }

    fn of(&self, kind: EventKind) -> &[EventHook] {
        match kind {
            EventKind::Bound => &self.bound,
            EventKind::Unbound => &self.unbound,
            EventKind::Closed => &self.closed,
        }
    }

    fn shard(&self, sid: Sid) -> std::sync::MutexGuard<'_, HashMap<Sid, VecDeque<SessionEvent>>> {
        self.waiting[crate::shard_of(sid, SHARDS)]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl AppHandle {
    fn emit(
        &self,
        session: &Arc<Session>,
        kind: EventKind,
        uid: Option<Uid>,
        reason: Option<CloseReason>,
    ) {
        let hooks = &self.hooks().events;
        if hooks.of(kind).is_empty() {
            return;
        }
        let Some(view) = FrontendSession::try_from_view(SessionView::of_session(self, session))
        else {
            return;
        };
        let sid = session.id();
        let closing = matches!(kind, EventKind::Closed);
        let event = SessionEvent {
            session: view,
            uid,
            reason,
            kind,
        };
        let mut shard = hooks.shard(sid);
        if let Some(queue) = shard.get_mut(&sid) {
            if queue.len() >= self.config().max_waiting_events && !closing {
                drop(shard);
                self.stats().lost_events.add(1);
                tracing::warn!(%sid, kind = ?event.kind, "listeners do not keep up: an event of a session is lost");
            } else {
                queue.push_back(event);
            }
            return;
        }
        // The queue is there as long as somebody works on it.
        shard.insert(sid, VecDeque::from([event]));
        drop(shard);
        let app = self.clone();
        if self
            .events()
            .finish("session events", async move { app.tell_events(sid).await })
            .is_err()
        {
            hooks.shard(sid).remove(&sid);
            self.stats().lost_events.add(1);
        }
    }

    async fn tell_events(&self, sid: Sid) {
        while let Some(event) = self.next_event(sid) {
            for hook in self.hooks().events.of(event.kind) {
                let (app, hook, event) = (self.clone(), Arc::clone(hook), event.clone());
                // A panic or a timeout was logged; the next listener runs all the same.
                let _ = self
                    .limited("session listener", self.config().event_timeout, move || {
                        hook(app, event)
                    })
                    .await;
            }
        }
    }

    fn next_event(&self, sid: Sid) -> Option<SessionEvent> {
        let mut shard = self.hooks().events.shard(sid);
        let event = shard.get_mut(&sid)?.pop_front();
        if event.is_none() {
            shard.remove(&sid);
        }
        event
    }
}

/// What the session service tells the framework. It must not keep the app alive, which holds the service.
pub(crate) struct FrontendEvents(pub(crate) Weak<AppInner>);

impl FrontendEvents {
    fn app(&self) -> Option<AppHandle> {
        self.0.upgrade().map(AppHandle::from_inner)
    }
}

impl SessionEvents for FrontendEvents {
    fn bound(&self, session: &Arc<Session>, uid: &Uid) {
        let Some(app) = self.app() else { return };
        app.log_in(session, uid);
        if let Ok(membership) = app.membership() {
            membership.publish_event(ClusterEvent::Bound(app.export(session)));
        }
        app.emit(session, EventKind::Bound, Some(uid.clone()), None);
    }

    fn unbound(&self, session: &Arc<Session>, uid: &Uid) {
        let Some(app) = self.app() else { return };
        app.log_out(session, uid);
        let user: Arc<str> = Arc::clone(uid.shared());
        if let Ok(membership) = app.membership() {
            // It may have been bound to the same user again before this event was told.
            if session.uid().as_ref() != Some(uid) {
                membership.unbind_user(&user, raw(session.id()));
            }
            membership.publish_event(ClusterEvent::Unbound {
                session: app.export(session),
                uid: user,
            });
        }
        app.emit(session, EventKind::Unbound, Some(uid.clone()), None);
    }

    fn closed(&self, session: &Arc<Session>, reason: &CloseReason) {
        let Some(app) = self.app() else { return };
        app.filters().session_closed(&app, session.id());
        let uid = session.uid();
        if let Some(uid) = &uid {
            app.log_out(session, uid);
        }
        if let Ok(membership) = app.membership() {
            if let Some(uid) = &uid {
                membership.unbind_user(uid.shared(), raw(session.id()));
            }
            membership.publish_event(ClusterEvent::Closed {
                session: app.export(session),
                reason: reason.name().into(),
            });
        }
        app.emit(session, EventKind::Closed, uid, Some(reason.clone()));
    }

    fn on_listener_panic(&self, session: &Arc<Session>, event: CoreEvent, message: &str) {
        if let Some(app) = self.app() {
            app.stats().panics.add(1);
        }
        tracing::error!(sid = %session.id(), %event, panic = message, "a listener of a session panicked");
    }
}
