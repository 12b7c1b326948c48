//! The configuration of sessions.

use crate::resume::ResumeConfig;

/// The policy of `bind` with [`single_session`](SessionConfig::single_session) if the user already has a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
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
/// use shaddock_core::{Conflict, SessionConfig};
/// let config = SessionConfig { single_session: true, on_conflict: Conflict::ReplaceOld, ..SessionConfig::default() };
/// assert_eq!(config.outbox_bytes, 1024 * 1024);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionConfig {
    /// Whether a user may have one session only. Default: no.
    pub single_session: bool,
    /// The policy for a second session when `single_session` is on. Default: the old session stays.
    pub on_conflict: Conflict,
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

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            single_session: false,
            on_conflict: Conflict::default(),
            outbox_bytes: 1024 * 1024,
            max_listeners: 64,
            max_settings: 1024,
            max_memberships: 1024,
            resume: ResumeConfig::default(),
        }
    }
}
