//! A table with several locks.

use crate::Sid;
use crate::sync::{Mutex, MutexGuard};

/// A lock and its value, on separate cache lines.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Shard<T>(Mutex<T>);

/// A value split into `N` shards with separate locks, so that threads rarely wait for each other. The locks are never poisoned: code of the
/// application must not run under them.
///
/// Under loom there is one shard, since loom explores every lock.
#[derive(Debug)]
pub struct Shards<T, const N: usize = 64>(Box<[Shard<T>]>);

impl<T: Default, const N: usize> Default for Shards<T, N> {
    fn default() -> Self {
        Self((0..Self::COUNT).map(|_| Shard::default()).collect())
    }
}

impl<T, const N: usize> Shards<T, N> {
    const COUNT: usize = if cfg!(loom) { 1 } else { N };

    /// Locks the shard for a number that is distributed over its lower bits, such as a hash.
    pub fn lock(&self, number: u64) -> MutexGuard<'_, T> {
        // The remainder is smaller than `COUNT`.
        let index = usize::try_from(number % Self::COUNT as u64).unwrap_or_default();
        self.0[index].0.lock()
    }

    /// Locks the shard of a session. Sids of one frontend differ above the lowest 16 bits.
    pub fn of(&self, sid: Sid) -> MutexGuard<'_, T> {
        self.lock(sid.get() >> 16)
    }

    /// Locks all shards, one after another.
    pub fn each(&self) -> impl Iterator<Item = MutexGuard<'_, T>> {
        self.0.iter().map(|shard| shard.0.lock())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn neighbours_have_different_locks() {
        let shards = Shards::<u64, 4>::default();
        let held: Vec<_> = (0..4).map(|number| shards.lock(number)).collect();
        drop(held);
        for number in 0..10 {
            *shards.lock(number) += 1;
        }
        *shards.of(Sid::new(1 << 16 | 7).unwrap()) += 10;
        let counts: Vec<u64> = shards.each().map(|shard| *shard).collect();
        assert_eq!(counts, [3, 13, 2, 2]);
    }
}
