//! How full etcd is, and whether it takes writes.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::pb::StatusResponse;

/// The status of the member of etcd that replied last.
#[derive(Debug, Default)]
pub(crate) struct EtcdSize {
    bytes: AtomicU64,
    in_use: AtomicU64,
    is_full: AtomicBool,
}

impl EtcdSize {
    /// A member of etcd has answered.
    pub(crate) fn seen(&self, status: &StatusResponse) {
        let bytes = |size: i64| u64::try_from(size).unwrap_or(0);
        self.bytes.store(bytes(status.db_size), Ordering::Relaxed);
        self.in_use
            .store(bytes(status.db_size_in_use), Ordering::Relaxed);
        let is_full = status.errors.iter().any(|error| error.contains("NOSPACE"));
        if self.is_full.swap(is_full, Ordering::Relaxed) == is_full {
            return;
        }
        if is_full {
            tracing::warn!(
                bytes = status.db_size,
                "etcd has reached its quota (alarm NOSPACE) and accepts no writes: compact and defragment it, then `etcdctl alarm disarm` (docs/cluster.md)"
            );
        } else {
            tracing::info!(bytes = status.db_size, "etcd accepts writes again");
        }
    }

    /// The size of its file.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// How much of it is used; the rest is free after a defragmentation.
    pub(crate) fn in_use(&self) -> u64 {
        self.in_use.load(Ordering::Relaxed)
    }

    /// True after the database has reached its quota and accepts no writes.
    pub(crate) fn is_full(&self) -> bool {
        self.is_full.load(Ordering::Relaxed)
    }
}
