//! Sessions under load: common code of `echo` and `mix`.

use super::{Gone, Ramp, Share};
use crate::{engine::Engine, phase::Phase};

/// All sessions of a thread are opened first, then load is generated, and at the end all responses are awaited.
#[derive(Debug)]
pub(super) struct Crowd {
    ramp: Ramp,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Opening,
    Running,
    Draining,
}

impl Crowd {
    pub(super) fn new(share: &Share) -> Self {
        Self {
            ramp: Ramp::new(share),
            stage: Stage::Opening,
        }
    }

    /// Enters a phase. Returns true when the load begins.
    pub(super) fn enter(&mut self, engine: &mut Engine, phase: Phase) -> bool {
        match phase {
            Phase::Connect => {
                self.ramp.pump(engine, |_| false);
                false
            }
            Phase::WarmUp | Phase::Measure => {
                std::mem::replace(&mut self.stage, Stage::Running) == Stage::Opening
            }
            Phase::Drain | Phase::Done => {
                self.stage = Stage::Draining;
                false
            }
        }
    }

    /// Whether requests may be sent.
    pub(super) fn is_running(&self) -> bool {
        self.stage == Stage::Running
    }

    /// A session is open, possibly again.
    pub(super) fn opened(&mut self, engine: &mut Engine, key: usize) {
        self.ramp.set_key(engine.slot(key), Some(key));
        if self.stage == Stage::Opening {
            self.next(engine);
        }
    }

    /// A session has ended.
    pub(super) fn gone(&mut self, engine: &mut Engine, slot: usize, why: Gone) {
        self.ramp.set_key(slot, None);
        if why == Gone::Failed && self.stage == Stage::Opening {
            self.next(engine);
        }
    }

    fn next(&mut self, engine: &mut Engine) {
        self.ramp.landed();
        self.ramp.pump(engine, |_| false);
    }

    /// The connections of all sessions that have one.
    pub(super) fn keys(&self) -> Vec<usize> {
        (0..self.ramp.len())
            .filter_map(|index| self.ramp.key(index))
            .collect()
    }

    /// The connection with this number, in round-robin order over all sessions.
    pub(super) fn in_turn(&self, number: u64) -> Option<usize> {
        let index = number % self.ramp.len().max(1) as u64;
        self.ramp.key(usize::try_from(index).ok()?)
    }

    /// The connection of a session.
    pub(super) fn key_of(&self, slot: usize) -> Option<usize> {
        self.ramp.key_of(slot)
    }

    /// Whether all sessions are open or have failed; at the end, whether all responses have arrived.
    pub(super) fn is_settled(&self, engine: &Engine) -> bool {
        match self.stage {
            Stage::Opening | Stage::Running => self.ramp.is_done(),
            Stage::Draining => engine.requests_waiting() == 0,
        }
    }
}
