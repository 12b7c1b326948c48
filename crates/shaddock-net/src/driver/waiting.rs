//! Input that waits for the work before it.

use std::collections::VecDeque;

use bytes::Bytes;
use shaddock_protocol::{Inbound, Millis};

use crate::config::ConnectionLimits;

/// The approximate memory of a waiting message besides its route and body.
const MESSAGE_OVERHEAD: usize = 128;

/// Messages that have arrived and cannot be served yet. Exists only while there is one.
#[derive(Default)]
pub(super) struct Waiting {
    /// With memory of their own: a slice would keep the whole chunk that it was read with.
    messages: VecDeque<Inbound>,
    /// Their memory.
    bytes: usize,
    /// Rest of the bytes (of a WebSocket message, under WebSocket) that the last message was in.
    pub(super) input: Bytes,
    /// Rest of the chunk with further WebSocket frames.
    pub(super) frames: Bytes,
    /// Of the socket, while its input has to wait.
    pub(super) unread: Option<Unread>,
}

/// Input that waits in the socket, because enough messages of the session wait already.
#[derive(Clone, Copy)]
pub(super) struct Unread {
    /// Bytes at the last look.
    pub(super) seen: usize,
    pub(super) next_look: Millis,
}

impl Waiting {
    /// Drops what was read and not taken. False: nothing else is left.
    pub(super) fn forget_input(&mut self) -> bool {
        self.input = Bytes::new();
        self.frames = Bytes::new();
        self.unread = None;
        !self.messages.is_empty()
    }

    /// Enqueues a message behind the others.
    pub(super) fn push(&mut self, message: &Inbound) {
        let message = Inbound {
            id: message.id,
            route: message.route.detach(),
            body: Bytes::copy_from_slice(&message.body),
        };
        self.bytes += cost(&message);
        self.messages.push_back(message);
    }

    /// The message that is next.
    pub(super) fn pop(&mut self) -> Option<Inbound> {
        let message = self.messages.pop_front()?;
        self.bytes -= cost(&message);
        Some(message)
    }

    /// Whether input waits that was read before what the socket has.
    pub(super) fn holds_input(&self) -> bool {
        !(self.input.is_empty() && self.frames.is_empty())
    }

    /// Whether so much waits that no more input may be taken.
    pub(super) fn is_full(&self, limits: &ConnectionLimits) -> bool {
        self.holds_input()
            || self.messages.len() >= limits.waiting_messages
            || self.bytes >= limits.waiting_bytes
    }
}

/// The accounted size of a waiting message.
fn cost(message: &Inbound) -> usize {
    MESSAGE_OVERHEAD + message.route.as_str().len() + message.body.len()
}
