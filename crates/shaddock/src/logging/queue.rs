//! A queue of log lines with a limit in bytes, and a thread that writes them to standard error. Logging never waits.
//!
//! A terminal that was stopped, or a pipe that nothing reads, blocks the write for as long as it likes. Only the thread here may wait for
//! it: a line that finds the queue full is dropped and counted, and when lines flow again the log says how many are missing.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use parking_lot::{Condvar, Mutex, MutexGuard};
use tracing_subscriber::fmt::MakeWriter;

/// Memory that the queue keeps when it is empty.
const KEPT: usize = 64 * 1024;

/// Until a write that would block (standard error is shared, and another process has made it non-blocking) is tried again.
const TRY_AGAIN: Duration = Duration::from_millis(20);

/// A queue of lines with a limit in bytes, and a thread that writes them: [`push`](Self::push) never waits for the reader.
///
/// Cheap to clone. With the last handle the thread ends, when it has written what waits.
///
/// ```
/// use shaddock::logging::LineQueue;
/// use std::time::Duration;
///
/// let out = LineQueue::new(64 * 1024);
/// out.run(std::io::stderr(), |lines| eprintln!("{lines} lines are missing"))?;
/// out.push(b"one line\n");
/// out.flush(Duration::from_secs(1));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct LineQueue(Arc<Handle>);

#[derive(Debug)]
struct Handle(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Bytes that may wait; as many again may be on their way.
    bound: usize,
    state: Mutex<State>,
    /// There is something to write.
    more: Condvar,
    /// Something was written.
    written: Condvar,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<u8>,
    /// Bytes that were ever taken into the queue, and of those how many have left it.
    taken: u64,
    gone: u64,
    /// Dropped lines that the log has not told of.
    untold: u64,
    closed: bool,
}

impl LineQueue {
    /// A queue that holds so many bytes. Nothing is written before [`run`](Self::run).
    pub fn new(bound: usize) -> Self {
        Self(Arc::new(Handle(Arc::new(Shared {
            bound,
            state: Mutex::default(),
            more: Condvar::new(),
            written: Condvar::new(),
            dropped: AtomicU64::new(0),
        }))))
    }

    /// Starts the thread that writes to `out`. It calls `tell` with the number of dropped lines when there is room again.
    ///
    /// # Errors
    /// The operating system refuses a thread.
    pub fn run(
        &self,
        out: impl Write + Send + 'static,
        tell: impl Fn(u64) + Send + 'static,
    ) -> io::Result<()> {
        let shared = Arc::clone(&self.0.0);
        thread::Builder::new()
            .name("shaddock-log".to_owned())
            .spawn(move || shared.write_all(out, tell))
            .map(drop)
    }

    /// Queues a line, which ends in `\n`, or drops and counts it.
    pub fn push(&self, line: &[u8]) {
        let shared = &self.0.0;
        let mut state = shared.lock();
        if state.waiting.len() + line.len() > shared.bound {
            state.untold += 1;
            shared.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        state.waiting.extend_from_slice(line);
        state.taken += line.len() as u64;
        drop(state);
        shared.more.notify_one();
    }

    /// Waits until all lines of this moment are written, but no longer than `limit`. False if some are not. It blocks the thread.
    pub fn flush(&self, limit: Duration) -> bool {
        let shared = &self.0.0;
        let mut state = shared.lock();
        let until = state.taken;
        let waited = shared
            .written
            .wait_while_for(&mut state, |state| state.gone < until, limit);
        !waited.timed_out()
    }

    /// Lines that were dropped.
    pub fn dropped(&self) -> u64 {
        self.0.0.dropped.load(Ordering::Relaxed)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.more.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// The life of the thread.
    fn write_all(&self, mut out: impl Write, tell: impl Fn(u64)) {
        let mut chunk = Vec::new();
        while self.take(&mut chunk) {
            self.write(&mut out, &chunk);
            let mut state = self.lock();
            state.gone += chunk.len() as u64;
            // Telling takes a line as well, which must find room.
            let has_room = state.waiting.len() <= self.bound / 2;
            let untold = if has_room {
                std::mem::take(&mut state.untold)
            } else {
                0
            };
            drop(state);
            self.written.notify_all();
            if untold > 0 {
                tell(untold);
            }
            chunk.clear();
            chunk.shrink_to(KEPT);
        }
    }

    /// Waits for lines, and moves all that wait into `chunk`. False when nothing comes any more.
    fn take(&self, chunk: &mut Vec<u8>) -> bool {
        let mut state = self.lock();
        let is_idle = |state: &mut State| state.waiting.is_empty() && !state.closed;
        self.more.wait_while(&mut state, is_idle);
        std::mem::swap(&mut state.waiting, chunk);
        !chunk.is_empty()
    }

    /// Writes as much of `chunk` as the other end takes. The rest is dropped when it is gone.
    fn write(&self, out: &mut impl Write, mut chunk: &[u8]) {
        while !chunk.is_empty() {
            match out.write(chunk) {
                Ok(n) if n > 0 => chunk = &chunk[n.min(chunk.len())..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    thread::sleep(TRY_AGAIN);
                }
                // The reader of the log is gone, which must not stop a drain.
                Ok(_) | Err(_) => {
                    let lines = chunk.split_inclusive(|byte| *byte == b'\n').count();
                    self.dropped.fetch_add(lines as u64, Ordering::Relaxed);
                    return;
                }
            }
        }
    }
}

impl<'a> MakeWriter<'a> for LineQueue {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(self)
    }
}

/// One line. The layer writes it in one piece.
#[derive(Debug)]
pub struct Line<'a>(&'a LineQueue);

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// An output that takes one piece for each permit.
    struct Gated {
        begun: mpsc::Sender<()>,
        permits: mpsc::Receiver<()>,
        pieces: mpsc::Sender<Vec<u8>>,
    }

    impl Write for Gated {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.begun.send(());
            if self.permits.recv().is_err() {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            let _ = self.pieces.send(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The other end of a [`Gated`].
    struct Reader {
        begun: mpsc::Receiver<()>,
        permit: mpsc::Sender<()>,
        written: mpsc::Receiver<Vec<u8>>,
    }

    fn gated() -> (Reader, Gated) {
        let (permit, permits) = mpsc::channel();
        let (pieces, written) = mpsc::channel();
        let (begins, begun) = mpsc::channel();
        let gated = Gated {
            begun: begins,
            permits,
            pieces,
        };
        let reader = Reader {
            begun,
            permit,
            written,
        };
        (reader, gated)
    }

    #[test]
    fn a_reader_that_does_not_read_costs_lines_and_not_time() {
        let (reader, out) = gated();
        let queue = LineQueue::new(100);
        let own = queue.clone();
        let tell = move |lost: u64| own.push(format!("{lost} lost\n").as_bytes());
        queue.run(out, tell).unwrap();
        queue.push(b"first\n");
        reader.begun.recv_timeout(PATIENCE).unwrap();
        for n in 0..60 {
            queue.push(format!("line {n:04}\n").as_bytes());
        }
        assert!(!queue.flush(Duration::ZERO), "nothing was written yet");
        assert_eq!(queue.dropped(), 50, "ten lines of ten bytes find room");

        let mut text = Vec::new();
        while !String::from_utf8_lossy(&text).contains(" lost\n") {
            reader.permit.send(()).unwrap();
            text.extend(reader.written.recv_timeout(PATIENCE).unwrap());
        }
        let text = String::from_utf8(text).unwrap();
        assert!(text.starts_with("first\nline 0000\nline 0001\n"), "{text}");
        assert!(text.ends_with("line 0009\n50 lost\n"), "{text}");
        queue.push(b"later\n");
        reader.permit.send(()).unwrap();
        assert_eq!(reader.written.recv_timeout(PATIENCE).unwrap(), b"later\n");
        assert!(queue.flush(PATIENCE));
        assert_eq!(queue.dropped(), 50);
    }

    #[test]
    fn a_reader_that_is_gone_blocks_no_flush() {
        let (reader, out) = gated();
        drop(reader);
        let queue = LineQueue::new(1000);
        queue.push(b"one\ntwo\n");
        queue.run(out, |_| {}).unwrap();
        assert!(queue.flush(PATIENCE));
        assert_eq!(queue.dropped(), 2);
    }

    #[test]
    fn the_thread_ends_with_the_last_handle() {
        let (reader, out) = gated();
        let queue = LineQueue::new(1000);
        queue.run(out, |_| {}).unwrap();
        reader.permit.send(()).unwrap();
        queue.push(b"last\n");
        drop(queue);
        assert_eq!(reader.written.recv_timeout(PATIENCE).unwrap(), b"last\n");
        // The thread drops what it wrote to.
        assert_eq!(
            reader.written.recv_timeout(PATIENCE),
            Err(mpsc::RecvTimeoutError::Disconnected)
        );
    }
}
