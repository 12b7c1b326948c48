//! Numbers that a starting app needs once.

use std::{
    hash::{BuildHasher, Hasher},
    time::{SystemTime, UNIX_EPOCH},
};

use shaddock_core::SidAllocator;

/// 2024-01-01T00:00:00Z in seconds since 1970.
const EPOCH: u64 = 1_704_067_200;

/// Sids of one start of one frontend. Two starts differ in the second, or else in a random number: nothing of the last start is remembered.
pub(super) fn sid_allocator() -> SidAllocator {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let seconds = now.saturating_sub(EPOCH) & u64::from(u32::MAX);
    // The standard library's hasher has a random key: enough to tell starts apart, nobody has to be kept from guessing.
    let random = std::hash::RandomState::new().build_hasher().finish() & u64::from(u16::MAX);
    SidAllocator::new(
        u32::try_from(seconds).unwrap_or_default(),
        u16::try_from(random).unwrap_or_default(),
    )
}
