//! What the connections do: one file for each scenario.

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

/// Slots from here on are plain connections beside the load: nothing is asked of the server for them but a handshake.
pub(crate) const PLAIN: usize = usize::MAX / 2;

/// Why a connection is no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gone {
    /// It never came to stand.
    Failed,
    /// The server ended it, or broke the protocol.
    Ended,
    /// We ended it, and the server agreed.
    Closed,
}

/// What the connections of one thread do. Called by the engine; all calls are on its thread.
pub(crate) trait Scenario {
    /// The run has moved on.
    fn phase(&mut self, engine: &mut Engine, phase: Phase);
    /// A session is open: its ack is sent with whatever is sent from here.
    fn opened(&mut self, engine: &mut Engine, key: usize);
    /// A session is back on a new socket, and what the server had not received is on its way.
    fn resumed(&mut self, _engine: &mut Engine, _key: usize) {}
    /// A plain connection got a heartbeat, the first package that servers send behind the ACK.
    fn greeted(&mut self, _engine: &mut Engine, _key: usize) {}
    /// A request was answered, rightly or not. The engine has checked the body and counted what is wrong.
    fn answered(&mut self, engine: &mut Engine, key: usize, pending: Pending);
    /// A request was not answered in time, which the engine has counted.
    fn unanswered(&mut self, _engine: &mut Engine, _key: usize, _pending: Pending) {}
    /// A push came.
    fn pushed(&mut self, _engine: &mut Engine, _key: usize, _route: &[u8], _body: &[u8]) {}
    /// A session is gone, and its key with it.
    fn gone(&mut self, engine: &mut Engine, slot: usize, why: Gone);
    /// A timer of the scenario's has come.
    fn timer(&mut self, _engine: &mut Engine, _number: u64) {}
    /// When the scenario wants to be paced next, to the microsecond.
    fn due(&self) -> Option<Instant> {
        None
    }
    /// The time is there.
    fn pace(&mut self, _engine: &mut Engine, _now: Instant) {}
    /// The end of each turn of the loop.
    fn turn(&mut self, _engine: &mut Engine) {}
    /// Whether the scenario has reached the end of its present phase.
    fn is_settled(&self, engine: &Engine) -> bool;
    /// The run is over: what is still missing is counted here.
    fn finish(&mut self, _engine: &mut Engine) {}
}

/// One thread's part of the run.
#[derive(Clone, Debug)]
pub(crate) struct Share {
    /// The first thread has extra duties in some scenarios.
    pub(crate) thread: usize,
    /// Its sessions. Slots are numbered through all threads.
    pub(crate) slots: Range<usize>,
    /// Handshakes that it may have under way.
    pub(crate) connecting: usize,
}

impl Share {
    /// Cuts `sessions` and `connecting` into as equal parts as possible.
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
    /// Per session of the range: its connection, while it has one.
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

    /// Begins as many connections as may be under way. `is_stalled` tells which sessions will never read.
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

    /// Remembers, or forgets, the connection of a session.
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

    /// How many sessions were begun.
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
