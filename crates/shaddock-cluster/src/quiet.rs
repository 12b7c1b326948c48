//! A bound on lines of the log whose number clients or strangers decide.
//!
//! A bind, a request with a fault, a message that strangers send over NATS: each place in the code that writes a line for such a thing writes ten
//! of them a minute. Others are written only at `debug`, and the first line after that minute says how many those were.
//! (The layer of sockets has the same in `shaddock_net::quiet`, which this crate does not know.)

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Lines of one place in one [`PERIOD`].
const LINES: u32 = 10;
const PERIOD: Duration = Duration::from_secs(60);

/// The budget of one place in the code.
#[derive(Debug)]
pub(crate) struct Quiet(Mutex<Count>);

#[derive(Debug)]
struct Count {
    /// When the first line of this period was written.
    began: Option<Instant>,
    written: u32,
    left_out: u64,
}

impl Quiet {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(Count {
            began: None,
            written: 0,
            left_out: 0,
        }))
    }

    /// If a line may be written now: how many were left out since the last one.
    pub(crate) fn allow(&self, now: Instant) -> Option<u64> {
        let mut count = self.0.lock();
        if count
            .began
            .is_none_or(|began| now.saturating_duration_since(began) >= PERIOD)
        {
            count.began = Some(now);
            count.written = 0;
        }
        if count.written == LINES {
            count.left_out += 1;
            return None;
        }
        count.written += 1;
        Some(std::mem::take(&mut count.left_out))
    }
}

/// A line of the log that clients or strangers can cause: `quiet!(LEVEL, "TEXT", FIELDS..)`, with levels and fields as in `tracing`'s macros.
macro_rules! quiet {
    ($level:ident, $text:literal $(, $($fields:tt)+)?) => {{
        static PLACE: $crate::quiet::Quiet = $crate::quiet::Quiet::new();
        match PLACE.allow(std::time::Instant::now()) {
            Some(left_out) => {
                if left_out > 0 {
                    tracing::warn!(
                        line = $text,
                        left_out,
                        "more such lines since the last one; they are written at level `debug`"
                    );
                }
                tracing::$level!($($($fields)+,)? $text);
            }
            None => tracing::debug!($($($fields)+,)? $text),
        }
    }};
}
pub(crate) use quiet;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_lines_a_minute_and_the_number_of_the_others() {
        let quiet = Quiet::new();
        let start = Instant::now();
        // Seconds, how many things happen then, and what becomes of them: lines, and others that the first line tells of.
        let steps = [
            (0, 4, 4, 0),
            (30, 500, 6, 0),
            (59, 10, 0, 0),
            (60, 1, 1, 504),
            (61, 20, 9, 0),
            (1000, 1, 1, 11),
            (2000, 1, 1, 0),
        ];
        for (second, happen, lines, told) in steps {
            let now = start + Duration::from_secs(second);
            let allowed: Vec<u64> = (0..happen).filter_map(|_| quiet.allow(now)).collect();
            let sum: u64 = allowed.iter().sum();
            assert_eq!((allowed.len(), sum), (lines, told), "at {second} s");
        }
    }
}
