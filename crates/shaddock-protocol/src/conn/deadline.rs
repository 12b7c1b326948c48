//! Deadlines of a connection, as data.

use core::fmt;

/// Which deadline has passed. The connection is closed, without a KICK.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TimeoutKind {
    /// No HANDSHAKE in time.
    Handshake,
    /// The application has not answered the handshake in time.
    Answer,
    /// No ACK in time.
    Ack,
    /// No complete package from the client within the heartbeat timeout.
    Heartbeat,
    /// No byte in either direction for too long.
    Idle,
}

impl TimeoutKind {
    /// Name for logs and metrics, in snake case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::Answer => "handshake_answer",
            Self::Ack => "handshake_ack",
            Self::Heartbeat => "heartbeat",
            Self::Idle => "idle",
        }
    }
}

impl fmt::Display for TimeoutKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Handshake => "no handshake in time",
            Self::Answer => "handshake not answered in time",
            Self::Ack => "handshake not acknowledged in time",
            Self::Heartbeat => "heartbeat timeout",
            Self::Idle => "idle for too long",
        })
    }
}
