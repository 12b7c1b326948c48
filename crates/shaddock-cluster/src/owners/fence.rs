//! Whether a frontend may act for its users now.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

/// A moment on this machine's clock, in nanoseconds. The clock counts the time in which the machine was suspended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(pub(crate) u64);

impl Moment {
    pub(crate) fn after(self, time: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)),
        )
    }

    /// How long it is until then; zero if that has passed.
    pub(crate) const fn until(self, then: Self) -> Duration {
        Duration::from_nanos(then.0.saturating_sub(self.0))
    }
}

/// The clock of this machine may be slower than etcd's by one part in so many: a lease counts that much less here.
const DRIFT: u32 = 50;

/// How long a lease counts here, from the moment before etcd was asked to keep it.
pub(crate) fn counts_for(ttl: Duration) -> Duration {
    ttl.saturating_sub(ttl / DRIFT)
}

/// Closed while a frontend cannot be sure that it still owns its users.
///
/// It is open only for the lease under which all claims were read, and only as long as etcd certainly has that lease. The time is asked at
/// each use, so it closes without anything that would have to run.
#[derive(Debug, Default)]
pub(crate) struct Fence {
    /// Open before this moment.
    open_until: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    lease: i64,
    until: Moment,
    /// The lease under which the claims were last read, 0 for none.
    sure_of: i64,
    /// Grows with each reason to read the claims again.
    suspicions: u64,
}

/// The state when the claims began to be read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticket {
    lease: i64,
    suspicions: u64,
}

impl Fence {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    fn publish(&self, state: &State) {
        let sure = state.sure_of != 0 && state.sure_of == state.lease;
        let until = if sure { state.until.0 } else { 0 };
        self.open_until.store(until, Ordering::Release);
    }

    /// etcd has this lease; it was asked at that moment.
    pub(crate) fn confirmed(&self, lease: i64, asked: Moment, ttl: Duration) {
        let mut state = self.state();
        (state.lease, state.until) = (lease, asked.after(counts_for(ttl)));
        self.publish(&state);
    }

    /// The lease has ended at etcd, and all claims with it.
    pub(crate) fn lease_lost(&self) {
        let mut state = self.state();
        state.lease = 0;
        state.sure_of = 0;
        state.suspicions += 1;
        self.publish(&state);
    }

    /// Something may have been missed: closed until the claims were read again.
    pub(crate) fn suspect(&self) {
        let mut state = self.state();
        state.sure_of = 0;
        state.suspicions += 1;
        self.publish(&state);
    }

    /// Before the claims are read.
    pub(crate) fn begin(&self) -> Ticket {
        let state = self.state();
        Ticket {
            lease: state.lease,
            suspicions: state.suspicions,
        }
    }

    /// All claims were read, and are this frontend's own under the ticket's lease. Opens the fence, unless the link or the lease was lost since.
    pub(crate) fn settle(&self, ticket: Ticket, now: Moment) -> bool {
        let mut state = self.state();
        let holds = state.lease == ticket.lease
            && state.suspicions == ticket.suspicions
            && ticket.lease != 0;
        if holds {
            state.sure_of = ticket.lease;
            self.publish(&state);
        }
        holds && now < state.until
    }

    /// Whether the frontend may act for its users at this moment.
    pub(crate) fn is_open(&self, now: Moment) -> bool {
        now.0 < self.open_until.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(50);

    fn at(seconds: u64) -> Moment {
        Moment::default().after(Duration::from_secs(seconds))
    }

    #[test]
    fn it_closes_by_time_alone() {
        let fence = Fence::default();
        assert!(!fence.is_open(at(0)));
        fence.confirmed(7, at(1), TTL);
        assert!(!fence.is_open(at(1)), "the claims were not read");
        assert!(fence.settle(fence.begin(), at(1)));
        assert!(fence.is_open(at(49)));
        assert!(
            !fence.is_open(at(50)),
            "a second before the lease ends at etcd"
        );
        // The same lease, so nothing can have been taken.
        fence.confirmed(7, at(60), TTL);
        assert!(fence.is_open(at(61)));
    }

    #[test]
    fn a_new_lease_opens_nothing_before_the_claims_were_read() {
        let fence = Fence::default();
        fence.confirmed(7, at(0), TTL);
        assert!(fence.settle(fence.begin(), at(0)));
        let early = fence.begin();
        fence.confirmed(8, at(100), TTL);
        assert!(!fence.is_open(at(100)));
        assert!(!fence.settle(early, at(100)), "read under the old lease");
        let ticket = fence.begin();
        fence.suspect();
        assert!(!fence.settle(ticket, at(100)), "doubted meanwhile");
        assert!(fence.settle(fence.begin(), at(100)));
        fence.lease_lost();
        assert!(!fence.is_open(at(100)));
        assert!(!fence.settle(fence.begin(), at(100)), "there is no lease");
    }
}
