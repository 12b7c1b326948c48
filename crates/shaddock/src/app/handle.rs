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
    pub(super) handlers: HandlerTable,
    pub(super) remotes: HandlerTable,
    pub(super) filters: Filters,
    pub(super) routing: Routing,
    pub(super) hooks: Hooks,
    pub(super) backends: Backends,
    pub(super) stats: AppStats,
    /// Concurrent and offloaded requests.
    pub(super) requests: Tasks,
    /// Background tasks of the application.
    pub(super) tasks: Tasks,
    /// Listeners of session events.
    pub(super) events: Tasks,
    pub(super) codec: Arc<Codec>,
    /// The same codec with the limits for new connections; differs after a reload.
    pub(super) connection_codec: RwLock<Arc<Codec>>,
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
    pub(super) listeners: Mutex<Vec<Listener>>,
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

/// # Identity
impl AppHandle {
    /// The server type.
    pub fn server_type(&self) -> &str {
        &self.0.info.server_type
    }

    /// The server id.
    pub fn id(&self) -> &str {
        self.0.info.id.as_str()
    }

    /// The information that other servers have about this one.
    pub fn info(&self) -> &Arc<ServerInfo> {
        &self.0.info
    }

    /// Whether the server is a frontend.
    pub fn is_frontend(&self) -> bool {
        self.0.info.frontend
    }

    /// The limits and times of the app.
    pub fn config(&self) -> &AppConfig {
        &self.0.config
    }

    /// Metrics of the application, which the admin server exports with those of the framework.
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// The counters of the app.
    pub fn stats(&self) -> &AppStats {
        &self.0.stats
    }
}

/// # The context
impl AppHandle {
    /// Sets a value in the context, replacing a value of the same type. Configuration is read when the app starts: setting it later has no
    /// effect.
    pub fn set<T: Send + Sync + 'static>(&self, value: T) {
        self.set_shared(Arc::new(value));
    }

    /// As [`set`](Self::set), for a shared value.
    pub fn set_shared<T: Send + Sync + 'static>(&self, value: Arc<T>) {
        self.0.values.set(value);
    }

    /// Returns a value of the context: one that was set, or one of the app's services: [`SessionService`] and [`ConnectionStats`]
    /// (frontends), [`Channels`], [`BackendSessions`].
    pub fn get<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        self.0
            .values
            .get()
            .or_else(|| self.service(TypeId::of::<T>())?.downcast().ok())
    }

    /// Services that hold the app, which therefore cannot be stored in its context.
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
        let stats = self.0.connections.as_ref()?;
        Some(stats.statistics(self.open_connections()))
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
    /// [`SpawnError`]: too many tasks, or the app is stopping.
    pub fn spawn<F>(&self, name: &'static str, future: F) -> Result<Task, SpawnError>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let task = self.0.tasks.spawn(name, future)?;
        Ok(Task::of(&task))
    }

    /// Starts a task that the app requires while it runs.
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

    /// Runs `work` repeatedly: first after `period`, then every `period`, until the app stops. A run that takes longer than a period skips
    /// the periods that it overlaps; a panic is logged and counted, and the next run follows. `name` is used in logs.
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
    /// [`SpawnError`]: too many tasks, or the app is stopping.
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
        // A period of zero would starve everything else, and the clock cannot represent every time.
        let period = period.clamp(Duration::from_millis(1), LONGEST_PERIOD);
        let app = self.clone();
        let first = Instant::now() + period;
        let repeated = async move {
            let mut ticks = tokio::time::interval_at(first, period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            loop {
                ticks.tick().await;
                let (one, work) = (app.clone(), Arc::clone(&work));
                // The panic was logged and counted.
                let _ = app.limited(name, Duration::ZERO, move || work(one)).await;
            }
        };
        let task = self.0.tasks.spawn(name, repeated)?;
        Ok(Task::of(&task))
    }

    /// Completes when the app stops, for background work that ends on its own.
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

    /// The addresses of the listeners, with the real ports, in the order of [`App::listen`](crate::App::listen).
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.listeners(|all| all.iter().map(Listener::local_addr).collect())
    }

    /// The number of open connections, including those whose handshake is not complete.
    pub fn open_connections(&self) -> usize {
        self.listeners(|all| all.iter().map(Listener::open_connections).sum())
    }

    /// Whether all listeners accept connections. False while the task of a worker restarts after a fault.
    pub fn is_serving(&self) -> bool {
        self.listeners(|all| all.iter().all(Listener::is_serving))
    }

    /// The counters of the listeners, in their order.
    pub fn net_stats(&self) -> Vec<NetStats> {
        self.listeners(|all| all.iter().map(Listener::stats).collect())
    }

    /// Continues a connection that another frontend has accepted. Returns false if this server no longer accepts connections.
    pub(crate) fn take_in(&self, relayed: Box<Relayed>) -> bool {
        self.listeners(|all| {
            let mut left = Some(relayed);
            for listener in all {
                left = left.and_then(|relayed| listener.take_in(relayed).err());
            }
            left.is_none()
        })
    }

    /// Replaces address lists and connection limits of all listeners. Open connections are kept.
    pub fn set_access(&self, policy: &AccessPolicy) {
        self.listeners(|all| {
            for listener in all {
                listener.set_access(policy.clone());
            }
        });
    }

    /// Replaces the limits of connections and the rules for WebSocket upgrades of all listeners. Open connections keep their limits.
    pub fn set_limits(&self, limits: &ConnectionLimits, upgrade: &UpgradePolicy) {
        self.listeners(|all| {
            for listener in all {
                listener.set_limits(limits.clone(), upgrade.clone());
            }
        });
    }

    /// Takes limits, heartbeats and the requirement of signatures from `config`, for later connections. The encoding of messages
    /// (dictionary, schemas, serializer, compression) does not change, because open connections rely on it.
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

    /// The codec of a new connection.
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
    /// The [`TlsError`] of the first listener that failed; the others are reloaded.
    pub fn reload_tls(&self) -> Result<(), TlsError> {
        self.listeners(|all| {
            all.iter()
                .map(Listener::reload_tls)
                .fold(Ok(()), Result::and)
        })
    }

    /// The interface of connectors: the app as a [`Frontend`](crate::wire::Frontend). The listeners of [`App::listen`](crate::App::listen)
    /// use it, and so can connectors of the application, and tests without sockets. `None` if this server is not a frontend.
    pub fn connector(&self) -> Option<Arc<dyn Frontend>> {
        self.0.sessions.as_ref()?;
        Some(Arc::new(AppFrontend(self.clone())))
    }

    /// Closes the listening sockets. Open connections continue. This is the first step of a drain; the readiness probe should fail before.
    pub fn stop_accepting(&self) {
        self.listeners(|all| all.iter().for_each(Listener::stop_accepting));
    }

    /// Sends the pushes that push schedulers hold back.
    pub fn flush_pushes(&self) {
        self.0.scheduler.flush();
    }
}

/// Used by the rest of the framework.
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

    /// The codec for clients.
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

    /// Records a login for the statistics.
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
