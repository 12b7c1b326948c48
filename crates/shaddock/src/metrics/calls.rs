//! Calls to other servers: how long they take, and how they fail.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use shaddock_cluster::{RemoteError, RemoteErrorKind};
use shaddock_net::clock;

use super::histogram::Histogram;

/// The reasons for which calls fail, as labels.
const REASONS: [&str; 11] = [
    "remote",
    "timeout",
    "no_server",
    "no_responder",
    "busy",
    "disconnected",
    "link_lost",
    "fenced",
    "refused",
    "bad_answer",
    "other",
];

/// The place of a reason among them.
const fn place(kind: RemoteErrorKind) -> usize {
    match kind {
        RemoteErrorKind::Remote => 0,
        RemoteErrorKind::Timeout => 1,
        RemoteErrorKind::NoServer => 2,
        RemoteErrorKind::NoResponder => 3,
        RemoteErrorKind::Busy => 4,
        RemoteErrorKind::Disconnected => 5,
        RemoteErrorKind::LinkLost => 6,
        RemoteErrorKind::Fenced => 7,
        RemoteErrorKind::Refused => 8,
        RemoteErrorKind::BadAnswer => 9,
        _ => 10,
    }
}

/// Calls of one kind: requests that are forwarded, or remotes that are called.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    times: Histogram,
    failed: [AtomicU64; REASONS.len()],
}

impl Calls {
    /// When a call begins: the latest reading of the clock, if a connection is being polled.
    pub(crate) fn begin() -> Instant {
        clock::latest()
    }

    /// A call that began then has ended.
    pub(crate) fn end<T>(&self, began: Instant, answer: &Result<T, RemoteError>) {
        // On a worker its turn has just read the clock.
        self.times
            .record(clock::latest().saturating_duration_since(began));
        if let Err(error) = answer {
            self.failed[place(error.kind())].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A call that began then has ended, and failed in a way that has no reason of its own here, or not.
    pub(crate) fn ended(&self, began: Instant, has_failed: bool) {
        if has_failed {
            self.failed[REASONS.len() - 1].fetch_add(1, Ordering::Relaxed);
        }
        self.times
            .record(clock::latest().saturating_duration_since(began));
    }

    /// How long they took.
    pub(crate) const fn times(&self) -> &Histogram {
        &self.times
    }

    /// How many failed, by reason.
    pub(crate) fn failed(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.failed.iter().map(|n| n.load(Ordering::Relaxed));
        REASONS.into_iter().zip(counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_without_a_reason_is_counted_too() {
        let calls = Calls::default();
        calls.ended(Calls::begin(), false);
        calls.ended(Calls::begin(), true);
        let failed: Vec<_> = calls.failed().filter(|(_, n)| *n > 0).collect();
        assert_eq!(failed, [("other", 1)]);
        assert_eq!(calls.times().counts().sum::<u64>(), 2);
    }
}
