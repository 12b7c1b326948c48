//! What an app counts.

mod counter;

use std::sync::atomic::AtomicUsize;

pub use self::counter::Counter;
use crate::metrics::Calls;

/// What an app counts. Read it with [`AppHandle::stats`](crate::app::AppHandle::stats).
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct AppStats {
    /// Requests and notifies that came to the dispatcher, of clients and of other frontends.
    pub requests: Counter,
    /// Those answered with an error.
    pub errors: Counter,
    /// Requests rejected because [`max_concurrent`](crate::app::AppConfig::max_concurrent) were running.
    pub rejected: Counter,
    /// Handlers, filters and listeners that panicked.
    pub panics: Counter,
    /// Handlers that did not answer in time.
    pub timeouts: Counter,
    /// Times at which a handler held its thread for 100 ms or longer without waiting. Measured where
    /// [handlers are](crate::launch::Launcher::configure).
    pub blocked: Counter,
    /// Replies of handlers to notifies, which are dropped.
    pub dropped_replies: Counter,
    /// Messages put into sessions' queues for clients that did not ask: pushes and broadcasts, one per receiver.
    pub pushed: Counter,
    /// Receivers of pushes who were not there.
    pub missing: Counter,
    /// Events of sessions that were thrown away because listeners did not keep up.
    pub lost_events: Counter,
    /// Requests of clients that went to other servers.
    pub(crate) forwards: Calls,
    /// Requests of clients that went to backends over HTTP.
    pub(crate) asked: Calls,
    /// Calls of other servers' remotes.
    pub(crate) rpcs: Calls,
    /// Handlers at work now whose client has left.
    pub left_behind: AtomicUsize,
}
