//! Bytes that the socket has not taken yet.

use bytes::BytesMut;
use shaddock_core::Drained;
use shaddock_protocol::Millis;

/// Bytes that the socket has not taken yet. Exists only while there are some.
pub(super) struct Unsent {
    /// When the socket took something last.
    pub(super) since: Millis,
    /// Framed bytes of our own, before `body`.
    pub(super) front: BytesMut,
    /// Rest of what was taken from the outbox; under WebSocket the rest of one message.
    pub(super) body: Drained,
    /// Framed bytes of our own, behind `body`: they must not get into the middle of a message.
    pub(super) back: BytesMut,
}

impl Unsent {
    pub(super) fn new(now: Millis) -> Box<Self> {
        Box::new(Self {
            since: now,
            front: BytesMut::new(),
            body: Drained::default(),
            back: BytesMut::new(),
        })
    }

    /// Queues framed bytes of our own, which must not get into the middle of a message.
    pub(super) fn push_own(&mut self, bytes: &[u8]) {
        if self.body.is_empty() {
            self.front.extend_from_slice(bytes);
        } else {
            self.back.extend_from_slice(bytes);
        }
    }

    /// Framed bytes of our own, and the head of a message that has one.
    #[inline]
    pub(super) fn own_len(&self) -> usize {
        self.front.len() + self.back.len()
    }
}
