//! A pipe for a connection's bytes within the process: one end reads, in order, what the other one writes, with a limit.
//!
//! Two pipes and the cluster between them form a connection whose socket is on one frontend and whose session is on another.

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use parking_lot::{Mutex, MutexGuard};

/// With this number of unread bytes there is no room for more. A writer that found room may write one complete read, so the limit can be
/// exceeded slightly.
const CAPACITY: usize = 64 * 1024;

/// One end of a pair. Dropping it without [`finish`](Self::finish) breaks the connection: the other end reads the written bytes, and then
/// an error.
#[derive(Debug)]
pub struct Pipe {
    reads: Arc<Way>,
    writes: Arc<Way>,
}

/// The result of a read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Some bytes, at least one.
    Bytes(Bytes),
    /// Nothing follows: the other end has finished.
    Finished,
    /// Nothing follows: the other end is gone.
    Broken,
}

/// One direction.
#[derive(Debug, Default)]
struct Way(Mutex<Flow>);

#[derive(Debug, Default)]
struct Flow {
    bytes: BytesMut,
    state: State,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    /// The writer has finished.
    Finished,
    /// The writer is gone without that, or the reader is.
    Broken,
}

impl Way {
    fn lock(&self) -> MutexGuard<'_, Flow> {
        self.0.lock()
    }

    /// Changes the flow, and wakes without the lock.
    fn change(&self, f: impl FnOnce(&mut Flow)) {
        let mut flow = self.lock();
        f(&mut flow);
        let wakers = [flow.reader.take(), flow.writer.take()];
        drop(flow);
        wakers.into_iter().flatten().for_each(Waker::wake);
    }

    /// Waits for something to read. The lock is the caller's, to read it.
    fn poll_some(&self, cx: &Context<'_>) -> Poll<MutexGuard<'_, Flow>> {
        let mut flow = self.lock();
        if flow.bytes.is_empty() && flow.state == State::Open {
            flow.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(flow)
    }
}

/// The writer may go on, since something was read.
fn wake_writer(mut flow: MutexGuard<'_, Flow>) {
    let writer = flow.writer.take();
    drop(flow);
    if let Some(writer) = writer {
        writer.wake();
    }
}

impl Pipe {
    /// Two ends.
    pub fn pair() -> (Self, Self) {
        let (there, back) = (Arc::<Way>::default(), Arc::<Way>::default());
        let one = Self {
            reads: Arc::clone(&back),
            writes: Arc::clone(&there),
        };
        let other = Self {
            reads: there,
            writes: back,
        };
        (one, other)
    }

    /// The next bytes, at most `most` of them.
    pub fn poll_next(&self, cx: &Context<'_>, most: usize) -> Poll<Piece> {
        let Poll::Ready(mut flow) = self.reads.poll_some(cx) else {
            return Poll::Pending;
        };
        if flow.bytes.is_empty() {
            return Poll::Ready(match flow.state {
                State::Finished => Piece::Finished,
                _ => Piece::Broken,
            });
        }
        let length = flow.bytes.len().min(most);
        let bytes = flow.bytes.split_to(length).freeze();
        wake_writer(flow);
        Poll::Ready(Piece::Bytes(bytes))
    }

    /// As [`poll_next`](Self::poll_next). Cancel-safe.
    pub async fn next(&self, most: usize) -> Piece {
        poll_fn(|cx| self.poll_next(cx, most)).await
    }

    /// Whether there is room for what is to be written. False: nothing can be written any more.
    pub fn poll_room(&self, cx: &Context<'_>) -> Poll<bool> {
        let mut flow = self.writes.lock();
        if flow.state != State::Open {
            return Poll::Ready(false);
        }
        if flow.bytes.len() >= CAPACITY {
            flow.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(true)
    }

    /// As [`poll_room`](Self::poll_room). Cancel-safe.
    pub async fn room(&self) -> bool {
        poll_fn(|cx| self.poll_room(cx)).await
    }

    /// Writes, whether or not there is room. False if nothing can be written any more.
    pub fn write(&self, bytes: &[u8]) -> bool {
        let mut is_open = false;
        self.writes.change(|flow| {
            is_open = flow.state == State::Open;
            if is_open {
                flow.bytes.extend_from_slice(bytes);
            }
        });
        is_open
    }

    /// Says that nothing more will be written.
    pub fn finish(&self) {
        self.writes.change(|flow| {
            if flow.state == State::Open {
                flow.state = State::Finished;
            }
        });
    }

    /// Breaks both ways, as if both ends were gone.
    pub fn cut(&self) {
        for way in [&self.writes, &self.reads] {
            way.change(|flow| {
                if flow.state == State::Open {
                    flow.state = State::Broken;
                }
            });
        }
    }

    /// Whether the other end has finished or is gone, although bytes of it may not have been read yet.
    pub(crate) fn is_read_closed(&self) -> bool {
        self.reads.lock().state != State::Open
    }

    /// Bytes that were not read.
    pub(crate) fn unread(&self) -> usize {
        self.reads.lock().bytes.len()
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.writes.change(|flow| {
            if flow.state == State::Open {
                flow.state = State::Broken;
            }
        });
        self.reads.change(|flow| {
            flow.state = State::Broken;
            flow.bytes = BytesMut::new();
        });
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.poll_next(cx, buffer.remaining()) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Piece::Bytes(bytes)) => {
                buffer.put_slice(&bytes);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Piece::Finished) => Poll::Ready(Ok(())),
            Poll::Ready(Piece::Broken) => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        }
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    /// All or nothing: what is written in one go stays together.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.poll_room(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(false) => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            Poll::Ready(true) => {
                let mut length = 0;
                self.writes.change(|flow| {
                    for slice in slices {
                        flow.bytes.extend_from_slice(slice);
                        length += slice.len();
                    }
                });
                Poll::Ready(Ok(length))
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.finish();
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(pipe: &Pipe) -> Poll<Piece> {
        pipe.poll_next(&Context::from_waker(Waker::noop()), 4)
    }

    fn bytes(text: &'static str) -> Poll<Piece> {
        Poll::Ready(Piece::Bytes(Bytes::from_static(text.as_bytes())))
    }

    #[test]
    fn what_was_written_is_read_before_the_end() {
        for is_finished in [true, false] {
            let (one, other) = Pipe::pair();
            assert!(one.write(b"hel") && one.write(b"lo"));
            assert_eq!(next(&other), bytes("hell"));
            if is_finished {
                one.finish();
                assert!(!one.write(b"late"));
                assert!(other.write(b"back"), "the other way goes on");
            }
            drop(one);
            assert!(!other.write(b"x"));
            assert_eq!(next(&other), bytes("o"));
            let end = if is_finished {
                Piece::Finished
            } else {
                Piece::Broken
            };
            assert_eq!(next(&other), Poll::Ready(end));
        }
    }

    #[test]
    fn a_pipe_that_is_cut_is_broken_at_both_ends() {
        let (one, other) = Pipe::pair();
        assert!(one.write(b"a"));
        one.cut();
        assert!(!one.write(b"b") && !other.write(b"b"));
        assert_eq!(next(&other), bytes("a"));
        assert_eq!(next(&other), Poll::Ready(Piece::Broken));
        assert_eq!(next(&one), Poll::Ready(Piece::Broken));
    }

    #[test]
    fn a_full_pipe_has_room_again_when_something_was_read() {
        let (one, other) = Pipe::pair();
        let cx = Context::from_waker(Waker::noop());
        assert_eq!(one.poll_room(&cx), Poll::Ready(true));
        one.write(&vec![7; CAPACITY]);
        assert_eq!(one.poll_room(&cx), Poll::Pending);
        assert_eq!((other.unread(), other.is_read_closed()), (CAPACITY, false));
        assert!(next(&other).is_ready());
        assert_eq!(one.poll_room(&cx), Poll::Ready(true));
        assert_eq!(next(&one), Poll::Pending);
        drop(other);
        assert_eq!(one.poll_room(&cx), Poll::Ready(false));
        assert_eq!(next(&one), Poll::Ready(Piece::Broken));
    }
}
