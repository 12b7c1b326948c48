//! A session service and its channels: a list of calls, against the naive model of the core's tests.
//!
//! With listeners that call back into the service there is no model of the order in which things happen; then the invariants alone
//! are checked, and that each session's events make sense one after the other.
#![no_main]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::Waker;

use bytes::Buf;
use libfuzzer_sys::fuzz_target;
use shaddock_core::{
    ChannelConfig, ChannelService, ClientInfo, CloseReason, Conflict, Drained, Flush, FrontendId,
    Next, Offer, Session, SessionConfig, SessionEvents, SessionService, SessionState,
    SessionsPerUser, Sid, SidAllocator, Uid,
};
use shaddock_fuzz::Choices;

#[allow(dead_code, reason = "the core's tests use the rest")]
#[path = "../../crates/shaddock-core/tests/naive/mod.rs"]
mod naive;

use naive::{Close, Naive, State};

/// Enqueued without a wake-up.
const BUFFERED: Offer<'_> = Offer {
    latest: None,
    is_buffered: true,
};

const LIMIT: usize = 60;
const MAX_SETTINGS: usize = 3;
const USERS: [&str; 3] = ["ann", "bob", "__proto__"];
const KEYS: [&str; 4] = ["room", "level", "uid", "x"];
const CHANNELS: [&str; 3] = ["lobby", "constructor", ""];
const MOST_SESSIONS: usize = 12;

/// What one session was told.
#[derive(Default)]
struct Life {
    uid: Option<String>,
    closed: bool,
    told: Vec<String>,
}

/// A call that a listener of binds (true) or of unbinds makes.
type Deed = (Sid, bool, Arc<dyn Fn() + Send + Sync>);

#[derive(Default)]
struct Heard {
    lives: Mutex<BTreeMap<Sid, Life>>,
    deeds: Mutex<Vec<Deed>>,
}

impl Heard {
    fn note(&self, session: &Session, f: impl FnOnce(&mut Life) -> String) {
        let mut lives = self.lives.lock().unwrap();
        let life = lives.entry(session.id()).or_default();
        assert!(!life.closed, "nothing after closed");
        let told = f(life);
        life.told.push(told);
    }

    fn act(&self, session: &Session, bound: bool) {
        let wanted = |(sid, kind, _): &&Deed| (*sid, *kind) == (session.id(), bound);
        let deeds: Vec<_> = self
            .deeds
            .lock()
            .unwrap()
            .iter()
            .filter(wanted)
            .cloned()
            .collect();
        for (_, _, deed) in deeds {
            deed();
        }
    }
}

impl SessionEvents for Heard {
    fn bound(&self, session: &Arc<Session>, uid: &Uid) {
        self.note(session, |life| {
            assert_eq!(life.uid.replace(uid.to_string()), None, "bound twice");
            format!("bind {uid}")
        });
        self.act(session, true);
    }

    fn unbound(&self, session: &Arc<Session>, uid: &Uid) {
        self.note(session, |life| {
            assert_eq!(
                life.uid.take().as_deref(),
                Some(uid.as_str()),
                "unbound from another"
            );
            format!("unbind {uid}")
        });
        self.act(session, false);
    }

    fn closed(&self, session: &Arc<Session>, reason: &CloseReason) {
        assert!(session.is_closed());
        self.note(session, |life| {
            life.closed = true;
            format!("closed {}", reason.name())
        });
    }
}

struct Pair {
    service: SessionService,
    heard: Arc<Heard>,
    sessions: Vec<Arc<Session>>,
    taken: Vec<Vec<u8>>,
    naive: Naive,
    channels: ChannelService,
    members: BTreeMap<&'static str, BTreeSet<(&'static str, usize)>>,
    /// Listeners call back: the model does not follow.
    reentrant: bool,
    /// How often listeners may still call back: two of them can keep each other going for ever.
    fuel: Arc<AtomicUsize>,
    message: u8,
}

fn uid(user: &str) -> Uid {
    Uid::new(user).unwrap()
}

fn frontend(number: usize) -> FrontendId {
    FrontendId::new(&*format!("connector-{number}")).unwrap()
}

impl Pair {
    fn new(flags: u8) -> Self {
        let single =
            [None, Some(Conflict::RejectNew), Some(Conflict::ReplaceOld)][usize::from(flags % 3)];
        let config = SessionConfig::default()
            .sessions_per_user(single.map_or(SessionsPerUser::Any, SessionsPerUser::One))
            .outbox_bytes(LIMIT)
            .max_settings(MAX_SETTINGS);
        let service = SessionService::new(frontend(0), SidAllocator::new(5, 5), config);
        let heard = Arc::new(Heard::default());
        assert!(service.set_events(Arc::clone(&heard) as Arc<dyn SessionEvents>));
        Self {
            service,
            heard,
            sessions: Vec::new(),
            taken: Vec::new(),
            naive: Naive::new(single, LIMIT, MAX_SETTINGS),
            channels: ChannelService::new("chat-1", ChannelConfig::default()),
            members: BTreeMap::new(),
            reentrant: flags & 0x80 != 0,
            fuel: Arc::new(AtomicUsize::new(100)),
            message: 0,
        }
    }

    fn create(&mut self) {
        if self.sessions.len() < MOST_SESSIONS {
            self.sessions
                .push(self.service.create(ClientInfo::default()));
            self.taken.push(Vec::new());
            self.naive.create();
        }
    }

    fn same<T: PartialEq + std::fmt::Debug>(&self, real: T, naive: T) {
        if !self.reentrant {
            assert_eq!(real, naive);
        }
    }

    fn apply(&mut self, op: u8, choices: &mut Choices<'_>) {
        let user = USERS[usize::from(choices.below(3))];
        match op {
            0 => self.create(),
            1 => {
                let reason = choices.flag().then_some("bye");
                let kicked = self.service.kick(user, reason);
                let naive = self.naive.kick(user, reason.unwrap_or("kick"));
                self.same(kicked, naive);
            }
            2 => {
                let bytes = self.bytes(choices);
                let mut reached = 0;
                self.service.for_each_session_of(user, |session| {
                    reached += usize::from(session.send(bytes.clone().into()).is_ok());
                });
                let naive = self.naive.send_to_user(user, &bytes);
                self.same(reached, naive);
            }
            3 => {
                let closed = self.service.close_all(&CloseReason::Draining);
                let naive = self.naive.close_all();
                self.same(closed, naive);
            }
            4 | 5 => self.channel(op, user, choices),
            _ if self.sessions.is_empty() => self.create(),
            _ => {
                let s = usize::from(choices.byte()) % self.sessions.len();
                self.apply_to_one(op, s, user, choices);
            }
        }
    }

    fn apply_to_one(&mut self, op: u8, s: usize, user: &'static str, choices: &mut Choices<'_>) {
        let session = Arc::clone(&self.sessions[s]);
        match op {
            6 | 7 => {
                let bound = self.service.bind(session.id(), uid(user)).is_ok();
                let naive = self.naive.bind(s, user).is_ok();
                self.same(bound, naive);
            }
            8 => {
                let unbound = self.service.unbind(session.id(), &uid(user)).is_ok();
                let naive = self.naive.unbind(s, user);
                self.same(unbound, naive);
            }
            9 => {
                let closed = session.close(CloseReason::ClientClosed);
                let naive = self
                    .naive
                    .close(s, &Close::new("client_closed", None, true));
                self.same(closed, naive);
            }
            10 => {
                let key = KEYS[usize::from(choices.below(4))];
                let set = session.set(key, i32::from(op)).is_ok();
                let naive = self.naive.set(s, &[(key, i32::from(op))]);
                self.same(set, naive);
            }
            11 | 12 => {
                let bytes = self.bytes(choices);
                let sent = if op == 11 {
                    session.send(bytes.clone().into())
                } else {
                    session.offer(bytes.clone().into(), BUFFERED).map(drop)
                };
                let naive = self.naive.send(s, &bytes, false);
                self.same(sent, naive);
            }
            13 => {
                let outbox = session.outbox();
                outbox.begin_poll(Waker::noop());
                let (mut drained, taken) = (Drained::default(), &mut self.taken[s]);
                let next = outbox.take(&mut drained);
                taken.extend_from_slice(&drained.copy_to_bytes(drained.remaining()));
                let n = usize::from(choices.byte()).min(taken.len());
                let rest = taken.split_off(n);
                let written = std::mem::replace(taken, rest);
                outbox.written(n);
                let flush = if taken.is_empty() || next == Next::CloseNow {
                    Flush::Done
                } else {
                    Flush::Blocked
                };
                let _ = outbox.end_poll(flush);
                if !self.reentrant {
                    assert_eq!((written, next), self.naive.drain(s, n));
                }
            }
            _ if self.reentrant => self.listen(&session, s, user, choices),
            _ => {}
        }
    }

    /// Registers a listener that does something to this or another session.
    fn listen(
        &self,
        session: &Arc<Session>,
        s: usize,
        user: &'static str,
        choices: &mut Choices<'_>,
    ) {
        let deed = choices.below(6);
        let other =
            Arc::downgrade(&self.sessions[(s + usize::from(choices.byte())) % self.sessions.len()]);
        let (service, fuel) = (self.service.clone(), Arc::clone(&self.fuel));
        let act = move || {
            let Some(other) = other.upgrade() else { return };
            if fuel
                .fetch_update(Relaxed, Relaxed, |fuel| fuel.checked_sub(1))
                .is_err()
            {
                return;
            }
            match deed {
                0 => _ = service.bind(other.id(), uid(user)),
                1 => _ = service.unbind(other.id(), &uid(user)),
                2 => _ = other.close(CloseReason::Attack),
                3 => _ = service.kick(user, None),
                4 => _ = other.send(vec![7; 20].into()),
                // Not `panic!`: the fuzzer's hook would end the run.
                _ => std::panic::resume_unwind(Box::new("a listener may panic")),
            }
        };
        match choices.below(3) {
            2 => _ = session.on_closed(move |_, _| act()),
            kind => {
                let deed: Deed = (session.id(), kind == 0, Arc::new(act));
                self.heard.deeds.lock().unwrap().push(deed);
            }
        }
    }

    fn channel(&mut self, op: u8, user: &'static str, choices: &mut Choices<'_>) {
        let name = CHANNELS[usize::from(choices.below(3))];
        let number = usize::from(choices.below(3));
        match (op, choices.below(4)) {
            (4, 0..=2) => {
                if let Ok(channel) = self.channels.create_channel(name) {
                    let added = channel.add(&uid(user), &frontend(number));
                    assert_eq!(
                        added,
                        self.members.entry(name).or_default().insert((user, number))
                    );
                }
            }
            (5, 0..=1) => {
                let left = self
                    .channels
                    .channel(name)
                    .is_some_and(|channel| channel.leave(user, &format!("connector-{number}")));
                let naive = self
                    .members
                    .get_mut(name)
                    .is_some_and(|members| members.remove(&(user, number)));
                assert_eq!(left, naive);
            }
            (5, 2) => {
                let places = self
                    .channels
                    .remove_member_everywhere(user, &format!("connector-{number}"));
                let naive = self
                    .members
                    .values_mut()
                    .filter_map(|members| members.remove(&(user, number)).then_some(()))
                    .count();
                assert_eq!(places, naive);
            }
            _ => {
                let destroyed = self
                    .channels
                    .channel(name)
                    .is_some_and(|channel| channel.destroy());
                let naive = self
                    .members
                    .remove(name)
                    .is_some_and(|members| !members.is_empty());
                assert!(destroyed || !naive);
            }
        }
        for (name, members) in &self.members {
            let channel = self.channels.channel(name);
            assert!(channel.is_some() || members.is_empty());
            let Some(channel) = channel else { continue };
            for user in USERS {
                let plan = channel.members_by_frontend();
                let groups = plan
                    .iter()
                    .filter(|group| group.uids.iter().any(|uid| *uid == *user));
                let mut found: Vec<_> = groups.map(|group| group.frontend.to_string()).collect();
                found.sort();
                let expected: Vec<_> = members
                    .iter()
                    .filter(|(u, _)| *u == user)
                    .map(|(_, n)| format!("connector-{n}"))
                    .collect();
                assert_eq!(found, expected);
            }
            let receivers: usize = channel
                .members_by_frontend()
                .iter()
                .map(|group| group.uids.len())
                .sum();
            assert_eq!(receivers, members.len());
        }
    }

    fn bytes(&mut self, choices: &mut Choices<'_>) -> Vec<u8> {
        self.message = self.message.wrapping_add(1);
        vec![self.message; usize::from(choices.below(70))]
    }

    /// The invariants of the design, at rest.
    fn check(&self) {
        let service = &self.service;
        let open: Vec<_> = self
            .sessions
            .iter()
            .filter(|session| !session.is_closed())
            .collect();
        let ids: Vec<_> = open.iter().map(|session| session.id()).collect();
        let mut walked = Vec::new();
        service.for_each_session(|session| walked.push(session.id()));
        assert_eq!(walked, ids, "ascending, and exactly the open ones");
        assert_eq!(service.session_count(), ids.len());
        for user in USERS {
            let found: BTreeSet<_> = service
                .get_by_uid(user)
                .iter()
                .map(|session| session.id())
                .collect();
            let bound = open
                .iter()
                .filter(|session| session.uid().is_some_and(|uid| uid.as_str() == user));
            assert_eq!(
                found,
                bound.map(|session| session.id()).collect(),
                "the index is the open bound sessions"
            );
            assert!(!service.config().sessions_per_user.is_one() || found.len() <= 1);
        }
        let lives = self.heard.lives.lock().unwrap();
        for session in &self.sessions {
            let life = lives.get(&session.id());
            assert_eq!(life.is_some_and(|life| life.closed), session.is_closed());
            if !session.is_closed() {
                assert_eq!(
                    life.and_then(|life| life.uid.clone()),
                    session.uid().map(|uid| uid.to_string())
                );
            }
            assert_eq!(service.get(session.id()).is_none(), session.is_closed());
            let stats = session.outbox().stats();
            assert!(session.is_closed() || stats.queued_bytes + stats.in_flight_bytes <= LIMIT);
        }
        if self.reentrant {
            return;
        }
        for (session, naive) in self.sessions.iter().zip(&self.naive.all) {
            let state = match session.state() {
                SessionState::Closed => State::Closed,
                _ => State::Open,
            };
            assert_eq!(state, naive.state);
            assert_eq!(session.uid().map(|uid| uid.to_string()), naive.uid);
            let told = lives
                .get(&session.id())
                .map(|life| &life.told[..])
                .unwrap_or_default();
            assert_eq!(told, naive.events);
            let stats = session.outbox().stats();
            assert_eq!(
                (stats.queued_bytes, stats.in_flight_bytes),
                (naive.queued.len(), naive.taken.len())
            );
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices(data);
    let mut pair = Pair::new(choices.byte());
    for _ in 0..100 {
        if choices.is_empty() {
            break;
        }
        let op = choices.below(20);
        pair.apply(op, &mut choices);
        pair.check();
    }
    pair.apply(3, &mut choices);
    pair.check();
});
