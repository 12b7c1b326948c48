//! One timer wheel per worker for the deadlines of all its connections, without IO and without a clock.
//!
//! An idle connection owns no timer of its own, only an entry of a slab here. Deadlines are lazy: a connection arms the wheel for its
//! earliest deadline, and does not touch it again when traffic moves that deadline away; it is woken once, finds that the time has not
//! come, and arms again. The resolution is [`TICK`], far below any deadline of the protocol.

use std::{num::NonZeroU32, task::Waker};

use shaddock_protocol::Millis;
use slab::Slab;

/// Resolution, milliseconds. A deadline is late by at most this (plus the load of the worker).
pub(crate) const TICK: u64 = 100;
/// Slots, so that the wheel spans 102 seconds; later deadlines wake their owner early, who arms again.
const SLOTS: usize = 1024;
const NEVER: u64 = u64::MAX;

/// A connection's place in the wheel of its worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TimerKey(NonZeroU32);

impl TimerKey {
    fn index(self) -> usize {
        self.0.get() as usize - 1
    }
}

struct Entry {
    waker: Waker,
    /// The tick in whose slot the entry counts; keys of it in other slots are left-overs.
    tick: u64,
}

/// The deadlines of one worker.
pub(crate) struct Wheel {
    entries: Slab<Entry>,
    slots: Vec<Vec<u32>>,
    /// The first tick that has not been handled.
    next: u64,
}

impl Wheel {
    /// An empty wheel at `now`.
    pub(crate) fn new(now: Millis) -> Self {
        Self {
            entries: Slab::new(),
            slots: vec![Vec::new(); SLOTS],
            next: now.0 / TICK,
        }
    }

    /// Takes a place for a task, not armed yet. The place must be given back with [`Wheel::remove`].
    ///
    /// # Panics
    /// With more than `u32::MAX` places, which no process has sockets for.
    pub(crate) fn insert(&mut self, waker: Waker) -> TimerKey {
        let key = self.entries.insert(Entry { waker, tick: NEVER });
        // One more than the index, so that a key has a niche and an optional timer is no larger than a timer.
        let key = u32::try_from(key + 1).ok().and_then(NonZeroU32::new);
        TimerKey(key.expect("fewer than 2^32 connections"))
    }

    /// Wakes the task at `deadline`, or earlier if it is armed for an earlier time already. Returns when: until then there is
    /// no need to arm it for a later deadline, and after it the task must arm again.
    pub(crate) fn arm(&mut self, key: TimerKey, deadline: Millis) -> Millis {
        // Rounded up, so that the deadline has passed when the task is woken.
        let tick = deadline
            .0
            .div_ceil(TICK)
            .clamp(self.next, self.next + SLOTS as u64 - 1);
        let Some(entry) = self.entries.get_mut(key.index()) else {
            return deadline;
        };
        if tick < entry.tick {
            entry.tick = tick;
            self.slots[slot(tick)].push(key.0.get());
        }
        Millis(entry.tick * TICK)
    }

    /// Gives the place back.
    pub(crate) fn remove(&mut self, key: TimerKey) {
        self.entries.try_remove(key.index());
    }

    /// Places that are taken.
    #[cfg(feature = "testing")]
    pub(crate) fn places(&self) -> usize {
        self.entries.len()
    }

    /// Wakes every task whose time has come.
    pub(crate) fn advance(&mut self, now: Millis) {
        let last = now.0 / TICK;
        while self.next <= last {
            let tick = self.next;
            self.next += 1;
            let mut due = std::mem::take(&mut self.slots[slot(tick)]);
            for key in due.drain(..) {
                if let Some(entry) = self.entries.get_mut(key as usize - 1)
                    && entry.tick == tick
                {
                    entry.tick = NEVER;
                    entry.waker.wake_by_ref();
                }
            }
            // The list keeps its memory for the next turn of the wheel, unless a burst made it large.
            if due.capacity() <= 1024 {
                self.slots[slot(tick)] = due;
            }
        }
    }
}

fn slot(tick: u64) -> usize {
    // The remainder is below SLOTS, so it fits any usize.
    usize::try_from(tick % SLOTS as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn task(wheel: &mut Wheel) -> (TimerKey, Arc<Count>) {
        let count = Arc::new(Count::default());
        (wheel.insert(Waker::from(count.clone())), count)
    }

    #[test]
    fn wakes_once_and_not_before_the_deadline() {
        let mut wheel = Wheel::new(Millis(12_345));
        let (key, woken) = task(&mut wheel);
        wheel.arm(key, Millis(13_050));
        for now in (12_345..13_050).step_by(7) {
            wheel.advance(Millis(now));
        }
        assert_eq!(woken.0.load(Ordering::Relaxed), 0);
        wheel.advance(Millis(13_050 + TICK));
        wheel.advance(Millis(500_000));
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn an_earlier_deadline_counts_and_a_later_one_does_not_postpone() {
        let mut wheel = Wheel::new(Millis(0));
        let (key, woken) = task(&mut wheel);
        wheel.arm(key, Millis(60_000));
        wheel.arm(key, Millis(1_000));
        wheel.arm(key, Millis(80_000));
        wheel.advance(Millis(1_100));
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        wheel.advance(Millis(90_000));
        assert_eq!(
            woken.0.load(Ordering::Relaxed),
            1,
            "left-over keys are ignored"
        );
    }

    #[test]
    fn beyond_the_horizon_it_wakes_early() {
        let mut wheel = Wheel::new(Millis(0));
        let (key, woken) = task(&mut wheel);
        wheel.arm(key, Millis(10_000_000));
        wheel.advance(Millis(SLOTS as u64 * TICK));
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
    }

    /// A poll between a deadline and its tick does not lose the deadline after it.
    #[test]
    fn arming_again_before_the_tick_reports_the_tick() {
        let mut wheel = Wheel::new(Millis(0));
        let (key, woken) = task(&mut wheel);
        assert_eq!(wheel.arm(key, Millis(450)), Millis(500));
        assert_eq!(
            wheel.arm(key, Millis(860)),
            Millis(500),
            "still armed for the first"
        );
        wheel.advance(Millis(500));
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        assert_eq!(wheel.arm(key, Millis(860)), Millis(900));
    }

    #[test]
    fn a_removed_task_is_never_woken() {
        let mut wheel = Wheel::new(Millis(0));
        let (key, woken) = task(&mut wheel);
        wheel.arm(key, Millis(500));
        wheel.remove(key);
        let (_other, other) = task(&mut wheel);
        wheel.advance(Millis(1_000));
        assert_eq!(woken.0.load(Ordering::Relaxed), 0);
        assert_eq!(
            other.0.load(Ordering::Relaxed),
            0,
            "the place is reused, not armed"
        );
    }
}
