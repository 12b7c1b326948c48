//! States and events of a connection.

use crate::{HandshakeError, HandshakeRequest, MessageError, PackageError, Route};
use alloc::boxed::Box;
use bytes::Bytes;
use core::num::NonZeroU64;

/// The state of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConnState {
    /// Accepted; no HANDSHAKE yet.
    WaitHandshake,
    /// The application has received the HANDSHAKE and has neither accepted nor rejected it. No input is consumed.
    Answering,
    /// The response was written; no ACK yet.
    WaitAck,
    /// Messages are exchanged.
    Working,
    /// Closed. No input is consumed, and there is no deadline.
    Closed,
}

/// An event decoded from the bytes of a client.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// A valid HANDSHAKE. The caller decides, possibly later, and calls [`Conn::accept`](crate::Conn::accept) or
    /// [`Conn::reject`](crate::Conn::reject); until then no input is consumed.
    Handshake(Box<HandshakeRequest>),
    /// The client has acknowledged the handshake: the connection is WORKING. The first HEARTBEAT is already in `out`.
    Open,
    /// A request or notify to dispatch.
    Message(Inbound),
    /// A request that cannot be dispatched. The caller sends an error response; the connection stays open.
    Refused {
        /// The request's id.
        id: NonZeroU64,
        /// Its route, if it could be read.
        route: Option<Route>,
        /// The reason.
        reason: RefuseReason,
    },
    /// Data without effect, which are only counted.
    Dropped(DropReason),
    /// The third part of the route is `constructor` (Pomelo): the caller kicks with the reason `attack`.
    Attack,
    /// A HEARTBEAT of a [counted](crate::Conn::is_counted) connection. The caller answers it, if heartbeats are on.
    Heartbeat {
        /// The number of DATA packages that the client has received since the session began; `None` if nothing is new.
        acknowledged: Option<u64>,
    },
    /// The client of a counted connection ends its session. The connection is [`ConnState::Closed`].
    Goodbye,
}

impl Event {
    /// Whether the event comes from a DATA package that counts.
    pub const fn is_of_data(&self) -> bool {
        match self {
            Self::Message(_) | Self::Refused { .. } | Self::Attack => true,
            Self::Dropped(reason) => reason.is_of_data(),
            _ => false,
        }
    }
}

/// A request or notify with a valid route and a readable body.
#[derive(Clone, Debug)]
pub struct Inbound {
    /// The id for the response; `None` for a notify, which expects no response.
    pub id: Option<NonZeroU64>,
    /// Pomelo: three parts. Pitaya: two or three parts.
    pub route: Route,
    /// Pomelo: JSON text in UTF-8, `{}` if the client sent nothing. Pitaya: the bytes from the client, inflated, otherwise unchanged.
    pub body: Bytes,
}

/// Why a request receives an error response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RefuseReason {
    /// The route code is not in the dictionary, or there is no dictionary.
    UnknownCode,
    /// The route is not UTF-8 (after repair of browser clients' forms).
    RouteNotText,
    /// Pomelo: not three parts. Pitaya: not two or three.
    BadRoute,
    /// Pitaya: a part of the route is empty or blank.
    BlankRoute,
    /// The body is not JSON, or nested too deep.
    BadJson,
    /// The body does not match the route's protobuf schema.
    BadProtobuf,
}

impl RefuseReason {
    /// Name for logs and metrics, in snake case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::UnknownCode => "unknown_code",
            Self::RouteNotText => "route_not_text",
            Self::BadRoute => "bad_route",
            Self::BlankRoute => "blank_route",
            Self::BadJson => "bad_json",
            Self::BadProtobuf => "bad_protobuf",
        }
    }

    /// The message for people and for Pitaya clients.
    pub const fn text(self) -> &'static str {
        match self {
            Self::UnknownCode => "unknown route code",
            Self::RouteNotText => "route is not UTF-8",
            Self::BadRoute => "invalid route",
            Self::BlankRoute => "route field can not be empty",
            Self::BadJson => "body is not JSON",
            Self::BadProtobuf => "body does not match its schema",
        }
    }
}

/// Why a message was dropped without a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DropReason {
    /// DATA before the ACK. It never reaches a handler.
    DataBeforeAck,
    /// A HANDSHAKE after the first one.
    SecondHandshake,
    /// An ACK that was not expected.
    UnexpectedAck,
    /// A HEARTBEAT before the connection is WORKING.
    EarlyHeartbeat,
    /// A message of type 4 to 7.
    InvalidType,
    /// A response, sent by a client.
    Response,
    /// A notify that cannot be dispatched, with the reason for which a request would be refused.
    BadNotify(RefuseReason),
    /// Messages must be signed, and this one has no valid signature.
    BadSignature,
}

impl DropReason {
    /// Whether a DATA package of a WORKING connection was dropped.
    const fn is_of_data(self) -> bool {
        match self {
            Self::InvalidType | Self::Response | Self::BadNotify(_) | Self::BadSignature => true,
            Self::DataBeforeAck
            | Self::SecondHandshake
            | Self::UnexpectedAck
            | Self::EarlyHeartbeat => false,
        }
    }

    /// Name for logs and metrics, in snake case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::DataBeforeAck => "data_before_ack",
            Self::SecondHandshake => "second_handshake",
            Self::UnexpectedAck => "unexpected_ack",
            Self::EarlyHeartbeat => "early_heartbeat",
            Self::InvalidType => "invalid_type",
            Self::Response => "response_from_client",
            Self::BadNotify(_) => "bad_notify",
            Self::BadSignature => "bad_signature",
        }
    }
}

/// Why a connection must be closed, without a KICK. The data in `out` must still be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// The bytes are not packages, or one is too long.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// A DATA package whose body is not a valid message.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// The handshake is invalid; the error response is in `out`.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// The flag says compressed and the body does not inflate, or becomes too long.
    #[error("broken or oversized compressed body")]
    Compression,
    /// A client sent a KICK.
    #[error("KICK from a client")]
    Kick,
    /// The body of a HEARTBEAT is not a number, or the number decreases or exceeds what was sent.
    #[error("impossible acknowledgement")]
    Acknowledgement,
}

impl ProtocolError {
    /// Name for logs and metrics, in snake case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Package(PackageError::UnknownType(_)) => "unknown_package_type",
            Self::Package(PackageError::TooLarge { .. }) => "package_too_large",
            Self::Message(_) => "malformed_message",
            Self::Handshake(_) => "bad_handshake",
            Self::Compression => "bad_compression",
            Self::Kick => "kick_from_client",
            Self::Acknowledgement => "bad_acknowledgement",
        }
    }
}
