//! Connections in memory, with the faults of a network: for tests of this crate, of the framework and of applications.
//!
//! A connection is two pipes. Each end reads from one and writes to the other, like a socket: [`MemorySocket`] is both what the
//! listener accepts and what the client holds. A [`Faults`] handle of a connection changes what its pipes do, at any byte:
//! writes that take a part, a peer that does not read, a reset, half a close.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use parking_lot::{Mutex, MutexGuard};

/// Bytes that a pipe holds before its writer has to wait: what a kernel might take.
const CAPACITY: usize = 64 * 1024;

/// One direction of a connection.
#[derive(Debug)]
struct Pipe {
    bytes: VecDeque<u8>,
    /// Above it the writer waits.
    capacity: usize,
    /// The most that one read or one write moves.
    step: usize,
    /// The writer has said that nothing follows.
    ended: bool,
    /// Bytes that may still be written before the connection is reset.
    left: Option<usize>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Default for Pipe {
    fn default() -> Self {
        Self {
            bytes: VecDeque::new(),
            capacity: CAPACITY,
            step: usize::MAX,
            ended: false,
            left: None,
            reader: None,
            writer: None,
        }
    }
}

#[derive(Debug, Default)]
struct Link {
    pipes: [Pipe; 2],
    is_reset: bool,
}

impl Link {
    /// Everything that waits for this connection, to be woken without the lock.
    fn wakers(&mut self) -> Vec<Waker> {
        let pipes = self.pipes.iter_mut();
        pipes
            .flat_map(|pipe| [pipe.reader.take(), pipe.writer.take()])
            .flatten()
            .collect()
    }
}

fn lock(link: &Mutex<Link>) -> MutexGuard<'_, Link> {
    link.lock()
}

fn wake(wakers: impl IntoIterator<Item = Waker>) {
    wakers.into_iter().for_each(Waker::wake);
}

/// One end of a connection in memory. Dropping it closes the connection: the other end reads what was written, then the end.
#[derive(Debug)]
pub struct MemorySocket {
    link: Arc<Mutex<Link>>,
    /// The pipe that this end writes to; it reads from the other one.
    out: usize,
}

/// Changes what a connection in memory does. Cheap to clone; works from any place of the test.
#[derive(Debug, Clone)]
pub struct Faults {
    link: Arc<Mutex<Link>>,
}

/// A new connection: the server's end, the client's end, and the handle for its faults.
pub fn pair() -> (MemorySocket, MemorySocket, Faults) {
    let link = Arc::new(Mutex::new(Link::default()));
    let end = |out| MemorySocket {
        link: Arc::clone(&link),
        out,
    };
    (
        end(TO_CLIENT),
        end(TO_SERVER),
        Faults { link: link.clone() },
    )
}

const TO_SERVER: usize = 0;
const TO_CLIENT: usize = 1;

impl Faults {
    /// The most bytes that one read or one write of the server moves, at least 1.
    pub fn set_step(&self, bytes: usize) {
        let mut link = lock(&self.link);
        for pipe in &mut link.pipes {
            pipe.step = bytes.max(1);
        }
    }

    /// How many bytes wait for the client before the server's socket is full. 0: it takes nothing.
    pub fn set_window(&self, bytes: usize) {
        let mut link = lock(&self.link);
        link.pipes[TO_CLIENT].capacity = bytes;
        let woken = link.pipes[TO_CLIENT].writer.take();
        drop(link);
        wake(woken);
    }

    /// Resets the connection when the server has written so many bytes more.
    pub fn reset_after(&self, bytes: usize) {
        lock(&self.link).pipes[TO_CLIENT].left = Some(bytes);
    }

    /// Resets the connection now: both ends get an error, what was not read is lost.
    pub fn reset(&self) {
        let mut link = lock(&self.link);
        link.is_reset = true;
        let woken = link.wakers();
        drop(link);
        wake(woken);
    }

    /// Wakes the server's end although nothing has happened.
    pub fn wake_spuriously(&self) {
        let link = lock(&self.link);
        let reader = link.pipes[TO_SERVER].reader.clone();
        drop(link);
        wake(reader);
    }

    /// Bytes that the client has written and the server has not read.
    pub fn unread_by_server(&self) -> usize {
        lock(&self.link).pipes[TO_SERVER].bytes.len()
    }

    /// Bytes that the server has written and the client has not read.
    pub fn unread_by_client(&self) -> usize {
        lock(&self.link).pipes[TO_CLIENT].bytes.len()
    }
}

impl MemorySocket {
    pub(crate) fn is_read_closed(&self) -> bool {
        let link = lock(&self.link);
        link.is_reset || link.pipes[1 - self.out].ended
    }

    pub(crate) fn unread(&self) -> usize {
        lock(&self.link).pipes[1 - self.out].bytes.len()
    }

    /// Writes all of `bytes` at once, beyond the other end's window if need be.
    ///
    /// # Errors
    /// The connection was reset or closed.
    pub fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let mut link = lock(&self.link);
        if link.is_reset || link.pipes[self.out].ended || link.pipes[self.out].left == Some(0) {
            return Err(reset());
        }
        link.pipes[self.out].bytes.extend(bytes);
        let woken = link.pipes[self.out].reader.take();
        drop(link);
        wake(woken);
        Ok(())
    }

    /// Takes everything that has arrived. `None`: the other end has closed, or the connection was reset, and nothing is left.
    pub fn receive(&self) -> Option<Vec<u8>> {
        let mut link = lock(&self.link);
        let is_reset = link.is_reset;
        let pipe = &mut link.pipes[1 - self.out];
        if is_reset || (pipe.bytes.is_empty() && pipe.ended) {
            return None;
        }
        let bytes = pipe.bytes.drain(..).collect();
        let woken = pipe.writer.take();
        drop(link);
        wake(woken);
        Some(bytes)
    }

    /// Says that nothing more is sent from this end, which still reads: half a close.
    pub fn finish(&self) {
        let mut link = lock(&self.link);
        let pipe = &mut link.pipes[self.out];
        pipe.ended = true;
        let woken = pipe.reader.take();
        drop(link);
        wake(woken);
    }
}

impl AsyncRead for MemorySocket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut link = lock(&self.link);
        if link.is_reset {
            return Poll::Ready(Err(reset()));
        }
        let pipe = &mut link.pipes[1 - self.out];
        let n = pipe.bytes.len().min(pipe.step).min(buffer.remaining());
        if n == 0 && !pipe.ended && buffer.remaining() > 0 {
            pipe.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let (front, back) = pipe.bytes.as_slices();
        let of_front = n.min(front.len());
        buffer.put_slice(&front[..of_front]);
        buffer.put_slice(&back[..n - of_front]);
        pipe.bytes.drain(..n);
        let woken = pipe.writer.take();
        drop(link);
        wake(woken);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for MemorySocket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut link = lock(&self.link);
        let pipe = &mut link.pipes[self.out];
        let room = pipe.capacity.saturating_sub(pipe.bytes.len());
        let n = bytes.len().min(room).min(pipe.step);
        if pipe.left.is_some_and(|left| left < n.max(1)) {
            // The bytes up to the reset are lost with it, as they are in a kernel.
            link.is_reset = true;
        }
        if link.is_reset || link.pipes[self.out].ended {
            let woken = link.wakers();
            drop(link);
            wake(woken);
            return Poll::Ready(Err(reset()));
        }
        let pipe = &mut link.pipes[self.out];
        if n == 0 && !bytes.is_empty() {
            pipe.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        pipe.bytes.extend(&bytes[..n]);
        pipe.left = pipe.left.map(|left| left - n);
        let woken = pipe.reader.take();
        drop(link);
        wake(woken);
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.finish();
        Poll::Ready(Ok(()))
    }
}

impl Drop for MemorySocket {
    fn drop(&mut self) {
        let mut link = lock(&self.link);
        link.pipes[self.out].ended = true;
        // A peer that writes to a closed socket is reset.
        let other = &mut link.pipes[1 - self.out];
        other.left = Some(0);
        other.capacity = usize::MAX;
        let woken = link.wakers();
        drop(link);
        wake(woken);
    }
}

fn reset() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

/// Connections that wait to be accepted: the listening socket of a [listener in memory](crate::Listener::in_memory).
#[derive(Debug, Default)]
pub(crate) struct Backlog(Mutex<Queue>);

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<(MemorySocket, SocketAddr)>,
    acceptor: Option<Waker>,
}

impl Backlog {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.lock()
    }

    fn push(&self, socket: MemorySocket, address: SocketAddr) {
        let mut queue = self.queue();
        queue.waiting.push_back((socket, address));
        let woken = queue.acceptor.take();
        drop(queue);
        wake(woken);
    }

    pub(crate) fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<(MemorySocket, SocketAddr)> {
        let mut queue = self.queue();
        if let Some(accepted) = queue.waiting.pop_front() {
            return Poll::Ready(accepted);
        }
        queue.acceptor = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// Opens connections to a [listener in memory](crate::Listener::in_memory).
#[derive(Debug, Clone)]
pub struct Connector {
    /// One for each worker.
    pub(crate) backlogs: Arc<[Arc<Backlog>]>,
}

impl Connector {
    /// Opens a connection to one of the workers (numbers count around), as if it came from `address`.
    pub fn connect(&self, worker: usize, address: SocketAddr) -> (MemorySocket, Faults) {
        let (server, client, faults) = pair();
        self.backlogs[worker % self.backlogs.len()].push(server, address);
        (client, faults)
    }
}

/// Places of this thread's timer wheel that connections hold.
pub fn timers_in_use() -> usize {
    crate::worker::timers_in_use()
}
