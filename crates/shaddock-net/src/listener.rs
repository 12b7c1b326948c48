//! Listening sockets: one per worker on the same address, so that the kernel distributes connections and workers do not wait for each
//! other.

mod arrivals;
mod guarded;
mod serve;
mod shared;
mod source;

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use thiserror::Error;
use tokio::{
    sync::watch,
    task::{JoinHandle, coop::unconstrained},
};

pub(crate) use self::shared::{Local, refuse};
use self::{
    arrivals::Arrivals,
    serve::{Door, ServeTask},
    shared::Shared,
    source::{Source, bind_all},
};
use crate::{
    access::{AccessPolicy, Gate},
    config::{ConnectionLimits, ListenConfig, Live},
    current::Current,
    descriptors,
    driver::Relayed,
    frontend::Frontend,
    stats::{NetStats, StatsBoard},
    tls::{TlsError, TlsReloader},
    upgrade::UpgradePolicy,
    worker::Workers,
};

/// Why a listener cannot start.
#[derive(Debug, Error)]
#[error("cannot listen on {address}")]
pub struct ListenError {
    /// The requested address.
    pub address: SocketAddr,
    /// The operating system's reason.
    #[source]
    pub source: io::Error,
}

/// A running listener. Dropping it stops accepting; open connections continue.
pub struct Listener {
    address: SocketAddr,
    shared: Arc<Shared>,
    stats: StatsBoard,
    stop: watch::Sender<()>,
    tasks: Vec<JoinHandle<()>>,
    arrivals: Vec<Arc<Arrivals>>,
    /// Where the next connection of another frontend goes.
    next_arrival: AtomicUsize,
    /// Tasks that accept and serve now.
    serving: Arc<AtomicUsize>,
}

impl Listener {
    /// Listens on every worker and serves connections with `frontend`.
    ///
    /// # Errors
    /// [`ListenError`], for example when the address is in use.
    pub fn start(
        workers: &Workers,
        config: ListenConfig,
        frontend: Arc<dyn Frontend>,
    ) -> Result<Self, ListenError> {
        let wanted = config.address;
        let failed = |source| ListenError {
            address: wanted,
            source,
        };
        let sockets = bind_all(&config, workers.count()).map_err(failed)?;
        let address = sockets[0].local_addr().map_err(failed)?;
        let sources = sockets.into_iter().map(Source::Tcp);
        Self::serve(workers, config, frontend, address, sources).map_err(failed)
    }

    /// A listener without a socket: its connections are opened by the connector that comes with it. For tests, with
    /// [`Workers::on_this_thread`].
    ///
    /// # Errors
    /// None that is known: memory needs nothing of the system.
    #[cfg(feature = "testing")]
    pub fn in_memory(
        workers: &Workers,
        config: ListenConfig,
        frontend: Arc<dyn Frontend>,
    ) -> io::Result<(Self, crate::memory::Connector)> {
        let backlogs: Vec<_> = (0..workers.count())
            .map(|_| Arc::<crate::memory::Backlog>::default())
            .collect();
        let sources = backlogs.iter().cloned().map(Source::Memory);
        let address = config.address;
        let listener = Self::serve(workers, config, frontend, address, sources)?;
        let backlogs = backlogs.into();
        Ok((listener, crate::memory::Connector { backlogs }))
    }

    fn serve(
        workers: &Workers,
        config: ListenConfig,
        frontend: Arc<dyn Frontend>,
        address: SocketAddr,
        sources: impl Iterator<Item = Source>,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            gate: Gate::new(config.access.clone()),
            first_reserved: descriptors::for_clients(),
            live: Current::new(Arc::new(Live {
                limits: config.limits.clone(),
                upgrade: config.upgrade.clone(),
            })),
            ends: AtomicBool::new(false),
            config,
        });
        let stats = StatsBoard::new(workers.count());
        let (stop, stopped) = watch::channel(());
        let serving = Arc::new(AtomicUsize::new(0));
        let mut tasks = Vec::with_capacity(workers.count());
        let mut arrivals = Vec::with_capacity(workers.count());
        let frontends = std::iter::repeat_n(frontend, workers.count());
        let places = sources.zip(workers.handles()).zip(frontends);
        for (index, ((source, handle), frontend)) in places.enumerate() {
            let local = Arc::new(Local {
                shared: shared.clone(),
                frontend: frontend.for_worker().unwrap_or(frontend),
                stats: stats.of(index),
            });
            let door = Door {
                stopped: stopped.clone(),
                arrivals: Arc::default(),
            };
            arrivals.push(Arc::clone(&door.arrivals));
            let task = ServeTask::start(handle, source, local, door, serving.clone())?;
            tasks.push(handle.spawn(unconstrained(task.run())));
        }
        Ok(Self {
            address,
            shared,
            stats,
            stop,
            tasks,
            arrivals,
            next_arrival: AtomicUsize::new(0),
            serving,
        })
    }

    /// Takes over a connection that another frontend has accepted, whose client's session is here. It counts as one of this listener's.
    ///
    /// # Errors
    /// The listener has stopped, or too many come at once.
    pub fn take_in(&self, mut relayed: Box<Relayed>) -> Result<(), Box<Relayed>> {
        let next = self.next_arrival.fetch_add(1, Ordering::Relaxed) % self.arrivals.len();
        let (before, from) = self.arrivals.split_at(next);
        // Once no new connection is accepted, workers end with their last connections, one after the other.
        for arrivals in from.iter().chain(before) {
            match arrivals.add(relayed) {
                Ok(()) => return Ok(()),
                Err(refused) => relayed = refused,
            }
        }
        Err(relayed)
    }

    /// Whether the tasks of all workers run. False while one restarts after a panic: its connections were lost, and new ones wait.
    pub fn is_serving(&self) -> bool {
        self.serving.load(Ordering::Acquire) == self.tasks.len()
    }

    /// The listening address, with the actual port.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Open connections, including those without a complete handshake.
    pub fn open_connections(&self) -> usize {
        self.shared.gate.open()
    }

    /// The counts since the start.
    pub fn stats(&self) -> NetStats {
        self.stats.sum()
    }

    /// Replaces address lists and connection limits. Open connections stay.
    pub fn set_access(&self, policy: AccessPolicy) {
        self.shared.gate.set_policy(policy);
    }

    /// Replaces the limits of a connection and the allowed origins of WebSockets, for new connections.
    pub fn set_limits(&self, limits: ConnectionLimits, upgrade: UpgradePolicy) {
        let live = Arc::new(Live { limits, upgrade });
        self.shared.live.set(live);
    }

    /// Reads certificate and key again, if the listener has TLS.
    ///
    /// # Errors
    /// [`TlsError`]; the old certificate stays in use.
    pub fn reload_tls(&self) -> Result<(), TlsError> {
        match &self.shared.config.tls {
            Some(tls) => TlsReloader::reload(tls),
            None => Ok(()),
        }
    }

    /// Closes the listening sockets. Open connections go on, and connections to their sessions that other frontends have accepted are still
    /// [taken in](Self::take_in).
    pub fn stop_accepting(&self) {
        self.stop.send_replace(());
    }

    /// Stops accepting and waits until every session and every handler has ended. Connections on which no session has begun are closed: a
    /// client that says nothing holds up no stop. Cancel-safe: dropping the future only stops the wait.
    pub async fn closed(self) {
        self.stop_accepting();
        self.shared.ends.store(true, Ordering::Release);
        for arrivals in &self.arrivals {
            arrivals.wake();
        }
        for task in self.tasks {
            // An error means that the worker was stopped, and its connections with it.
            let _ = task.await;
        }
    }
}
