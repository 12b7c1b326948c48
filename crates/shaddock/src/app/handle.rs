//! The running app.

use std::{
    any::{Any, TypeId},
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, OnceLock, PoisonError, RwLock, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use shaddock_cluster::{Membership, RemoteError, RemoteErrorKind, Routing, ServerId, ServerInfo};
use shaddock_core::{
    ChannelService, ConnectionStats, LoginRecord, Session, SessionService, StatisticsInfo, Uid,
};
use shaddock_net::{
    AccessPolicy, ConnectionLimits, Frontend, Listener, NetStats, Relayed, TlsError, UpgradePolicy,
};
use shaddock_protocol::{Codec, CodecConfig};
use tokio::{
    runtime::Handle,
    time::{Instant, MissedTickBehavior, Sleep},
};

use super::{AppConfig, Hooks, SpawnError, StartError, Task, Tasks, Timer, Work, context::Shared};
use crate::{
    backend::Backends,
    channel::{Channels, RecentCounts, Scheduler, Settling, Watch, Watchers},
    filter::Filters,
    frontend::AppFrontend,
    guarded::{Guarded, Part, guard},
    handler::{BoxFuture, HandlerTable},
    history::History,
    metrics::Metrics,
    resume::{ResumePolicy, Returns, relay::Relays},
    session::{BackendSessions, Expiries},
    stats::AppStats,
    telemetry::Tracer,
};

/// The longest time between two runs of a timer: 30 years.
const LONGEST_PERIOD: Duration = Duration::from_secs(30 * 365 * 86_400);

/// A running server. Cheap to clone. Handlers take it as [`Ctx`](crate::extract::Ctx).
#[derive(Clone)]
pub struct AppHandle(Arc<Counted>);

/// The app, behind a count of handles. Every IO worker has a count of its own: each request holds a handle, and workers that counted in
/// one place would pass that cache line back and forth for every message.
struct Counted(Arc<AppInner>);

impl std::ops::Deref for Counted {
    type Target = AppInner;

    fn deref(&self) -> &AppInner {
        &self.0
    }
}

/// Everything a running server is made of.
pub(crate) struct AppInner {
    pub(super) info: Arc<ServerInfo>,
    pub(super) values: Shared,
    pub(super) config: AppConfig,
    pub(super) handlers: HandlerTable,
    pub(super) remotes: HandlerTable,
    pub(super) filters: Filters,
    pub(super) routing: Routing,
    pub(super) hooks: Hooks,
    pub(super) backends: Backends,
    pub(super) stats: AppStats,
    /// Concurrent and offloaded requests.
    pub(super) requests: Tasks,
    /// Background work of the application.
    pub(super) tasks: Tasks,
    /// Listeners of session events.
    pub(super) events: Tasks,
    pub(super) codec: Arc<Codec>,
    /// The same with the limits that new connections get; differs after a reload.
    pub(super) connection_codec: RwLock<Arc<Codec>>,
    pub(super) sessions: Option<SessionService>,
    pub(super) connections: Option<ConnectionStats>,
    pub(super) channels: ChannelService,
    /// No other life of this server has the same.
    pub(super) life: u64,
    pub(super) watchers: Watchers,
    pub(super) watch: Watch,
    pub(super) counted: RecentCounts,
    pub(super) settling: Settling,
    pub(super) scheduler: Scheduler,
    pub(super) membership: OnceLock<Arc<dyn Membership>>,
    pub(super) listeners: Mutex<Vec<Listener>>,
    /// No client gets a session any more.
    pub(super) draining: AtomicBool,
    pub(super) expiries: Expiries,
    pub(super) metrics: Metrics,
    pub(super) resume: ResumePolicy,
    pub(super) returns: Returns,
    pub(super) relays: Relays,
    /// What happened to sessions lately.
    pub(super) history: History,
    /// Makes spans, with telemetry.
    pub(super) tracer: Option<Tracer>,
}

/// # Who it is
impl AppHandle {
    /// The server type.
    pub fn server_type(&self) -> &str {
        &self.0.info.server_type
    }

    /// The server id.
    pub fn id(&self) -> &str {
        self.0.info.id.as_str()
    }

    /// What other servers see of it.
    pub fn info(&self) -> &Arc<ServerInfo> {
        &self.0.info
    }

    /// Whether it listens for clients.
    pub fn is_frontend(&self) -> bool {
        self.0.info.frontend
    }

    /// Its bounds and times.
    pub fn config(&self) -> &AppConfig {
        &self.0.config
    }

    /// Metrics of your own, which the admin server shows beside those of the framework.
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// What it counts.
    pub fn stats(&self) -> &AppStats {
        &self.0.stats
    }
}

/// # The context
impl AppHandle {
    /// Puts a value into the context, in the place of one of the same type. Configuration is read when the app starts: setting it now changes
    /// nothing.
    pub fn set<T: Send + Sync + 'static>(&self, value: T) {
        self.set_shared(Arc::new(value));
    }

    /// As [`set`](Self::set), for a value that others share.
    pub fn set_shared<T: Send + Sync + 'static>(&self, value: Arc<T>) {
        self.0.values.set(value);
    }

    /// A value of the context: one that was set, or one of the app's own services: [`SessionService`] and [`ConnectionStats`] (frontends),
    /// [`Channels`], [`BackendSessions`].
    pub fn get<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        self.0
            .values
            .get()
            .or_else(|| self.service(TypeId::of::<T>())?.downcast().ok())
    }

    /// Services that hold the app and so cannot be in its context.
    fn service(&self, key: TypeId) -> Option<Arc<dyn Any + Send + Sync>> {
        if key == TypeId::of::<Channels>() {
            Some(Arc::new(self.channels()))
        } else if key == TypeId::of::<BackendSessions>() {
            Some(Arc::new(self.backend_sessions()))
        } else {
            None
        }
    }

    /// The sessions of this frontend; `None` on other servers.
    pub fn session_service(&self) -> Option<&SessionService> {
        self.0.sessions.as_ref()
    }

    /// Who is logged in at this frontend; `None` on other servers.
    pub fn connection_stats(&self) -> Option<&ConnectionStats> {
        self.0.connections.as_ref()
    }

    /// Connections and logins, for operators; `None` on servers that are no frontends. (Pomelo `connectionService.getStatisticsInfo`.)
    pub fn connection_statistics(&self) -> Option<StatisticsInfo> {
        let mut info = self.0.connections.as_ref()?.statistics();
        info.connections = self.open_connections();
        Some(info)
    }

    /// The place of this server in the cluster.
    ///
    /// # Errors
    /// The app has not joined yet, or could not.
    pub fn membership(&self) -> Result<&Arc<dyn Membership>, RemoteError> {
        self.0.membership.get().ok_or_else(|| {
            let kind = RemoteErrorKind::Disconnected;
            RemoteError::of(
                kind,
                shaddock_cluster::code::UNAVAILABLE,
                "this server has not joined the others yet",
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
}

/// # Background work
impl AppHandle {
    /// Runs `future` in the background, until it is done or the app stops; then it is dropped at its next `.await`. A panic is logged and ends
    /// the task only. `name` is for logs.
    ///
    /// Work that belongs to a session or a channel ends with it if they spawn it:
    /// [`FrontendSession::spawn`](crate::session::FrontendSession::spawn), [`Channel::spawn`](crate::channel::Channel::spawn).
    ///
    /// # Errors
    /// [`SpawnError`]: too many tasks, or the app stops.
    pub fn spawn<F>(&self, name: &'static str, future: F) -> Result<Task, SpawnError>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let task = self.0.tasks.spawn(name, future)?;
        Ok(Task::of(&task))
    }

    /// Runs a task that the app needs as long as it runs.
    pub(crate) fn start_task<F>(&self, task: &'static str, future: F) -> Result<(), StartError>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let started = self.spawn(task, future).map(drop);
        started.map_err(|error| StartError::Task {
            app: self.id().to_owned(),
            task,
            error,
        })
    }

    /// Runs `work` again and again: first after `period`, then every `period`, until the app stops. A run that takes longer than a period leaves
    /// out those that it overlaps; a panic is logged and counted, and the next run comes. `name` is for logs.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use shaddock::prelude::*;
    /// # fn start(app: &AppHandle) -> Result<(), Box<dyn std::error::Error>> {
    /// let ticks = app.every("world", Duration::from_millis(100), async |app: AppHandle| {
    ///     let sent = app.channels().broadcast("connector", "onWorld", &"tick", BroadcastOptions::bound()).await;
    ///     if let Err(error) = sent {
    ///         eprintln!("{error}");
    ///     }
    /// })?;
    /// # ticks.abort();
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`SpawnError`]: too many tasks, or the app stops.
    pub fn every<F, Fut>(
        &self,
        name: &'static str,
        period: Duration,
        work: F,
    ) -> Result<Task, SpawnError>
    where
        F: Fn(Self) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let work: Work = Arc::new(move |app| Box::pin(work(app)));
        self.repeat(&Timer { name, period, work })
    }

    /// Starts one of the timers of [`App::every`](crate::App::every).
    pub(crate) fn repeat(&self, timer: &Timer) -> Result<Task, SpawnError> {
        let Timer { name, period, work } = timer.clone();
        // A timer of no time would let nothing else run, and the clock cannot hold every time.
        let period = period.clamp(Duration::from_millis(1), LONGEST_PERIOD);
        let app = self.clone();
        let first = Instant::now() + period;
        let repeated = async move {
            let mut ticks = tokio::time::interval_at(first, period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            loop {
                ticks.tick().await;
                let (one, work) = (app.clone(), Arc::clone(&work));
                // A panic was logged and counted.
                let _ = app.limited(name, Duration::ZERO, move || work(one)).await;
            }
        };
        let task = self.0.tasks.spawn(name, repeated)?;
        Ok(Task::of(&task))
    }

    /// Done when the app stops. For background work that wants to end by itself.
    pub fn stopping(&self) -> impl Future<Output = ()> + Send + 'static {
        self.0.tasks.stopped()
    }

    /// The runtime that started the app.
    pub fn runtime(&self) -> &Handle {
        self.0.tasks.runtime()
    }

    /// Runs code of the application: `None` if it panicked or took longer than `limit` (zero: no limit), which is logged.
    pub(crate) async fn limited<T, F>(
        &self,
        name: &'static str,
        limit: Duration,
        make: F,
    ) -> Option<T>
    where
        F: FnOnce() -> BoxFuture<T> + Send,
    {
        let part = Part {
            app: self.clone(),
            name,
        };
        let future = guard(&part, make)?;
        let polled = Guarded::new(future, part);
        if limit.is_zero() {
            return polled.await;
        }
        tokio::select! {
            biased;
            value = polled => value,
            () = self.sleep(limit) => {
                shaddock_net::quiet!(error, "a hook of the application did not end in time", name, ?limit);
                None
            }
        }
    }

    /// A timer of the runtime that polls it, or of the app's if there is none.
    pub(crate) fn sleep(&self, duration: Duration) -> Pin<Box<Sleep>> {
        if Handle::try_current().is_ok() {
            return Box::pin(tokio::time::sleep(duration));
        }
        let _runtime = self.runtime().enter();
        Box::pin(tokio::time::sleep(duration))
    }
}

/// # Listeners
impl AppHandle {
    fn listeners<T>(&self, look: impl FnOnce(&[Listener]) -> T) -> T {
        look(
            &self
                .0
                .listeners
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    /// The addresses it listens on, with the real ports, in the order of [`App::listen`](crate::App::listen).
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.listeners(|all| all.iter().map(Listener::local_addr).collect())
    }

    /// Open connections, whether or not their handshake is done.
    pub fn open_connections(&self) -> usize {
        self.listeners(|all| all.iter().map(Listener::open_connections).sum())
    }

    /// Whether all its listeners accept and serve. False while the task of a worker starts again after a fault.
    pub fn is_serving(&self) -> bool {
        self.listeners(|all| all.iter().all(Listener::is_serving))
    }

    /// What the listeners counted, in their order.
    pub fn net_stats(&self) -> Vec<NetStats> {
        self.listeners(|all| all.iter().map(Listener::stats).collect())
    }

    /// Goes on with a connection that another frontend has accepted. False: nothing is accepted here any more.
    pub(crate) fn take_in(&self, relayed: Box<Relayed>) -> bool {
        self.listeners(|all| {
            let mut left = Some(relayed);
            for listener in all {
                left = left.and_then(|relayed| listener.take_in(relayed).err());
            }
            left.is_none()
        })
    }

    /// Replaces address lists and connection limits of all listeners. Open connections stay.
    pub fn set_access(&self, policy: &AccessPolicy) {
        self.listeners(|all| {
            for listener in all {
                listener.set_access(policy.clone());
            }
        });
    }

    /// Replaces the bounds of a connection and who may open a WebSocket, of all listeners. Open connections keep what they have.
    pub fn set_limits(&self, limits: &ConnectionLimits, upgrade: &UpgradePolicy) {
        self.listeners(|all| {
            for listener in all {
                listener.set_limits(limits.clone(), upgrade.clone());
            }
        });
    }

    /// Takes limits, heartbeats and the need for signatures from `config`, for connections to come. What encodes messages (dictionary,
    /// schemas, serializer, compression) stays, because open connections rely on it.
    pub fn set_protocol_limits(&self, config: &CodecConfig) {
        let fresh = Codec::new(CodecConfig {
            limits: config.limits.clone(),
            heartbeat: config.heartbeat,
            heartbeat_timeout: config.heartbeat_timeout,
            crypto: config.crypto,
            unsigned_pitaya: config.unsigned_pitaya,
            ..self.codec().config().clone()
        });
        *self
            .0
            .connection_codec
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Arc::new(fresh);
    }

    /// What a new connection speaks by.
    pub(crate) fn connection_codec(&self) -> Arc<Codec> {
        self.0
            .connection_codec
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Reads certificates and keys again.
    ///
    /// # Errors
    /// [`TlsError`] of the first listener that could not; the others are reloaded all the same.
    pub fn reload_tls(&self) -> Result<(), TlsError> {
        self.listeners(|all| {
            all.iter()
                .map(Listener::reload_tls)
                .fold(Ok(()), Result::and)
        })
    }

    /// What a connector calls: the app as a [`Frontend`](crate::wire::Frontend). The listeners of
    /// [`App::listen`](crate::App::listen) use it; so may connectors of your own, and tests without sockets. `None` if this server is no
    /// frontend.
    pub fn connector(&self) -> Option<Arc<dyn Frontend>> {
        self.0.sessions.as_ref()?;
        Some(Arc::new(AppFrontend(self.clone())))
    }

    /// Closes the listening sockets. Open connections go on. First step of draining; the readiness probe should say no before.
    pub fn stop_accepting(&self) {
        self.listeners(|all| all.iter().for_each(Listener::stop_accepting));
    }

    /// Lets go what push schedulers hold back.
    pub fn flush_pushes(&self) {
        self.0.scheduler.flush();
    }
}

/// For the rest of the framework.
impl AppHandle {
    pub(crate) fn from_inner(inner: Arc<AppInner>) -> Self {
        Self(Arc::new(Counted(inner)))
    }

    /// The same app. Clones of the result are counted apart from those of `self`.
    pub(crate) fn counted_apart(&self) -> Self {
        Self::from_inner(Arc::clone(&self.0.0))
    }

    pub(crate) fn downgrade(&self) -> Weak<AppInner> {
        Arc::downgrade(&self.0.0)
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.0.draining.load(Ordering::Acquire)
    }

    pub(super) fn inner(&self) -> &AppInner {
        &self.0
    }

    pub(crate) fn handlers(&self) -> &HandlerTable {
        &self.0.handlers
    }

    pub(crate) fn remotes(&self) -> &HandlerTable {
        &self.0.remotes
    }

    pub(crate) fn filters(&self) -> &Filters {
        &self.0.filters
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

    pub(crate) fn hooks(&self) -> &Hooks {
        &self.0.hooks
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

    /// How this app speaks with clients.
    pub fn codec(&self) -> &Arc<Codec> {
        &self.0.codec
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

    /// Remembers a login for the statistics.
    pub(crate) fn log_in(&self, session: &Session, uid: &Uid) {
        if let Some(stats) = &self.0.connections {
            let since_1970 = std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .unwrap_or_default();
            stats.add_login(LoginRecord {
                uid: uid.clone(),
                sid: session.id(),
                login_time: u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX),
                address: session.client_address(),
                info: serde_json::Map::new(),
            });
        }
    }

    pub(crate) fn log_out(&self, session: &Session, uid: &Uid) {
        if let Some(stats) = &self.0.connections {
            stats.remove_login(uid.as_str(), session.id());
        }
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
