//! The one error a handler answers with, and the codes the framework itself uses.
//!
//! A [`HandlerError`] knows no dialect. What a client reads of it is decided where the answer is written (see [`crate::reply`]): a Pomelo
//! client reads the body, or `{"code":500}` when there is none; a Pitaya client reads `{"code","msg","metadata"}` with the error flag set.

mod convert;

use std::{borrow::Cow, collections::BTreeMap, fmt};

use bytes::Bytes;
use serde::Serialize;
use shaddock_cluster::RemoteError;

/// What clients read of errors that are not for them.
const INTERNAL_ERROR: &str = "internal error";
/// What Pitaya servers answer when a handler or remote takes too long.
const TOO_LATE: &str = "rpc client: request timeout";
/// Where the body of an error travels between servers: Pitaya's errors have none.
const BODY: &str = "shaddock.body";

/// Codes of the errors that the framework makes itself. The texts are Pitaya's, whose clients know them.
pub mod codes {
    /// The error came from the application and named no code, or is a panic.
    pub const UNKNOWN: &str = "PIT-000";
    /// The request cannot be understood: its route or its body is malformed.
    pub const BAD_REQUEST: &str = "PIT-400";
    /// The client has not logged in: its session has no user. (Pitaya has no such code.)
    pub const NO_USER: &str = "PIT-401";
    /// There is no such handler, remote or session.
    pub const NOT_FOUND: &str = "PIT-404";
    /// The handler or the server asked did not answer in time.
    pub const TIMEOUT: &str = "PIT-408";
    /// Too many requests: of this session, or of all together.
    pub const TOO_MANY: &str = "PIT-429";
    /// The server failed: it was too slow, an answer that cannot be serialised, no server of the type.
    pub const INTERNAL: &str = "PIT-500";
}

type Source = Box<dyn std::error::Error + Send + Sync>;

/// Why a request failed.
///
/// Every standard error converts into it, and so do `anyhow::Error`, `String` and `&'static str`: `?` works in handlers. Such an error has code
/// [`codes::UNKNOWN`] and message `internal error`: its own text goes to the log and never to a client, as in Pomelo. Only errors that another server answered with
/// ([`RpcError`](crate::remote::RpcError), [`RemoteError`]) and refusals of the app's own hook
/// ([`SessionError::Refused`](crate::session::SessionError::Refused)) keep code and text, and those of operations on sessions
/// ([`SessionError`](crate::session::SessionError)) their text, as behind Pitaya's own servers. It does not implement [`std::error::Error`] itself, for
/// the same reason that `anyhow::Error` does not.
///
/// ```
/// use shaddock::{HandlerError, Json};
///
/// async fn join(Json(room): Json<String>) -> Result<Json<usize>, HandlerError> {
///     let number: usize = room.parse()?;
///     if number > 9 {
///         return Err(HandlerError::new("ROOM-404", "no such room").with_body(&serde_json::json!({"code": 404})));
///     }
///     Ok(Json(number))
/// }
/// ```
pub struct HandlerError(Box<Inner>);

struct Inner {
    code: Cow<'static, str>,
    message: Cow<'static, str>,
    metadata: BTreeMap<String, String>,
    body: Option<Bytes>,
    source: Option<Source>,
}

impl HandlerError {
    /// An error with a code for programs and a message for people. Pitaya clients read both.
    pub fn new(code: impl Into<Cow<'static, str>>, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner {
            code: code.into(),
            message: message.into(),
            metadata: BTreeMap::new(),
            body: None,
            source: None,
        }))
    }

    /// [`codes::BAD_REQUEST`] with this message.
    pub fn bad_request(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(codes::BAD_REQUEST, message)
    }

    /// [`codes::NOT_FOUND`] with this message.
    pub fn not_found(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(codes::NOT_FOUND, message)
    }

    /// A handler or remote takes longer than it may. The text is Pitaya's.
    pub(crate) fn too_late() -> Self {
        Self::new(codes::TIMEOUT, TOO_LATE)
    }

    /// The client has not logged in.
    pub(crate) fn no_user() -> Self {
        Self::new(codes::NO_USER, "log in first")
    }

    /// Whether it is [`too_late`](Self::too_late).
    pub(crate) fn is_too_late(&self) -> bool {
        self.0.code == codes::TIMEOUT && self.0.message == TOO_LATE
    }

    /// A request has no value to answer with, in Pitaya's words: `PIT-000` "reply must not be null". For handlers whose clients take an empty answer for
    /// a broken one: `found.map(Json).ok_or_else(HandlerError::no_value)`.
    pub fn no_value() -> Self {
        Self::new(codes::UNKNOWN, "reply must not be null")
    }

    /// What a client learns of a panic of a handler or filter. The log contains more.
    pub(crate) fn handler_failed() -> Self {
        Self::panicked("the handler failed")
    }

    /// A handler or remote panicked, which has no code in Pitaya. What the panic says is for the log.
    pub(crate) fn panicked(message: &'static str) -> Self {
        Self::new(codes::UNKNOWN, message)
    }

    /// [`codes::TIMEOUT`] with this message.
    pub fn timeout(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(codes::TIMEOUT, message)
    }

    /// [`codes::TOO_MANY`] with this message.
    pub fn too_many(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(codes::TOO_MANY, message)
    }

    /// [`codes::INTERNAL`]: a fault of the server. The text is for the log, at level `warn`, and never sent: clients read `internal error`.
    pub fn internal(text: impl Into<Cow<'static, str>>) -> Self {
        let text: Cow<'static, str> = text.into();
        Self::new(codes::INTERNAL, INTERNAL_ERROR).with_source(text.into_owned())
    }

    /// What a Pomelo client gets instead of `{"code":500}`: Pomelo's `next(err, resp)`. An object without a truthy `code` gets `"code":500`
    /// as its last member; a falsy body counts as none.
    ///
    /// A value that cannot be serialised leaves the error without a body.
    #[must_use]
    pub fn with_body<T: Serialize + ?Sized>(self, body: &T) -> Self {
        match serde_json::to_vec(body) {
            Ok(text) => self.with_raw_body(Bytes::from(text)),
            Err(error) => {
                shaddock_net::quiet!(warn, "the body of an error cannot be serialised", %error);
                self
            }
        }
    }

    /// As [`with_body`](Self::with_body), with JSON text that is already made.
    #[must_use]
    pub fn with_raw_body(mut self, json: Bytes) -> Self {
        self.0.body = Some(json);
        self
    }

    /// One entry of the metadata that Pitaya clients read.
    #[must_use]
    pub fn with_metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.0.metadata.insert(key.into(), value.into());
        self
    }

    /// The error behind this one, for logs.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Source>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// An error as another server answered with it.
    #[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
    pub(crate) fn from_remote(error: RemoteError) -> Self {
        let mut metadata = error.metadata().clone();
        let body = metadata.remove(BODY).map(Bytes::from);
        Self(Box::new(Inner {
            code: Cow::Owned(error.code().to_owned()),
            message: Cow::Owned(error.message().to_owned()),
            metadata,
            body,
            source: None,
        }))
    }

    /// An error of the server that a request was forwarded to. However that says that it was too slow, clients read [`codes::TIMEOUT`].
    pub(crate) fn from_forward(error: RemoteError) -> Self {
        if error.message() == TOO_LATE {
            return Self::too_late();
        }
        Self::from_remote(error)
    }

    /// The error as it travels to another server. Its source stays here, and is logged.
    pub(crate) fn into_remote(self) -> RemoteError {
        let inner = *self.0;
        if let Some(source) = &inner.source {
            shaddock_net::quiet!(warn, "a request of another server failed", code = &*inner.code, error = %source);
        }
        let mut metadata = inner.metadata;
        if let Some(body) = inner.body {
            metadata.insert(BODY.to_owned(), String::from_utf8_lossy(&body).into_owned());
        }
        RemoteError::new(inner.code, inner.message).with_metadata(metadata)
    }

    /// The code, for programs.
    pub fn code(&self) -> &str {
        &self.0.code
    }

    /// The message, for people.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The metadata; empty by default.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.0.metadata
    }

    /// The JSON text for Pomelo clients, if there is one.
    pub fn body(&self) -> Option<&Bytes> {
        self.0.body.as_ref()
    }

    /// The error behind this one.
    pub fn source(&self) -> Option<&(dyn std::error::Error + Send + Sync + 'static)> {
        self.0.source.as_deref()
    }
}

impl fmt::Debug for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandlerError")
            .field("code", &self.0.code)
            .field("message", &self.0.message)
            .field("metadata", &self.0.metadata)
            .field("body", &self.0.body)
            .field("source", &self.0.source)
            .finish()
    }
}

impl fmt::Display for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.code, self.0.message)?;
        match &self.0.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

/// What may stand in the `Err` of a handler's result: [`HandlerError`], every standard error, `anyhow::Error`, `String` and `&'static str`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the error of a handler",
    label = "neither `HandlerError` nor an error that converts into it",
    note = "use `HandlerError`, a type that implements `std::error::Error + Send + Sync + 'static`, `anyhow::Error`, `String` or `&'static str`"
)]
pub trait IntoHandlerError {
    /// The error in the form the framework answers with.
    fn into_handler_error(self) -> HandlerError;
}

#[diagnostic::do_not_recommend]
impl<E: Into<HandlerError>> IntoHandlerError for E {
    fn into_handler_error(self) -> HandlerError {
        self.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::SessionError;

    #[test]
    fn a_standard_error_keeps_its_text_from_clients() {
        let error: HandlerError = "x".parse::<u8>().unwrap_err().into();
        assert_eq!(
            (error.code(), error.message()),
            (codes::UNKNOWN, "internal error")
        );
        assert_eq!(
            error.to_string(),
            "PIT-000: internal error: invalid digit found in string"
        );
    }

    #[test]
    fn question_marks_take_texts_and_boxes() {
        fn of<E: Into<HandlerError>>(error: E) -> HandlerError {
            error.into()
        }
        let boxed: Box<dyn std::error::Error + Send + Sync> = "boxed".into();
        let all = [
            of("text"),
            of("text".to_owned()),
            of(boxed),
            of(anyhow::anyhow!("any")),
        ];
        let texts = ["text", "text", "boxed", "any"];
        for (error, text) in all.iter().zip(texts) {
            assert_eq!(
                (error.code(), error.message()),
                (codes::UNKNOWN, "internal error")
            );
            assert_eq!(
                error.source().map(ToString::to_string).as_deref(),
                Some(text)
            );
        }
    }

    #[test]
    fn a_fault_keeps_its_text_for_the_log() {
        let error = HandlerError::internal("the disk is full");
        assert_eq!(
            (error.code(), error.message()),
            (codes::INTERNAL, "internal error")
        );
        assert_eq!(
            error.to_string(),
            "PIT-500: internal error: the disk is full"
        );
        let sent = error.into_remote();
        assert_eq!(sent.message(), "internal error", "nor to other servers");
    }

    #[test]
    fn errors_of_other_servers_keep_code_and_body() {
        let error = HandlerError::new("X-1", "no")
            .with_body(&7)
            .with_metadata("k", "v");
        let error: HandlerError = error.into_remote().into();
        assert_eq!((error.code(), error.message()), ("X-1", "no"));
        assert_eq!(error.body().map(|b| &b[..]), Some(&b"7"[..]));
        assert_eq!(error.metadata().len(), 1);
        let refused = SessionError::Refused(HandlerError::new("X-2", "never"));
        assert_eq!(HandlerError::from(refused).code(), "X-2");
        let unbound = HandlerError::from(SessionError::NotBound);
        assert_eq!(
            (unbound.code(), unbound.message()),
            (codes::UNKNOWN, "session has not bind with a user")
        );
    }

    #[test]
    fn bodies_and_metadata_are_kept() {
        let error = HandlerError::new("X-1", "no")
            .with_body(&serde_json::json!({"a": 1}))
            .with_metadata("k", "v");
        assert_eq!(error.body().map(|b| &b[..]), Some(&b"{\"a\":1}"[..]));
        assert_eq!(error.metadata().get("k").map(String::as_str), Some("v"));
    }
}
