//! The listening sockets: bound once per worker, opened on its runtime, closed when no more connections are accepted.

use std::{
    io,
    net::{SocketAddr, TcpListener as StdListener},
    sync::Arc,
    task::{Context, Poll},
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

use parking_lot::{Mutex, MutexGuard};

use crate::{config::ListenConfig, socket::Socket as Stream};

/// Binds one socket per worker. The first is bound without `SO_REUSEPORT` as a test: with it, a second server on the same
/// port would start without an error and take half of the clients.
pub(super) fn bind_all(config: &ListenConfig, count: usize) -> io::Result<Vec<StdListener>> {
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

/// The source of the connections of one worker.
pub(super) enum Source {
    Tcp(StdListener),
    #[cfg(feature = "testing")]
    Memory(Arc<crate::memory::Backlog>),
}

impl Source {
    /// Registers the source with the runtime that calls this. It can be opened again.
    pub(super) fn open(&self) -> io::Result<Acceptor> {
        Ok(match self {
            Self::Tcp(socket) => Acceptor::Tcp(TcpListener::from_std(socket.try_clone()?)?),
            #[cfg(feature = "testing")]
            Self::Memory(backlog) => Acceptor::Memory(backlog.clone()),
        })
    }
}

/// An open source.
pub(super) enum Acceptor {
    Tcp(TcpListener),
    #[cfg(feature = "testing")]
    Memory(Arc<crate::memory::Backlog>),
}

impl Acceptor {
    pub(super) fn poll_accept(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<(Stream, SocketAddr)>> {
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

/// The listening socket of one worker, until no new connection is accepted: as long as any copy of it is open, the system lets
/// clients connect, whose connections are then never accepted.
#[derive(Clone)]
pub(super) struct Sources(Arc<Mutex<Option<Source>>>);

impl Sources {
    pub(super) fn new(source: Source) -> Self {
        Self(Arc::new(Mutex::new(Some(source))))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Source>> {
        self.0.lock()
    }

    /// As [`Source::open`]. None: it is closed.
    pub(super) fn open(&self) -> io::Result<Option<Acceptor>> {
        self.lock().as_ref().map(Source::open).transpose()
    }

    pub(super) fn close(&self) {
        let source = self.lock().take();
        drop(source);
    }
}
