//! The handle of a running app, and the state behind it.
//!
//! This file knows the state and nothing that is done with it: what an app does is in the types that are named for it, such as
//! [`Dispatcher`](crate::dispatch::Dispatcher), which take a handle. The public methods are in `facade.rs`.

use std::{
    pin::Pin,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use shaddock_cluster::{
    ForwardedSession, Membership, RemoteError, RemoteErrorKind, Routing, ServerId, ServerInfo,
};
use shaddock_core::{ChannelService, ConnectionStats, Session, SessionService, Uid};
use shaddock_net::Frontend;
use tokio::time::Sleep;

use super::{AppConfig, Codecs, Listeners, Tasks, context::Shared};
#[cfg(feature = "admin")]
use crate::{admin::AdminRequest, reply::Outcome};
use crate::{
    backend::Backends,
    boxed::BoxFuture,
    channel::{RecentCounts, Scheduler, Settling, Watch, Watchers},
    config::Config,
    error::HandlerError,
    handler::RouteNames,
    history::History,
    metrics::Metrics,
    resume::{Relays, ResumePolicy, Returns},
    session::Expiries,
    stats::AppStats,
    telemetry::Tracer,
};

/// A running server. Cheap to clone. Handlers take it as [`Ctx`](crate::extract::Ctx).
#[derive(Clone)]
pub struct AppHandle(Arc<Counted>);

/// The code of the application, as far as a holder of only a handle runs it: in terms of what is below, because what the application
/// registers takes handles.
pub(crate) trait Application: Send + Sync {
    /// The app as connectors see it.
    fn connector(self: Arc<Self>, app: &AppHandle) -> Arc<dyn Frontend>;

    /// Asks the hook whether this session may be bound. `None`: there is no hook.
    fn before_bind(
        &self,
        app: &AppHandle,
        session: &Arc<Session>,
        uid: &Uid,
    ) -> Option<BoxFuture<Result<(), HandlerError>>>;

    /// Asks the application's function for the server of a message, which takes at most `limit` (zero: no limit). `None`: the type of the
    /// route has no such function.
    fn choose(
        &self,
        app: &AppHandle,
        session: &ForwardedSession,
        route: &Arc<str>,
        body: &Bytes,
        limit: Duration,
    ) -> Option<BoxFuture<Result<Arc<ServerInfo>, HandlerError>>>;

    /// Whether it has reload hooks.
    fn has_reload_hooks(&self) -> bool;

    /// Runs the reload hooks. Completes when all have completed or timed out.
    fn reload(&self, app: &AppHandle, config: &Arc<Config>) -> BoxFuture<()>;

    /// The paths of its admin routes.
    #[cfg(feature = "admin")]
    fn admin_paths(&self) -> Vec<&str>;

    /// Serves an admin route. `None`: it has no such route. Without an outcome, the route has panicked.
    #[cfg(feature = "admin")]
    fn admin(
        &self,
        app: &AppHandle,
        path: &str,
        request: AdminRequest,
    ) -> Option<BoxFuture<Option<Outcome>>>;
}

/// The app, behind a reference count. Each IO worker has its own count: every request holds a handle, and with one count the workers would
/// contend for its cache line on every message.
struct Counted(Arc<AppInner>);

impl std::ops::Deref for Counted {
    type Target = AppInner;

    fn deref(&self) -> &AppInner {
        &self.0
    }
}

/// The state of a running server.
pub(crate) struct AppInner {
    pub(super) info: Arc<ServerInfo>,
    pub(super) values: Shared,
    pub(super) config: AppConfig,
    pub(super) application: Arc<dyn Application>,
    pub(super) handlers: RouteNames,
    pub(super) remotes: RouteNames,
    pub(super) routing: Routing,
    pub(super) backends: Backends,
    pub(super) stats: AppStats,
    /// Concurrent and offloaded requests.
    pub(super) requests: Tasks,
    /// Background tasks of the application.
    pub(super) tasks: Tasks,
    /// Listeners of session events.
    pub(super) events: Tasks,
    pub(super) codecs: Codecs,
    pub(super) sessions: Option<SessionService>,
    pub(super) connections: Option<ConnectionStats>,
    pub(super) channels: ChannelService,
    /// Identifies this run of the server.
    pub(super) life: u64,
    pub(super) watchers: Watchers,
    pub(super) watch: Watch,
    pub(super) counted: RecentCounts,
    pub(super) settling: Settling,
    pub(super) scheduler: Scheduler,
    pub(super) membership: OnceLock<Arc<dyn Membership>>,
    pub(super) listeners: Listeners,
    /// Clients no longer get sessions.
    pub(super) draining: AtomicBool,
    pub(super) expiries: Expiries,
    pub(super) metrics: Metrics,
    pub(super) resume: ResumePolicy,
    pub(super) returns: Returns,
    pub(super) relays: Relays,
    /// Recent events of sessions.
    pub(super) history: History,
    /// Creates spans, if telemetry is enabled.
    pub(super) tracer: Option<Tracer>,
}

/// The state, for the rest of the framework.
impl AppHandle {
    pub(crate) fn from_inner(inner: Arc<AppInner>) -> Self {
        Self(Arc::new(Counted(inner)))
    }

    /// Returns a handle whose clones have a reference count of their own.
    pub(crate) fn counted_apart(&self) -> Self {
        Self::from_inner(Arc::clone(&self.0.0))
    }

    pub(crate) fn downgrade(&self) -> Weak<AppInner> {
        Arc::downgrade(&self.0.0)
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.0.draining.load(Ordering::Acquire)
    }

    /// Clients in the middle of their handshake no longer get sessions, except for clients that resume one.
    pub(crate) fn open_no_session(&self) {
        self.0.draining.store(true, Ordering::Release);
    }

    pub(super) fn inner(&self) -> &AppInner {
        &self.0
    }

    pub(crate) fn application(&self) -> &Arc<dyn Application> {
        &self.0.application
    }

    /// The routes that have a handler.
    pub(crate) fn handlers(&self) -> &RouteNames {
        &self.0.handlers
    }

    /// The routes that have a remote.
    pub(crate) fn remotes(&self) -> &RouteNames {
        &self.0.remotes
    }

    pub(crate) fn routing(&self) -> &Routing {
        &self.0.routing
    }

    pub(crate) fn history(&self) -> &History {
        &self.0.history
    }

    pub(crate) fn resume_policy(&self) -> &ResumePolicy {
        &self.0.resume
    }

    pub(crate) fn backends(&self) -> &Backends {
        &self.0.backends
    }

    pub(crate) fn returns(&self) -> &Returns {
        &self.0.returns
    }

    pub(crate) fn relays(&self) -> &Relays {
        &self.0.relays
    }

    pub(crate) fn tracer(&self) -> Option<&Tracer> {
        self.0.tracer.as_ref()
    }

    pub(crate) fn settling(&self) -> &Settling {
        &self.0.settling
    }

    pub(crate) fn expiries(&self) -> &Expiries {
        &self.0.expiries
    }

    pub(crate) fn requests(&self) -> &Tasks {
        &self.0.requests
    }

    pub(crate) fn tasks(&self) -> &Tasks {
        &self.0.tasks
    }

    pub(crate) fn events(&self) -> &Tasks {
        &self.0.events
    }

    pub(crate) fn codecs(&self) -> &Codecs {
        &self.0.codecs
    }

    pub(crate) fn listeners(&self) -> &Listeners {
        &self.0.listeners
    }

    pub(crate) fn life(&self) -> u64 {
        self.0.life
    }

    pub(crate) fn watchers(&self) -> &Watchers {
        &self.0.watchers
    }

    pub(crate) fn watch(&self) -> &Watch {
        &self.0.watch
    }

    pub(crate) fn counted(&self) -> &RecentCounts {
        &self.0.counted
    }

    pub(crate) fn channel_data(&self) -> &ChannelService {
        &self.0.channels
    }

    pub(crate) fn scheduler(&self) -> &Scheduler {
        &self.0.scheduler
    }

    /// The membership in the cluster, once the server has joined.
    pub(super) fn joined(&self) -> Result<&Arc<dyn Membership>, RemoteError> {
        self.0.membership.get().ok_or_else(|| {
            let kind = RemoteErrorKind::Disconnected;
            RemoteError::of(
                kind,
                shaddock_cluster::code::UNAVAILABLE,
                "this server has not joined the cluster yet",
            )
        })
    }

    /// Whether a server has left the list and still serves.
    pub(crate) fn is_departing(&self, server: &ServerId) -> bool {
        self.0.membership.get().is_some_and(|membership| {
            let departing = membership.departing();
            departing.iter().any(|info| info.id == *server)
        })
    }

    /// Whether this frontend is cut off from the others, so that another one may own its users now.
    pub(crate) fn is_fenced(&self) -> bool {
        self.0
            .membership
            .get()
            .is_some_and(|membership| membership.is_fenced())
    }

    /// A timer of the runtime that polls it, or of the app's if there is none.
    pub(crate) fn sleep(&self, duration: Duration) -> Pin<Box<Sleep>> {
        self.0.tasks.sleep(duration)
    }
}

impl std::fmt::Debug for AppHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AppHandle")
            .field("type", &self.server_type())
            .field("id", &self.id())
            .finish_non_exhaustive()
    }
}
