//! Counters that many threads add to without sharing a cache line. The first threads of a process, IO workers among them, have a place of
//! their own; the others share one.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

const SHARDS: usize = 16;
/// The shard of all threads for which none was left.
const SHARED: usize = SHARDS - 1;

#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard(AtomicU64);

/// A counter that only grows.
#[derive(Debug, Default)]
pub struct Counter {
    shards: [Shard; SHARDS],
}

thread_local! {
    static SHARD: usize = {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        NEXT.fetch_add(1, Ordering::Relaxed).min(SHARED)
    };
}

impl Counter {
    /// Adds to the counter.
    pub fn add(&self, n: u64) {
        let shard = SHARD.try_with(|shard| *shard).unwrap_or(SHARED);
        let count = &self.shards[shard].0;
        if shard == SHARED {
            count.fetch_add(n, Ordering::Relaxed);
        } else {
            // This thread is the only one that writes here, so no atomic addition is needed.
            let before = count.load(Ordering::Relaxed);
            count.store(before.wrapping_add(n), Ordering::Relaxed);
        }
    }

    /// The sum so far.
    pub fn get(&self) -> u64 {
        self.shards
            .iter()
            .map(|shard| shard.0.load(Ordering::Relaxed))
            .sum()
    }
}
