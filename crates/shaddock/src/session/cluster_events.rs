//! Events of sessions on any frontend, for servers that ask for them.

use std::sync::{Arc, Mutex, PoisonError};

use shaddock_cluster::{ForwardedSession, Interest, ServerId, SessionEvent as RawEvent};
use shaddock_core::Uid;
use tokio::sync::mpsc;

use super::SessionView;
use crate::{
    app::{AppHandle, StartError},
    handler::BoxFuture,
};

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
    /// Its connection is lost, and it waits for its client.
    Suspended,
    /// Its client has come back.
    Resumed,
    /// It is closed, for the reason of this name.
    Closed(Arc<str>),
    /// Its frontend is gone without a goodbye, and all sessions with it. Of no session in particular.
    FrontendLost,
}

/// Something that happened to a session of a frontend of the cluster ([`App::on_cluster_session`](crate::App::on_cluster_session)).
#[derive(Debug, Clone)]
pub struct ClusterSessionEvent {
    frontend: ServerId,
    frontend_type: Arc<str>,
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

    /// The type of the frontend.
    pub fn frontend_type(&self) -> &str {
        &self.frontend_type
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
    waiting: Mutex<Option<mpsc::Sender<Arrived>>>,
}

/// An event as it came, with the type of its frontend.
struct Arrived {
    frontend_type: Arc<str>,
    event: RawEvent,
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
    pub(crate) fn start_cluster_events(&self) -> Result<(), StartError> {
        let hooks = &self.hooks().cluster_events;
        if hooks.hooks.is_empty() {
            return Ok(());
        }
        let (sender, mut waiting) = mpsc::channel(WAITING);
        *hooks.waiting.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        let app = self.clone();
        self.start_task("events of sessions of the cluster", async move {
            while let Some(event) = waiting.recv().await {
                app.dispatch_cluster_event(event).await;
            }
        })
    }

    /// The cluster tells of an event.
    pub(crate) fn cluster_event(&self, frontend_type: &Arc<str>, event: RawEvent) {
        let arrived = Arrived {
            frontend_type: Arc::clone(frontend_type),
            event,
        };
        let waiting = self.hooks().cluster_events.waiting.lock();
        let waiting = waiting.unwrap_or_else(PoisonError::into_inner);
        if let Some(waiting) = &*waiting
            && waiting.try_send(arrived).is_err()
        {
            self.stats().lost_events.add(1);
        }
    }

    async fn dispatch_cluster_event(&self, arrived: Arrived) {
        let Arrived {
            frontend_type,
            event: raw,
        } = arrived;
        // The subscription of the server is the union of its listeners' interests.
        let hooks = self.hooks().cluster_events.hooks.iter();
        let asked = hooks.filter(|(interest, _)| interest.wants_event(&frontend_type, &raw));
        let hooks: Vec<&Hook> = asked.map(|(_, hook)| hook).collect();
        let Some(event) = self.read_event(frontend_type, raw) else {
            return;
        };
        for hook in hooks {
            let (app, hook, event) = (self.clone(), Arc::clone(hook), event.clone());
            let limit = self.config().event_timeout;
            // A panic or a timeout was logged; the next listener runs all the same.
            let _ = self
                .limited("cluster session listener", limit, move || hook(app, event))
                .await;
        }
    }

    fn read_event(&self, frontend_type: Arc<str>, raw: RawEvent) -> Option<ClusterSessionEvent> {
        let of_type = Arc::clone(&frontend_type);
        let of_session = |session: ForwardedSession, kind, uid: Option<Arc<str>>| {
            let frontend = session.frontend.clone()?;
            let uid = uid.or_else(|| session.uid.clone());
            Some(ClusterSessionEvent {
                frontend,
                frontend_type: of_type,
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
            RawEvent::Suspended(session) => of_session(session, ClusterEventKind::Suspended, None),
            RawEvent::Resumed(session) => of_session(session, ClusterEventKind::Resumed, None),
            RawEvent::Closed { session, reason } => {
                of_session(session, ClusterEventKind::Closed(reason), None)
            }
            RawEvent::FrontendLost(info) => Some(ClusterSessionEvent {
                frontend: info.id.clone(),
                frontend_type,
                kind: ClusterEventKind::FrontendLost,
                session: None,
                uid: None,
            }),
            _ => None,
        }
    }
}
