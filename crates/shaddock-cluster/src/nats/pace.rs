//! Which handlers may begin where requests are read, and which get a task of their own first.
//!
//! A handler that is done at once costs least when the task that reads requests polls it itself. One that blocks its thread there would stop
//! everything that comes after it. So a route has to show that it is quick, in tasks of its own, before it may begin where requests are read; and one
//! that was not quick there goes back to tasks, for four times as many requests each time.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use hashbrown::HashMap;

/// Quick requests that a new route has to show.
const TRIALS: i32 = 8;
/// A beginning that takes no longer is quick.
const QUICK: Duration = Duration::from_micros(500);
/// One that takes longer than this was not only interrupted by others: it blocks.
const BLOCKS: Duration = Duration::from_millis(10);
/// The credit that a start between the two limits takes away.
const SLOW: i32 = 16;
/// Requests that a route which has blocked has to show the first time, and at most.
const PENALTY: i32 = 1000;
const MOST: i32 = 1 << 24;
/// Credit above this is not counted.
const ENOUGH: i32 = 64;
/// Routes that are known. All others begin in tasks of their own.
const ROUTES: usize = 4096;

/// The measured times of the routes of this server.
#[derive(Default)]
pub(super) struct Paces(ArcSwap<HashMap<Arc<str>, Arc<Pace>>>);

/// How quick the handler of a route is.
#[derive(Debug)]
pub(super) struct Pace {
    credit: AtomicI32,
    penalty: AtomicI32,
}

impl Paces {
    /// The state of a route: true if it may start where requests are read. `None`: it has never run.
    pub(super) fn find(&self, route: &str) -> Option<Arc<Pace>> {
        self.0.load().get(route).cloned()
    }

    /// A route that has never run has begun, and took so long.
    pub(super) fn learn(&self, route: &Arc<str>, took: Duration) {
        let known = self.0.load();
        if let Some(pace) = known.get(route) {
            pace.took(took);
        } else if known.len() < ROUTES {
            let pace = Arc::new(Pace::new());
            pace.took(took);
            self.0.rcu(|routes| {
                let mut routes = HashMap::clone(routes);
                routes
                    .entry(Arc::clone(route))
                    .or_insert_with(|| Arc::clone(&pace));
                routes
            });
        }
    }
}

impl Pace {
    const fn new() -> Self {
        Self {
            credit: AtomicI32::new(-TRIALS),
            penalty: AtomicI32::new(PENALTY),
        }
    }

    /// True if it may start where requests are read.
    pub(super) fn is_quick(&self) -> bool {
        self.credit.load(Ordering::Relaxed) >= 0
    }

    /// It has begun, and took so long until it was done or had to wait.
    pub(super) fn took(&self, time: Duration) {
        let credit = self.credit.load(Ordering::Relaxed);
        let next = if time <= QUICK {
            (credit + 1).min(ENOUGH)
        } else if time < BLOCKS {
            (credit - SLOW).max(-MOST)
        } else {
            let penalty = self.penalty.load(Ordering::Relaxed);
            let more = penalty.saturating_mul(4).min(MOST);
            self.penalty.store(more, Ordering::Relaxed);
            credit.min(-penalty)
        };
        // Two at once may count as one, which does no harm.
        if next != credit {
            self.credit.store(next, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quick_ones(pace: &Pace) -> usize {
        for n in 1..100_000 {
            pace.took(Duration::from_micros(20));
            if pace.is_quick() {
                return n;
            }
        }
        panic!("never again");
    }

    #[test]
    fn a_route_shows_that_it_is_quick_and_then_that_it_still_is() {
        let pace = Pace::new();
        assert!(!pace.is_quick());
        assert_eq!(quick_ones(&pace), 8);
        for penalty in [1000, 4000, 16_000] {
            pace.took(Duration::from_millis(50));
            assert!(!pace.is_quick());
            assert_eq!(quick_ones(&pace), penalty);
        }
        // Interrupted now and then by others of the machine.
        for n in 0..1000 {
            let millis = if n % 100 == 99 { 4 } else { 0 };
            pace.took(Duration::from_millis(millis));
        }
        assert!(pace.is_quick());
        // Always slow.
        for _ in 0..10 {
            pace.took(Duration::from_millis(4));
        }
        assert!(!pace.is_quick());
    }

    #[test]
    fn routes_are_bounded() {
        let paces = Paces::default();
        for n in 0..ROUTES + 10 {
            paces.learn(&n.to_string().into(), Duration::ZERO);
        }
        assert_eq!(paces.0.load().len(), ROUTES);
        assert!(paces.find("0").is_some() && paces.find("4099").is_none());
    }
}
