//! Packages on a byte stream: TCP, TLS, or a custom stream.

use std::future::Future as _;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWrite as _, AsyncWriteExt as _};

use super::{BoxIo, Event, closed};
use crate::CloseKind;

/// Buffer for one read. It grows while reads fill it, so that an idle connection is small and a busy one makes few calls.
const SMALL_READ: usize = 4 * 1024;
const LARGE_READ: usize = 64 * 1024;

pub(crate) struct Stream {
    io: BoxIo,
    input: BytesMut,
    read_size: usize,
    output: BytesMut,
    /// The socket has accepted bytes that it may still buffer, as TLS does.
    unflushed: bool,
}

impl Stream {
    pub(crate) fn new(io: BoxIo) -> Self {
        Self {
            io,
            input: BytesMut::new(),
            read_size: SMALL_READ,
            output: BytesMut::new(),
            unflushed: false,
        }
    }

    pub(super) fn queue(&mut self, package: &[u8]) {
        self.output.extend_from_slice(package);
    }

    pub(super) fn queued(&self) -> usize {
        self.output.len() + usize::from(self.unflushed)
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CloseKind>> {
        let result = ready!(self.poll_write(cx));
        // An idle connection keeps no buffer, and a broken one has nothing to write.
        self.output = BytesMut::new();
        self.unflushed = false;
        Poll::Ready(result.map_err(|error| closed(&error)))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.output.is_empty() {
            self.unflushed = true;
            match ready!(Pin::new(&mut self.io).poll_write(cx, &self.output))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.output.advance(written),
            }
        }
        Pin::new(&mut self.io).poll_flush(cx)
    }

    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Event, CloseKind>> {
        self.input.reserve(self.read_size);
        // `read_buf` keeps no state in its future: creating a new one for each poll loses nothing.
        let read = pin!(self.io.read_buf(&mut self.input)).poll(cx);
        Poll::Ready(match ready!(read) {
            Ok(0) => Ok(Event::End(None)),
            Ok(read) => {
                self.read_size = if read >= self.read_size {
                    LARGE_READ
                } else {
                    SMALL_READ
                };
                Ok(Event::Bytes(self.input.split().freeze()))
            }
            Err(error) => match closed(&error) {
                CloseKind::ServerClosed(status) => Ok(Event::End(status)),
                kind => Err(kind),
            },
        })
    }

    pub(super) async fn shutdown(&mut self) -> Result<(), CloseKind> {
        self.io.shutdown().await.map_err(|error| closed(&error))
    }
}
