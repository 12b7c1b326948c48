//! How long handlers take, by route, without a lock on the way of a request.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU64, Ordering},
};

use shaddock_net::clock;

use super::histogram::{BOUNDS, Histogram};
use crate::{
    app::AppHandle,
    filter::{BeforeFlow, Filter},
    reply::Outcome,
    request::RequestContext,
};

/// How many were within each of [`bounds_us`](super::bounds_us), and in the end how many took longer.
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
