//! The servers that a frontend notifies of joins and leaves.

use std::collections::HashMap;

use parking_lot::{Mutex, MutexGuard};
use shaddock_cluster::ServerId;
use shaddock_core::SessionService;

/// Servers that are notified of joins and leaves.
#[derive(Debug, Default)]
pub(crate) struct Watchers(Mutex<HashMap<ServerId, Watcher>>);

#[derive(Debug, Default)]
pub(super) struct Watcher {
    /// The prefixes of the keys.
    pub(super) prefixes: Vec<String>,
    /// Of the last notice.
    pub(super) number: u64,
}

impl Watchers {
    pub(super) fn lock(&self) -> MutexGuard<'_, HashMap<ServerId, Watcher>> {
        self.0.lock()
    }

    /// The number of the next notice; 0 for a server that is none.
    pub(super) fn next(&self, watcher: &ServerId) -> u64 {
        self.lock().get(watcher).map_or(0, |known| known.number + 1)
    }

    pub(super) fn put(
        &self,
        watcher: &ServerId,
        prefixes: &[String],
        service: &SessionService,
    ) -> u64 {
        let mut all = self.lock();
        // Under the lock, as its end in `remove`: while there is a watcher, changes are noted.
        service.watch_audiences(true);
        let known = all.entry(watcher.clone()).or_default();
        known.prefixes = prefixes.to_vec();
        known.number
    }

    pub(super) fn remove(&self, watcher: &ServerId, service: &SessionService) {
        let mut all = self.lock();
        all.remove(watcher);
        if all.is_empty() {
            service.watch_audiences(false);
        }
    }
}
