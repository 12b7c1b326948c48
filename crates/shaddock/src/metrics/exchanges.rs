//! Requests to services over HTTP: how long they take, and why they fail.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use super::histogram::Histogram;

/// Why a service gave no answer.
#[derive(Debug, Clone, Copy)]
pub(crate) enum NoAnswer {
    Down,
    Busy,
    Timeout,
    Broken,
}

impl NoAnswer {
    const ALL: [(Self, &'static str); 4] = [
        (Self::Down, "down"),
        (Self::Busy, "busy"),
        (Self::Timeout, "timeout"),
        (Self::Broken, "broken"),
    ];
}

/// Requests to one backend, events and handshakes among them.
#[derive(Debug, Default)]
pub(crate) struct Exchanges {
    pub(super) times: Histogram,
    failed: [AtomicU64; NoAnswer::ALL.len()],
}

impl Exchanges {
    /// One has ended.
    pub(crate) fn end(&self, took: Duration, failed: Option<NoAnswer>) {
        self.times.record(took);
        if let Some(failed) = failed {
            self.failed[failed as usize].fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn failed(&self) -> impl Iterator<Item = (&'static str, u64)> {
        NoAnswer::ALL
            .into_iter()
            .map(|(reason, name)| (name, self.failed[reason as usize].load(Ordering::Relaxed)))
    }
}
