//! The users bound at one frontend: their sessions, the binds that run, and the claims.

use std::sync::Arc;

use hashbrown::HashMap;

use super::{Hold, Number, Seats};
use crate::{Conflict, RawSid, SessionsPerUser};

/// The users who are bound here. `X` is data that the transport keeps for some users.
#[derive(Debug)]
pub(crate) struct Table<X> {
    users: HashMap<Arc<str>, User<X>>,
    /// Counts seats.
    seats: u32,
}

/// Data that the transport keeps for a user.
pub(crate) trait Extra: Default {
    /// No bind of the user runs any more. Returns whether the data is still needed.
    fn binds_ended(&mut self) -> bool;
}

/// A frontend has many users: data that most of them do not need is boxed.
#[derive(Debug)]
struct User<X> {
    seats: Seats,
    claim: Written,
    rare: Option<Box<Rare<X>>>,
}

/// Present while a bind of the user runs, and while the transport keeps data.
#[derive(Debug, Default)]
struct Rare<X> {
    /// Binds that wait or run. The record of the user stays while there is one.
    binding: usize,
    extra: X,
}

/// The number of a claim, if it is written. As large as the number alone: revisions are not negative.
#[derive(Clone, Copy, Debug)]
struct Written(Number);

impl Written {
    const NOT: Self = Self(Number {
        era: 0,
        revision: i64::MIN,
    });

    fn number(self) -> Option<Number> {
        (self.0.revision != i64::MIN).then_some(self.0)
    }
}

impl<X> Default for User<X> {
    fn default() -> Self {
        Self {
            seats: Seats::default(),
            claim: Written::NOT,
            rare: None,
        }
    }
}

impl<X> User<X> {
    fn is_binding(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.binding > 0)
    }
}

impl<X: Extra> User<X> {
    fn bind_ended(&mut self) {
        let Some(rare) = &mut self.rare else { return };
        rare.binding = rare.binding.saturating_sub(1);
        if rare.binding == 0 && !rare.extra.binds_ended() {
            self.rare = None;
        }
    }
}

/// A question about a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClaimQuery {
    /// Whether the owner has sessions of the user; otherwise it is to give the user up.
    pub(crate) is_probe: bool,
    /// The revision of the claim, and the lease to which it is attached. 0 from frontends of older versions.
    pub(crate) revision: i64,
    pub(crate) lease: i64,
}

/// The answer of a frontend when another one claims a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClaimAnswer {
    /// The user keeps so many sessions here.
    Keep(usize),
    /// There is no session.
    Free,
    /// All sessions of the user are closed here, and then the other frontend owns the user.
    Revoke,
    /// The claim in the question does not exist any more.
    Outdated,
    /// No answer: the claim is that of another incarnation of this server, which answers for itself.
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

impl<X: Extra> Table<X> {
    /// Enters a session of a user; it counts from now on, also while its bind waits for its turn. `None` if the user has another session, and
    /// new ones are rejected.
    pub(crate) fn begin(
        &mut self,
        uid: &Arc<str>,
        sid: RawSid,
        unique: SessionsPerUser,
    ) -> Option<(Hold, &mut X)> {
        let has_other = |user: &User<X>| user.seats.has_other_than(sid);
        if unique == SessionsPerUser::One(Conflict::RejectNew)
            && self.users.get(uid).is_some_and(has_other)
        {
            return None;
        }
        // Two seats of one session that are four thousand million binds apart may have one number: no bind lasts that long.
        self.seats = self.seats.wrapping_add(1);
        let user = self.users.entry(Arc::clone(uid)).or_default();
        let rare = user.rare.get_or_insert_default();
        rare.binding += 1;
        Some((user.seats.hold(sid, self.seats), &mut rare.extra))
    }

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
        user.bind_ended();
        let kept = user.seats.keep(hold, is_bound);
        (kept, self.clean(uid))
    }

    /// The bind was abandoned: reverts its changes, and nothing else. Returns an unneeded claim.
    pub(crate) fn undo(&mut self, uid: &str, hold: &Hold) -> Option<Number> {
        let user = self.users.get_mut(uid)?;
        user.bind_ended();
        user.seats.undo(hold);
        self.clean(uid)
    }

    /// The data of a user who is bound or is being bound. Made if there is none yet.
    pub(crate) fn extra_mut(&mut self, uid: &str) -> Option<&mut X> {
        let user = self.users.get_mut(uid)?;
        Some(&mut user.rare.get_or_insert_default().extra)
    }
}

impl<X> Table<X> {
    /// The session is unbound or closed. Returns an unneeded claim.
    pub(crate) fn unbind(&mut self, uid: &str, sid: RawSid) -> Option<Number> {
        self.users.get_mut(uid)?.seats.unbind(sid);
        self.clean(uid)
    }

    /// Removes all sessions of a user: another frontend owns the user, and writes the key at etcd. False if there was no session.
    pub(crate) fn revoke(&mut self, uid: &str) -> bool {
        let Some(user) = self.users.get_mut(uid) else {
            return false;
        };
        let had = !user.seats.is_empty();
        // A bind that is running finds its seat gone.
        user.seats.clear();
        user.claim = Written::NOT;
        if !user.is_binding() {
            self.users.remove(uid);
        }
        had
    }

    /// Forgets a user without sessions and binds.
    fn clean(&mut self, uid: &str) -> Option<Number> {
        let user = self.users.get(uid)?;
        if !user.seats.is_empty() || user.is_binding() {
            return None;
        }
        self.users.remove(uid)?.claim.number()
    }

    /// The claim on a user was written. False if the user has gone meanwhile: then it is to be given up.
    pub(crate) fn claimed(&mut self, uid: &str, number: Number) -> bool {
        let Some(user) = self.users.get_mut(uid) else {
            return false;
        };
        // Of two writes the later one counts, whichever answer comes first.
        user.claim = Written(number.max(user.claim.0));
        true
    }

    /// A claim of this frontend was found at etcd with this number: it is the user's, if there is one. False if not.
    pub(crate) fn renumber(&mut self, uid: &str, number: Number) -> bool {
        let Some(user) = self.users.get_mut(uid) else {
            return false;
        };
        // A bind that runs without a claim writes its own.
        if let Some(claim) = user.claim.number() {
            user.claim = Written(number.max(claim));
        }
        true
    }

    /// The number of the claim on a user.
    pub(crate) fn claim(&self, uid: &str) -> Option<Number> {
        self.users.get(uid)?.claim.number()
    }

    /// All claims.
    pub(crate) fn claims(&self) -> impl Iterator<Item = (&Arc<str>, Number)> {
        self.users
            .iter()
            .filter_map(|(uid, user)| Some((uid, user.claim.number()?)))
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

    /// Another frontend asks for a user of this one, whose lease is `own`.
    pub(crate) fn asked(&self, uid: &str, query: &ClaimQuery, own: i64) -> ClaimAnswer {
        if query.lease != 0 && query.lease != own {
            return ClaimAnswer::Other;
        }
        let sessions = self.sessions(uid);
        if query.is_probe && sessions > 0 {
            return ClaimAnswer::Keep(sessions);
        }
        let newer = |claim: Number| query.revision != 0 && claim.revision > query.revision;
        if self.claim(uid).is_some_and(newer) {
            // The question is older than the claim, which was made with its asker in mind.
            return ClaimAnswer::Outdated;
        }
        if query.is_probe {
            ClaimAnswer::Free
        } else {
            ClaimAnswer::Revoke
        }
    }

    /// Whether a session is bound or is being bound to the user.
    pub(crate) fn knows(&self, uid: &str) -> bool {
        self.users.contains_key(uid)
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

    /// The value that is kept for a user, if there is one.
    pub(crate) fn extra(&self, uid: &str) -> Option<&X> {
        Some(&self.users.get(uid)?.rare.as_ref()?.extra)
    }

    pub(crate) fn extras(&self) -> impl Iterator<Item = &X> {
        let rare = self.users.values().filter_map(|user| user.rare.as_ref());
        rare.map(|rare| &rare.extra)
    }

    /// Changes what is kept for users; `false`: nothing is left to keep.
    pub(crate) fn retain_extras(&mut self, mut change: impl FnMut(&mut X) -> bool) {
        for user in self.users.values_mut() {
            if let Some(rare) = &mut user.rare {
                let stays = change(&mut rare.extra);
                if !stays && rare.binding == 0 {
                    user.rare = None;
                }
            }
        }
    }
}

#[cfg(test)]
impl Extra for () {
    fn binds_ended(&mut self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sid(n: u64) -> RawSid {
        RawSid::new(n).unwrap()
    }

    fn begin(table: &mut Table<()>, uid: &Arc<str>, n: u64) -> Hold {
        table
            .begin(uid, sid(n), SessionsPerUser::One(Conflict::ReplaceOld))
            .unwrap()
            .0
    }

    const ONE: Number = Number {
        era: 1,
        revision: 1,
    };

    #[test]
    fn a_user_takes_few_words() {
        assert_eq!(size_of::<User<[u64; 9]>>(), 40);
    }

    /// The last unbind removes the value that is kept for a user, unless the carrier needs it longer.
    #[test]
    fn what_a_bind_needs_goes_with_it() {
        #[derive(Default)]
        struct Kept(bool);
        impl Extra for Kept {
            fn binds_ended(&mut self) -> bool {
                self.0
            }
        }
        let uid: Arc<str> = "u".into();
        let mut table = Table::<Kept>::default();
        let begin =
            |table: &mut Table<Kept>, n| table.begin(&uid, sid(n), SessionsPerUser::Any).unwrap().0;
        let (first, second) = (begin(&mut table, 1), begin(&mut table, 2));
        assert_eq!(table.keep("u", &first, true), (true, None));
        assert!(table.extra("u").is_some(), "a bind still runs");
        table.retain_extras(|_| false);
        assert!(table.extra("u").is_some(), "a bind still runs");
        assert_eq!(table.keep("u", &second, true), (true, None));
        assert!(table.extra("u").is_none() && table.knows("u"));

        let third = begin(&mut table, 3);
        table.extra_mut("u").unwrap().0 = true;
        assert_eq!(table.undo("u", &third), None);
        assert_eq!(table.extras().count(), 1);
        table.retain_extras(|kept| kept.0);
        assert_eq!(table.extras().count(), 1);
        table.retain_extras(|_| false);
        assert_eq!((table.extras().count(), table.sessions("u")), (0, 2));
    }

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
        assert!(table.revoke("u"));
        let after = begin(&mut table, &uid, 1);
        assert_eq!(table.undo("u", &before), None);
        assert_eq!(table.keep("u", &after, true), (true, None));
        assert!(table.is_bound("u", sid(1)));
        // Nor does it keep what is not its own.
        let late = begin(&mut table, &uid, 2);
        assert!(table.revoke("u"));
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
