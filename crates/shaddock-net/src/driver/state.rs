//! The state of a connection: the fields that all parts share, how they begin and end, and the questions that several parts ask.

use std::{io, net::SocketAddr, sync::Arc};

use bytes::BytesMut;
use shaddock_core::{CloseReason, Session, TransportKind};
use shaddock_protocol::Conn;

use super::{
    opening::Opening,
    phase::Phase,
    relayed::{Accepted, Relayed},
    unsent::Unsent,
    waiting::Waiting,
    wire::Wire,
    work::Work,
};
use crate::{
    access::Permit,
    clock,
    config::Live,
    frontend::Peer,
    io::Io,
    listener::Local,
    rate::Bucket,
    socket::Socket,
    worker::{self, Timer},
};

/// Reads per poll. A client that sends without pause yields to the others after this number.
pub(super) const READS_PER_POLL: usize = 4;

/// One connection. Polled by the listener's task on its worker; done when the socket is closed and its last handler has ended. If its session
/// still waits for its client then, the session is returned.
pub(crate) struct Driver {
    pub(super) io: Io,
    pub(super) wire: Wire,
    pub(super) conn: Conn,
    pub(super) local: Arc<Local>,
    /// The bounds that were in force when it came.
    pub(super) live: Arc<Live>,
    pub(super) opening: Option<Box<Opening>>,
    pub(super) session: Option<Arc<Session>>,
    pub(super) work: Work,
    pub(super) waiting: Option<Box<Waiting>>,
    pub(super) unsent: Option<Box<Unsent>>,
    pub(super) timer: Option<Timer>,
    /// Until the last handler has ended: it counts for its client's address. `None`: nothing runs for a session without a socket.
    pub(super) permit: Option<Permit>,
    /// Only where messages are limited.
    pub(super) rate: Option<Box<Bucket>>,
    pub(super) phase: Phase,
}

/// # Construction
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

    /// Where the listener has TLS, it begins here, and `rest`, which was read past the layer before, goes to it. Without TLS `rest` is given
    /// back, for the next layer.
    pub(super) fn begin_tls(&mut self, rest: BytesMut) -> Option<BytesMut> {
        let Some(tls) = &self.local.shared.config.tls else {
            return Some(rest);
        };
        self.io.start_tls(&tls.acceptor(), rest.freeze());
        None
    }
}

/// # Questions
impl Driver {
    /// Whether the socket is open and no session has begun on it.
    pub(crate) fn is_unopened(&self) -> bool {
        self.session.is_none() && matches!(self.phase, Phase::Open { .. })
    }

    /// Fails if the session is closed, for any reason.
    pub(super) fn check_closed(&self) -> Result<(), CloseReason> {
        match &self.session {
            Some(session) if session.is_closed() => Err(self.end_reason()),
            _ => Ok(()),
        }
    }

    /// Why the session has ended.
    pub(super) fn end_reason(&self) -> CloseReason {
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

    /// The transport of the connection.
    pub(super) fn transport(&self) -> TransportKind {
        if let Some(opening) = &self.opening
            && opening.relayed.is_some()
        {
            return opening.peer.transport;
        }
        match (&self.wire, self.io.is_tls()) {
            (Wire::Ws(_), false) => TransportKind::WebSocket,
            (Wire::Ws(_), true) => TransportKind::WebSocketTls,
            (_, false) => TransportKind::Tcp,
            (_, true) => TransportKind::Tls,
        }
    }

    /// The client's address, for logs.
    pub(super) fn address(&self) -> Option<String> {
        let opening = self.opening.as_ref().map(|opening| opening.peer.address);
        opening
            .or_else(|| self.session.as_ref()?.client().address)
            .map(|address| address.to_string())
    }

    pub(super) fn sid(&self) -> Option<u64> {
        self.session.as_ref().map(|session| session.id().get())
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
