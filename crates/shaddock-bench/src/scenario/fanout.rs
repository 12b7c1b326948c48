//! One request that pushes to all sessions.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use mio::Waker;

use super::{Gone, Ramp, Scenario, Share, echo::Pacer};
use crate::{
    args::FanoutArgs,
    conn::{Pending, RequestKind},
    engine::Engine,
    phase::Phase,
};

/// Shared state of the threads of a fan-out.
#[derive(Debug)]
pub(crate) struct FanoutShared {
    /// The thread that sends the pushes.
    pub(crate) sender: Arc<Waker>,
    /// Sessions that are bound and read.
    pub(crate) receivers: AtomicU64,
    /// Pushes that were sent.
    pub(crate) sent: AtomicU64,
    /// Pushes that arrived, over all sessions.
    pub(crate) delivered: AtomicU64,
    /// A push that has not reached all sessions in this time counts as lost.
    pub(crate) timeout: Duration,
}

/// Every session binds and waits for pushes; the first thread has one more connection, which requests them. Latency is from when the
/// request for the push was sent, or should have been, to the arrival at each session.
#[derive(Debug)]
pub(crate) struct Fanout {
    ramp: Ramp,
    first: usize,
    total: usize,
    stalled: usize,
    shared: Arc<FanoutShared>,
    /// Per session: the number of the expected push. `None` if none is expected.
    expected: Vec<Option<u64>>,
    unbound: usize,
    sender: Option<Sender>,
    measuring: bool,
}

/// The connection that requests pushes.
#[derive(Debug)]
struct Sender {
    key: Option<usize>,
    pushes: u64,
    pacer: Option<Pacer>,
    failed: bool,
}

impl Fanout {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a percentage of a number of sessions"
    )]
    pub(crate) fn new(share: &Share, args: &FanoutArgs, shared: Arc<FanoutShared>) -> Self {
        let total = args.target.connections;
        let share_of_all = args.stalled.clamp(0.0, 100.0) / 100.0;
        Self {
            ramp: Ramp::new(share),
            first: share.slots.start,
            total,
            stalled: (total as f64 * share_of_all).round() as usize,
            shared,
            expected: vec![None; share.slots.len()],
            unbound: share.slots.len(),
            sender: (share.thread == 0).then(|| Sender {
                key: None,
                pushes: args.pushes,
                pacer: args.rate.map(Pacer::new),
                failed: false,
            }),
            measuring: false,
        }
    }

    fn pump(&mut self, engine: &mut Engine) {
        let (stalled, total) = (self.stalled, self.total);
        self.ramp
            .pump(engine, |slot| is_stalled(slot, stalled, total));
    }

    /// Closed loop: sends the next push when the last one has reached all sessions.
    fn push_next(&self, engine: &mut Engine) {
        let Some(Sender {
            key: Some(key),
            pushes,
            pacer: None,
            failed: false,
        }) = self.sender
        else {
            return;
        };
        let sent = self.shared.sent.load(Ordering::Relaxed);
        let receivers = self.shared.receivers.load(Ordering::Relaxed);
        let delivered = self.shared.delivered.load(Ordering::Acquire);
        if self.measuring && sent < pushes && delivered >= sent * receivers {
            self.push(engine, key, sent, engine.now());
        }
    }

    fn push(&self, engine: &mut Engine, key: usize, number: u64, at: Instant) {
        self.shared.sent.store(number + 1, Ordering::Relaxed);
        engine.request_push(key, number, at);
        let limit = engine.now() + self.shared.timeout;
        engine
            .timers
            .add(limit, crate::timers::Timer::Scenario(number));
    }

    /// Whether all pushes up to `number` have arrived.
    fn has_arrived(&self, number: u64) -> bool {
        let receivers = self.shared.receivers.load(Ordering::Relaxed);
        self.shared.delivered.load(Ordering::Acquire) >= (number + 1) * receivers
    }
}

impl Scenario for Fanout {
    fn phase(&mut self, engine: &mut Engine, phase: Phase) {
        match phase {
            Phase::Connect => {
                if self.sender.is_some() {
                    engine.connect(self.total, false);
                }
                self.pump(engine);
            }
            Phase::Measure => {
                self.measuring = true;
                if let Some(pacer) = self
                    .sender
                    .as_mut()
                    .and_then(|sender| sender.pacer.as_mut())
                {
                    pacer.start(engine.now());
                }
            }
            _ => {}
        }
    }

    fn opened(&mut self, engine: &mut Engine, key: usize) {
        let slot = engine.slot(key);
        if let Some(sender) = &mut self.sender
            && slot == self.total
        {
            sender.key = Some(key);
        } else {
            engine.request_bind(key, slot + 1);
        }
    }

    fn answered(&mut self, engine: &mut Engine, key: usize, pending: Pending) {
        if pending.kind != RequestKind::Bind {
            return;
        }
        let slot = engine.slot(key);
        self.unbound -= 1;
        self.ramp.landed();
        if is_stalled(slot, self.stalled, self.total) {
            engine.abandon(key);
        } else {
            self.expected[slot - self.first] = Some(0);
            self.shared.receivers.fetch_add(1, Ordering::Relaxed);
        }
        self.pump(engine);
    }

    fn unanswered(&mut self, engine: &mut Engine, key: usize, pending: Pending) {
        // It is unknown whether this session receives pushes. A push has its own timer.
        if pending.kind == RequestKind::Bind {
            engine.close(key);
        }
    }

    fn pushed(&mut self, engine: &mut Engine, key: usize, route: &[u8], body: &[u8]) {
        let numbers = engine
            .bodies
            .numbers(body)
            .filter(|_| *route == engine.target.routes.push_event);
        let place = self
            .expected
            .get_mut(engine.slot(key).wrapping_sub(self.first));
        let (Some((number, sent)), Some(Some(expected))) = (numbers, place) else {
            return engine.wrong(|| {
                let (route, body) = (
                    String::from_utf8_lossy(route),
                    String::from_utf8_lossy(body),
                );
                format!("an unexpected push: {route} {body}")
            });
        };
        if number < *expected {
            return engine.tally.repeated.add(1);
        }
        engine.tally.lost.add(number - *expected);
        *expected = number + 1;
        engine.record(sent);
        engine.tally.done.add(1);
        let delivered = self.shared.delivered.fetch_add(1, Ordering::AcqRel) + 1;
        if delivered.is_multiple_of(self.shared.receivers.load(Ordering::Relaxed).max(1)) {
            // If this fails, the push times out.
            let _ = self.shared.sender.wake();
        }
    }

    fn gone(&mut self, engine: &mut Engine, slot: usize, _why: Gone) {
        if slot == self.total {
            if let Some(sender) = &mut self.sender {
                sender.key = None;
                sender.failed = true;
            }
            return;
        }
        let place = self.expected.get_mut(slot.wrapping_sub(self.first));
        if let Some(arrived) = place.and_then(Option::take) {
            // The sums are those of the remaining sessions.
            self.shared.receivers.fetch_sub(1, Ordering::Relaxed);
            self.shared.delivered.fetch_sub(arrived, Ordering::AcqRel);
        } else {
            // It was never bound.
            self.unbound = self.unbound.saturating_sub(1);
            self.ramp.landed();
            self.pump(engine);
        }
    }

    fn timer(&mut self, _engine: &mut Engine, number: u64) {
        if !self.has_arrived(number)
            && let Some(sender) = &mut self.sender
        {
            sender.failed = true;
        }
    }

    fn due(&self) -> Option<Instant> {
        let sender = self.sender.as_ref().filter(|sender| !sender.failed)?;
        let more = self.shared.sent.load(Ordering::Relaxed) < sender.pushes;
        sender.pacer.as_ref().filter(|_| more).and_then(Pacer::due)
    }

    fn pace(&mut self, engine: &mut Engine, now: Instant) {
        let Some(Sender {
            key: Some(key),
            pacer: Some(pacer),
            ..
        }) = &mut self.sender
        else {
            return;
        };
        let key = *key;
        if let Some((number, due)) = pacer.take_due(now) {
            self.push(engine, key, number, due);
        }
    }

    fn turn(&mut self, engine: &mut Engine) {
        self.push_next(engine);
    }

    fn is_settled(&self, _engine: &Engine) -> bool {
        let Some(sender) = &self.sender else {
            return self.measuring || self.unbound == 0;
        };
        if !self.measuring {
            return self.unbound == 0 && (sender.key.is_some() || sender.failed);
        }
        sender.failed
            || self.shared.sent.load(Ordering::Relaxed) == sender.pushes
                && self.has_arrived(sender.pushes.saturating_sub(1))
    }

    fn finish(&mut self, engine: &mut Engine) {
        let sent = self.shared.sent.load(Ordering::Relaxed);
        let missing = self
            .expected
            .iter()
            .flatten()
            .map(|next| sent.saturating_sub(*next))
            .sum();
        engine.tally.lost.add(missing);
    }
}

/// Whether this session never reads: the given number of sessions, evenly distributed.
fn is_stalled(slot: usize, stalled: usize, total: usize) -> bool {
    slot < total && slot * stalled / total != (slot + 1) * stalled / total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_sessions_stall_as_wanted() {
        for (stalled, total) in [(0, 100), (1, 100), (150, 15_000), (7, 7)] {
            let count = (0..=total)
                .filter(|slot| is_stalled(*slot, stalled, total))
                .count();
            assert_eq!(count, stalled);
        }
    }
}
