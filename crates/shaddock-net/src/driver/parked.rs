//! A session that waits for its client and for nothing else: it needs no driver. Most suspended sessions wait like this, for most of the time.
//!
//! A driver has room for a socket and its buffers. So when nothing runs for a suspended session any more, its driver ends and leaves what
//! it has of the session ([`Parked`]) to the listener's task. When something happens to the session, a new driver goes on with it.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use shaddock_core::{CloseReason, Flush, Session};
use shaddock_protocol::Millis;

use super::{Driver, Phase, resume::Unopened};
use crate::{clock, listener::Local, rate::Bucket, worker, worker::Timer};

/// A suspended session without a driver. Ready with its new one, when there is something to do.
pub(crate) struct Parked {
    /// Until a driver has it.
    session: Option<Arc<Session>>,
    local: Arc<Local>,
    /// When it is closed, on the clock.
    pub(super) until: Millis,
    pub(super) unopened: Option<Box<Unopened>>,
    pub(super) rate: Option<Box<Bucket>>,
    timer: Option<Timer>,
}

impl Parked {
    pub(super) fn new(session: Arc<Session>, local: Arc<Local>, until: Millis) -> Self {
        Self {
            session: Some(session),
            local,
            until,
            unopened: None,
            rate: None,
            timer: None,
        }
    }

    /// Whether the session is closed, claimed, or at the end of its window. If not, the task is woken when it is.
    fn has_news(&mut self, cx: &Context<'_>) -> bool {
        let Some(session) = &self.session else {
            return false;
        };
        session.outbox().begin_poll(cx.waker());
        let clock = clock::now();
        if session.is_closed()
            || session.is_claimed()
            || clock >= self.until
            || session.outbox().end_poll(Flush::Done)
        {
            return true;
        }
        let now = worker::time(clock);
        self.timer
            .get_or_insert_with(|| Timer::new(cx.waker()))
            .arm(now, now + (self.until - clock));
        false
    }
}

impl Future for Parked {
    type Output = Driver;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Driver> {
        let this = self.get_mut();
        if !this.has_news(cx) {
            return Poll::Pending;
        }
        let Some(session) = this.session.take() else {
            return Poll::Pending;
        };
        let (unopened, rate) = (this.unopened.take(), this.rate.take());
        let local = Arc::clone(&this.local);
        Poll::Ready(Driver::unparked(session, local, this.until, unopened, rate))
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        // Only when the worker stops.
        if let Some(session) = self.session.take() {
            session.close(CloseReason::Internal);
            session.outbox().release();
        }
    }
}

impl Driver {
    /// What remains of the driver of a suspended session for which nothing runs. `None`: it has to stay.
    pub(super) fn park(&mut self) -> Option<Parked> {
        let is_idle = !self.work.is_handler() && self.waiting.is_none() && self.permit.is_none();
        let Phase::Suspended(away) = &mut self.phase else {
            return None;
        };
        let (true, true, Some(until)) = (is_idle, away.claim.is_none(), away.until) else {
            return None;
        };
        let unopened = away.unopened.take();
        let session = self.session.take()?;
        let mut parked = Parked::new(session, Arc::clone(&self.local), until);
        parked.unopened = unopened;
        parked.rate = self.rate.take();
        self.timer = None;
        self.phase = Phase::Gone { outlived: false };
        Some(parked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `resume.md`, section 9: a suspended session costs at most 1 KiB. With its place in the listener's list this is a block of 128 bytes.
    #[test]
    fn is_small() {
        assert!(size_of::<Parked>() <= 64, "{}", size_of::<Parked>());
    }
}
