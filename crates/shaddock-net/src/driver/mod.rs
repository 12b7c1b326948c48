//! One connection: it owns socket, protocol state and handler, and moves bytes between them.
//!
//! A poll goes the same way every time: what runs for the session → what the socket has → deadlines → what is to be written, in
//! as few writes as possible. Answers to what was just read are written in a poll of their own, when every connection that was ready
//! has read ([`worker::flush_later`]). Nothing here waits: a socket or handler that is not ready has taken the task's waker.
//!
//! | file | part |
//! | --- | --- |
//! | this one | the order of a poll, the life of a connection from accept to close |
//! | `opening.rs` | what comes before the protocol: PROXY head, first byte, HTTP upgrade |
//! | `input.rs` | bytes to messages: WebSocket frames, packages |
//! | `work.rs` | messages to handlers: one at a time, the others wait, bounded |
//! | `output.rs` | the session's outbox to the socket |

mod input;
mod opening;
mod output;
mod work;

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::BytesMut;
use shaddock_core::{CloseReason, Session, TransportKind};
use shaddock_protocol::{Conn, HandshakeRequest, Millis, TimeoutKind};
use tokio::net::TcpStream;

use self::{
    input::Wire,
    output::{Flushed, Unsent},
    work::{Waiting, Work},
};
use crate::{
    access::Permit,
    clock,
    config::{ConnectionLimits, Live},
    frontend::Peer,
    io::Io,
    listener::Local,
    rate::Bucket,
    stats::Group,
    worker::{self, Scratch, Timer},
};

/// Reads of one poll. A client that sends without end gives way to the others after this many.
const READS_PER_POLL: usize = 4;

/// Bytes that are read and thrown away while a connection closes, so that the client's last bytes do not turn our close into
/// a reset that would take the kick with it.
const DRAIN_LIMIT: usize = 256 * 1024;

enum Phase {
    /// Bytes flow.
    Live {
        /// The next poll begins with writing: the last one put it off.
        flush_first: bool,
    },
    /// The session is closed; what is queued is being sent.
    Closing(Box<Closing>),
    /// The socket is gone; a handler still runs to its end.
    Finishing,
}

struct Closing {
    /// When to give up.
    until: Millis,
    stage: Stage,
    reason: CloseReason,
}

/// What is known before there is a session. Dropped when it begins: an idle session does not pay for it.
struct Opening {
    peer: Peer,
    /// Bytes of a PROXY or HTTP head that has not arrived whole.
    head: BytesMut,
    handshake: Option<Arc<HandshakeRequest>>,
    /// Bytes read so far; they count for the session once there is one.
    received: u64,
}

#[derive(Clone, Copy)]
enum Stage {
    /// The outbox.
    Flush,
    /// The close frame, under WebSocket.
    Goodbye,
    Shutdown,
    Drain {
        left: usize,
    },
}

/// One connection. Polled by the listener's task on its worker; done when the socket is closed and its last handler has ended.
pub(crate) struct Driver {
    io: Io,
    wire: Wire,
    conn: Conn,
    local: Arc<Local>,
    /// The bounds that were in force when it came.
    live: Arc<Live>,
    opening: Option<Box<Opening>>,
    session: Option<Arc<Session>>,
    work: Work,
    waiting: Option<Box<Waiting>>,
    unsent: Option<Box<Unsent>>,
    timer: Option<Timer>,
    permit: Option<Permit>,
    /// Only where messages are limited.
    rate: Option<Box<Bucket>>,
    phase: Phase,
}

impl Driver {
    pub(crate) fn new(
        stream: TcpStream,
        address: SocketAddr,
        behind_proxy: bool,
        permit: Permit,
        local: Arc<Local>,
    ) -> Self {
        let now = clock::now();
        let config = &local.shared.config;
        let live = local.shared.live();
        let limits = &live.limits;
        let rate = (limits.messages_per_second > 0)
            .then(|| Box::new(Bucket::new(now, limits.messages_per_second, limits.burst)));
        let mut driver = Self {
            io: Io::Tcp(stream),
            wire: Wire::new(behind_proxy && config.proxy_protocol),
            conn: Conn::new(local.frontend.codec(), now),
            opening: Some(Box::new(Opening {
                peer: Peer {
                    address,
                    transport: TransportKind::Tcp,
                },
                head: BytesMut::new(),
                handshake: None,
                received: 0,
            })),
            session: None,
            work: Work::Idle,
            waiting: None,
            unsent: None,
            timer: None,
            permit: Some(permit),
            rate,
            phase: Phase::Live { flush_first: false },
            live,
            local,
        };
        if !driver.wire.is_proxy() {
            driver.start_tls();
        }
        driver
    }

    /// TLS covers everything after the PROXY head.
    fn start_tls(&mut self) {
        if let Some(tls) = &self.local.shared.config.tls {
            self.io.start_tls(&tls.acceptor());
        }
    }

    fn turn(&mut self, cx: &mut Context<'_>, now: Millis, scratch: &mut Scratch) -> Poll<()> {
        if let Phase::Live { flush_first } = self.phase {
            match self.live(cx, now, scratch, flush_first) {
                Ok(flush_first) => self.phase = Phase::Live { flush_first },
                Err(reason) => self.begin_close(now, &reason),
            }
        }
        match self.phase {
            Phase::Live { .. } => {
                self.arm(cx, now, self.deadline());
                Poll::Pending
            }
            Phase::Closing(_) => {
                if self.poll_close(cx, now, scratch).is_ready() {
                    self.drop_socket();
                    return self.poll_finish(cx);
                }
                Poll::Pending
            }
            Phase::Finishing => self.poll_finish(cx),
        }
    }

    /// Moves bytes. True if writing was put off: the next poll begins with it.
    fn live(
        &mut self,
        cx: &mut Context<'_>,
        now: Millis,
        scratch: &mut Scratch,
        flush_first: bool,
    ) -> Result<bool, CloseReason> {
        let transport = |error: io::Error| CloseReason::Transport(error.kind());
        if self.io.poll_ready(cx).map_err(transport)?.is_pending() {
            self.check_deadline(now)?;
            return Ok(false);
        }
        if flush_first {
            self.flush_some(cx, now, scratch).map_err(transport)?;
        }
        self.poll_work(cx, now, scratch)?;
        // What was answered before the end of the stream is still sent, by the close.
        let has_read = self.read(cx, now, scratch)?;
        // After the read: what has arrived counts, however late this poll is.
        self.check_deadline(now)?;
        if has_read && self.session.is_some() {
            worker::flush_later(cx.waker());
            return Ok(true);
        }
        if self.flush_and_park(cx, now, scratch).map_err(transport)? == Flushed::Ended {
            let reason = self
                .session
                .as_ref()
                .and_then(|session| session.close_reason());
            // A close has its reason before it ends the outbox. Only the verdict on a slow client ends the outbox first, and
            // whoever got the verdict is about to close the session, perhaps on another thread and after us.
            return Err(reason.unwrap_or(CloseReason::SlowClient));
        }
        Ok(false)
    }

    fn check_deadline(&mut self, now: Millis) -> Result<(), CloseReason> {
        // A client that is not read because its own handler is slow cannot show that it lives.
        if self.is_blocked() && self.session.is_some() {
            return Ok(());
        }
        match self.conn.poll_timeout(now) {
            None => Ok(()),
            Some(TimeoutKind::Heartbeat) => Err(CloseReason::HeartbeatTimeout),
            Some(TimeoutKind::Idle) => Err(CloseReason::Idle),
            Some(_) => Err(CloseReason::HandshakeTimeout),
        }
    }

    fn deadline(&self) -> Option<Millis> {
        if self.is_blocked() && self.session.is_some() {
            return None;
        }
        self.conn.deadline()
    }

    fn arm(&mut self, cx: &Context<'_>, now: Millis, deadline: Option<Millis>) {
        if let Some(deadline) = deadline {
            self.timer
                .get_or_insert_with(|| Timer::new(cx.waker()))
                .arm(now, deadline);
        }
    }

    /// Ends the session, if there is one, and turns to sending what is queued.
    fn begin_close(&mut self, now: Millis, reason: &CloseReason) {
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
        if let Work::Handshake(_) = self.work {
            self.work = Work::Idle;
        }
        let gone = matches!(reason, CloseReason::Transport(_) | CloseReason::SlowClient);
        let until = if gone {
            now
        } else {
            now + linger(&self.live.limits)
        };
        self.phase = Phase::Closing(Box::new(Closing {
            until,
            stage: Stage::Flush,
            reason: reason.clone(),
        }));
    }

    /// The client's address, for logs.
    fn address(&self) -> Option<String> {
        let opening = self.opening.as_ref().map(|opening| opening.peer.address);
        opening
            .or_else(|| self.session.as_ref()?.client_address())
            .map(|address| address.to_string())
    }

    fn sid(&self) -> Option<u64> {
        self.session.as_ref().map(|session| session.id().get())
    }

    /// Sends what is queued, says that nothing follows, and waits for the client to close, all until the deadline.
    fn poll_close(&mut self, cx: &mut Context<'_>, now: Millis, scratch: &mut Scratch) -> Poll<()> {
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
                Stage::Flush => {
                    match self.flush(cx, scratch) {
                        Ok(Flushed::Blocked) => return Poll::Pending,
                        Ok(Flushed::Everything | Flushed::Ended) => {}
                        Err(_) => return Poll::Ready(()),
                    }
                    self.queue_close_frame(&reason);
                    Stage::Goodbye
                }
                Stage::Goodbye => match self.flush(cx, scratch) {
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

    /// Gives back everything but the handler that may still run.
    fn drop_socket(&mut self) {
        self.io = Io::Closed;
        self.wire = Wire::Closed;
        self.permit = None;
        self.timer = None;
        if let Some(session) = self.session.take() {
            session.outbox().release();
        }
        self.unsent = None;
        self.phase = Phase::Finishing;
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.work {
            Work::Handler(handler) => handler.as_mut().poll(cx),
            _ => Poll::Ready(()),
        }
    }
}

fn linger(limits: &ConnectionLimits) -> u64 {
    u64::try_from(limits.linger.as_millis()).unwrap_or(u64::MAX)
}

impl Future for Driver {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        match &this.session {
            // The last poll ended without parking the outbox.
            Some(_) if matches!(this.phase, Phase::Live { flush_first: true }) => {}
            // What is queued from here on is written at the end of this poll: no wake needed.
            Some(session) => session.outbox().begin_poll(cx.waker()),
            None => {}
        }
        let turn = clock::Turn::begin();
        worker::with_scratch(|scratch| this.turn(cx, turn.began(), scratch))
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // Only when a poll panicked or the worker stops: every other way closes the session itself.
        if let Some(session) = self.session.take() {
            session.close(CloseReason::Internal);
            session.outbox().release();
        }
    }
}

/// The most exact name there is, for counters and logs.
fn detail(reason: &CloseReason) -> &'static str {
    match reason {
        CloseReason::Protocol(error) => error.name(),
        CloseReason::Framing(what) => what,
        other => other.name(),
    }
}

/// The part of a scratch buffer that grew for one large message is given back.
fn recycle(buffer: &mut BytesMut) {
    const KEEP: usize = 64 * 1024;
    buffer.clear();
    if buffer.capacity() > KEEP {
        *buffer = BytesMut::with_capacity(4096);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An idle connection is this, its session and tokio's registration. Issue 3 wants all three within 1,024 bytes.
    #[test]
    fn the_task_of_a_connection_is_small() {
        assert!(
            size_of::<Driver>() <= 256,
            "Driver has {} bytes",
            size_of::<Driver>()
        );
    }
}
