//! The byte stream of a connection: a socket, with or without TLS.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::{Accept, TlsAcceptor, server::TlsStream};

use crate::{prefixed::Prefixed, socket::Socket};

/// TLS is boxed: a plain connection does not pay for its size.
pub(crate) enum Io {
    Plain(Socket),
    /// The TLS handshake is under way. Nothing can be read or written yet, so a connection that closes now just drops it.
    Accepting(Box<Accept<Prefixed<Socket>>>),
    Tls(Box<TlsStream<Prefixed<Socket>>>),
    /// Dropped, or being replaced.
    Closed,
}

impl Io {
    /// Begins TLS on a plain stream. `read` was read from it already and belongs to TLS.
    pub(crate) fn start_tls(&mut self, acceptor: &TlsAcceptor, read: Bytes) {
        if let Self::Plain(stream) = std::mem::replace(self, Self::Closed) {
            let stream = Prefixed::new(read, stream);
            *self = Self::Accepting(Box::new(acceptor.accept(stream)));
        }
    }

    /// The socket, once bytes of the protocol can flow.
    fn socket(&self) -> Option<&Socket> {
        match self {
            Self::Plain(socket) => Some(socket),
            Self::Tls(stream) => Some(stream.get_ref().0.get_ref()),
            Self::Accepting(_) | Self::Closed => None,
        }
    }

    /// Whether the client has closed its side, or is gone, although bytes of it may not have been read yet.
    pub(crate) fn is_read_closed(&self) -> bool {
        self.socket().is_some_and(Socket::is_read_closed)
    }

    /// Bytes that have arrived and were not read, as they are on the wire.
    pub(crate) fn unread(&self) -> usize {
        self.socket().map_or(0, Socket::unread)
    }

    pub(crate) fn is_accepting(&self) -> bool {
        matches!(self, Self::Accepting(_))
    }

    pub(crate) fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_) | Self::Accepting(_))
    }

    /// Finishes the TLS handshake, if there is one.
    #[inline]
    pub(crate) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_accepting() {
            return self.poll_accept_tls(cx);
        }
        Poll::Ready(Ok(()))
    }

    /// Kept apart: every read asks [`poll_ready`](Self::poll_ready), and few find a handshake.
    #[cold]
    fn poll_accept_tls(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Self::Accepting(accept) = self {
            let stream = ready!(Pin::new(accept.as_mut()).poll(cx))?;
            *self = Self::Tls(Box::new(stream));
        }
        Poll::Ready(Ok(()))
    }

    /// Reads into `buffer`; 0 is the end of the stream. A TLS handshake is finished first: TLS may have begun since the last turn.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_ready(cx))?;
        let mut buffer = ReadBuf::new(buffer);
        ready!(match self {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, &mut buffer),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_read(cx, &mut buffer),
            Self::Accepting(_) | Self::Closed => {
                return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
            }
        })?;
        Poll::Ready(Ok(buffer.filled().len()))
    }

    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match (self, slices) {
            // One slice is the common case; `write` is a little cheaper than `writev`.
            (Self::Plain(stream), [one]) => Pin::new(stream).poll_write(cx, one),
            (Self::Plain(stream), many) => Pin::new(stream).poll_write_vectored(cx, many),
            (Self::Tls(stream), many) => Pin::new(stream.as_mut()).poll_write_vectored(cx, many),
            (Self::Accepting(_) | Self::Closed, _) => {
                Poll::Ready(Err(io::ErrorKind::NotConnected.into()))
            }
        }
    }

    /// Pushes out what TLS still holds.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
            _ => Poll::Ready(Ok(())),
        }
    }

    /// Says that nothing more will be written.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
            Self::Accepting(_) | Self::Closed => Poll::Ready(Ok(())),
        }
    }
}
