//! The state of a connection that has no session yet.

use std::{sync::Arc, task::Waker};

use bytes::BytesMut;
use shaddock_protocol::HandshakeRequest;

use super::relayed::Accepted;
use crate::frontend::{Carried, Peer};

/// The state before there is a session. Dropped when it begins: an idle session does not pay for it.
pub(super) struct Opening {
    pub(super) peer: Peer,
    /// The peer's address was judged by lists and count. Behind a proxy that comes later.
    pub(super) is_judged: bool,
    /// Bytes of a PROXY or HTTP head that has not arrived whole.
    pub(super) head: BytesMut,
    pub(super) handshake: Option<Arc<HandshakeRequest>>,
    /// The data that the layer above left with its answer.
    pub(super) carried: Option<Carried>,
    /// Bytes read so far; they count for the session once there is one.
    pub(super) received: u64,
    /// The session, if it is there before the handshake is acknowledged, is a new one.
    pub(super) is_new: bool,
    /// The number of its claim, if its handshake asks for a session that was there before.
    pub(super) claim: u64,
    /// The task that had parked that session.
    pub(super) parked: Option<WakeLater>,
    /// Another frontend has accepted the connection.
    pub(super) relayed: Option<Box<Accepted>>,
}

impl Opening {
    pub(super) fn of(peer: Peer) -> Self {
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

/// Wakes the task that had parked a session, when it is dropped: after the handshake, which does not wait for the end of that task.
pub(super) struct WakeLater(pub(super) Waker);

impl Drop for WakeLater {
    fn drop(&mut self) {
        self.0.wake_by_ref();
    }
}
