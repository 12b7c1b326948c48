//! Values that are computed once when an app starts.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The most bytes of a server's metadata.
pub(super) const MOST_METADATA: usize = 64 * 1024;

use shaddock_core::SidAllocator;

/// 2024-01-01T00:00:00Z in seconds since 1970.
const EPOCH: Duration = Duration::from_secs(1_704_067_200);

/// Allocates the sids of one start of one frontend, which its time distinguishes from other starts; the cluster adds the node when the
/// server joins.
pub(super) fn sid_allocator() -> SidAllocator {
    let since_1970 = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    SidAllocator::starting_at(since_1970.saturating_sub(EPOCH), 0)
}
