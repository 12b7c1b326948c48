//! Deadlines of one thread, and a timer precise to the microsecond.

use std::{cmp::Reverse, collections::BinaryHeap, time::Instant};

/// A due timer. Connections are identified by key and serial number, because keys are reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// The connection must send a heartbeat.
    Heartbeat { key: usize, serial: u64 },
    /// The connection must be open, or closed, by now.
    Deadline { key: usize, serial: u64 },
    /// Time to check for overdue requests.
    Overdue,
    /// A call requested by the scenario, with this number.
    Scenario(u64),
}

/// All deadlines of one thread.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<(Instant, Timer)>>,
}

impl Timers {
    pub(crate) fn add(&mut self, at: Instant, timer: Timer) {
        self.heap.push(Reverse((at, timer)));
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// Removes the earliest one, if it is due.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<Timer> {
        if self.next()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse((_, timer))| timer)
    }
}

#[cfg(target_os = "linux")]
pub(crate) use precise::Alarm;

/// `epoll` counts in milliseconds, too coarse for an open loop. A timerfd is precise to the microsecond.
#[cfg(target_os = "linux")]
mod precise {
    use std::{
        io,
        os::fd::{AsRawFd as _, OwnedFd},
        time::Duration,
    };

    use mio::{Interest, Registry, Token, unix::SourceFd};
    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    };

    /// Makes the poll return after a time.
    #[derive(Debug)]
    pub(crate) struct Alarm(OwnedFd);

    impl Alarm {
        pub(crate) fn new(registry: &Registry, token: Token) -> io::Result<Self> {
            let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
            let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
            registry.register(&mut SourceFd(&timer.as_raw_fd()), token, Interest::READABLE)?;
            Ok(Self(timer))
        }

        /// Fires once, after `delay`. Replaces the previous setting.
        pub(crate) fn set(&self, delay: Duration) -> io::Result<()> {
            let zero = Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            // A delay of zero would disable the timer.
            let delay = delay.max(Duration::from_nanos(1));
            let delay = Timespec::try_from(delay).unwrap_or(Timespec {
                tv_sec: 1,
                tv_nsec: 0,
            });
            let times = Itimerspec {
                it_interval: zero,
                it_value: delay,
            };
            timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &times)?;
            Ok(())
        }
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) use coarse::Alarm;

/// Other systems use the milliseconds of the poll.
#[cfg(not(target_os = "linux"))]
mod coarse {
    use std::{io, time::Duration};

    use mio::{Registry, Token};

    #[derive(Debug)]
    pub(crate) struct Alarm;

    impl Alarm {
        pub(crate) fn new(_registry: &Registry, _token: Token) -> io::Result<Self> {
            Ok(Self)
        }

        pub(crate) fn set(&self, _delay: Duration) -> io::Result<()> {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_is_due_comes_in_order_of_time() {
        let start = Instant::now();
        let mut timers = Timers::default();
        timers.add(start + Duration::from_millis(2), Timer::Scenario(2));
        timers.add(start, Timer::Scenario(0));
        timers.add(start + Duration::from_millis(1), Timer::Scenario(1));
        assert_eq!(timers.next(), Some(start));
        let now = start + Duration::from_millis(1);
        assert_eq!(timers.take_due(now), Some(Timer::Scenario(0)));
        assert_eq!(timers.take_due(now), Some(Timer::Scenario(1)));
        assert_eq!(timers.take_due(now), None);
    }
}
