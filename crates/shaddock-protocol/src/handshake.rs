//! The handshake: what a client says first, and the answer codes.

use crate::json::json_of_client;
use crate::{Dialect, DialectChoice};
use alloc::string::{String, ToString as _};
use bytes::Bytes;
use serde_json::{Map, Value};

/// What a client said in its HANDSHAKE.
///
/// Texts that a client sends as numbers are given as text. A `sys` that is not an object has no members.
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
    /// `user`: whatever the client wants to tell the application; null if absent.
    pub user: Value,
    /// The whole body, JSON text in UTF-8.
    pub raw: Bytes,
}

/// The public key in a handshake, as sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RsaParts {
    /// `rsa_n`: modulus in hex.
    pub modulus: Option<String>,
    /// `rsa_e`: exponent; a number, or decimal text.
    pub exponent: Option<u64>,
}

/// A HANDSHAKE that cannot be read. The client was answered with code 500 (Pitaya: 400).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The body is empty, not JSON, not an object, or nested too deep.
    #[error("handshake is not a JSON object")]
    NotJson,
    /// `sys` is missing or falsy.
    #[error("handshake without sys")]
    NoSys,
    /// Messages must be signed, and the client names no key (or one that is none).
    #[error("handshake without a usable key")]
    NoKey,
}

/// Why the server refuses a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RejectCode {
    /// The handshake is wrong or the application said no: 500, to Pitaya clients 400.
    Failed,
    /// The client check refuses this kind or version of client: 501, to Pitaya clients 400.
    OldClient,
}

impl RejectCode {
    /// The number in the answer.
    pub const fn number(self, dialect: Dialect) -> u16 {
        match (dialect, self) {
            (Dialect::Pomelo, Self::Failed) => 500,
            (Dialect::Pomelo, Self::OldClient) => 501,
            (Dialect::Pitaya, _) => 400,
        }
    }
}

impl HandshakeRequest {
    /// Reads the body of a HANDSHAKE.
    ///
    /// # Errors
    ///
    /// It is not a JSON object with a truthy `sys`.
    pub fn parse(body: Bytes, choice: DialectChoice) -> Result<Self, HandshakeError> {
        let raw = json_of_client(body).map_err(|_| HandshakeError::NotJson)?;
        let Ok(Value::Object(mut object)) = serde_json::from_slice(&raw) else {
            return Err(HandshakeError::NotJson);
        };
        let user = object.remove("user").unwrap_or_default();
        let mut sys = match object.remove("sys") {
            Some(Value::Object(sys)) => sys,
            Some(other) if is_truthy(&other) => Map::new(),
            _ => return Err(HandshakeError::NoSys),
        };
        let dialect = choice.fixed().unwrap_or_else(|| guess(&sys));
        let rsa = sys.remove("rsa").filter(is_truthy).map(RsaParts::new);
        let mut text = |key| sys.remove(key).and_then(text_of);
        Ok(Self {
            dialect,
            client_type: text("type"),
            version: text("version"),
            dict_version: text("dictVersion"),
            proto_version: text("protoVersion"),
            platform: text("platform"),
            lib_version: text("libVersion"),
            client_build_number: text("clientBuildNumber"),
            client_version: text("clientVersion"),
            rsa,
            user,
            raw,
        })
    }
}

impl RsaParts {
    /// Whether neither modulus nor exponent was sent.
    pub const fn is_empty(&self) -> bool {
        self.modulus.is_none() && self.exponent.is_none()
    }

    fn new(rsa: Value) -> Self {
        let Value::Object(mut rsa) = rsa else {
            return Self::default();
        };
        let exponent = rsa.remove("rsa_e").and_then(text_of);
        Self {
            modulus: rsa.remove("rsa_n").and_then(text_of),
            exponent: exponent.and_then(|text| text.parse().ok()),
        }
    }
}

fn guess(sys: &Map<String, Value>) -> Dialect {
    const PITAYA: [&str; 4] = [
        "libVersion",
        "clientBuildNumber",
        "clientVersion",
        "platform",
    ];
    if !sys.contains_key("type") && PITAYA.iter().any(|key| sys.contains_key(*key)) {
        Dialect::Pitaya
    } else {
        Dialect::Pomelo
    }
}

fn text_of(value: Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// What JavaScript takes for true.
pub(crate) fn is_truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(_) | Value::Object(_) => true,
    }
}
