//! The shared state of all connections of one frontend, and the encoding of everything that is sent to clients.

use crate::answers::{Answers, Wanted, interval};
use crate::compress::deflate_zlib;
use crate::dictionary::push_json_string;
use crate::message::{RouteRef, flag_bits, put_head, put_varint};
use crate::package::{HEADER_LEN, header};
use crate::text::{escape_non_bmp, may_have_non_bmp, put_escaped, put_utf16};
use crate::{
    CodecConfig, Dialect, EncodeError, HandshakeRequest, Limits, MessageType, PackageType,
    PitayaSerializer, PomeloErrors, ProtobufError, Protos, RefuseReason, RejectCode, ResumeGrant,
    Route, Variant, encode_package,
};
use alloc::borrow::Cow;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use bytes::{BufMut, Bytes, BytesMut};
use core::time::Duration;
use serde_json::Value;

/// The shared state of all connections of one frontend: configuration and prebuilt responses. Immutable; kept in an `Arc`.
///
/// To change limits or the dictionary, create a new `Codec` for the connections accepted afterwards.
#[derive(Debug)]
pub struct Codec {
    config: CodecConfig,
    answers: Answers,
}

impl Codec {
    /// Builds everything that does not depend on a single client.
    pub fn new(config: CodecConfig) -> Self {
        Self {
            answers: Answers::new(&config),
            config,
        }
    }

    /// Length in bytes of the longest handshake response, with the whole dictionary and all schemas. Above [`MAX_BODY`](crate::MAX_BODY),
    /// clients that request them cannot receive a response.
    pub fn longest_answer(&self) -> usize {
        self.answers.longest()
    }

    /// The configuration of this codec.
    pub const fn config(&self) -> &CodecConfig {
        &self.config
    }

    /// The effective limits.
    pub const fn limits(&self) -> &Limits {
        &self.config.limits
    }

    /// The heartbeat interval of clients of `dialect`; `None`: they have no heartbeats.
    pub fn heartbeat(&self, dialect: Dialect) -> Option<Duration> {
        interval(&self.config, dialect)
    }

    /// Maximum time without a complete package from a client of `dialect`; `None`: no heartbeats.
    pub fn heartbeat_timeout(&self, dialect: Dialect) -> Option<Duration> {
        let interval = self.heartbeat(dialect)?;
        Some(
            self.config
                .heartbeat_timeout
                .unwrap_or(interval.saturating_mul(2)),
        )
    }

    /// The encoding for a client of this dialect and type (`sys.type` in its handshake).
    pub fn variant(&self, dialect: Dialect, kind: Option<&str>) -> Variant {
        let browsers = &self.config.browser_clients.0;
        let is_browser = |kind: &str| browsers.iter().any(|browser| browser == kind);
        match dialect {
            Dialect::Pomelo if kind.is_some_and(is_browser) => Variant::Browser,
            dialect => dialect.into(),
        }
    }

    /// Whether a push is encoded differently for [`Variant::Browser`] and [`Variant::Pomelo`]. If not, all their clients share its bytes.
    /// May return true for a push that is not.
    pub fn differs_for_browsers(&self, route: &str, json: &[u8]) -> bool {
        let has_schema = |protos: &Arc<Protos>| protos.server().has(route);
        may_have_non_bmp(route.as_bytes())
            || self.config.protos.as_ref().is_some_and(has_schema) && may_have_non_bmp(json)
    }

    /// Encodes a push as a complete DATA package (package head, message head, body) for this [`Variant`] (or [`Dialect`]). Called once per
    /// broadcast and variant; all receivers share the result.
    ///
    /// `json` is JSON text in UTF-8. For Pitaya clients it is in the format of their serializer and is sent unchanged.
    ///
    /// # Errors
    ///
    /// The body is empty (Pomelo), does not match the schema, does not fit into a package, or the route cannot be encoded.
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
    /// As [`Codec::encode_push`]; `out` is unchanged.
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

    /// Appends a complete DATA package of a response to `out`. `route` is the request's: it selects the schema and is not written. `error`
    /// sets the error flag for Pitaya clients; Pomelo clients have no such flag.
    ///
    /// For Pomelo clients an empty `json` is `{}`. An error that the schema of the route cannot express becomes an empty body, which they
    /// decode as `{}`, so every request receives a response.
    ///
    /// # Errors
    ///
    /// The body does not match the schema or does not fit into a package; `out` is unchanged. Respond with an error in this case.
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
    /// A reason that does not fit into a package is left out.
    pub fn encode_kick(&self, reason: &str) -> Bytes {
        let mut body = String::from("{\"reason\":");
        push_json_string(reason, &mut body);
        body.push('}');
        encode_package(PackageType::Kick, &escape_non_bmp(body.as_bytes()))
            .unwrap_or(Bytes::from_static(b"\x05\x00\x00\x0d{\"reason\":\"\"}"))
    }

    /// The body of an error response, for [`Codec::encode_response`] with `error = true`.
    ///
    /// Pomelo clients receive `{"code":500}` for every error, unless [`PomeloErrors::Text`] is set. Pitaya clients receive code
    /// (`PIT-404`), message and metadata in their serializer; empty values are left out, metadata are sorted.
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

    /// Appends the error response to a [refused](crate::Event::Refused) request.
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

    /// The parts that the response to this request must contain.
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

    /// The encoded form of a body for clients of `variant`.
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

/// A body to be sent.
enum Body<'a> {
    /// JSON; characters outside the BMP must still be escaped.
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

/// Appends a DATA package whose body is written by `write`. On error `out` is unchanged.
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
