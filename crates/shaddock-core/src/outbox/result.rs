//! The ways to enqueue a package, and the answers of an outbox to senders and to the driver of its connection.

use std::sync::Arc;

/// How a shared package is enqueued. The default: in order, and the connection is woken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offer<'a> {
    /// The newest package of this key is enough: a position, a score. While the client cannot take it (its socket is full, or its session is
    /// suspended), it replaces the one before it, at the end of what waits.
    pub latest: Option<&'a Arc<str>>,
    /// The connection is not woken: the package is sent with the next data, or with [`Outbox::flush`](crate::Outbox::flush). For push
    /// schedulers that collect.
    pub is_buffered: bool,
}

/// The next step of the driver after it has written the taken data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Next {
    /// Continue.
    #[default]
    Continue,
    /// Close the connection after all taken data are written. No further data follow.
    CloseAfterFlush,
    /// Close the connection immediately, without writing.
    CloseNow,
    /// Release the session, which continues without this connection, and close the connection without a goodbye. Only for resumable
    /// sessions.
    Release,
}

/// The result of a poll of the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// All taken data were written.
    Done,
    /// The socket is full; the driver waits until it is writable.
    Blocked,
}

/// Whether a sender should wait, if it can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// There is room.
    Enough,
    /// So much is queued that it should be offered to the connection first ([`Outbox::is_pressed`](crate::Outbox::is_pressed)).
    Pressed,
    /// The same amount is queued, for a socket that is full: waiting would mean waiting for the client.
    Stalled,
    /// The client has no connection at the moment. The message is kept for it.
    Kept,
    /// The message is kept, and as much is kept for the client as may be: to wait means to wait for the client, which
    /// [`OnFull::Wait`](crate::OnFull::Wait) asks for.
    Full,
}

/// A message was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The session is closed or closing, or does not exist.
    #[error("session is closed")]
    Closed,
    /// The client does not read: its socket is full, and this message exceeds the limit. Returned once; the session ends.
    #[error("client does not read, too many bytes are queued")]
    SlowClient,
    /// More was pushed than the connection had a chance to write. The message is not queued; the session stays open. Senders that await
    /// their pushes do not receive this error.
    #[error(
        "pushes arrive faster than the connection can write; await them, or send less at a time"
    )]
    Busy,
    /// The message alone is longer than the limit. The session stays open.
    #[error("message of {len} bytes, at most {limit} can be queued for a client")]
    TooLarge {
        /// Length of the message in bytes.
        len: usize,
        /// The limit in bytes.
        limit: usize,
    },
}

/// A message was not encoded or not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PushError<E> {
    /// The outbox rejected the message.
    #[error(transparent)]
    Send(#[from] SendError),
    /// The encoder failed. Nothing was queued.
    #[error("message was not encoded: {0}")]
    Encode(E),
}

/// The content of an outbox, and totals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutboxStats {
    /// Bytes queued and not taken by the driver.
    pub queued_bytes: usize,
    /// Bytes taken by the driver and not written.
    pub in_flight_bytes: usize,
    /// Messages accepted so far.
    pub messages: u64,
    /// Bytes written so far, without the framing of the transport.
    pub written_bytes: u64,
}
