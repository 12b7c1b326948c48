//! The outbound queue of one session: the only way bytes go to a client.

mod resumable;

use crate::drained::{Drained, Insert};
use crate::pool;
use crate::resume::Ledger;
use crate::sync::{Mutex, MutexGuard};
use bytes::{Bytes, BytesMut};
use std::task::Waker;

/// Shared packages up to this length are copied behind bytes that are queued already.
///
/// A pointer to a shared package costs 40 bytes and a place of its own in the vectored write, so for short ones a copy is
/// cheaper in memory and in time. It also bounds the overhead: pointers never cost more than the bytes they point to.
const COPY_MAX: usize = 64;

/// Bytes that wait for one client, in the order in which they were accepted, with a bound.
///
/// # Senders
///
/// [`push`](Self::push) queues a package that others get too (a pointer), [`push_with`](Self::push_with) encodes one in
/// place. Each takes one short lock. The order of acceptance is the order on the wire. Bytes count until the driver has
/// [written](Self::written) them.
///
/// # Bounds
///
/// A client is slow only if its socket did not take what it was offered. So the bound depends on where the driver is:
///
/// | bytes that wait | the socket is full ([`Flush::Blocked`]) | the socket has not been offered them yet |
/// | --- | --- | --- |
/// | up to a quarter of the limit | accepted | accepted |
/// | up to the limit | accepted; no further input is read | the same, and senders that can wait do ([`is_pressed`](Self::is_pressed)) |
/// | above | [`SendError::SlowClient`] | pushes: [`SendError::Busy`]; answers are accepted, their number is bounded elsewhere |
///
/// The verdict `SlowClient` is given once: the queue is dropped, nothing more is accepted, and the sender that got the verdict
/// closes the session ([`Session::send`](crate::Session::send) does).
///
/// # The driver
///
/// The task that owns the socket polls like this:
///
/// 1. [`begin_poll`](Self::begin_poll): from now on pushes do not wake it;
/// 2. read, handle, push;
/// 3. [`take`](Self::take) everything, write it, report it with [`written`](Self::written), until nothing is left or the
///    socket is full;
/// 4. [`end_poll`](Self::end_poll): if it returns true, something came in the meantime: back to 3.
///
/// Between polls the first push wakes the driver, the following ones do not. While the socket is full
/// ([`Flush::Blocked`]) pushes do not wake it either, only the end of the session does. An empty outbox owns no heap memory.
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
/// let mut drained = Drained::new();
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

/// What is behind the lock. The bytes are `first`, and then `own` with the other shared packages put in at their places.
///
/// Every session has one of these, so numbers of bytes have 32 bits: [`Outbox::MAX_LIMIT`] fits twice.
#[derive(Debug, Default)]
struct Queue {
    /// A shared package that found nothing else is kept here: a broadcast to an idle session allocates nothing.
    first: Option<Bytes>,
    /// What was encoded for this client alone. One buffer, so that it can be used again.
    own: BytesMut,
    #[expect(
        clippy::box_collection,
        reason = "16 bytes less in every session, for a list that few have"
    )]
    more: Option<Box<Vec<Insert>>>,
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
    /// What the driver was told last.
    told: Next,
    /// Only of a session that can be resumed.
    resume: Option<Box<Ledger>>,
}

/// What senders find.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Intake {
    #[default]
    Open,
    /// Nothing is accepted any more; the kick is still to come.
    Sealed,
    /// Everything is in: flush, then close.
    Closing,
    /// Everything was dropped: close.
    Aborted,
}

/// Where the driver is, so that it is woken only when that helps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Driver {
    /// Not polling: a push wakes it.
    #[default]
    Parked,
    /// It will look again before it parks.
    Polling,
    /// It waits for room in the socket.
    Blocked,
}

/// What the driver does after it has written what it took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Next {
    /// Goes on.
    #[default]
    Continue,
    /// Closes the connection, when everything taken is written. Nothing more comes.
    CloseAfterFlush,
    /// Closes the connection at once, without writing.
    CloseNow,
    /// Lets go of the session, which goes on without this connection, and closes the connection without a word. Only of sessions that can
    /// be resumed.
    LetGo,
}

/// How a poll of the driver ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// Everything taken was written.
    Done,
    /// The socket is full; the driver waits until it can be written to.
    Blocked,
}

/// Whether a sender that can wait had better do so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// Go on.
    Enough,
    /// So much waits that the connection should have its turn first ([`Outbox::is_pressed`]).
    Pressed,
    /// As much waits, for a socket that is full: to wait would mean to wait for the client.
    Stalled,
    /// The client has no connection now. The message is kept for it.
    Kept,
}

/// A message was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The session is closed or closing, or was never there.
    #[error("session is closed")]
    Closed,
    /// The client does not read: its socket is full, and this message passes the bound. Given once; the session ends.
    #[error("client does not read, too many bytes are queued")]
    SlowClient,
    /// More is pushed than the connection had a chance to write. The message is not queued; the session lives on. Senders that await their
    /// pushes do not see it.
    #[error("pushed faster than the connection can write; await pushes, or send less at a time")]
    Busy,
    /// The message alone is longer than the bound. The session lives on.
    #[error("message of {len} bytes, at most {limit} can be queued for a client")]
    TooLarge {
        /// Length of the message in bytes.
        len: usize,
        /// The bound in bytes.
        limit: usize,
    },
}

/// A message was not encoded or not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PushError<E> {
    /// The outbox did not take it.
    #[error(transparent)]
    Send(#[from] SendError),
    /// The encoder failed. Nothing was queued.
    #[error("message was not encoded: {0}")]
    Encode(E),
}

/// What an outbox holds and what went through it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutboxStats {
    /// Bytes queued and not taken by the driver.
    pub queued_bytes: usize,
    /// Bytes taken by the driver and not written.
    pub in_flight_bytes: usize,
    /// Messages accepted so far.
    pub messages: u64,
    /// Bytes written so far, without what the transport puts around them.
    pub written_bytes: u64,
}

impl Outbox {
    /// The largest bound: 1 GiB.
    pub const MAX_LIMIT: usize = 1 << 30;

    /// An empty outbox for at most `limit` bytes, and never more than [`MAX_LIMIT`](Self::MAX_LIMIT).
    pub fn new(limit: usize) -> Self {
        Self {
            queue: Mutex::new(Queue {
                limit: bytes_u32(limit.min(Self::MAX_LIMIT)),
                ..Queue::default()
            }),
        }
    }

    /// Queues a package that is shared with other sessions.
    ///
    /// # Errors
    ///
    /// See [`SendError`]. An empty package is accepted and ignored.
    pub fn push(&self, package: Bytes) -> Result<(), SendError> {
        self.offer(package).map(drop)
    }

    /// As [`push`](Self::push), and says whether there is [room](Room) for more.
    ///
    /// # Errors
    ///
    /// As [`push`](Self::push).
    pub fn offer(&self, mut package: Bytes) -> Result<Room, SendError> {
        let mut queue = self.queue.lock();
        let result = queue.push(&mut package).map(|()| queue.room());
        Self::unlock_after(queue, &result);
        result
    }

    /// Queues several packages; nothing of others gets between them.
    ///
    /// # Errors
    ///
    /// As [`push`](Self::push). What was accepted before the error stays queued, unless the verdict is `SlowClient`.
    pub fn push_batch(&self, packages: impl IntoIterator<Item = Bytes>) -> Result<(), SendError> {
        self.offer_batch(packages).map(drop)
    }

    pub(crate) fn offer_batch(
        &self,
        packages: impl IntoIterator<Item = Bytes>,
    ) -> Result<Room, SendError> {
        // Before the lock: an iterator is code of its caller.
        let mut packages: Vec<Bytes> = packages.into_iter().collect();
        let mut queue = self.queue.lock();
        let result = packages
            .iter_mut()
            .try_for_each(|package| queue.push(package))
            .map(|()| queue.room());
        Self::unlock_after(queue, &result);
        result
    }

    /// Queues a package like [`push`](Self::push), but does not wake the driver: it leaves with whatever comes next, or with
    /// [`flush`](Self::flush). For push schedulers that collect.
    ///
    /// # Errors
    ///
    /// As [`push`](Self::push).
    pub fn push_buffered(&self, package: Bytes) -> Result<(), SendError> {
        self.offer_buffered(package).map(drop)
    }

    pub(crate) fn offer_buffered(&self, mut package: Bytes) -> Result<Room, SendError> {
        let mut queue = self.queue.lock();
        let result = queue.push(&mut package).map(|()| queue.room());
        // A slow client that can come back is given up by a push that is accepted: its connection has to know.
        if result.is_err() || queue.must_let_go() {
            Self::unlock_after(queue, &result);
        }
        result
    }

    /// Wakes the driver if anything is queued.
    pub fn flush(&self) {
        Self::unlock_and_wake(self.queue.lock());
    }

    /// Queues one message that `encode` appends to an empty buffer: no allocation while buffers of this thread have room.
    ///
    /// `encode` runs before the lock is taken. If it fails or panics, nothing is queued.
    ///
    /// # Errors
    ///
    /// [`PushError::Encode`] is the error of `encode`, [`PushError::Send`] as for [`push`](Self::push), but never `Busy`.
    pub fn push_with<E>(
        &self,
        encode: impl FnOnce(&mut BytesMut) -> Result<(), E>,
    ) -> Result<(), PushError<E>> {
        self.offer_with(encode).map(drop)
    }

    #[inline]
    pub(crate) fn offer_with<E>(
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

    /// Whether so much waits that the session's further input should wait too, and senders that can. False while the socket is
    /// full: then waiting would mean to wait for the client.
    pub fn is_pressed(&self) -> bool {
        self.queue.lock().room() == Room::Pressed
    }

    /// Whether more than a quarter of the bound waits, whatever the socket does.
    pub fn is_above_mark(&self) -> bool {
        self.queue.lock().is_above_mark()
    }

    /// Accepts nothing from now on. What is queued stays.
    pub fn seal(&self) {
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

    /// Accepts nothing from now on, except `last` behind everything queued; the driver flushes and closes.
    ///
    /// Does nothing if the outbox is closing already. `last` (the KICK) does not count against the bound.
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

    /// Drops what is queued and accepts nothing; the driver closes at once.
    pub fn abort(&self) {
        let mut queue = self.queue.lock();
        let dropped = queue.abort();
        Self::unlock_and_wake(queue);
        // Not under the lock: a package may be memory of the application, and its end code of the application.
        drop(dropped);
    }

    /// The driver starts to poll: pushes do not wake it until [`end_poll`](Self::end_poll). `waker` is woken after that. Returns
    /// [`is_above_mark`](Self::is_above_mark).
    pub fn begin_poll(&self, waker: &Waker) -> bool {
        let mut queue = self.queue.lock();
        queue.driver = Driver::Polling;
        let old = match &queue.waker {
            Some(known) if known.will_wake(waker) => None,
            _ => queue.waker.replace(waker.clone()),
        };
        let is_above_mark = queue.is_above_mark();
        drop(queue);
        // A waker may free its task: not under the lock.
        drop(old);
        is_above_mark
    }

    /// Moves everything queued into `drained`, and says how to go on. What is left in `drained` is forgotten first: it can only be
    /// another session's, and must not reach this one's client.
    pub fn take(&self, drained: &mut Drained) -> Next {
        drained.clear();
        let mut queue = self.queue.lock();
        if queue.queued > 0 {
            queue.in_flight += std::mem::take(&mut queue.queued);
            let queue = &mut *queue;
            let more = queue.more.take();
            drained.fill(queue.first.take(), std::mem::take(&mut queue.own), more);
        }
        queue.told = match queue.intake {
            Intake::Open if queue.must_let_go() => Next::LetGo,
            Intake::Open | Intake::Sealed => Next::Continue,
            Intake::Closing => Next::CloseAfterFlush,
            Intake::Aborted => Next::CloseNow,
        };
        queue.told
    }

    /// The driver has written `bytes` of what it took: they do not count against the bound any more.
    pub fn written(&self, bytes: usize) {
        let mut queue = self.queue.lock();
        queue.in_flight = queue.in_flight.saturating_sub(bytes_u32(bytes));
        queue.written += bytes as u64;
    }

    /// The driver is about to park. If this returns true it must not: it takes and writes again first.
    #[must_use = "if true, the driver has to take again before it parks"]
    pub fn end_poll(&self, flush: Flush) -> bool {
        let mut queue = self.queue.lock();
        let ended = match queue.intake {
            Intake::Open | Intake::Sealed => queue.is_untold_to_let_go(),
            // Also when the socket is full: the driver has to know, or a client that never reads would never be closed.
            Intake::Closing => queue.told == Next::Continue,
            Intake::Aborted => queue.told != Next::CloseNow,
        };
        let again = ended || (flush == Flush::Done && queue.queued > 0);
        queue.driver = match flush {
            _ if again => Driver::Polling,
            Flush::Done => Driver::Parked,
            Flush::Blocked => Driver::Blocked,
        };
        again
    }

    /// The driver goes away: its waker is dropped, and what it took and did not write is forgotten.
    ///
    /// What is queued stays for the next driver.
    pub fn release(&self) {
        let mut queue = self.queue.lock();
        queue.driver = Driver::Parked;
        queue.told = Next::Continue;
        queue.in_flight = 0;
        let waker = queue.waker.take();
        drop(queue);
        drop(waker);
    }

    /// Whether nothing is queued. What the driver took and did not write yet does not count.
    pub fn is_empty(&self) -> bool {
        self.queue.lock().queued == 0
    }

    /// What it holds and what went through it.
    pub fn stats(&self) -> OutboxStats {
        let queue = self.queue.lock();
        OutboxStats {
            queued_bytes: queue.queued as usize,
            in_flight_bytes: queue.in_flight as usize,
            messages: queue.messages,
            written_bytes: queue.written,
        }
    }

    /// Ends a push: carries out the verdict on a slow client, unlocks, and then drops what it threw away and wakes the driver.
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

    /// Unlocks, and then wakes the driver if it has something to do and does not know.
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

    /// Kept apart: a session that cannot be resumed pays one look at a pointer.
    #[cold]
    #[inline(never)]
    fn unlock_resumable(mut queue: MutexGuard<'_, Queue>) {
        let lets_go = queue.is_untold_to_let_go();
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
    /// What it does not keep of a package stays with the caller, who drops it without the lock.
    fn push(&mut self, package: &mut Bytes) -> Result<(), SendError> {
        if self.intake != Intake::Open {
            return Err(SendError::Closed);
        }
        if package.is_empty() {
            return Ok(());
        }
        if self.resume.is_some() {
            return self.push_counted(package, None);
        }
        self.admit(package.len())?;
        if self.waiting() + package.len() > self.limit as usize {
            return Err(SendError::Busy);
        }
        self.append(package);
        Ok(())
    }

    /// Queues what was encoded for this client alone. The first message stays in the buffer that it was encoded in.
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

    /// Checks the bound that holds while the socket is full. Over it the caller drops everything.
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

    /// Bytes that the socket has not taken.
    fn waiting(&self) -> usize {
        self.queued as usize + self.in_flight as usize
    }

    fn is_above_mark(&self) -> bool {
        self.waiting() > self.limit as usize / 4
    }

    fn room(&self) -> Room {
        if self.is_kept_only() {
            return Room::Kept;
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
            self.more.get_or_insert_default().push(Insert {
                at: self.own.len(),
                bytes: std::mem::take(package),
            });
        }
    }

    /// Drops nothing under the lock: the caller does, with what was queued.
    fn abort(&mut self) -> (Option<Bytes>, BytesMut, Vec<Insert>) {
        self.intake = Intake::Aborted;
        self.queued = 0;
        (
            self.first.take(),
            std::mem::take(&mut self.own),
            self.more.take().map_or_else(Vec::new, |more| *more),
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

/// A number of bytes that [`Outbox::MAX_LIMIT`] or the length of a package bounds.
fn bytes_u32(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}
