//! One life of a frontend: what `nats/owners.rs` and `etcd/lease.rs` do, on the same decisions, one event after the other.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::super::{
    Claim, ClaimAnswer, ClaimQuery, Entry, Fence, Found, Hold, Kind, Moment, Number, Own,
    OwnerReply, Step, StepOutcome, Table, Takeover, Verdict, entry, fence::Ticket, verdict,
};
use super::etcd::{Answer, If, Kv, Op, found};
use super::{Fault, MS, TTL};
use crate::{RawSid, ServerId, Unique};

/// What a life does to the world.
#[derive(Debug)]
pub(super) enum Out {
    /// To etcd; the answer has this number.
    Etcd(u64, Op),
    /// To another frontend, over NATS.
    Ask {
        call: u64,
        owner: ServerId,
        uid: Arc<str>,
        query: ClaimQuery,
    },
    /// Wake it up with this number after this long on its own clock.
    Timer(u64, Duration),
    /// The session of a bind may be bound, a little later.
    Finish(u64),
}

/// The purpose of an answer.
enum Wait {
    Kept {
        asked: Moment,
        lease: i64,
    },
    Granted {
        asked: Moment,
    },
    IdRead {
        asked: Moment,
        lease: i64,
    },
    IdTaken {
        asked: Moment,
        lease: i64,
    },
    Written {
        bind: Option<u64>,
        uid: Arc<str>,
        lease: i64,
    },
    Notified(u64),
    Looked(u64),
    Replied(u64),
    Pause(u64),
    Checked {
        uid: Arc<str>,
        number: Number,
    },
    CheckedAgain {
        uid: Arc<str>,
        number: Number,
        lease: i64,
    },
    Doubtful(Arc<str>),
    Deleted(Arc<str>, Number),
    Unnoticed(Arc<str>),
    Nothing,
}

pub(super) struct Session {
    pub(super) uid: Arc<str>,
    pub(super) bound: bool,
    pub(super) open: bool,
}

struct Bind {
    uid: Arc<str>,
    sid: u64,
    hold: Hold,
    takeover: Takeover,
    /// Its turn has come.
    runs: bool,
}

pub(super) struct Life {
    pub(super) id: ServerId,
    token: String,
    pub(super) fence: Fence,
    table: Table<()>,
    pub(super) sessions: BTreeMap<u64, Session>,
    binds: BTreeMap<u64, Bind>,
    turns: HashMap<Arc<str>, VecDeque<u64>>,
    waits: HashMap<u64, Wait>,
    next: u64,
    lease: i64,
    /// Another life holds the id, or it has not entered yet.
    pub(super) ended: bool,
    registering: bool,
    has_entered: bool,
    /// The claims are being read.
    check: Option<(Ticket, usize, bool)>,
    /// What a task would have to set if the time were not asked.
    pub(super) flag: bool,
    unique: Unique,
    fault: Fault,
    pub(super) now: Moment,
    pub(super) out: Vec<Out>,
}

const LOOK: Duration = Duration::from_millis(250);

fn key(uid: &str) -> String {
    format!("bindings/{uid}")
}

pub(super) fn notice_key(owner: &str, uid: &str) -> String {
    format!("asks/{owner}/{uid}")
}

fn id_key(id: &str) -> String {
    format!("ids/{id}")
}

fn raw(sid: u64) -> RawSid {
    RawSid::new(sid).unwrap()
}

impl Life {
    pub(super) fn new(id: &ServerId, token: String, unique: Unique, fault: Fault) -> Self {
        Self {
            id: id.clone(),
            token,
            fence: Fence::default(),
            table: Table::default(),
            sessions: BTreeMap::new(),
            binds: BTreeMap::new(),
            turns: HashMap::new(),
            waits: HashMap::new(),
            next: 0,
            lease: 0,
            ended: false,
            registering: false,
            has_entered: false,
            check: None,
            flag: true,
            unique,
            fault,
            now: Moment(0),
            out: Vec::new(),
        }
    }

    /// Whether it may act for its users now.
    pub(super) fn may_act(&self) -> bool {
        if self.fault == Fault::FlagOnly {
            return !self.flag && !self.ended;
        }
        !self.ended && self.fence.is_open(self.now)
    }

    fn wait(&mut self, wait: Wait) -> u64 {
        self.next += 1;
        self.waits.insert(self.next, wait);
        self.next
    }

    fn etcd(&mut self, wait: Wait, op: Op) {
        let call = self.wait(wait);
        self.out.push(Out::Etcd(call, op));
    }

    fn txn(
        &mut self,
        wait: Wait,
        conditions: Vec<If>,
        puts: Vec<(String, String, i64)>,
        deletes: Vec<String>,
        reads: Vec<String>,
    ) {
        let op = Op::Txn {
            conditions,
            puts,
            deletes,
            reads,
        };
        self.etcd(wait, op);
    }

    // ------------------------------------------------------------ the lease and the id

    /// Called now and then: what background tasks do.
    pub(super) fn tick(&mut self, link_up: bool) {
        if self.ended {
            return;
        }
        if self.lease == 0 {
            if !self.registering {
                self.registering = true;
                let asked = self.now;
                self.etcd(Wait::Granted { asked }, Op::Grant);
            }
            return;
        }
        let (asked, lease) = (self.now, self.lease);
        self.etcd(Wait::Kept { asked, lease }, Op::Keep(lease));
        if !self.fence.is_open(self.now) {
            self.flag = true;
            if self.check.is_none() && link_up {
                self.check_claims();
            }
        }
    }

    pub(super) fn link_lost(&mut self) {
        if !self.ended {
            self.fence.suspect();
            self.flag = true;
        }
    }

    fn entered(&mut self, asked: Moment, lease: i64) {
        self.registering = false;
        self.lease = lease;
        self.fence.confirmed(lease, asked, TTL);
        if self.fault == Fault::OpensUnread {
            self.fence.settle(self.fence.begin(), self.now);
        }
        if !std::mem::replace(&mut self.has_entered, true) {
            // There are no claims yet.
            self.flag = !self.fence.settle(self.fence.begin(), self.now);
        }
    }

    fn expelled(&mut self) {
        self.ended = true;
        self.fence.lease_lost();
        self.table.clear();
        self.sessions.clear();
        self.binds.clear();
        self.turns.clear();
    }

    // ------------------------------------------------------------ answers

    /// An answer of etcd; `None` if there was none in time.
    pub(super) fn answer(&mut self, call: u64, answer: Option<Answer>) {
        let Some(wait) = self.waits.remove(&call) else {
            return;
        };
        match (wait, answer) {
            (Wait::Kept { asked, lease }, Some(Answer::Kept(kept))) if lease == self.lease => {
                if kept {
                    self.fence.confirmed(lease, asked, TTL);
                } else {
                    self.lease = 0;
                    self.fence.lease_lost();
                    self.flag = true;
                }
            }
            (Wait::Granted { asked }, Some(Answer::Granted(lease))) => {
                let id = id_key(self.id.as_str());
                let wait = Wait::IdRead { asked, lease };
                self.txn(wait, vec![], vec![], vec![], vec![id]);
            }
            (Wait::IdRead { asked, lease }, Some(Answer::Txn(_, _, read))) => {
                let holder = read[0].as_ref().map(|kv| kv.value.as_bytes());
                let id = id_key(self.id.as_str());
                let condition = match entry(holder, &self.token) {
                    _ if (self.fault == Fault::IdWithoutCondition) => vec![],
                    Entry::IfFree => vec![If::Missing(id.clone())],
                    Entry::IfOwn => vec![If::Has(id.clone(), self.token.clone())],
                    Entry::Taken => {
                        self.etcd(Wait::Nothing, Op::Revoke(lease));
                        return self.expelled();
                    }
                };
                let puts = vec![(id, self.token.clone(), lease)];
                self.txn(
                    Wait::IdTaken { asked, lease },
                    condition,
                    puts,
                    vec![],
                    vec![],
                );
            }
            (Wait::IdTaken { asked, lease }, Some(Answer::Txn(true, ..))) => {
                self.entered(asked, lease);
            }
            (Wait::Granted { .. } | Wait::IdRead { .. } | Wait::IdTaken { .. }, _) => {
                self.registering = false;
            }
            (Wait::Written { bind, uid, lease }, answer) => {
                let outcome = self.settled(&uid, lease, answer);
                if let Some(bind) = bind {
                    self.go_on(bind, outcome);
                }
            }
            (Wait::Notified(bind), answer) => {
                self.go_on(bind, answer.map(|_| StepOutcome::Notified));
            }
            (Wait::Looked(bind), answer) => {
                let outcome = match answer {
                    Some(Answer::Txn(_, _, read)) => Some(outcome_of(&read)),
                    _ => None,
                };
                self.go_on(bind, outcome);
            }
            (Wait::Checked { uid, number }, answer) => self.checked(&uid, number, answer),
            (Wait::CheckedAgain { uid, number, lease }, answer) => {
                let ok = match self.settled(&uid, lease, answer) {
                    Some(StepOutcome::Written(_)) => true,
                    Some(StepOutcome::Found { found, .. }) => {
                        if let Verdict::Lost(_) = self.verdict(found.as_ref()) {
                            self.claim_taken(&uid, number);
                        }
                        matches!(
                            self.verdict(found.as_ref()),
                            Verdict::Lost(_) | Verdict::Holds(_)
                        )
                    }
                    _ => false,
                };
                self.check_ended(ok);
            }
            (Wait::Doubtful(uid), Some(Answer::Txn(_, _, read))) => {
                let found = read[0].as_ref().map(found);
                if let Verdict::Holds(revision) = self.verdict(found.as_ref()) {
                    let number = Number { era: 1, revision };
                    if !self.table.renumber(&uid, number) {
                        self.give_up(&uid, Some(number));
                    }
                }
            }
            (Wait::Doubtful(uid), _) => self.maybe_claimed(&uid),
            (Wait::Unnoticed(uid), None) => self.delete_notice(&uid),
            (Wait::Deleted(uid, number), None) => self.give_up(&uid, Some(number)),
            _ => {}
        }
    }

    /// NATS, or the owner, has answered a question.
    pub(super) fn replied(&mut self, call: u64, word: OwnerReply) {
        if let Some(&Wait::Replied(bind)) = self.waits.get(&call) {
            self.waits.remove(&call);
            self.go_on(bind, Some(StepOutcome::Replied(word)));
        }
    }

    /// A timer of its own.
    pub(super) fn timer(&mut self, call: u64) {
        if let Some(Wait::Pause(bind)) = self.waits.remove(&call)
            && let Some(one) = self.binds.get(&bind)
        {
            let mut reads = vec![key(&one.uid)];
            let owner = one
                .takeover
                .waits_for()
                .map(|owner| notice_key(owner.as_str(), &one.uid));
            reads.extend(owner);
            self.txn(Wait::Looked(bind), vec![], vec![], vec![], reads);
        }
    }

    /// A claim was written under this lease, or was not.
    fn settled(
        &mut self,
        uid: &Arc<str>,
        lease: i64,
        answer: Option<Answer>,
    ) -> Option<StepOutcome> {
        match answer {
            Some(Answer::Txn(true, revision, _)) if lease == self.lease => {
                let number = Number { era: 1, revision };
                if !self.table.claimed(uid, number) {
                    self.give_up(uid, Some(number));
                }
                Some(StepOutcome::Written(revision))
            }
            Some(Answer::Txn(false, _, read)) => Some(outcome_of(&read)),
            _ => {
                self.maybe_claimed(uid);
                None
            }
        }
    }

    fn maybe_claimed(&mut self, uid: &Arc<str>) {
        let wait = Wait::Doubtful(Arc::clone(uid));
        self.txn(wait, vec![], vec![], vec![], vec![key(uid)]);
    }

    fn give_up(&mut self, uid: &Arc<str>, number: Option<Number>) {
        let Some(number) = number else { return };
        let unchanged = vec![If::Unchanged(key(uid), number.revision)];
        let wait = Wait::Deleted(Arc::clone(uid), number);
        self.txn(wait, unchanged, vec![], vec![key(uid)], vec![]);
    }

    // ------------------------------------------------------------ binds

    /// A client wants to be this user. `same`: a second bind of a session that is bound.
    pub(super) fn bind(&mut self, sid: u64, uid: &Arc<str>) -> Option<u64> {
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

    fn take_turns(&mut self, uid: &Arc<str>) {
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
    fn end_bind(&mut self, number: u64) -> Option<Bind> {
        let bind = self.binds.remove(&number)?;
        if let Some(turns) = self.turns.get_mut(&bind.uid) {
            turns.retain(|other| *other != number);
        }
        Some(bind)
    }

    /// Its client or its time has gone.
    pub(super) fn drop_bind(&mut self, number: u64) {
        if let Some(bind) = self.end_bind(number) {
            let mut free = self.table.undo(&bind.uid, &bind.hold);
            if self.fault == Fault::UndoTakesAll {
                free = free.or(self.table.unbind(&bind.uid, raw(bind.sid)));
            }
            self.give_up(&bind.uid, free);
            self.take_turns(&bind.uid);
        }
    }

    fn go_on(&mut self, number: u64, outcome: Option<StepOutcome>) {
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
        let probe = unique == Unique::RejectNew;
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

    fn write(&mut self, wait: Wait, uid: &str, claim: Claim, notice: Option<String>) {
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
    pub(super) fn finish(&mut self, number: u64) {
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
    pub(super) fn close(&mut self, sid: u64) {
        if let Some(session) = self.sessions.remove(&sid)
            && session.bound
        {
            let free = self.table.unbind(&session.uid, raw(sid));
            self.give_up(&session.uid, free);
        }
    }

    // ------------------------------------------------------------ what others ask

    /// Asked over NATS, or by a notice. Whether the user is given up.
    pub(super) fn asked(&mut self, uid: &Arc<str>, query: &ClaimQuery) -> Option<bool> {
        let lease = if self.fault == Fault::AnswersForOthers {
            query.lease
        } else {
            self.lease
        };
        Some(match self.table.asked(uid, query, lease) {
            ClaimAnswer::Other => return None,
            ClaimAnswer::Keep(_) => false,
            ClaimAnswer::Free | ClaimAnswer::Outdated => true,
            ClaimAnswer::Revoke => {
                self.revoke_user(uid);
                true
            }
        })
    }

    pub(super) fn noticed(&mut self, uid: &Arc<str>, query: &ClaimQuery) {
        if self.ended {
            return;
        }
        let outdated = self.table.asked(uid, query, self.lease) == ClaimAnswer::Outdated;
        let Some(gives_up) = self.asked(uid, query) else {
            return;
        };
        let gives_up = gives_up && !outdated;
        if gives_up {
            let unchanged = vec![If::Unchanged(key(uid), query.revision)];
            self.txn(Wait::Nothing, unchanged, vec![], vec![key(uid)], vec![]);
        }
        self.delete_notice(uid);
    }

    fn delete_notice(&mut self, uid: &Arc<str>) {
        let notice = notice_key(self.id.as_str(), uid);
        let wait = Wait::Unnoticed(Arc::clone(uid));
        self.txn(wait, vec![], vec![], vec![notice], vec![]);
    }

    fn revoke_user(&mut self, uid: &Arc<str>) {
        self.table.revoke(uid);
        self.sessions
            .retain(|_, session| !(session.bound && session.uid == *uid));
    }

    // ------------------------------------------------------------ looking after the claims

    fn verdict(&self, found: Option<&Found>) -> Verdict {
        let own = Own {
            id: &self.id,
            lease: self.lease,
        };
        verdict(own, found)
    }

    fn check_claims(&mut self) {
        let ticket = self.fence.begin();
        let claims: Vec<_> = self
            .table
            .claims()
            .map(|(uid, number)| (Arc::clone(uid), number))
            .collect();
        self.check = Some((ticket, claims.len() + 1, true));
        for (uid, number) in claims {
            let read = vec![key(&uid)];
            self.txn(Wait::Checked { uid, number }, vec![], vec![], vec![], read);
        }
        self.check_ended(true);
    }

    fn checked(&mut self, uid: &Arc<str>, number: Number, answer: Option<Answer>) {
        let Some(Answer::Txn(_, _, read)) = answer else {
            return self.check_ended(false);
        };
        let seen = read[0].as_ref().map(found);
        match self.verdict(seen.as_ref()) {
            Verdict::Holds(_) => self.check_ended(true),
            Verdict::Lost(_) => {
                self.claim_taken(uid, number);
                self.check_ended(true);
            }
            Verdict::Missing(_) if self.table.claim(uid) != Some(number) => self.check_ended(true),
            Verdict::Missing(claim) => {
                let (uid, lease) = (Arc::clone(uid), self.lease);
                let user = Arc::clone(&uid);
                self.write(
                    Wait::CheckedAgain { uid, number, lease },
                    &user,
                    claim,
                    None,
                );
            }
        }
    }

    fn claim_taken(&mut self, uid: &Arc<str>, number: Number) {
        if self.table.claim(uid) == Some(number) {
            self.revoke_user(uid);
        }
    }

    fn check_ended(&mut self, ok: bool) {
        let Some((ticket, left, all_ok)) = &mut self.check else {
            return;
        };
        *left -= 1;
        *all_ok &= ok;
        if *left == 0 {
            let (ticket, all_ok) = (*ticket, *all_ok);
            self.check = None;
            if all_ok && self.fence.settle(ticket, self.now) {
                self.flag = false;
            }
        }
    }

    /// Whether it has nothing more to do.
    pub(super) fn is_idle(&self) -> bool {
        self.binds.is_empty() && self.check.is_none() && !self.registering
    }

    /// The claims that it believes to have.
    pub(super) fn claims(&self) -> Vec<(Arc<str>, Number)> {
        let claims = self.table.claims();
        claims
            .map(|(uid, number)| (Arc::clone(uid), number))
            .collect()
    }

    /// The number that goes with what is done in the name of a user.
    pub(super) fn claim(&self, uid: &str) -> Option<Number> {
        self.table.claim(uid)
    }

    pub(super) const fn lease(&self) -> i64 {
        self.lease
    }
}

fn outcome_of(read: &[Option<Kv>]) -> StepOutcome {
    StepOutcome::Found {
        found: read[0].as_ref().map(found),
        notice: read.get(1).is_some_and(Option::is_some),
    }
}

/// Answers that do not come are given up after this long.
pub(super) const PATIENCE: u64 = 1500 * MS;
