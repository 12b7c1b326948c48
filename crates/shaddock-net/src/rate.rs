//! A token bucket, without a clock.

use shaddock_protocol::Millis;

/// How much may still come; 16 bytes per session.
#[derive(Debug, Clone, Copy)]
pub struct Bucket {
    /// Thousandths of a token, so that slow rates fill evenly.
    level: u64,
    filled: Millis,
}

impl Bucket {
    /// A full bucket of `size` tokens, and of one if that is 0.
    pub fn full(now: Millis, size: u32) -> Self {
        Self {
            level: capacity(size),
            filled: now,
        }
    }

    /// A full bucket of a listener's limit.
    pub(crate) fn new(now: Millis, rate: u32, burst: u32) -> Self {
        Self::full(now, size(rate, burst))
    }

    /// Takes one token; false if there is none left. `rate` tokens a second come in, and `size` stay.
    ///
    /// `held_up` milliseconds of the time that has passed are the worker's own: what the client sent in them comes at once, so they do not
    /// run into the bucket's rim.
    pub fn take(&mut self, now: Millis, rate: u32, size: u32, held_up: u64) -> bool {
        let rim = capacity(size).saturating_add(fill(rate, held_up));
        self.level = self.level(now, rate).min(rim);
        self.filled = now;
        let taken = self.level >= TOKEN;
        if taken {
            self.level -= TOKEN;
        }
        taken
    }

    /// True if the bucket is full, like a new one.
    pub fn is_full(&self, now: Millis, rate: u32, size: u32) -> bool {
        self.level(now, rate) >= capacity(size)
    }

    /// The time of the last [`take`](Self::take).
    pub const fn last(&self) -> Millis {
        self.filled
    }

    fn level(&self, now: Millis, rate: u32) -> u64 {
        let passed = now.0.saturating_sub(self.filled.0);
        self.level.saturating_add(fill(rate, passed))
    }
}

const TOKEN: u64 = 1000;

/// The size of the bucket of a listener's limit: what comes within a second may come at once.
pub(crate) fn size(rate: u32, burst: u32) -> u32 {
    burst.max(rate)
}

fn capacity(size: u32) -> u64 {
    u64::from(size).max(1) * TOKEN
}

/// A token a second is a thousandth of one a millisecond.
fn fill(rate: u32, millis: u64) -> u64 {
    millis.saturating_mul(u64::from(rate))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn burst_then_rate() {
        let mut bucket = Bucket::full(Millis(0), 5);
        assert_eq!(
            (0..10).filter(|_| bucket.take(Millis(0), 2, 5, 0)).count(),
            5
        );
        assert!(!bucket.take(Millis(499), 2, 5, 0));
        assert!(bucket.take(Millis(500), 2, 5, 0));
        let later = Millis(60_000);
        assert_eq!((0..10).filter(|_| bucket.take(later, 2, 5, 0)).count(), 5);
    }

    /// A worker that was held up for three seconds finds three seconds' messages: the client did nothing wrong.
    #[test]
    fn a_late_worker_makes_no_flood() {
        let mut bucket = Bucket::full(Millis(0), 10);
        let at_once = |bucket: &mut Bucket, now, held_up| {
            (0..100)
                .filter(|_| bucket.take(Millis(now), 10, 10, held_up))
                .count()
        };
        assert_eq!(at_once(&mut bucket, 3000, 3000), 40);
        assert_eq!(at_once(&mut bucket, 60_000, 0), 10);
    }

    /// The same, millisecond by millisecond.
    struct Naive {
        thousandths: u64,
        now: u64,
    }

    impl Naive {
        fn take(&mut self, now: u64, rate: u64, size: u64, held_up: u64) -> bool {
            let size = size.max(1) * 1000;
            while self.now < now {
                self.now += 1;
                self.thousandths += rate;
                // In the time for which the worker was held up, nothing is lost over the rim.
                if now - self.now >= held_up {
                    self.thousandths = self.thousandths.min(size);
                }
            }
            self.thousandths = self.thousandths.min(size + rate * held_up);
            let taken = self.thousandths >= 1000;
            if taken {
                self.thousandths -= 1000;
            }
            taken
        }
    }

    proptest! {
        #[test]
        fn it_is_the_naive_one(
            rate in 0..3000_u32,
            size in 0..20_u32,
            takes in prop::collection::vec((0..2000_u64, 0..3000_u64, any::<bool>()), 1..80),
        ) {
            let mut bucket = Bucket::full(Millis(0), size);
            let mut naive = Naive { thousandths: u64::from(size).max(1) * 1000, now: 0 };
            let mut now = 0;
            for (passed, held_up, is_held_up) in takes {
                // Most messages come in groups.
                now += passed.saturating_sub(1000);
                let held_up = if is_held_up { held_up } else { 0 };
                let full = naive.thousandths >= u64::from(size).max(1) * 1000;
                prop_assert_eq!(bucket.is_full(Millis(naive.now), rate, size), full);
                prop_assert_eq!(
                    bucket.take(Millis(now), rate, size, held_up),
                    naive.take(now, rate.into(), size.into(), held_up)
                );
                prop_assert_eq!(bucket.last(), Millis(now));
            }
        }
    }
}
