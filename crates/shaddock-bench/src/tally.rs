//! Results: counters that other threads may read at any time, and latencies.

use std::{
    io,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use hdrhistogram::Histogram;

/// The longest latency that is recorded exactly.
const MAX_LATENCY: Duration = Duration::from_secs(120);
/// Maximum number of described failures.
const MAX_NOTES: usize = 5;

/// A counter with one writer.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, more: u64) {
        // There is only one writer, so nothing is lost between the load and the store.
        self.0
            .store(self.0.load(Ordering::Relaxed) + more, Ordering::Relaxed);
    }

    pub(crate) fn take_one(&self) {
        self.0.store(
            self.0.load(Ordering::Relaxed).saturating_sub(1),
            Ordering::Relaxed,
        );
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counters of one thread.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Tally {
    /// Sessions that are open now.
    pub(crate) open: Counter,
    /// The unit of the scenario: responses, deliveries or sessions.
    pub(crate) done: Counter,
    /// Responses with a wrong body or an error, without a request, or unreadable.
    pub(crate) wrong: Counter,
    /// Requests without a response, missing pushes.
    pub(crate) lost: Counter,
    /// Repeated responses and pushes.
    pub(crate) repeated: Counter,
    /// Responses and pushes out of order, if that is checked.
    pub(crate) late: Counter,
    /// Connections that could not be established.
    pub(crate) failed: Counter,
    /// Connections that the server ended.
    pub(crate) closed: Counter,
}

/// The counters of all threads at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) open: u64,
    pub(crate) done: u64,
    pub(crate) wrong: u64,
    pub(crate) lost: u64,
    pub(crate) repeated: u64,
    pub(crate) late: u64,
    pub(crate) failed: u64,
    pub(crate) closed: u64,
}

impl Totals {
    pub(crate) fn of<'a>(tallies: impl IntoIterator<Item = &'a Tally>) -> Self {
        tallies
            .into_iter()
            .fold(Self::default(), |sum, tally| Self {
                open: sum.open + tally.open.get(),
                done: sum.done + tally.done.get(),
                wrong: sum.wrong + tally.wrong.get(),
                lost: sum.lost + tally.lost.get(),
                repeated: sum.repeated + tally.repeated.get(),
                late: sum.late + tally.late.get(),
                failed: sum.failed + tally.failed.get(),
                closed: sum.closed + tally.closed.get(),
            })
    }

    /// The total number of faults.
    pub(crate) fn faults(&self) -> u64 {
        self.wrong + self.lost + self.repeated + self.late + self.failed + self.closed
    }
}

/// The results of one thread.
#[derive(Debug)]
pub(crate) struct Harvest {
    /// Nanoseconds.
    pub(crate) latency: Histogram<u64>,
    /// Nanoseconds of plain connections, which `resume` measures in addition.
    pub(crate) plain: Histogram<u64>,
    /// The same connections up to the first package behind their ACK.
    pub(crate) plain_open: Histogram<u64>,
    /// Descriptions of the first failures.
    pub(crate) notes: Vec<String>,
}

impl Harvest {
    pub(crate) fn new() -> io::Result<Self> {
        let max = u64::try_from(MAX_LATENCY.as_nanos()).unwrap_or(u64::MAX);
        let histogram = || Histogram::new_with_bounds(1, max, 3).map_err(io::Error::other);
        Ok(Self {
            latency: histogram()?,
            plain: histogram()?,
            plain_open: histogram()?,
            notes: Vec::new(),
        })
    }

    pub(crate) fn note(&mut self, text: impl FnOnce() -> String) {
        if self.notes.len() < MAX_NOTES {
            self.notes.push(text());
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        // Both have the same bounds, so all values fit.
        let _ = self.latency.add(&other.latency);
        let _ = self.plain.add(&other.plain);
        let _ = self.plain_open.add(&other.plain_open);
        let room = MAX_NOTES - self.notes.len();
        self.notes.extend(other.notes.iter().take(room).cloned());
    }
}
