//! Counters of one listener, one set per worker: written by that worker alone, summed on reading.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;

/// A counter with a single writer: no locked instruction on the way of a message.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.store(self.get() + n, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counts of one worker for one listener. Aligned so that two workers never write to one cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct WorkerStats {
    pub(crate) accepted: Counter,
    pub(crate) opened: Counter,
    pub(crate) bytes_in: Counter,
    pub(crate) bytes_out: Counter,
    pub(crate) requests: Counter,
    pub(crate) notifies: Counter,
    /// Rare events by name; the lock is the worker's own and is not on the way of a message that is served.
    named: Mutex<BTreeMap<(Group, &'static str), u64>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Group {
    Refused,
    Closed,
    Dropped,
}

impl WorkerStats {
    pub(crate) fn count(&self, group: Group, name: &'static str) {
        let mut named = self.named.lock();
        *named.entry((group, name)).or_insert(0) += 1;
    }
}

/// The counters of a listener since it started, all workers together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NetStats {
    /// Connections accepted from the kernel, including those rejected afterwards.
    pub accepted: u64,
    /// Completed handshakes, which is the number of created sessions.
    pub opened: u64,
    /// Bytes read from sockets, after TLS.
    pub bytes_in: u64,
    /// Bytes written to sockets, before TLS.
    pub bytes_out: u64,
    /// Requests passed to the framework.
    pub requests: u64,
    /// Notifies passed to the framework.
    pub notifies: u64,
    /// Rejected connections, by reason.
    pub refused: BTreeMap<&'static str, u64>,
    /// Connections closed, by reason.
    pub closed: BTreeMap<&'static str, u64>,
    /// Packages and messages dropped or rejected while the connection stays open, by reason.
    pub dropped: BTreeMap<&'static str, u64>,
}

/// All workers' counters of one listener.
#[derive(Debug, Clone, Default)]
pub(crate) struct StatsBoard(Vec<Arc<WorkerStats>>);

impl StatsBoard {
    pub(crate) fn new(workers: usize) -> Self {
        Self((0..workers).map(|_| Arc::default()).collect())
    }

    pub(crate) fn of(&self, worker: usize) -> Arc<WorkerStats> {
        self.0[worker].clone()
    }

    pub(crate) fn sum(&self) -> NetStats {
        let mut sum = NetStats::default();
        for worker in &self.0 {
            sum.accepted += worker.accepted.get();
            sum.opened += worker.opened.get();
            sum.bytes_in += worker.bytes_in.get();
            sum.bytes_out += worker.bytes_out.get();
            sum.requests += worker.requests.get();
            sum.notifies += worker.notifies.get();
            let named = worker.named.lock();
            for ((group, name), n) in named.iter() {
                let target = match group {
                    Group::Refused => &mut sum.refused,
                    Group::Closed => &mut sum.closed,
                    Group::Dropped => &mut sum.dropped,
                };
                *target.entry(name).or_insert(0) += n;
            }
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_over_workers() {
        let board = StatsBoard::new(2);
        for worker in 0..2 {
            let stats = board.of(worker);
            stats.bytes_in.add(10);
            stats.count(Group::Closed, "idle");
            stats.count(Group::Dropped, "idle");
        }
        board.of(1).count(Group::Closed, "idle");
        let sum = board.sum();
        assert_eq!(sum.bytes_in, 20);
        assert_eq!(sum.closed["idle"], 3);
        assert_eq!(sum.dropped["idle"], 2);
        assert!(sum.refused.is_empty());
    }
}
