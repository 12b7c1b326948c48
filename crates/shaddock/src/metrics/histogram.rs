//! Counts of durations, without a lock.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::stats::Counter;

/// Upper bounds of the buckets, in nanoseconds: from 10 µs, since most handlers take less than 100.
pub(super) const BOUNDS: [u64; 15] = [
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
/// Times of one route. Counters are spread over cache lines, so that threads do not wait for each other.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    buckets: [Counter; BOUNDS.len()],
    beyond: Counter,
    nanos: Counter,
    pub(super) errors: Counter,
    /// Seldom, so one place for all threads will do.
    pub(super) panics: AtomicU64,
    pub(super) blocked: AtomicU64,
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
        // Written as `+Inf`: without it no quantile can be computed.
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
