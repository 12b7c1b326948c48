//! One or several apps in one process: check, start, join, listen.

use std::{
    future::Future,
    sync::{Arc, Mutex, OnceLock, RwLock, atomic::AtomicBool},
};

use shaddock_cluster::{Cluster, ClusterError, JoinOptions, LocalCluster, Unique};
use shaddock_core::{
    ChannelConfig, ChannelService, Conflict, ConnectionStats, FrontendId, SessionConfig,
    SessionService,
};
use shaddock_net::{ListenError, Listener, Workers};
use shaddock_protocol::{Codec, CodecConfig, Dictionary, DictionaryError, MAX_BODY};
use tokio::runtime::Handle;

use super::{
    App, AppConfig, AppHandle, AppInner, BoxError, DictionaryConfig, ErasedComponent, Running,
    SpawnError, Tasks, context::Shared, info::sid_allocator, join::AppNode, refusals,
    requirements::Requirements,
};
use crate::{
    channel::{PushConfig, Scheduler},
    frontend::AppFrontend,
    handler::HandlerTable,
    history::History,
    metrics::Metrics,
    operators,
    resume::{ResumePolicy, Returns, relay::Relays},
    session::{Expiries, FrontendEvents},
    shutdown::Signals,
    stats::AppStats,
};

/// Bytes of a server's metadata.
const MOST_METADATA: usize = 64 * 1024;

/// Why servers did not start. What was started before has been stopped again.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// There is no app.
    #[error("no app was added")]
    NoApp,
    /// A handler or remote needs something that the app does not have.
    #[error("`{route}` of `{app}` cannot be served: {reason}")]
    Requirement {
        /// The id of the app.
        app: String,
        /// The route.
        route: String,
        /// What is missing.
        reason: String,
    },
    /// A hook of which there is one was set twice. Which one was meant cannot be known.
    #[error(
        "`{hook}` of `{app}` was called twice, at {first} and at {second}; make one function of both"
    )]
    Twice {
        /// The id of the app.
        app: String,
        /// The method of [`App`].
        hook: &'static str,
        /// File and line of the first call.
        first: String,
        /// File and line of the second call.
        second: String,
    },
    /// An exception of [`App::require_user`] names no route of the server.
    #[error("`{app}` has no route `{route}`, which `require_user().except(..)` names")]
    Exception {
        /// The id of the app.
        app: String,
        /// The route.
        route: String,
    },
    /// An exception of [`App::require_user`] is no route.
    #[error(
        "`require_user().except(\"{route}\")` of `{app}` names no route: write `handler.method` for one of this server, or `type.handler.method`"
    )]
    ExceptionRoute {
        /// The id of the app.
        app: String,
        /// What was named.
        route: String,
    },
    /// The metadata of the server is too long: every server of the cluster keeps it, and etcd has a bound.
    #[error(
        "the metadata of `{app}` has {bytes} bytes, and {MOST_METADATA} may be: put less into `App::metadata`, or make fewer routes concurrent or with a timeout of their own"
    )]
    Metadata {
        /// The id of the app.
        app: String,
        /// Its length.
        bytes: usize,
    },
    /// The route dictionary cannot be built.
    #[error(transparent)]
    Dictionary(#[from] DictionaryError),
    /// The answer to handshakes does not fit into a package.
    #[error(
        "handshakes at `{app}` would be answered with {length} bytes of routes and schemas, and a package has at most {MAX_BODY}: \
         put fewer or shorter routes into the dictionary (`DictionaryConfig`), or leave schemas out (`CodecConfig::protos`)"
    )]
    HandshakeAnswer {
        /// The id of the app.
        app: String,
        /// Bytes of the answer.
        length: usize,
    },
    /// A component did not start.
    #[error("component `{component}` of `{app}` did not start: {error}")]
    Component {
        /// The id of the app.
        app: String,
        /// The name of the component.
        component: String,
        /// Why.
        #[source]
        error: BoxError,
    },
    /// A task that the app needs as long as it runs was refused.
    #[error("the task \"{task}\" of `{app}` cannot be started: {error}")]
    Task {
        /// The id of the app.
        app: String,
        /// The task.
        task: &'static str,
        /// Why.
        #[source]
        error: SpawnError,
    },
    /// The cluster does not take the app.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// A port cannot be opened.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The operating system refuses threads.
    #[error("IO workers cannot be started: {0}")]
    Workers(#[source] std::io::Error),
    /// [`Servers::run_blocking`]: the operating system refuses a runtime.
    #[error("the runtime cannot be started: {0}")]
    Runtime(#[source] std::io::Error),
}

/// Programs whose `main` returns it print it this way: what was wrong, for people.
impl std::fmt::Debug for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// The servers of one process.
///
/// ```no_run
/// use shaddock::prelude::*;
///
/// # fn main() -> Result<(), StartError> {
/// let mut gate = App::new("gate", "gate-1");
/// gate.listen("0.0.0.0:3014");
/// let mut connector = App::new("connector", "connector-1");
/// connector.listen("0.0.0.0:3010");
/// Servers::new().add(gate).add(connector).run_blocking()
/// # }
/// ```
#[must_use = "servers do nothing until they are started"]
#[derive(Default)]
pub struct Servers {
    apps: Vec<App>,
    cluster: Option<Arc<dyn Cluster>>,
    workers: Option<usize>,
}

impl Servers {
    /// No servers yet. They will find each other in this process.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a server.
    #[expect(clippy::should_implement_trait, reason = "it is a builder, not a sum")]
    pub fn add(mut self, app: App) -> Self {
        self.apps.push(app);
        self
    }

    /// Joins the servers to this cluster, instead of one of their own in this process.
    pub fn cluster(mut self, cluster: impl Cluster) -> Self {
        self.cluster = Some(Arc::new(cluster));
        self
    }

    /// As [`cluster`](Self::cluster), for one that was chosen elsewhere ([`Config::cluster`](crate::config::Config::cluster)).
    pub fn cluster_shared(mut self, cluster: Arc<dyn Cluster>) -> Self {
        self.cluster = Some(cluster);
        self
    }

    /// Whether the program chose the cluster.
    pub(crate) fn has_cluster(&self) -> bool {
        self.cluster.is_some()
    }

    /// Number of threads that serve clients' connections, all frontends together. Default: one per core.
    pub const fn workers(mut self, count: usize) -> Self {
        self.workers = Some(count);
        self
    }

    /// Starts the servers: checks, components, cluster, listeners, in this order. Needs a tokio runtime with several threads and timers; what the
    /// application does in the background runs there.
    ///
    /// # Errors
    /// [`StartError`]; then everything is stopped again.
    pub async fn start(self) -> Result<Running, StartError> {
        let never = std::future::pending::<std::convert::Infallible>();
        match self.start_unless(never).await? {
            Ok(running) => Ok(running),
            Err(never) => match never {},
        }
    }

    /// As [`start`](Self::start), unless `stop` is done before: then what was started is stopped again, and the inner error is what `stop`
    /// said.
    pub(crate) async fn start_unless<T>(
        self,
        stop: impl Future<Output = T>,
    ) -> Result<Result<Running, T>, StartError> {
        let mut place = Place::Sockets(self.workers);
        self.start_at(&mut place, stop).await
    }

    /// Starts the servers with listeners in memory, as tasks of the runtime that calls this.
    #[cfg(feature = "testing")]
    pub(crate) async fn start_in_memory(
        self,
    ) -> Result<(Running, crate::testing::Network), StartError> {
        let mut place = Place::Memory(crate::testing::Network::new());
        let never = std::future::pending::<std::convert::Infallible>();
        match (self.start_at(&mut place, never).await?, place) {
            (Ok(running), Place::Memory(network)) => Ok((running, network)),
            (Ok(running), Place::Sockets(_)) => Ok((running, crate::testing::Network::new())),
            (Err(never), _) => match never {},
        }
    }

    async fn start_at<T>(
        self,
        place: &mut Place,
        stop: impl Future<Output = T>,
    ) -> Result<Result<Running, T>, StartError> {
        if self.apps.is_empty() {
            return Err(StartError::NoApp);
        }
        let routes: Vec<String> = self.apps.iter().flat_map(full_routes).collect();
        let cluster = self
            .cluster
            .unwrap_or_else(|| Arc::new(LocalCluster::new()));
        let mut running = Running::new();
        let mut listening = Vec::new();
        for app in self.apps {
            check(&app)?;
            let (handle, components, listeners) = assemble(app, &routes)?;
            listening.push((handle.clone(), listeners));
            running.add(handle, components);
        }
        let ended = tokio::select! {
            started = bring_up(&mut running, &*cluster, place, listening) => match started {
                Ok(()) => return Ok(Ok(running)),
                Err(error) => Err(error),
            },
            told = stop => Ok(Err(told)),
        };
        running.shutdown().await;
        ended
    }

    /// Starts the servers, serves until `stop` is done, and shuts down.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn run_until(self, stop: impl Future<Output = ()>) -> Result<(), StartError> {
        let running = self.start().await?;
        running.say_where();
        stop.await;
        running.shutdown().await;
        Ok(())
    }

    /// Starts the servers, serves until the process gets SIGINT or SIGTERM, and shuts down. SIGHUP, SIGUSR1 and SIGUSR2 do nothing.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn run(self) -> Result<(), StartError> {
        let signals = Signals::new();
        self.run_until(async move {
            match signals {
                Ok(mut signals) => drop(signals.end().await),
                Err(error) => {
                    tracing::error!(%error, "signals cannot be listened to");
                    std::future::pending::<()>().await;
                }
            }
        })
        .await
    }

    /// As [`run`](Self::run), on a runtime of its own. For programs without one.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn run_blocking(self) -> Result<(), StartError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(StartError::Runtime)?;
        let ran = runtime.block_on(self.run());
        // Work that did not end by itself is not waited for.
        runtime.shutdown_background();
        ran
    }
}

impl std::fmt::Debug for Servers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Servers")
            .field("apps", &self.apps)
            .field("workers", &self.workers)
            .finish_non_exhaustive()
    }
}

fn full_routes(app: &App) -> impl Iterator<Item = String> {
    app.handlers
        .entries()
        .map(|(short, _)| format!("{}.{short}", app.server_type()))
}

/// Whether everything that handlers and remotes take is there.
fn check(app: &App) -> Result<(), StartError> {
    let look = |table: &HandlerTable, is_remote: bool| {
        for (short, entry) in table.entries() {
            let mut needs = Requirements::default();
            entry.handler.requirements(&mut needs);
            if let Some(reason) =
                needs.missing(is_remote, app.is_frontend(), |key| app.values.contains(key))
            {
                return Err(StartError::Requirement {
                    app: app.id().to_owned(),
                    route: format!("{}.{short}", app.server_type()),
                    reason,
                });
            }
        }
        Ok(())
    };
    look(&app.handlers, false)?;
    look(&app.remotes, true)?;
    check_hooks(app)
}

/// Whether each hook of which there is one was set once.
fn check_hooks(app: &App) -> Result<(), StartError> {
    let (hooks, filters) = (&app.hooks, &app.filters);
    for route in hooks.users_only.iter().flatten() {
        let parts: Vec<_> = route.split('.').collect();
        if parts.len() != 3 || parts.iter().any(|part| part.trim().is_empty()) {
            return Err(StartError::ExceptionRoute {
                app: app.id().to_owned(),
                route: route.clone(),
            });
        }
        let own = route.strip_prefix(app.server_type());
        let short = own.and_then(|rest| rest.strip_prefix('.'));
        if short.is_some_and(|short| app.handlers.get(short).is_none()) {
            return Err(StartError::Exception {
                app: app.id().to_owned(),
                route: route.clone(),
            });
        }
    }
    let all = [
        ("check_client", hooks.client_check.both()),
        ("on_handshake", hooks.handshake.both()),
        ("before_bind", hooks.before_bind.both()),
        ("before_resume", hooks.before_resume.both()),
        ("error_handler", filters.own.error_handler.both()),
        ("global_error_handler", filters.global.error_handler.both()),
    ];
    for (hook, both) in all {
        if let Some([first, second]) = both {
            return Err(StartError::Twice {
                app: app.id().to_owned(),
                hook,
                first: first.to_string(),
                second: second.to_string(),
            });
        }
    }
    Ok(())
}

fn codec_of(app: &App, routes: &[String]) -> Result<Codec, StartError> {
    let mut config = app
        .values
        .get::<CodecConfig>()
        .map(Arc::unwrap_or_clone)
        .unwrap_or_default();
    if let Some(dictionary) = app.values.get::<DictionaryConfig>() {
        let handlers = routes.iter().chain(&dictionary.handlers);
        config.dictionary = Some(Arc::new(Dictionary::build(handlers, &dictionary.routes)?));
    }
    let codec = Codec::new(config);
    let length = codec.longest_answer();
    if length > MAX_BODY {
        return Err(StartError::HandshakeAnswer {
            app: app.id().to_owned(),
            length,
        });
    }
    Ok(codec)
}

/// Frontends are told which routes need not wait for others, and how long handlers may take.
fn announce_routes(app: &mut App, config: &AppConfig) -> Result<(), StartError> {
    let routes = || app.handlers.entries();
    let concurrent = routes().filter(|(_, entry)| entry.options.concurrent);
    app.info
        .announce_concurrent(concurrent.map(|(short, _)| short));
    let limited = routes().filter_map(|(short, entry)| Some((short, entry.options.timeout?)));
    app.info.announce_timeouts(config.handler_timeout, limited);
    let bytes = app.info.metadata_len();
    if bytes > MOST_METADATA {
        return Err(StartError::Metadata {
            app: app.id().to_owned(),
            bytes,
        });
    }
    Ok(())
}

/// Sessions whose listeners are at work at the same time. Above, an event of one more session is lost and counted (`lost_events`).
const MOST_EVENTS: usize = 1 << 20;

type Assembled = (
    AppHandle,
    Vec<Arc<dyn ErasedComponent>>,
    Vec<shaddock_net::ListenConfig>,
);

fn assemble(mut app: App, routes: &[String]) -> Result<Assembled, StartError> {
    let config = app
        .values
        .get::<AppConfig>()
        .map(Arc::unwrap_or_clone)
        .unwrap_or_default();
    let codec = Arc::new(codec_of(&app, routes)?);
    let (mut sessions, mut connections) = (None, None);
    if let (true, Ok(id)) = (app.is_frontend(), FrontendId::new(app.id())) {
        let policy = app
            .values
            .get::<SessionConfig>()
            .map(Arc::unwrap_or_clone)
            .unwrap_or_default();
        let service = SessionService::new(id.clone(), sid_allocator(), policy);
        let stats = ConnectionStats::new(id);
        app.values.set(Arc::new(service.clone()));
        app.values.set(Arc::new(stats.clone()));
        (sessions, connections) = (Some(service), Some(stats));
    }
    operators::announce(&mut app.info);
    // 64 random bits: std's hasher has a new key each time.
    let life = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0);
    app.metadata(crate::channel::LIFE, format!("{life:x}"));
    announce_routes(&mut app, &config)?;
    let channels = app
        .values
        .get::<ChannelConfig>()
        .map(Arc::unwrap_or_clone)
        .unwrap_or_default();
    let pushes = app
        .values
        .get::<PushConfig>()
        .map(Arc::unwrap_or_clone)
        .unwrap_or_default();
    let resume = app
        .values
        .get::<ResumePolicy>()
        .map(Arc::unwrap_or_clone)
        .unwrap_or_default();
    let runtime = Handle::current();
    let inner = AppInner {
        channels: ChannelService::new(app.id(), channels),
        life,
        watchers: crate::channel::Watchers::default(),
        watch: crate::channel::Watch::default(),
        counted: crate::channel::RecentCounts::default(),
        info: Arc::new(app.info),
        values: Shared::new(app.values),
        requests: Tasks::new(runtime.clone(), config.max_concurrent),
        tasks: Tasks::new(runtime.clone(), config.max_tasks),
        events: Tasks::new(runtime, MOST_EVENTS),
        history: History::new(config.kept_events),
        config,
        handlers: app.handlers,
        remotes: app.remotes,
        filters: app.filters,
        routing: app.routing,
        hooks: app.hooks,
        backends: app.backends,
        stats: AppStats::default(),
        connection_codec: RwLock::new(Arc::clone(&codec)),
        codec,
        sessions,
        connections,
        scheduler: Scheduler::new(pushes),
        membership: OnceLock::new(),
        listeners: Mutex::default(),
        draining: AtomicBool::new(false),
        expiries: Expiries::default(),
        metrics: Metrics::default(),
        resume,
        returns: Returns::default(),
        relays: Relays::default(),
    };
    let handle = AppHandle::from_inner(Arc::new(inner));
    if let Some(service) = handle.session_service() {
        service.set_events(Arc::new(FrontendEvents(handle.downgrade())));
    }
    Ok((handle, app.components, app.listeners))
}

async fn bring_up(
    running: &mut Running,
    cluster: &dyn Cluster,
    place: &mut Place,
    listening: Vec<(AppHandle, Vec<shaddock_net::ListenConfig>)>,
) -> Result<(), StartError> {
    running.start_components().await?;
    let listens = |(_, configs): &(_, Vec<_>)| !configs.is_empty();
    let workers = if listening.iter().any(listens) {
        Some(running.keep_workers(place.workers()?))
    } else {
        None
    };
    for (number, (app, configs)) in listening.iter().enumerate() {
        app.start_cluster_events()?;
        let mut options = join_options(app);
        if let (Some(workers), false) = (workers, configs.is_empty()) {
            // Forwarding from the sessions of this worker then wakes no other thread (docs/performance.md).
            options = options.connection_on(workers.handle(number).clone());
        }
        let membership = cluster
            .join((**app.info()).clone(), options, AppNode::new(app))
            .await?;
        if let Some(service) = app.session_service() {
            service.set_node(membership.start_number());
        }
        // Set once, here.
        let _ = app.inner().membership.set(membership);
        app.start_watching()?;
        app.settle_restored();
        if app.scheduler().may_buffer() {
            app.start_task("push scheduler", app.clone().flush_forever())?;
        }
    }
    if let Some(workers) = workers {
        for (app, configs) in listening {
            for config in configs {
                let listener = place.listen(workers, config, &app)?;
                tracing::info!(app = app.id(), address = %listener.local_addr(), "listening");
                app.inner()
                    .listeners
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner)
                    .push(listener);
            }
        }
    }
    for app in running.apps() {
        let (stopped, telling) = (app.stopping(), refusals::tell(app.downgrade()));
        app.runtime().spawn(async move {
            tokio::select! {
                () = stopped => {}
                () = telling => {}
            }
        });
    }
    running.after_start().await?;
    for app in running.apps() {
        for timer in &app.hooks().timers {
            if let Err(error) = app.repeat(timer) {
                tracing::error!(app = app.id(), timer = timer.name, %error, "a timer does not start");
            }
        }
    }
    Ok(())
}

/// Where listeners get their connections from.
enum Place {
    /// From the network, served by so many threads.
    Sockets(Option<usize>),
    /// From a test.
    #[cfg(feature = "testing")]
    Memory(crate::testing::Network),
}

impl Place {
    fn workers(&self) -> Result<Workers, StartError> {
        match self {
            Self::Sockets(count) => start_workers(*count),
            #[cfg(feature = "testing")]
            Self::Memory(_) => Ok(Workers::on_this_thread(2)),
        }
    }

    fn listen(
        &mut self,
        workers: &Workers,
        config: shaddock_net::ListenConfig,
        app: &AppHandle,
    ) -> Result<Listener, ListenError> {
        let frontend = Arc::new(AppFrontend(app.clone()));
        match self {
            Self::Sockets(_) => Listener::start(workers, config, frontend),
            #[cfg(feature = "testing")]
            Self::Memory(network) => {
                let address = config.address;
                let (listener, connector) = Listener::in_memory(workers, config, frontend)
                    .map_err(|source| ListenError { address, source })?;
                // The first listener of a server is the one that tests connect to.
                network.entry(app.id().to_owned()).or_insert(connector);
                Ok(listener)
            }
        }
    }
}

fn join_options(app: &AppHandle) -> JoinOptions {
    let unique = match app.session_service().map(SessionService::config) {
        Some(SessionConfig {
            single_session: true,
            on_conflict: Conflict::ReplaceOld,
            ..
        }) => Unique::ReplaceOld,
        Some(SessionConfig {
            single_session: true,
            ..
        }) => Unique::RejectNew,
        _ => Unique::No,
    };
    JoinOptions::new()
        .unique(unique)
        .with_events_of(app.hooks().cluster_events.interest())
}

/// Starts the IO workers.
fn start_workers(count: Option<usize>) -> Result<Workers, StartError> {
    count
        .map_or_else(Workers::per_core, Workers::start)
        .map_err(StartError::Workers)
}
