//! What a handler answers with: [`Reply`] and everything that [`IntoReply`] turns into one.
//!
//! A reply is JSON text. It does not know the dialect of the client, nor whether the client asked for an answer: in Pomelo's protocol the
//! client chooses per message whether it wants one, so one handler serves requests and notifies, and the reply to a notify is dropped and
//! counted.

use std::cell::Cell;

use bytes::Bytes;
use serde::Serialize;

use crate::error::{HandlerError, IntoHandlerError};

/// The answer to a request: JSON text, perhaps empty (which clients read as `{}`).
#[derive(Debug, Clone, Default)]
pub struct Reply(Repr);

// A `Vec` is kept as it is: turning it into `Bytes` costs an allocation that most answers, which are copied into the session's outbound
// queue at once, do not need.
#[derive(Debug, Clone, Default)]
enum Repr {
    #[default]
    Empty,
    Text(Vec<u8>),
    Shared(Bytes),
}

/// A longer text than this is given back to the allocator.
const SPARE_MAX: usize = 16 * 1024;

thread_local! {
    /// The buffer of the last reply.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// What became of a request.
pub type Outcome = Result<Reply, HandlerError>;

impl Reply {
    /// No value: the client gets `{}`.
    pub const fn empty() -> Self {
        Self(Repr::Empty)
    }

    /// This value as JSON.
    ///
    /// # Errors
    /// [`codes::INTERNAL`](crate::error::codes::INTERNAL) when the value cannot be serialised, for example a map whose keys are no strings.
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Self, HandlerError> {
        let mut text = SPARE.take();
        match serde_json::to_writer(&mut text, value) {
            Ok(()) => Ok(Self(Repr::Text(text))),
            Err(error) => {
                Err(HandlerError::internal("the answer cannot be serialised").with_source(error))
            }
        }
    }

    /// JSON text that is already made. It is not checked.
    pub fn raw(json: impl Into<Bytes>) -> Self {
        Self(Repr::Shared(json.into()))
    }

    /// The JSON text; empty when there is no value.
    pub fn as_slice(&self) -> &[u8] {
        match &self.0 {
            Repr::Empty => &[],
            Repr::Text(text) => text,
            Repr::Shared(bytes) => bytes,
        }
    }

    /// Whether there is a value; one that is written with no bytes is one.
    pub(crate) const fn has_value(&self) -> bool {
        !matches!(self.0, Repr::Empty)
    }

    /// Whether the text comes from outside, and is not the value of a handler.
    pub(crate) const fn is_raw(&self) -> bool {
        matches!(self.0, Repr::Shared(_))
    }

    /// The reply has been written: the next one of this thread gets its memory.
    pub(crate) fn recycle(self) {
        if let Repr::Text(mut text) = self.0
            && text.capacity() <= SPARE_MAX
        {
            text.clear();
            SPARE.set(text);
        }
    }

    /// The JSON text as shared bytes.
    pub fn into_bytes(self) -> Bytes {
        match self.0 {
            Repr::Empty => Bytes::new(),
            Repr::Text(text) => text.into(),
            Repr::Shared(bytes) => bytes,
        }
    }
}

impl From<Bytes> for Reply {
    fn from(json: Bytes) -> Self {
        Self::raw(json)
    }
}

/// What a handler may return.
///
/// Implemented for [`Json`](crate::extract::Json), `()`, strings, [`serde_json::Value`], [`Reply`], `Option<T>` (`None` is an empty reply) and `Result<T, E>`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the answer of a handler",
    label = "this is what the handler returns",
    note = "return `Json<T>` with a `T` that implements `serde::Serialize`, `()`, a string, `serde_json::Value`, `Reply`, or an \
            `Option` or `Result` of one of them"
)]
pub trait IntoReply {
    /// Whether there can be anything to tell, a value or an error. Pitaya servers are refused requests to a handler that never has, as they
    /// are by one in Go that returns nothing.
    const TELLS: bool = true;

    /// The answer, or why there is none.
    ///
    /// # Errors
    /// What the handler answered with `Err`, or a value that cannot be serialised.
    fn into_reply(self) -> Outcome;
}

impl IntoReply for Reply {
    fn into_reply(self) -> Outcome {
        Ok(self)
    }
}

impl IntoReply for () {
    const TELLS: bool = false;

    fn into_reply(self) -> Outcome {
        Ok(Reply::empty())
    }
}

impl IntoReply for serde_json::Value {
    fn into_reply(self) -> Outcome {
        Reply::json(&self)
    }
}

impl IntoReply for String {
    fn into_reply(self) -> Outcome {
        Reply::json(&self)
    }
}

impl IntoReply for &'static str {
    fn into_reply(self) -> Outcome {
        Reply::json(self)
    }
}

impl IntoReply for HandlerError {
    fn into_reply(self) -> Outcome {
        Err(self)
    }
}

impl<T: IntoReply> IntoReply for Option<T> {
    fn into_reply(self) -> Outcome {
        self.map_or_else(|| Ok(Reply::empty()), IntoReply::into_reply)
    }
}

impl<T: IntoReply, E: IntoHandlerError> IntoReply for Result<T, E> {
    fn into_reply(self) -> Outcome {
        match self {
            Ok(value) => value.into_reply(),
            Err(error) => Err(error.into_handler_error()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extract::Json;

    fn text(reply: impl IntoReply) -> String {
        String::from_utf8(reply.into_reply().unwrap().as_slice().to_vec()).unwrap()
    }

    #[test]
    fn values_become_json() {
        assert_eq!(text(Json(vec![1, 2])), "[1,2]");
        assert_eq!(text("a\"b"), "\"a\\\"b\"");
        assert_eq!(text(()), "");
        assert_eq!(text(None::<Json<u8>>), "");
        assert_eq!(
            text(serde_json::json!({"b": 1, "a": 2})),
            "{\"b\":1,\"a\":2}"
        );
        assert_eq!(text(Reply::raw("[]")), "[]");
        assert_eq!(text(Ok::<_, HandlerError>(Some(Json(1)))), "1");
    }

    #[test]
    fn a_reply_gets_the_memory_of_the_last_one_and_nothing_else() {
        let secret = Reply::json("a secret").unwrap();
        let place = secret.as_slice().as_ptr();
        secret.recycle();
        let next = Reply::json("x").unwrap();
        assert_eq!(next.as_slice(), b"\"x\"");
        assert_eq!(next.as_slice().as_ptr(), place);
        next.recycle();
        assert!(
            Json(std::collections::HashMap::from([((1, 2), 3)]))
                .into_reply()
                .is_err()
        );
        Reply::json(&"x".repeat(SPARE_MAX)).unwrap().recycle();
        assert!(SPARE.take().capacity() <= SPARE_MAX);
    }

    #[test]
    fn errors_keep_their_code() {
        let error = Err::<(), _>(HandlerError::not_found("x"))
            .into_reply()
            .unwrap_err();
        assert_eq!(error.code(), "PIT-404");
        let error = Err::<(), _>(std::fmt::Error).into_reply().unwrap_err();
        assert_eq!(error.code(), "PIT-000");
    }

    #[test]
    fn what_cannot_be_serialised_is_an_error() {
        let map = std::collections::HashMap::from([((1, 2), 3)]);
        assert_eq!(Json(map).into_reply().unwrap_err().code(), "PIT-500");
    }
}
