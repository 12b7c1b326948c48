//! The task of a listener on one worker: it accepts connections and polls them.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use tokio::{runtime::Handle, sync::watch, time::Sleep};

use super::{
    arrivals::Arrivals,
    guarded::{Connection, Waiting},
    shared::{Local, refuse},
    source::{Acceptor, Source, Sources},
};
use crate::{
    address::canonical,
    driver::{Driver, RelayAnswer, Relayed},
    ready::BoxFuture,
    socket::Socket as Stream,
    worker,
};

/// Connections accepted in one go, before those that are open get their turn.
const ACCEPTS_PER_POLL: usize = 32;

/// After an error of `accept` that concerns the process, such as no descriptors left, and before a task that panicked starts again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The connections that come to a worker apart from its socket, and the signal after which it accepts none.
#[derive(Clone)]
pub(super) struct Door {
    pub(super) stopped: watch::Receiver<()>,
    pub(super) arrivals: Arc<Arrivals>,
}

/// The task of one worker for a listener, which starts again after a panic.
pub(super) struct ServeTask {
    source: Sources,
    local: Arc<Local>,
    door: Door,
    serving: Arc<AtomicUsize>,
    serve: Option<Serve>,
}

impl ServeTask {
    /// Registers the source with the worker's own runtime, so that an error is seen at start.
    pub(super) fn start(
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
    pub(super) async fn run(mut self) {
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
        while let Poll::Ready(Some(ended)) = self.connections.poll_next_unpin(cx) {
            if let Some(parked) = ended {
                self.parked.push(Waiting(Some(parked)));
            }
        }
        while let Poll::Ready(Some(())) = self.parked.poll_next_unpin(cx) {}
    }

    /// Whether nothing is left to wait for.
    fn is_over(&self) -> bool {
        if self.listener.is_some() || !self.parked.is_empty() {
            return false;
        }
        let is_unopened = |one: &Connection| one.0.as_ref().is_some_and(Driver::is_unopened);
        self.connections.is_empty()
            || self.local.shared.ends.load(Ordering::Acquire)
                && self.connections.iter().all(is_unopened)
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
