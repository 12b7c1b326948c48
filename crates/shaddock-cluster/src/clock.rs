//! The clock by which leases are counted.

use rustix::time::{ClockId, clock_gettime};

use crate::owners::Moment;

/// Counts the time in which the machine was suspended, as etcd's own clock does on another machine. `CLOCK_MONOTONIC` of Linux does not.
#[cfg(target_os = "linux")]
const CLOCK: ClockId = ClockId::Boottime;
/// On macOS and the BSDs it counts that time too, or there is none better.
#[cfg(not(target_os = "linux"))]
const CLOCK: ClockId = ClockId::Monotonic;

/// The time since some moment in the past. Reading it costs about as much as `Instant::now`.
pub(crate) fn now() -> Moment {
    let time = clock_gettime(CLOCK);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let nanos = u64::try_from(time.tv_nsec).unwrap_or_default();
    Moment(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    #[test]
    fn a_session_continues() {
        let before = super::now();
        std::thread::sleep(Duration::from_millis(20));
        let passed = before.until(super::now());
        assert!(
            passed >= Duration::from_millis(20) && passed < Duration::from_secs(60),
            "{passed:?}"
        );
    }
}
