//! Listening sockets: one per worker on the same address, so that the kernel spreads connections and no worker waits for another.

use std::{
    io,
    net::{SocketAddr, TcpListener as StdListener},
    sync::Arc,
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};

use crate::{
    access::{AccessPolicy, Gate, Refusal},
    config::ListenConfig,
    driver::Driver,
    frontend::Frontend,
    stats::{Group, NetStats, StatsBoard, WorkerStats},
    tls::{TlsError, TlsReloader},
    worker::{TaskToken, Tasks, Workers},
};

/// Why a listener cannot start.
#[derive(Debug, Error)]
#[error("cannot listen on {address}")]
pub struct ListenError {
    /// The address that was asked for.
    pub address: SocketAddr,
    /// The operating system's reason.
    #[source]
    pub source: io::Error,
}

/// What all connections of a listener share.
pub(crate) struct Shared {
    pub(crate) frontend: Arc<dyn Frontend>,
    pub(crate) config: ListenConfig,
    pub(crate) gate: Arc<Gate>,
}

/// What the connections of a listener on one worker share.
pub(crate) struct Local {
    pub(crate) shared: Arc<Shared>,
    pub(crate) stats: Arc<WorkerStats>,
    /// Held by every connection, so that the end of the last one can be awaited.
    pub(crate) _token: TaskToken,
}

/// A running listener. Dropping it stops accepting; open connections go on.
pub struct Listener {
    address: SocketAddr,
    shared: Arc<Shared>,
    stats: StatsBoard,
    stop: watch::Sender<bool>,
    tasks: Tasks,
}

impl Listener {
    /// Listens on every worker and serves what comes with `frontend`.
    ///
    /// # Errors
    /// [`ListenError`], for example when the address is in use.
    pub fn start(
        workers: &Workers,
        config: ListenConfig,
        frontend: Arc<dyn Frontend>,
    ) -> Result<Self, ListenError> {
        let sockets = bind_all(&config, workers.count()).map_err(|source| ListenError {
            address: config.address,
            source,
        })?;
        let failed = |source| ListenError {
            address: config.address,
            source,
        };
        let address = sockets[0].local_addr().map_err(failed)?;
        let shared = Arc::new(Shared {
            frontend,
            gate: Gate::new(config.access.clone()),
            config,
        });
        let stats = StatsBoard::new(workers.count());
        let (stop, stopped) = watch::channel(false);
        let tasks = Tasks::new();
        for (index, (socket, handle)) in sockets.into_iter().zip(workers.handles()).enumerate() {
            let local = Arc::new(Local {
                shared: shared.clone(),
                stats: stats.of(index),
                _token: tasks.token(),
            });
            handle.spawn(accept_until(socket, local, stopped.clone()));
        }
        Ok(Self {
            address,
            shared,
            stats,
            stop,
            tasks,
        })
    }

    /// The address it listens on, with the real port.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Open connections, whether or not their handshake is done.
    pub fn open_connections(&self) -> usize {
        self.shared.gate.open()
    }

    /// What was counted since the start.
    pub fn stats(&self) -> NetStats {
        self.stats.sum()
    }

    /// Replaces address lists and connection limits. Open connections stay.
    pub fn set_access(&self, policy: AccessPolicy) {
        self.shared.gate.set_policy(policy);
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

    /// Closes the listening sockets. Open connections go on.
    pub fn stop_accepting(&self) {
        self.stop.send_replace(true);
    }

    /// Stops accepting and waits until every connection is gone. Cancel-safe: dropped, it just stops waiting.
    pub async fn closed(self) {
        self.stop_accepting();
        drop(self.shared);
        self.tasks.wait().await;
    }
}

/// Binds one socket per worker. The first is bound without `SO_REUSEPORT` as a test: with it, a second server on the same
/// port would start without an error and take half of the clients.
fn bind_all(config: &ListenConfig, count: usize) -> io::Result<Vec<StdListener>> {
    let mut address = config.address;
    if address.port() != 0 {
        drop(bind(address, config, false)?);
    }
    let mut sockets = Vec::with_capacity(count);
    for _ in 0..count {
        let socket = bind(address, config, true)?;
        address = socket.local_addr()?;
        sockets.push(socket);
    }
    Ok(sockets)
}

fn bind(address: SocketAddr, config: &ListenConfig, share: bool) -> io::Result<StdListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(share)?;
    // Accepted sockets inherit it: no system call for each.
    socket.set_tcp_nodelay(config.nodelay)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    if share {
        socket.listen(i32::try_from(config.backlog).unwrap_or(i32::MAX))?;
    }
    Ok(socket.into())
}

async fn accept_until(socket: StdListener, local: Arc<Local>, mut stopped: watch::Receiver<bool>) {
    let listener = match TcpListener::from_std(socket) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "cannot register the listening socket");
            return;
        }
    };
    loop {
        // Both branches are cancel-safe: `accept` takes a connection only when it returns it.
        tokio::select! {
            biased;
            () = told_to_stop(&mut stopped) => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, address)) => admit(stream, address, &local),
                Err(error) => pause(&error).await,
            },
        }
    }
}

async fn told_to_stop(stopped: &mut watch::Receiver<bool>) {
    // An error means that the listener was dropped, which stops it, too.
    let _ = stopped.wait_for(|stop| *stop).await;
}

/// After an error of `accept`: one that concerns a single connection is nothing, one that concerns the process (no
/// descriptors left) would come again at once.
async fn pause(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset};
    if matches!(error.kind(), ConnectionAborted | ConnectionReset) {
        return;
    }
    tracing::warn!(%error, "cannot accept connections, trying again in 100 ms");
    tokio::time::sleep(Duration::from_millis(100)).await;
}

fn admit(stream: TcpStream, address: SocketAddr, local: &Arc<Local>) {
    local.stats.accepted.add(1);
    let behind_proxy = {
        let policy = local.shared.gate.policy();
        policy.is_trusted_proxy(address.ip())
    };
    let entered = local.shared.gate.enter().and_then(|mut permit| {
        // Behind a proxy the client's address is not known yet.
        if !behind_proxy {
            permit.admit(address.ip())?;
        }
        Ok(permit)
    });
    match entered {
        Ok(permit) => {
            tokio::spawn(Driver::new(
                stream,
                address,
                behind_proxy,
                permit,
                local.clone(),
            ));
        }
        Err(refusal) => refuse(refusal, address, &local.stats),
    }
}

/// Counts and logs a connection that is turned away.
pub(crate) fn refuse(refusal: Refusal, address: SocketAddr, stats: &WorkerStats) {
    stats.count(Group::Refused, refusal.name());
    tracing::info!(%address, reason = refusal.name(), "connection refused");
}
