//! The behaviour of the connections: one file per scenario.

mod churn;
mod crowd;
mod echo;
mod fanout;
mod idle;
mod mix;
mod resume;

use std::ops::Range;

pub(crate) use churn::Churn;
pub(crate) use echo::Echo;
pub(crate) use fanout::{Fanout, FanoutShared};
pub(crate) use idle::Idle;
pub(crate) use mix::{Mix, Script};
pub(crate) use resume::Resume;

use crate::engine::Engine;
pub(crate) use crate::engine::{Gone, PLAIN, Scenario};

/// One thread's part of the run.
#[derive(Clone, Debug)]
pub(crate) struct Share {
    /// The number of the thread; the first one has additional tasks in some scenarios.
    pub(crate) thread: usize,
    /// The sessions of the thread. Slots are numbered through all threads.
    pub(crate) slots: Range<usize>,
    /// The limit of concurrent handshakes.
    pub(crate) connecting: usize,
}

impl Share {
    /// Splits `sessions` and `connecting` as evenly as possible.
    pub(crate) fn cut(sessions: usize, connecting: usize, threads: usize) -> Vec<Self> {
        (0..threads)
            .map(|thread| Self {
                thread,
                slots: sessions * thread / threads..sessions * (thread + 1) / threads,
                connecting: (connecting / threads).max(1),
            })
            .collect()
    }
}

/// Opens sessions, a bounded number at a time, until all are open or have failed.
#[derive(Debug)]
pub(crate) struct Ramp {
    slots: Range<usize>,
    under_way: usize,
    limit: usize,
    /// Per session of the range: its connection, if it has one.
    keys: Vec<Option<usize>>,
}

impl Ramp {
    pub(crate) fn new(share: &Share) -> Self {
        Self {
            slots: share.slots.clone(),
            under_way: 0,
            limit: share.connecting,
            keys: Vec::with_capacity(share.slots.len()),
        }
    }

    /// Starts connections up to the limit. `is_stalled` selects the sessions that will never read.
    pub(crate) fn pump(&mut self, engine: &mut Engine, is_stalled: impl Fn(usize) -> bool) {
        while self.under_way < self.limit
            && let Some(slot) = self.slots.next()
        {
            self.keys.push(None);
            self.under_way += 1;
            engine.connect(slot, is_stalled(slot));
        }
    }

    /// A session of the ramp is open, or has failed.
    pub(crate) fn landed(&mut self) {
        self.under_way -= 1;
    }

    /// Whether all sessions are open or have failed.
    pub(crate) fn is_done(&self) -> bool {
        self.slots.is_empty() && self.under_way == 0
    }

    /// The first slot of the range.
    fn first(&self) -> usize {
        self.slots.start - self.keys.len()
    }

    /// Sets or removes the connection of a session.
    pub(crate) fn set_key(&mut self, slot: usize, key: Option<usize>) {
        let index = slot.wrapping_sub(self.first());
        if let Some(place) = self.keys.get_mut(index) {
            *place = key;
        }
    }

    /// The connection of the `index`-th session of this thread.
    pub(crate) fn key(&self, index: usize) -> Option<usize> {
        self.keys.get(index).copied().flatten()
    }

    /// The connection of a session.
    pub(crate) fn key_of(&self, slot: usize) -> Option<usize> {
        self.key(slot.wrapping_sub(self.first()))
    }

    /// The number of sessions that were started.
    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_cover_all_sessions_once() {
        for (sessions, threads) in [(10, 3), (1, 2), (64, 1), (15_000, 2)] {
            let shares = Share::cut(sessions, 64, threads);
            let covered: Vec<usize> = shares
                .iter()
                .flat_map(|share| share.slots.clone())
                .collect();
            assert_eq!(covered, (0..sessions).collect::<Vec<_>>());
            assert!(shares.iter().all(|share| share.connecting > 0));
        }
    }
}
