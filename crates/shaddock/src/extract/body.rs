//! Extractors that read the body.

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

use super::{FromBody, Parts, ViaBody};
use crate::{
    error::HandlerError,
    reply::{IntoReply, Outcome, Reply},
};

/// A value that travels as JSON: as an argument the body of the request, as a result the answer.
///
/// An empty body reads as `{}`, as in Pomelo. A body that does not fit `T` answers the request with
/// [`codes::BAD_REQUEST`](crate::error::codes::BAD_REQUEST), which Pomelo clients read as `{"code":500}`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Json<T>(pub T);

#[diagnostic::do_not_recommend]
impl<T: DeserializeOwned + Send + 'static> FromBody<ViaBody> for Json<T> {
    fn from_body(_parts: &Parts<'_>, body: &Bytes) -> Result<Self, HandlerError> {
        let text: &[u8] = if body.is_empty() { b"{}" } else { body };
        // One look at the whole is cheaper than one at each of its strings.
        let read = match std::str::from_utf8(text) {
            Ok(text) => serde_json::from_str(text),
            Err(_) => serde_json::from_slice(text),
        };
        match read {
            Ok(value) => Ok(Self(value)),
            Err(error) => Err(HandlerError::bad_request(
                "the body is not what the handler expects",
            )
            .with_source(error)),
        }
    }
}

impl<T: Serialize> IntoReply for Json<T> {
    fn into_reply(self) -> Outcome {
        Reply::json(&self.0)
    }
}

/// The body as it is. From Pomelo clients that is JSON text in valid UTF-8, `{}` if it was empty; from Pitaya clients and from other servers
/// it is what they sent, and may be empty: a protobuf message without values is.
///
/// The bytes are a copy, so that a handler that keeps them does not keep a whole read buffer.
///
/// As the value of a push it is sent as it is, to clients with a serializer of their own: `session.push_message("onState", &Body(bytes))`, and the same
/// with channels and users. Not with a protobuf schema for the route, which wants JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Body(pub Bytes);

impl FromBody<ViaBody> for Body {
    fn from_body(_parts: &Parts<'_>, body: &Bytes) -> Result<Self, HandlerError> {
        Ok(Self(Bytes::copy_from_slice(body)))
    }
}
