//! The configuration of sessions.

use crate::resume::ResumeConfig;

/// The number of sessions that a user may have on the frontends of one type, across all of them. All servers of a type must use the same
/// value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SessionsPerUser {
    /// Any number.
    #[default]
    Any,
    /// One session; the policy applies to the bind of a second one.
    One(Conflict),
}

impl SessionsPerUser {
    /// Whether a user may have one session only.
    pub const fn is_one(self) -> bool {
        matches!(self, Self::One(_))
    }
}

/// The policy of a bind if the user already has a session and may have [one](SessionsPerUser::One) only.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Conflict {
    /// The bind fails with [`BindError::SingleSession`](crate::BindError::SingleSession); the old session stays, as in Pomelo.
    #[default]
    RejectNew,
    /// The old session is closed with [`CloseReason::Replaced`](crate::CloseReason::Replaced); the bind succeeds.
    ReplaceOld,
}

/// Policies and limits of the sessions of one frontend.
///
/// ```
/// use shaddock_core::{Conflict, SessionConfig, SessionsPerUser};
/// let config = SessionConfig::default().sessions_per_user(SessionsPerUser::One(Conflict::ReplaceOld));
/// assert_eq!(config.outbox_bytes, 1024 * 1024);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionConfig {
    /// The number of sessions that a user may have. Default: any.
    pub sessions_per_user: SessionsPerUser,
    /// Maximum number of bytes that are queued for a client whose socket is full. Default: 1 MiB.
    ///
    /// Above it the client is disconnected with [`CloseReason::SlowClient`](crate::CloseReason::SlowClient). From a quarter of it on the
    /// client's further input waits. [`Outbox`](crate::Outbox) has the complete table. A single message longer than this is rejected, and
    /// the session stays open. Never more than 1 GiB.
    pub outbox_bytes: usize,
    /// Maximum number of listeners on one session. Default: 64. Above it registration fails.
    pub max_listeners: usize,
    /// Maximum number of settings of one session. Default: 1,024. Above it `set` fails.
    pub max_settings: usize,
    /// Maximum number of channels and topics of one user on this frontend. Default: 1,024. Above it a join fails.
    pub max_memberships: usize,
    /// Limits of resumable sessions.
    pub resume: ResumeConfig,
}

shaddock_protocol::setters!(SessionConfig {
    sessions_per_user: SessionsPerUser,
    outbox_bytes: usize,
    max_listeners: usize,
    max_settings: usize,
    max_memberships: usize,
    resume: ResumeConfig,
});

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            sessions_per_user: SessionsPerUser::default(),
            outbox_bytes: 1024 * 1024,
            max_listeners: 64,
            max_settings: 1024,
            max_memberships: 1024,
            resume: ResumeConfig::default(),
        }
    }
}
