//! Where the socket of a connection is.

use std::sync::Arc;

use bytes::BytesMut;
use shaddock_core::{CloseReason, Session};
use shaddock_protocol::Millis;

use crate::{frontend::Carried, pipe::Pipe};

/// Where the socket is.
pub(super) enum Phase {
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

/// A socket that closes.
pub(super) struct Closing {
    /// When to give up.
    pub(super) until: Millis,
    pub(super) stage: Stage,
    pub(super) reason: CloseReason,
}

/// How far a close is.
#[derive(Clone, Copy)]
pub(super) enum Stage {
    /// The outbox, to its end: a close on another thread may still have its KICK to add.
    Flush,
    /// The close frame, under WebSocket.
    Goodbye,
    Shutdown,
    Drain {
        left: usize,
    },
}

/// A socket whose session is at another frontend.
pub(super) struct Relaying {
    pub(super) pipe: Pipe,
    /// The first bytes of a package that has not arrived whole.
    pub(super) rest: BytesMut,
    /// There is no room for what the client sends: its socket is not read, and looked at instead.
    pub(super) is_full: bool,
}

/// A session whose connection is gone.
pub(super) struct Away {
    /// When it is closed, on the clock. None: not known, the session is still to be handed over to this driver.
    pub(super) until: Option<Millis>,
    /// The session that this connection has claimed, and the claim, if it was lost before the session was handed over to it.
    pub(super) claim: Option<(Arc<Session>, u64)>,
    /// Its client has never acknowledged a handshake.
    pub(super) unopened: Option<Box<Unopened>>,
}

/// A session whose client has not acknowledged its handshake on any connection: with the first one that it does, it begins.
pub(super) struct Unopened {
    /// The data that the layer above left with its answer to the first handshake.
    pub(super) carried: Option<Carried>,
}

impl Away {
    /// The driver ends: closes a session that was, or will be, handed over to it, because it has no other owner.
    pub(super) fn close_if_claimed(&self) {
        if let Some((session, _)) = &self.claim {
            session.close(CloseReason::Internal);
        }
    }
}
