//! How late a request is: whether its caller still waits for it. No IO and no clock, time is an argument.
//!
//! A request of a shaddock server carries the time at which it was made, by the clock of its sender, and how long its caller waits. Two clocks that run equally fast differ
//! by a constant. So the smallest difference that was seen lately between a sender's time and the time of arrival is that constant and the
//! shortest time that a message takes; if another message takes longer, it has waited for the rest: in a queue of the sender, in NATS, or
//! here. Neither the time of day nor a common clock is needed, and an unknown delay counts as none.

use std::time::Duration;

use crate::owners::Moment;
use hashbrown::HashMap;

/// How long the smallest difference counts at least. It is forgotten after twice this, because clocks drift.
const WINDOW: Duration = Duration::from_secs(30);
/// More than two clocks can differ by in [`WINDOW`] twice: 100 ms are 1.6 in 1000, and NTP changes the speed of a clock by at most 0.5.
const SLACK: Duration = Duration::from_millis(100);
/// Senders that are known. Requests of one more count as not late.
const SENDERS: usize = 4096;

/// The measured differences to the clocks of senders.
#[derive(Debug, Default)]
pub(super) struct Clocks {
    /// By the number that each life of a server chooses for its clock.
    senders: HashMap<u64, Clock>,
}

/// The smallest differences, in microseconds: of this window and of the one before.
#[derive(Debug)]
struct Clock {
    now: i64,
    before: i64,
    since: Moment,
}

impl Clocks {
    /// How long a message was on its way beyond the shortest time that one of its sender took lately.
    pub(super) fn delay(&mut self, clock: u64, sent: u64, now: Moment) -> Duration {
        let arrived = i64::try_from(now.0 / 1000).unwrap_or(i64::MAX);
        let difference = arrived.saturating_sub(i64::try_from(sent).unwrap_or(i64::MAX));
        let Some(known) = self.senders.get_mut(&clock) else {
            if self.has_room(now) {
                let first = Clock {
                    now: difference,
                    before: i64::MAX,
                    since: now,
                };
                self.senders.insert(clock, first);
            }
            return Duration::ZERO;
        };
        if now >= known.since.after(WINDOW) {
            let is_recent = now < known.since.after(WINDOW * 2);
            known.before = if is_recent { known.now } else { i64::MAX };
            (known.now, known.since) = (difference, now);
        }
        known.now = known.now.min(difference);
        let least = known.now.min(known.before);
        let late = difference.saturating_sub(least);
        Duration::from_micros(late.unsigned_abs()).saturating_sub(SLACK)
    }

    fn has_room(&mut self, now: Moment) -> bool {
        if self.senders.len() < SENDERS {
            return true;
        }
        self.senders
            .retain(|_, clock| now < clock.since.after(WINDOW * 2));
        self.senders.len() < SENDERS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Moment {
        Moment(millis * 1_000_000)
    }

    fn sent(millis: u64) -> u64 {
        millis * 1000
    }

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn what_waited_is_late_by_that_much() {
        // The receiver's clock is an hour ahead, then an hour behind.
        for (own, others) in [(3_600_000, 0), (0, 3_600_000)] {
            let mut clocks = Clocks::default();
            let mut delay = |sent_at: u64, arrived: u64| {
                clocks.delay(7, sent(others + sent_at), at(own + arrived))
            };
            assert_eq!(delay(0, 3), ms(0));
            assert_eq!(delay(10, 12), ms(0));
            assert_eq!(
                delay(20, 5022),
                ms(4900),
                "five seconds, less what clocks may differ by"
            );
            assert_eq!(
                delay(5020, 5090),
                ms(0),
                "as late as messages are now and then"
            );
        }
    }

    #[test]
    fn clocks_that_drift_make_nothing_late() {
        let mut clocks = Clocks::default();
        for second in 0..100_000 {
            // Half a thousandth faster; a quarter of the messages takes 50 ms.
            let slow = if second % 4 == 0 { 50 } else { 1 };
            let arrived = second * 1000 + second / 2 + slow;
            assert_eq!(
                clocks.delay(7, sent(second * 1000), at(arrived)),
                ms(0),
                "{second}"
            );
        }
        // After an hour of silence the difference is not the old one.
        let drifted = 100_000_000 + 50_000 + 5000;
        assert_eq!(
            clocks.delay(7, sent(103_600_000), at(3_600_000 + drifted)),
            ms(0)
        );
    }

    #[test]
    fn another_life_of_a_sender_has_another_clock() {
        let mut clocks = Clocks::default();
        assert_eq!(clocks.delay(7, sent(1_000_000), at(1000)), ms(0));
        assert_eq!(clocks.delay(8, sent(10), at(2000)), ms(0));
    }

    #[test]
    fn above_the_bound_nothing_counts_as_late() {
        let mut clocks = Clocks::default();
        for clock in 0..SENDERS as u64 {
            clocks.delay(clock, 0, at(0));
        }
        assert_eq!(clocks.delay(9999, 0, at(0)), ms(0));
        assert_eq!(clocks.delay(9999, 0, at(30_000)), ms(0));
        assert_eq!(clocks.senders.len(), SENDERS);
        assert_eq!(clocks.delay(9999, sent(60_000), at(60_000)), ms(0));
        assert_eq!(
            clocks.senders.len(),
            1,
            "the others were silent for a while"
        );
        assert_eq!(clocks.delay(9999, sent(60_000), at(61_000)), ms(900));
    }
}
