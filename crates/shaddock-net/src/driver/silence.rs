//! Deadlines of a connection: silent clients, and clients that do not read.
//!
//! Both are verdicts on the client, so both look at the socket first, and both are counted in the worker's own time
//! ([`worker::time`](crate::worker::time)): our own scheduling closes no connection.

use std::task::Context;

use shaddock_core::CloseReason;
use shaddock_protocol::{Millis, TimeoutKind};

use super::{state::Driver, waiting::Unread};
use crate::worker::Timer;

/// How often the socket is looked at while its input waits, milliseconds.
pub(super) const LOOK: u64 = 1000;

/// With so many bytes unread, the client's own socket may be full: its silence says nothing any more.
const FULL: usize = 64 * 1024;

impl Driver {
    /// Closes a connection whose client has been silent for too long, or has gone while its input waited.
    pub(super) fn check_silence(&mut self, now: Millis) -> Result<(), CloseReason> {
        if self.waiting.is_some() {
            self.look_at_unread(now)?;
        }
        match self.conn.deadline() {
            Some(deadline) if now >= deadline => self.check_deadlines(now),
            _ => Ok(()),
        }
    }

    /// A deadline of the protocol has passed.
    #[cold]
    fn check_deadlines(&mut self, now: Millis) -> Result<(), CloseReason> {
        // It has said something, and the news has not come to this task yet.
        if self.session.is_some() && self.unread().is_none() && self.io.unread() > 0 {
            return Ok(());
        }
        match self.conn.poll_timeout(now) {
            None => Ok(()),
            Some(TimeoutKind::Heartbeat) => Err(CloseReason::HeartbeatTimeout),
            Some(TimeoutKind::Idle) => Err(CloseReason::Idle),
            Some(_) => Err(CloseReason::HandshakeTimeout),
        }
    }

    /// While input waits, the end of the stream and signs of life are seen without reading.
    fn look_at_unread(&mut self, now: Millis) -> Result<(), CloseReason> {
        if self.session.is_none() || !self.is_full() {
            return Ok(());
        }
        let last = self.unread();
        if last.is_some_and(|last| now < last.next_look) {
            return Ok(());
        }
        if self.io.is_read_closed() {
            return Err(CloseReason::ClientClosed);
        }
        let seen = self.io.unread();
        if seen >= FULL || last.is_none_or(|last| seen != last.seen) {
            self.conn.data_received(now);
        }
        if let Some(waiting) = &mut self.waiting {
            waiting.unread = Some(Unread {
                seen,
                next_look: now + LOOK,
            });
        }
        Ok(())
    }

    /// The state of unread input at the last check, if input waits in the socket.
    fn unread(&self) -> Option<Unread> {
        if self.is_full() {
            self.waiting.as_ref()?.unread
        } else {
            None
        }
    }

    /// Closes a connection whose socket has taken nothing for `slow_after`. It was offered what waits a moment ago.
    pub(super) fn check_slow(&self, now: Millis) -> Result<(), CloseReason> {
        if self.slow_at().is_some_and(|deadline| now >= deadline) {
            return Err(CloseReason::SlowClient);
        }
        Ok(())
    }

    fn slow_at(&self) -> Option<Millis> {
        let unsent = self.unsent.as_ref()?;
        self.session.as_ref()?;
        Some(unsent.since + self.live.limits.slow_after)
    }

    /// When to look again at the latest.
    #[inline]
    pub(super) fn deadline(&self) -> Option<Millis> {
        if self.waiting.is_none() && self.unsent.is_none() {
            return self.conn.deadline();
        }
        self.any_deadline()
    }

    fn any_deadline(&self) -> Option<Millis> {
        let look = self.unread().map(|unread| unread.next_look);
        [self.conn.deadline(), look, self.slow_at()]
            .into_iter()
            .flatten()
            .min()
    }

    pub(super) fn arm(&mut self, cx: &Context<'_>, now: Millis, deadline: Option<Millis>) {
        if let Some(deadline) = deadline {
            self.timer
                .get_or_insert_with(|| Timer::new(cx.waker()))
                .arm(now, deadline);
        }
    }
}
