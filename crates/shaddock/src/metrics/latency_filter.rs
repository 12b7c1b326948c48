//! Measures how long handlers take.

use std::sync::Arc;

use shaddock_net::clock;

use super::latency::Latencies;
use crate::{
    filter::{BeforeFlow, Filter},
    reply::Outcome,
    request::RequestContext,
};

/// Measures the handlers of an app. [`Config::configure`](crate::config::Config::configure) puts it in.
pub(crate) struct LatencyFilter(pub(crate) Arc<Latencies>);

impl Filter for LatencyFilter {
    fn before(&self, request: &mut RequestContext) -> BeforeFlow {
        // The end of the request before it, if both came in one read: then a reading costs one request, not two.
        request.mark_start(clock::latest());
        BeforeFlow::CONTINUE
    }

    fn after(&self, request: &mut RequestContext, outcome: &mut Outcome) {
        if let (Some(started), Some(handler)) = (request.started(), request.handler())
            && let Some(histogram) = self.0.of(|| request.app().handlers().len(), handler)
        {
            let took = clock::read().saturating_duration_since(started);
            histogram.record(took);
            if request.is_at_once() {
                request.check_held(took);
            }
            if outcome.is_err() {
                histogram.errors.add(1);
            }
        }
    }
}
