//! Events of sessions on any frontend, for servers that ask for them.

use std::sync::Arc;

use shaddock_cluster::{ForwardedSession, SessionEvent as RawEvent};
use shaddock_core::Uid;
use tokio::sync::mpsc;

use super::{
    ClusterEventKind, ClusterSessionEvent, SessionView,
    cluster_listeners::{Arrived, ClusterEventHooks, Hook},
};
use crate::app::{AppHandle, Part, Server, StartError, start_task};

/// Events that wait for the listeners; at the bound they are counted as lost.
const WAITING: usize = 65_536;

/// Dispatches events of sessions of the cluster to the listeners of the application.
#[derive(Clone, Copy)]
pub(crate) struct ClusterEvents<'a> {
    server: &'a Server,
    app: &'a AppHandle,
}

impl<'a> ClusterEvents<'a> {
    pub(crate) const fn of(server: &'a Server) -> Self {
        Self {
            server,
            app: &server.app,
        }
    }

    fn hooks(self) -> &'a ClusterEventHooks {
        &self.server.registered.hooks().cluster_events
    }

    /// Begins to tell the listeners, before this server joins.
    pub(crate) fn start(self) -> Result<(), StartError> {
        let hooks = self.hooks();
        if hooks.hooks.is_empty() {
            return Ok(());
        }
        let (sender, mut waiting) = mpsc::channel(WAITING);
        *hooks.waiting.lock() = Some(sender);
        let server = self.server.clone();
        start_task(self.app, "events of sessions of the cluster", async move {
            while let Some(event) = waiting.recv().await {
                ClusterEvents::of(&server).dispatch(event).await;
            }
        })
    }

    /// The cluster tells of an event.
    pub(crate) fn event(self, frontend_type: &Arc<str>, event: RawEvent) {
        let arrived = Arrived {
            frontend_type: Arc::clone(frontend_type),
            event,
        };
        let waiting = self.hooks().waiting.lock();
        if let Some(waiting) = &*waiting
            && waiting.try_send(arrived).is_err()
        {
            self.app.stats().lost_events.add(1);
        }
    }

    async fn dispatch(self, arrived: Arrived) {
        let Arrived {
            frontend_type,
            event: raw,
        } = arrived;
        // The subscription of the server is the union of its listeners' interests.
        let hooks = self.hooks().hooks.iter();
        let asked = hooks.filter(|(interest, _)| interest.wants_event(&frontend_type, &raw));
        let hooks: Vec<&Hook> = asked.map(|(_, hook)| hook).collect();
        let Some(event) = self.read(frontend_type, raw) else {
            return;
        };
        for hook in hooks {
            let (app, hook, event) = (self.app.clone(), Arc::clone(hook), event.clone());
            let limit = self.app.config().event_timeout;
            // A panic or a timeout was logged; the next listener runs all the same.
            let _ = Part::of(self.app, "cluster session listener")
                .run(limit, move || hook(app, event))
                .await;
        }
    }

    fn read(self, frontend_type: Arc<str>, raw: RawEvent) -> Option<ClusterSessionEvent> {
        let of_type = Arc::clone(&frontend_type);
        let of_session = |session: ForwardedSession, kind, uid: Option<Arc<str>>| {
            let frontend = session.frontend.clone()?;
            let uid = uid.or_else(|| session.uid.clone());
            Some(ClusterSessionEvent {
                frontend,
                frontend_type: of_type,
                kind,
                uid: uid.and_then(|uid| Uid::new(uid).ok()),
                session: Some(SessionView::of_forwarded(self.app, session)),
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
