//! Binds of a life, and the end of sessions.

use std::sync::Arc;

use super::super::Fault;
use super::super::etcd::If;
use super::{Bind, LOOK, Life, Out, Wait, id_key, key, notice_key, raw};
use crate::owners::{Claim, ClaimQuery, Kind, Own, Step, StepOutcome, Takeover};
use crate::{Conflict, SessionsPerUser};

impl Life {
    /// A client wants to be this user. `same`: a second bind of a session that is bound.
    pub(crate) fn bind(&mut self, sid: u64, uid: &Arc<str>) -> Option<u64> {
        let hold = self.table.begin(uid, raw(sid), self.unique)?.0;
        let mut takeover = Takeover::new(self.unique);
        takeover.no_responder_is_death = self.fault == Fault::NoResponderIsDeath;
        self.next += 1;
        let bind = self.next;
        self.binds.insert(
            bind,
            Bind {
                uid: Arc::clone(uid),
                sid,
                hold,
                takeover,
                runs: false,
            },
        );
        self.turns
            .entry(Arc::clone(uid))
            .or_default()
            .push_back(bind);
        self.take_turns(uid);
        Some(bind)
    }

    pub(super) fn take_turns(&mut self, uid: &Arc<str>) {
        let first = self.turns.get(uid).and_then(|turns| turns.front().copied());
        if let Some(first) = first
            && let Some(bind) = self.binds.get_mut(&first)
            && !bind.runs
        {
            bind.runs = true;
            self.go_on(first, Some(StepOutcome::Nothing));
        }
    }

    /// A bind is over, whatever came of it.
    pub(super) fn end_bind(&mut self, number: u64) -> Option<Bind> {
        let bind = self.binds.remove(&number)?;
        if let Some(turns) = self.turns.get_mut(&bind.uid) {
            turns.retain(|other| *other != number);
        }
        Some(bind)
    }

    /// Its client or its time has gone.
    pub(crate) fn drop_bind(&mut self, number: u64) {
        if let Some(bind) = self.end_bind(number) {
            let mut free = self.table.undo(&bind.uid, &bind.hold);
            if self.fault == Fault::UndoTakesAll {
                free = free.or(self.table.unbind(&bind.uid, raw(bind.sid)));
            }
            self.give_up(&bind.uid, free);
            self.take_turns(&bind.uid);
        }
    }

    pub(super) fn go_on(&mut self, number: u64, outcome: Option<StepOutcome>) {
        let (open, unique) = (self.may_act(), self.unique);
        let (id, lease) = (self.id.clone(), self.lease);
        let Some(bind) = self.binds.get_mut(&number) else {
            return;
        };
        let Some(mut outcome) = outcome.filter(|_| open) else {
            return self.drop_bind(number);
        };
        if let (
            true,
            StepOutcome::Found {
                found: Some(found), ..
            },
        ) = ((self.fault == Fault::IdWithoutCondition), &mut outcome)
            && found.owner.as_ref() == Some(&id)
        {
            found.lease = lease;
        }
        let uid = Arc::clone(&bind.uid);
        let own = Own { id: &id, lease };
        let step = bind.takeover.next(own, outcome, |_| Kind::Ours);
        let probe = unique == SessionsPerUser::One(Conflict::RejectNew);
        match step {
            Step::Write(claim) => {
                let notice = bind
                    .takeover
                    .waits_for()
                    .map(|owner| notice_key(owner.as_str(), &uid));
                let wait = Wait::Written {
                    bind: Some(number),
                    uid: Arc::clone(&uid),
                    lease,
                };
                self.write(wait, &uid, claim, notice);
            }
            Step::Ask {
                owner,
                revision,
                lease,
            } => {
                let call = self.wait(Wait::Replied(number));
                let query = ClaimQuery {
                    is_probe: probe,
                    revision,
                    lease,
                };
                self.out.push(Out::Ask {
                    call,
                    owner,
                    uid,
                    query,
                });
            }
            Step::Notify {
                owner,
                revision,
                lease,
            } => {
                let what = if probe { "probe" } else { "release" };
                let notice = (
                    notice_key(owner.as_str(), &uid),
                    format!("{what} {revision}"),
                    lease,
                );
                self.txn(Wait::Notified(number), vec![], vec![notice], vec![], vec![]);
            }
            Step::Wait => {
                let call = self.wait(Wait::Pause(number));
                self.out.push(Out::Timer(call, LOOK));
            }
            Step::Owned { .. } => {
                if self.table.holds(&uid, &self.binds[&number].hold) {
                    self.out.push(Out::Finish(number));
                } else {
                    self.drop_bind(number);
                }
            }
            Step::Taken(_) => self.drop_bind(number),
        }
    }

    pub(super) fn write(&mut self, wait: Wait, uid: &str, claim: Claim, notice: Option<String>) {
        if self.lease == 0 {
            let call = self.wait(wait);
            return self.answer(call, None);
        }
        let conditions = match claim {
            Claim::Missing => vec![If::Missing(key(uid))],
            Claim::Unchanged(revision) => vec![If::Unchanged(key(uid), revision)],
            Claim::Orphan { revision, owner } => vec![
                If::Unchanged(key(uid), revision),
                If::Missing(id_key(owner.as_str())),
            ],
        };
        let put = (key(uid), self.id.as_str().to_owned(), self.lease);
        let mut reads = vec![key(uid)];
        reads.extend(notice);
        self.txn(wait, conditions, vec![put], vec![], reads);
    }

    /// As the framework does when `bind_user` is done.
    pub(crate) fn finish(&mut self, number: u64) {
        let Some(bind) = self.end_bind(number) else {
            return;
        };
        let uid = Arc::clone(&bind.uid);
        let is_open = self
            .sessions
            .get(&bind.sid)
            .is_some_and(|session| session.open);
        if is_open {
            let rivals: Vec<u64> = self
                .sessions
                .iter()
                .filter(|(sid, other)| {
                    **sid != bind.sid && other.open && other.bound && other.uid == uid
                })
                .map(|(sid, _)| *sid)
                .collect();
            for rival in rivals {
                self.close(rival);
            }
            if let Some(session) = self.sessions.get_mut(&bind.sid) {
                session.bound = true;
            }
        }
        let (kept, free) = self.table.keep(&uid, &bind.hold, is_open);
        self.give_up(&uid, free);
        if !kept {
            self.sessions.remove(&bind.sid);
        }
        self.take_turns(&uid);
    }

    /// A client goes.
    pub(crate) fn close(&mut self, sid: u64) {
        if let Some(session) = self.sessions.remove(&sid)
            && session.bound
        {
            let free = self.table.unbind(&session.uid, raw(sid));
            self.give_up(&session.uid, free);
        }
    }
}
