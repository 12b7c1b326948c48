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
    pub(crate) fn take(&mut self, now: Millis, rate: u32, burst: u32) -> bool {
        let passed = now.0.saturating_sub(self.filled.0);
        self.filled = now;
        // rate per second = rate thousandths per millisecond
        self.level =
            (self.level + passed.saturating_mul(u64::from(rate))).min(capacity(rate, burst));
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
        assert_eq!((0..10).filter(|_| bucket.take(Millis(0), 2, 5)).count(), 5);
        assert!(!bucket.take(Millis(499), 2, 5));
        assert!(bucket.take(Millis(500), 2, 5));
        assert_eq!(
            (0..10)
                .filter(|_| bucket.take(Millis(60_000), 2, 5))
                .count(),
            5
        );
    }
}
