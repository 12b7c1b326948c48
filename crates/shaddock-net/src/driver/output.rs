//! The session's outbox to the socket: everything that is queued leaves in as few writes as possible.

use std::{
    io::{self, IoSlice},
    task::{Context, Poll},
};

use bytes::{Buf, Bytes, BytesMut};
use shaddock_core::{CloseReason, Drained, Flush, Next};
use shaddock_protocol::Millis;

use super::{phase::Phase, state::Driver, unsent::Unsent, wire::Wire};
use crate::{
    clock,
    worker::{self, Scratch},
    ws,
};

/// Slices of one vectored write; more leave in the next one.
const SLICES: usize = 64;

/// Pieces of at most so many bytes together are copied and written as one: below it the copy costs less than what the system call
/// does for a list of pieces.
const GATHER_MAX: usize = 1024;

/// Bytes of our own that may wait outside the outbox, handshake answers and pongs, before further input waits too.
const MAX_OWN: usize = 64 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flushed {
    /// The socket takes no more for now and has taken the waker.
    Blocked,
    /// Nothing is left to write.
    Everything,
    /// Nothing is left to write, and nothing will follow: the session is closed, or goes on without this connection.
    Ended,
}

impl Driver {
    /// Queues packages that the protocol wrote by itself.
    pub(super) fn queue_out(&mut self, now: Millis, out: &[u8]) {
        if !out.is_empty() {
            self.queue_packages(now, out);
        }
    }

    #[inline(never)]
    fn queue_packages(&mut self, now: Millis, out: &[u8]) {
        if let Some(session) = &self.session {
            let copy = |tail: &mut BytesMut| {
                tail.extend_from_slice(out);
                Ok::<_, std::convert::Infallible>(())
            };
            // If the session is closed or just became too slow, this poll finds out.
            let _ = session.send_with(copy);
        } else {
            let mut head = [0; ws::MAX_HEAD];
            let length = self.message_head(out.len(), &mut head);
            self.queue_own(now, &head[..length]);
            self.queue_own(now, out);
        }
    }

    /// Queues bytes that go to the socket as they are: HTTP answers, pongs and close frames. There is one answer of each kind, however
    /// long; of pongs there may be many, and above [`MAX_OWN`] nothing more is read that would be answered.
    pub(super) fn queue_own(&mut self, now: Millis, bytes: &[u8]) {
        self.unsent
            .get_or_insert_with(|| Unsent::new(now))
            .push_own(bytes);
    }

    /// Answers a ping of WebSocket, of which a client may send so many in a second.
    pub(super) fn answer_ping(&mut self, now: Millis, payload: &Bytes) -> Result<(), CloseReason> {
        let rate = self.live.limits.pings_per_second;
        let Wire::Ws(ws) = &mut self.wire else {
            return Ok(());
        };
        if !ws.pings.take(clock::turn(), rate, rate, worker::held_up()) {
            return Err(CloseReason::RateLimited);
        }
        self.queue_own(now, &pong(payload));
        Ok(())
    }

    /// Whether so much waits for the client that its further input should wait too. Asked before every package, so it takes no lock: see
    /// [`look_at_outbox`](Self::look_at_outbox).
    #[inline]
    pub(super) fn is_pressed(&self) -> bool {
        self.is_noted_above_mark()
            || self
                .unsent
                .as_deref()
                .is_some_and(|unsent| unsent.own_len() > MAX_OWN)
    }

    /// Notes whether much waits in the outbox: when a poll begins, when a message was served, and when something was written. What others
    /// push meanwhile is seen at the next of these. The outbox, and its lock, are asked only if much waited at the last look, or when something
    /// was sent since.
    #[inline]
    pub(super) fn look_at_outbox(&mut self) {
        if let Some(session) = &self.session
            && (session.take_marked() || self.is_noted_above_mark())
        {
            let is_above_mark = session.outbox().is_above_mark();
            self.note_outbox(is_above_mark);
        }
    }

    fn is_noted_above_mark(&self) -> bool {
        matches!(
            self.phase,
            Phase::Open {
                is_above_mark: true,
                ..
            }
        )
    }

    #[inline]
    pub(super) fn note_outbox(&mut self, now_above_mark: bool) {
        if let Phase::Open { is_above_mark, .. } = &mut self.phase {
            *is_above_mark = now_above_mark;
        }
    }

    /// Under WebSocket, the goodbye with a status that browsers show. Everything else must have been written.
    pub(super) fn queue_close_frame(&mut self, now: Millis, reason: &CloseReason) {
        if let Wire::Ws(ws) = &self.wire {
            let mut frame = BytesMut::new();
            // A close frame is answered with its own status (RFC 6455, 5.5.1).
            let status = ws.goodbye.unwrap_or_else(|| close_status(reason));
            ws::put_close(status, reason.name(), &mut frame);
            self.queue_own(now, &frame);
        }
    }

    /// Writes the head for a message of `length` bytes, if the transport has one, and tells its length.
    fn message_head(&self, length: usize, head: &mut [u8; ws::MAX_HEAD]) -> usize {
        match self.wire {
            Wire::Ws(_) => ws::binary_head(length, head),
            _ => 0,
        }
    }

    /// Flushes, and tells the outbox that this poll ends. An error when the session has ended.
    pub(super) fn flush_and_park(
        &mut self,
        cx: &mut Context<'_>,
        now: Millis,
        scratch: &mut Scratch,
    ) -> Result<Flushed, CloseReason> {
        loop {
            let flushed = self.flush_some(cx, now, scratch)?;
            let how = match flushed {
                Flushed::Blocked => Flush::Blocked,
                Flushed::Everything | Flushed::Ended => Flush::Done,
            };
            let again = match &self.session {
                Some(session) => session.outbox().end_poll(how),
                None => false,
            };
            match flushed {
                // It has ended while we wrote. With the socket full, that is known without another take.
                Flushed::Blocked if again => return Err(self.end_reason()),
                // Something came while we wrote.
                _ if again => {}
                _ => return Ok(flushed),
            }
        }
    }

    /// Flushes, and notes that bytes went out. An error when the session has ended and nothing is left to write.
    pub(super) fn flush_some(
        &mut self,
        cx: &mut Context<'_>,
        now: Millis,
        scratch: &mut Scratch,
    ) -> Result<Flushed, CloseReason> {
        let written = self.local.stats.bytes_out.get();
        let flushed = self.flush(cx, now, scratch).map_err(transport_error)?;
        match flushed {
            Flushed::Blocked => self.look_at_outbox(),
            Flushed::Everything | Flushed::Ended => self.note_outbox(false),
        }
        if self.local.stats.bytes_out.get() != written {
            self.conn.touch(now);
        }
        match flushed {
            Flushed::Ended => Err(self.end_reason()),
            other => Ok(other),
        }
    }

    /// Writes until everything is out or the socket takes no more.
    pub(super) fn flush(
        &mut self,
        cx: &mut Context<'_>,
        now: Millis,
        scratch: &mut Scratch,
    ) -> io::Result<Flushed> {
        let mut drained = scratch.drained.lend();
        let mut gather = scratch.gather.lend();
        loop {
            if self.unsent.is_some() && self.write_unsent(cx, now, &mut gather)?.is_pending() {
                return Ok(Flushed::Blocked);
            }
            let next = match &self.session {
                Some(session) => session.outbox().take(&mut drained),
                None => Next::Continue,
            };
            if matches!(next, Next::CloseNow | Next::Release) {
                return Ok(Flushed::Ended);
            }
            if !drained.is_empty() {
                self.write_drained(cx, now, &mut drained, &mut gather)?;
            } else if self.io.poll_flush(cx)?.is_pending() {
                return Ok(Flushed::Blocked);
            } else if next == Next::CloseAfterFlush {
                return Ok(Flushed::Ended);
            } else {
                return Ok(Flushed::Everything);
            }
        }
    }

    /// Writes what was just taken from the outbox from where it is; what the socket does not take becomes unsent.
    fn write_drained(
        &mut self,
        cx: &mut Context<'_>,
        now: Millis,
        drained: &mut Drained,
        gather: &mut Vec<u8>,
    ) -> io::Result<()> {
        let mut head = [0; ws::MAX_HEAD];
        let length = self.message_head(drained.remaining(), &mut head);
        let mut head = &head[..length];
        if let Poll::Ready(written) = self.write(cx, head, drained, gather)? {
            let of_head = written.min(head.len());
            head.advance(of_head);
            self.wrote(drained, written - of_head);
        }
        if !head.is_empty() || !drained.is_empty() {
            self.unsent = Some(Box::new(Unsent {
                front: BytesMut::from(head),
                body: std::mem::take(drained),
                ..*Unsent::new(now)
            }));
        }
        Ok(())
    }

    fn write_unsent(
        &mut self,
        cx: &mut Context<'_>,
        now: Millis,
        gather: &mut Vec<u8>,
    ) -> io::Result<Poll<()>> {
        let Some(mut unsent) = self.unsent.take() else {
            return Ok(Poll::Ready(()));
        };
        loop {
            if unsent.front.is_empty() && unsent.body.is_empty() {
                if unsent.back.is_empty() {
                    return Ok(Poll::Ready(()));
                }
                unsent.front = std::mem::take(&mut unsent.back);
            }
            let Poll::Ready(written) = self.write(cx, &unsent.front, &unsent.body, gather)? else {
                self.unsent = Some(unsent);
                return Ok(Poll::Pending);
            };
            unsent.since = now;
            let of_front = written.min(unsent.front.len());
            unsent.front.advance(of_front);
            self.wrote(&mut unsent.body, written - of_front);
        }
    }

    /// One write of `first` and as much of `then` as goes along.
    fn write(
        &mut self,
        cx: &mut Context<'_>,
        first: &[u8],
        then: &Drained,
        gather: &mut Vec<u8>,
    ) -> io::Result<Poll<usize>> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        slices[0] = IoSlice::new(first);
        let from = usize::from(!first.is_empty());
        let mut count = from + then.chunks_vectored(&mut slices[from..]);
        if count > 1 && first.len() + then.remaining() <= GATHER_MAX {
            gather.clear();
            for slice in &slices[..count] {
                gather.extend_from_slice(slice);
            }
            slices[0] = IoSlice::new(gather);
            count = 1;
        }
        match self.io.poll_write(cx, &slices[..count])? {
            Poll::Ready(0) => Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(written) => {
                self.local.stats.bytes_out.add(written as u64);
                Ok(Poll::Ready(written))
            }
            Poll::Pending => Ok(Poll::Pending),
        }
    }

    /// Takes written bytes off `body` and off what counts against the outbox's bound.
    fn wrote(&self, body: &mut Drained, written: usize) {
        if written > 0 {
            body.advance(written);
            if let Some(session) = &self.session {
                session.outbox().written(written);
            }
        }
    }
}

/// The status of the close frame, so that a page can tell a kick from a bug of its own.
fn close_status(reason: &CloseReason) -> u16 {
    match reason {
        CloseReason::Draining => 1001,
        CloseReason::Framing(ws::TOO_LONG) => 1009,
        CloseReason::Framing(ws::NOT_TEXT) => 1007,
        CloseReason::Protocol(_) | CloseReason::Framing(_) => 1002,
        CloseReason::RateLimited | CloseReason::Attack => 1008,
        _ => 1000,
    }
}

/// The answer to a ping.
fn pong(payload: &Bytes) -> BytesMut {
    let mut frame = BytesMut::with_capacity(payload.len() + ws::MAX_HEAD);
    ws::put_pong(payload, &mut frame);
    frame
}

#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
pub(super) fn transport_error(error: io::Error) -> CloseReason {
    CloseReason::Transport(error.kind())
}
