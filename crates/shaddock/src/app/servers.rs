//! Starts one or several apps in a process: check, start, join, listen.

use std::{future::Future, sync::Arc};

use shaddock_cluster::{Cluster, JoinOptions, LocalCluster};
use shaddock_net::ListenConfig;

#[cfg(feature = "testing")]
use super::place::Network;
use super::{
    App, Running, Server, StartError, assemble::assemble, check::check, join::AppNode,
    place::Place, refusals, start_task,
};
use crate::{
    channel::{OwnChannels, Watching},
    session::ClusterEvents,
    shutdown::Signals,
};

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
    /// Creates an empty set of servers, which form a cluster in this process.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a server.
    #[expect(clippy::should_implement_trait, reason = "it is a builder, not a sum")]
    pub fn add(mut self, app: App) -> Self {
        self.apps.push(app);
        self
    }

    /// Joins the servers to this cluster, instead of a cluster in this process.
    pub fn cluster(mut self, cluster: impl Cluster) -> Self {
        self.cluster = Some(Arc::new(cluster));
        self
    }

    /// As [`cluster`](Self::cluster), for a shared one ([`Config::cluster`](crate::config::Config::cluster)).
    pub fn cluster_shared(mut self, cluster: Arc<dyn Cluster>) -> Self {
        self.cluster = Some(cluster);
        self
    }

    /// Whether the program has set the cluster.
    pub(crate) fn has_cluster(&self) -> bool {
        self.cluster.is_some()
    }

    /// Sets the number of threads that serve clients' connections, for all frontends together. Default: one per core.
    pub const fn workers(mut self, count: usize) -> Self {
        self.workers = Some(count);
        self
    }

    /// Starts the servers: checks, components, cluster, listeners, in this order. Requires a multi-threaded tokio runtime with timers;
    /// background work of the application runs there.
    ///
    /// # Errors
    /// [`StartError`]; then everything that was started is stopped.
    pub async fn start(self) -> Result<Running, StartError> {
        let never = std::future::pending::<std::convert::Infallible>();
        match self.start_unless(never).await? {
            Ok(running) => Ok(running),
            Err(never) => match never {},
        }
    }

    /// As [`start`](Self::start), unless `stop` completes first: then everything that was started is stopped, and the inner error is the
    /// output of `stop`.
    pub(crate) async fn start_unless<T>(
        self,
        stop: impl Future<Output = T>,
    ) -> Result<Result<Running, T>, StartError> {
        let mut place = Place::Sockets(self.workers);
        self.start_at(&mut place, stop).await
    }

    /// Starts the servers with listeners in memory, as tasks of the current runtime.
    #[cfg(feature = "testing")]
    pub(crate) async fn start_in_memory(self) -> Result<(Running, Network), StartError> {
        let mut place = Place::Memory(Network::new());
        let never = std::future::pending::<std::convert::Infallible>();
        match (self.start_at(&mut place, never).await?, place) {
            (Ok(running), Place::Memory(network)) => Ok((running, network)),
            (Ok(running), Place::Sockets(_)) => Ok((running, Network::new())),
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
            let (server, components, listeners) = assemble(app, &routes)?;
            running.add(server.app.clone(), components);
            listening.push((server, listeners));
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

    /// Starts the servers, serves until `stop` completes, and shuts down.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn run_until(self, stop: impl Future<Output = ()>) -> Result<(), StartError> {
        let running = self.start().await?;
        running.print_addresses();
        stop.await;
        running.shutdown().await;
        Ok(())
    }

    /// Starts the servers, serves until the process receives SIGINT or SIGTERM, and shuts down. SIGHUP, SIGUSR1 and SIGUSR2 are ignored.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn run(self) -> Result<(), StartError> {
        let signals = Signals::new();
        self.run_until(async move {
            match signals {
                Ok(mut signals) => drop(signals.end().await),
                Err(error) => {
                    tracing::error!(%error, "signals cannot be handled");
                    std::future::pending::<()>().await;
                }
            }
        })
        .await
    }

    /// As [`run`](Self::run), on a runtime of its own, for programs without one.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn run_blocking(self) -> Result<(), StartError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(StartError::Runtime)?;
        let ran = runtime.block_on(self.run());
        // Work that has not ended is not awaited.
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

async fn bring_up(
    running: &mut Running,
    cluster: &dyn Cluster,
    place: &mut Place,
    listening: Vec<(Server, Vec<ListenConfig>)>,
) -> Result<(), StartError> {
    running.start_components().await?;
    let listens = |(_, configs): &(_, Vec<_>)| !configs.is_empty();
    let workers = if listening.iter().any(listens) {
        Some(running.keep_workers(place.workers()?))
    } else {
        None
    };
    for (number, (server, configs)) in listening.iter().enumerate() {
        let mut options = join_options(server);
        if let (Some(workers), false) = (workers, configs.is_empty()) {
            // Forwarding requests of this worker's sessions then wakes no other thread (docs/performance.md).
            options = options.connection_on(workers.handle(number).clone());
        }
        join(server, cluster, options).await?;
    }
    if let Some(workers) = workers {
        for (server, configs) in &listening {
            let app = &server.app;
            for config in configs {
                let listener = place.listen(workers, config.clone(), server)?;
                tracing::info!(app = app.id(), address = %listener.local_addr(), "listening");
                app.listeners().add(listener);
            }
        }
    }
    for app in running.apps() {
        let (stopped, telling) = (app.stopping(), refusals::log_summaries(app.downgrade()));
        app.runtime().spawn(async move {
            tokio::select! {
                () = stopped => {}
                () = telling => {}
            }
        });
    }
    running.after_start().await?;
    for (server, _) in &listening {
        start_timers(server);
    }
    Ok(())
}

/// Makes the app a member of the cluster, and starts what belongs to the membership.
async fn join(
    server: &Server,
    cluster: &dyn Cluster,
    options: JoinOptions,
) -> Result<(), StartError> {
    let app = &server.app;
    ClusterEvents::of(server).start()?;
    let membership = cluster
        .join((**app.info()).clone(), options, AppNode::new(server))
        .await?;
    if let Some(service) = app.session_service() {
        service.set_node(membership.start_number());
    }
    // Set once, here.
    let _ = app.inner().membership.set(membership);
    Watching::of(app).start(&server.registered)?;
    OwnChannels::of(app).settle_restored();
    if app.scheduler().may_buffer() {
        let flushing = app.clone();
        start_task(app, "push scheduler", async move {
            flushing.scheduler().flush_forever().await;
        })?;
    }
    Ok(())
}

fn start_timers(server: &Server) {
    let app = &server.app;
    for timer in &server.registered.hooks().timers {
        if let Err(error) = timer.clone().start(app) {
            tracing::error!(app = app.id(), timer = timer.name, %error, "a timer does not start");
        }
    }
}

fn join_options(server: &Server) -> JoinOptions {
    let service = server.app.session_service();
    let sessions_per_user = service.map(|service| service.config().sessions_per_user);
    JoinOptions::new()
        .sessions_per_user(sessions_per_user.unwrap_or_default())
        .with_events_of(server.registered.hooks().cluster_events.interest())
}
