//! The events that a backend can subscribe to.

/// An event that is sent to a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum BackendEvent {
    /// A client connects: the backend may reject it, or return data for the client. If the backend does not respond, clients are rejected.
    Handshake,
    /// A session was bound to a user.
    Bound,
    /// A session has lost its connection, and its client may resume it.
    Suspended,
    /// The client of a suspended session has resumed it.
    Resumed,
    /// A session was closed.
    Closed,
}

impl BackendEvent {
    /// All events.
    pub const ALL: [Self; 5] = [
        Self::Handshake,
        Self::Bound,
        Self::Suspended,
        Self::Resumed,
        Self::Closed,
    ];

    /// The name: `handshake`, `bound`, `suspended`, `resumed` or `closed`. It is the last part of the URL, and the member `event` of the
    /// body.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::Bound => "bound",
            Self::Suspended => "suspended",
            Self::Resumed => "resumed",
            Self::Closed => "closed",
        }
    }
}
