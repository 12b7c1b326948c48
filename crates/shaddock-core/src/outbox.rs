//! The outbound queue of one session: the only way to send bytes to a client.

mod connection;
mod latest;
mod more;
mod result;
mod resumable;

pub(crate) use more::{Insert, More};
pub use result::{Flush, Next, Offer, OutboxStats, PushError, Room, SendError};

use crate::pool;
use crate::resume::Ledger;
use crate::sync::{Mutex, MutexGuard};
use bytes::{Bytes, BytesMut};
use std::task::Waker;

/// Shared packages up to this length are copied after bytes that are already queued.
///
/// A pointer to a shared package costs 40 bytes and an entry in the vectored write, so for short packages a copy is cheaper in memory and
/// time. It also limits the overhead: pointers never cost more than their bytes.
const COPY_MAX: usize = 64;

/// Bytes queued for one client, in the order of acceptance, with a limit.
///
/// # Senders
///
/// [`push`](Self::push) enqueues a package that is shared with others (a pointer), [`push_with`](Self::push_with) encodes one in place.
/// Each takes one short lock. The order of acceptance is the order on the wire. Bytes count until the driver has [written](Self::written)
/// them.
///
/// # Limits
///
/// A client is slow only if its socket did not accept offered data. So the limit depends on the state of the driver:
///
/// | queued bytes | the socket is full ([`Flush::Blocked`]) | the data were not offered to the socket yet |
/// | --- | --- | --- |
/// | up to a quarter of the limit | accepted | accepted |
/// | up to the limit | accepted; no further input is read | the same, and senders that can wait should wait ([`is_pressed`](Self::is_pressed)) |
/// | above | [`SendError::SlowClient`] | pushes: [`SendError::Busy`]; responses are accepted, because their number is limited elsewhere |
///
/// `SlowClient` is returned once: the queue is dropped, nothing more is accepted, and the sender that received the error closes the session
/// ([`Session::send`](crate::Session::send) does).
///
/// # The driver
///
/// The task that owns the socket polls as follows:
///
/// 1. [`begin_poll`](Self::begin_poll): from now on pushes do not wake it;
/// 2. read, handle, push;
/// 3. [`take`](Self::take) all queued data, write them, report them with [`written`](Self::written), until nothing is left or the socket is
///    full;
/// 4. [`end_poll`](Self::end_poll): if it returns true, data were queued in the meantime: return to 3.
///
/// Between polls the first push wakes the driver, the following ones do not. While the socket is full ([`Flush::Blocked`]) pushes do not
/// wake it either, only the end of the session does. An empty outbox owns no heap memory.
///
/// ```
/// use bytes::{Buf, Bytes};
/// use shaddock_core::{Drained, Flush, Next, Outbox};
/// use std::task::Waker;
///
/// let outbox = Outbox::new(1024);
/// outbox.push(Bytes::from_static(b"hello "))?;
/// outbox.push_with(|buf| Ok::<_, ()>(buf.extend_from_slice(b"world"))).unwrap();
///
/// let mut drained = Drained::default();
/// outbox.begin_poll(Waker::noop());
/// assert_eq!(outbox.take(&mut drained), Next::Continue);
/// assert_eq!(drained.copy_to_bytes(drained.remaining()), "hello world");
/// outbox.written(11);
/// assert!(!outbox.end_poll(Flush::Done));
/// # Ok::<(), shaddock_core::SendError>(())
/// ```
#[derive(Debug)]
pub struct Outbox {
    queue: Mutex<Queue>,
}

/// The state behind the lock. The bytes are `first`, then `own` with the other shared packages inserted at their positions.
///
/// Every session has one of these, so byte counts have 32 bits: [`Outbox::MAX_LIMIT`] fits twice.
#[derive(Debug, Default)]
struct Queue {
    /// A shared package that found an empty queue is kept here: a broadcast to an idle session allocates nothing.
    first: Option<Bytes>,
    /// Bytes that were encoded for this client alone. One buffer, so that it can be reused.
    own: BytesMut,
    /// Boxed: few sessions have any.
    more: Option<Box<More>>,
    waker: Option<Waker>,
    /// See the table at [`Outbox`].
    limit: u32,
    /// Bytes in `first`, `own` and `more`.
    queued: u32,
    /// Bytes taken by the driver and not written yet.
    in_flight: u32,
    messages: u64,
    written: u64,
    intake: Intake,
    driver: Driver,
    /// The last instruction to the driver.
    announced: Next,
    /// Only for a resumable session.
    resume: Option<Box<Ledger>>,
}

/// The state of the queue for senders.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Intake {
    #[default]
    Open,
    /// Nothing is accepted any more; the kick is still to follow.
    Sealed,
    /// All data are queued: flush, then close.
    Closing,
    /// Everything was dropped: close.
    Aborted,
}

/// The state of the driver, so that it is woken only if that has an effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Driver {
    /// Not polling: a push wakes it.
    #[default]
    Parked,
    /// It will look again before it parks.
    Polling,
    /// It waits until the socket is writable.
    Blocked,
}

impl Outbox {
    /// The largest limit: 1 GiB.
    pub(crate) const MAX_LIMIT: usize = 1 << 30;

    /// Creates an empty outbox for at most `limit` bytes, and never more than 1 GiB.
    pub fn new(limit: usize) -> Self {
        Self {
            queue: Mutex::new(Queue {
                limit: bytes_u32(limit.min(Self::MAX_LIMIT)),
                ..Queue::default()
            }),
        }
    }

    /// Enqueues a package that is shared with other sessions, and returns whether there is room for more.
    ///
    /// # Errors
    ///
    /// See [`SendError`]. An empty package is accepted and ignored.
    pub fn push(&self, package: Bytes) -> Result<Room, SendError> {
        self.offer(package, Offer::default())
    }

    /// Enqueues a package, see [`Offer`]. Inlined, so that a constant offer costs no branch.
    #[inline]
    pub(crate) fn offer(&self, mut package: Bytes, how: Offer<'_>) -> Result<Room, SendError> {
        let mut queue = self.queue.lock();
        let pushed = match how.latest {
            None => queue.push(&mut package),
            Some(key) => queue.push_latest(key, &mut package),
        };
        let result = pushed.map(|()| queue.room());
        // An accepted push can also cut the connection of a slow resumable client: its driver must be notified.
        if !how.is_buffered || result.is_err() || queue.must_release() {
            Self::unlock_after(queue, &result);
        }
        result
    }

    /// Wakes the driver if anything is queued.
    pub fn flush(&self) {
        Self::unlock_and_wake(self.queue.lock());
    }

    /// Enqueues one message that `encode` appends to an empty buffer, without an allocation while buffers of this thread have room.
    ///
    /// `encode` runs before the lock is taken. If it fails or panics, nothing is queued.
    ///
    /// # Errors
    ///
    /// [`PushError::Encode`] is the error of `encode`, [`PushError::Send`] as for [`push`](Self::push), but never `Busy`.
    #[inline]
    pub fn push_with<E>(
        &self,
        encode: impl FnOnce(&mut BytesMut) -> Result<(), E>,
    ) -> Result<Room, PushError<E>> {
        let mut message = pool::lend();
        encode(&mut message).map_err(PushError::Encode)?;
        let mut queue = self.queue.lock();
        let result = queue.push_own(&mut message).map(|()| queue.room());
        Self::unlock_after(queue, &result);
        Ok(result?)
    }

    /// Whether so much is queued that the session's further input should wait too, and senders that can. False while the socket is full,
    /// because waiting would then mean waiting for the client.
    pub fn is_pressed(&self) -> bool {
        self.queue.lock().room() == Room::Pressed
    }

    /// Whether more than a quarter of the limit is queued, whatever the state of the socket.
    pub fn is_above_mark(&self) -> bool {
        self.queue.lock().is_above_mark()
    }

    /// Accepts nothing from now on. Queued data stay.
    pub(crate) fn seal(&self) {
        let mut queue = self.queue.lock();
        if queue.intake == Intake::Open {
            queue.intake = Intake::Sealed;
        }
        let claimant = Self::end_ledger(&mut queue);
        let garbage = queue.leftovers();
        drop(queue);
        drop(garbage);
        if let Some(claimant) = claimant {
            claimant.wake();
        }
    }

    /// Accepts nothing from now on, except `last` after all queued data; the driver flushes and closes.
    ///
    /// Has no effect if the outbox is already closing. `last` (the KICK) does not count towards the limit.
    pub fn close_after(&self, last: Option<Bytes>) {
        let mut queue = self.queue.lock();
        if matches!(queue.intake, Intake::Open | Intake::Sealed) {
            if let Some(mut last) = last {
                queue.append(&mut last);
            }
            queue.intake = Intake::Closing;
        }
        Self::unlock_and_wake(queue);
    }

    /// Drops the queued data and accepts nothing; the driver closes immediately.
    pub fn abort(&self) {
        let mut queue = self.queue.lock();
        let dropped = queue.abort();
        Self::unlock_and_wake(queue);
        // Not under the lock: a package may be memory of the application, with a destructor of the application.
        drop(dropped);
    }

    /// The content of the outbox, and totals.
    pub fn stats(&self) -> OutboxStats {
        let queue = self.queue.lock();
        OutboxStats {
            queued_bytes: queue.queued as usize,
            in_flight_bytes: queue.in_flight as usize,
            messages: queue.messages,
            written_bytes: queue.written,
        }
    }

    /// Completes a push: handles a slow client, unlocks, and then drops discarded data and wakes the driver.
    #[inline]
    fn unlock_after<T>(queue: MutexGuard<'_, Queue>, result: &Result<T, SendError>) {
        if matches!(result, Err(SendError::SlowClient)) {
            Self::give_up(queue);
        } else {
            Self::unlock_and_wake(queue);
        }
    }

    #[cold]
    fn give_up(mut queue: MutexGuard<'_, Queue>) {
        let dropped = queue.abort();
        Self::unlock_and_wake(queue);
        drop(dropped);
    }

    /// Unlocks, and then wakes the driver if it has work that it does not know of.
    #[inline]
    fn unlock_and_wake(mut queue: MutexGuard<'_, Queue>) {
        if queue.resume.is_some() {
            return Self::unlock_resumable(queue);
        }
        let waker = queue.waker_to_call(false);
        drop(queue);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Kept separate: a session that is not resumable pays one check of a pointer.
    #[cold]
    #[inline(never)]
    fn unlock_resumable(mut queue: MutexGuard<'_, Queue>) {
        let lets_go = queue.owes_release();
        let waker = queue.waker_to_call(lets_go);
        let garbage = queue.leftovers();
        drop(queue);
        drop(garbage);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Queue {
    /// The part of a package that is not kept stays with the caller, who drops it without the lock.
    fn push(&mut self, package: &mut Bytes) -> Result<(), SendError> {
        if self.intake != Intake::Open {
            return Err(SendError::Closed);
        }
        if package.is_empty() {
            return Ok(());
        }
        if self.resume.is_some() {
            return self.push_counted(package);
        }
        self.admit(package.len())?;
        if self.waiting() + package.len() > self.limit as usize {
            return Err(SendError::Busy);
        }
        self.append(package);
        Ok(())
    }

    /// Enqueues bytes that were encoded for this client alone. The first message stays in the buffer in which it was encoded.
    #[inline]
    fn push_own(&mut self, message: &mut pool::Lent) -> Result<(), SendError> {
        if self.intake != Intake::Open {
            return Err(SendError::Closed);
        }
        if message.is_empty() {
            return Ok(());
        }
        if self.resume.is_some() {
            return self.push_own_counted(message);
        }
        self.admit(message.len())?;
        self.queued += bytes_u32(message.len());
        self.messages += 1;
        if self.own.capacity() == 0 {
            self.own = message.keep();
        } else {
            self.own.extend_from_slice(message);
        }
        Ok(())
    }

    /// Checks the limit that applies while the socket is full. Above it the caller drops everything.
    fn admit(&self, len: usize) -> Result<(), SendError> {
        let limit = self.limit as usize;
        if len > limit {
            return Err(SendError::TooLarge { len, limit });
        }
        if self.driver == Driver::Blocked && self.waiting() + len > limit {
            return Err(SendError::SlowClient);
        }
        Ok(())
    }

    /// Bytes that the socket has not accepted.
    fn waiting(&self) -> usize {
        self.queued as usize + self.in_flight as usize
    }

    fn is_above_mark(&self) -> bool {
        self.waiting() > self.limit as usize / 4
    }

    fn room(&self) -> Room {
        if let Some(room) = self.kept_room() {
            return room;
        }
        if !self.is_above_mark() {
            Room::Enough
        } else if self.driver != Driver::Blocked && self.intake == Intake::Open {
            Room::Pressed
        } else {
            Room::Stalled
        }
    }

    fn append(&mut self, package: &mut Bytes) {
        let is_alone = self.queued == 0;
        self.queued += bytes_u32(package.len());
        self.messages += 1;
        if is_alone {
            self.first = Some(std::mem::take(package));
        } else if package.len() <= COPY_MAX {
            if self.own.capacity() == 0 {
                self.own = pool::lend().keep();
            }
            self.own.extend_from_slice(package);
        } else {
            let at = self.own.len();
            self.more
                .get_or_insert_default()
                .push(at, std::mem::take(package));
        }
    }

    /// Drops nothing under the lock: the caller drops the queued data.
    fn abort(&mut self) -> (Option<Bytes>, BytesMut, Option<Box<More>>) {
        self.intake = Intake::Aborted;
        self.queued = 0;
        (
            self.first.take(),
            std::mem::take(&mut self.own),
            self.more.take(),
        )
    }

    fn waker_to_call(&mut self, lets_go: bool) -> Option<Waker> {
        let ended = lets_go || matches!(self.intake, Intake::Closing | Intake::Aborted);
        let wake = match self.driver {
            Driver::Polling => false,
            Driver::Parked => ended || self.queued > 0,
            Driver::Blocked => ended,
        };
        if wake { self.waker.take() } else { None }
    }
}

/// A number of bytes that is limited by [`Outbox::MAX_LIMIT`] or the length of a package.
fn bytes_u32(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[cfg(all(test, not(loom)))]
mod tests;
