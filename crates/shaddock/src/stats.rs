//! Counters that many threads add to without sharing a cache line. The first threads of a process, IO workers among them, have a place of
//! their own; the others share one.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::metrics::Calls;

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

/// What an app counts. Read it with [`AppHandle::stats`](crate::app::AppHandle::stats).
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct AppStats {
    /// Requests and notifies that came to the dispatcher, of clients and of other frontends.
    pub requests: Counter,
    /// Those answered with an error.
    pub errors: Counter,
    /// Handlers, filters and listeners that panicked.
    pub panics: Counter,
    /// Handlers that did not answer in time.
    pub timeouts: Counter,
    /// Times at which a handler held its thread for 100 ms or longer without waiting. Measured where
    /// [handlers are](crate::launch::Launcher::configure).
    pub blocked: Counter,
    /// Replies of handlers to notifies, which are dropped.
    pub dropped_replies: Counter,
    /// Messages put into sessions' queues for clients that did not ask: pushes and broadcasts, one per receiver.
    pub pushed: Counter,
    /// Receivers of pushes who were not there.
    pub missing: Counter,
    /// Events of sessions that were thrown away because listeners did not keep up.
    pub lost_events: Counter,
    /// Requests of clients that went to other servers.
    pub(crate) forwards: Calls,
    /// Requests of clients that went to backends over HTTP.
    pub(crate) asked: Calls,
    /// Calls of other servers' remotes.
    pub(crate) rpcs: Calls,
    /// Handlers at work now whose client has left.
    pub left_behind: AtomicUsize,
}
