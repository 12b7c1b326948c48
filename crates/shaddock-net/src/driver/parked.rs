//! A session that waits for its client and for nothing else: it needs no driver. Most suspended sessions wait like this, for most of the time.
//!
//! A driver has room for a socket and its buffers. So when nothing runs for a suspended session any more, its driver ends, and leaves the state
//! for the next connection with the session: a connection that comes back takes it from there and waits for no other task. [`Parked`] closes
//! the session at the end of its window.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use shaddock_core::{CloseReason, Handover, Parking, Session};
use shaddock_protocol::Millis;

use super::{handover::Left, phase::Phase, state::Driver, work::Work};
use crate::{clock, worker, worker::Timer};

/// A suspended session without a driver. Ready when it has another owner, or is closed.
pub(crate) struct Parked {
    session: Arc<Session>,
    /// When it is closed, on the clock.
    until: Millis,
    holder: Holder,
    timer: Option<Timer>,
}

/// Holds the hand-over of a parked session. Only its owner may act for the session.
enum Holder {
    /// The task, before it waits, and while it acts.
    Task(Handover),
    /// The session, with this number. A claim takes it from there.
    Session(u64),
    /// Another connection; none if the session is closed.
    Other,
}

impl Parked {
    fn new(session: Arc<Session>, handover: Handover, until: Millis) -> Self {
        Self {
            session,
            until,
            holder: Holder::Task(handover),
            timer: None,
        }
    }

    /// Takes the hand-over back. `None`: the session is no longer this task's.
    fn take_back(&mut self) -> Option<Handover> {
        match std::mem::replace(&mut self.holder, Holder::Other) {
            Holder::Task(handover) => Some(handover),
            Holder::Session(number) => self.session.unpark(number),
            Holder::Other => None,
        }
    }
}

impl Future for Parked {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let Some(handover) = this.take_back() else {
            return Poll::Ready(());
        };
        let clock = clock::now();
        // If it cannot expire, another thread has ended it, and closes it.
        let is_claimed =
            |session: &Session| session.resumable().is_some_and(|state| state.is_claimed);
        if clock >= this.until && !is_claimed(&this.session) {
            this.session.expire();
            this.session.outbox().release();
            return Poll::Ready(());
        }
        let Parking::Parked(number) = this.session.park(handover, cx.waker()) else {
            return Poll::Ready(());
        };
        this.holder = Holder::Session(number);
        let now = worker::time(clock);
        this.timer
            .get_or_insert_with(|| Timer::new(cx.waker()))
            .arm(now, now + (this.until - clock));
        Poll::Pending
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        // Only when the worker stops.
        if self.take_back().is_some() {
            self.session.close(CloseReason::Internal);
            self.session.outbox().release();
        }
    }
}

impl Driver {
    /// The rest of the driver of a suspended session for which nothing runs. `None`: it has to stay.
    pub(super) fn park(&mut self) -> Option<Parked> {
        let is_idle =
            matches!(self.work, Work::Idle) && self.waiting.is_none() && self.permit.is_none();
        let Phase::Suspended(away) = &mut self.phase else {
            return None;
        };
        let (true, true, Some(until)) = (is_idle, away.claim.is_none(), away.until) else {
            return None;
        };
        let left = Left {
            handler: None,
            messages: None,
            rate: self.rate.take(),
            unopened: away.unopened.take(),
        };
        let session = self.session.take()?;
        self.timer = None;
        self.phase = Phase::Gone { outlived: false };
        Some(Parked::new(session, left.into_handover(), until))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `resume.md`, section 9: a suspended session costs at most 1 KiB. With its place in the listener's list this is a block of 128 bytes.
    #[test]
    fn is_small() {
        assert!(size_of::<Parked>() <= 56, "{}", size_of::<Parked>());
    }
}
