//! Requests and responses of the process itself.

use super::tokens::Scope;
use crate::config::Time;

/// The state of a drain.
#[derive(serde::Serialize)]
pub(super) struct DrainReport {
    pub(super) draining: bool,
    pub(super) sessions: usize,
}

/// How this process is to drain.
#[derive(Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProcessDrain {
    /// As in [`DrainRequest`](crate::operators::DrainRequest).
    #[serde(default)]
    pub(super) linger: Option<Time>,
}

/// The caller, for programs that show only what its token permits.
#[derive(serde::Serialize)]
pub(super) struct WhoAmI {
    pub(super) scope: Scope,
    /// The caller's name, as in the audit log.
    pub(super) name: String,
    pub(super) version: &'static str,
    /// The servers of this process.
    pub(super) servers: Vec<String>,
}
