//! Errors between servers.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use crate::ServerId;

/// Error codes that servers share. Applications may use any other text.
pub mod code {
    /// Unknown: an error without a code, a panic, no reply because there is no subscriber.
    pub const UNKNOWN: &str = "PIT-000";
    /// The request is invalid: its route or its argument.
    pub const BAD_REQUEST: &str = "PIT-400";
    /// No such handler or remote.
    pub const NOT_FOUND: &str = "PIT-404";
    /// No reply within the deadline, reported by the caller.
    pub const TIMEOUT: &str = "PIT-408";
    /// An internal error of a server; also: no server of the type.
    pub const INTERNAL: &str = "PIT-500";
    /// The server is overloaded, or the link to it is down. Nothing was done; try again later.
    pub const UNAVAILABLE: &str = "PIT-503";
}

/// An error as sent between servers and, for a forwarded request, to the client: a code, a text, and metadata.
///
/// [`kind`](Self::kind) returns its origin, which is not sent.
#[derive(Clone, PartialEq, Eq)]
pub struct RemoteError(Box<Inner>);

#[derive(Clone, PartialEq, Eq)]
struct Inner {
    kind: RemoteErrorKind,
    code: Cow<'static, str>,
    message: Cow<'static, str>,
    metadata: BTreeMap<String, String>,
}

/// The origin of a [`RemoteError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RemoteErrorKind {
    /// The other server returned it.
    Remote,
    /// No reply within the deadline. The other server may have done the work.
    Timeout,
    /// No server of that type or id is known. Nothing was sent.
    NoServer,
    /// The server is known but has no subscriber: it just died or has not started. Nothing was done.
    NoResponder,
    /// Too many calls are in flight to that server, or it is busy. Nothing was done.
    Busy,
    /// The link to the other servers is down and the request was not sent.
    Disconnected,
    /// The link broke, or the other server died, after the request was sent. It may have done the work.
    LinkLost,
    /// This frontend is cut off, and another one may now own the user: requests of the user are rejected.
    Fenced,
    /// The request cannot be sent: too large, an operation that the other server does not support, an invalid uid.
    Refused,
    /// A reply arrived but is invalid.
    BadAnswer,
}

impl RemoteError {
    /// An error returned by a handler or remote. An empty code becomes `PIT-000`.
    pub fn new(code: impl Into<Cow<'static, str>>, message: impl Into<Cow<'static, str>>) -> Self {
        Self::of(RemoteErrorKind::Remote, code, message)
    }

    /// An error of another kind.
    pub fn of(
        kind: RemoteErrorKind,
        code: impl Into<Cow<'static, str>>,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        let mut code = code.into();
        if code.is_empty() {
            code = Cow::Borrowed(code::UNKNOWN);
        }
        Self(Box::new(Inner {
            kind,
            code,
            message: message.into(),
            metadata: BTreeMap::new(),
        }))
    }

    /// Adds one entry of metadata.
    #[must_use]
    pub fn with(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.0.metadata.insert(key.into(), value.into());
        self
    }

    /// Replaces all metadata.
    #[must_use]
    pub fn with_metadata(mut self, metadata: BTreeMap<String, String>) -> Self {
        self.0.metadata = metadata;
        self
    }

    /// No server of this type is known.
    pub fn no_server() -> Self {
        Self::of(
            RemoteErrorKind::NoServer,
            code::INTERNAL,
            "no servers available of this type",
        )
    }

    /// The server id is not in the list.
    pub fn server_not_found() -> Self {
        Self::of(RemoteErrorKind::NoServer, code::UNKNOWN, "server not found")
    }

    /// This frontend does not have the session or user.
    pub fn session_not_found() -> Self {
        Self::new(code::UNKNOWN, "session not found")
    }

    /// This frontend is cut off, so that another one may now own the user ([`Node::fenced`](crate::Node::fenced)).
    pub fn fenced() -> Self {
        let text = "this frontend is cut off and another one may own the user";
        Self::of(RemoteErrorKind::Fenced, code::UNAVAILABLE, text)
    }

    /// A call that its own server could serve, in Pitaya's words, which refuses such calls.
    pub fn local_call() -> Self {
        let text = "you are making a rpc that may be processed locally, either specify a different server type or specify a server id";
        Self::of(RemoteErrorKind::Refused, code::UNKNOWN, text)
    }

    /// No handler has this route, which is the full route from the client.
    pub fn handler_not_found(route: &str) -> Self {
        Self::new(
            code::NOT_FOUND,
            format!("pitaya/handler: {route} not found"),
        )
    }

    /// No remote has this route; `short` is its `service.method`.
    pub fn remote_not_found(short: &str) -> Self {
        Self::new(code::NOT_FOUND, "route not found").with("route", short)
    }

    /// The body for a JSON client: `code`, `msg` and, unless empty, `metadata`, in this order.
    pub fn to_json(&self) -> String {
        #[derive(serde::Serialize)]
        struct Body<'a> {
            code: &'a str,
            #[serde(skip_serializing_if = "str::is_empty")]
            msg: &'a str,
            #[serde(skip_serializing_if = "BTreeMap::is_empty")]
            metadata: &'a BTreeMap<String, String>,
        }
        let body = Body {
            code: self.code(),
            msg: self.message(),
            metadata: self.metadata(),
        };
        // Texts always have a JSON form.
        serde_json::to_string(&body).unwrap_or_default()
    }

    /// The origin.
    pub fn kind(&self) -> RemoteErrorKind {
        self.0.kind
    }

    /// The code, never empty.
    pub fn code(&self) -> &str {
        &self.0.code
    }

    /// The text for people.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The metadata, sorted by key.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.0.metadata
    }

    /// Whether the same request may be sent again without the risk that it runs twice: it was certainly not started.
    pub fn is_retryable(&self) -> bool {
        use RemoteErrorKind as Kind;
        match self.0.kind {
            Kind::NoServer | Kind::NoResponder | Kind::Busy | Kind::Disconnected => true,
            Kind::Remote
            | Kind::Timeout
            | Kind::LinkLost
            | Kind::Fenced
            | Kind::Refused
            | Kind::BadAnswer => false,
        }
    }
}

impl fmt::Debug for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteError")
            .field("kind", &self.0.kind)
            .field("code", &self.0.code)
            .field("message", &self.0.message)
            .field("metadata", &self.0.metadata)
            .finish()
    }
}

impl fmt::Display for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.code, self.0.message)
    }
}

impl std::error::Error for RemoteError {}

/// Why a server cannot join, or an operation of the whole cluster failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClusterError {
    /// A server with this id is already in the cluster.
    #[error("a server with id {0} is already in the cluster")]
    IdTaken(ServerId),
    /// NATS or etcd cannot be reached, or rejected the connection.
    #[error("{what} at {address}: {reason}")]
    Unreachable {
        /// `NATS` or `etcd`.
        what: &'static str,
        /// The address.
        address: String,
        /// The error.
        reason: String,
    },
    /// A setting is invalid.
    #[error("cluster setting {key}: {reason}")]
    Setting {
        /// The setting.
        key: &'static str,
        /// The problem.
        reason: String,
    },
    /// This server has left the cluster.
    #[error("this server has left the cluster")]
    Left,
}

/// Why a user could not be bound on this frontend.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Sessions are unique, new ones are rejected, and the user is connected on another frontend (or this one).
    #[error("the user is already bound at {0}")]
    Taken(ServerId),
    /// The uid is empty or longer than 256 bytes.
    #[error("illegal uid")]
    IllegalUid,
    /// Another frontend claimed the user during this bind.
    #[error("another frontend took the user at the same time")]
    Lost,
    /// The owner of the user cannot be determined now: the directory or the current owner does not reply. Nothing was changed.
    #[error("cannot decide now who owns the user: {0}")]
    Unavailable(String),
    /// This server has left the cluster.
    #[error("this server has left the cluster")]
    Left,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_code_is_unknown() {
        assert_eq!(RemoteError::new("", "x").code(), "PIT-000");
    }

    #[test]
    fn clients_get_the_bodies_of_the_vectors() {
        let vectors = crate::tests::vectors::vectors();
        let late = |route: &str, server: &str, peer: &str| {
            crate::reply::Limit {
                timeout: std::time::Duration::from_secs(5),
                route: route.into(),
                caller: ServerId::new(server).unwrap(),
                target: ServerId::new(peer).unwrap(),
            }
            .error()
        };
        for v in vectors["client_errors"].as_array().unwrap() {
            let error = match v["name"].as_str().unwrap() {
                "backend_not_found" => RemoteError::handler_not_found("game.room.jion"),
                "no_server_of_type" => RemoteError::no_server(),
                "timeout" => late(
                    "game.room.join",
                    "0f1d2c3b-4a59-4687-8879-6a5b4c3d2e1f",
                    "b1946ac9-2492-4d23-9f3e-5d1f0c7a9e42",
                ),
                "no_responders" => {
                    RemoteError::new("", "nats: no responders available for request")
                }
                "application" => RemoteError::new("PIT-433", "test error").with("some", "meta"),
                other => panic!("{other}"),
            };
            assert_eq!(error.to_json(), v["body_json"].as_str().unwrap());
        }
    }

    #[test]
    fn only_what_was_certainly_not_done_may_be_tried_again() {
        assert!(RemoteError::no_server().is_retryable());
        assert!(!RemoteError::of(RemoteErrorKind::Timeout, code::TIMEOUT, "late").is_retryable());
        assert!(
            !RemoteError::new(code::UNAVAILABLE, "an application may say so too").is_retryable()
        );
    }
}
