//! Sessions that connect, and stay or disconnect.

use super::{Gone, Ramp, Scenario, Share};
use crate::{conn::Pending, engine::Engine, phase::Phase};

/// Opens each of its sessions once. Latency is from the start of the connection to the ack.
#[derive(Debug)]
pub(crate) struct Churn {
    ramp: Ramp,
    /// Close each session after its ack.
    close: bool,
    running: bool,
}

impl Churn {
    pub(crate) fn new(share: &Share, close: bool) -> Self {
        Self {
            ramp: Ramp::new(share),
            close,
            running: false,
        }
    }
}

impl Scenario for Churn {
    fn phase(&mut self, engine: &mut Engine, phase: Phase) {
        if phase == Phase::Measure {
            self.running = true;
            self.ramp.pump(engine, |_| false);
        }
    }

    fn opened(&mut self, engine: &mut Engine, key: usize) {
        let started = engine.nanos(engine.started(key));
        engine.record(started);
        engine.tally.done.add(1);
        if self.close {
            // Still in progress until the server has closed too.
            engine.close(key);
        } else {
            self.ramp.landed();
            self.ramp.pump(engine, |_| false);
        }
    }

    fn answered(&mut self, _engine: &mut Engine, _key: usize, _pending: Pending) {}

    fn gone(&mut self, engine: &mut Engine, _slot: usize, why: Gone) {
        if why != Gone::Ended {
            self.ramp.landed();
            self.ramp.pump(engine, |_| false);
        }
    }

    fn is_settled(&self, _engine: &Engine) -> bool {
        !self.running || self.ramp.is_done()
    }
}
