//! Limits on log lines whose number clients decide.
//!
//! An event that a client can cause any number of times must not be logged each time at a level that operators read. So each place in the
//! code that writes such a line has a [`Quiet`]: ten lines a minute are written normally, others only at `debug`, and once a minute one
//! line contains the number of the others. Its state is a few numbers in a `static`, however many clients there are, and it has no timer:
//! [`report`], called regularly, writes the remaining counts when no further event occurs.
//!
//! ```
//! # let (route, error) = ("h.echo", "no database");
//! shaddock_net::quiet!(warn, "a handler failed", route, %error);
//! ```

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use parking_lot::{Mutex, MutexGuard};

/// Lines of one place in one [`PERIOD`].
const LINES: u32 = 10;
const PERIOD: Duration = Duration::from_secs(60);

/// Every place that has ever left a line out: no more than there are in the code.
static PLACES: Mutex<Vec<&'static Quiet>> = Mutex::new(Vec::new());

/// The limit of log lines of one place in the code, see [the module](self).
#[derive(Debug)]
pub struct Quiet {
    line: &'static str,
    count: Mutex<Count>,
    listed: AtomicBool,
}

#[derive(Debug)]
struct Count {
    /// When the first line of this period was written.
    began: Option<Instant>,
    written: u32,
    left_out: u64,
}

impl Count {
    const ZERO: Self = Self {
        began: None,
        written: 0,
        left_out: 0,
    };
}

impl Count {
    /// Whether a line may be written, and how many were left out in the period that it ends.
    fn allow(&mut self, now: Instant) -> (bool, u64) {
        let ended = self.end_period(now);
        self.began.get_or_insert(now);
        let allowed = self.written < LINES;
        if allowed {
            self.written += 1;
        } else {
            self.left_out += 1;
        }
        (allowed, ended)
    }

    /// How many lines were left out, if the period is over.
    fn end_period(&mut self, now: Instant) -> u64 {
        match self.began {
            Some(began) if now.saturating_duration_since(began) >= PERIOD => {
                self.began = None;
                self.written = 0;
                std::mem::take(&mut self.left_out)
            }
            _ => 0,
        }
    }
}

impl Quiet {
    /// For lines with this text.
    pub const fn new(line: &'static str) -> Self {
        Self {
            line,
            count: Mutex::new(Count::ZERO),
            listed: AtomicBool::new(false),
        }
    }

    /// Whether a line may be written now. The first of a period says how many were left out in the one before.
    pub fn allow(&'static self, now: Instant) -> bool {
        let (allowed, left_out) = self.with_count(|count| count.allow(now));
        self.summarise(left_out);
        if !allowed && !self.listed.swap(true, Ordering::Relaxed) {
            places().push(self);
        }
        allowed
    }

    /// The lock is not held while a line is written.
    fn with_count<T>(&self, run: impl FnOnce(&mut Count) -> T) -> T {
        run(&mut self.count.lock())
    }

    fn summarise(&self, left_out: u64) {
        if left_out > 0 {
            tracing::warn!(
                line = self.line,
                left_out,
                "more such lines in the last minute; they are written at level `debug`"
            );
        }
    }
}

fn places() -> MutexGuard<'static, Vec<&'static Quiet>> {
    PLACES.lock()
}

/// Writes how many lines were left out in periods that are over, for every place. To be called about once a minute.
pub fn report(now: Instant) {
    let places = places().clone();
    for place in places {
        place.summarise(place.with_count(|count| count.end_period(now)));
    }
}

/// Writes a log line that clients can cause: `quiet!(LEVEL, "TEXT", FIELDS..)`, with levels and fields as in `tracing`'s macros. Limited
/// for each place in the code, see [`quiet`](mod@crate::quiet).
#[macro_export]
macro_rules! quiet {
    ($level:ident, $text:literal $(, $($fields:tt)+)?) => {{
        static PLACE: $crate::quiet::Quiet = $crate::quiet::Quiet::new($text);
        if PLACE.allow($crate::clock::latest()) {
            ::tracing::$level!($($($fields)+,)? $text);
        } else {
            ::tracing::debug!($($($fields)+,)? $text);
        }
    }};
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// The output at these times (in seconds after the first): lines, and numbers in summaries.
    fn run(count: &mut Count, start: Instant, times: impl IntoIterator<Item = u32>) -> (u32, u64) {
        let (mut lines, mut told) = (0, 0);
        for at in times {
            let (allowed, left_out) = count.allow(start + SECOND * at);
            lines += u32::from(allowed);
            told += left_out;
        }
        (lines, told)
    }

    fn fresh() -> (Count, Instant) {
        (Count::ZERO, Instant::now())
    }

    #[test]
    fn ten_lines_a_minute_and_the_number_of_the_others() {
        let (mut count, start) = fresh();
        assert_eq!(run(&mut count, start, [0; 500]), (10, 0));
        assert_eq!(run(&mut count, start, [59; 500]), (0, 0));
        assert_eq!(run(&mut count, start, [60; 500]), (10, 990));
        assert_eq!(run(&mut count, start, [121]), (1, 490));
        assert_eq!(run(&mut count, start, [500]), (1, 0), "none was left out");
    }

    #[test]
    fn whatever_happens_lines_and_numbers_add_up_and_have_a_bound() {
        for gap in 1..70 {
            let (mut count, start) = fresh();
            // Of each second several, and then none for a while.
            let times = (0..600_u32).flat_map(|n| [n / 5 * gap; 7]);
            let (lines, told) = run(&mut count, start, times);
            let rest = count.end_period(start + SECOND * 1_000_000);
            assert_eq!(u64::from(lines) + told + rest, 4200, "gap {gap}");
            let minutes = 119 * gap / 60 + 1;
            assert!(lines <= minutes * LINES, "gap {gap}: {lines} lines");
            assert!(lines >= LINES);
        }
    }

    #[test]
    fn suppressed_lines_are_reported_at_the_end_of_the_period() {
        let (mut count, start) = fresh();
        assert_eq!(run(&mut count, start, [0; 12]), (10, 0));
        assert_eq!(count.end_period(start + SECOND * 59), 0);
        assert_eq!(count.end_period(start + SECOND * 60), 2);
        assert_eq!(count.end_period(start + SECOND * 120), 0, "once");
    }

    #[test]
    fn a_place_that_leaves_lines_out_is_listed_once() {
        static PLACE: Quiet = Quiet::new("a line of this test");
        let start = Instant::now();
        for _ in 0..100 {
            PLACE.allow(start);
        }
        let listed = || {
            let places = places();
            places.iter().filter(|one| one.line == PLACE.line).count()
        };
        assert_eq!(listed(), 1);
        report(start + PERIOD);
        assert_eq!(PLACE.with_count(|count| count.left_out), 0, "told");
        assert_eq!(listed(), 1);
    }
}
