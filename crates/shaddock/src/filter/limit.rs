//! Filters that refuse what is too much.

use std::{
    hash::BuildHasher as _,
    sync::{
        Arc, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
};

use hashbrown::{DefaultHashBuilder, Equivalent, HashMap};
use shaddock_core::{Shards, Sid};
use shaddock_net::rate::Bucket;
use shaddock_protocol::Millis;

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
        request.hold(guard);
        BeforeFlow::CONTINUE
    }
}

/// Bounds the requests of each session with a token bucket.
///
/// A refused request is answered with [`codes::TOO_MANY`](crate::error::codes::TOO_MANY); a notify is dropped. The connector's own limit
/// (`messages_per_second` of the listener) kicks the client instead.
///
/// Memory: about 100 bytes for each session that sent something lately. A bucket that has filled again is forgotten, since a new one is full
/// too; so a backend, which does not hear when sessions close, keeps none of those that are gone. There are at most about a million buckets:
/// beyond that, those that were not used for longest are forgotten, and their sessions begin with a full one.
#[derive(Debug)]
pub struct RateLimitFilter {
    per_second: u32,
    burst: u32,
    hasher: DefaultHashBuilder,
    shards: Shards<Shard, SHARDS>,
}

/// More than the threads that serve clients, so that they seldom meet.
const SHARDS: usize = 32;
/// Buckets of one shard.
const MOST: usize = 32 * 1024;
/// So few are not looked through.
const FEW: usize = 64;

#[derive(Debug)]
struct Shard {
    buckets: HashMap<Key, Bucket>,
    /// With so many buckets the full ones are looked for. Twice what was left the last time, so that a request pays for a few buckets only.
    sweep_at: usize,
}

impl Default for Shard {
    fn default() -> Self {
        Self {
            buckets: HashMap::new(),
            sweep_at: FEW,
        }
    }
}

/// A session. Numbers of Pitaya frontends begin at 1 on each of them, so the number alone does not name it. The frontend is empty for sessions
/// of this server. The requests of one frontend that came without a session share a bucket.
#[derive(Debug, Hash, PartialEq, Eq)]
struct Key(Box<str>, Option<Sid>);

#[derive(Hash)]
struct KeyRef<'a>(&'a str, Option<Sid>);

impl Equivalent<Key> for KeyRef<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        *self.0 == *key.0 && self.1 == key.1
    }
}

impl RateLimitFilter {
    /// `per_second` requests on average, and `burst` at once.
    pub fn new(per_second: u32, burst: u32) -> Self {
        Self {
            per_second,
            burst,
            hasher: DefaultHashBuilder::default(),
            shards: Shards::default(),
        }
    }

    fn take(&self, frontend: &str, sid: Option<Sid>, now: Millis) -> bool {
        let key = KeyRef(frontend, sid);
        let mut shard = self.shard(&key);
        if let Some(bucket) = shard.buckets.get_mut(&key) {
            return bucket.take(now, self.per_second, self.burst, 0);
        }
        if shard.buckets.len() >= shard.sweep_at {
            self.sweep(&mut shard, now);
        }
        let mut bucket = Bucket::full(now, self.burst);
        let taken = bucket.take(now, self.per_second, self.burst, 0);
        shard.buckets.insert(Key(frontend.into(), sid), bucket);
        taken
    }

    /// Forgets what is as good as new, and if too many are left, the older half.
    fn sweep(&self, shard: &mut Shard, now: Millis) {
        shard
            .buckets
            .retain(|_, bucket| !bucket.is_full(now, self.per_second, self.burst));
        if shard.buckets.len() >= MOST {
            let mut times: Vec<_> = shard.buckets.values().map(|b| b.last().0).collect();
            let (_, middle, _) = times.select_nth_unstable(MOST / 2);
            let middle = *middle;
            shard.buckets.retain(|_, bucket| bucket.last().0 > middle);
        }
        shard.sweep_at = (shard.buckets.len() * 2).clamp(FEW, MOST);
        shard.buckets.shrink_to(shard.sweep_at);
    }

    fn shard(&self, key: &KeyRef<'_>) -> MutexGuard<'_, Shard> {
        self.shards.lock(self.hasher.hash_one(key))
    }
}

impl Filter for RateLimitFilter {
    fn before(&self, request: &mut RequestContext) -> BeforeFlow {
        let session = request.session();
        let frontend = if session.is_here() {
            ""
        } else {
            session.frontend_id()
        };
        if self.take(frontend, session.id(), shaddock_net::now()) {
            BeforeFlow::CONTINUE
        } else {
            BeforeFlow::refuse(HandlerError::too_many("too many requests"))
        }
    }

    fn session_closed(&self, sid: Sid) {
        let key = KeyRef("", Some(sid));
        self.shard(&key).buckets.remove(&key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sid(n: u64) -> Sid {
        Sid::new(n).unwrap()
    }

    impl RateLimitFilter {
        fn kept(&self) -> usize {
            self.shards.each().map(|shard| shard.buckets.len()).sum()
        }
    }

    #[test]
    fn a_bucket_empties_and_fills_again() {
        let filter = RateLimitFilter::new(10, 2);
        let (one, other) = (sid(7 << 16), sid(8 << 16));
        let now = Millis(50);
        assert!(filter.take("", Some(one), now));
        assert!(filter.take("", Some(one), now));
        assert!(!filter.take("", Some(one), now));
        assert!(
            filter.take("", Some(other), now),
            "sessions do not share a bucket"
        );
        assert!(filter.take("f", Some(one), now), "nor do frontends");
        assert!(!filter.take("", Some(one), Millis(140)));
        assert!(filter.take("", Some(one), Millis(250)));
        filter.session_closed(one);
        assert!(
            filter.take("", Some(one), now),
            "a closed session is forgotten"
        );
    }

    /// As on a backend, which is not told of closed sessions.
    #[test]
    fn sessions_that_are_gone_leave_nothing() {
        let filter = RateLimitFilter::new(10, 20);
        let mut most = 0;
        // 1,000 sessions a second come, send one request and go. A bucket fills within 2 s, here within 100 ms.
        for n in 1..=200_000_u64 {
            assert!(filter.take("front-1", Some(sid(n)), Millis(n)));
            most = most.max(filter.kept());
        }
        assert!(most <= FEW * SHARDS, "{most}");
    }

    #[test]
    fn buckets_that_never_fill_are_bounded() {
        let filter = RateLimitFilter::new(0, 2);
        let mut shard = Shard::default();
        for n in 0..2 * MOST as u64 {
            let now = Millis(n);
            if shard.buckets.len() >= shard.sweep_at {
                filter.sweep(&mut shard, now);
            }
            let mut bucket = Bucket::full(now, 2);
            assert!(bucket.take(now, 0, 2, 0));
            shard
                .buckets
                .insert(Key("f".into(), Some(sid(n + 1))), bucket);
            assert!(shard.buckets.len() <= MOST);
        }
        let newest = KeyRef("f", Some(sid(2 * MOST as u64)));
        assert!(shard.buckets.contains_key(&newest));
        assert!(
            !shard.buckets.contains_key(&KeyRef("f", Some(sid(1)))),
            "the oldest go"
        );
    }
}
