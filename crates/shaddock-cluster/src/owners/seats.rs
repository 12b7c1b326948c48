//! The sessions of one user at one frontend, and the binds of them that run.

use crate::RawSid;

/// Sessions of a user. Each is there because a bind of it was kept, or still runs.
#[derive(Debug, Default)]
pub(crate) struct Seats(Vec<Seat>);

#[derive(Debug)]
struct Seat {
    sid: RawSid,
    /// Tells this seat from an earlier one of the same session.
    number: u64,
    /// Binds of the session that are not decided yet.
    holds: u32,
    /// A bind was kept: the seat is the session's own until it is unbound.
    kept: bool,
}

/// What one bind has added. It has to go back, by [`Seats::keep`] or by [`Seats::undo`].
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Hold {
    sid: RawSid,
    seat: u64,
}

impl Seats {
    /// Enters a session; it counts from now on. `fresh` is a number that no seat has had.
    pub(crate) fn hold(&mut self, sid: RawSid, fresh: u64) -> Hold {
        if let Some(seat) = self.0.iter_mut().find(|seat| seat.sid == sid) {
            seat.holds += 1;
            return Hold {
                sid,
                seat: seat.number,
            };
        }
        // Most users have one session, and there are many users.
        self.0.reserve_exact(1);
        self.0.push(Seat {
            sid,
            number: fresh,
            holds: 1,
            kept: false,
        });
        Hold { sid, seat: fresh }
    }

    fn of(&mut self, hold: &Hold) -> Option<&mut Seat> {
        let same = |seat: &&mut Seat| seat.sid == hold.sid && seat.number == hold.seat;
        self.0.iter_mut().find(same)
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

    /// The session is unbound or closed. Binds of it that still run hold on to what they have.
    pub(crate) fn unbind(&mut self, sid: RawSid) {
        if let Some(seat) = self.0.iter_mut().find(|seat| seat.sid == sid) {
            seat.kept = false;
            self.clean();
        }
    }

    fn clean(&mut self) {
        self.0.retain(|seat| seat.kept || seat.holds > 0);
    }

    /// Takes all away; holds of them hold nothing any more.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Whether what a bind has added is still there.
    pub(crate) fn holds(&self, hold: &Hold) -> bool {
        let same = |seat: &Seat| seat.sid == hold.sid && seat.number == hold.seat;
        self.0.iter().any(same)
    }

    pub(crate) fn has(&self, sid: RawSid) -> bool {
        self.0.iter().any(|seat| seat.sid == sid)
    }

    pub(crate) fn has_other_than(&self, sid: RawSid) -> bool {
        self.0.iter().any(|seat| seat.sid != sid)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn sids(&self) -> impl Iterator<Item = RawSid> {
        self.0.iter().map(|seat| seat.sid)
    }
}
