//! Which clients get resumable sessions.

use std::sync::Arc;

/// The clients that get resumable sessions. How long these wait and what they keep is in
/// [`SessionConfig::resume`](crate::session::SessionConfig::resume).
///
/// ```
/// use shaddock::{App, resume::ResumePolicy};
///
/// let mut app = App::new("connector", "connector-1");
/// app.set(ResumePolicy::default().require_tls(true));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResumePolicy {
    /// Whether clients that ask get one. Default: yes.
    pub enabled: bool,
    /// Whether clients on plain sockets get none. Default: no.
    pub require_tls: bool,
    /// Where clients come back to first, such as `wss://c1.example.com`. Default: where they choose.
    pub address: Option<Arc<str>>,
    /// Whether a client that comes back here gets its session if another frontend of the type has it. Default: yes.
    pub other_frontends: bool,
    /// Clients of one address that come back without success, a minute. Default 60. Those above get a new session without a look at their token.
    pub max_refused: u32,
    /// Clients of one address that come back, a minute. Default 60,000. Those above get a new session.
    pub max_returns: u32,
}

shaddock_protocol::setters!(ResumePolicy {
    enabled: bool,
    require_tls: bool,
    address: impl Into<Option<Arc<str>>>,
    other_frontends: bool,
    max_refused: u32,
    max_returns: u32,
});

impl Default for ResumePolicy {
    fn default() -> Self {
        Self {
            enabled: true,
            require_tls: false,
            address: None,
            other_frontends: true,
            max_refused: 60,
            max_returns: 60_000,
        }
    }
}
