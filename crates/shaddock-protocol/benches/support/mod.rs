//! Helpers of the benches without criterion.

use std::time::{Duration, Instant};

/// Median nanoseconds of one round of `work`.
pub(crate) fn median(mut work: impl FnMut()) -> f64 {
    const BATCH: u32 = 200;
    let mut times: Vec<Duration> = (0..400)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..BATCH {
                work();
            }
            start.elapsed() / BATCH
        })
        .collect();
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e9
}
