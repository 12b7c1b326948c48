//! The stream under a connection: a TCP socket, a pipe to another frontend that has the socket or, in tests, a pair of pipes in memory.

use std::{
    io::{self, IoSlice},
    os::fd::AsRawFd,
    pin::Pin,
    task::{Context, Poll},
};

use futures_util::FutureExt;
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf, Ready},
    net::TcpStream,
};

#[cfg(feature = "testing")]
use crate::memory::MemorySocket;
use crate::pipe::Pipe;

/// A stream of bytes with a client at its other end.
pub(crate) enum Socket {
    Tcp(TcpStream),
    Pipe(Pipe),
    #[cfg(feature = "testing")]
    Memory(MemorySocket),
}

/// Calls a method of whichever stream it is.
macro_rules! each {
    ($socket:expr, $stream:ident => $call:expr) => {
        match $socket {
            Socket::Tcp($stream) => $call,
            Socket::Pipe($stream) => $call,
            #[cfg(feature = "testing")]
            Socket::Memory($stream) => $call,
        }
    };
}

impl Socket {
    /// The number of its file descriptor, if it has one.
    pub(crate) fn descriptor(&self) -> Option<u64> {
        match self {
            Self::Tcp(stream) => u64::try_from(stream.as_raw_fd()).ok(),
            Self::Pipe(_) => None,
            #[cfg(feature = "testing")]
            Self::Memory(_) => None,
        }
    }

    /// Whether the client has closed its side, or is gone, although bytes of it may not have been read yet.
    pub(crate) fn is_read_closed(&self) -> bool {
        match self {
            // No system call: tokio notes it when the kernel tells, whether or not the stream is read.
            Self::Tcp(stream) => stream
                .ready(Interest::READABLE)
                .now_or_never()
                .is_some_and(|ready| ready.is_ok_and(Ready::is_read_closed)),
            Self::Pipe(pipe) => pipe.is_read_closed(),
            #[cfg(feature = "testing")]
            Self::Memory(stream) => stream.is_read_closed(),
        }
    }

    /// Bytes that have arrived and were not read. 0 if the system does not say.
    pub(crate) fn unread(&self) -> usize {
        match self {
            Self::Tcp(stream) => rustix::io::ioctl_fionread(stream)
                .ok()
                .and_then(|unread| usize::try_from(unread).ok())
                .unwrap_or(0),
            Self::Pipe(pipe) => pipe.unread(),
            #[cfg(feature = "testing")]
            Self::Memory(stream) => stream.unread(),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_read(cx, buffer))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        each!(self, stream => stream.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_shutdown(cx))
    }
}
