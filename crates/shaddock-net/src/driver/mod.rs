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
//! | file | part |
//! | --- | --- |
//! | this one | the order of a poll |
//! | `opening.rs` | before the protocol: PROXY head, first byte, HTTP upgrade |
//! | `input.rs` | bytes to messages: WebSocket frames, packages |
//! | `work.rs` | messages to handlers: one at a time, the others wait, bounded |
//! | `output.rs` | the session's outbox to the socket |
//! | `silence.rs` | deadlines: silent clients, and clients that do not read |
//! | `closing.rs` | from the reason to the last byte |
//! | `resume.rs` | resumable sessions |
//! | `parked.rs` | suspended sessions for which nothing runs |
//! | `relay.rs` | a socket whose session is on another frontend |

mod closing;
mod input;
mod opening;
mod output;
mod parked;
mod relay;
mod resume;
mod silence;
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
use shaddock_protocol::{Conn, HandshakeRequest, Millis};

pub(crate) use self::parked::Parked;
pub use self::relay::{RelayAnswer, Relayed};
use self::{
    closing::{Closing, detail},
    input::{Read, Wire},
    output::{Flushed, Unsent},
    relay::{Accepted, Relaying},
    resume::{Away, WakeLater},
    work::{Waiting, Work},
};
use crate::{
    access::Permit,
    clock,
    config::Live,
    frontend::{Carried, Peer},
    io::Io,
    listener::Local,
    rate::Bucket,
    socket::Socket,
    worker::{self, Scratch, Timer},
};

/// Reads per poll. A client that sends without pause yields to the others after this number.
const READS_PER_POLL: usize = 4;

/// Where the socket is.
enum Phase {
    /// Bytes flow. Before there is a session, `Driver::opening` holds what is known.
    Open {
        /// The next poll begins with writing: the last one put it off.
        flush_first: bool,
        /// More than a quarter of its bound waited in the outbox at the last look.
        is_above_mark: bool,
    },
    /// The session is closed; what is queued is being sent.
    Closing(Box<Closing>),
    /// The socket is gone, and the session waits for its client.
    Suspended(Box<Away>),
    /// The session is at another frontend.
    Relaying(Box<Relaying>),
    /// The socket is gone.
    Gone {
        /// A handler went on, to its end, and the permit counts for it.
        outlived: bool,
    },
}

/// The state before there is a session. Dropped when it begins: an idle session does not pay for it.
struct Opening {
    peer: Peer,
    /// The peer's address was judged by lists and count. Behind a proxy that comes later.
    is_judged: bool,
    /// Bytes of a PROXY or HTTP head that has not arrived whole.
    head: BytesMut,
    handshake: Option<Arc<HandshakeRequest>>,
    /// The data that the layer above left with its answer.
    carried: Option<Carried>,
    /// Bytes read so far; they count for the session once there is one.
    received: u64,
    /// The session, if it is there before the handshake is acknowledged, is a new one.
    is_new: bool,
    /// The number of its claim, if its handshake asks for a session that was there before.
    claim: u64,
    /// The task that had parked that session.
    parked: Option<WakeLater>,
    /// Another frontend has accepted the connection.
    relayed: Option<Box<Accepted>>,
}

impl Opening {
    fn of(peer: Peer) -> Self {
        Self {
            peer,
            is_judged: true,
            head: BytesMut::new(),
            handshake: None,
            carried: None,
            received: 0,
            is_new: false,
            claim: 0,
            parked: None,
            relayed: None,
        }
    }
}

/// One connection. Polled by the listener's task on its worker; done when the socket is closed and its last handler has ended. If its session
/// still waits for its client then, the session is returned.
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
    /// Until the last handler has ended: it counts for its client's address. `None`: nothing runs for a session without a socket.
    permit: Option<Permit>,
    /// Only where messages are limited.
    rate: Option<Box<Bucket>>,
    phase: Phase,
}

impl Driver {
    pub(crate) fn new(
        socket: Socket,
        address: SocketAddr,
        behind_proxy: bool,
        permit: Permit,
        local: Arc<Local>,
    ) -> Self {
        let peer = Peer {
            address,
            transport: TransportKind::Tcp,
        };
        let opening = Box::new(Opening {
            is_judged: !behind_proxy,
            ..Opening::of(peer)
        });
        let proxy_protocol = local.shared.config.proxy_protocol;
        let wire = Wire::new(behind_proxy && proxy_protocol);
        let mut driver = Self::with_opening(socket, wire, opening, permit, local);
        // TLS covers everything after the PROXY head.
        if !driver.wire.is_proxy() {
            driver.begin_tls(BytesMut::new());
        }
        driver
    }

    /// A connection that another frontend has accepted: what is judged there is not judged again.
    pub(crate) fn relayed(relayed: Relayed, permit: Permit, local: Arc<Local>) -> Self {
        let Relayed {
            peer,
            user,
            carried,
            pipe,
            answer,
        } = relayed;
        let opening = Box::new(Opening {
            relayed: Some(Box::new(Accepted {
                user,
                carried,
                answer: Some(answer),
            })),
            ..Opening::of(peer)
        });
        Self::with_opening(Socket::Pipe(pipe), Wire::Tcp, opening, permit, local)
    }

    fn with_opening(
        socket: Socket,
        wire: Wire,
        opening: Box<Opening>,
        permit: Permit,
        local: Arc<Local>,
    ) -> Self {
        let now = worker::time(clock::now());
        let live = local.shared.live();
        let limits = &live.limits;
        let rate = (limits.messages_per_second > 0).then(|| {
            Box::new(Bucket::new(
                clock::turn(),
                limits.messages_per_second,
                limits.burst,
            ))
        });
        Self {
            io: Io::Plain(socket),
            wire,
            conn: Conn::new(local.frontend.codec(), now),
            opening: Some(opening),
            session: None,
            work: Work::Idle,
            waiting: None,
            unsent: None,
            timer: None,
            permit: Some(permit),
            rate,
            phase: Phase::Open {
                flush_first: false,
                is_above_mark: false,
            },
            live,
            local,
        }
    }

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
        if matches!(self.phase, Phase::Relaying(_))
            && self.poll_relaying(cx, now, scratch).is_pending()
        {
            return Poll::Pending;
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

    /// Whether the socket is open and no session has begun on it.
    pub(crate) fn is_unopened(&self) -> bool {
        self.session.is_none() && matches!(self.phase, Phase::Open { .. })
    }

    /// Fails if the session is closed, for any reason.
    fn check_closed(&self) -> Result<(), CloseReason> {
        match &self.session {
            Some(session) if session.is_closed() => Err(self.end_reason()),
            _ => Ok(()),
        }
    }

    /// Why the session has ended.
    fn end_reason(&self) -> CloseReason {
        let session = self.session.as_ref();
        if let Some(reason) = session.and_then(|session| session.close_reason()) {
            return reason;
        }
        match session.and_then(|session| session.resumable()) {
            // Its client has come back on another connection.
            Some(state) if state.is_claimed => {
                CloseReason::Transport(io::ErrorKind::ConnectionAborted)
            }
            Some(state) if state.is_dismissed => CloseReason::Draining,
            // A close has its reason before it ends the outbox. Only the verdict on a slow client ends the outbox first, and the
            // sender that got the verdict is about to close the session, perhaps on another thread and after us.
            _ => CloseReason::SlowClient,
        }
    }

    /// The client's address, for logs.
    fn address(&self) -> Option<String> {
        let opening = self.opening.as_ref().map(|opening| opening.peer.address);
        opening
            .or_else(|| self.session.as_ref()?.client().address)
            .map(|address| address.to_string())
    }

    fn sid(&self) -> Option<u64> {
        self.session.as_ref().map(|session| session.id().get())
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn transport_error(error: io::Error) -> CloseReason {
    CloseReason::Transport(error.kind())
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

impl Drop for Driver {
    fn drop(&mut self) {
        // Only when a poll panicked or the worker stops: every other way closes the session itself.
        if let Work::Returning(returning) = &self.work {
            returning.close_if_claimed();
        }
        if let Phase::Suspended(away) = &self.phase {
            away.close_if_claimed();
        }
        if let Some(session) = self.session.take() {
            session.close(CloseReason::Internal);
            session.outbox().release();
        }
        if let (Phase::Gone { outlived: true }, Some(permit)) = (&self.phase, &self.permit) {
            permit.outlived();
        }
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
