//! Workers: one operating system thread each, with a single-threaded tokio runtime, its own listeners and its own connections.
//!
//! A connection lives on the worker whose listener accepted it, for its whole life. What all connections of a worker share (the
//! clock, the timer wheel, the buffers of a poll) is local to the thread and needs no lock.

use std::{
    cell::{Cell, RefCell},
    io,
    task::Waker,
    thread::JoinHandle,
    time::Duration,
};

use bytes::BytesMut;
use shaddock_core::Drained;
use shaddock_protocol::Millis;
use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
};

use crate::{
    clock::now,
    wheel::{TICK, TimerKey, Wheel},
};

/// The most that is read from a socket at once. A chunk is copied out exactly as long as it is, so this bounds what one slow
/// handler can hold, and is far above what sixteen pipelined messages need.
const READ_BUFFER: usize = 32 * 1024;

/// Buffers that one poll of a connection uses and gives back, so that an idle connection owns none.
pub(crate) struct Scratch {
    pub(crate) read: Box<[u8]>,
    pub(crate) out: BytesMut,
    pub(crate) drained: Drained,
    /// Small pieces of one write, put together.
    pub(crate) gather: Vec<u8>,
}

impl Default for Scratch {
    fn default() -> Self {
        Self {
            read: vec![0; READ_BUFFER].into_boxed_slice(),
            out: BytesMut::with_capacity(4096),
            drained: Drained::default(),
            gather: Vec::new(),
        }
    }
}

thread_local! {
    static WHEEL: RefCell<Wheel> = RefCell::new(Wheel::new(now()));
    static SCRATCH: Cell<Option<Box<Scratch>>> = const { Cell::new(None) };
    static FLUSHES: RefCell<Vec<Waker>> = const { RefCell::new(Vec::new()) };
}

/// Polls a connection once more when all others that are ready have had their turn: for what it writes then, see
/// [`wake_flushes`].
pub(crate) fn flush_later(waker: &Waker) {
    FLUSHES.with_borrow_mut(|flushes| flushes.push(waker.clone()));
}

/// Wakes the connections that have something to write. False if there are none.
///
/// Answers to what one turn of the loop has read leave together: the kernel wakes a peer that sleeps at the first of them, and finds
/// it awake at the others. An answer written between two reads costs a wake-up each (docs/performance.md).
pub(crate) fn wake_flushes() -> bool {
    let mut flushes = FLUSHES.take();
    let any = !flushes.is_empty();
    flushes.drain(..).for_each(Waker::wake);
    // The list keeps its memory, unless wakers have begun a new one.
    FLUSHES.with_borrow_mut(|now| {
        if now.is_empty() {
            *now = flushes;
        }
    });
    any
}

/// Whether somebody called [`flush_later`] since the last [`wake_flushes`].
pub(crate) fn owes_flushes() -> bool {
    FLUSHES.with_borrow(|flushes| !flushes.is_empty())
}

/// Lends the thread's buffers to one poll. A poll that panics just loses them.
pub(crate) fn with_scratch<R>(poll: impl FnOnce(&mut Scratch) -> R) -> R {
    let mut scratch = SCRATCH.take().unwrap_or_default();
    let result = poll(&mut scratch);
    SCRATCH.set(Some(scratch));
    result
}

/// A place in the wheel of the worker that made it; given back when dropped.
pub(crate) struct Timer {
    key: TimerKey,
    /// When the wheel wakes the task; has passed: it is not armed.
    armed: Millis,
}

impl Timer {
    pub(crate) fn new(waker: &Waker) -> Self {
        Self {
            key: WHEEL.with_borrow_mut(|wheel| wheel.insert(waker.clone())),
            armed: Millis(u64::MAX),
        }
    }

    /// Wakes the task at `deadline`. Cheap when it is armed for an earlier time, which is the way of all traffic.
    pub(crate) fn arm(&mut self, now: Millis, deadline: Millis) {
        if self.armed <= now || deadline < self.armed {
            self.armed = WHEEL.with_borrow_mut(|wheel| wheel.arm(self.key, deadline));
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        // At the end of the thread the wheel may be gone before the last connection.
        let _ = WHEEL.try_with(|wheel| wheel.borrow_mut().remove(self.key));
    }
}

async fn turn_wheel() {
    let mut interval = tokio::time::interval(Duration::from_millis(TICK));
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        interval.tick().await;
        WHEEL.with_borrow_mut(|wheel| wheel.advance(now()));
    }
}

/// The threads that serve connections. Dropping it stops them; [`Workers::shutdown`] also waits.
#[derive(Debug)]
pub struct Workers {
    threads: Vec<Worker>,
}

#[derive(Debug)]
struct Worker {
    handle: Handle,
    /// Dropped to stop the thread.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Workers {
    /// Starts `count` workers (at least one).
    ///
    /// # Errors
    /// The operating system refuses a thread or an event queue.
    pub fn start(count: usize) -> io::Result<Self> {
        let threads = (0..count.max(1))
            .map(Worker::start)
            .collect::<Result<_, _>>()?;
        Ok(Self { threads })
    }

    /// One worker per core.
    ///
    /// # Errors
    /// As [`Workers::start`].
    pub fn per_core() -> io::Result<Self> {
        Self::start(std::thread::available_parallelism().map_or(1, usize::from))
    }

    /// Number of workers.
    pub fn count(&self) -> usize {
        self.threads.len()
    }

    /// The runtime of a worker, for a task that has to do with its connections. Numbers count around.
    pub fn handle(&self, number: usize) -> &Handle {
        &self.threads[number % self.threads.len()].handle
    }

    pub(crate) fn handles(&self) -> impl Iterator<Item = &Handle> {
        self.threads.iter().map(|worker| &worker.handle)
    }

    /// Stops all workers and waits for their threads. Connections that are still open are dropped.
    pub async fn shutdown(mut self) {
        let threads: Vec<_> = self.threads.iter_mut().filter_map(Worker::stop).collect();
        let joined = tokio::task::spawn_blocking(move || {
            for thread in threads {
                if thread.join().is_err() {
                    tracing::error!("a worker thread panicked");
                }
            }
        });
        let _ = joined.await;
    }
}

impl Worker {
    fn start(index: usize) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name(format!("shaddock-io-{index}"))
            .spawn(move || {
                runtime.block_on(async {
                    let wheel = tokio::spawn(turn_wheel());
                    let _ = stopped.await;
                    wheel.abort();
                });
            })?;
        Ok(Self {
            handle,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    fn stop(&mut self) -> Option<JoinHandle<()>> {
        self.stop = None;
        self.thread.take()
    }
}
