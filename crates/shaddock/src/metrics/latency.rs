//! How long handlers take, by route, without a lock on the way of a request.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use shaddock_net::clock;

use crate::{
    app::AppHandle,
    filter::{BeforeFlow, Filter},
    reply::Outcome,
    request::RequestContext,
    stats::Counter,
};

/// Upper bounds of the buckets, in microseconds.
const BOUNDS: [u64; 12] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 100_000, 500_000, 2_000_000, 10_000_000,
];

/// Times of one route. Counters are spread over cache lines, so that threads do not wait for each other.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    buckets: [Counter; BOUNDS.len()],
    beyond: Counter,
    micros: Counter,
}

impl Histogram {
    fn record(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.iter().position(|bound| micros <= *bound);
        bucket
            .map_or(&self.beyond, |bucket| &self.buckets[bucket])
            .add(1);
        // Most handlers are done within one.
        if micros > 0 {
            self.micros.add(micros);
        }
    }

    /// Sum in seconds, number, and the numbers by upper bound in seconds.
    #[expect(
        clippy::cast_precision_loss,
        reason = "sums above 2^53 microseconds, 285 years, may be rounded"
    )]
    pub(crate) fn read(&self) -> (f64, u64, Vec<(f64, u64)>) {
        let seconds = |micros: u64| micros as f64 / 1e6;
        let mut buckets: Vec<(f64, u64)> = BOUNDS
            .iter()
            .zip(&self.buckets)
            .map(|(bound, counter)| (seconds(*bound), counter.get()))
            .collect();
        buckets.push((f64::MAX, self.beyond.get()));
        let count = buckets.iter().map(|(_, n)| n).sum();
        (seconds(self.micros.get()), count, buckets)
    }
}

/// Times of all routes of one app. The labels are the routes that have a handler: a client cannot make new ones.
#[derive(Debug, Default)]
pub(crate) struct Latencies {
    /// By the number of the handler.
    routes: OnceLock<Box<[Histogram]>>,
}

impl Latencies {
    fn of(&self, app: &AppHandle, handler: usize) -> Option<&Histogram> {
        let routes = self.routes.get_or_init(|| {
            let routes = app.handlers().entries();
            routes.map(|_| Histogram::default()).collect()
        });
        routes.get(handler)
    }

    /// The routes of the app with their times, sorted; nothing before the first request.
    pub(crate) fn read<'a>(&'a self, app: &'a AppHandle) -> Vec<(&'a str, &'a Histogram)> {
        let Some(histograms) = self.routes.get() else {
            return Vec::new();
        };
        let mut all: Vec<_> = app
            .handlers()
            .entries()
            .filter_map(|(route, entry)| Some((route, histograms.get(entry.number)?)))
            .collect();
        all.sort_unstable_by_key(|(route, _)| *route);
        all
    }
}

/// Measures the handlers of an app. [`Config::configure`](crate::config::Config::configure) puts it in.
pub(crate) struct LatencyFilter(pub(crate) Arc<Latencies>);

impl Filter for LatencyFilter {
    fn before(&self, request: &mut RequestContext) -> BeforeFlow {
        // The end of the request before it, if both came in one read: then a reading costs one request, not two.
        request.mark_start(clock::latest());
        BeforeFlow::CONTINUE
    }

    fn after(&self, request: &mut RequestContext, _outcome: &mut Outcome) {
        if let (Some(started), Some(handler)) = (request.started(), request.handler())
            && let Some(histogram) = self.0.of(request.app(), handler)
        {
            histogram.record(clock::read().saturating_duration_since(started));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_fall_into_buckets() {
        let histogram = Histogram::default();
        for micros in [1, 100, 101, 20_000_000] {
            histogram.record(Duration::from_micros(micros));
        }
        let (sum, count, buckets) = histogram.read();
        assert!((sum - 20.000_202).abs() < 1e-9, "{sum}");
        assert_eq!(count, 4);
        assert_eq!(buckets[0], (0.0001, 2));
        assert_eq!(buckets[1].1, 1);
        assert_eq!(buckets.last(), Some(&(f64::MAX, 1)));
    }
}
