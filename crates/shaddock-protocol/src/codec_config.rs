//! The configuration of a codec, and the error of its encoders.

use crate::{
    BrowserClients, DialectChoice, Dictionary, HashPolicy, Limits, MessageError, PackageTooLarge,
    ProtobufError, Protos,
};
use alloc::sync::Arc;
use core::time::Duration;

/// Heartbeat interval of Pitaya clients if none is configured. Pitaya's handshake cannot disable heartbeats. (Go clients start a ticker
/// with the number that they read, and a ticker of 0 panics.)
pub const PITAYA_HEARTBEAT: Duration = Duration::from_secs(30);

/// The body encoding that the handshake announces to Pitaya clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PitayaSerializer {
    /// JSON.
    #[default]
    Json,
    /// Google protobuf. Bodies are passed through unchanged.
    Protobuf,
}

impl PitayaSerializer {
    /// The name in the handshake.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Protobuf => "protobuf",
        }
    }
}

/// The response to Pomelo clients for an error without a body of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PomeloErrors {
    /// `{"code":500}` for every error, as in Pomelo.
    #[default]
    Code,
    /// `{"code":500,"error":"PIT-404","msg":".."}`: the code and message that Pitaya clients receive, so that clients can distinguish
    /// errors.
    Text,
}

/// The protocol configuration of a frontend: `CodecConfig::default().heartbeat(Duration::from_secs(30))`.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct CodecConfig {
    /// Accepted dialects. Default: detected by the handshake.
    pub dialect: DialectChoice,
    /// Limits on data from clients.
    pub limits: Limits,
    /// Heartbeat interval. `None` or zero: no heartbeats, except with Pitaya clients ([`PITAYA_HEARTBEAT`]). Use whole seconds: C and Go
    /// clients parse an integer (for Pitaya clients it is rounded up). Default: none.
    pub heartbeat: Option<Duration>,
    /// Maximum silence of a client while heartbeats are on. Default: twice the interval.
    pub heartbeat_timeout: Option<Duration>,
    /// Codes for routes. `None`: the server neither announces nor accepts codes.
    pub dictionary: Option<Arc<Dictionary>>,
    /// Schemas for bodies of Pomelo clients. `None`: all bodies are JSON. Clients without protobuf support may send JSON for any route: a
    /// body that begins with `{` or `[` cannot be protobuf.
    pub protos: Option<Arc<Protos>>,
    /// Format of errors for Pomelo clients.
    pub pomelo_errors: PomeloErrors,
    /// Clients that do not decode emoji as UTF-8.
    pub browser_clients: BrowserClients,
    /// Whether requests and notifies must be signed, and with which hashes. Default `None`: no signatures. With signatures, Pitaya clients
    /// are rejected, because they cannot sign.
    pub crypto: Option<HashPolicy>,
    /// With `crypto`: accept clients that claim to be Pitaya's without signatures. Default: no.
    pub unsigned_pitaya: bool,
    /// Encoding of bodies of Pitaya clients.
    pub pitaya_serializer: PitayaSerializer,
    /// Whether data for Pitaya clients are deflated if that makes them shorter. Default: no.
    pub compress_pitaya: bool,
}

crate::setters!(CodecConfig {
    dialect: DialectChoice,
    limits: Limits,
    heartbeat: impl Into<Option<Duration>>,
    heartbeat_timeout: impl Into<Option<Duration>>,
    dictionary: impl Into<Option<Arc<Dictionary>>>,
    protos: impl Into<Option<Arc<Protos>>>,
    pomelo_errors: PomeloErrors,
    browser_clients: BrowserClients,
    crypto: impl Into<Option<HashPolicy>>,
    unsigned_pitaya: bool,
    pitaya_serializer: PitayaSerializer,
    compress_pitaya: bool,
});

/// A message that cannot be encoded. Nothing was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// Longer than a package can be.
    #[error(transparent)]
    TooLarge(#[from] PackageTooLarge),
    /// A push whose route is longer than the wire can express, and has no code.
    #[error(transparent)]
    Route(#[from] MessageError),
    /// A push to Pomelo clients without a body, which no client can read.
    #[error("a push needs a body")]
    EmptyBody,
    /// The body does not match the route's schema.
    #[error(transparent)]
    Protobuf(#[from] ProtobufError),
}
