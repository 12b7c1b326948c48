//! The users bound at one frontend: their sessions, the binds that run, and the claims.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Hold, Number, Seats};
use crate::{RawSid, Unique};

/// Who is bound here. `X` is what the carrier of the messages keeps for each user.
#[derive(Debug)]
pub(crate) struct Table<X> {
    users: HashMap<Arc<str>, User<X>>,
    /// Counts seats.
    seats: u64,
}

#[derive(Debug, Default)]
struct User<X> {
    seats: Seats,
    claim: Option<Number>,
    /// Binds that wait or run. The record stays while there is one.
    binding: usize,
    extra: X,
}

/// A question about a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asks {
    /// Whether the owner has sessions of the user; otherwise it is to give the user up.
    pub(crate) only_whether: bool,
    /// The revision of the claim, and the lease that it hangs on. 0 from frontends that do not say.
    pub(crate) revision: i64,
    pub(crate) lease: i64,
}

/// What a frontend does when another one wants a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// So many sessions are here, and stay.
    Keep(usize),
    /// There is no session.
    Free,
    /// All sessions of the user are closed, and then the other one may have the user.
    Lose,
    /// Nothing: the claim that was asked about is no more.
    Outdated,
    /// It says nothing: the claim is another life's of this server, which answers for itself.
    Other,
}

impl<X> Default for Table<X> {
    fn default() -> Self {
        Self {
            users: HashMap::new(),
            seats: 0,
        }
    }
}

impl<X: Default> Table<X> {
    /// Enters a session of a user; it counts from now on, also while its bind waits for its turn. `None` if the user has another session, and
    /// new ones are rejected.
    pub(crate) fn begin(
        &mut self,
        uid: &Arc<str>,
        sid: RawSid,
        unique: Unique,
    ) -> Option<(Hold, &mut X)> {
        let has_other = |user: &User<X>| user.seats.has_other_than(sid);
        if unique == Unique::RejectNew && self.users.get(uid).is_some_and(has_other) {
            return None;
        }
        self.seats += 1;
        let user = self.users.entry(Arc::clone(uid)).or_default();
        user.binding += 1;
        Some((user.seats.hold(sid, self.seats), &mut user.extra))
    }
}

impl<X> Table<X> {
    /// The bind has ended: the session belongs to the user until it is unbound, if it does at this moment. Returns false if its seat was
    /// removed meanwhile; and an unneeded claim.
    pub(crate) fn keep(
        &mut self,
        uid: &str,
        hold: &Hold,
        is_bound: bool,
    ) -> (bool, Option<Number>) {
        let Some(user) = self.users.get_mut(uid) else {
            return (false, None);
        };
        user.binding = user.binding.saturating_sub(1);
        let kept = user.seats.keep(hold, is_bound);
        (kept, self.clean(uid))
    }

    /// The bind was abandoned: reverts its changes, and nothing else. Returns an unneeded claim.
    pub(crate) fn undo(&mut self, uid: &str, hold: &Hold) -> Option<Number> {
        let user = self.users.get_mut(uid)?;
        user.binding = user.binding.saturating_sub(1);
        user.seats.undo(hold);
        self.clean(uid)
    }

    /// The session is unbound or closed. Returns an unneeded claim.
    pub(crate) fn unbind(&mut self, uid: &str, sid: RawSid) -> Option<Number> {
        self.users.get_mut(uid)?.seats.unbind(sid);
        self.clean(uid)
    }

    /// Takes all sessions of a user away: another frontend owns the user. The key at etcd is the new owner's to write. False if there was none.
    pub(crate) fn lose(&mut self, uid: &str) -> bool {
        let Some(user) = self.users.get_mut(uid) else {
            return false;
        };
        let had = !user.seats.is_empty();
        // A bind that is running finds its seat gone.
        user.seats.clear();
        user.claim = None;
        if user.binding == 0 {
            self.users.remove(uid);
        }
        had
    }

    /// Forgets a user without sessions and binds.
    fn clean(&mut self, uid: &str) -> Option<Number> {
        let user = self.users.get(uid)?;
        if !user.seats.is_empty() || user.binding > 0 {
            return None;
        }
        self.users.remove(uid)?.claim
    }

    /// The claim on a user was written. False if the user has gone meanwhile: then it is to be given up.
    pub(crate) fn claimed(&mut self, uid: &str, number: Number) -> bool {
        let Some(user) = self.users.get_mut(uid) else {
            return false;
        };
        // Of two writes the later one counts, whichever answer comes first.
        user.claim = Some(number.max(user.claim.unwrap_or_default()));
        true
    }

    /// A claim of this frontend was found at etcd with this number: it is the user's, if there is one. False if not.
    pub(crate) fn renumber(&mut self, uid: &str, number: Number) -> bool {
        let Some(user) = self.users.get_mut(uid) else {
            return false;
        };
        // A bind that runs without a claim writes its own.
        if let Some(claim) = &mut user.claim {
            *claim = number.max(*claim);
        }
        true
    }

    /// The number of the claim on a user.
    pub(crate) fn claim(&self, uid: &str) -> Option<Number> {
        self.users.get(uid)?.claim
    }

    /// All claims.
    pub(crate) fn claims(&self) -> impl Iterator<Item = (&Arc<str>, Number)> {
        self.users
            .iter()
            .filter_map(|(uid, user)| Some((uid, user.claim?)))
    }

    /// The sessions of a user.
    pub(crate) fn sessions(&self, uid: &str) -> usize {
        self.users.get(uid).map_or(0, |user| user.seats.len())
    }

    /// Whether what a bind has added is still there.
    pub(crate) fn holds(&self, uid: &str, hold: &Hold) -> bool {
        let user = self.users.get(uid);
        user.is_some_and(|user| user.seats.holds(hold))
    }

    /// Another frontend wants a user of this one, whose lease is `own`.
    pub(crate) fn asked(&self, uid: &str, asks: &Asks, own: i64) -> Asked {
        if asks.lease != 0 && asks.lease != own {
            return Asked::Other;
        }
        let sessions = self.sessions(uid);
        if asks.only_whether && sessions > 0 {
            return Asked::Keep(sessions);
        }
        let newer = |claim: Number| asks.revision != 0 && claim.revision > asks.revision;
        if self.claim(uid).is_some_and(newer) {
            // The question is older than the claim, which was made with its asker in mind.
            return Asked::Outdated;
        }
        if asks.only_whether {
            Asked::Free
        } else {
            Asked::Lose
        }
    }

    /// Whether a bind of the user runs or waits.
    pub(crate) fn is_binding(&self, uid: &str) -> bool {
        self.users.get(uid).is_some_and(|user| user.binding > 0)
    }

    pub(crate) fn is_bound(&self, uid: &str, sid: RawSid) -> bool {
        let user = self.users.get(uid);
        user.is_some_and(|user| user.seats.has(sid))
    }

    /// All sessions of users.
    pub(crate) fn sids(&self) -> impl Iterator<Item = RawSid> {
        self.users.values().flat_map(|user| user.seats.sids())
    }

    pub(crate) fn uids(&self) -> impl Iterator<Item = &Arc<str>> {
        self.users.keys()
    }

    pub(crate) fn len(&self) -> usize {
        self.users.len()
    }

    pub(crate) fn clear(&mut self) {
        self.users.clear();
    }

    pub(crate) fn extra(&self, uid: &str) -> Option<&X> {
        Some(&self.users.get(uid)?.extra)
    }

    pub(crate) fn extra_mut(&mut self, uid: &str) -> Option<&mut X> {
        Some(&mut self.users.get_mut(uid)?.extra)
    }

    pub(crate) fn extras(&self) -> impl Iterator<Item = &X> {
        self.users.values().map(|user| &user.extra)
    }

    pub(crate) fn extras_mut(&mut self) -> impl Iterator<Item = &mut X> {
        self.users.values_mut().map(|user| &mut user.extra)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sid(n: u64) -> RawSid {
        RawSid::new(n).unwrap()
    }

    fn begin(table: &mut Table<()>, uid: &Arc<str>, n: u64) -> Hold {
        table.begin(uid, sid(n), Unique::ReplaceOld).unwrap().0
    }

    const ONE: Number = Number {
        era: 1,
        revision: 1,
    };

    /// Every order in which two binds of one session can end, and its unbind.
    #[test]
    fn a_bind_that_is_dropped_takes_away_what_it_has_added() {
        let uid: Arc<str> = "u".into();
        for first_is_kept in [false, true] {
            for second_is_kept in [false, true] {
                for second_ends_first in [false, true] {
                    let mut table = Table::<()>::default();
                    let mut holds = vec![
                        (begin(&mut table, &uid, 1), first_is_kept),
                        (begin(&mut table, &uid, 1), second_is_kept),
                    ];
                    assert!(table.claimed("u", ONE));
                    if second_ends_first {
                        holds.reverse();
                    }
                    let mut kept = false;
                    for (n, (hold, keep)) in holds.into_iter().enumerate() {
                        kept |= keep;
                        let freed = if keep {
                            assert_eq!(table.keep("u", &hold, true), (true, None));
                            None
                        } else {
                            table.undo("u", &hold)
                        };
                        let over = n == 1 && !kept;
                        assert_eq!(freed, over.then_some(ONE));
                        assert_eq!(table.is_bound("u", sid(1)), !over);
                    }
                    if kept {
                        assert_eq!(table.unbind("u", sid(1)), Some(ONE));
                    }
                    assert_eq!(table.len(), 0);
                }
            }
        }
    }

    #[test]
    fn a_hold_from_before_a_loss_takes_nothing_from_the_bind_after_it() {
        let uid: Arc<str> = "u".into();
        let mut table = Table::<()>::default();
        let before = begin(&mut table, &uid, 1);
        assert!(table.lose("u"));
        let after = begin(&mut table, &uid, 1);
        assert_eq!(table.undo("u", &before), None);
        assert_eq!(table.keep("u", &after, true), (true, None));
        assert!(table.is_bound("u", sid(1)));
        // Nor does it keep what is not its own.
        let late = begin(&mut table, &uid, 2);
        assert!(table.lose("u"));
        assert_eq!(table.keep("u", &late, true), (false, None));
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn a_close_during_a_bind_leaves_the_seat_to_the_bind() {
        let uid: Arc<str> = "u".into();
        let mut table = Table::<()>::default();
        let hold = begin(&mut table, &uid, 1);
        assert_eq!(table.unbind("u", sid(1)), None);
        assert!(table.claimed("u", ONE));
        assert_eq!(table.undo("u", &hold), Some(ONE));
        assert!(!table.claimed("u", ONE), "nobody is left to have it");

        // The session was bound and closed before its bind was kept.
        let hold = begin(&mut table, &uid, 1);
        assert!(table.claimed("u", ONE));
        assert_eq!(table.unbind("u", sid(1)), None);
        assert_eq!(table.keep("u", &hold, false), (true, Some(ONE)));
        assert_eq!(table.len(), 0);
    }
}
