//! A token bucket, without a clock.

use shaddock_protocol::Millis;

/// How much may still come; 16 bytes per session.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bucket {
    /// Thousandths of a message, so that slow rates fill evenly.
    level: u64,
    filled: Millis,
}

impl Bucket {
    /// A full bucket.
    pub(crate) fn new(now: Millis, rate: u32, burst: u32) -> Self {
        Self {
            level: capacity(rate, burst),
            filled: now,
        }
    }

    /// Takes one message; false if there is none left.
    ///
    /// `held_up` milliseconds of the time that has passed are the worker's own: what the client sent in them comes at once, so they do not
    /// run into the bucket's rim.
    pub(crate) fn take(&mut self, now: Millis, rate: u32, burst: u32, held_up: u64) -> bool {
        let passed = now.0.saturating_sub(self.filled.0);
        self.filled = now;
        // rate per second = rate thousandths per millisecond
        let fill = |millis: u64| millis.saturating_mul(u64::from(rate));
        let rim = capacity(rate, burst).saturating_add(fill(held_up));
        self.level = self.level.saturating_add(fill(passed)).min(rim);
        let taken = self.level >= 1000;
        if taken {
            self.level -= 1000;
        }
        taken
    }
}

fn capacity(rate: u32, burst: u32) -> u64 {
    u64::from(burst).max(u64::from(rate)).max(1) * 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burst_then_rate() {
        let mut bucket = Bucket::new(Millis(0), 2, 5);
        assert_eq!(
            (0..10).filter(|_| bucket.take(Millis(0), 2, 5, 0)).count(),
            5
        );
        assert!(!bucket.take(Millis(499), 2, 5, 0));
        assert!(bucket.take(Millis(500), 2, 5, 0));
        assert_eq!(
            (0..10)
                .filter(|_| bucket.take(Millis(60_000), 2, 5, 0))
                .count(),
            5
        );
    }

    /// A worker that was held up for three seconds finds three seconds' messages: the client did nothing wrong.
    #[test]
    fn a_late_worker_makes_no_flood() {
        let mut bucket = Bucket::new(Millis(0), 10, 10);
        let at_once = |bucket: &mut Bucket, now, held_up| {
            (0..100)
                .filter(|_| bucket.take(Millis(now), 10, 10, held_up))
                .count()
        };
        assert_eq!(at_once(&mut bucket, 3000, 3000), 40);
        assert_eq!(at_once(&mut bucket, 60_000, 0), 10);
    }
}
