//! Listening sockets: one per worker on the same address, so that the kernel spreads connections and no worker waits for another.

use std::{
    future::Future,
    io,
    net::{SocketAddr, TcpListener as StdListener},
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{Arc, PoisonError, RwLock},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, future::CatchUnwind, stream::FuturesUnordered};
use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{
        JoinHandle,
        coop::{Unconstrained, unconstrained},
    },
    time::Sleep,
};

use crate::{
    access::{AccessPolicy, Gate, Refusal},
    config::{ConnectionLimits, ListenConfig, Live},
    driver::Driver,
    frontend::{BoxFuture, Frontend},
    stats::{Group, NetStats, StatsBoard, WorkerStats},
    tls::{TlsError, TlsReloader},
    upgrade::UpgradePolicy,
    worker::{self, Workers},
};

/// Connections accepted in one go, before those that are open get their turn.
const ACCEPTS_PER_POLL: usize = 32;

/// After an error of `accept` that concerns the process, such as no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

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
    pub(crate) config: ListenConfig,
    pub(crate) gate: Arc<Gate>,
    live: RwLock<Arc<Live>>,
}

impl Shared {
    pub(crate) fn live(&self) -> Arc<Live> {
        self.live
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// What the connections of a listener on one worker share.
pub(crate) struct Local {
    pub(crate) shared: Arc<Shared>,
    pub(crate) frontend: Arc<dyn Frontend>,
    pub(crate) stats: Arc<WorkerStats>,
}

/// A running listener. Dropping it stops accepting; open connections go on.
pub struct Listener {
    address: SocketAddr,
    shared: Arc<Shared>,
    stats: StatsBoard,
    stop: watch::Sender<()>,
    tasks: Vec<JoinHandle<()>>,
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
        let wanted = config.address;
        let failed = |source| ListenError {
            address: wanted,
            source,
        };
        let sockets = bind_all(&config, workers.count()).map_err(failed)?;
        let address = sockets[0].local_addr().map_err(failed)?;
        let shared = Arc::new(Shared {
            gate: Gate::new(config.access.clone()),
            live: RwLock::new(Arc::new(Live {
                limits: config.limits.clone(),
                upgrade: config.upgrade.clone(),
            })),
            config,
        });
        let stats = StatsBoard::new(workers.count());
        let (stop, stopped) = watch::channel(());
        let mut tasks = Vec::with_capacity(workers.count());
        let frontends = std::iter::repeat_n(frontend, workers.count());
        let places = sockets.into_iter().zip(workers.handles()).zip(frontends);
        for (index, ((socket, handle), frontend)) in places.enumerate() {
            let local = Arc::new(Local {
                shared: shared.clone(),
                frontend: frontend.for_worker().unwrap_or(frontend),
                stats: stats.of(index),
            });
            // The socket is registered with the worker's own runtime.
            let _entered = handle.enter();
            let serve = Serve::start(socket, local, stop_signal(stopped.clone()));
            tasks.push(handle.spawn(serve.map_err(failed)?));
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

    /// Replaces the bounds of a connection and who may open a WebSocket, for connections to come.
    pub fn set_limits(&self, limits: ConnectionLimits, upgrade: UpgradePolicy) {
        let live = Arc::new(Live { limits, upgrade });
        *self
            .shared
            .live
            .write()
            .unwrap_or_else(PoisonError::into_inner) = live;
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
        self.stop.send_replace(());
    }

    /// Stops accepting and waits until every connection is gone. Cancel-safe: dropped, it just stops waiting.
    pub async fn closed(self) {
        self.stop_accepting();
        for task in self.tasks {
            // An error means that the worker was stopped, and its connections with it.
            let _ = task.await;
        }
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

/// One listening socket and the connections it has accepted, as one task of its worker.
///
/// They are one task and not one each for two reasons: an idle connection costs 170 bytes less, and however many of them another
/// thread wakes at once (a broadcast), the worker is woken once. A connection that panics is caught and ends alone.
struct Serve {
    listener: Option<TcpListener>,
    local: Arc<Local>,
    connections: FuturesUnordered<CatchUnwind<AssertUnwindSafe<Driver>>>,
    stopped: BoxFuture<()>,
    /// After an error that would come again at once.
    pause: Option<Pin<Box<Sleep>>>,
}

impl Serve {
    /// Polls are bounded by what is ready; a budget for the whole task would only make connections wait for each other.
    fn start(
        socket: StdListener,
        local: Arc<Local>,
        stopped: BoxFuture<()>,
    ) -> io::Result<Unconstrained<Self>> {
        Ok(unconstrained(Self {
            listener: Some(TcpListener::from_std(socket)?),
            local,
            connections: FuturesUnordered::new(),
            stopped,
            pause: None,
        }))
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) {
        if self.listener.is_some() && self.stopped.as_mut().poll(cx).is_ready() {
            self.listener = None;
        }
        let Some(listener) = &self.listener else {
            return;
        };
        if let Some(pause) = &mut self.pause {
            if pause.as_mut().poll(cx).is_pending() {
                return;
            }
            self.pause = None;
        }
        for _ in 0..ACCEPTS_PER_POLL {
            match listener.poll_accept(cx) {
                Poll::Pending => return,
                Poll::Ready(Ok((stream, address))) => {
                    if let Some(driver) = admit(stream, address, &self.local) {
                        self.connections
                            .push(AssertUnwindSafe(driver).catch_unwind());
                    }
                }
                // The client has gone again before it was accepted.
                Poll::Ready(Err(error)) if concerns_one_client(&error) => {}
                Poll::Ready(Err(error)) => {
                    tracing::warn!(%error, "cannot accept connections, trying again in 100 ms");
                    self.pause = Some(Box::pin(tokio::time::sleep(ACCEPT_PAUSE)));
                    break;
                }
            }
        }
        // There may be more, or the pause must be polled; the connections come first.
        cx.waker().wake_by_ref();
    }

    fn poll_connections(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready(Some(ended)) = self.connections.poll_next_unpin(cx) {
            if ended.is_err() {
                tracing::error!("the task of a connection panicked; its session was closed");
            }
        }
    }
}

impl Future for Serve {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        this.poll_accept(cx);
        this.poll_connections(cx);
        // They have read and handled; now they write.
        if worker::wake_flushes() {
            this.poll_connections(cx);
        }
        if worker::owes_flushes() {
            cx.waker().wake_by_ref();
        }
        if this.listener.is_none() && this.connections.is_empty() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

fn concerns_one_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionReset)
}

fn admit(stream: TcpStream, address: SocketAddr, local: &Arc<Local>) -> Option<Driver> {
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
        Ok(permit) => Some(Driver::new(
            stream,
            address,
            behind_proxy,
            permit,
            local.clone(),
        )),
        Err(refusal) => {
            refuse(refusal, address, &local.stats);
            None
        }
    }
}

/// Ready when the listener is told to stop, or dropped.
fn stop_signal(mut stopped: watch::Receiver<()>) -> BoxFuture<()> {
    Box::pin(async move {
        let _ = stopped.changed().await;
    })
}

/// Counts and logs a connection that is turned away.
pub(crate) fn refuse(refusal: Refusal, address: SocketAddr, stats: &WorkerStats) {
    stats.count(Group::Refused, refusal.name());
    tracing::info!(%address, reason = refusal.name(), "connection refused");
}
