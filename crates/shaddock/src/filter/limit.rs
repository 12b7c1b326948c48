//! Filters that refuse what is too much.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use hashbrown::HashMap;
use shaddock_core::Sid;

use super::{BeforeFlow, Filter};
use crate::{error::HandlerError, request::RequestContext};

/// Refuses requests while too many are at work (Pomelo's `toobusy` filter, which measures the delay of its one event loop instead).
///
/// A refused request is answered with [`codes::TOO_MANY`](crate::error::codes::TOO_MANY).
#[derive(Debug, Clone)]
pub struct TooBusyFilter {
    at_work: Arc<AtomicUsize>,
    most: usize,
}

impl TooBusyFilter {
    /// At most `most` requests are at work at any time, from those that pass this filter.
    pub fn new(most: usize) -> Self {
        Self {
            at_work: Arc::default(),
            most,
        }
    }

    /// How many are at work now.
    pub fn at_work(&self) -> usize {
        self.at_work.load(Ordering::Relaxed)
    }
}

/// Counts down when the request is over, however it ends.
struct AtWork(Arc<AtomicUsize>);

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Filter for TooBusyFilter {
    fn before(&self, request: &mut RequestContext) -> BeforeFlow {
        let before = self.at_work.fetch_add(1, Ordering::Relaxed);
        let guard = AtWork(Arc::clone(&self.at_work));
        if before >= self.most {
            return BeforeFlow::refuse(HandlerError::too_many("the server is too busy"));
        }
        request.insert(guard);
        BeforeFlow::CONTINUE
    }
}

/// Bounds the requests of each session with a token bucket.
///
/// A refused request is answered with [`codes::TOO_MANY`](crate::error::codes::TOO_MANY); a notify is dropped. The connector's own limit
/// (`messages_per_second` of the listener) kicks the client instead. Memory: about 64 bytes per session that sent something.
#[derive(Debug)]
pub struct RateLimitFilter {
    per_second: f64,
    burst: f64,
    shards: [Mutex<HashMap<Sid, Bucket>>; SHARDS],
}

/// More than the threads that serve clients, so that they seldom meet.
const SHARDS: usize = 32;

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl RateLimitFilter {
    /// `per_second` requests on average, and `burst` at once.
    pub fn new(per_second: u32, burst: u32) -> Self {
        Self {
            per_second: f64::from(per_second),
            burst: f64::from(burst.max(1)),
            shards: std::array::from_fn(|_| Mutex::default()),
        }
    }

    fn take(&self, sid: Sid, now: Instant) -> bool {
        let mut shard = self.shard(sid);
        let bucket = shard.entry(sid).or_insert(Bucket {
            tokens: self.burst,
            filled: now,
        });
        let passed = now.saturating_duration_since(bucket.filled).as_secs_f64();
        bucket.tokens = (bucket.tokens + passed * self.per_second).min(self.burst);
        bucket.filled = now;
        let enough = bucket.tokens >= 1.0;
        if enough {
            bucket.tokens -= 1.0;
        }
        enough
    }

    fn shard(&self, sid: Sid) -> MutexGuard<'_, HashMap<Sid, Bucket>> {
        self.shards[crate::shard_of(sid, SHARDS)]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Filter for RateLimitFilter {
    fn before(&self, request: &mut RequestContext) -> BeforeFlow {
        if self.take(request.session().id(), Instant::now()) {
            BeforeFlow::CONTINUE
        } else {
            BeforeFlow::refuse(HandlerError::too_many("too many requests"))
        }
    }

    fn session_closed(&self, sid: Sid) {
        self.shard(sid).remove(&sid);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_bucket_empties_and_fills_again() {
        let filter = RateLimitFilter::new(10, 2);
        let sid = Sid::new(7 << 16).unwrap();
        let other = Sid::new(8 << 16).unwrap();
        let now = Instant::now();
        assert!(filter.take(sid, now));
        assert!(filter.take(sid, now));
        assert!(!filter.take(sid, now));
        assert!(filter.take(other, now), "sessions do not share a bucket");
        assert!(!filter.take(sid, now + Duration::from_millis(90)));
        assert!(filter.take(sid, now + Duration::from_millis(200)));
        filter.session_closed(sid);
        assert!(filter.take(sid, now), "a closed session is forgotten");
    }
}
