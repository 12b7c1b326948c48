//! How requests are distributed and sent.

/// The strategy that chooses a URL of a backend.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Balance {
    /// Each URL in turn.
    #[default]
    RoundRobin,
    /// The same URL for the same user; a session without a user has its own.
    UserHash,
}

/// The HTTP version for a service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Protocol {
    /// HTTP/2 if TLS negotiates it, otherwise HTTP/1.1.
    #[default]
    Auto,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, also without TLS: the service must support it.
    Http2,
}
