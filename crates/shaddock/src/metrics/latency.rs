//! How long handlers take, by route, without a lock on the way of a request.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU64, Ordering},
};

use super::histogram::Histogram;

/// Times of all routes of one app. The labels are the routes that have a handler: a client cannot make new ones.
#[derive(Debug, Default)]
pub(crate) struct Latencies {
    /// By the number of the handler.
    routes: OnceLock<Box<[Histogram]>>,
}

impl Latencies {
    /// The times of a handler; `count` is the number of handlers.
    pub(super) fn of(&self, count: impl FnOnce() -> usize, handler: usize) -> Option<&Histogram> {
        let fresh = || (0..count()).map(|_| Histogram::default()).collect();
        self.routes.get_or_init(fresh).get(handler)
    }

    /// The routes, given with the numbers of their handlers, with their times, sorted; nothing before the first request.
    pub(crate) fn read<'a>(
        &'a self,
        routes: impl Iterator<Item = (&'a str, usize)>,
    ) -> Vec<(&'a str, &'a Histogram)> {
        let Some(histograms) = self.routes.get() else {
            return Vec::new();
        };
        let times = |(route, number): (&'a str, usize)| Some((route, histograms.get(number)?));
        let mut all: Vec<_> = routes.filter_map(times).collect();
        all.sort_unstable_by_key(|(route, _)| *route);
        all
    }
}

/// The counts of one route, outside of the hot path.
pub(crate) struct Times {
    latencies: Arc<Latencies>,
    count: usize,
    handler: usize,
}

impl Times {
    /// The counters of one of `count` handlers.
    pub(crate) const fn of(latencies: Arc<Latencies>, count: usize, handler: usize) -> Self {
        Self {
            latencies,
            count,
            handler,
        }
    }

    fn add(&self, which: fn(&Histogram) -> &AtomicU64) -> u64 {
        let histogram = self.latencies.of(|| self.count, self.handler);
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
