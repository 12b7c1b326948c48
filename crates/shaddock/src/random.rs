//! Random numbers.

use std::hash::{BuildHasher as _, RandomState};

/// 64 random bits: the hasher of std has a new key each time. Not for secrets.
///
/// Not from `fastrand`: it seeds each thread from the clock and the thread's id, and these numbers name incarnations of servers, which must
/// differ between machines.
pub(crate) fn random() -> u64 {
    RandomState::new().hash_one(())
}
