//! Requests and responses, closed or open loop.

use std::time::{Duration, Instant};

use super::{Gone, Scenario, Share, crowd::Crowd};
use crate::{
    conn::{Pending, RequestKind},
    engine::Engine,
    phase::Phase,
};

/// Closed loop: every session has a number of requests in flight and sends the next one when a response arrives. Open loop: requests are
/// sent at a fixed rate, round robin over all sessions, and are measured from when they should have been sent.
#[derive(Debug)]
pub(crate) struct Echo {
    crowd: Crowd,
    in_flight: usize,
    pacer: Option<Pacer>,
}

/// The schedule of an open loop.
#[derive(Debug)]
pub(crate) struct Pacer {
    interval: f64,
    start: Option<Instant>,
    sent: u64,
}

impl Pacer {
    /// `rate` per second.
    pub(crate) fn new(rate: f64) -> Self {
        Self {
            interval: 1.0 / rate.max(1e-3),
            start: None,
            sent: 0,
        }
    }

    pub(crate) fn start(&mut self, now: Instant) {
        self.start = Some(now);
    }

    pub(crate) fn stop(&mut self) {
        self.start = None;
    }

    /// When the next request should be sent, while it runs.
    #[expect(
        clippy::cast_precision_loss,
        reason = "2^53 requests are not sent in one run"
    )]
    pub(crate) fn due(&self) -> Option<Instant> {
        let since = Duration::try_from_secs_f64(self.sent as f64 * self.interval).ok()?;
        self.start?.checked_add(since)
    }

    /// Takes the next request if it is due: its number, and when it should have been sent.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<(u64, Instant)> {
        let due = self.due().filter(|due| *due <= now)?;
        self.sent += 1;
        Some((self.sent - 1, due))
    }
}

impl Echo {
    /// `rate` is this thread's part of the open loop's rate.
    pub(crate) fn new(share: &Share, in_flight: usize, rate: Option<f64>) -> Self {
        Self {
            crowd: Crowd::new(share),
            in_flight: in_flight.max(1),
            pacer: rate.map(Pacer::new),
        }
    }

    fn start(&mut self, engine: &mut Engine) {
        if let Some(pacer) = &mut self.pacer {
            return pacer.start(engine.now());
        }
        for key in self.crowd.keys() {
            for _ in 0..self.in_flight {
                engine.request_echo(key, None);
            }
        }
    }
}

impl Scenario for Echo {
    fn phase(&mut self, engine: &mut Engine, phase: Phase) {
        if self.crowd.enter(engine, phase) {
            self.start(engine);
        }
        if phase >= Phase::Drain
            && let Some(pacer) = &mut self.pacer
        {
            pacer.stop();
        }
    }

    fn opened(&mut self, engine: &mut Engine, key: usize) {
        self.crowd.opened(engine, key);
    }

    fn answered(&mut self, engine: &mut Engine, key: usize, pending: Pending) {
        if pending.kind == RequestKind::Echo {
            engine.record(pending.sent);
            engine.tally.done.add(1);
            if self.crowd.is_running() && self.pacer.is_none() {
                engine.request_echo(key, None);
            }
        }
    }

    fn unanswered(&mut self, engine: &mut Engine, key: usize, _pending: Pending) {
        if self.crowd.is_running() && self.pacer.is_none() {
            engine.request_echo(key, None);
        }
    }

    fn gone(&mut self, engine: &mut Engine, slot: usize, why: Gone) {
        self.crowd.gone(engine, slot, why);
    }

    fn due(&self) -> Option<Instant> {
        self.pacer.as_ref().and_then(Pacer::due)
    }

    fn pace(&mut self, engine: &mut Engine, now: Instant) {
        let Some(pacer) = &mut self.pacer else { return };
        while let Some((number, due)) = pacer.take_due(now) {
            if let Some(key) = self.crowd.in_turn(number) {
                engine.request_echo(key, Some(due));
            }
        }
    }

    fn is_settled(&self, engine: &Engine) -> bool {
        self.crowd.is_settled(engine)
    }

    fn finish(&mut self, engine: &mut Engine) {
        engine.count_unanswered();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_pacer_catches_up_and_keeps_the_intended_times() {
        let start = Instant::now();
        let mut pacer = Pacer::new(1000.0);
        assert_eq!(pacer.due(), None, "nothing is due before the start");
        pacer.start(start);
        let late = start + Duration::from_micros(2500);
        let taken: Vec<_> = std::iter::from_fn(|| pacer.take_due(late)).collect();
        let intended = [0, 1, 2].map(|n| (n, start + Duration::from_millis(n)));
        assert_eq!(taken, intended);
        assert_eq!(pacer.due(), Some(start + Duration::from_millis(3)));
    }
}
