//! The handshake: the first package of a client, and the response codes.

use crate::json::json_of_client;
use crate::members::Members;
use crate::{Dialect, DialectChoice, ResumeRequest};
use alloc::string::{String, ToString as _};
use bytes::Bytes;
use core::fmt;
use core::ops::Range;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

/// The data in a client's HANDSHAKE.
///
/// Numbers in the place of texts are converted to text. A `sys` that is not an object has no members.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct HandshakeRequest {
    /// The dialect this connection speaks from now on.
    pub dialect: Dialect,
    /// `sys.type`: client kind, for example `js-websocket`. (Pomelo)
    pub client_type: Option<String>,
    /// `sys.version`: its version, for example `0.0.1`. (Pomelo)
    pub version: Option<String>,
    /// `sys.dictVersion`: version of the dictionary that the client has cached. (Pomelo)
    pub dict_version: Option<String>,
    /// `sys.protoVersion`: version of the protobuf schemas that the client has cached. (Pomelo)
    pub proto_version: Option<String>,
    /// `sys.rsa`: the key that the client signs with. `Some` without members for `{}`. (Pomelo)
    pub rsa: Option<RsaParts>,
    /// `sys.platform` (Pitaya)
    pub platform: Option<String>,
    /// `sys.libVersion` (Pitaya)
    pub lib_version: Option<String>,
    /// `sys.clientBuildNumber` (Pitaya)
    pub client_build_number: Option<String>,
    /// `sys.clientVersion` (Pitaya)
    pub client_version: Option<String>,
    /// `sys.resume`: whether the client requests a resumable session, or resumes one.
    pub resume: ResumeRequest,
    /// The whole body, JSON text in UTF-8.
    pub raw: Bytes,
    /// The range of `user` in `raw`. It is parsed on demand: a tree takes up to a hundred times the memory of its text, and the client has
    /// not logged in yet.
    user: Option<Range<usize>>,
}

/// The public key in a handshake, as sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RsaParts {
    /// `rsa_n`: modulus in hex.
    pub modulus: Option<String>,
    /// `rsa_e`: exponent; a number, or decimal text.
    pub exponent: Option<u64>,
}

/// An invalid HANDSHAKE. The response was code 500 (Pitaya: 400).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The body is empty, not JSON, not an object, or nested too deep.
    #[error("handshake is not a JSON object")]
    NotJson,
    /// `sys` is missing or falsy.
    #[error("handshake without sys")]
    NoSys,
    /// Messages must be signed, and the handshake contains no valid key.
    #[error("handshake without a usable key")]
    NoKey,
    /// Messages must be signed, and clients of this dialect (Pitaya) cannot.
    #[error("messages must be signed, which Pitaya clients cannot do")]
    CannotSign,
}

/// Why the server refuses a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RejectCode {
    /// The handshake is invalid or the application rejected it: 500, for Pitaya clients 400.
    Failed,
    /// The client check rejected the type or version of the client: 501, for Pitaya clients 400.
    OldClient,
}

impl RejectCode {
    /// The number in the response.
    pub const fn number(self, dialect: Dialect) -> u16 {
        match (dialect, self) {
            (Dialect::Pomelo, Self::Failed) => 500,
            (Dialect::Pomelo, Self::OldClient) => 501,
            (Dialect::Pitaya, _) => 400,
        }
    }
}

impl HandshakeRequest {
    /// Parses the body of a HANDSHAKE.
    ///
    /// # Errors
    ///
    /// It is not a JSON object with a truthy `sys`.
    pub fn parse(body: Bytes, choice: DialectChoice) -> Result<Self, HandshakeError> {
        let raw = json_of_client(body).map_err(|_| HandshakeError::NotJson)?;
        // Everything that a parser would reject is rejected here, so later parsing cannot fail.
        if raw.trim_ascii_start().first() != Some(&b'{')
            || serde_json::from_slice::<Readable>(&raw).is_err()
        {
            return Err(HandshakeError::NotJson);
        }
        let text = core::str::from_utf8(&raw).map_err(|_| HandshakeError::NotJson)?;
        let (mut sys, mut user) = (None, None);
        for member in Members::of(text) {
            match &*member.name {
                "sys" => sys = Some(member.value),
                "user" => user = Some(member.value_at),
                _ => {}
            }
        }
        let sys = sys
            .filter(|sys| is_truthy_text(sys))
            .map(Sys::new)
            .ok_or(HandshakeError::NoSys)?;
        let dialect = choice.fixed().unwrap_or_else(|| sys.guess());
        let request = Self {
            dialect,
            client_type: sys.client_type.text(),
            version: sys.version.text(),
            dict_version: sys.dict_version.text(),
            proto_version: sys.proto_version.text(),
            platform: sys.platform.text(),
            lib_version: sys.lib_version.text(),
            client_build_number: sys.client_build_number.text(),
            client_version: sys.client_version.text(),
            rsa: sys
                .rsa
                .0
                .filter(|rsa| is_truthy_text(rsa))
                .map(RsaParts::new),
            resume: ResumeRequest::read(sys.resume.0),
            user,
            raw: Bytes::new(),
        };
        Ok(Self { raw, ..request })
    }

    /// `user`, the client's data for the application, as JSON text; `null` if absent.
    pub fn user_text(&self) -> &str {
        let text = self.user.clone().and_then(|user| self.raw.get(user));
        text.and_then(|text| core::str::from_utf8(text).ok())
            .unwrap_or("null")
    }

    /// `user` as a tree, parsed at each call; null if absent. It may take a hundred times the memory of its text;
    /// [`user_as`](Self::user_as) takes only the memory of the type.
    pub fn user(&self) -> Value {
        // The text was validated when the handshake was parsed.
        serde_json::from_str(self.user_text()).unwrap_or_default()
    }

    /// `user` as a type of the application, parsed at each call. Unknown members are ignored.
    ///
    /// # Errors
    ///
    /// The data do not match the type.
    pub fn user_as<'a, T: Deserialize<'a>>(&'a self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.user_text())
    }
}

impl RsaParts {
    /// Whether neither modulus nor exponent was sent.
    pub const fn is_empty(&self) -> bool {
        self.modulus.is_none() && self.exponent.is_none()
    }

    fn new(rsa: &str) -> Self {
        let (mut modulus, mut exponent) = (Member::default(), Member::default());
        for member in Members::of(rsa) {
            match &*member.name {
                "rsa_n" => modulus = Member(Some(member.value)),
                "rsa_e" => exponent = Member(Some(member.value)),
                _ => {}
            }
        }
        Self {
            modulus: modulus.text(),
            exponent: exponent.text().and_then(|text| text.parse().ok()),
        }
    }
}

/// The JSON text of a member, if it was there.
#[derive(Clone, Copy, Default)]
struct Member<'a>(Option<&'a str>);

impl Member<'_> {
    /// The text of a string, or the digits of a number.
    fn text(self) -> Option<String> {
        let json = self.0?;
        let is_scalar = json.starts_with(|first: char| matches!(first, '"' | '-' | '0'..='9'));
        match serde_json::from_str(is_scalar.then_some(json)?).ok()? {
            Value::String(mut text) => {
                text.shrink_to_fit();
                Some(text)
            }
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        }
    }
}

/// The known members of `sys`. If a name occurs twice, the last one counts.
#[derive(Default)]
struct Sys<'a> {
    client_type: Member<'a>,
    version: Member<'a>,
    dict_version: Member<'a>,
    proto_version: Member<'a>,
    rsa: Member<'a>,
    platform: Member<'a>,
    lib_version: Member<'a>,
    client_build_number: Member<'a>,
    client_version: Member<'a>,
    resume: Member<'a>,
}

impl<'a> Sys<'a> {
    fn new(sys: &'a str) -> Self {
        let mut found = Self::default();
        for member in Members::of(sys) {
            let place = match &*member.name {
                "type" => &mut found.client_type,
                "version" => &mut found.version,
                "dictVersion" => &mut found.dict_version,
                "protoVersion" => &mut found.proto_version,
                "rsa" => &mut found.rsa,
                "platform" => &mut found.platform,
                "libVersion" => &mut found.lib_version,
                "clientBuildNumber" => &mut found.client_build_number,
                "clientVersion" => &mut found.client_version,
                "resume" => &mut found.resume,
                _ => continue,
            };
            *place = Member(Some(member.value));
        }
        found
    }

    fn guess(&self) -> Dialect {
        let pitaya = [
            self.lib_version,
            self.client_build_number,
            self.client_version,
            self.platform,
        ];
        if self.client_type.0.is_none() && pitaya.iter().any(|member| member.0.is_some()) {
            Dialect::Pitaya
        } else {
            Dialect::Pomelo
        }
    }
}

/// Validates anything that could be parsed into a tree, without building it.
struct Readable;

impl<'de> Deserialize<'de> for Readable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for Readable {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self, A::Error> {
        while seq.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self, A::Error> {
        while map.next_entry::<Self, Self>()?.is_some() {}
        Ok(self)
    }
}

/// [`is_truthy`] of JSON text.
fn is_truthy_text(json: &str) -> bool {
    json.starts_with(['{', '[']) || serde_json::from_str(json).is_ok_and(|value| is_truthy(&value))
}

/// Whether JavaScript treats the value as true.
pub(crate) fn is_truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(_) | Value::Object(_) => true,
    }
}
