//! The sessions of one user at one frontend, and the binds of them that run.

use crate::RawSid;

/// Sessions of a user. Each is there because a bind of it was kept, or still runs.
///
/// Most users have one, and there are many users: one session takes no memory of its own.
#[derive(Debug, Default)]
pub(crate) struct Seats(List);

#[derive(Debug, Default)]
enum List {
    #[default]
    None,
    One(Seat),
    /// Boxed: every user pays for the size of this variant.
    #[allow(
        clippy::box_collection,
        reason = "a `Vec` has three words, this has one"
    )]
    Many(Box<Vec<Seat>>),
}

#[derive(Clone, Copy, Debug)]
struct Seat {
    sid: RawSid,
    /// Tells this seat from an earlier one of the same session.
    number: u32,
    /// Binds of the session that are not decided yet. At the largest number the last ones to end find that their seat is gone, and fail.
    holds: u16,
    /// A bind was kept: the seat is the session's own until it is unbound.
    kept: bool,
}

/// The seats that one bind has added. They have to be returned, by [`Seats::keep`] or by [`Seats::undo`].
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Hold {
    sid: RawSid,
    seat: u32,
}

impl Seats {
    fn all(&self) -> &[Seat] {
        match &self.0 {
            List::None => &[],
            List::One(seat) => std::slice::from_ref(seat),
            List::Many(seats) => seats,
        }
    }

    fn all_mut(&mut self) -> &mut [Seat] {
        match &mut self.0 {
            List::None => &mut [],
            List::One(seat) => std::slice::from_mut(seat),
            List::Many(seats) => seats,
        }
    }

    /// Enters a session; it counts from now on. `fresh` is a number that no seat of the session has had lately.
    pub(crate) fn hold(&mut self, sid: RawSid, fresh: u32) -> Hold {
        if let Some(seat) = self.all_mut().iter_mut().find(|seat| seat.sid == sid) {
            seat.holds = seat.holds.saturating_add(1);
            return Hold {
                sid,
                seat: seat.number,
            };
        }
        let seat = Seat {
            sid,
            number: fresh,
            holds: 1,
            kept: false,
        };
        match &mut self.0 {
            List::None => self.0 = List::One(seat),
            List::One(first) => self.0 = List::Many(Box::new(vec![*first, seat])),
            List::Many(seats) => seats.push(seat),
        }
        Hold { sid, seat: fresh }
    }

    fn of(&mut self, hold: &Hold) -> Option<&mut Seat> {
        let same = |seat: &&mut Seat| seat.sid == hold.sid && seat.number == hold.seat;
        self.all_mut().iter_mut().find(same)
    }

    /// The bind is over: the session stays until it is unbound, if it is the user's at this moment. False if its seat was taken away meanwhile.
    pub(crate) fn keep(&mut self, hold: &Hold, is_bound: bool) -> bool {
        let Some(seat) = self.of(hold) else {
            return false;
        };
        seat.holds = seat.holds.saturating_sub(1);
        seat.kept = is_bound;
        self.clean();
        true
    }

    /// The bind was given up. Takes away what it has added, unless another bind of the same session holds that too, or was kept.
    pub(crate) fn undo(&mut self, hold: &Hold) {
        if let Some(seat) = self.of(hold) {
            seat.holds = seat.holds.saturating_sub(1);
            self.clean();
        }
    }

    /// The session is unbound or closed. Binds of it that still run keep what they have added.
    pub(crate) fn unbind(&mut self, sid: RawSid) {
        if let Some(seat) = self.all_mut().iter_mut().find(|seat| seat.sid == sid) {
            seat.kept = false;
            self.clean();
        }
    }

    fn clean(&mut self) {
        let stays = |seat: &Seat| seat.kept || seat.holds > 0;
        match &mut self.0 {
            List::None => {}
            List::One(seat) if stays(seat) => {}
            List::One(_) => self.0 = List::None,
            List::Many(seats) => {
                seats.retain(stays);
                match seats[..] {
                    [] => self.0 = List::None,
                    [last] => self.0 = List::One(last),
                    _ => {}
                }
            }
        }
    }

    /// Takes all away; holds of them hold nothing any more.
    pub(crate) fn clear(&mut self) {
        self.0 = List::None;
    }

    /// Whether what a bind has added is still there.
    pub(crate) fn holds(&self, hold: &Hold) -> bool {
        let same = |seat: &Seat| seat.sid == hold.sid && seat.number == hold.seat;
        self.all().iter().any(same)
    }

    pub(crate) fn has(&self, sid: RawSid) -> bool {
        self.all().iter().any(|seat| seat.sid == sid)
    }

    pub(crate) fn has_other_than(&self, sid: RawSid) -> bool {
        self.all().iter().any(|seat| seat.sid != sid)
    }

    pub(crate) fn len(&self) -> usize {
        self.all().len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.all().is_empty()
    }

    pub(crate) fn sids(&self) -> impl Iterator<Item = RawSid> {
        self.all().iter().map(|seat| seat.sid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn one_session_takes_two_words() {
        assert_eq!(size_of::<Seats>(), 16);
    }

    /// Any order of binds of three sessions and their ends, beside a list that is kept the plain way.
    #[test]
    fn any_order_of_binds_and_ends() {
        #[derive(Debug, Default)]
        struct Plain {
            number: u32,
            holds: usize,
            kept: bool,
        }
        let hasher = std::hash::RandomState::new();
        let mut random = (0_u64..).map(|n| std::hash::BuildHasher::hash_one(&hasher, n));
        let mut below = move |bound: u64| random.next().unwrap() % bound;
        for _ in 0..500 {
            let mut seats = Seats::default();
            let mut plain: BTreeMap<RawSid, Plain> = BTreeMap::new();
            let mut open: Vec<Hold> = Vec::new();
            for fresh in 1..60 {
                let sid = RawSid::new(1 + below(3)).unwrap();
                match below(6) {
                    0..2 => {
                        let seat = plain.entry(sid).or_insert(Plain {
                            number: fresh,
                            ..Plain::default()
                        });
                        seat.holds += 1;
                        let hold = seats.hold(sid, fresh);
                        assert_eq!((hold.sid, hold.seat), (sid, seat.number));
                        open.push(hold);
                    }
                    action @ 2..4 if !open.is_empty() => {
                        let index = usize::try_from(below(open.len() as u64)).unwrap();
                        let hold = open.swap_remove(index);
                        let (keeps, is_bound) = (action == 2, below(2) == 0);
                        let seat = plain
                            .get_mut(&hold.sid)
                            .filter(|seat| seat.number == hold.seat);
                        let is_there = seat.is_some();
                        if let Some(seat) = seat {
                            seat.holds -= 1;
                            seat.kept = if keeps { is_bound } else { seat.kept };
                        }
                        if keeps {
                            assert_eq!(seats.keep(&hold, is_bound), is_there);
                        } else {
                            seats.undo(&hold);
                        }
                    }
                    4 => {
                        if let Some(seat) = plain.get_mut(&sid) {
                            seat.kept = false;
                        }
                        seats.unbind(sid);
                    }
                    5 if below(5) == 0 => {
                        plain.clear();
                        seats.clear();
                    }
                    _ => {}
                }
                plain.retain(|_, seat| seat.kept || seat.holds > 0);
                let mut sids: Vec<_> = seats.sids().collect();
                sids.sort_unstable();
                assert_eq!(sids, plain.keys().copied().collect::<Vec<_>>());
                assert_eq!(seats.len(), plain.len());
                assert_eq!(seats.is_empty(), plain.is_empty());
                assert_eq!(seats.has(sid), plain.contains_key(&sid));
                let others = plain.keys().any(|other| *other != sid);
                assert_eq!(seats.has_other_than(sid), others);
                for hold in &open {
                    let seat = plain.get(&hold.sid);
                    let is_there = seat.is_some_and(|seat| seat.number == hold.seat);
                    assert_eq!(seats.holds(hold), is_there);
                }
            }
        }
    }
}
