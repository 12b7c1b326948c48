//! Errors, one type per operation, and the reason for which a connection ended.

use std::{error::Error, fmt, io};

use shaddock_protocol::{
    InflateError, MessageError, PackageError, PackageTooLarge, ProtobufError, SchemaError,
};

use crate::ServerError;
use crate::body::DecodeError;

/// Why a connection ended. All pending calls receive the same reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CloseKind {
    /// The server sent a KICK. Reconnecting with the same user is rarely useful.
    #[error("kicked by the server: {}", .reason.as_deref().unwrap_or("no reason given"))]
    Kicked {
        /// `reason` of the KICK. `None`: the server gave none (Pitaya and nano never do).
        reason: Option<String>,
    },
    /// The server closed the connection without a KICK.
    #[error("closed by the server{}", .0.as_ref().map(|status| format!(": {status}")).unwrap_or_default())]
    ServerClosed(
        /// The status of the close frame, for a WebSocket with one.
        Option<CloseStatus>,
    ),
    /// No package arrived within the heartbeat timeout: the server or the network is down.
    #[error("the server was silent for longer than the heartbeat timeout")]
    HeartbeatTimeout,
    /// [`Client::close`](crate::Client::close) was called, or the last [`Client`](crate::Client) was dropped.
    #[error("closed by this client")]
    ClosedByClient,
    /// The server violated the protocol.
    #[error("protocol error: {0}")]
    Protocol(Violation),
    /// The socket failed. A server that closes its socket abruptly may also cause this (`ConnectionReset`).
    #[error("connection failed: {text}")]
    Io {
        /// The kind of failure.
        kind: io::ErrorKind,
        /// The message of the operating system.
        text: String,
    },
    /// The server rejected the handshake of a client that resumed its [session](crate::ClientBuilder::resume).
    #[error("the server refused the handshake of a new connection: code {code}")]
    Refused {
        /// The code: see [`ConnectError::Refused`].
        code: i64,
    },
    /// The runtime shut down, or the task that owns the connection ended with it.
    #[error("the runtime of the connection ended")]
    Aborted,
}

impl CloseKind {
    /// Whether reconnecting may help: not after a kick, and not after this client closed.
    pub const fn may_reconnect(&self) -> bool {
        !matches!(
            self,
            Self::Kicked { .. } | Self::ClosedByClient | Self::Protocol(_) | Self::Refused { .. }
        )
    }

    /// Whether the session may still exist.
    pub(crate) const fn is_loss(&self) -> bool {
        matches!(
            self,
            Self::ServerClosed(_) | Self::HeartbeatTimeout | Self::Io { .. }
        )
    }

    /// Decodes a KICK: `{"reason":".."}`, or an empty body.
    pub(crate) fn kicked(body: &[u8]) -> Self {
        #[derive(serde::Deserialize)]
        struct Kick {
            reason: Option<String>,
        }
        let kick: Option<Kick> = serde_json::from_slice(body).ok();
        Self::Kicked {
            reason: kick.and_then(|kick| kick.reason),
        }
    }

    pub(crate) fn io(error: &io::Error) -> Self {
        // TLS without a close notification: most servers close this way.
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return Self::ServerClosed(None);
        }
        Self::Io {
            kind: error.kind(),
            text: error.to_string(),
        }
    }
}

/// Status and text of a WebSocket close frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason} (status {code})")]
pub struct CloseStatus {
    /// Status code of RFC 6455, 1000 for most.
    pub code: u16,
    /// Text, at most 123 bytes, often empty.
    pub reason: String,
}

/// A protocol violation by a server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// The bytes are not packages, or one is longer than allowed.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// A DATA package that is not a message.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// A WebSocket message that ends inside a package.
    #[error("a WebSocket message ends inside a package")]
    CutPackage,
    /// Invalid or too long WebSocket frames.
    #[error("WebSocket: {0}")]
    WebSocket(String),
    /// An acknowledgement that decreases, exceeds what was sent, or is not a number.
    #[error("the server's acknowledgement is impossible")]
    Acknowledgement,
    /// The response to a resuming client lacks the counts, or they are impossible for this session.
    #[error("the server resumes a session with impossible counts")]
    ResumeCounts,
}

/// Why no connection was established.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The address is invalid. Nothing was sent.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// Name resolution or the connection failed.
    #[error("cannot connect")]
    Io(#[source] io::Error),
    /// TLS failed: usually a certificate that is not trusted, or a port without TLS.
    #[error("TLS failed")]
    Tls(#[source] io::Error),
    /// The certificates of this system, or those given, cannot be used.
    #[error("no usable root certificates: {0}")]
    Roots(String),
    /// The server did not respond to the WebSocket upgrade with 101.
    #[error("WebSocket upgrade refused: {0}")]
    Upgrade(String),
    /// Not complete within the [connect timeout](crate::ClientBuilder::connect_timeout).
    #[error("no connection within the timeout")]
    Timeout,
    /// The handshake response has a code other than 200: 501 for a client that is too old, 500 (Pitaya: 400) otherwise.
    #[error("handshake refused with code {code}")]
    Refused {
        /// The code.
        code: i64,
    },
    /// The handshake response is invalid.
    #[error(transparent)]
    Answer(#[from] AnswerError),
    /// The connection ended before the handshake response.
    #[error("connection ended during the handshake: {0}")]
    Closed(CloseKind),
    /// The `user` data of the handshake cannot be serialised, or are longer than a package.
    #[error("the handshake cannot be written: {0}")]
    Encode(#[from] EncodeError),
}

/// An address that is not `tcp://host:port`, `tls://host:port`, `ws://host:port/path` or `wss://host:port/path`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// Not of the form `scheme://host:port/path`.
    #[error("the address is not of the form scheme://host:port")]
    Syntax,
    /// The scheme is not `tcp`, `tls`, `ws` or `wss`.
    #[error("the scheme must be tcp, tls, ws or wss")]
    Scheme,
    /// The port is not a number from 0 to 65535, or is missing and the scheme has no default.
    #[error("the address needs a port")]
    Port,
    /// `tcp` and `tls` have no paths.
    #[error("tcp and tls addresses have no path")]
    Path,
    /// The host is not a valid name for a certificate.
    #[error("the host is not a valid name for TLS")]
    Host,
}

/// An invalid handshake response.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AnswerError {
    /// Not JSON, or a member of the wrong type.
    #[error("the handshake answer is not JSON of the right shape: {0}")]
    Json(String),
    /// The body does not inflate, or becomes too long.
    #[error("the handshake answer: {0}")]
    Compression(#[from] InflateError),
    /// The route dictionary contains a code twice, or one that is not a 16-bit number.
    #[error("the route dictionary is not valid: {0}")]
    Dictionary(String),
    /// A protobuf schema is invalid.
    #[error("the protobuf schema is not valid: {0}")]
    Schema(#[from] SchemaError),
    /// A name in a protobuf schema is longer than 128 bytes: decoding with it would turn short bodies into very long ones.
    #[error("a name in the protobuf schema is longer than 128 bytes")]
    LongName,
}

/// A message that cannot be encoded. Nothing was sent; the connection stays open.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// `Serialize` of the body failed.
    #[error("the body is not JSON: {0}")]
    Json(String),
    /// The body does not match the route's protobuf schema.
    #[error("the body does not fit its schema: {0}")]
    Protobuf(#[from] ProtobufError),
    /// The route is longer than 255 bytes and has no code.
    #[error(transparent)]
    Route(#[from] MessageError),
    /// Longer than a package can be.
    #[error(transparent)]
    TooLarge(#[from] PackageTooLarge),
    /// The bodies of this Pitaya server are Google protobuf: use the `_raw` methods with encoded bodies.
    #[error("this server uses protobuf, not JSON: use the raw methods")]
    NotJson,
    /// Signed bodies must be JSON objects.
    #[error("only JSON objects can be signed")]
    NotAnObject,
    /// The key cannot sign.
    #[error("signing failed")]
    Signing,
}

/// Why a request failed.
#[derive(Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The request cannot be encoded. It was not sent.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The connection ended, before or after the request was sent.
    #[error("no connection: {0}")]
    Closed(CloseKind),
    /// The session ended while the request was pending, and a new one began ([`SessionEvent::Restarted`](crate::SessionEvent::Restarted)).
    /// The server may have executed the request.
    #[error("the session of this request ended")]
    Lost,
    /// No response within the [request timeout](crate::ClientBuilder::request_timeout). The server may still execute it; a late response is
    /// ignored.
    #[error("no answer within the timeout")]
    Timeout,
    /// The server returned an error.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The response cannot be decoded.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// More requests are pending than [allowed](crate::ClientBuilder::max_pending). It was not sent.
    #[error("too many requests wait for an answer")]
    TooManyPending,
}

/// Why a notify was not sent.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotifyError {
    /// It cannot be encoded.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The connection has ended.
    #[error("no connection: {0}")]
    Closed(CloseKind),
}

/// The output of a program whose `main` returns the error: its text, for people, and the texts of its causes.
fn with_causes(error: &dyn Error, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        // Some texts contain that of their cause.
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    f.write_str(&text)
}

macro_rules! debug_with_causes {
    ($($error:ty,)*) => {
        $(
            impl fmt::Debug for $error {
                fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    with_causes(self, f)
                }
            }
        )*
    };
}

debug_with_causes! {
    ConnectError,
    RequestError,
    NotifyError,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_that_main_returns_are_for_people() {
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        let text = format!("{:?}", ConnectError::Io(refused));
        assert_eq!(text, "cannot connect: connection refused");
        let json = EncodeError::Protobuf(ProtobufError::NotAnObject);
        let twice = format!("{:?}", ConnectError::Encode(json.clone()));
        assert_eq!(twice, ConnectError::Encode(json).to_string());
        assert_eq!(
            format!("{:?}", RequestError::Timeout),
            "no answer within the timeout"
        );
        assert_eq!(
            format!("{:?}", NotifyError::Closed(CloseKind::HeartbeatTimeout)),
            "no connection: the server was silent for longer than the heartbeat timeout"
        );
    }

    #[test]
    fn kicks_with_and_without_a_reason() {
        let reason = |body: &str| match CloseKind::kicked(body.as_bytes()) {
            CloseKind::Kicked { reason } => reason,
            other => panic!("{other}"),
        };
        assert_eq!(reason(r#"{"reason":"full"}"#).as_deref(), Some("full"));
        for body in ["", "{}", "[]", r#"{"reason":1}"#, "\u{ff}"] {
            assert_eq!(reason(body), None, "{body}");
        }
    }
}
