//! One life of a frontend: what `nats/owners/` and `etcd/lease.rs` do, on the same decisions, one event after the other.

mod answers;
mod binds;
mod claims;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::etcd::{If, Kv, Op, found};
use super::{Fault, MS, TTL};
use crate::owners::fence::Ticket;
use crate::owners::{ClaimQuery, Fence, Hold, Moment, Number, StepOutcome, Table, Takeover};
use crate::{RawSid, ServerId, SessionsPerUser};

/// The actions of a life on the world.
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
    /// A task would have to set this if the time were not read.
    pub(super) flag: bool,
    unique: SessionsPerUser,
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
    pub(super) fn new(id: &ServerId, token: String, unique: SessionsPerUser, fault: Fault) -> Self {
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

    /// True while it may act for its users.
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

    /// True when it has nothing more to do.
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
