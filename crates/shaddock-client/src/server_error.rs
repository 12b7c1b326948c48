//! Error responses, in both dialects.

use std::fmt;

use bytes::{Buf, Bytes};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::body::{DecodeError, from_json};

/// An error response of a server.
///
/// Pomelo servers do not mark errors: a response is an error if its body is an object whose `code` is a number that the
/// [builder](crate::ClientBuilder::error_codes) treats as an error (by default 400 and above). Pitaya servers mark errors, with `code`
/// (`PIT-404`), `msg` and `metadata`.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerError(Box<Parts>);

/// Boxed, so that results of requests stay small.
#[derive(Clone, Debug, PartialEq)]
struct Parts {
    code: String,
    message: String,
    metadata: Map<String, Value>,
    body: Bytes,
}

impl ServerError {
    /// The code as text: `500`, `PIT-404`; empty if there is none.
    pub fn code(&self) -> &str {
        &self.0.code
    }

    /// The message for people: `msg` or `message` of the body. Often empty.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// A value of Pitaya's `metadata`, if it is text.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.0.metadata.get(key).and_then(Value::as_str)
    }

    /// The complete body.
    pub fn body(&self) -> &Bytes {
        &self.0.body
    }

    /// The complete body as your type, for servers that add data to their errors.
    ///
    /// # Errors
    ///
    /// The body is not of this type.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, DecodeError> {
        from_json(&self.0.body)
    }

    /// A response that is marked as an error. Unreadable parts stay empty; the body is always available.
    pub(crate) fn marked(body: Bytes, protobuf: bool) -> Self {
        if protobuf {
            return Self::from_protobuf(body);
        }
        let mut object = object(&body).unwrap_or_default();
        let metadata = match object.remove("metadata") {
            Some(Value::Object(metadata)) => metadata,
            _ => Map::new(),
        };
        Self(Box::new(Parts {
            code: object.remove("code").map(text).unwrap_or_default(),
            message: message(&mut object),
            metadata,
            body,
        }))
    }

    /// A response of a Pomelo server, if it is an error.
    pub(crate) fn by_code(body: &Bytes, is_error: fn(i64) -> bool) -> Option<Self> {
        // Most responses need no further check.
        if !body.windows(6).any(|part| part == b"\"code\"") {
            return None;
        }
        let mut object = object(body)?;
        let code = object.remove("code")?.as_i64().filter(|n| is_error(*n))?;
        Some(Self(Box::new(Parts {
            code: code.to_string(),
            message: message(&mut object),
            metadata: Map::new(),
            body: body.clone(),
        })))
    }

    /// `protos.Error` of Pitaya: 1 code, 2 msg, 3 metadata (entries of 1 key, 2 value), all of them length-delimited.
    fn from_protobuf(body: Bytes) -> Self {
        let mut error = Parts {
            code: String::new(),
            message: String::new(),
            metadata: Map::new(),
            body: body.clone(),
        };
        each_field(body, |tag, value| match tag {
            1 => error.code = lossy(&value),
            2 => error.message = lossy(&value),
            3 => {
                let (mut key, mut text) = (String::new(), String::new());
                each_field(value, |tag, value| match tag {
                    1 => key = lossy(&value),
                    2 => text = lossy(&value),
                    _ => {}
                });
                error.metadata.insert(key, Value::String(text));
            }
            _ => {}
        });
        Self(Box::new(error))
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server answered with error {}", self.code())?;
        if !self.message().is_empty() {
            write!(f, ": {}", self.message())?;
        }
        Ok(())
    }
}

impl std::error::Error for ServerError {}

/// The response for every value that is false in JavaScript.
const NO_VALUE: &[u8] = b"{}";

/// Decodes a response as a value: if `{}` does not match the type, it stands for one of these values.
pub(crate) fn from_answer<T: DeserializeOwned>(body: &[u8]) -> Result<T, DecodeError> {
    let read = from_json(body);
    if read.is_ok() || body != NO_VALUE {
        return read;
    }
    let mut meant = ["null", "0", "false", "\"\""].iter();
    let meant = meant.find_map(|value| serde_json::from_str(value).ok());
    meant.map_or(read, Ok)
}

fn object(body: &[u8]) -> Option<Map<String, Value>> {
    serde_json::from_slice(body).ok()
}

fn message(object: &mut Map<String, Value>) -> String {
    ["msg", "message"]
        .into_iter()
        .find_map(|key| match object.remove(key) {
            Some(Value::String(text)) => Some(text),
            _ => None,
        })
        .unwrap_or_default()
}

fn text(value: Value) -> String {
    match value {
        Value::String(text) => text,
        other => other.to_string(),
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The length-delimited fields of a Google protobuf message; ends at the first other field.
fn each_field(mut bytes: Bytes, mut field: impl FnMut(u64, Bytes)) {
    while let Some(key) = varint(&mut bytes) {
        let Some(length) = varint(&mut bytes).and_then(|length| usize::try_from(length).ok())
        else {
            return;
        };
        if key & 7 != 2 || bytes.len() < length {
            return;
        }
        field(key >> 3, bytes.split_to(length));
    }
}

fn varint(bytes: &mut Bytes) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = bytes.try_get_u8().ok()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use shaddock_protocol::{Codec, CodecConfig, Dialect, PitayaSerializer};

    fn at_least_400(code: i64) -> bool {
        code >= 400
    }

    fn by_code(body: &'static str) -> Option<ServerError> {
        ServerError::by_code(&Bytes::from_static(body.as_bytes()), at_least_400)
    }

    #[test]
    fn pomelo_errors_are_recognised_by_their_code() {
        let error = by_code(r#"{"code":500,"error":true,"msg":"name taken"}"#).unwrap();
        assert_eq!((error.code(), error.message()), ("500", "name taken"));
        assert_eq!(
            error.to_string(),
            "the server answered with error 500: name taken"
        );
        assert!(error.json::<Value>().unwrap()["error"].as_bool().unwrap());
        for fine in [
            r#"{"code":200}"#,
            r#"{"code":"500"}"#,
            r#"{"code":500.5}"#,
            r#"{"inner":{"code":500}}"#,
            r#"[{"code":500}]"#,
            r#""code""#,
            r#"{"code":500"#,
            "",
        ] {
            assert_eq!(by_code(fine), None, "{fine}");
        }
    }

    #[test]
    fn pitaya_errors_in_both_serializers() {
        for serializer in [PitayaSerializer::Json, PitayaSerializer::Protobuf] {
            let codec = Codec::new(CodecConfig::default().pitaya_serializer(serializer));
            let metadata = [("retry", "no"), ("room", "7")];
            let body = codec.error_body(Dialect::Pitaya, "PIT-404", "no such thing", &metadata);
            let error = ServerError::marked(body, serializer == PitayaSerializer::Protobuf);
            assert_eq!(
                (error.code(), error.message()),
                ("PIT-404", "no such thing")
            );
            assert_eq!(error.metadata("room"), Some("7"));
            assert_eq!(error.metadata("rooms"), None);
        }
    }

    proptest! {
        #[test]
        fn any_body_makes_an_error(body: Vec<u8>, protobuf: bool) {
            let error = ServerError::marked(Bytes::from(body.clone()), protobuf);
            prop_assert_eq!(&error.body()[..], body);
        }
    }
}
