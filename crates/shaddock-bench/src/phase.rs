//! The phase of a run, for all its threads.

use std::sync::atomic::{AtomicU8, Ordering};

/// The phase of a run. The controller advances it, all threads follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Phase {
    /// Sessions are opened.
    Connect,
    /// The load is on, but is not measured.
    WarmUp,
    /// The load is measured.
    Measure,
    /// No new requests are sent; pending responses are awaited.
    Drain,
    /// The thread ends.
    Done,
}

/// A [`Phase`] that threads share.
#[derive(Debug, Default)]
pub(crate) struct SharedPhase(AtomicU8);

impl SharedPhase {
    pub(crate) fn set(&self, phase: Phase) {
        self.0.store(phase as u8, Ordering::Release);
    }

    pub(crate) fn get(&self) -> Phase {
        match self.0.load(Ordering::Acquire) {
            0 => Phase::Connect,
            1 => Phase::WarmUp,
            2 => Phase::Measure,
            3 => Phase::Drain,
            _ => Phase::Done,
        }
    }
}
