//! Errors of session calls. The texts are Pomelo's, because handlers compare them.

use crate::ids::MAX_ID_BYTES;
use crate::{Sid, Uid};

/// A session was not bound to a user. Nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// There is no open session with this sid on this frontend.
    #[error("session does not exist, sid: {sid}")]
    NoSuchSession {
        /// The requested sid.
        sid: Sid,
    },
    /// The session closed before it could be bound.
    #[error("session does not exist, sid: {sid}")]
    SessionClosed {
        /// The sid.
        sid: Sid,
    },
    /// The session belongs to another user.
    #[error("session has already bind with {uid}")]
    AlreadyBound {
        /// The other user.
        uid: Uid,
    },
    /// The user already has a session, and the policy is [`Conflict::RejectNew`](crate::Conflict::RejectNew).
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
    /// There is no open session with this sid on this frontend.
    #[error("session does not exist, sid: {sid}")]
    NoSuchSession {
        /// The requested sid.
        sid: Sid,
    },
    /// The session closed before it could be unbound.
    #[error("session does not exist, sid: {sid}")]
    SessionClosed {
        /// The sid.
        sid: Sid,
    },
    /// The session is not bound, or bound to another user.
    #[error("session has not bind with {uid}")]
    NotBound {
        /// The requested uid (Pomelo named the session's own).
        uid: Uid,
    },
}

/// A setting was not written. Nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SettingError {
    /// There is no open session with this sid on this frontend.
    #[error("session does not exist, sid: {sid}")]
    NoSuchSession {
        /// The requested sid.
        sid: Sid,
    },
    /// The view has no such setting to save.
    #[error("view has no setting {key}")]
    NoSuchSetting {
        /// The requested name.
        key: String,
    },
    /// The session would have more settings than [`max_settings`](crate::SessionConfig::max_settings).
    #[error("session may have at most {limit} settings")]
    TooMany {
        /// The limit.
        limit: usize,
    },
}

/// A listener was not registered and will not be called.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ListenerError {
    /// The session is closed: there are no further events.
    #[error("session does not exist, sid: {sid}")]
    SessionClosed {
        /// The sid.
        sid: Sid,
    },
    /// The session already has [`max_listeners`](crate::SessionConfig::max_listeners) listeners.
    #[error("session may have at most {limit} listeners")]
    TooMany {
        /// The limit.
        limit: usize,
    },
}

/// A failed call on a channel. Nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChannelError {
    /// The name is empty or longer than 256 bytes.
    #[error("a channel name must have 1 to {MAX_ID_BYTES} bytes, this one has {len}")]
    BadName {
        /// The length in bytes.
        len: usize,
    },
    /// There are already [`max_channels`](crate::ChannelConfig::max_channels) channels.
    #[error("there may be at most {limit} channels")]
    TooMany {
        /// The limit.
        limit: usize,
    },
    /// The channel was destroyed.
    #[error("channel is not running now")]
    Destroyed,
}
