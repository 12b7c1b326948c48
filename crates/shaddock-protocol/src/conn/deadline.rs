//! Deadlines of a connection, as data.

use super::ConnState;
use crate::{Codec, Dialect, Millis};
use core::fmt;

/// The deadline that has passed. The connection is closed without a KICK.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TimeoutKind {
    /// No HANDSHAKE in time.
    Handshake,
    /// The application has not accepted or rejected the handshake in time.
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

/// The three times from which all deadlines are counted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    /// Start of the current handshake step.
    step: Millis,
    /// Time of the last byte in either direction.
    traffic: Millis,
    /// Time of the last complete package from the client.
    package: Millis,
}

impl Clock {
    pub(super) const fn new(now: Millis) -> Self {
        Self {
            step: now,
            traffic: now,
            package: now,
        }
    }

    pub(super) fn enter(&mut self, now: Millis) {
        self.step = now;
    }

    pub(super) fn touch(&mut self, now: Millis) {
        self.traffic = now;
    }

    pub(super) fn package(&mut self, now: Millis) {
        self.package = now;
    }

    /// The earliest deadline of a connection in this state. The idle timeout and the heartbeat timeout never apply together.
    pub(super) fn next(
        &self,
        state: ConnState,
        dialect: Dialect,
        codec: &Codec,
    ) -> Option<(Millis, TimeoutKind)> {
        let step = match state {
            ConnState::Closed => return None,
            ConnState::WaitHandshake => TimeoutKind::Handshake,
            ConnState::Answering => TimeoutKind::Answer,
            ConnState::WaitAck => TimeoutKind::Ack,
            ConnState::Working => {
                return Some(match codec.heartbeat_timeout(dialect) {
                    Some(timeout) => (self.package + timeout, TimeoutKind::Heartbeat),
                    None => self.idle(codec),
                });
            }
        };
        let step = (self.step + codec.limits().handshake_timeout, step);
        let idle = self.idle(codec);
        Some(if idle.0 < step.0 { idle } else { step })
    }

    fn idle(&self, codec: &Codec) -> (Millis, TimeoutKind) {
        (
            self.traffic + codec.limits().idle_timeout,
            TimeoutKind::Idle,
        )
    }
}
