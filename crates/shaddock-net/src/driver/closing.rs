//! The end of a connection: from the reason to the last byte.

use std::{
    io,
    task::{Context, Poll},
    time::Duration,
};

use shaddock_core::{CloseReason, Flush};
use shaddock_protocol::Millis;

use super::{
    output::Flushed,
    phase::{Closing, Phase, Stage},
    state::Driver,
    wire::Wire,
    work::Work,
};
use crate::{io::Io, stats::Group, worker::Scratch};

/// Bytes that are read and thrown away while a connection closes, so that the client's last bytes do not turn our close into
/// a reset that would take the kick with it.
const DRAIN_LIMIT: usize = 256 * 1024;

/// For a close that waits for nothing: until the next tick.
const AT_ONCE: Duration = Duration::from_millis(1);

impl Driver {
    /// Ends the session, if there is one, and turns to sending what is queued. A handler goes on; what waits for it does not.
    pub(super) fn begin_close(&mut self, now: Millis, reason: &CloseReason) {
        self.local.stats.count(Group::Closed, detail(reason));
        if let Some(session) = &self.session {
            session.close(reason.clone());
        }
        tracing::debug!(
            address = self.address(),
            sid = self.sid(),
            reason = detail(reason),
            "connection closes: {reason}"
        );
        self.conn.close();
        self.waiting = None;
        if let Work::Handshake(_) | Work::Returning(_) | Work::Elsewhere(_) = self.work {
            self.work = Work::Idle;
        }
        let linger = self.live.limits.linger;
        let until = match reason {
            CloseReason::Transport(_) | CloseReason::SlowClient => now,
            _ if self.io.is_accepting() => now,
            // It had its time. What the socket takes at once is sent, a close frame for example.
            CloseReason::HandshakeTimeout => now + linger.min(AT_ONCE),
            _ => now + linger,
        };
        self.phase = Phase::Closing(Box::new(Closing {
            until,
            stage: Stage::Flush,
            reason: reason.clone(),
        }));
    }

    /// Sends what is queued, says that nothing follows, and waits for the client to close, all until the deadline.
    pub(super) fn poll_close(
        &mut self,
        cx: &mut Context<'_>,
        now: Millis,
        scratch: &mut Scratch,
    ) -> Poll<()> {
        loop {
            let Phase::Closing(closing) = &self.phase else {
                return Poll::Ready(());
            };
            let (until, stage, reason) = (closing.until, closing.stage, closing.reason.clone());
            if now >= until {
                return Poll::Ready(());
            }
            self.arm(cx, now, Some(until));
            let next = match stage {
                Stage::Flush => match self.flush_to_end(cx, now, scratch) {
                    Ok(false) => return Poll::Pending,
                    Ok(true) => {
                        self.queue_close_frame(now, &reason);
                        Stage::Goodbye
                    }
                    Err(_) => return Poll::Ready(()),
                },
                Stage::Goodbye => match self.flush(cx, now, scratch) {
                    Ok(Flushed::Blocked) => return Poll::Pending,
                    Ok(Flushed::Everything | Flushed::Ended) => Stage::Shutdown,
                    Err(_) => return Poll::Ready(()),
                },
                Stage::Shutdown => match self.io.poll_shutdown(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(())) => Stage::Drain { left: DRAIN_LIMIT },
                    Poll::Ready(Err(_)) => return Poll::Ready(()),
                },
                Stage::Drain { left } => match self.io.poll_read(cx, &mut scratch.read) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(n)) if n > 0 && n < left => Stage::Drain { left: left - n },
                    Poll::Ready(_) => return Poll::Ready(()),
                },
            };
            if let Phase::Closing(closing) = &mut self.phase {
                closing.stage = next;
            }
        }
    }

    /// Writes until the outbox says that nothing follows. False: not yet; the socket, or the outbox when it ends, wakes the task.
    fn flush_to_end(
        &mut self,
        cx: &mut Context<'_>,
        now: Millis,
        scratch: &mut Scratch,
    ) -> io::Result<bool> {
        loop {
            let flushed = self.flush(cx, now, scratch)?;
            let Some(session) = &self.session else {
                return Ok(flushed != Flushed::Blocked);
            };
            match flushed {
                Flushed::Ended => return Ok(true),
                Flushed::Blocked => {
                    // Its end is detected when the socket accepts more.
                    let _ = session.outbox().end_poll(Flush::Blocked);
                    return Ok(false);
                }
                Flushed::Everything if session.outbox().end_poll(Flush::Done) => {}
                Flushed::Everything => return Ok(false),
            }
        }
    }

    /// Gives back everything but the handler that may still run, and the permit that it counts for.
    pub(super) fn drop_socket(&mut self) {
        self.io = Io::Closed;
        self.wire = Wire::Closed;
        self.timer = None;
        self.unsent = None;
        self.rate = None;
        self.opening = None;
        if let Some(session) = self.session.take() {
            session.outbox().release();
        }
        let outlived = self.work.is_handler();
        if let Work::Handler(handler) = std::mem::replace(&mut self.work, Work::Idle) {
            if let Some(permit) = &self.permit {
                permit.outlive_socket();
            }
            self.work = Work::Handler(self.local.frontend.outlives_client(handler));
        }
        self.phase = Phase::Gone { outlived };
    }
}

/// The most exact name there is, for counters and logs.
pub(super) fn detail(reason: &CloseReason) -> &'static str {
    match reason {
        CloseReason::Protocol(error) => error.name(),
        CloseReason::Framing(what) => what,
        other => other.name(),
    }
}
