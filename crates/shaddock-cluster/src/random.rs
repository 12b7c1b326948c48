//! Random numbers: good enough to spread load and to name incarnations of servers, not for secrets. (`fastrand` seeds each thread from the clock
//! and the thread's id, which two machines can share.)

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};

/// 64 random bits: std's hasher, whose key is random for each thread, over a count.
pub(crate) fn random() -> u64 {
    thread_local! {
        static STATE: (RandomState, Cell<u64>) = (RandomState::new(), Cell::new(0));
    }
    STATE.with(|(key, counter)| {
        let n = counter.get().wrapping_add(1);
        counter.set(n);
        key.hash_one(n)
    })
}

/// A number below `len`, which is not 0.
pub(crate) fn random_below(len: usize) -> usize {
    if len == 1 {
        return 0;
    }
    // The remainder of a 64-bit number by a short list length has no bias worth a name.
    usize::try_from(random() % len as u64).unwrap_or(0)
}
