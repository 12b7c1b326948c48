//! How long handlers take, by route, without a lock on the way of a request.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
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

/// Upper bounds of the buckets, in nanoseconds: from 10 µs, since most handlers take less than 100.
const BOUNDS: [u64; 15] = [
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    100_000_000,
    500_000_000,
    2_000_000_000,
    10_000_000_000,
];

/// The upper bounds of the buckets in microseconds.
pub(crate) fn bounds_us() -> Vec<u64> {
    BOUNDS.iter().map(|nanos| nanos / 1000).collect()
}

/// How long the requests of an app have taken since the start, wherever they were served: its own handlers, other servers, backends over HTTP.
/// How many were within each of [`bounds_us`], and in the end how many took longer.
pub(crate) fn answer_times(app: &AppHandle) -> Vec<u64> {
    let mut sums = vec![0; BOUNDS.len() + 1];
    let mut add = |histogram: &Histogram| {
        for (sum, n) in sums.iter_mut().zip(histogram.counts()) {
            *sum += n;
        }
    };
    if let Some(latencies) = app.get::<Latencies>() {
        latencies.read(app).iter().for_each(|(_, times)| add(times));
    }
    add(app.stats().forwards.times());
    add(app.stats().asked.times());
    sums
}

/// Times of one route. Counters are spread over cache lines, so that threads do not wait for each other.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    buckets: [Counter; BOUNDS.len()],
    beyond: Counter,
    nanos: Counter,
    errors: Counter,
    /// Seldom, so one place for all threads will do.
    panics: AtomicU64,
    blocked: AtomicU64,
}

impl Histogram {
    #[inline]
    pub(super) fn record(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.iter().position(|bound| nanos <= *bound);
        bucket
            .map_or(&self.beyond, |bucket| &self.buckets[bucket])
            .add(1);
        self.nanos.add(nanos);
    }

    /// Sum in seconds, number, and the numbers by upper bound in seconds.
    #[expect(
        clippy::cast_precision_loss,
        reason = "sums above 2^53 nanoseconds, 104 days of handlers, may be rounded"
    )]
    pub(crate) fn read(&self) -> (f64, u64, Vec<(f64, u64)>) {
        let seconds = |nanos: u64| nanos as f64 / 1e9;
        let mut buckets: Vec<(f64, u64)> = BOUNDS
            .iter()
            .zip(&self.buckets)
            .map(|(bound, counter)| (seconds(*bound), counter.get()))
            .collect();
        // What is written as `+Inf`: without it no quantile can be computed.
        buckets.push((f64::INFINITY, self.beyond.get()));
        let count = buckets.iter().map(|(_, n)| n).sum();
        (seconds(self.nanos.get()), count, buckets)
    }

    /// How many were within each of [`bounds_us`], and in the end how many took longer.
    pub(crate) fn counts(&self) -> impl Iterator<Item = u64> {
        self.buckets.iter().chain([&self.beyond]).map(Counter::get)
    }

    /// Requests that were answered with an error.
    pub(crate) fn errors(&self) -> u64 {
        self.errors.get()
    }

    /// Requests whose handler or filter panicked.
    pub(crate) fn panics(&self) -> u64 {
        self.panics.load(Ordering::Relaxed)
    }

    /// How often a handler held its thread.
    pub(crate) fn blocked(&self) -> u64 {
        self.blocked.load(Ordering::Relaxed)
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

/// What is counted of one route, outside of the hot path.
pub(crate) struct Times {
    latencies: Arc<Latencies>,
    app: AppHandle,
    handler: usize,
}

impl Times {
    /// `None` if it is not measured.
    pub(crate) fn of(app: &AppHandle, handler: usize) -> Option<Self> {
        Some(Self {
            latencies: app.get()?,
            app: app.clone(),
            handler,
        })
    }

    fn add(&self, which: fn(&Histogram) -> &AtomicU64) -> u64 {
        let histogram = self.latencies.of(&self.app, self.handler);
        histogram.map_or(0, |histogram| {
            which(histogram).fetch_add(1, Ordering::Relaxed)
        })
    }

    /// Counts a panic.
    pub(crate) fn add_panic(&self) {
        self.add(|histogram| &histogram.panics);
    }

    /// Counts a thread that was held, and says how many there were before.
    pub(crate) fn add_blocked(&self) -> u64 {
        self.add(|histogram| &histogram.blocked)
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

    fn after(&self, request: &mut RequestContext, outcome: &mut Outcome) {
        if let (Some(started), Some(handler)) = (request.started(), request.handler())
            && let Some(histogram) = self.0.of(request.app(), handler)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_fall_into_buckets() {
        let histogram = Histogram::default();
        for micros in [1, 10, 11, 20_000_000] {
            histogram.record(Duration::from_micros(micros));
        }
        let (sum, count, buckets) = histogram.read();
        assert!((sum - 20.000_022).abs() < 1e-9, "{sum}");
        assert_eq!(count, 4);
        assert_eq!(buckets[0], (0.000_01, 2));
        assert_eq!(buckets[1].1, 1);
        assert_eq!(buckets.last(), Some(&(f64::INFINITY, 1)));
    }
}
