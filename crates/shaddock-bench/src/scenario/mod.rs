//! The behaviour of the connections: one file per scenario.

mod churn;
mod crowd;
mod echo;
mod fanout;
mod idle;
mod mix;
mod resume;

use std::{ops::Range, time::Instant};

pub(crate) use churn::Churn;
pub(crate) use echo::Echo;
pub(crate) use fanout::{Fanout, FanoutShared};
pub(crate) use idle::Idle;
pub(crate) use mix::{Mix, Script};
pub(crate) use resume::Resume;

use crate::{conn::Pending, engine::Engine, phase::Phase};

/// Slots from here on are plain connections beside the load: they only perform a handshake.
pub(crate) const PLAIN: usize = usize::MAX / 2;

/// Why a connection has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gone {
    /// It was never established.
    Failed,
    /// The server closed it, or violated the protocol.
    Ended,
    /// The client closed it, and the server confirmed.
    Closed,
}

/// The behaviour of the connections of one thread. Called by the engine on its thread.
pub(crate) trait Scenario {
    /// The run has entered a phase.
    fn phase(&mut self, engine: &mut Engine, phase: Phase);
    /// A session is open: its ack is sent together with requests made here.
    fn opened(&mut self, engine: &mut Engine, key: usize);
    /// A session has resumed on a new socket, and unreceived messages were sent again.
    fn resumed(&mut self, _engine: &mut Engine, _key: usize) {}
    /// A plain connection received a heartbeat, the first package that servers send after the ACK.
    fn greeted(&mut self, _engine: &mut Engine, _key: usize) {}
    /// A response arrived, right or wrong. The engine has checked the body and counted faults.
    fn answered(&mut self, engine: &mut Engine, key: usize, pending: Pending);
    /// A request has timed out, which the engine has counted.
    fn unanswered(&mut self, _engine: &mut Engine, _key: usize, _pending: Pending) {}
    /// A push arrived.
    fn pushed(&mut self, _engine: &mut Engine, _key: usize, _route: &[u8], _body: &[u8]) {}
    /// A session has ended, and its key is invalid.
    fn gone(&mut self, engine: &mut Engine, slot: usize, why: Gone);
    /// A timer of the scenario has expired.
    fn timer(&mut self, _engine: &mut Engine, _number: u64) {}
    /// The next time at which [`pace`](Self::pace) should be called, to the microsecond.
    fn due(&self) -> Option<Instant> {
        None
    }
    /// The time has been reached.
    fn pace(&mut self, _engine: &mut Engine, _now: Instant) {}
    /// The end of each iteration of the loop.
    fn turn(&mut self, _engine: &mut Engine) {}
    /// Whether the scenario has finished its current phase.
    fn is_settled(&self, engine: &Engine) -> bool;
    /// The run is over: missing messages are counted here.
    fn finish(&mut self, _engine: &mut Engine) {}
}

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
