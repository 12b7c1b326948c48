//! What an operator can choose about sessions.

use crate::resume::ResumeConfig;

/// What `bind` does with [`single_session`](SessionConfig::single_session) when the user has a session already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Conflict {
    /// The bind fails with [`BindError::SingleSession`](crate::BindError::SingleSession); the old session stays. As in Pomelo.
    #[default]
    RejectNew,
    /// The old session is closed with [`CloseReason::Replaced`](crate::CloseReason::Replaced); the bind succeeds.
    ReplaceOld,
}

/// Policies and bounds of the sessions of one frontend.
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
    /// Who wins when `single_session` is on. Default: the old session.
    pub on_conflict: Conflict,
    /// Bytes that may wait for a client whose socket is full. Default: 1 MiB.
    ///
    /// Over it the client is disconnected with [`CloseReason::SlowClient`](crate::CloseReason::SlowClient). From a quarter of it
    /// on the client's further input waits. [`Outbox`](crate::Outbox) has the whole table. One message longer than this is
    /// refused and closes nothing. Never more than [`Outbox::MAX_LIMIT`](crate::Outbox::MAX_LIMIT).
    pub outbox_bytes: usize,
    /// Listeners that may be registered on one session. Default: 64. Over it registration fails.
    pub max_listeners: usize,
    /// Settings that one session may have. Default: 1,024. Over it `set` and `import` fail.
    pub max_settings: usize,
    /// Channels and topics that one user may be in on this frontend. Default: 1,024. Over it a join fails.
    pub max_memberships: usize,
    /// Bounds of sessions that outlive their sockets.
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
