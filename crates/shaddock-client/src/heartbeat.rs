//! The schedule of HEARTBEATs and timeouts. Data and arithmetic, without clock and timers.

use std::time::Duration;

use shaddock_protocol::Dialect;
use tokio::time::Instant;

/// A server can request an interval of a nanosecond, or of a thousand years. Both are clamped.
const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// The heartbeats of one connection.
///
/// Pomelo: the server begins, directly after the ACK. The client replies to its HEARTBEAT one interval H later, and from then on a package
/// of any kind must arrive every 2H. This is the browser client's behaviour, with one addition: the first HEARTBEAT must arrive within 2H
/// too.
///
/// Pitaya: servers do not reply, both sides send independently. One HEARTBEAT every H; after 6H without any package the server is
/// considered dead, as in libpitaya.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    /// `None`: heartbeats are off.
    interval: Option<Duration>,
    timeout: Duration,
    /// Pitaya: send without a request.
    ticking: bool,
    send_at: Option<Instant>,
    dead_at: Option<Instant>,
}

/// The action that is due.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Send,
    Dead,
}

impl Heartbeat {
    /// `now`: when the ACK is sent. `interval`: the server's value, if any.
    pub(crate) fn new(dialect: Dialect, interval: Option<Duration>, now: Instant) -> Self {
        let interval = interval.map(|interval| interval.clamp(SHORTEST, LONGEST));
        let ticking = dialect == Dialect::Pitaya;
        let timeout = interval.unwrap_or_default() * if ticking { 6 } else { 2 };
        Self {
            interval,
            timeout,
            ticking,
            send_at: interval.filter(|_| ticking).map(|interval| now + interval),
            dead_at: interval.map(|_| now + timeout),
        }
    }

    /// A package arrived.
    pub(crate) fn on_package(&mut self, now: Instant) {
        if self.dead_at.is_some() {
            self.dead_at = Some(now + self.timeout);
        }
    }

    /// A HEARTBEAT arrived.
    pub(crate) fn on_heartbeat(&mut self, now: Instant) {
        let Some(interval) = self.interval.filter(|_| !self.ticking) else {
            return;
        };
        // At most one reply is pending, and until it is sent the server owes nothing.
        self.send_at.get_or_insert(now + interval);
        self.dead_at = None;
    }

    /// When [`Heartbeat::due`] should be called.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.send_at.into_iter().chain(self.dead_at).min()
    }

    /// The action that is due at `now`. `Send` counts as done.
    pub(crate) fn due(&mut self, now: Instant) -> Option<Due> {
        if self.dead_at.is_some_and(|at| at <= now) {
            return Some(Due::Dead);
        }
        if self.send_at.is_none_or(|at| now < at) {
            return None;
        }
        if self.ticking {
            self.send_at = self.interval.map(|interval| now + interval);
        } else {
            self.send_at = None;
            self.dead_at = Some(now + self.timeout);
        }
        Some(Due::Send)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const H: Duration = Duration::from_secs(3);
    const TICK: Duration = Duration::from_millis(1);

    #[test]
    fn pomelo_answers_after_the_interval_and_then_waits_twice_as_long() {
        let start = Instant::now();
        let mut beat = Heartbeat::new(Dialect::Pomelo, Some(H), start);
        beat.on_package(start);
        beat.on_heartbeat(start);
        // A second one does not move the answer.
        beat.on_heartbeat(start + TICK);
        assert_eq!(beat.deadline(), Some(start + H));
        assert_eq!(beat.due(start + H - TICK), None);
        assert_eq!(beat.due(start + H), Some(Due::Send));
        assert_eq!(beat.deadline(), Some(start + 3 * H));
        // Any package is a sign of life.
        beat.on_package(start + 2 * H);
        assert_eq!(beat.due(start + 4 * H - TICK), None);
        assert_eq!(beat.due(start + 4 * H), Some(Due::Dead));
    }

    #[test]
    fn pomelo_waits_for_the_first_one() {
        let start = Instant::now();
        let mut beat = Heartbeat::new(Dialect::Pomelo, Some(H), start);
        assert_eq!(beat.due(start + 2 * H - TICK), None);
        assert_eq!(beat.due(start + 2 * H), Some(Due::Dead));
    }

    #[test]
    fn pitaya_ticks() {
        let start = Instant::now();
        let mut beat = Heartbeat::new(Dialect::Pitaya, Some(H), start);
        beat.on_heartbeat(start + TICK);
        for n in 1..=5 {
            assert_eq!(beat.deadline(), Some(start + n * H));
            assert_eq!(beat.due(start + n * H), Some(Due::Send));
        }
        assert_eq!(beat.due(start + 6 * H), Some(Due::Dead));
    }

    #[test]
    fn off_is_off() {
        let start = Instant::now();
        for dialect in [Dialect::Pomelo, Dialect::Pitaya] {
            let mut beat = Heartbeat::new(dialect, None, start);
            beat.on_package(start);
            beat.on_heartbeat(start);
            assert_eq!(beat.deadline(), None);
            assert_eq!(beat.due(start + 1000 * H), None);
        }
    }

    #[test]
    fn an_unreasonable_interval_makes_no_busy_loop() {
        let start = Instant::now();
        let beat = Heartbeat::new(Dialect::Pitaya, Some(Duration::from_nanos(1)), start);
        assert_eq!(beat.deadline(), Some(start + SHORTEST));
        let beat = Heartbeat::new(Dialect::Pitaya, Some(Duration::MAX), start);
        assert_eq!(beat.deadline(), Some(start + LONGEST));
    }
}
