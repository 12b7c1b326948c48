//! Silent sessions.

use super::{Gone, Ramp, Scenario, Share};
use crate::{conn::Pending, engine::Engine, phase::Phase};

/// Opens its sessions and keeps them open, or closes their sockets and keeps the sessions.
#[derive(Debug)]
pub(crate) struct Idle {
    ramp: Ramp,
    keys: Vec<usize>,
    is_suspending: bool,
}

impl Idle {
    pub(crate) fn new(share: &Share, is_suspending: bool) -> Self {
        Self {
            ramp: Ramp::new(share),
            keys: Vec::new(),
            is_suspending,
        }
    }
}

impl Scenario for Idle {
    fn phase(&mut self, engine: &mut Engine, phase: Phase) {
        if phase == Phase::Connect {
            self.ramp.pump(engine, |_| false);
        }
        if phase == Phase::Measure && self.is_suspending {
            for key in self.keys.drain(..) {
                engine.cut(key);
            }
        }
    }

    fn opened(&mut self, engine: &mut Engine, key: usize) {
        if self.is_suspending {
            self.keys.push(key);
        }
        engine.tally.done.add(1);
        self.ramp.landed();
        self.ramp.pump(engine, |_| false);
    }

    fn answered(&mut self, _engine: &mut Engine, _key: usize, _pending: Pending) {}

    fn gone(&mut self, engine: &mut Engine, _slot: usize, why: Gone) {
        if why == Gone::Failed {
            self.ramp.landed();
            self.ramp.pump(engine, |_| false);
        }
    }

    fn is_settled(&self, _engine: &Engine) -> bool {
        self.ramp.is_done()
    }
}
