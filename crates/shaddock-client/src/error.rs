//! Errors, one type per operation, and the one reason why a connection ended.

use std::io;

use shaddock_protocol::{
    InflateError, MessageError, PackageError, PackageTooLarge, ProtobufError, SchemaError,
};

use crate::ServerError;

/// Why a connection ended. Every waiting call gets the same one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CloseKind {
    /// The server sent a KICK. Connecting again with the same user is rarely welcome.
    #[error("kicked by the server: {}", .reason.as_deref().unwrap_or("no reason given"))]
    Kicked {
        /// `reason` of the KICK. `None`: the server gave none (Pitaya and nano never do).
        reason: Option<String>,
    },
    /// The server closed the connection without a KICK.
    #[error("closed by the server{}", .0.as_ref().map(|status| format!(": {status}")).unwrap_or_default())]
    ServerClosed(
        /// What it said, if this is a WebSocket and it said something.
        Option<CloseStatus>,
    ),
    /// No package came within the heartbeat timeout: the server or the way to it is dead.
    #[error("the server was silent for longer than the heartbeat timeout")]
    HeartbeatTimeout,
    /// [`Client::close`](crate::Client::close) was called, or the last [`Client`](crate::Client) was dropped.
    #[error("closed by this client")]
    ClosedByClient,
    /// What the server sends is not the protocol.
    #[error("protocol error: {0}")]
    Protocol(Violation),
    /// The socket failed. A server that destroys its socket may look like this too (`ConnectionReset`).
    #[error("connection failed: {text}")]
    Io {
        /// What kind of failure.
        kind: io::ErrorKind,
        /// The system's text, for people.
        text: String,
    },
    /// The server refused the handshake of a client that came back to its [session](crate::ClientBuilder::resume).
    #[error("the server refused the handshake of a new connection: code {code}")]
    Refused {
        /// The code: see [`ConnectError::Refused`].
        code: i64,
    },
    /// The runtime shut down, or the task that owns the connection was ended with it.
    #[error("the runtime of the connection ended")]
    Aborted,
}

impl CloseKind {
    /// Whether connecting again can be expected to help: not after a kick, and not after this client closed.
    pub const fn may_reconnect(&self) -> bool {
        !matches!(
            self,
            Self::Kicked { .. } | Self::ClosedByClient | Self::Protocol(_) | Self::Refused { .. }
        )
    }

    pub(crate) fn io(error: &io::Error) -> Self {
        // TLS without its goodbye: that is how most servers leave.
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

/// What a server did that is not the protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// The bytes are not packages, or one is longer than allowed.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// A DATA package that is no message.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// A WebSocket message that ends inside a package.
    #[error("a WebSocket message ends inside a package")]
    CutPackage,
    /// WebSocket frames that are wrong, or too long.
    #[error("WebSocket: {0}")]
    WebSocket(String),
    /// An acknowledgement that goes back, is ahead of what was sent, or is no number.
    #[error("the server's acknowledgement is not possible")]
    Acknowledgement,
    /// The answer to a client that comes back lacks its counts, or they are not those of this session.
    #[error("the server resumes a session with counts that are not possible")]
    ResumeCounts,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The address cannot be used. Nothing was sent.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// Name resolution or the connection failed.
    #[error("cannot connect")]
    Io(#[source] io::Error),
    /// TLS failed: most often a certificate that is not trusted, or a port without TLS.
    #[error("TLS failed")]
    Tls(#[source] io::Error),
    /// The certificates of this system, or those given, cannot be used.
    #[error("no usable root certificates: {0}")]
    Roots(String),
    /// The server did not answer the WebSocket upgrade with 101.
    #[error("WebSocket upgrade refused: {0}")]
    Upgrade(String),
    /// Not done within the [connect timeout](crate::ClientBuilder::connect_timeout).
    #[error("no connection within the timeout")]
    Timeout,
    /// The server answered the handshake with a code other than 200: 501 for a client that is too old, 500 (Pitaya: 400) for the
    /// rest.
    #[error("handshake refused with code {code}")]
    Refused {
        /// The code.
        code: i64,
    },
    /// The answer to the handshake cannot be read.
    #[error(transparent)]
    Answer(#[from] AnswerError),
    /// The connection ended before the handshake was answered.
    #[error("connection ended during the handshake: {0}")]
    Closed(CloseKind),
    /// The `user` data of the handshake is no JSON, or longer than a package.
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
    /// The port is no number from 0 to 65535, or there is none and the scheme has no default.
    #[error("the address needs a port")]
    Port,
    /// `tcp` and `tls` have no paths.
    #[error("tcp and tls addresses have no path")]
    Path,
    /// The host is no name that a certificate could be for.
    #[error("the host is no valid name for TLS")]
    Host,
}

/// The answer to a handshake cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AnswerError {
    /// Not JSON, or a member of the wrong type.
    #[error("the handshake answer is not JSON of the right shape: {0}")]
    Json(String),
    /// It does not inflate, or becomes too long.
    #[error("the handshake answer: {0}")]
    Compression(#[from] InflateError),
    /// The route dictionary names a code twice, or one that is no 16-bit number.
    #[error("the route dictionary is not valid: {0}")]
    Dictionary(String),
    /// A protobuf schema cannot be used.
    #[error("the protobuf schema is not valid: {0}")]
    Schema(#[from] SchemaError),
    /// A name in a protobuf schema is longer than 128 bytes: decoding with it would turn short bodies into very long ones.
    #[error("a name in the protobuf schema is longer than 128 bytes")]
    LongName,
}

/// A message that cannot be written. Nothing was sent; the connection lives.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// `Serialize` of the body failed.
    #[error("the body is not JSON: {0}")]
    Json(String),
    /// The body does not fit the route's protobuf schema.
    #[error("the body does not fit its schema: {0}")]
    Protobuf(#[from] ProtobufError),
    /// The route is longer than 255 bytes and has no code.
    #[error(transparent)]
    Route(#[from] MessageError),
    /// Longer than a package can be.
    #[error(transparent)]
    TooLarge(#[from] PackageTooLarge),
    /// The bodies of this Pitaya server are Google protobuf: use the `_raw` methods with encoded bodies.
    #[error("this server speaks protobuf, not JSON: use the raw methods")]
    NotJson,
    /// Signed bodies must be JSON objects.
    #[error("only JSON objects can be signed")]
    NotAnObject,
    /// The key cannot sign.
    #[error("signing failed")]
    Signing,
}

/// A body that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Not JSON, or not of the type asked for.
    #[error("the body is not JSON of the type asked for: {0}")]
    Json(String),
    /// Not what the route's protobuf schema says.
    #[error("the body does not match its schema: {0}")]
    Protobuf(#[from] ProtobufError),
    /// The compressed body is broken or becomes too long.
    #[error(transparent)]
    Compression(#[from] InflateError),
}

/// Why a request has no result.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The request cannot be written. It was not sent.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The connection ended, before or after the request was sent.
    #[error("no connection: {0}")]
    Closed(CloseKind),
    /// The session ended while the request waited, and a new one began ([`SessionEvent::Restarted`](crate::SessionEvent::Restarted)).
    /// The server may have worked on the request.
    #[error("the session of this request ended")]
    Lost,
    /// No answer within the [request timeout](crate::ClientBuilder::request_timeout). The server may still work on it; a late answer
    /// is ignored.
    #[error("no answer within the timeout")]
    Timeout,
    /// The server answered with an error.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// There is an answer, but it is not what was expected.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// More requests wait for an answer than [allowed](crate::ClientBuilder::max_pending). It was not sent.
    #[error("too many requests wait for an answer")]
    TooManyPending,
}

/// Why a notify was not sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotifyError {
    /// It cannot be written.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The connection has ended.
    #[error("no connection: {0}")]
    Closed(CloseKind),
}
