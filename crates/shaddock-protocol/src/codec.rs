//! What all connections of one frontend share, and the encoding of everything that goes to a client.

use crate::answers::{Answers, Wanted, interval};
use crate::compress::deflate_zlib;
use crate::dictionary::push_json_string;
use crate::message::{RouteRef, flag_bits, put_head, put_varint};
use crate::package::{HEADER_LEN, header};
use crate::text::{escape_non_bmp, may_have_non_bmp, put_escaped, put_utf16};
use crate::{
    BrowserClients, Dialect, DialectChoice, Dictionary, HandshakeRequest, HashPolicy, Limits,
    MessageError, MessageType, PackageTooLarge, PackageType, ProtobufError, Protos, RefuseReason,
    RejectCode, ResumeGrant, Route, Variant, encode_package,
};
use alloc::borrow::Cow;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use bytes::{BufMut, Bytes, BytesMut};
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

/// What Pomelo clients read of an error that has no body of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PomeloErrors {
    /// `{"code":500}`, whatever the error is, as in Pomelo.
    #[default]
    Code,
    /// `{"code":500,"error":"PIT-404","msg":".."}`: what Pitaya clients read, so that programs and people can tell errors apart.
    Text,
}

/// How a frontend speaks. Plain data: `CodecConfig { heartbeat: .., ..CodecConfig::default() }`.
#[derive(Clone, Debug, Default)]
pub struct CodecConfig {
    /// Dialects that are accepted. Default: the handshake tells.
    pub dialect: DialectChoice,
    /// Bounds on what a client may send.
    pub limits: Limits,
    /// Heartbeat interval. `None` or zero: no heartbeats, except with Pitaya clients ([`PITAYA_HEARTBEAT`]). Use whole seconds:
    /// C and Go clients read an integer (Pitaya clients are told the next whole second). Default: none.
    pub heartbeat: Option<Duration>,
    /// How long a client may be silent once heartbeats run. Default: twice the interval.
    pub heartbeat_timeout: Option<Duration>,
    /// Codes for routes. `None`: the server neither announces nor understands codes.
    pub dictionary: Option<Arc<Dictionary>>,
    /// Schemas for bodies of Pomelo clients. `None`: all bodies are JSON. A client that does no protobuf may send JSON for any route: a body that
    /// begins with `{` or `[` cannot be protobuf.
    pub protos: Option<Arc<Protos>>,
    /// What Pomelo clients read of errors.
    pub pomelo_errors: PomeloErrors,
    /// Clients that read emoji otherwise than in UTF-8.
    pub browser_clients: BrowserClients,
    /// Whether requests and notifies must be signed, and with what. Default `None`: they need not be. Pitaya clients cannot sign,
    /// so they are refused then.
    pub crypto: Option<HashPolicy>,
    /// With `crypto`: serve clients that say they are Pitaya's all the same, without signatures. Default: no.
    pub unsigned_pitaya: bool,
    /// What bodies of Pitaya clients are written in.
    pub pitaya_serializer: PitayaSerializer,
    /// Whether what goes to Pitaya clients is deflated where that makes it shorter. Default: no.
    pub compress_pitaya: bool,
}

/// A message that cannot be written. Nothing was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// Longer than a package can be.
    #[error(transparent)]
    TooLarge(#[from] PackageTooLarge),
    /// A push whose route is longer than the wire can express, and has no code.
    #[error(transparent)]
    Route(#[from] MessageError),
    /// A push to Pomelo clients without a body: no client can read it.
    #[error("a push needs a body")]
    EmptyBody,
    /// The body does not fit the route's schema.
    #[error(transparent)]
    Protobuf(#[from] ProtobufError),
}

/// Everything that the connections of one frontend share: configuration, and answers made once. Immutable; kept in an `Arc`.
///
/// A change of limits or of the dictionary is a new `Codec`, for the connections accepted from then on.
#[derive(Debug)]
pub struct Codec {
    config: CodecConfig,
    answers: Answers,
}

impl Codec {
    /// Prepares everything that does not depend on a single client.
    pub fn new(config: CodecConfig) -> Self {
        Self {
            answers: Answers::new(&config),
            config,
        }
    }

    /// Bytes of the longest answer to a handshake, which has the whole dictionary and all schemas in it. Above
    /// [`MAX_BODY`](crate::MAX_BODY) no client that asks for them can be answered.
    pub fn longest_answer(&self) -> usize {
        self.answers.longest()
    }

    /// The configuration it was made of.
    pub const fn config(&self) -> &CodecConfig {
        &self.config
    }

    /// The bounds in force.
    pub const fn limits(&self) -> &Limits {
        &self.config.limits
    }

    /// The heartbeat interval of clients of `dialect`; `None`: they have no heartbeats.
    pub fn heartbeat(&self, dialect: Dialect) -> Option<Duration> {
        interval(&self.config, dialect)
    }

    /// How long clients of `dialect` may send no complete package; `None`: they have no heartbeats.
    pub fn heartbeat_timeout(&self, dialect: Dialect) -> Option<Duration> {
        let interval = self.heartbeat(dialect)?;
        Some(
            self.config
                .heartbeat_timeout
                .unwrap_or(interval.saturating_mul(2)),
        )
    }

    /// How what goes to a client of this dialect and kind (`sys.type` in its handshake) is written.
    pub fn variant(&self, dialect: Dialect, kind: Option<&str>) -> Variant {
        let browsers = &self.config.browser_clients.0;
        let is_browser = |kind: &str| browsers.iter().any(|browser| browser == kind);
        match dialect {
            Dialect::Pomelo if kind.is_some_and(is_browser) => Variant::Browser,
            dialect => dialect.into(),
        }
    }

    /// Whether a push is written in another way for [`Variant::Browser`] than for [`Variant::Pomelo`]. If not, all their clients share its
    /// bytes. It may say so of a push that is not.
    pub fn differs_for_browsers(&self, route: &str, json: &[u8]) -> bool {
        let has_schema = |protos: &Arc<Protos>| protos.server().has(route);
        may_have_non_bmp(route.as_bytes())
            || self.config.protos.as_ref().is_some_and(has_schema) && may_have_non_bmp(json)
    }

    /// A complete DATA package (package head, message head, body) of a push, as clients of this [`Variant`] (or [`Dialect`]) read it. Called
    /// once per broadcast and variant; the result is shared by all receivers.
    ///
    /// `json` is JSON text in UTF-8. For Pitaya clients it is whatever their serializer says, and goes out untouched.
    ///
    /// # Errors
    ///
    /// The body is empty (Pomelo), does not fit the schema or the package, or the route cannot be written.
    pub fn encode_push(
        &self,
        to: impl Into<Variant>,
        route: &str,
        json: &[u8],
    ) -> Result<Bytes, EncodeError> {
        let mut out = BytesMut::with_capacity(HEADER_LEN + 2 + route.len() + json.len());
        self.put_push(to, route, json, &mut out)?;
        Ok(out.freeze())
    }

    /// [`Codec::encode_push`], appended to `out`.
    ///
    /// # Errors
    ///
    /// As [`Codec::encode_push`]; `out` is as it was.
    pub fn put_push(
        &self,
        to: impl Into<Variant>,
        route: &str,
        json: &[u8],
        out: &mut BytesMut,
    ) -> Result<(), EncodeError> {
        let variant = to.into();
        let dialect = variant.dialect();
        if json.is_empty() && dialect == Dialect::Pomelo {
            return Err(EncodeError::EmptyBody);
        }
        let body = self.body(variant, route, json)?;
        let flags = flag_bits(body.is_deflated(), false);
        // Pitaya's C client reads one byte of a code: its routes are never compressed.
        let code = match (dialect, &self.config.dictionary) {
            (Dialect::Pomelo, Some(dictionary)) => dictionary.code(route),
            _ => None,
        };
        let name = match variant {
            Variant::Browser if may_have_non_bmp(route.as_bytes()) => {
                let mut name = Vec::new();
                put_utf16(route, &mut name);
                Cow::Owned(name)
            }
            _ => Cow::Borrowed(route.as_bytes()),
        };
        let route = code.map_or(RouteRef::Name(&name), RouteRef::Code);
        put_data(out, |out| {
            put_head(MessageType::Push, flags, 0, route, out)?;
            body.put(out);
            Ok(())
        })
    }

    /// Appends a complete DATA package of a response to `out`. `route` is the request's: it chooses the schema and is not
    /// written. `error` sets the error flag for Pitaya clients; Pomelo clients have none.
    ///
    /// For Pomelo clients an empty `json` is `{}`, and an error that the schema of the route cannot express is an empty body,
    /// which they read as `{}`: an answer in any case.
    ///
    /// # Errors
    ///
    /// The body does not fit the schema or the package; `out` is as it was. Answer with an error then.
    pub fn encode_response(
        &self,
        to: impl Into<Variant>,
        id: u64,
        route: &str,
        json: &[u8],
        error: bool,
        out: &mut BytesMut,
    ) -> Result<(), EncodeError> {
        let variant = to.into();
        let dialect = variant.dialect();
        let json = match dialect {
            Dialect::Pomelo if json.is_empty() => b"{}",
            _ => json,
        };
        let body = match self.body(variant, route, json) {
            Ok(body) => body,
            Err(_) if error => Body::Plain(b""),
            Err(failure) => return Err(failure.into()),
        };
        let flags = flag_bits(body.is_deflated(), error && dialect == Dialect::Pitaya);
        put_data(out, |out| {
            put_head(MessageType::Response, flags, id, RouteRef::None, out)?;
            body.put(out);
            Ok(())
        })
    }

    /// A complete KICK package, `{"reason":".."}`, for both dialects: browser clients parse it before they report the kick.
    ///
    /// A reason longer than a package can hold is left out.
    pub fn encode_kick(&self, reason: &str) -> Bytes {
        let mut body = String::from("{\"reason\":");
        push_json_string(reason, &mut body);
        body.push('}');
        encode_package(PackageType::Kick, &escape_non_bmp(body.as_bytes()))
            .unwrap_or(Bytes::from_static(b"\x05\x00\x00\x0d{\"reason\":\"\"}"))
    }

    /// The body of an error answer, for [`Codec::encode_response`] with `error = true`.
    ///
    /// Pomelo clients get `{"code":500}` whatever the error is, unless they are told more ([`PomeloErrors::Text`]). Pitaya clients get code (`PIT-404`), message and metadata in
    /// their serializer; what is empty is left out, metadata are sorted.
    pub fn error_body(
        &self,
        dialect: Dialect,
        code: &str,
        message: &str,
        metadata: &[(&str, &str)],
    ) -> Bytes {
        let mut metadata = metadata.to_vec();
        metadata.sort_unstable();
        match (dialect, self.config.pitaya_serializer) {
            (Dialect::Pomelo, _) => match self.config.pomelo_errors {
                PomeloErrors::Code => Bytes::from_static(b"{\"code\":500}"),
                PomeloErrors::Text => pomelo_error(code, message).into(),
            },
            (Dialect::Pitaya, PitayaSerializer::Json) => {
                error_json(code, message, &metadata).into()
            }
            (Dialect::Pitaya, PitayaSerializer::Protobuf) => {
                error_protobuf(code, message, &metadata).into()
            }
        }
    }

    /// Appends the answer to a request that was [refused](crate::Event::Refused).
    pub fn put_refusal(
        &self,
        to: impl Into<Variant>,
        id: u64,
        route: Option<&Route>,
        reason: RefuseReason,
        out: &mut BytesMut,
    ) {
        let variant = to.into();
        let body = self.error_body(variant.dialect(), "PIT-400", reason.text(), &[]);
        let route = route.map_or("", Route::as_str);
        // A body this small fits, and an error is written even where the schema has no place for it.
        let _ = self.encode_response(variant, id, route, &body, true, out);
    }

    /// What the answer to this request has to contain.
    pub(crate) fn wanted(&self, request: &HandshakeRequest) -> Wanted {
        let dictionary = self.config.dictionary.as_ref();
        let protos = self.config.protos.as_ref();
        Wanted {
            dictionary: dictionary.is_some_and(|dictionary| {
                request.dict_version.as_deref() != Some(dictionary.version())
            }),
            protos: protos
                .is_some_and(|protos| request.proto_version.as_deref() != Some(protos.version())),
        }
    }

    pub(crate) fn put_accept(
        &self,
        dialect: Dialect,
        wanted: Wanted,
        user: Option<&Value>,
        grant: Option<&ResumeGrant>,
        out: &mut BytesMut,
    ) -> Result<(), EncodeError> {
        self.answers.put_accept(dialect, wanted, user, grant, out)
    }

    pub(crate) fn put_reject(&self, dialect: Dialect, code: RejectCode, out: &mut BytesMut) {
        self.answers.put_reject(dialect, code, out);
    }

    /// The form in which a body goes to clients of `variant`.
    #[inline]
    fn body<'a>(
        &self,
        variant: Variant,
        route: &str,
        json: &'a [u8],
    ) -> Result<Body<'a>, ProtobufError> {
        match (variant, &self.config.protos) {
            (Variant::Pomelo, Some(protos)) if protos.server().has(route) => {
                protos.server().encode(route, json).map(Body::Converted)
            }
            (Variant::Browser, Some(protos)) if protos.server().has(route) => {
                let converted = protos.server().encode_for_browsers(route, json);
                converted.map(Body::Converted)
            }
            (Variant::Pomelo | Variant::Browser, _) => Ok(Body::Json(json)),
            (Variant::Pitaya, _) if self.config.compress_pitaya => {
                let deflated = deflate_zlib(json);
                Ok(if deflated.len() < json.len() {
                    Body::Deflated(deflated)
                } else {
                    Body::Plain(json)
                })
            }
            (Variant::Pitaya, _) => Ok(Body::Plain(json)),
        }
    }
}

/// A body on its way out.
enum Body<'a> {
    /// JSON; characters outside the BMP are still to be escaped.
    Json(&'a [u8]),
    Plain(&'a [u8]),
    Converted(Vec<u8>),
    Deflated(Vec<u8>),
}

impl Body<'_> {
    const fn is_deflated(&self) -> bool {
        matches!(self, Self::Deflated(_))
    }

    fn put(&self, out: &mut BytesMut) {
        match self {
            Self::Json(json) => put_escaped(json, out),
            Self::Plain(bytes) => out.put_slice(bytes),
            Self::Converted(bytes) | Self::Deflated(bytes) => out.put_slice(bytes),
        }
    }
}

/// Appends a DATA package whose body is written by `write`. On error `out` is as it was.
fn put_data(
    out: &mut BytesMut,
    write: impl FnOnce(&mut BytesMut) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    let start = out.len();
    out.put_bytes(0, HEADER_LEN);
    let body_start = out.len();
    let head = write(out).and_then(|()| Ok(header(PackageType::Data, out.len() - body_start)?));
    match head {
        Ok(head) => {
            out[start..body_start].copy_from_slice(&head);
            Ok(())
        }
        Err(error) => {
            out.truncate(start);
            Err(error)
        }
    }
}

/// `{"code":500,"error":..,"msg":..}`
fn pomelo_error(code: &str, message: &str) -> String {
    let mut body = String::from("{\"code\":500");
    for (name, text) in [("error", code), ("msg", message)] {
        if !text.is_empty() {
            body.push(',');
            body.push_str(&member(name, text));
        }
    }
    body.push('}');
    body
}

/// `{"code":..,"msg":..,"metadata":{..}}`
fn error_json(code: &str, message: &str, metadata: &[(&str, &str)]) -> String {
    let mut members = Vec::new();
    for (name, text) in [("code", code), ("msg", message)] {
        if !text.is_empty() {
            members.push(member(name, text));
        }
    }
    if !metadata.is_empty() {
        let inner: Vec<_> = metadata.iter().map(|(k, v)| member(k, v)).collect();
        members.push(["\"metadata\":{", &inner.join(","), "}"].concat());
    }
    ["{", &members.join(","), "}"].concat()
}

fn member(name: &str, text: &str) -> String {
    let mut member = String::new();
    push_json_string(name, &mut member);
    member.push(':');
    push_json_string(text, &mut member);
    member
}

/// `protos.Error`: 1 code, 2 msg, 3 metadata (a map is repeated messages of 1 key, 2 value).
fn error_protobuf(code: &str, message: &str, metadata: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_field(1, code.as_bytes(), &mut bytes);
    put_field(2, message.as_bytes(), &mut bytes);
    for (key, value) in metadata {
        let mut entry = Vec::new();
        put_field(1, key.as_bytes(), &mut entry);
        put_field(2, value.as_bytes(), &mut entry);
        put_field(3, &entry, &mut bytes);
    }
    bytes
}

/// A length-delimited field of Google protobuf, left out if empty.
fn put_field(tag: u8, value: &[u8], bytes: &mut Vec<u8>) {
    if value.is_empty() {
        return;
    }
    bytes.push(tag << 3 | 2);
    put_varint(value.len() as u64, bytes);
    bytes.extend_from_slice(value);
}
