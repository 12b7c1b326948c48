//! Listening sockets: one per worker on the same address, so that the kernel distributes connections and workers do not wait for each
//! other.

use std::{
    future::Future,
    io,
    net::{SocketAddr, TcpListener as StdListener},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;
use tokio::{
    net::TcpListener,
    runtime::Handle,
    sync::watch,
    task::{JoinHandle, coop::unconstrained},
    time::Sleep,
};

use crate::{
    access::{AccessPolicy, Gate, Refusal},
    address::canonical,
    config::{ConnectionLimits, ListenConfig, Live},
    descriptors,
    driver::{Driver, Parked, RelayAnswer, Relayed},
    frontend::{BoxFuture, Frontend},
    socket::Socket as Stream,
    stats::{Group, NetStats, StatsBoard, WorkerStats},
    tls::{TlsError, TlsReloader},
    upgrade::UpgradePolicy,
    worker::{self, Workers},
};

/// Connections accepted in one go, before those that are open get their turn.
const ACCEPTS_PER_POLL: usize = 32;

/// Rounds of one poll in which sessions move between `connections` and `parked`. The rest waits for the next poll.
const MOVES_PER_POLL: usize = 4;

/// After an error of `accept` that concerns the process, such as no descriptors left, and before a task that panicked starts again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

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

/// What all connections of a listener share.
pub(crate) struct Shared {
    pub(crate) config: ListenConfig,
    pub(crate) gate: Arc<Gate>,
    /// Connections whose descriptor has this number or a higher one are refused.
    first_reserved: Option<u64>,
    live: RwLock<Arc<Live>>,
    /// Nothing is waited for but sessions and handlers.
    ends: AtomicBool,
}

impl Shared {
    pub(crate) fn live(&self) -> Arc<Live> {
        self.live
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn check_descriptor(&self, stream: &Stream) -> Result<(), Refusal> {
        match (stream.descriptor(), self.first_reserved) {
            (Some(number), Some(first)) if number >= first => Err(Refusal::OutOfDescriptors),
            _ => Ok(()),
        }
    }
}

/// What the connections of a listener on one worker share.
pub(crate) struct Local {
    pub(crate) shared: Arc<Shared>,
    pub(crate) frontend: Arc<dyn Frontend>,
    pub(crate) stats: Arc<WorkerStats>,
}

/// Connections of other frontends that may wait for a worker. Those above are refused.
const MAX_ARRIVALS: usize = 4096;

/// Connections that other frontends have accepted, on their way to a worker.
#[derive(Default)]
struct Arrivals {
    /// Looked at by every poll of the worker's task.
    is_some: AtomicBool,
    waiting: Mutex<Arriving>,
}

#[derive(Default)]
struct Arriving {
    list: Vec<Relayed>,
    waker: Option<Waker>,
    is_closed: bool,
}

impl Arrivals {
    fn lock(&self) -> MutexGuard<'_, Arriving> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, relayed: Box<Relayed>) -> Result<(), Box<Relayed>> {
        let mut arriving = self.lock();
        if arriving.is_closed || arriving.list.len() >= MAX_ARRIVALS {
            return Err(relayed);
        }
        arriving.list.push(*relayed);
        self.is_some.store(true, Ordering::Release);
        drop(arriving);
        self.wake();
        Ok(())
    }

    /// Has the task look at what has changed.
    fn wake(&self) {
        let waker = self.lock().waker.clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The task that takes them from now on.
    fn watch(&self, waker: &Waker) {
        let mut arriving = self.lock();
        arriving.is_closed = false;
        arriving.waker = Some(waker.clone());
    }

    #[inline]
    fn take(&self) -> Vec<Relayed> {
        if !self.is_some.load(Ordering::Acquire) {
            return Vec::new();
        }
        let mut arriving = self.lock();
        self.is_some.store(false, Ordering::Release);
        std::mem::take(&mut arriving.list)
    }

    /// Takes none any more, unless some wait.
    fn close_if_empty(&self) -> bool {
        let mut arriving = self.lock();
        arriving.is_closed = arriving.list.is_empty();
        arriving.is_closed
    }

    /// Takes none any more. Those that wait find no session.
    fn close(&self) {
        let mut arriving = self.lock();
        arriving.is_closed = true;
        let left = (std::mem::take(&mut arriving.list), arriving.waker.take());
        drop(arriving);
        drop(left);
    }
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
            live: RwLock::new(Arc::new(Live {
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

/// Where connections of one worker come from.
enum Source {
    Tcp(StdListener),
    #[cfg(feature = "testing")]
    Memory(Arc<crate::memory::Backlog>),
}

impl Source {
    /// Registers the source with the runtime that calls this. It can be opened again.
    fn open(&self) -> io::Result<Acceptor> {
        Ok(match self {
            Self::Tcp(socket) => Acceptor::Tcp(TcpListener::from_std(socket.try_clone()?)?),
            #[cfg(feature = "testing")]
            Self::Memory(backlog) => Acceptor::Memory(backlog.clone()),
        })
    }
}

/// A source that accepts.
enum Acceptor {
    Tcp(TcpListener),
    #[cfg(feature = "testing")]
    Memory(Arc<crate::memory::Backlog>),
}

impl Acceptor {
    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Stream, SocketAddr)>> {
        match self {
            Self::Tcp(listener) => listener
                .poll_accept(cx)
                .map_ok(|(stream, address)| (Stream::Tcp(stream), address)),
            #[cfg(feature = "testing")]
            Self::Memory(backlog) => backlog
                .poll_accept(cx)
                .map(|(stream, address)| Ok((Stream::Memory(stream), address))),
        }
    }
}

/// How connections come to a worker, apart from its socket, and until when.
#[derive(Clone)]
struct Door {
    stopped: watch::Receiver<()>,
    arrivals: Arc<Arrivals>,
}

/// The listening socket of one worker, until no new connection is accepted: as long as any copy of it is open, the system lets
/// clients connect, whose connections are then never accepted.
#[derive(Clone)]
struct Sources(Arc<Mutex<Option<Source>>>);

impl Sources {
    fn new(source: Source) -> Self {
        Self(Arc::new(Mutex::new(Some(source))))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Source>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As [`Source::open`]. None: it is closed.
    fn open(&self) -> io::Result<Option<Acceptor>> {
        self.lock().as_ref().map(Source::open).transpose()
    }

    fn close(&self) {
        let source = self.lock().take();
        drop(source);
    }
}

/// What one worker does for a listener, as one task that starts again after a panic.
struct ServeTask {
    source: Sources,
    local: Arc<Local>,
    door: Door,
    serving: Arc<AtomicUsize>,
    serve: Option<Serve>,
}

impl ServeTask {
    /// Registers the source with the worker's own runtime, so that an error is seen at start.
    fn start(
        handle: &Handle,
        source: Source,
        local: Arc<Local>,
        door: Door,
        serving: Arc<AtomicUsize>,
    ) -> io::Result<Self> {
        let _entered = handle.enter();
        let source = Sources::new(source);
        let serve = Serve::start(&source, &local, &door)?;
        serving.fetch_add(1, Ordering::AcqRel);
        Ok(Self {
            source,
            local,
            door,
            serving,
            serve: Some(serve),
        })
    }

    /// Serves until the listener stops and the last connection is gone.
    async fn run(mut self) {
        loop {
            if let Some(serve) = self.serve.take() {
                let ended = AssertUnwindSafe(serve).catch_unwind().await;
                self.serving.fetch_sub(1, Ordering::AcqRel);
                if ended.is_ok() {
                    return;
                }
                tracing::error!(
                    "the task of a listener panicked; its connections are lost, and it restarts"
                );
            }
            tokio::time::sleep(ACCEPT_PAUSE).await;
            match Serve::start(&self.source, &self.local, &self.door) {
                Ok(serve) => {
                    self.serving.fetch_add(1, Ordering::AcqRel);
                    self.serve = Some(serve);
                }
                Err(error) => {
                    tracing::error!(%error, "a listener cannot restart, retrying in 100 ms");
                }
            }
        }
    }
}

/// One listening socket and the connections it has accepted, as one future.
///
/// They are one task and not one each for two reasons: an idle connection costs 170 bytes less, and however many of them another
/// thread wakes at once (a broadcast), the worker is woken once. A connection that panics is caught and ends alone.
struct Serve {
    source: Sources,
    listener: Option<Acceptor>,
    local: Arc<Local>,
    connections: FuturesUnordered<Connection>,
    /// Sessions that wait for their clients, apart: each takes less than half of a connection's memory.
    parked: FuturesUnordered<Waiting>,
    stopped: BoxFuture<()>,
    arrivals: Arc<Arrivals>,
    /// The arrivals know the task.
    is_known: bool,
    /// After an error that would come again at once.
    pause: Option<Pin<Box<Sleep>>>,
}

/// A driver whose panics end this connection alone: also those of what it owns, when that is dropped.
struct Connection(Option<Driver>);

impl Future for Connection {
    type Output = Option<Parked>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Parked>> {
        poll_guarded(&mut self.0, cx).map(Option::flatten)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        drop_guarded(self.0.take());
    }
}

/// As a [`Connection`], for a session without one.
struct Waiting(Option<Parked>);

impl Future for Waiting {
    type Output = Option<Driver>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Driver>> {
        poll_guarded(&mut self.0, cx)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        drop_guarded(self.0.take());
    }
}

/// Polls a future, and drops it when it is ready or has panicked; then the result is `None`.
#[inline]
fn poll_guarded<F: Future + Unpin>(
    place: &mut Option<F>,
    cx: &mut Context<'_>,
) -> Poll<Option<F::Output>> {
    let Some(future) = place else {
        return Poll::Ready(None);
    };
    let polled = catch_unwind(AssertUnwindSafe(|| Pin::new(future).poll(cx)));
    let output = match polled {
        Ok(Poll::Pending) => return Poll::Pending,
        Ok(Poll::Ready(output)) => Some(output),
        Err(panic) => {
            crate::quiet!(
                error,
                "the task of a connection panicked; its session was closed"
            );
            drop_guarded(panic);
            None
        }
    };
    drop_guarded(place.take());
    Poll::Ready(output)
}

/// Drops what may hold values of the application: a destructor of theirs that panics ends here.
fn drop_guarded<T>(value: T) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(value))) {
        crate::quiet!(
            error,
            "a value of the application panicked when it was dropped"
        );
        // The payload is a value of the application too.
        std::mem::forget(panic);
    }
}

impl Serve {
    /// Polls are bounded by what is ready; a budget for the whole task would only make connections wait for each other, so it is run
    /// without.
    fn start(source: &Sources, local: &Arc<Local>, door: &Door) -> io::Result<Self> {
        Ok(Self {
            listener: source.open()?,
            source: source.clone(),
            local: local.clone(),
            connections: FuturesUnordered::new(),
            parked: FuturesUnordered::new(),
            stopped: stop_signal(door.stopped.clone()),
            arrivals: Arc::clone(&door.arrivals),
            is_known: false,
            pause: None,
        })
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) {
        if self.listener.is_some() && self.stopped.as_mut().poll(cx).is_ready() {
            self.listener = None;
            self.source.close();
        }
        // As long as there are sessions, their clients may come back through other frontends.
        if !self.is_known {
            self.is_known = true;
            self.arrivals.watch(cx.waker());
        }
        for relayed in self.arrivals.take() {
            if let Some(driver) = take_in(relayed, &self.local) {
                self.connections.push(Connection(Some(driver)));
            }
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
                        self.connections.push(Connection(Some(driver)));
                    }
                }
                // The client has gone again before it was accepted.
                Poll::Ready(Err(error)) if concerns_one_client(&error) => {}
                Poll::Ready(Err(error)) => {
                    crate::quiet!(warn, "cannot accept connections, retrying in 100 ms", %error);
                    self.pause = Some(Box::pin(tokio::time::sleep(ACCEPT_PAUSE)));
                    break;
                }
            }
        }
        // There may be more, or the pause must be polled; the connections come first.
        cx.waker().wake_by_ref();
    }

    fn poll_connections(&mut self, cx: &mut Context<'_>) {
        for _ in 0..MOVES_PER_POLL {
            while let Poll::Ready(Some(ended)) = self.connections.poll_next_unpin(cx) {
                if let Some(parked) = ended {
                    self.parked.push(Waiting(Some(parked)));
                }
            }
            if self.parked.is_empty() || !self.poll_parked(cx) {
                return;
            }
        }
        cx.waker().wake_by_ref();
    }

    /// Whether nothing is left that is worth waiting for.
    fn is_over(&self) -> bool {
        if self.listener.is_some() || !self.parked.is_empty() {
            return false;
        }
        let is_unopened = |one: &Connection| one.0.as_ref().is_some_and(Driver::is_unopened);
        self.connections.is_empty()
            || self.local.shared.ends.load(Ordering::Acquire)
                && self.connections.iter().all(is_unopened)
    }

    /// True if there are new connections.
    fn poll_parked(&mut self, cx: &mut Context<'_>) -> bool {
        let mut is_any = false;
        while let Poll::Ready(Some(driver)) = self.parked.poll_next_unpin(cx) {
            if driver.is_some() {
                self.connections.push(Connection(driver));
                is_any = true;
            }
        }
        is_any
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
        if !this.is_over() {
            return Poll::Pending;
        }
        if this.arrivals.close_if_empty() {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        self.arrivals.close();
    }
}

fn concerns_one_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionReset)
}

fn admit(stream: Stream, address: SocketAddr, local: &Arc<Local>) -> Option<Driver> {
    local.stats.accepted.add(1);
    let address = canonical(address);
    let behind_proxy = {
        let policy = local.shared.gate.policy();
        policy.is_trusted_proxy(address.ip())
    };
    let entered = local.shared.check_descriptor(&stream).and_then(|()| {
        let mut permit = local.shared.gate.enter()?;
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

/// A connection that another frontend has accepted, and judged by its lists.
fn take_in(relayed: Relayed, local: &Arc<Local>) -> Option<Driver> {
    local.stats.accepted.add(1);
    match local.shared.gate.enter() {
        Ok(permit) => Some(Driver::relayed(relayed, permit, local.clone())),
        Err(refusal) => {
            refuse(refusal, relayed.peer.address, &local.stats);
            let _ = relayed
                .answer
                .send(RelayAnswer::Refused(shaddock_core::ResumeRefusal::Busy));
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
    // The framework tells once a minute how many there were.
    tracing::debug!(%address, reason = refusal.name(), "connection refused");
}
