//! The application's listeners of session events, and the events that wait for them.

use std::{
    collections::VecDeque,
    sync::{Arc, MutexGuard},
};

use hashbrown::HashMap;
use shaddock_core::{Shards, Sid, Uid};

use super::{EventKind, SessionEvent};
use crate::{app::AppHandle, boxed::BoxFuture};

/// A listener of the application.
pub(crate) type EventHook = Arc<dyn Fn(AppHandle, SessionEvent) -> BoxFuture<()> + Send + Sync>;

/// The application's listeners, and the events that wait for them.
#[derive(Default)]
pub(crate) struct EventHooks {
    bound: Vec<EventHook>,
    unbound: Vec<EventHook>,
    suspended: Vec<EventHook>,
    resumed: Vec<EventHook>,
    closed: Vec<EventHook>,
    waiting: Shards<HashMap<Sid, VecDeque<SessionEvent>>, SHARDS>,
}

const SHARDS: usize = 16;

impl EventHooks {
    pub(crate) fn add(&mut self, kind: EventKind, hook: EventHook) {
        match kind {
            EventKind::Bound => self.bound.push(hook),
            EventKind::Unbound => self.unbound.push(hook),
            EventKind::Suspended => self.suspended.push(hook),
            EventKind::Resumed => self.resumed.push(hook),
            EventKind::Closed => self.closed.push(hook),
        }
    }

    pub(super) fn of(&self, kind: EventKind) -> &[EventHook] {
        match kind {
            EventKind::Bound => &self.bound,
            EventKind::Unbound => &self.unbound,
            EventKind::Suspended => &self.suspended,
            EventKind::Resumed => &self.resumed,
            EventKind::Closed => &self.closed,
        }
    }

    /// Whether events of this kind are kept. `bound` and `unbound` go together, and so do `suspended` and `resumed`: see [`put`].
    pub(super) fn wants(&self, kind: EventKind) -> bool {
        match kind {
            EventKind::Bound | EventKind::Unbound => {
                !self.bound.is_empty() || !self.unbound.is_empty()
            }
            EventKind::Suspended | EventKind::Resumed => {
                !self.suspended.is_empty() || !self.resumed.is_empty()
            }
            EventKind::Closed => !self.closed.is_empty(),
        }
    }

    pub(super) fn shard(&self, sid: Sid) -> MutexGuard<'_, HashMap<Sid, VecDeque<SessionEvent>>> {
        self.waiting.of(sid)
    }
}

/// The event and its session.
pub(super) trait About {
    fn about(&self) -> (EventKind, Option<&Uid>);
}

impl About for SessionEvent {
    fn about(&self) -> (EventKind, Option<&Uid>) {
        (self.kind, self.uid())
    }
}

/// Adds an event to those that wait. Returns how many are lost.
///
/// How many wait says how busy we are, not what the client did, so nothing is held against it, and what listeners hear stays true: above the
/// bound, a user who was bound and is unbound again while the listeners are behind is not told of, nor is a connection that was lost and came
/// back. Who is bound in the end, and whether the session is suspended, is.
pub(super) fn put<E: About>(queue: &mut VecDeque<E>, event: E, bound: usize) -> u64 {
    let is_closing = event.about().0 == EventKind::Closed;
    queue.push_back(event);
    if queue.len() <= bound || is_closing {
        return 0;
    }
    if let Some((begin, end)) = last_pair(queue) {
        queue.remove(end);
        queue.remove(begin);
        return 2;
    }
    // Without a pair, at most an end and a beginning of each kind wait. If there is more, something has told a user's coming twice.
    if queue.len() > bound + ALONE {
        queue.pop_back();
        return 1;
    }
    0
}

/// Events that may wait above the bound, because the other half of their pair was told already or is still to come.
const ALONE: usize = 4;

/// The last event that took back what an earlier one said, and that one: what happened between is as true without them.
fn last_pair<E: About>(queue: &VecDeque<E>) -> Option<(usize, usize)> {
    (0..queue.len()).rev().find_map(|end| {
        let (kind, went) = queue[end].about();
        let begins = match kind {
            EventKind::Unbound => EventKind::Bound,
            EventKind::Resumed => EventKind::Suspended,
            _ => return None,
        };
        let same = |event: &E| [begins, kind].contains(&event.about().0);
        let begin = queue.iter().take(end).rposition(same)?;
        let (found, came) = queue[begin].about();
        let is_same_user = kind == EventKind::Resumed || came == went;
        (found == begins && is_same_user).then_some((begin, end))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    type Event = (EventKind, Option<Uid>);

    impl About for Event {
        fn about(&self) -> (EventKind, Option<&Uid>) {
            (self.0, self.1.as_ref())
        }
    }

    /// What a listener has heard: who is bound, and whether the session is suspended. It must make sense at every step.
    #[derive(Debug, Default, PartialEq)]
    struct Story {
        bound: Option<Uid>,
        is_suspended: bool,
    }

    impl Story {
        fn hear(&mut self, (kind, uid): &Event) {
            match kind {
                EventKind::Bound => {
                    assert_eq!(self.bound, None, "bound twice");
                    self.bound.clone_from(uid);
                }
                EventKind::Unbound => {
                    assert_eq!(self.bound, *uid, "another user was unbound");
                    self.bound = None;
                }
                EventKind::Suspended => assert!(!std::mem::replace(&mut self.is_suspended, true)),
                EventKind::Resumed => assert!(std::mem::take(&mut self.is_suspended)),
                EventKind::Closed => assert_eq!(self.bound, *uid, "closed with another user"),
            }
        }

        /// What may happen next: `n` chooses.
        fn next(&self, n: u64) -> Event {
            let user = |n: u64| Uid::new(format!("user-{n}")).ok();
            match (n % 2, &self.bound) {
                (0, None) => (EventKind::Bound, user(n / 2 % 3)),
                (0, Some(uid)) => (EventKind::Unbound, Some(uid.clone())),
                _ if self.is_suspended => (EventKind::Resumed, self.bound.clone()),
                _ => (EventKind::Suspended, self.bound.clone()),
            }
        }
    }

    #[test]
    fn listeners_that_are_behind_receive_consistent_events() {
        // A small generator of our own: the seed is the case.
        for seed in 0..4000_u64 {
            let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
            let mut next = |below: u64| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random % below
            };
            let limit = 1 + usize::try_from(next(8)).unwrap();
            let (mut queue, mut truth, mut heard) =
                (VecDeque::new(), Story::default(), Story::default());
            let (mut told, mut lost) = (0, 0);
            let steps = 1 + next(60);
            for _ in 0..steps {
                let event = truth.next(next(6));
                truth.hear(&event);
                lost += put(&mut queue, event, limit);
                assert!(queue.len() <= limit + ALONE, "seed {seed}: {queue:?}");
                if next(4) == 0 {
                    told += queue
                        .pop_front()
                        .iter()
                        .inspect(|event| heard.hear(event))
                        .count();
                }
            }
            let closed = (EventKind::Closed, truth.bound.clone());
            lost += put(&mut queue, closed, limit);
            told += queue.iter().inspect(|event| heard.hear(event)).count();
            assert_eq!(heard, truth, "seed {seed}");
            assert_eq!(told as u64 + lost, steps + 1, "seed {seed}");
        }
    }
}
