//! Bytes to messages: WebSocket frames, packages.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use shaddock_core::CloseReason;
use shaddock_protocol::{Event, Millis, ProtocolError, put_heartbeat};

use super::{
    head::Begun,
    state::{Driver, READS_PER_POLL},
    wire::{Wire, max_message},
};
use crate::{
    clock,
    rate::size,
    stats::Group,
    worker::{self, Scratch},
    ws::WsEvent,
};

/// The result of a poll that reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Read {
    /// The socket has nothing, and wakes the task when it has.
    Nothing,
    /// Something; there may be more.
    Something,
    /// The socket was not asked: what waits comes first. Nothing wakes the task for it.
    HeldBack,
}

impl Driver {
    /// Reads what the socket has, a bounded number of times.
    pub(super) fn read(
        &mut self,
        cx: &mut Context<'_>,
        now: Millis,
        scratch: &mut Scratch,
    ) -> Result<Read, CloseReason> {
        let mut read = Read::Nothing;
        for _ in 0..READS_PER_POLL {
            if self.is_blocked() {
                return Ok(match read {
                    Read::Nothing => Read::HeldBack,
                    other => other,
                });
            }
            match self.io.poll_read(cx, &mut scratch.read) {
                Poll::Pending => return Ok(read),
                Poll::Ready(Ok(0)) => return Err(CloseReason::ClientClosed),
                Poll::Ready(Ok(n)) => self.received(cx, now, n, scratch)?,
                Poll::Ready(Err(error)) => return Err(CloseReason::Transport(error.kind())),
            }
            read = Read::Something;
        }
        // There may be more; the others come first.
        cx.waker().wake_by_ref();
        Ok(read)
    }

    fn received(
        &mut self,
        cx: &mut Context<'_>,
        now: Millis,
        n: usize,
        scratch: &mut Scratch,
    ) -> Result<(), CloseReason> {
        self.local.stats.bytes_in.add(n as u64);
        if let Some(session) = &self.session {
            session.count_received(0, n as u64);
        } else if let Some(opening) = &mut self.opening {
            opening.received += n as u64;
        }
        // One exact copy of the chunk; every message in it is a slice of that copy.
        let chunk = &mut scratch.read[..n];
        match &mut self.wire {
            Wire::Tcp => {
                let input = Bytes::copy_from_slice(chunk);
                self.packages(cx, now, input, scratch)
            }
            Wire::Ws(ws) => {
                let frames = ws.reader.take(chunk, max_message(&self.conn));
                self.frames(cx, now, frames, scratch)
            }
            Wire::Proxy | Wire::Http | Wire::Unknown => {
                let Some(opening) = &mut self.opening else {
                    return Err(CloseReason::Internal);
                };
                opening.head.extend_from_slice(chunk);
                let head = std::mem::take(&mut opening.head);
                match self.begin(now, head)? {
                    Begun::NeedMore => Ok(()),
                    Begun::Packages(input) => self.packages(cx, now, input, scratch),
                    Begun::Frames(frames) => self.frames(cx, now, frames, scratch),
                }
            }
            Wire::Closed => Ok(()),
        }
    }

    /// Goes on with input that had to wait.
    pub(super) fn resume(
        &mut self,
        cx: &mut Context<'_>,
        now: Millis,
        input: Bytes,
        frames: Bytes,
        scratch: &mut Scratch,
    ) -> Result<(), CloseReason> {
        if matches!(self.wire, Wire::Tcp) {
            return if input.is_empty() {
                Ok(())
            } else {
                self.packages(cx, now, input, scratch)
            };
        }
        if !input.is_empty() && !self.message(cx, now, input, scratch)? {
            // Blocked again within the same WebSocket message.
            self.waiting.get_or_insert_default().frames = frames;
            return Ok(());
        }
        if frames.is_empty() {
            return Ok(());
        }
        self.frames(cx, now, frames, scratch)
    }

    fn frames(
        &mut self,
        cx: &mut Context<'_>,
        now: Millis,
        mut frames: Bytes,
        scratch: &mut Scratch,
    ) -> Result<(), CloseReason> {
        let max = max_message(&self.conn);
        loop {
            let Wire::Ws(ws) = &mut self.wire else {
                return Ok(());
            };
            let event = ws
                .reader
                .next(&mut frames, max)
                .map_err(|error| CloseReason::Framing(error.name()))?;
            match event {
                None => return Ok(()),
                Some(WsEvent::Message(message)) => {
                    if message.is_empty() {
                        return Err(CloseReason::Framing("empty_websocket_message"));
                    }
                    if !self.message(cx, now, message, scratch)? {
                        self.waiting.get_or_insert_default().frames = frames;
                        return Ok(());
                    }
                }
                Some(WsEvent::Ping(payload)) => self.answer_ping(now, &payload)?,
                Some(WsEvent::Pong) => {}
                Some(WsEvent::Close(status)) => {
                    ws.goodbye = status;
                    ws.is_closed = true;
                    return Err(CloseReason::ClientClosed);
                }
            }
            if self.is_blocked() {
                if !frames.is_empty() {
                    self.waiting.get_or_insert_default().frames = frames;
                }
                return Ok(());
            }
        }
    }

    /// One WebSocket message: whole packages, one or more. False: blocked before its end, the rest waits.
    fn message(
        &mut self,
        cx: &mut Context<'_>,
        now: Millis,
        message: Bytes,
        scratch: &mut Scratch,
    ) -> Result<bool, CloseReason> {
        self.packages(cx, now, message, scratch)?;
        let waits = self
            .waiting
            .as_ref()
            .is_some_and(|waiting| !waiting.input.is_empty());
        if !waits && self.conn.is_mid_package() {
            return Err(CloseReason::Framing("package_cut_short"));
        }
        Ok(!waits)
    }

    /// Takes every package out of `input`, or as many as may be taken now.
    fn packages(
        &mut self,
        cx: &mut Context<'_>,
        now: Millis,
        mut input: Bytes,
        scratch: &mut Scratch,
    ) -> Result<(), CloseReason> {
        loop {
            self.check_closed()?;
            if self.is_blocked() {
                if !input.is_empty() {
                    self.waiting.get_or_insert_default().input = input;
                }
                return Ok(());
            }
            let mut out = scratch.out.lend();
            let event = self.conn.poll_event(now, &mut input, &mut out);
            self.queue_out(now, &out);
            drop(out);
            match event {
                Ok(Some(event)) if self.conn.is_counted() => {
                    self.counted_event(cx, now, event, scratch)?;
                }
                // Here and not in `event`, which is a call: every message passes.
                Ok(Some(Event::Message(message))) => {
                    self.check_rate()?;
                    self.dispatch(cx, message);
                }
                Ok(Some(event)) => self.other_event(cx, now, event, scratch)?,
                Ok(None) => return Ok(()),
                Err(error) => {
                    tracing::debug!(
                        address = self.address(),
                        sid = self.sid(),
                        "protocol error: {error}"
                    );
                    return Err(CloseReason::Protocol(error));
                }
            }
        }
    }

    /// As [`event`](Self::event), where both ends count what they have received.
    #[inline(never)]
    fn counted_event(
        &mut self,
        cx: &mut Context<'_>,
        now: Millis,
        event: Event,
        scratch: &mut Scratch,
    ) -> Result<(), CloseReason> {
        let session = self.session.as_ref().filter(|_| event.is_of_data());
        let owes = session.is_some_and(|session| session.took());
        self.event(cx, now, event, scratch)?;
        if owes {
            self.queue_acknowledgement(now, scratch);
        }
        Ok(())
    }

    fn event(
        &mut self,
        cx: &mut Context<'_>,
        now: Millis,
        event: Event,
        scratch: &mut Scratch,
    ) -> Result<(), CloseReason> {
        if let Event::Message(message) = event {
            self.check_rate()?;
            self.dispatch(cx, message);
            return Ok(());
        }
        self.other_event(cx, now, event, scratch)
    }

    /// Kept apart from the loop that messages pass through: what is inlined into that makes it slower.
    #[inline(never)]
    fn other_event(
        &mut self,
        cx: &mut Context<'_>,
        now: Millis,
        event: Event,
        scratch: &mut Scratch,
    ) -> Result<(), CloseReason> {
        match event {
            Event::Handshake(request) => self.check_handshake(cx, now, Arc::new(*request), scratch),
            Event::Open => self.open(cx, now),
            Event::Refused { id, route, reason } => {
                self.check_rate()?;
                self.local.stats.count(Group::Dropped, reason.name());
                tracing::debug!(sid = self.sid(), reason = reason.name(), "request refused");
                if let Some(session) = &self.session {
                    self.local.frontend.refused(session, id, route, reason);
                }
                Ok(())
            }
            Event::Dropped(reason) => {
                self.local.stats.count(Group::Dropped, reason.name());
                tracing::debug!(address = self.address(), reason = reason.name(), "dropped");
                Ok(())
            }
            Event::Attack => Err(CloseReason::Attack),
            Event::Heartbeat { acknowledged } => self.heartbeat(now, acknowledged, scratch),
            Event::Goodbye => Err(CloseReason::ClientClosed),
            // Events of a later protocol version, which this connector could not have caused.
            _ => Ok(()),
        }
    }

    fn check_rate(&mut self) -> Result<(), CloseReason> {
        let limits = &self.live.limits;
        let rate = limits.messages_per_second;
        let allowed = match &mut self.rate {
            Some(bucket) => {
                let size = size(rate, limits.burst);
                bucket.take(clock::turn(), rate, size, worker::held_up())
            }
            None => true,
        };
        allowed.then_some(()).ok_or(CloseReason::RateLimited)
    }

    /// A HEARTBEAT of the client. It is answered as on any connection.
    fn heartbeat(
        &mut self,
        now: Millis,
        acknowledged: Option<u64>,
        scratch: &mut Scratch,
    ) -> Result<(), CloseReason> {
        if let (Some(session), Some(count)) = (&self.session, acknowledged)
            && let Err(error) = session.acknowledged(count)
        {
            tracing::debug!(sid = self.sid(), "{error}");
            return Err(CloseReason::Protocol(ProtocolError::Acknowledgement));
        }
        if self.conn.has_heartbeats() {
            self.queue_acknowledgement(now, scratch);
        }
        Ok(())
    }

    /// A HEARTBEAT with the number of packages that were taken, if the client does not know it yet.
    fn queue_acknowledgement(&mut self, now: Millis, scratch: &mut Scratch) {
        let Some(session) = &self.session else {
            return;
        };
        let mut out = scratch.out.lend();
        put_heartbeat(session.acknowledgement(), &mut out);
        self.queue_out(now, &out);
    }
}
