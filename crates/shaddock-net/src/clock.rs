//! The clock, read as rarely as possible: a reading costs a few hundredths of a microsecond, a message less than one.

use std::{
    cell::Cell,
    sync::OnceLock,
    time::{Duration, Instant},
};

use shaddock_protocol::Millis;

thread_local! {
    /// The last reading while a connection is polled on this thread.
    static TURN: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// The only reading of the clock in this crate. It uses tokio's clock, so that tests can move it; without tokio's feature `test-util` this
/// is the system's clock.
fn instant() -> Instant {
    let now = tokio::time::Instant::now().into_std();
    #[cfg(feature = "testing")]
    let now = now + HELD.get();
    now
}

#[cfg(feature = "testing")]
thread_local! {
    static HELD: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// Lets time pass for this thread at once, as blocking code does: no timer is served meanwhile.
#[cfg(feature = "testing")]
pub fn hold_up(time: Duration) {
    HELD.set(HELD.get() + time);
}

/// Milliseconds since the first call in the process, the same for all workers.
pub fn now() -> Millis {
    millis(instant())
}

/// The latest reading of this turn, if a connection is being polled on this thread, and a new one otherwise.
///
/// A turn reads the clock at its beginning, and at each call of [`read`]. So the value is older than the true time by the work done since
/// then: handlers that measure themselves begin where the previous one ended.
pub fn latest() -> Instant {
    TURN.get().unwrap_or_else(instant)
}

/// [`latest`], in the form of [`now`].
pub(crate) fn turn() -> Millis {
    millis(latest())
}

/// Reads the clock, also for [`latest`].
pub fn read() -> Instant {
    let now = instant();
    if TURN.get().is_some() {
        TURN.set(Some(now));
    }
    now
}

/// A turn of this thread, until it is dropped.
pub(crate) struct Turn(Millis);

impl Turn {
    pub(crate) fn begin() -> Self {
        let now = instant();
        TURN.set(Some(now));
        Self(millis(now))
    }

    /// When it began.
    pub(crate) const fn began(&self) -> Millis {
        self.0
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        TURN.set(None);
    }
}

fn millis(now: Instant) -> Millis {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    let origin = ORIGIN.get_or_init(|| now);
    let passed: Duration = now.saturating_duration_since(*origin);
    // 584 million years fit.
    Millis(passed.as_secs() * 1000 + u64::from(passed.subsec_millis()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_keeps_its_latest_reading() {
        assert_ne!(latest(), latest(), "outside of a turn the clock is read");
        let turn = Turn::begin();
        let first = latest();
        assert_eq!(latest(), first);
        let second = read();
        assert!(second > first);
        assert_eq!(latest(), second);
        drop(turn);
        assert!(latest() > second);
    }
}
