//! One connection: the driver owns socket, protocol state and handler, and moves bytes between them.
//!
//! Two state machines share a poll. The **socket machine** is [`Phase`]: `Opening → Open → Closing → Gone`. The **work machine** is
//! [`Work`], and is polled in every phase: running work of a session continues whatever happens to its socket. It first checks whether the
//! session is closed; for a closed session, no new work starts.
//!
//! A poll always has the same order: running work of the session → input of the socket → deadlines → output, in as few writes as possible.
//! Responses to new input are written in a separate poll, after every ready connection has read ([`worker::flush_later`]). Nothing here
//! waits: a socket or handler that is not ready has registered the task's waker.
//!
//! The driver's state is data. The parts act on it, and each part calls only those below it:
//!
//! | file | part |
//! | --- | --- |
//! | this one | the order of a poll |
//! | `input.rs` | bytes to messages: WebSocket frames, packages |
//! | `head.rs` | before the protocol: PROXY head, first byte, HTTP upgrade |
//! | `handshake.rs` (`returning.rs`, `accept.rs`) | from a handshake to a session: a new one, or the one that the client comes back to |
//! | `suspended.rs` (`parked.rs`, `handover.rs`) | sessions without a socket: with work, without work, and their state for the next driver |
//! | `relay.rs` | a socket whose session is on another frontend |
//! | `closing.rs` | from the reason to the last byte |
//! | `silence.rs` | deadlines: silent clients, and clients that do not read |
//! | `dispatch.rs` | messages to handlers: one at a time, the others wait, bounded |
//! | `output.rs` | the session's outbox to the socket |
//! | `state.rs` | [`Driver`] and its fields: `phase.rs`, `opening.rs` (`relayed.rs`), `wire.rs`, `work.rs`, `waiting.rs`, `unsent.rs` |

mod accept;
mod closing;
mod dispatch;
mod handover;
mod handshake;
mod head;
mod input;
mod opening;
mod output;
mod parked;
mod phase;
mod relay;
mod relayed;
mod returning;
mod silence;
mod state;
mod suspended;
mod unsent;
mod waiting;
mod wire;
mod work;

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use shaddock_core::CloseReason;
use shaddock_protocol::Millis;

pub use self::relayed::{RelayAnswer, Relayed};
use self::{
    input::Read,
    output::{Flushed, transport_error},
    phase::Phase,
    waiting::Waiting,
    work::Work,
};
pub(crate) use self::{parked::Parked, state::Driver};
use crate::{
    clock,
    worker::{self, Scratch},
};

impl Driver {
    fn turn(
        &mut self,
        cx: &mut Context<'_>,
        now: Millis,
        scratch: &mut Scratch,
    ) -> Poll<Option<Parked>> {
        if let Phase::Open { flush_first, .. } = self.phase {
            match self.move_bytes(cx, now, scratch, flush_first) {
                Ok(_) if matches!(self.phase, Phase::Relaying(_)) => {}
                Ok(put_off) => {
                    if let Phase::Open { flush_first, .. } = &mut self.phase {
                        *flush_first = put_off;
                    }
                    self.arm(cx, now, self.deadline());
                    return Poll::Pending;
                }
                Err(reason) if self.suspend(&reason) => {}
                Err(reason) => self.begin_close(now, &reason),
            }
        }
        if matches!(self.phase, Phase::Suspended(_)) {
            match self.poll_suspended(cx, now) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => {}
                Poll::Ready(Some(parked)) => return Poll::Ready(Some(parked)),
            }
        }
        if matches!(self.phase, Phase::Relaying(_)) {
            match self.poll_relaying(cx, now, scratch) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(reason) => self.begin_close(now, &reason),
            }
        }
        // Also in the poll that closes: it may be the handler that woke the task.
        self.poll_handler(cx);
        if matches!(self.phase, Phase::Closing(_)) {
            if self.poll_close(cx, now, scratch).is_pending() {
                return Poll::Pending;
            }
            self.drop_socket();
        }
        if self.work.is_handler() {
            Poll::Pending
        } else {
            Poll::Ready(None)
        }
    }

    /// One poll of an open socket. True if writing was put off: the next poll begins with it.
    fn move_bytes(
        &mut self,
        cx: &mut Context<'_>,
        now: Millis,
        scratch: &mut Scratch,
        flush_first: bool,
    ) -> Result<bool, CloseReason> {
        if self
            .io
            .poll_ready(cx)
            .map_err(transport_error)?
            .is_pending()
        {
            self.check_silence(now)?;
            return Ok(false);
        }
        if flush_first {
            self.flush_some(cx, now, scratch)?;
        }
        self.poll_work(cx, now, scratch)?;
        if matches!(self.phase, Phase::Relaying(_)) {
            return Ok(false);
        }
        // Responses before the end of the stream are still sent, by the close.
        let read = self.read(cx, now, scratch)?;
        self.check_closed()?;
        // After the read: what has arrived counts, however late this poll is.
        self.check_silence(now)?;
        // Not the response to a handshake: its client waits for it.
        if read == Read::Something && self.session.is_some() && self.opening.is_none() {
            worker::flush_later(cx.waker());
            return Ok(true);
        }
        if self.flush_and_park(cx, now, scratch)? == Flushed::Blocked {
            self.check_slow(now)?;
        }
        if read != Read::Nothing && !self.is_blocked() || self.has_input() {
            // The socket takes bytes again: what was held back goes on, after the others have had their turn.
            cx.waker().wake_by_ref();
        }
        Ok(false)
    }
}

/// # The work
impl Driver {
    /// Goes on with what runs, then with what waits.
    fn poll_work(
        &mut self,
        cx: &mut Context<'_>,
        now: Millis,
        scratch: &mut Scratch,
    ) -> Result<(), CloseReason> {
        loop {
            self.check_closed()?;
            match &mut self.work {
                Work::Handshake(judge) => {
                    let Poll::Ready(verdict) = judge.as_mut().poll(cx) else {
                        return Ok(());
                    };
                    self.work = Work::Idle;
                    self.answer(cx, now, verdict, scratch)?;
                }
                Work::Returning(_) => {
                    if !self.poll_returning(cx, now, scratch)? {
                        return Ok(());
                    }
                }
                Work::Elsewhere(_) => {
                    if !self.poll_elsewhere(cx, now, scratch)?
                        || matches!(self.phase, Phase::Relaying(_))
                    {
                        return Ok(());
                    }
                }
                Work::Handler(_) => {
                    if !self.poll_handler(cx) {
                        return self.advance_opening(cx, now, scratch);
                    }
                }
                Work::Idle => {
                    if !self.has_input() {
                        return Ok(());
                    }
                    self.advance(cx, now, scratch)?;
                    if self.waiting.is_none() && matches!(self.work, Work::Idle) {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// The client of a session for which something runs comes back: what was read behind its handshake holds the acknowledgement, which does not
    /// wait for that.
    fn advance_opening(
        &mut self,
        cx: &mut Context<'_>,
        now: Millis,
        scratch: &mut Scratch,
    ) -> Result<(), CloseReason> {
        if self.opening.is_none() || self.is_pressed() || !self.holds_input() {
            return Ok(());
        }
        let Some(waiting) = &mut self.waiting else {
            return Ok(());
        };
        let input = std::mem::take(&mut waiting.input);
        let frames = std::mem::take(&mut waiting.frames);
        self.resume(cx, now, input, frames, scratch)
    }

    /// Serves the next message that waits, or reads on where input was held back.
    fn advance(
        &mut self,
        cx: &mut Context<'_>,
        now: Millis,
        scratch: &mut Scratch,
    ) -> Result<(), CloseReason> {
        let Some(waiting) = &mut self.waiting else {
            return Ok(());
        };
        if let Some(message) = waiting.pop() {
            self.start(cx, message);
            return Ok(());
        }
        // The box goes first, so that what is read now may make a new one.
        let Waiting { input, frames, .. } = *self.waiting.take().unwrap_or_default();
        self.resume(cx, now, input, frames, scratch)
    }
}

impl Future for Driver {
    type Output = Option<Parked>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Parked>> {
        let this = self.get_mut();
        match &this.session {
            // The last poll ended without parking the outbox.
            Some(_)
                if matches!(
                    this.phase,
                    Phase::Open {
                        flush_first: true,
                        ..
                    }
                ) => {}
            // Data that is queued from here on is written at the end of this poll: no wake is needed.
            Some(session) => {
                let is_above_mark = session.outbox().begin_poll(cx.waker());
                this.note_outbox(is_above_mark);
            }
            None => {}
        }
        let turn = clock::Turn::begin();
        let now = worker::time(turn.began());
        worker::with_scratch(|scratch| this.turn(cx, now, scratch))
    }
}
