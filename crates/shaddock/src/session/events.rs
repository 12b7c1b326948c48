//! Events of sessions for the application: in order per session, on the app's runtime, harmless to others.

use std::{collections::VecDeque, sync::Arc};

use shaddock_cluster::{ForwardedSession, SessionEvent as ClusterEvent};
use shaddock_core::{AudienceChange, CloseReason, LoginRecord, Session, SessionEvents, Sid, Uid};

use super::{
    EventKind, FrontendSession, SessionEvent, SessionView,
    listeners::{EventHooks, put},
    view::raw,
};
use crate::{
    app::{AppHandle, Part, Server, WeakServer},
    channel::Audiences,
    history::{Entry, unix_ms},
};

/// Records events of sessions of this frontend, and dispatches them to the listeners of the application.
#[derive(Clone, Copy)]
struct Emitter<'a> {
    server: &'a Server,
    app: &'a AppHandle,
}

impl<'a> Emitter<'a> {
    const fn of(server: &'a Server) -> Self {
        Self {
            server,
            app: &server.app,
        }
    }

    fn hooks(self) -> &'a EventHooks {
        &self.server.registered.hooks().events
    }

    /// For operators.
    fn keep(
        self,
        session: &Arc<Session>,
        kind: EventKind,
        uid: Option<Uid>,
        reason: Option<CloseReason>,
    ) {
        self.app
            .history()
            .note(session.id(), || Entry::of(session, kind, uid, reason));
    }

    /// Records a login for the statistics.
    fn log_in(self, session: &Session, uid: &Uid) {
        if let Some(stats) = self.app.connection_stats() {
            stats.add_login(LoginRecord {
                uid: uid.clone(),
                sid: session.id(),
                login_time: unix_ms(),
                address: session.client().address,
            });
        }
    }

    fn log_out(self, session: &Session, uid: &Uid) {
        if let Some(stats) = self.app.connection_stats() {
            stats.remove_login(uid.as_str(), session.id());
        }
    }

    /// The session as other servers see it.
    fn export(self, session: &Arc<Session>) -> ForwardedSession {
        SessionView::of_session(self.app, session).export()
    }

    fn emit(
        self,
        session: &Arc<Session>,
        kind: EventKind,
        uid: Option<Uid>,
        reason: Option<CloseReason>,
    ) {
        let hooks = self.hooks();
        if !hooks.wants(kind) {
            return;
        }
        let Some(view) = FrontendSession::try_from_view(SessionView::of_session(self.app, session))
        else {
            return;
        };
        let sid = session.id();
        let event = SessionEvent {
            session: view,
            uid,
            reason,
            kind,
        };
        let mut shard = hooks.shard(sid);
        if let Some(queue) = shard.get_mut(&sid) {
            let lost = put(queue, event, self.app.config().max_waiting_events);
            drop(shard);
            self.app.stats().lost_events.add(lost);
            return;
        }
        let Ok(slot) = self.app.events().slot() else {
            drop(shard);
            self.app.stats().lost_events.add(1);
            return;
        };
        // The queue exists while a task works on it.
        shard.insert(sid, VecDeque::from([event]));
        drop(shard);
        let server = self.server.clone();
        slot.finish("session events", async move {
            Emitter::of(&server).dispatch_events(sid).await;
        });
    }

    async fn dispatch_events(self, sid: Sid) {
        while let Some(event) = self.next_event(sid) {
            for hook in self.hooks().of(event.kind) {
                let (app, hook, event) = (self.app.clone(), Arc::clone(hook), event.clone());
                // A panic or a timeout was logged; the next listener runs all the same.
                let limit = app.config().event_timeout;
                let _ = Part::of(self.app, "session listener")
                    .run(limit, move || hook(app, event))
                    .await;
            }
        }
    }

    fn next_event(self, sid: Sid) -> Option<SessionEvent> {
        let mut shard = self.hooks().shard(sid);
        let event = shard.get_mut(&sid)?.pop_front();
        if event.is_none() {
            shard.remove(&sid);
        }
        event
    }
}

/// What the session service tells the framework. It must not keep the app alive, which holds the service.
pub(crate) struct FrontendEvents(pub(crate) WeakServer);

impl FrontendEvents {
    fn app(&self) -> Option<AppHandle> {
        self.0.app()
    }
}

impl SessionEvents for FrontendEvents {
    fn bound(&self, session: &Arc<Session>, uid: &Uid) {
        let Some(server) = self.0.upgrade() else {
            return;
        };
        let (app, events) = (&server.app, Emitter::of(&server));
        events.keep(session, EventKind::Bound, Some(uid.clone()), None);
        events.log_in(session, uid);
        if let Ok(membership) = app.membership() {
            membership.publish_event(ClusterEvent::Bound(events.export(session)));
        }
        events.emit(session, EventKind::Bound, Some(uid.clone()), None);
    }

    fn unbound(&self, session: &Arc<Session>, uid: &Uid) {
        let Some(server) = self.0.upgrade() else {
            return;
        };
        let (app, events) = (&server.app, Emitter::of(&server));
        events.keep(session, EventKind::Unbound, Some(uid.clone()), None);
        events.log_out(session, uid);
        let user: Arc<str> = Arc::clone(uid.shared());
        if let Ok(membership) = app.membership() {
            // It may have been bound to the same user again before this event was told.
            if session.uid().as_ref() != Some(uid) {
                membership.unbind_user(&user, raw(session.id()));
            }
            membership.publish_event(ClusterEvent::Unbound {
                session: events.export(session),
                uid: user,
            });
        }
        events.emit(session, EventKind::Unbound, Some(uid.clone()), None);
    }

    fn suspended(&self, session: &Arc<Session>) {
        let Some(server) = self.0.upgrade() else {
            return;
        };
        let (app, events) = (&server.app, Emitter::of(&server));
        events.keep(session, EventKind::Suspended, session.uid(), None);
        if let Ok(membership) = app.membership() {
            membership.publish_event(ClusterEvent::Suspended(events.export(session)));
        }
        events.emit(session, EventKind::Suspended, session.uid(), None);
    }

    fn resumed(&self, session: &Arc<Session>) {
        let Some(server) = self.0.upgrade() else {
            return;
        };
        let (app, events) = (&server.app, Emitter::of(&server));
        events.keep(session, EventKind::Resumed, session.uid(), None);
        if let Ok(membership) = app.membership() {
            membership.publish_event(ClusterEvent::Resumed(events.export(session)));
        }
        events.emit(session, EventKind::Resumed, session.uid(), None);
    }

    fn closed(&self, session: &Arc<Session>, reason: &CloseReason) {
        let Some(server) = self.0.upgrade() else {
            return;
        };
        let (app, events) = (&server.app, Emitter::of(&server));
        events.keep(
            session,
            EventKind::Closed,
            session.uid(),
            Some(reason.clone()),
        );
        let filters = server.registered.filters();
        filters.session_closed(app, session.id());
        app.expiries().forget(session.id());
        let uid = session.uid();
        if let Some(uid) = &uid {
            events.log_out(session, uid);
        }
        if let Ok(membership) = app.membership() {
            if let Some(uid) = &uid {
                membership.unbind_user(uid.shared(), raw(session.id()));
            }
            membership.publish_event(ClusterEvent::Closed {
                session: events.export(session),
                reason: reason.name().into(),
            });
        }
        events.emit(session, EventKind::Closed, uid, Some(reason.clone()));
    }

    fn audience_changed(&self, change: &AudienceChange) {
        if let Some(app) = self.app() {
            Audiences::of(&app).changed(change);
        }
    }

    fn audience_changes_lost(&self) {
        if let Some(app) = self.app() {
            Audiences::of(&app).changes_lost();
        }
    }

    fn on_listener_panic(&self, session: &Arc<Session>, event: &str, message: &str) {
        if let Some(app) = self.app() {
            app.stats().panics.add(1);
        }
        shaddock_net::quiet!(error, "a listener of a session panicked", sid = %session.id(), event, panic = message);
    }
}
