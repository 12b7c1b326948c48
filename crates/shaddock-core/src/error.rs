//! Errors of the session calls. The texts are Pomelo's, because handlers compare them.

use crate::{Sid, Uid};

/// A session was not bound to a user. Nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// There is no such session on this frontend, or not any more.
    #[error("session does not exist, sid: {sid}")]
    NoSuchSession {
        /// The sid asked for.
        sid: Sid,
    },
    /// The session closed before it could be bound.
    #[error("session does not exist, sid: {sid}")]
    SessionClosed {
        /// Its sid.
        sid: Sid,
    },
    /// The session belongs to another user.
    #[error("session has already bind with {uid}")]
    AlreadyBound {
        /// That user.
        uid: Uid,
    },
    /// The user has a session already, and [`Conflict::RejectNew`](crate::Conflict::RejectNew) is in force.
    #[error("singleSession is enabled, and session has already bind with uid: {uid}")]
    SingleSession {
        /// The user.
        uid: Uid,
    },
}

/// A session was not unbound. Nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnbindError {
    /// There is no such session on this frontend, or not any more.
    #[error("session does not exist, sid: {sid}")]
    NoSuchSession {
        /// The sid asked for.
        sid: Sid,
    },
    /// The session closed before it could be unbound.
    #[error("session does not exist, sid: {sid}")]
    SessionClosed {
        /// Its sid.
        sid: Sid,
    },
    /// The session is not bound, or bound to somebody else.
    #[error("session has not bind with {uid}")]
    NotBound {
        /// The uid asked for (Pomelo named the session's own).
        uid: Uid,
    },
}

/// A setting was not written. Nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SettingError {
    /// There is no such session on this frontend, or not any more.
    #[error("session does not exist, sid: {sid}")]
    NoSuchSession {
        /// The sid asked for.
        sid: Sid,
    },
    /// The view has no such setting, so there is nothing to push.
    #[error("view has no setting {key}")]
    NoSuchSetting {
        /// The name asked for.
        key: String,
    },
    /// The session would have more settings than [`max_settings`](crate::SessionConfig::max_settings).
    #[error("session may have at most {limit} settings")]
    TooMany {
        /// The bound.
        limit: usize,
    },
}

/// A listener was not registered. It will not be called.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ListenerError {
    /// The session is closed: no event comes any more.
    #[error("session does not exist, sid: {sid}")]
    SessionClosed {
        /// Its sid.
        sid: Sid,
    },
    /// The session has [`max_listeners`](crate::SessionConfig::max_listeners) already.
    #[error("session may have at most {limit} listeners")]
    TooMany {
        /// The bound.
        limit: usize,
    },
}
