//! Random numbers.

use std::hash::{BuildHasher as _, RandomState};

/// 64 random bits: the hasher of std has a new key each time. Not for secrets.
pub(crate) fn random() -> u64 {
    RandomState::new().hash_one(())
}
