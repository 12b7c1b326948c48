//! A connection whose session is on another frontend: the driver here moves bytes between the client's socket and a [`Pipe`]; the driver
//! there has a pipe instead of a socket.
//!
//! Only the frontend with the socket handles TLS and WebSocket. The pipe carries consecutive packages, as over TCP, and only the frontend
//! with the session interprets them: counts, heartbeats and deadlines are there. A relay only has to keep the order of the bytes; if it
//! fails, the connection is lost like any other, the session waits, and the client returns.

use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use shaddock_core::CloseReason;
use shaddock_protocol::{HEADER_LEN, Millis, PackageType};

use super::{
    output::{Flushed, transport_error},
    phase::{Phase, Relaying},
    silence::LOOK,
    state::{Driver, READS_PER_POLL},
    wire::{Wire, max_message},
};
use crate::{
    pipe::{Piece, Pipe},
    worker::Scratch,
    ws::WsEvent,
};

/// Bytes that are taken from the pipe at once.
const PIECE: usize = 64 * 1024;

/// No type of a package: a client that breaks the rules of WebSocket breaks those of packages, for the frontend that only sees these.
const NO_PACKAGE: u8 = 0xff;

impl Driver {
    /// From here on this driver only moves bytes.
    pub(super) fn begin_relay(&mut self, now: Millis, pipe: Pipe) -> Result<(), CloseReason> {
        self.conn.close();
        self.opening = None;
        self.rate = None;
        self.phase = Phase::Relaying(Box::new(Relaying {
            pipe,
            rest: BytesMut::new(),
            is_full: false,
        }));
        // Read behind the handshake.
        let Some(waiting) = self.waiting.take() else {
            return Ok(());
        };
        self.write_to_session(&waiting.input);
        let relayed = self.relay_frames(now, waiting.frames);
        relayed.inspect_err(|reason| self.send_fault(reason))
    }

    /// A client that breaks the rules of WebSocket ends its session, as on any other connection.
    fn send_fault(&self, reason: &CloseReason) {
        if let CloseReason::Framing(_) | CloseReason::RateLimited = reason {
            self.send_last(NO_PACKAGE);
        }
    }

    fn write_to_session(&self, bytes: &[u8]) {
        if let Phase::Relaying(relaying) = &self.phase
            && !bytes.is_empty()
        {
            // If the reader is gone, the other direction reports it.
            let _ = relaying.pipe.write(bytes);
        }
    }

    /// One poll of a socket whose session is elsewhere. Ready: it closes, for this reason.
    pub(super) fn poll_relaying(
        &mut self,
        cx: &mut Context<'_>,
        now: Millis,
        scratch: &mut Scratch,
    ) -> Poll<CloseReason> {
        // First what comes: at the end of the session, that has the reason in it.
        let moved = self
            .move_to_client(cx, now, scratch)
            .and_then(|()| self.move_to_session(cx, now, scratch))
            .and_then(|()| self.watch_client(cx, now));
        match moved {
            Ok(()) => Poll::Pending,
            Err(reason) => {
                self.send_fault(&reason);
                Poll::Ready(reason)
            }
        }
    }

    fn move_to_client(
        &mut self,
        cx: &mut Context<'_>,
        now: Millis,
        scratch: &mut Scratch,
    ) -> Result<(), CloseReason> {
        loop {
            if self.flush(cx, now, scratch).map_err(transport_error)? == Flushed::Blocked {
                return Ok(());
            }
            let Phase::Relaying(relaying) = &mut self.phase else {
                return Ok(());
            };
            match relaying.pipe.poll_next(cx, PIECE) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Piece::Bytes(bytes)) => {
                    let packages = whole_packages(&mut relaying.rest, &bytes);
                    self.queue_out(now, &packages);
                }
                // The session has ended, and the client was told why.
                Poll::Ready(Piece::Finished) => return Err(CloseReason::Removed),
                Poll::Ready(Piece::Broken) => {
                    return Err(CloseReason::Transport(
                        std::io::ErrorKind::ConnectionAborted,
                    ));
                }
            }
        }
    }

    fn move_to_session(
        &mut self,
        cx: &mut Context<'_>,
        now: Millis,
        scratch: &mut Scratch,
    ) -> Result<(), CloseReason> {
        for _ in 0..READS_PER_POLL {
            // Pongs wait for the socket, which wakes the task.
            if self.is_pressed() {
                return Ok(());
            }
            let Phase::Relaying(relaying) = &mut self.phase else {
                return Ok(());
            };
            let has_room = matches!(relaying.pipe.poll_room(cx), Poll::Ready(true));
            relaying.is_full = !has_room;
            if !has_room {
                return Ok(());
            }
            let n = match self.io.poll_read(cx, &mut scratch.read) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(0)) => return Err(CloseReason::ClientClosed),
                Poll::Ready(Ok(n)) => n,
                Poll::Ready(Err(error)) => return Err(transport_error(error)),
            };
            self.local.stats.bytes_in.add(n as u64);
            let chunk = &mut scratch.read[..n];
            if let Wire::Ws(ws) = &mut self.wire {
                let frames = ws.reader.take(chunk, max_message(&self.conn));
                self.relay_frames(now, frames)?;
            } else {
                self.write_to_session(chunk);
            }
        }
        // There may be more; the others come first.
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// The content of WebSocket frames is relayed without the frames.
    fn relay_frames(&mut self, now: Millis, mut frames: Bytes) -> Result<(), CloseReason> {
        let max = max_message(&self.conn);
        loop {
            let Wire::Ws(ws) = &mut self.wire else {
                return Ok(());
            };
            let event = ws.reader.next(&mut frames, max);
            match event.map_err(|error| CloseReason::Framing(error.name()))? {
                None => return Ok(()),
                Some(WsEvent::Message(message)) if message.is_empty() => {
                    return Err(CloseReason::Framing("empty_websocket_message"));
                }
                Some(WsEvent::Message(message)) => self.write_to_session(&message),
                Some(WsEvent::Ping(payload)) => self.answer_ping(now, &payload)?,
                Some(WsEvent::Pong) => {}
                Some(WsEvent::Close(status)) => {
                    ws.goodbye = status;
                    ws.is_closed = true;
                    if matches!(status, None | Some(1000)) {
                        self.send_last(PackageType::Kick as u8);
                    }
                    return Err(CloseReason::ClientClosed);
                }
            }
        }
    }

    /// How the client ends its session, in the words of a connection without WebSocket: an empty package of this kind.
    fn send_last(&self, kind: u8) {
        if let Phase::Relaying(relaying) = &self.phase {
            let _ = relaying.pipe.write(&[kind, 0, 0, 0]);
            relaying.pipe.finish();
        }
    }

    /// A client that does not read is given up here too: what waits for it is here. So is one that is gone while its input waits.
    fn watch_client(&mut self, cx: &Context<'_>, now: Millis) -> Result<(), CloseReason> {
        let since = self.unsent.as_ref().map(|unsent| unsent.since);
        let until = since.map(|since| since + self.live.limits.slow_after);
        if until.is_some_and(|until| now >= until) {
            return Err(CloseReason::SlowClient);
        }
        let is_full = matches!(&self.phase, Phase::Relaying(relaying) if relaying.is_full);
        if is_full && self.io.is_read_closed() {
            return Err(CloseReason::ClientClosed);
        }
        let look = is_full.then(|| now + LOOK);
        self.arm(cx, now, until.into_iter().chain(look).min());
        Ok(())
    }
}

/// The length of the complete packages: a WebSocket message must not end within one.
fn whole_packages(rest: &mut BytesMut, bytes: &Bytes) -> Bytes {
    if rest.is_empty() {
        let whole = whole_len(bytes);
        rest.extend_from_slice(&bytes[whole..]);
        return bytes.slice(..whole);
    }
    rest.extend_from_slice(bytes);
    rest.split_to(whole_len(rest)).freeze()
}

fn whole_len(bytes: &[u8]) -> usize {
    let mut left = bytes;
    while let Some([_, high, middle, low]) = left.first_chunk::<HEADER_LEN>() {
        let body = usize::from(*high) << 16 | usize::from(*middle) << 8 | usize::from(*low);
        if left.len() < HEADER_LEN + body {
            break;
        }
        left.advance(HEADER_LEN + body);
    }
    bytes.len() - left.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_put_together_however_they_come() {
        let packages = b"\x04\0\0\x02ab\x03\0\0\0\x04\0\0\x05hello\x05\0\0\0";
        for step in 1..=packages.len() {
            let (mut rest, mut seen) = (BytesMut::new(), Vec::new());
            for chunk in packages.chunks(step) {
                let whole = whole_packages(&mut rest, &Bytes::copy_from_slice(chunk));
                assert_eq!(whole_len(&whole), whole.len(), "{step}");
                seen.extend_from_slice(&whole);
            }
            assert_eq!((&seen[..], rest.len()), (&packages[..], 0), "{step}");
        }
    }
}
