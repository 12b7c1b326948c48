//! Workers: one operating system thread each, with a single-threaded tokio runtime, its own listeners and its own connections.
//!
//! A connection stays on the worker whose listener accepted it. The shared state of a worker's connections (the clock, the timer wheel, the
//! buffers of a poll) is local to the thread and needs no lock.

use std::{
    cell::{Cell, RefCell},
    io,
    ops::{Deref, DerefMut},
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

/// Buffers that the polls of a worker's connections use one after the other, so that an idle connection owns none.
///
/// Shared buffers are empty when they are lent, and are cleared when the loan ends in any way: [`Shared`] provides no other access. So
/// bytes of one client cannot reach another.
pub(crate) struct Scratch {
    /// Where sockets are read into. Only what the same read has filled is ever looked at.
    pub(crate) read: Box<[u8]>,
    /// Packages that the protocol writes by itself.
    pub(crate) out: Shared<BytesMut>,
    /// The data taken from an outbox.
    pub(crate) drained: Shared<Drained>,
    /// Small pieces of one write, put together.
    pub(crate) gather: Shared<Vec<u8>>,
}

impl Default for Scratch {
    fn default() -> Self {
        Self {
            read: vec![0; READ_BUFFER].into_boxed_slice(),
            out: Shared(BytesMut::with_capacity(4096)),
            drained: Shared::default(),
            gather: Shared::default(),
        }
    }
}

/// A buffer that connections share. It can only be borrowed as a [`Loan`].
#[derive(Default)]
pub(crate) struct Shared<T: Empty>(T);

impl<T: Empty> Shared<T> {
    /// Lends the buffer, empty.
    pub(crate) fn lend(&mut self) -> Loan<'_, T> {
        self.0.empty();
        Loan(&mut self.0)
    }
}

/// A borrowed buffer. Its content ends with the loan.
pub(crate) struct Loan<'a, T: Empty>(&'a mut T);

impl<T: Empty> Deref for Loan<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0
    }
}

impl<T: Empty> DerefMut for Loan<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0
    }
}

impl<T: Empty> Drop for Loan<'_, T> {
    fn drop(&mut self) {
        self.0.empty();
    }
}

/// A buffer that can be [`Shared`]: it is cleared and may keep its memory.
pub(crate) trait Empty {
    fn empty(&mut self);
}

impl Empty for BytesMut {
    fn empty(&mut self) {
        self.clear();
        // Memory that grew for one large message is released.
        if self.capacity() > KEEP {
            *self = Self::with_capacity(4096);
        }
    }
}

impl Empty for Drained {
    fn empty(&mut self) {
        self.clear();
    }
}

impl Empty for Vec<u8> {
    fn empty(&mut self) {
        self.clear();
    }
}

/// The most memory that an empty shared buffer keeps.
const KEEP: usize = 64 * 1024;

thread_local! {
    static WHEEL: RefCell<Wheel> = RefCell::new(Wheel::new(now()));
    static SCRATCH: Cell<Option<Box<Scratch>>> = const { Cell::new(None) };
    static FLUSHES: RefCell<Vec<Waker>> = const { RefCell::new(Vec::new()) };
    static PACE: Cell<Pace> = const { Cell::new(Pace::NEW) };
}

/// The time of a worker: it passes only while the worker looks at its sockets.
///
/// Deadlines of connections decide about their clients, so they are counted in this time. A worker blocked by code, or a busy machine,
/// makes no client silent or slow: between two ticks of the wheel at most [`AT_MOST`] passes.
#[derive(Clone, Copy)]
struct Pace {
    /// The last tick of the wheel on the clock. `None`: there was none.
    ticked: Option<Millis>,
    /// The last tick in this time.
    time: Millis,
    /// By how much the last late tick was late, and when it came.
    late: u64,
    late_at: Millis,
}

/// The most that passes between two ticks, milliseconds.
const AT_MOST: u64 = 2 * TICK;

/// How long after a late tick what had to wait may still be on its way to the connections, milliseconds.
const AFTERMATH: u64 = 1000;

impl Pace {
    const NEW: Self = Self {
        ticked: None,
        time: Millis(0),
        late: 0,
        late_at: Millis(0),
    };

    fn time(self, clock: Millis) -> Millis {
        match self.ticked {
            Some(ticked) => self.time + (clock - ticked).min(AT_MOST),
            None => clock,
        }
    }

    fn held_up(self, clock: Millis) -> u64 {
        let past = if clock - self.late_at <= AFTERMATH {
            self.late
        } else {
            0
        };
        self.behind(clock).max(past)
    }

    /// The milliseconds that the clock, but not this time, has advanced since the last tick.
    fn behind(self, clock: Millis) -> u64 {
        let ticked = self.ticked.unwrap_or(clock);
        (clock - ticked).saturating_sub(AT_MOST)
    }

    fn tick(self, clock: Millis) -> Self {
        let late = self.held_up(clock).min(self.behind(clock));
        let (late, late_at) = if late > 0 {
            (late, clock)
        } else {
            (self.late, self.late_at)
        };
        Self {
            ticked: Some(clock),
            time: self.time(clock),
            late,
            late_at,
        }
    }
}

/// The worker's time, in milliseconds: what deadlines of its connections are counted in.
pub(crate) fn time(clock: Millis) -> Millis {
    PACE.get().time(clock)
}

/// For how long this worker could not look at its sockets lately, milliseconds. What came meanwhile looks to the worker as if it came at
/// once; limits for an amount in a time allow for it.
pub(crate) fn held_up() -> u64 {
    PACE.get().held_up(now())
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

/// Whether [`flush_later`] was called since the last [`wake_flushes`].
pub(crate) fn owes_flushes() -> bool {
    FLUSHES.with_borrow(|flushes| !flushes.is_empty())
}

/// Lends the thread's buffers to one poll. A poll that panics loses them.
pub(crate) fn with_scratch<R>(poll: impl FnOnce(&mut Scratch) -> R) -> R {
    let mut scratch = SCRATCH.take().unwrap_or_default();
    let result = poll(&mut scratch);
    SCRATCH.set(Some(scratch));
    result
}

/// Places of this thread's wheel that are taken.
#[cfg(feature = "testing")]
pub(crate) fn timers_in_use() -> usize {
    WHEEL.with_borrow(Wheel::places)
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
        let pace = PACE.get().tick(now());
        PACE.set(pace);
        WHEEL.with_borrow_mut(|wheel| wheel.advance(pace.time));
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
    /// `None`: it shares the thread of the runtime that started it.
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

    /// `count` workers that are tasks of the runtime that calls this, for tests: everything runs on one thread, in an order that repeats,
    /// and time can be paused (`tokio::time::pause`). One such set per thread.
    ///
    /// # Panics
    /// Outside of a runtime, or in one of several threads.
    #[cfg(feature = "testing")]
    pub fn on_this_thread(count: usize) -> Self {
        let handle = Handle::current();
        assert_eq!(
            handle.runtime_flavor(),
            tokio::runtime::RuntimeFlavor::CurrentThread,
            "workers of a test share one thread"
        );
        PACE.set(Pace::NEW);
        WHEEL.with_borrow_mut(|wheel| *wheel = Wheel::new(now()));
        let (stop, stopped) = oneshot::channel::<()>();
        tokio::spawn(async move {
            tokio::select! {
                () = turn_wheel() => {}
                _ = stopped => {}
            }
        });
        let mut stop = Some(stop);
        let threads = (0..count.max(1))
            .map(|_| Worker {
                handle: handle.clone(),
                stop: stop.take(),
                thread: None,
            })
            .collect();
        Self { threads }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loan_begins_and_ends_empty_whatever_happens() {
        let mut shared = Shared(Vec::new());
        let failed: Result<(), ()> = (|| {
            let mut loan = shared.lend();
            loan.extend_from_slice(b"of one client");
            Err(())?;
            unreachable!("it has failed");
        })();
        assert_eq!((failed, shared.0.len()), (Err(()), 0));
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut loan = shared.lend();
            loan.extend_from_slice(b"of one client");
            panic!("expected in this test");
        }));
        assert!(panicked.is_err() && shared.0.is_empty());
        // Not even a loan that never ends.
        let mut loan = shared.lend();
        loan.extend_from_slice(b"of one client");
        std::mem::forget(loan);
        assert!(shared.lend().is_empty());
    }

    /// The clock begins with the process: the first tick may be at zero.
    #[test]
    fn a_tick_at_zero_is_a_tick() {
        let pace = Pace::NEW.tick(Millis(0));
        assert_eq!(pace.time(Millis(9000)), Millis(200));
        assert_eq!(pace.held_up(Millis(9000)), 8800);
    }

    #[test]
    fn time_passes_only_while_the_worker_looks() {
        let mut pace = Pace::NEW;
        assert_eq!(pace.time(Millis(4000)), Millis(4000), "it has not begun");
        assert_eq!(pace.held_up(Millis(4000)), 0);
        pace = pace.tick(Millis(5000)).tick(Millis(5100));
        assert_eq!(
            pace.time(Millis(5250)),
            Millis(5250),
            "a tick may be a little late"
        );
        assert_eq!(pace.held_up(Millis(5250)), 0);
        assert_eq!(pace.time(Millis(8100)), Millis(5300));
        assert_eq!(pace.held_up(Millis(8100)), 2800);
        pace = pace.tick(Millis(8100));
        assert_eq!(pace.time(Millis(8110)), Millis(5310));
        assert_eq!(
            pace.held_up(Millis(8110)),
            2800,
            "what came meanwhile is read now"
        );
        for now in (8200..=9200).step_by(100) {
            pace = pace.tick(Millis(now));
        }
        assert_eq!(pace.time(Millis(9201)), Millis(6401));
        assert_eq!(pace.held_up(Millis(9201)), 0);
    }
}
