//! Errors of session views.

use shaddock_cluster::RemoteError;
use shaddock_core::{BindError, InvalidId, SendError, SettingError, UnbindError};

use crate::error::HandlerError;

/// Something could not be done to a session. Nothing has changed then, except that a [`Remote`](Self::Remote) timeout leaves it unknown.
///
/// The texts are Pomelo's, also when the session is on another server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// The session was not bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The session was not unbound.
    #[error(transparent)]
    Unbind(#[from] UnbindError),
    /// A setting was not written.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// A setting cannot be written as JSON.
    #[error(transparent)]
    Typed(#[from] WrongSetting),
    /// The text is no user id.
    #[error(transparent)]
    Uid(#[from] InvalidId),
    /// The view has no user, so there is none to unbind.
    #[error("session has not bind with a user")]
    NotBound,
    /// The app's hook refused the bind. In a handler, `?` answers with this error.
    #[error("{0}")]
    Refused(HandlerError),
    /// It cannot be decided now who owns the user; try again later.
    #[error(transparent)]
    Owner(shaddock_cluster::BindError),
    /// The frontend of the session answered with an error, or not at all.
    #[error("{}", .0.message())]
    Remote(#[from] RemoteError),
    /// The message was not queued for the client.
    #[error(transparent)]
    Send(#[from] SendError),
    /// The message cannot be serialised or encoded.
    #[error("the message cannot be encoded: {0}")]
    Encode(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The request came without a session. No frontend sends such.
    #[error("session not found: the request has none")]
    NoSession,
    /// This server is no frontend, or has stopped.
    #[error("this server holds no sessions")]
    NoFrontend,
}

impl SessionError {
    /// The frontend says why it cannot write a message for the client.
    pub(crate) fn refused(reason: Option<&str>) -> Self {
        Self::Encode(reason.unwrap_or("the frontend gave no reason").into())
    }
}

impl From<SessionError> for RemoteError {
    /// As another server gets it.
    fn from(error: SessionError) -> Self {
        match error {
            SessionError::Remote(error) => error,
            SessionError::Refused(error) => error.into_remote(),
            other => Self::new(shaddock_cluster::code::UNKNOWN, other.to_string()),
        }
    }
}

/// A setting is there, and is not of its type: another server, or an older version of this one, has written something else. Or it cannot be
/// written as JSON.
#[derive(Debug, thiserror::Error)]
#[error("the setting `{key}` does not have its type: {source}")]
pub struct WrongSetting {
    pub(super) key: &'static str,
    pub(super) source: serde_json::Error,
}
