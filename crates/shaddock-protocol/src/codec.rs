//! What all connections of one frontend share, and the encoding of everything that goes to a client.

use crate::dictionary::push_json_string;
use crate::handshake::is_truthy;
use crate::message::{flag_bits, put_response_head};
use crate::package::{HEADER_LEN, header};
use crate::text::{escape_non_bmp, put_escaped};
use crate::{
    Dialect, DialectChoice, Dictionary, HandshakeRequest, Limits, MAX_ROUTE_LEN, Message,
    MessageError, MessageType, PackageTooLarge, PackageType, RejectCode, WireRoute, encode_package,
};
use alloc::borrow::Cow;
use alloc::string::String;
use alloc::sync::Arc;
use bytes::{BufMut, Bytes, BytesMut};
use core::fmt::Write as _;
use core::time::Duration;
use serde_json::Value;

/// Heartbeat interval of Pitaya clients if none is configured: they cannot be told that there is none. (Go clients start a
/// ticker with whatever number they read, and a ticker of 0 panics.)
pub const PITAYA_HEARTBEAT: Duration = Duration::from_secs(30);

/// What Pitaya clients are told the bodies are written in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PitayaSerializer {
    /// JSON.
    #[default]
    Json,
    /// Google protobuf. Bodies pass through as they are.
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

/// How a frontend speaks. Plain data: `CodecConfig { heartbeat: .., ..CodecConfig::default() }`.
#[derive(Clone, Debug, Default)]
pub struct CodecConfig {
    /// Dialects that are accepted. Default: the handshake tells.
    pub dialect: DialectChoice,
    /// Bounds on what a client may send.
    pub limits: Limits,
    /// Heartbeat interval. `None` or zero: no heartbeats, except with Pitaya clients ([`PITAYA_HEARTBEAT`]). Use whole seconds:
    /// C and Go clients read an integer. Default: none.
    pub heartbeat: Option<Duration>,
    /// How long a client may be silent once heartbeats run. Default: twice the interval.
    pub heartbeat_timeout: Option<Duration>,
    /// Codes for routes. `None`: the server neither announces nor understands codes.
    pub dictionary: Option<Arc<Dictionary>>,
    /// Whether requests and notifies of Pomelo clients must be signed. Default: no.
    pub crypto: bool,
    /// What bodies of Pitaya clients are written in.
    pub pitaya_serializer: PitayaSerializer,
    /// Whether what goes to Pitaya clients is deflated where that makes it shorter. Default: no.
    pub compress_pitaya: bool,
}

/// A message that cannot be written. Nothing was written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// Longer than a package can be.
    #[error(transparent)]
    TooLarge(#[from] PackageTooLarge),
    /// A push whose route is longer than the wire can express, and has no code.
    #[error(transparent)]
    Route(#[from] MessageError),
    /// A push without a body: no client can read it.
    #[error("a push needs a body")]
    EmptyBody,
}

/// Everything that the connections of one frontend share: configuration, and answers made once. Immutable; kept in an `Arc`.
#[derive(Debug)]
pub struct Codec {
    config: CodecConfig,
}

impl Codec {
    /// Prepares everything that does not depend on a single client.
    pub fn new(config: CodecConfig) -> Self {
        Self { config }
    }

    /// The configuration it was made of.
    pub const fn config(&self) -> &CodecConfig {
        &self.config
    }

    /// The bounds in force.
    pub const fn limits(&self) -> &Limits {
        &self.config.limits
    }

    /// A complete DATA package (package head, message head, body) of a push, as clients of `dialect` read it. Called once per
    /// broadcast and dialect; the result is shared by all receivers.
    ///
    /// `json` is JSON text in UTF-8 (for Pitaya clients: whatever their serializer says; it goes out untouched).
    ///
    /// # Errors
    ///
    /// The body is empty or does not fit, or the route cannot be written.
    pub fn encode_push(
        &self,
        dialect: Dialect,
        route: &str,
        json: &[u8],
    ) -> Result<Bytes, EncodeError> {
        let mut out = BytesMut::with_capacity(HEADER_LEN + 2 + route.len() + json.len());
        self.put_push(dialect, route, json, &mut out)?;
        Ok(out.freeze())
    }

    /// [`Codec::encode_push`], appended to `out`.
    ///
    /// # Errors
    ///
    /// As [`Codec::encode_push`]; `out` is as it was.
    pub fn put_push(
        &self,
        dialect: Dialect,
        route: &str,
        json: &[u8],
        out: &mut BytesMut,
    ) -> Result<(), EncodeError> {
        let code = match (dialect, &self.config.dictionary) {
            (Dialect::Pomelo, Some(dictionary)) => dictionary.code(route),
            _ => None,
        };
        put_data(out, |out| {
            let route = match code {
                Some(code) => WireRoute::Code(code),
                None => WireRoute::Name(Bytes::copy_from_slice(route.as_bytes())),
            };
            Message::new(MessageType::Push, 0, route, Bytes::copy_from_slice(json)).encode(out)?;
            Ok(())
        })
    }

    /// Appends a complete DATA package of a response to `out`. `route` is the request's: it chooses the schema and is not
    /// written. `error` sets the error flag for Pitaya clients; Pomelo clients have none.
    ///
    /// # Errors
    ///
    /// The body does not fit; `out` is as it was.
    pub fn encode_response(
        &self,
        dialect: Dialect,
        id: u64,
        route: &str,
        json: &[u8],
        error: bool,
        out: &mut BytesMut,
    ) -> Result<(), EncodeError> {
        let _ = route;
        put_data(out, |out| {
            put_response_head(
                flag_bits(false, error && dialect == Dialect::Pitaya),
                id,
                out,
            );
            put_escaped(json, out);
            Ok(())
        })
    }

    /// A complete KICK package, `{"reason":".."}`, for both dialects.
    ///
    /// A reason longer than a package can hold is left out.
    pub fn encode_kick(&self, reason: &str) -> Bytes {
        let mut body = String::from("{\"reason\":");
        push_json_string(reason, &mut body);
        body.push('}');
        encode_package(PackageType::Kick, &escape_non_bmp(body.as_bytes()))
            .unwrap_or(Bytes::from_static(b"\x05\x00\x00\x0d{\"reason\":\"\"}"))
    }

    /// The body of an error answer. Pomelo clients get `{"code":500}` whatever the error is; Pitaya clients get code, message
    /// and metadata in their serializer. Use it with `error = true` in [`Codec::encode_response`].
    pub fn error_body(
        &self,
        dialect: Dialect,
        code: &str,
        message: &str,
        metadata: &[(&str, &str)],
    ) -> Bytes {
        let _ = (dialect, code, message, metadata);
        Bytes::from_static(b"{\"code\":500}")
    }

    pub(crate) fn put_answer(
        &self,
        want: Wanted,
        user: Option<&Value>,
        out: &mut BytesMut,
    ) -> Result<(), EncodeError> {
        let _ = (want, user.filter(|user| is_truthy(user)));
        let mut text = String::from("{\"code\":200,\"sys\":{");
        let _ = write!(text, "}}}}");
        out.put_slice(&encode_package(PackageType::Handshake, text.as_bytes())?);
        Ok(())
    }

    pub(crate) fn put_reject(&self, code: RejectCode, dialect: Dialect, out: &mut BytesMut) {
        let mut text = String::new();
        let _ = write!(text, "{{\"code\":{}}}", code.number(dialect));
        if let Ok(package) = encode_package(PackageType::Handshake, text.as_bytes()) {
            out.put_slice(&package);
        }
    }
}

/// What the answer to one handshake has to contain.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) dialect: Dialect,
    pub(crate) dictionary: bool,
    pub(crate) protos: bool,
}

/// Appends a DATA package whose body is written by `write`. On error `out` is as it was.
fn put_data(
    out: &mut BytesMut,
    write: impl FnOnce(&mut BytesMut) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    let start = out.len();
    out.put_bytes(0, HEADER_LEN);
    let head = write(out).and_then(|()| {
        let body_len = out.len() - start - HEADER_LEN;
        Ok(header(PackageType::Data, body_len)?)
    });
    match head {
        Ok(head) => {
            out[start..start + HEADER_LEN].copy_from_slice(&head);
            Ok(())
        }
        Err(error) => {
            out.truncate(start);
            Err(error)
        }
    }
}
