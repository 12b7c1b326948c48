//! Recent events of sessions, for operators who ask why a client was disconnected.
//!
//! A frontend notes each bind, unbind, loss of a connection, return and close, and nothing per message: an event takes one short lock of one
//! of 16 lists. Each list keeps a sixteenth of [`AppConfig::kept_events`](crate::app::AppConfig::kept_events) and forgets the oldest.

use std::{collections::VecDeque, fmt, net::SocketAddr, sync::Arc, time::SystemTime};

use shaddock_core::{CloseReason, Session, Shards, Sid, Uid};

use crate::session::EventKind;

/// Lists. The events of one session are all in one of them, in their order.
const SHARDS: usize = 16;

/// One thing that happened to a session.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// Milliseconds since 1970.
    pub(crate) time_ms: u64,
    pub(crate) sid: Sid,
    pub(crate) kind: EventKind,
    /// The user at that time, or the one who was unbound.
    pub(crate) uid: Option<Uid>,
    pub(crate) address: Option<SocketAddr>,
    /// Milliseconds since the handshake.
    pub(crate) age_ms: u64,
    /// Only of a close.
    pub(crate) reason: Option<CloseReason>,
}

impl Entry {
    pub(crate) fn of(
        session: &Arc<Session>,
        kind: EventKind,
        uid: Option<Uid>,
        reason: Option<CloseReason>,
    ) -> Self {
        let age = shaddock_net::now()
            .0
            .saturating_sub(session.client().connected_at.0);
        Self {
            time_ms: unix_ms(),
            sid: session.id(),
            kind,
            uid,
            address: session.client().address,
            age_ms: age,
            reason,
        }
    }
}

/// Milliseconds since 1970, by the clock of the machine.
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

#[derive(Debug, Default)]
struct Kept {
    entries: VecDeque<Entry>,
    /// Some were forgotten before the first of these.
    has_forgotten: bool,
}

/// The last events of a frontend's sessions.
pub(crate) struct History {
    shards: Shards<Kept, SHARDS>,
    /// Of each shard.
    most: usize,
}

impl History {
    /// Keeps about so many; 0: none.
    pub(crate) fn new(events: usize) -> Self {
        Self {
            shards: Shards::default(),
            most: events.div_ceil(SHARDS),
        }
    }

    /// Notes an event. `entry` is not made if nothing is kept.
    pub(crate) fn note(&self, sid: Sid, entry: impl FnOnce() -> Entry) {
        if self.most == 0 {
            return;
        }
        let entry = entry();
        let mut kept = self.shards.of(sid);
        let oldest = if kept.entries.len() >= self.most {
            kept.has_forgotten = true;
            kept.entries.pop_front()
        } else {
            None
        };
        kept.entries.push_back(entry);
        drop(kept);
        drop(oldest);
    }

    /// The newest `limit` entries that are wanted, newest first, and the time since which none is missing; `None`: none was forgotten.
    pub(crate) fn find(
        &self,
        sid: Option<Sid>,
        limit: usize,
        is_wanted: impl Fn(&Entry) -> bool,
    ) -> (Vec<Entry>, Option<u64>) {
        let (mut found, mut since) = (Vec::new(), None);
        let mut look = |kept: &Kept| {
            if kept.has_forgotten {
                since = since.max(kept.entries.front().map(|first| first.time_ms));
            }
            let wanted = kept.entries.iter().rev();
            let wanted = wanted.filter(|one| sid.is_none_or(|sid| one.sid == sid));
            found.extend(wanted.filter(|one| is_wanted(one)).take(limit).cloned());
        };
        match sid {
            Some(sid) => look(&self.shards.of(sid)),
            None => self.shards.each().for_each(|kept| look(&kept)),
        }
        // Stable: events of one session stay in their order also within a millisecond.
        found.sort_by_key(|entry| std::cmp::Reverse(entry.time_ms));
        found.truncate(limit);
        (found, since)
    }
}

impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("History")
            .field("most", &self.most)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(sid: u64, time_ms: u64) -> Entry {
        Entry {
            time_ms,
            sid: Sid::new(sid).unwrap(),
            kind: EventKind::Closed,
            uid: None,
            address: None,
            age_ms: 0,
            reason: Some(CloseReason::Idle),
        }
    }

    fn note(history: &History, sid: u64, time_ms: u64) {
        history.note(Sid::new(sid).unwrap(), || entry(sid, time_ms));
    }

    fn times(found: &[Entry]) -> Vec<u64> {
        found.iter().map(|entry| entry.time_ms).collect()
    }

    /// Sids of one frontend: the lowest 16 bits are the node's.
    const fn sid(n: u64) -> u64 {
        n << 16 | 7
    }

    #[test]
    fn the_newest_come_first_and_the_oldest_go() {
        let history = History::new(SHARDS * 2);
        // One session of three events, in the same shard as another one: that shard keeps two.
        for time in 1..=3 {
            note(&history, sid(1), time);
        }
        note(&history, sid(2), 2);
        let (all, since) = history.find(None, 10, |_| true);
        assert_eq!(times(&all), [3, 2, 2]);
        assert_eq!(since, Some(2), "before it something is missing");
        let (of_one, since) = history.find(Sid::new(sid(1)), 10, |_| true);
        assert_eq!((times(&of_one), since), (vec![3, 2], Some(2)));
        let (of_other, since) = history.find(Sid::new(sid(2)), 10, |_| true);
        assert_eq!((times(&of_other), since), (vec![2], None));
        assert_eq!(times(&history.find(None, 1, |_| true).0), [3]);
        assert!(history.find(None, 10, |_| false).0.is_empty());
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let history = History::new(100);
        for n in 0..10_000 {
            note(&history, sid(n), n);
        }
        let (all, _) = history.find(None, usize::MAX, |_| true);
        assert_eq!(all.len(), 100_usize.div_ceil(SHARDS) * SHARDS);
        let none = History::new(0);
        none.note(Sid::new(1).unwrap(), || unreachable!("nothing is kept"));
        assert!(none.find(None, 10, |_| true).0.is_empty());
    }
}
