//! Transports to the server: a stream of packages, or WebSocket messages of packages.
//!
//! A transport owns its socket and the unwritten data. Its only wait, [`Transport::event`], reads and writes at the same time, so a server
//! that does not read until its data are read cannot cause a deadlock.

mod stream;
mod websocket;

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

pub(crate) use stream::Stream;
pub(crate) use websocket::WebSocket;

use crate::{CloseKind, CloseStatus};

/// Above this amount of unwritten data, no more commands are taken.
const HIGH_WATER: usize = 64 * 1024;

/// Any socket.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}
pub(crate) type BoxIo = Box<dyn Io>;

/// The connection below the packages.
pub(crate) enum Transport {
    Stream(Stream),
    WebSocket(Box<WebSocket>),
    /// There is no socket any more: queued data are dropped, and no data arrive.
    Gone,
}

/// An event of a transport.
#[derive(Debug)]
pub(crate) enum Event {
    /// Bytes arrived. On a WebSocket: one complete message.
    Bytes(Bytes),
    /// There is room for more packages again.
    Room,
    /// No more data can be written; earlier data can still be read.
    WriteFailed(CloseKind),
    /// The server has closed, with this status on a WebSocket.
    End(Option<CloseStatus>),
}

impl Transport {
    /// Replaces a socket that was lost.
    pub(crate) const fn gone() -> Self {
        Self::Gone
    }

    /// Whether packages end where messages end.
    pub(crate) const fn has_messages(&self) -> bool {
        matches!(self, Self::WebSocket(_))
    }

    /// Enqueues one package. Later calls of [`Transport::event`] and [`Transport::shutdown`] write it.
    pub(crate) fn queue(&mut self, package: Bytes) {
        match self {
            Self::Stream(stream) => stream.queue(&package),
            Self::WebSocket(websocket) => websocket.queue(package),
            Self::Gone => {}
        }
    }

    /// Whether more packages should be queued.
    pub(crate) fn has_room(&self) -> bool {
        self.queued() < HIGH_WATER
    }

    /// Writes queued data and waits for an event. Cancel-safe: all progress is kept in the transport.
    ///
    /// # Errors
    ///
    /// The connection has ended for this reason.
    pub(crate) async fn event(&mut self) -> Result<Event, CloseKind> {
        poll_fn(|cx| {
            if self.queued() > 0 {
                let had_room = self.has_room();
                match self.poll_flush(cx) {
                    Poll::Ready(Err(kind)) => return Poll::Ready(Ok(Event::WriteFailed(kind))),
                    // Also if not everything was written.
                    _ if !had_room && self.has_room() => return Poll::Ready(Ok(Event::Room)),
                    _ => {}
                }
            }
            match self {
                Self::Stream(stream) => stream.poll_read(cx),
                Self::WebSocket(websocket) => websocket.poll_read(cx),
                Self::Gone => Poll::Ready(Ok(Event::End(None))),
            }
        })
        .await
    }

    /// Writes queued data and sends a goodbye. Use a timeout: the server may not read.
    pub(crate) async fn shutdown(&mut self) -> Result<(), CloseKind> {
        poll_fn(|cx| self.poll_flush(cx)).await?;
        match self {
            Self::Stream(stream) => stream.shutdown().await,
            Self::WebSocket(websocket) => websocket.shutdown().await,
            Self::Gone => Ok(()),
        }
    }

    /// Unwritten bytes.
    fn queued(&self) -> usize {
        match self {
            Self::Stream(stream) => stream.queued(),
            Self::WebSocket(websocket) => websocket.queued(),
            Self::Gone => 0,
        }
    }

    /// On failure nothing is queued any more.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CloseKind>> {
        match self {
            Self::Stream(stream) => stream.poll_flush(cx),
            Self::WebSocket(websocket) => websocket.poll_flush(cx),
            Self::Gone => Poll::Ready(Ok(())),
        }
    }
}

fn closed(error: &io::Error) -> CloseKind {
    CloseKind::io(error)
}
