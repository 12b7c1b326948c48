//! How a call ends.

use bytes::Bytes;

use crate::nats::link::disconnected;
use crate::{RemoteError, RemoteErrorKind, code};

/// The end of a call.
#[derive(Debug)]
pub(in crate::nats) enum Answer {
    Payload(Bytes),
    /// NATS reports that the server has no subscriber.
    NoResponder,
    /// The connection broke after the call was sent.
    LinkLost,
    /// The connection broke before.
    NotSent,
    /// The server died after the call was sent.
    Died,
}

impl Answer {
    /// The payload, or the error of a call without an answer.
    pub(in crate::nats) fn into_payload(self) -> Result<Bytes, RemoteError> {
        match self {
            Self::Payload(payload) => Ok(payload),
            Self::NoResponder => Err(RemoteError::of(
                RemoteErrorKind::NoResponder,
                code::UNKNOWN,
                "nats: no responders available for request",
            )),
            Self::LinkLost => Err(RemoteError::of(
                RemoteErrorKind::LinkLost,
                code::UNAVAILABLE,
                "the connection to NATS was lost before an answer came",
            )),
            Self::NotSent => Err(disconnected()),
            Self::Died => Err(RemoteError::of(
                RemoteErrorKind::LinkLost,
                code::UNAVAILABLE,
                "the server died before its answer came",
            )),
        }
    }
}
