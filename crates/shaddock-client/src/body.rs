//! Bodies as values.

use serde::de::DeserializeOwned;
use shaddock_protocol::{InflateError, ProtobufError};

/// A body that cannot be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Not JSON, or not of the requested type.
    #[error("the body is not JSON of the type asked for: {0}")]
    Json(String),
    /// The body does not match the route's protobuf schema.
    #[error("the body does not match its schema: {0}")]
    Protobuf(#[from] ProtobufError),
    /// The compressed body is invalid or becomes too long.
    #[error(transparent)]
    Compression(#[from] InflateError),
}

pub(crate) fn from_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, DecodeError> {
    serde_json::from_slice(body).map_err(|error| DecodeError::Json(error.to_string()))
}
