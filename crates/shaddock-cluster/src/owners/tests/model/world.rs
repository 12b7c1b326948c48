//! The world around the lives: time, NATS, etcd, and what reaches whom.

mod backend;
mod checks;
mod happens;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;

use super::etcd::{Answer, Etcd, Op};
use super::life::{Life, Out, PATIENCE};
use super::rng::Rng;
use super::watcher::Watcher;
use super::{Fault, MS, PEACE, SECOND, TROUBLE, TTL};
use crate::owners::{ClaimQuery, Moment, Number, OwnerReply, Seen};
use crate::{Conflict, ServerId, SessionsPerUser};

/// An event at a time.
pub(super) enum Event {
    /// An operation reaches etcd.
    AtEtcd(usize, u64, Op),
    Answered(usize, u64, Answer),
    /// Nothing was heard in time: from etcd, or from an owner.
    Late(usize, u64),
    ClaimAsked {
        to: usize,
        from: usize,
        call: u64,
        uid: Arc<str>,
        query: ClaimQuery,
    },
    Replied(usize, u64, OwnerReply),
    Notice(usize, Arc<str>, ClaimQuery),
    Timer(usize, u64),
    Finish(usize, u64),
    Tick(usize),
    /// A bind has taken as long as it may.
    GiveUp(usize, u64),
    /// A request of a user reaches the backend, with the number of the claim under which it was sent.
    AtBackend(usize, Arc<str>, Number),
    /// The backend reads the list.
    Look,
    /// A life is asked by the backend whether it serves, for the first or the last time.
    Serves(usize, u64, bool),
    /// A life is asked by the backend who of its users is in.
    Members(usize),
    Happens,
    Awakes(usize),
    EtcdBack(usize),
    NatsBack(usize),
    OneNats,
    Peace,
}

/// A life in its surroundings.
struct Slot {
    life: Life,
    /// Millionths that its clock is faster.
    drift: i64,
    clock_from: u64,
    hangs: bool,
    crashed: bool,
    /// Which half of NATS it is connected to.
    half: bool,
    nats: bool,
    etcd: bool,
    /// The messages that wait for it while it hangs, and while etcd is cut off.
    stalled: Vec<Event>,
    held: Vec<Event>,
    /// When what it has sent to the backend has arrived: that stays in order.
    arrived: u64,
}

impl Slot {
    const fn can_act(&self) -> bool {
        !self.hangs && !self.crashed && !self.life.ended
    }
}

pub(super) struct World {
    rng: Rng,
    now: u64,
    queue: BinaryHeap<Reverse<(u64, usize)>>,
    /// By their numbers in the queue.
    events: Vec<Option<Event>>,
    etcd: Etcd,
    slots: Vec<Slot>,
    uids: Vec<Arc<str>>,
    unique: SessionsPerUser,
    fault: Fault,
    nats_is_whole: bool,
    last_sid: u64,
    /// The users that the backend remembers, with the last request that it has run of each.
    seen: Seen,
    ran: HashMap<Arc<str>, Number>,
    watcher: Watcher,
    /// Of the watcher, so that the other schedules do not depend on it.
    looks: Rng,
    peace: bool,
    /// The last things that happened, for the text of a failure.
    log: Vec<String>,
}

type Outcome = Result<(), String>;

impl World {
    pub(super) fn new(seed: u64, fault: Fault) -> Self {
        let mut rng = Rng(seed);
        let unique = if rng.one_in(3) {
            SessionsPerUser::One(Conflict::RejectNew)
        } else {
            SessionsPerUser::One(Conflict::ReplaceOld)
        };
        let mut world = Self {
            rng,
            now: 0,
            queue: BinaryHeap::new(),
            events: Vec::new(),
            etcd: Etcd::default(),
            slots: Vec::new(),
            uids: ["ann", "bob"].map(Arc::from).into(),
            unique,
            fault,
            nats_is_whole: true,
            last_sid: 0,
            seen: Seen::small(),
            ran: HashMap::new(),
            watcher: Watcher::default(),
            looks: Rng(!seed),
            peace: false,
            log: Vec::new(),
        };
        for id in ["front-1", "front-2", "front-3"] {
            world.start(&ServerId::new(id).unwrap());
        }
        world.at(SECOND / 2, Event::Happens);
        world.at(SECOND / 4, Event::Look);
        world.at(TROUBLE, Event::Peace);
        world
    }

    fn note(&mut self, text: impl FnOnce() -> String) {
        if self.log.len() < 4000 {
            let line = format!("{:>6} ms  {}", self.now / MS, text());
            self.log.push(line);
        }
    }

    /// Only wanted when one schedule is looked at.
    fn trace(&mut self, text: impl FnOnce() -> String) {
        if std::env::var_os("SHADDOCK_OWNERS_SEEDS").is_some() {
            self.note(text);
        }
    }

    fn at(&mut self, time: u64, event: Event) {
        self.queue.push(Reverse((time, self.events.len())));
        self.events.push(Some(event));
    }

    /// After a while that a message takes.
    fn soon(&mut self, event: Event) {
        let delay = match self.rng.below(20) {
            0 => self.rng.below(400 * MS),
            1..4 => self.rng.below(60 * MS),
            _ => self.rng.below(5 * MS),
        };
        self.at(self.now + delay + 1, event);
    }

    fn start(&mut self, id: &ServerId) {
        let token = format!("life-{}", self.slots.len());
        let drift = i64::try_from(self.rng.below(20_001)).unwrap() - 10_000;
        let (clock_from, half) = (self.rng.below(100 * SECOND), self.rng.one_in(2));
        self.slots.push(Slot {
            life: Life::new(id, token, self.unique, self.fault),
            drift,
            clock_from,
            hangs: false,
            crashed: false,
            half,
            nats: true,
            etcd: true,
            stalled: Vec::new(),
            held: Vec::new(),
            arrived: 0,
        });
        let n = self.slots.len() - 1;
        self.at(self.now + 1, Event::Tick(n));
    }

    fn local(&self, n: usize) -> Moment {
        let slot = &self.slots[n];
        let passed = i128::from(self.now) * i128::from(1_000_000 + slot.drift) / 1_000_000;
        Moment(slot.clock_from + u64::try_from(passed).unwrap())
    }

    pub(super) fn run(mut self) -> Outcome {
        while let Some(Reverse((time, number))) = self.queue.pop() {
            if time > PEACE {
                break;
            }
            self.now = time;
            self.etcd.expire(time);
            let event = self.events[number].take().unwrap();
            if let Event::AtBackend(from, uid, number) = &event {
                self.at_backend(*from, uid, *number)
                    .map_err(|error| self.story(&error))?;
            }
            self.handle(event);
            self.check().map_err(|error| self.story(&error))?;
        }
        self.check_peace().map_err(|error| self.story(&error))
    }

    fn story(&self, error: &str) -> String {
        format!("{error} ({:?})\n{}", self.unique, self.log.join("\n"))
    }

    /// The process that has to run for the event, if there is one.
    const fn of_life(event: &Event) -> Option<usize> {
        match event {
            Event::Answered(n, ..)
            | Event::Late(n, _)
            | Event::ClaimAsked { to: n, .. }
            | Event::Replied(n, ..)
            | Event::Notice(n, ..)
            | Event::Timer(n, _)
            | Event::Finish(n, _)
            | Event::Tick(n)
            | Event::GiveUp(n, _) => Some(*n),
            _ => None,
        }
    }

    fn handle(&mut self, event: Event) {
        if let Some(n) = Self::of_life(&event) {
            if self.slots[n].crashed {
                return;
            }
            if self.slots[n].hangs {
                self.slots[n].stalled.push(event);
                return;
            }
            self.slots[n].life.now = self.local(n);
            self.hand_to_life(n, event);
            self.execute(n);
            return;
        }
        match event {
            Event::AtEtcd(n, call, op) => self.at_etcd(n, call, op),
            Event::Look => self.look(),
            Event::Serves(n, question, last) => self.ask_whether_it_serves(n, question, last),
            Event::Members(n) => self.ask_for_members(n),
            Event::Happens => self.happens(),
            Event::Awakes(n) => self.awakes(n),
            Event::EtcdBack(n) => {
                self.slots[n].etcd = true;
                for event in std::mem::take(&mut self.slots[n].held) {
                    self.soon(event);
                }
            }
            Event::NatsBack(n) => self.slots[n].nats = true,
            Event::OneNats => self.nats_is_whole = true,
            Event::Peace => self.make_peace(),
            _ => {}
        }
    }

    fn hand_to_life(&mut self, n: usize, event: Event) {
        match event {
            Event::Answered(_, call, answer) => {
                if self.slots[n].etcd {
                    self.slots[n].life.answer(call, Some(answer));
                } else {
                    self.slots[n].held.push(Event::Answered(n, call, answer));
                }
            }
            Event::Late(_, call) => {
                self.slots[n].life.replied(call, OwnerReply::NoReply);
                self.slots[n].life.answer(call, None);
            }
            Event::ClaimAsked {
                from,
                call,
                uid,
                query,
                ..
            } => {
                if self.slots[n].life.ended {
                    return;
                }
                let Some(gives_up) = self.slots[n].life.asked(&uid, &query) else {
                    return;
                };
                self.trace(|| format!("life {n} is asked for {uid}, {query:?}: {gives_up}"));
                let word = if gives_up {
                    OwnerReply::Released
                } else {
                    OwnerReply::Keeps
                };
                if self.hears(n, from) {
                    self.soon(Event::Replied(from, call, word));
                }
            }
            Event::Replied(_, call, word) => self.slots[n].life.replied(call, word),
            Event::Notice(_, uid, query) => {
                if self.slots[n].etcd {
                    self.slots[n].life.noticed(&uid, &query);
                } else {
                    self.slots[n].held.push(Event::Notice(n, uid, query));
                }
            }
            Event::Timer(_, call) => self.slots[n].life.timer(call),
            Event::Finish(_, bind) => {
                self.trace(|| format!("bind {bind} of life {n} is done"));
                self.slots[n].life.finish(bind);
            }
            Event::GiveUp(_, bind) => self.slots[n].life.drop_bind(bind),
            Event::Tick(_) => {
                let link = self.slots[n].nats;
                self.slots[n].life.tick(link);
                let next = 200 * MS + self.rng.below(450 * MS);
                if !self.slots[n].life.ended {
                    self.at(self.now + next, Event::Tick(n));
                }
            }
            _ => {}
        }
    }

    /// Whether NATS brings what one says to the other.
    fn hears(&self, from: usize, to: usize) -> bool {
        let (from, to) = (&self.slots[from], &self.slots[to]);
        from.nats && to.nats && !to.crashed && (self.nats_is_whole || from.half == to.half)
    }

    fn execute(&mut self, n: usize) {
        for out in std::mem::take(&mut self.slots[n].life.out) {
            match out {
                Out::Etcd(call, op) => {
                    self.at(self.now + PATIENCE, Event::Late(n, call));
                    self.soon(Event::AtEtcd(n, call, op));
                }
                Out::Timer(call, after) => {
                    let after = u64::try_from(after.as_nanos()).unwrap();
                    self.at(self.now + after, Event::Timer(n, call));
                }
                Out::Finish(bind) => {
                    let after = self.rng.below(3 * MS);
                    self.at(self.now + after, Event::Finish(n, bind));
                }
                Out::Ask {
                    call,
                    owner,
                    uid,
                    query,
                } => self.ask(n, call, &owner, &uid, query),
            }
        }
    }

    fn ask(&mut self, n: usize, call: u64, owner: &ServerId, uid: &Arc<str>, query: ClaimQuery) {
        if !self.slots[n].nats {
            return self.soon(Event::Replied(n, call, OwnerReply::NoReply));
        }
        let listeners: Vec<usize> = (0..self.slots.len())
            .filter(|&to| self.slots[to].life.id == *owner && !self.slots[to].life.ended)
            .filter(|&to| self.hears(n, to))
            .collect();
        if listeners.is_empty() {
            return self.soon(Event::Replied(n, call, OwnerReply::NoSubscriber));
        }
        self.at(self.now + SECOND, Event::Late(n, call));
        for to in listeners {
            let uid = Arc::clone(uid);
            self.soon(Event::ClaimAsked {
                to,
                from: n,
                call,
                uid,
                query,
            });
        }
    }

    fn at_etcd(&mut self, n: usize, call: u64, op: Op) {
        if !self.slots[n].etcd {
            // Held back, or lost with its connection.
            if self.rng.one_in(2) {
                self.slots[n].held.push(Event::AtEtcd(n, call, op));
            }
            return;
        }
        let mut notices = Vec::new();
        if let Op::Txn { puts, .. } = &op {
            for (key, value, lease) in puts {
                let notice = key
                    .strip_prefix("asks/")
                    .and_then(|key| key.split_once('/'));
                if let Some((owner, uid)) = notice {
                    let (what, revision) = value.split_once(' ').unwrap();
                    let query = ClaimQuery {
                        is_probe: what == "probe",
                        revision: revision.parse().unwrap(),
                        lease: *lease,
                    };
                    notices.push((owner.to_owned(), Arc::<str>::from(uid), query));
                }
            }
        }
        let late = self.rng.below(500 * MS);
        let ttl = u64::try_from(TTL.as_nanos()).unwrap();
        let text = matches!(op, Op::Txn { .. }).then(|| format!("{op:?}"));
        let answer = self.etcd.apply(op, self.now + ttl + late);
        if let Some(text) = text {
            self.trace(|| format!("etcd, of life {n}: {text} -> {answer:?}"));
        }
        if matches!(answer, Answer::Txn(true, ..)) {
            for (owner, uid, query) in notices {
                for to in 0..self.slots.len() {
                    if self.slots[to].life.id.as_str() == owner {
                        self.soon(Event::Notice(to, Arc::clone(&uid), query));
                    }
                }
            }
        }
        self.soon(Event::Answered(n, call, answer));
    }

    /// Requests of users who may act now are sent, and take their time.
    fn send_requests(&mut self) {
        for n in 0..self.slots.len() {
            if !self.slots[n].can_act() || !self.slots[n].nats {
                continue;
            }
            self.slots[n].life.now = self.local(n);
            let life = &self.slots[n].life;
            if !life.may_act() {
                continue;
            }
            let bound = life.sessions.values().filter(|s| s.open && s.bound);
            let numbers = bound.map(|s| (Arc::clone(&s.uid), life.claim(&s.uid)));
            for (uid, number) in numbers.collect::<Vec<_>>() {
                let Some(number) = number else { continue };
                let delay = if self.rng.one_in(4) {
                    self.rng.below(2 * SECOND)
                } else {
                    self.rng.below(5 * MS)
                };
                let arrives = (self.now + delay).max(self.slots[n].arrived) + 1;
                self.slots[n].arrived = arrives;
                self.at(arrives, Event::AtBackend(n, uid, number));
            }
        }
    }

    /// Requests of a user run in the order of owners, and the owner of the user is not refused.
    fn at_backend(&mut self, from: usize, uid: &Arc<str>, number: Number) -> Outcome {
        let runs = self.seen.admits(0, uid, number, Moment(self.now));
        if runs || self.fault == Fault::NoNumbers {
            let last = self.ran.entry(Arc::clone(uid)).or_default();
            if number < *last {
                return Err(format!("{uid} acts under {number:?} after {last:?}"));
            }
            *last = number;
            return Ok(());
        }
        if self.slots[from].can_act() {
            self.slots[from].life.now = self.local(from);
            let life = &self.slots[from].life;
            if life.may_act() && life.claim(uid) == Some(number) {
                return Err(format!("life {from} owns {uid} and is refused"));
            }
        }
        Ok(())
    }
}
