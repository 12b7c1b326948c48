//! What was counted a moment ago, for those who do not need it newer.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use shaddock_cluster::AudienceKey;

/// So many are remembered. Above, those that are older than a second are forgotten, and if all are younger, all.
const MOST: usize = 4096;

/// Members of topics, as they were counted last.
#[derive(Debug, Default)]
pub(crate) struct RecentCounts(Mutex<HashMap<AudienceKey, (Instant, usize)>>);

impl RecentCounts {
    pub(super) fn get(&self, key: &AudienceKey, age: Duration) -> Option<usize> {
        let all = self.0.lock();
        let (at, count) = all.get(key)?;
        (at.elapsed() <= age).then_some(*count)
    }

    pub(super) fn put(&self, key: &AudienceKey, count: usize) {
        let mut all = self.0.lock();
        if all.len() >= MOST {
            all.retain(|_, (at, _)| at.elapsed() < Duration::from_secs(1));
        }
        if all.len() >= MOST {
            all.clear();
        }
        all.insert(key.clone(), (Instant::now(), count));
    }
}
