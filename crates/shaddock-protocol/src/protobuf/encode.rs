//! Encodes JSON to bytes.

use alloc::vec::Vec;

use serde::de::Deserializer;
use serde_json::Value;

use super::ProtobufError;
use super::encoder::{Encoder, Stop, Strings, json_error};
use super::schema::Schema;
use super::slot::put_body;

impl Schema {
    /// Encodes a body from JSON text. Members are written in the order of the text; unknown members are skipped. Whole numbers may also be
    /// given as text and lose their fraction; `null` in place of an array or map counts as absent.
    ///
    /// A member that occurs twice counts once, with its last value, as in JavaScript.
    ///
    /// # Errors
    /// If the schema does not have the route, the text is not a JSON object, or a field is missing or does not match.
    pub fn encode(&self, route: &str, json: &[u8]) -> Result<Vec<u8>, ProtobufError> {
        self.encode_as(Strings::Utf8, route, json)
    }

    /// As [`Schema::encode`], with strings for [`Variant::Browser`](crate::Variant::Browser).
    ///
    /// # Errors
    /// As [`Schema::encode`].
    pub fn encode_for_browsers(&self, route: &str, json: &[u8]) -> Result<Vec<u8>, ProtobufError> {
        self.encode_as(Strings::Utf16, route, json)
    }

    fn encode_as(
        &self,
        strings: Strings,
        route: &str,
        json: &[u8],
    ) -> Result<Vec<u8>, ProtobufError> {
        let id = self.route(route).ok_or(ProtobufError::UnknownRoute)?;
        // Skipped members would not be checked otherwise.
        let json = core::str::from_utf8(json).map_err(|_| ProtobufError::NotUtf8)?;
        let mut encoder = Encoder::new(self, strings, json.len());
        let mut text = serde_json::Deserializer::from_str(json);
        let result = put_body(&mut encoder, id, &mut text).and_then(|()| text.end());
        match encoder.finish(result) {
            Err(Stop::MetTwice) => {
                let value: Value =
                    serde_json::from_str(json).map_err(|error| json_error(&error))?;
                self.encode_from(strings, route, &value)
            }
            Err(Stop::Error(error)) => Err(error),
            Ok(bytes) => Ok(bytes),
        }
    }

    /// Encodes a body from a value, as [`Schema::encode`] does from text.
    ///
    /// # Errors
    /// As [`Schema::encode`].
    pub fn encode_value(&self, route: &str, value: &Value) -> Result<Vec<u8>, ProtobufError> {
        self.encode_from(Strings::Utf8, route, value)
    }

    /// Encodes anything that serde can read as a map. No member may occur twice.
    pub(super) fn encode_from<'de, D>(
        &self,
        strings: Strings,
        route: &str,
        source: D,
    ) -> Result<Vec<u8>, ProtobufError>
    where
        D: Deserializer<'de, Error = serde_json::Error>,
    {
        let id = self.route(route).ok_or(ProtobufError::UnknownRoute)?;
        let mut encoder = Encoder::new(self, strings, 64);
        let result = put_body(&mut encoder, id, source);
        encoder.finish(result).map_err(|stop| match stop {
            Stop::Error(error) => error,
            Stop::MetTwice => ProtobufError::NotAnObject,
        })
    }
}
