//! The table of calls by number. No IO: [`Calls`](super::Calls) sends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use shaddock_core::Shards;
use tokio::sync::oneshot;

use super::answer::Answer;
use super::number::ByNumber;
use super::target::Target;
use crate::ServerId;

/// Calls of different threads rarely meet in one of so many locks.
const SHARDS: usize = 16;

/// A call is in one table from its start to its end, so that an answer always finds what it ends.
pub(super) enum Call {
    /// Its caller waits.
    Waiting {
        sender: oneshot::Sender<Answer>,
        /// Sent, or still in its target's queue.
        sent: bool,
        /// The called server. `None`: its answer does not show that it lives.
        target: Option<Arc<Target>>,
    },
    /// Its caller went away, but its server works on it: it still has its place there.
    Abandoned { target: Arc<Target>, until: Instant },
}

impl Call {
    fn target(&self) -> Option<&Arc<Target>> {
        match self {
            Self::Waiting { target, .. } => target.as_ref(),
            Self::Abandoned { target, .. } => Some(target),
        }
    }

    /// True for a call to this server.
    pub(super) fn is_to(&self, server: &ServerId) -> bool {
        self.target().is_some_and(|it| it.info.id == *server)
    }

    /// Whether its caller went away and its deadline has passed.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        matches!(self, Self::Abandoned { until, .. } if *until <= now)
    }
}

/// The calls that have not ended, in shards by number.
pub(super) struct CallTable {
    shards: Shards<ByNumber<Call>, SHARDS>,
    next: AtomicU64,
    waiting: AtomicUsize,
    /// Entries that are [`Call::Abandoned`].
    abandoned: AtomicUsize,
}

impl CallTable {
    pub(super) fn new() -> Self {
        Self {
            shards: Shards::default(),
            next: AtomicU64::new(1),
            waiting: AtomicUsize::new(0),
            abandoned: AtomicUsize::new(0),
        }
    }

    /// The number of the next call.
    pub(super) fn next_number(&self) -> u64 {
        self.next.load(Ordering::Acquire)
    }

    /// How many callers wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Whether there are calls without a caller.
    pub(super) fn has_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Relaxed) > 0
    }

    /// Enters a call whose caller waits. Returns its number.
    pub(super) fn insert(
        &self,
        sender: oneshot::Sender<Answer>,
        sent: bool,
        target: Option<Arc<Target>>,
    ) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let call = Call::Waiting {
            sender,
            sent,
            target,
        };
        self.shards.lock(number).insert(number, call);
        self.waiting.fetch_add(1, Ordering::Relaxed);
        number
    }

    /// Takes a call out.
    pub(super) fn remove(&self, number: u64) -> Option<Call> {
        let call = self.shards.lock(number).remove(&number)?;
        self.count_out(&call);
        Some(call)
    }

    /// Takes out all calls that match.
    pub(super) fn take_out(&self, matches: impl Fn(u64, &Call) -> bool) -> Vec<(u64, Call)> {
        let mut out = Vec::new();
        for mut shard in self.shards.each() {
            out.extend(shard.extract_if(|number, call| matches(*number, call)));
        }
        for (_, call) in &out {
            self.count_out(call);
        }
        out
    }

    /// Counts an entry that was taken out.
    fn count_out(&self, call: &Call) {
        let count = match call {
            Call::Waiting { .. } => &self.waiting,
            Call::Abandoned { .. } => &self.abandoned,
        };
        count.fetch_sub(1, Ordering::Relaxed);
    }

    /// The server with this id, if calls are on their way to it.
    pub(super) fn target_of(&self, server: &ServerId) -> Option<Arc<Target>> {
        self.shards.each().find_map(|shard| {
            let mut targets = shard.values().filter_map(Call::target);
            targets.find(|target| target.info.id == *server).cloned()
        })
    }

    /// A queued call is being sent. False if its caller went away.
    pub(super) fn mark_sent(&self, number: u64) -> bool {
        self.set_sent(number, true)
    }

    /// A call that was entered as sent could not be sent.
    pub(super) fn mark_unsent(&self, number: u64) {
        self.set_sent(number, false);
    }

    fn set_sent(&self, number: u64, is_sent: bool) -> bool {
        match self.shards.lock(number).get_mut(&number) {
            Some(Call::Waiting { sent, .. }) => {
                *sent = is_sent;
                true
            }
            _ => false,
        }
    }

    /// Whether a call was sent and its caller waits.
    pub(super) fn is_sent(&self, number: u64) -> bool {
        let shard = self.shards.lock(number);
        matches!(shard.get(&number), Some(Call::Waiting { sent: true, .. }))
    }

    /// The caller went away. If the call was sent and `served_by` names its server and its deadline, the server works on it: it stays as
    /// abandoned, and the result is true. One step, so that its answer finds either the caller or this.
    pub(super) fn caller_left(
        &self,
        number: u64,
        served_by: impl FnOnce() -> Option<(Arc<Target>, Instant)>,
    ) -> bool {
        let mut shard = self.shards.lock(number);
        let Some(call) = shard.get_mut(&number) else {
            return false;
        };
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        if matches!(call, Call::Waiting { sent: true, .. })
            && let Some((target, until)) = served_by()
        {
            *call = Call::Abandoned { target, until };
            self.abandoned.fetch_add(1, Ordering::Relaxed);
            return true;
        }
        shard.remove(&number);
        false
    }
}
