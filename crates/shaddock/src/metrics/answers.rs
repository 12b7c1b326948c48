//! How long a server's answers take, of handlers and of what it forwards.

use super::{
    histogram::{BOUNDS, Histogram},
    latency::Latencies,
};
use crate::app::AppHandle;

/// How many were within each of [`bounds_us`](super::bounds_us), and in the end how many took longer.
pub(crate) fn answer_times(app: &AppHandle) -> Vec<u64> {
    let mut sums = vec![0; BOUNDS.len() + 1];
    let mut add = |histogram: &Histogram| {
        for (sum, n) in sums.iter_mut().zip(histogram.counts()) {
            *sum += n;
        }
    };
    if let Some(latencies) = app.get::<Latencies>() {
        latencies
            .read(app.handlers().numbers())
            .iter()
            .for_each(|(_, times)| add(times));
    }
    add(app.stats().forwards.times());
    add(app.stats().asked.times());
    sums
}
