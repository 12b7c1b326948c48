//! Filters that look at the clock.

use std::time::{Duration, Instant};

use shaddock_core::{Sid, Uid};

use super::{BeforeFlow, Filter};
use crate::{reply::Outcome, request::RequestContext};

/// Logs requests that took longer than a bound (Pomelo's `time` filter): route, session and duration, level `warn`.
#[derive(Debug, Clone, Copy)]
pub struct TimeFilter {
    slow: Duration,
}

impl TimeFilter {
    /// Requests above `slow` are logged.
    pub const fn new(slow: Duration) -> Self {
        Self { slow }
    }
}

impl Default for TimeFilter {
    /// 100 ms.
    fn default() -> Self {
        Self::new(Duration::from_millis(100))
    }
}

impl Filter for TimeFilter {
    fn before(&self, request: &mut RequestContext) -> BeforeFlow {
        request.mark_start(Instant::now());
        BeforeFlow::CONTINUE
    }

    fn after(&self, request: &mut RequestContext, outcome: &mut Outcome) {
        let Some(took) = request.started().map(|started| started.elapsed()) else {
            return;
        };
        if took >= self.slow {
            shaddock_net::quiet!(
                warn,
                "slow handler",
                route = request.route().as_str(),
                sid = request.session().id().map(Sid::get),
                uid = request.session().uid().map(Uid::as_str),
                ok = outcome.is_ok(),
                ?took
            );
        }
    }
}

/// Bounds how long handlers take (Pomelo's `timeout` filter): above it the handler is dropped at its next `.await` and the request is answered
/// with an error.
///
/// The app has a timeout already ([`AppConfig::handler_timeout`](crate::app::AppConfig::handler_timeout)); this filter is for choosing one by
/// request. A global one also bounds how long a frontend waits for what it forwards. Of several, the shortest counts.
#[derive(Debug, Clone, Copy)]
pub struct TimeoutFilter {
    timeout: Duration,
}

impl TimeoutFilter {
    /// Handlers get `timeout`; zero is for ever.
    pub const fn new(timeout: Duration) -> Self {
        Self { timeout }
    }
}

impl Filter for TimeoutFilter {
    fn before(&self, request: &mut RequestContext) -> BeforeFlow {
        request.limit(self.timeout);
        BeforeFlow::CONTINUE
    }
}
