//! The side of an outbox that faces the connection: its driver polls, takes, writes and goes.

use super::{Driver, Flush, Intake, Next, Outbox, Queue, bytes_u32};
use crate::drained::Drained;
use std::task::Waker;

/// # The driver of the connection
impl Outbox {
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

    /// Moves all queued data into `drained`, and returns the next step. Remaining data in `drained` are discarded first: they can only be
    /// another session's, and must not reach this one's client.
    pub fn take(&self, drained: &mut Drained) -> Next {
        drained.clear();
        let mut queue = self.queue.lock();
        if queue.queued > 0 {
            queue.in_flight += std::mem::take(&mut queue.queued);
            let queue = &mut *queue;
            let more = queue.more.take();
            drained.fill(queue.first.take(), std::mem::take(&mut queue.own), more);
            if let Some(ledger) = queue.resume.as_deref_mut() {
                ledger.give();
            }
        }
        queue.announced = match queue.intake {
            Intake::Open if queue.must_release() => Next::Release,
            Intake::Open | Intake::Sealed => Next::Continue,
            Intake::Closing => Next::CloseAfterFlush,
            Intake::Aborted => Next::CloseNow,
        };
        queue.announced
    }

    /// The driver has written `bytes` of the taken data: they no longer count towards the limit.
    pub fn written(&self, bytes: usize) {
        let mut queue = self.queue.lock();
        queue.in_flight = queue.in_flight.saturating_sub(bytes_u32(bytes));
        queue.written += bytes as u64;
    }

    /// The driver is about to park. If this returns true, it must take and write again first.
    #[must_use = "if true, the driver has to take again before it parks"]
    pub fn end_poll(&self, flush: Flush) -> bool {
        let mut queue = self.queue.lock();
        let ended = match queue.intake {
            Intake::Open | Intake::Sealed => queue.owes_release(),
            // Also if the socket is full: the driver must be notified, or a client that never reads would never be closed.
            Intake::Closing => queue.announced == Next::Continue,
            Intake::Aborted => queue.announced != Next::CloseNow,
        };
        let again = ended || (flush == Flush::Done && queue.queued > 0);
        queue.driver = match flush {
            _ if again => Driver::Polling,
            Flush::Done => Driver::Parked,
            Flush::Blocked => Driver::Blocked,
        };
        again
    }

    /// The driver goes away: its waker is dropped, and data that it took and did not write are discarded.
    ///
    /// Queued data stay for the next driver.
    pub fn release(&self) {
        let mut queue = self.queue.lock();
        let waker = queue.release();
        drop(queue);
        drop(waker);
    }
}

impl Queue {
    /// The driver goes away. Returns its waker, to be woken or dropped without the lock.
    pub(super) fn release(&mut self) -> Option<Waker> {
        self.driver = Driver::Parked;
        self.announced = Next::Continue;
        self.in_flight = 0;
        self.waker.take()
    }
}
