//! The kinds of session events.

/// The kind of a session event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventKind {
    /// The session was bound to a user.
    Bound,
    /// The user was taken away; the session stays open.
    Unbound,
    /// The connection is lost, and the session waits for its client.
    Suspended,
    /// The client has come back to its suspended session.
    Resumed,
    /// The session is closed.
    Closed,
}

impl EventKind {
    /// `bound`, `unbound`, `suspended`, `resumed` or `closed`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bound => "bound",
            Self::Unbound => "unbound",
            Self::Suspended => "suspended",
            Self::Resumed => "resumed",
            Self::Closed => "closed",
        }
    }
}
