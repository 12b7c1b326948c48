//! Events of sessions on any frontend, for servers that ask for them.

use std::sync::{Arc, Mutex, PoisonError};

use shaddock_cluster::{ForwardedSession, Interest, ServerId, SessionEvent as RawEvent};
use shaddock_core::Uid;
use tokio::sync::mpsc;

use super::SessionView;
use crate::{app::AppHandle, handler::BoxFuture};

/// Events that wait for the listeners; at the bound they are counted as lost.
const WAITING: usize = 65_536;

/// A listener of the application, and what it asks for.
type Hook = Arc<dyn Fn(AppHandle, ClusterSessionEvent) -> BoxFuture<()> + Send + Sync>;

/// What happened to a session somewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClusterEventKind {
    /// It was bound to the user.
    Bound,
    /// The user was taken away; it stays open.
    Unbound,
    /// It is closed, for the reason of this name.
    Closed(Arc<str>),
    /// Its frontend is gone without a goodbye, and all sessions with it. Of no session in particular.
    FrontendLost,
}

/// Something that happened to a session of a frontend of the cluster ([`App::on_cluster_session`](crate::App::on_cluster_session)).
#[derive(Debug, Clone)]
pub struct ClusterSessionEvent {
    frontend: ServerId,
    kind: ClusterEventKind,
    session: Option<SessionView>,
    uid: Option<Uid>,
}

impl ClusterSessionEvent {
    /// What happened.
    pub const fn kind(&self) -> &ClusterEventKind {
        &self.kind
    }

    /// The frontend.
    pub fn frontend(&self) -> &str {
        self.frontend.as_str()
    }

    /// The user the event is about, if there is one.
    pub const fn uid(&self) -> Option<&Uid> {
        self.uid.as_ref()
    }

    /// The session as it was then. None if the frontend is lost.
    pub const fn session(&self) -> Option<&SessionView> {
        self.session.as_ref()
    }
}

/// The application's listeners, and the events that wait for them.
#[derive(Default)]
pub(crate) struct ClusterEventHooks {
    hooks: Vec<(Interest, Hook)>,
    waiting: Mutex<Option<mpsc::Sender<RawEvent>>>,
}

impl ClusterEventHooks {
    pub(crate) fn add(&mut self, interest: Interest, hook: Hook) {
        self.hooks.push((interest, hook));
    }

    /// What the server asks for when it joins.
    pub(crate) fn interest(&self) -> Interest {
        let each = self.hooks.iter().map(|(interest, _)| interest.clone());
        each.fold(Interest::none(), Interest::or)
    }
}

impl AppHandle {
    /// Begins to tell the listeners, before this server joins.
    pub(crate) fn start_cluster_events(&self) {
        let hooks = &self.hooks().cluster_events;
        if hooks.hooks.is_empty() {
            return;
        }
        let (sender, mut waiting) = mpsc::channel(WAITING);
        *hooks.waiting.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        let app = self.clone();
        let _ = self.spawn("events of sessions of the cluster", async move {
            while let Some(event) = waiting.recv().await {
                app.tell_cluster_event(event).await;
            }
        });
    }

    /// The cluster tells of an event.
    pub(crate) fn cluster_event(&self, event: RawEvent) {
        let waiting = self.hooks().cluster_events.waiting.lock();
        let waiting = waiting.unwrap_or_else(PoisonError::into_inner);
        if let Some(waiting) = &*waiting
            && waiting.try_send(event).is_err()
        {
            self.stats().lost_events.add(1);
        }
    }

    async fn tell_cluster_event(&self, raw: RawEvent) {
        let Some(event) = self.read_event(raw) else {
            return;
        };
        let server_type = self.type_of(&event.frontend);
        let uid = event.uid().map(Uid::as_str);
        for (interest, hook) in &self.hooks().cluster_events.hooks {
            let is_wanted = event.kind == ClusterEventKind::FrontendLost
                || (server_type.as_deref()).is_none_or(|of_type| interest.wants(of_type, uid));
            if !is_wanted {
                continue;
            }
            let (app, hook, event) = (self.clone(), Arc::clone(hook), event.clone());
            let limit = self.config().event_timeout;
            // A panic or a timeout was logged; the next listener runs all the same.
            let _ = self
                .limited("cluster session listener", limit, move || hook(app, event))
                .await;
        }
    }

    fn type_of(&self, server: &ServerId) -> Option<Arc<str>> {
        let membership = self.membership().ok()?;
        let listed = membership.members().server(server.as_str());
        let departing = || {
            let mut departing = membership.departing().into_iter();
            departing.find(|info| info.id == *server)
        };
        Some(Arc::clone(&listed.or_else(departing)?.server_type))
    }

    fn read_event(&self, raw: RawEvent) -> Option<ClusterSessionEvent> {
        let of_session = |session: ForwardedSession, kind, uid: Option<Arc<str>>| {
            let frontend = session.frontend.clone()?;
            let uid = uid.or_else(|| session.uid.clone());
            Some(ClusterSessionEvent {
                frontend,
                kind,
                uid: uid.and_then(|uid| Uid::new(uid).ok()),
                session: Some(SessionView::of_forwarded(self, session)),
            })
        };
        match raw {
            RawEvent::Bound(session) => of_session(session, ClusterEventKind::Bound, None),
            RawEvent::Unbound { session, uid } => {
                of_session(session, ClusterEventKind::Unbound, Some(uid))
            }
            RawEvent::Closed { session, reason } => {
                of_session(session, ClusterEventKind::Closed(reason), None)
            }
            RawEvent::FrontendLost(frontend) => Some(ClusterSessionEvent {
                frontend,
                kind: ClusterEventKind::FrontendLost,
                session: None,
                uid: None,
            }),
            _ => None,
        }
    }
}
