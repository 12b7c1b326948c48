//! Random calls on a [`SessionService`], compared after each one with a naive model, and the invariants of `design.md`.

// Tests panic on purpose.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

mod naive;

use bytes::{Buf, Bytes};
use naive::{Close, Naive, State};
use proptest::prelude::*;
use serde_json::json;
use shaddock_core::*;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::task::Waker;

const LIMIT: usize = 60;
const MAX_SETTINGS: usize = 3;
const USERS: [&str; 3] = ["ann", "bob", "constructor"];
const KEYS: [&str; 4] = ["room", "level", "uid", "x"];

/// One call. Sessions, users and keys are chosen by number, modulo how many there are.
#[derive(Clone, Debug)]
enum Op {
    Create,
    Bind(usize, usize),
    Unbind(usize, usize),
    Kick(usize, bool),
    KickSid(usize),
    Close(usize, usize),
    Remove(usize),
    CloseAll,
    Set(usize, usize, i32),
    SetTwo(usize, usize, i32),
    Unset(usize, usize),
    Send(usize, usize),
    Encode(usize, usize),
    Buffer(usize, usize),
    SendToUser(usize, usize),
    Broadcast(usize),
    Drain(usize, usize),
    View(usize),
    ViewSet(usize, i32),
    ViewPush(usize),
    ViewPushAll,
}

/// Enqueued without a wake-up.
const BUFFERED: Offer<'_> = Offer {
    latest: None,
    is_buffered: true,
};

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let (s, u, k) = (0..8_usize, 0..USERS.len(), 0..KEYS.len());
    let op = prop_oneof![
        4 => Just(Op::Create),
        6 => (s.clone(), u.clone()).prop_map(|(s, u)| Op::Bind(s, u)),
        3 => (s.clone(), u.clone()).prop_map(|(s, u)| Op::Unbind(s, u)),
        1 => (u.clone(), any::<bool>()).prop_map(|(u, told)| Op::Kick(u, told)),
        1 => s.clone().prop_map(Op::KickSid),
        1 => (s.clone(), 0..3_usize).prop_map(|(s, r)| Op::Close(s, r)),
        1 => s.clone().prop_map(Op::Remove),
        1 => Just(Op::CloseAll),
        3 => (s.clone(), k.clone(), any::<i32>()).prop_map(|(s, k, v)| Op::Set(s, k, v)),
        1 => (s.clone(), k.clone(), any::<i32>()).prop_map(|(s, k, v)| Op::SetTwo(s, k, v)),
        1 => (s.clone(), k.clone()).prop_map(|(s, k)| Op::Unset(s, k)),
        3 => (s.clone(), 0..70_usize).prop_map(|(s, n)| Op::Send(s, n)),
        3 => (s.clone(), 0..70_usize).prop_map(|(s, n)| Op::Encode(s, n)),
        1 => (s.clone(), 0..30_usize).prop_map(|(s, n)| Op::Buffer(s, n)),
        2 => (u, 0..30_usize).prop_map(|(u, n)| Op::SendToUser(u, n)),
        1 => (0..30_usize).prop_map(Op::Broadcast),
        4 => (s.clone(), 0..70_usize).prop_map(|(s, n)| Op::Drain(s, n)),
        2 => s.clone().prop_map(Op::View),
        2 => (k.clone(), any::<i32>()).prop_map(|(k, v)| Op::ViewSet(k, v)),
        2 => k.prop_map(Op::ViewPush),
        1 => Just(Op::ViewPushAll),
    ];
    prop::collection::vec(op, 1..80)
}

/// The service under test beside the model.
struct Pair {
    service: SessionService,
    heard: Arc<Heard>,
    /// All sessions ever created, in order; the model has the same.
    sessions: Vec<Arc<Session>>,
    /// The bytes that the driver of each session has taken and not yet written.
    taken: Vec<Vec<u8>>,
    /// A session, and a copy of its settings, as a handler has it.
    view: Option<(Arc<Session>, Settings)>,
    naive: Naive,
    /// Distinct bytes for each message.
    next: u8,
}

#[derive(Default)]
struct Heard(Mutex<HashMap<Sid, Vec<String>>>);

impl SessionEvents for Heard {
    fn bound(&self, session: &Arc<Session>, uid: &Uid) {
        self.note(session, format!("bind {uid}"));
    }

    fn unbound(&self, session: &Arc<Session>, uid: &Uid) {
        self.note(session, format!("unbind {uid}"));
    }

    fn closed(&self, session: &Arc<Session>, reason: &CloseReason) {
        self.note(session, format!("closed {}", reason.name()));
    }
}

impl Heard {
    fn note(&self, session: &Session, event: String) {
        self.0
            .lock()
            .unwrap()
            .entry(session.id())
            .or_default()
            .push(event);
    }
}

impl Pair {
    fn new(single: Option<Conflict>) -> Self {
        let config = SessionConfig::default()
            .sessions_per_user(single.map_or(SessionsPerUser::Any, SessionsPerUser::One))
            .outbox_bytes(LIMIT)
            .max_settings(MAX_SETTINGS);
        let frontend = FrontendId::new("connector-1").unwrap();
        let service = SessionService::new(frontend, SidAllocator::new(5, 5), config);
        let heard = Arc::new(Heard::default());
        assert!(service.set_events(heard.clone()));
        let naive = Naive::new(single, LIMIT, MAX_SETTINGS);
        Self {
            service,
            heard,
            sessions: vec![],
            taken: vec![],
            view: None,
            naive,
            next: 0,
        }
    }

    fn bytes(&mut self, len: usize) -> Bytes {
        self.next = self.next.wrapping_add(1);
        vec![self.next; len].into()
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Create => {
                self.sessions
                    .push(self.service.create(ClientInfo::default()));
                self.taken.push(Vec::new());
                self.naive.create();
            }
            Op::Kick(u, told) => {
                let reason = told.then_some("bye");
                let n = self.service.kick(USERS[u], reason);
                assert_eq!(n, self.naive.kick(USERS[u], reason.unwrap_or("kick")));
            }
            Op::CloseAll => {
                let n = self.service.close_all(&CloseReason::Draining);
                assert_eq!(n, self.naive.close_all());
            }
            Op::SendToUser(u, len) => {
                let bytes = self.bytes(len);
                let mut n = 0;
                self.service.for_each_session_of(USERS[u], |session| {
                    n += usize::from(session.send(bytes.clone()).is_ok());
                });
                assert_eq!(n, self.naive.send_to_user(USERS[u], &bytes));
            }
            Op::Broadcast(len) => {
                let bytes = self.bytes(len);
                self.service
                    .visit_sessions(|session| _ = session.send(bytes.clone()));
                self.naive.broadcast(&bytes);
            }
            Op::ViewSet(..) | Op::ViewPush(_) | Op::ViewPushAll => {
                self.apply_to_view(op);
            }
            _ if self.sessions.is_empty() => {}
            _ => self.apply_to_one(op),
        }
    }

    #[allow(clippy::many_single_char_names)]
    fn apply_to_one(&mut self, op: &Op) {
        let all = self.sessions.len();
        match *op {
            Op::Bind(s, u) => self.bind(s % all, u),
            Op::Unbind(s, u) => {
                let result = self.service.unbind(self.sessions[s % all].id(), &uid(u));
                assert_eq!(result.is_ok(), self.naive.unbind(s % all, USERS[u]));
            }
            Op::KickSid(s) => {
                let kicked = self
                    .service
                    .kick_by_session_id(self.sessions[s % all].id(), None);
                assert_eq!(kicked, self.naive.close(s % all, &Close::kick("kick")));
            }
            Op::Close(s, r) => {
                let reasons = [
                    CloseReason::ClientClosed,
                    CloseReason::Attack,
                    CloseReason::HeartbeatTimeout,
                ];
                let closed = self.sessions[s % all].close(reasons[r].clone());
                let naive = [
                    Close::new("client_closed", None, true),
                    Close::new("attack", Some("attack"), true),
                    Close::new("heartbeat_timeout", None, false),
                ];
                assert_eq!(closed, self.naive.close(s % all, &naive[r]));
            }
            Op::Remove(s) => {
                let removed = self.sessions[s % all].close(CloseReason::Removed);
                assert_eq!(
                    removed,
                    self.naive
                        .close(s % all, &Close::new("removed", None, true))
                );
            }
            Op::Set(s, k, v) => {
                let result = self.sessions[s % all].set(KEYS[k], v);
                assert_eq!(result.is_ok(), self.naive.set(s % all, &[(KEYS[k], v)]));
            }
            Op::SetTwo(s, k, v) => {
                let two = [(KEYS[k], v), (KEYS[(k + 1) % KEYS.len()], v)];
                let values = two.map(|(key, value)| (key.to_owned(), json!(value)));
                let result = self.sessions[s % all].set_all(values);
                assert_eq!(result.is_ok(), self.naive.set(s % all, &two));
            }
            Op::Unset(s, k) => {
                let old = self.sessions[s % all].remove(KEYS[k]);
                assert_eq!(
                    old,
                    self.naive.all[s % all]
                        .settings
                        .remove(KEYS[k])
                        .map(|v| json!(v))
                );
            }
            Op::Send(s, len) | Op::Encode(s, len) | Op::Buffer(s, len) => {
                self.send(op, s % all, len);
            }
            Op::Drain(s, n) => self.drain(s % all, n),
            Op::View(s) => {
                let session = Arc::clone(&self.sessions[s % all]);
                let settings = session.settings();
                self.view = Some((session, settings));
                self.naive.view(s % all);
            }
            _ => unreachable!("{op:?} is for all"),
        }
    }

    fn bind(&mut self, s: usize, u: usize) {
        // Both ways to bind, by the parity of the last message.
        let result = if self.next.is_multiple_of(2) {
            self.service.bind(self.sessions[s].id(), uid(u))
        } else {
            self.sessions[s].bind(uid(u))
        };
        let result = result.map_err(|error| match error {
            BindError::NoSuchSession { .. } | BindError::SessionClosed { .. } => "gone".to_owned(),
            BindError::AlreadyBound { uid } => format!("bound to {uid}"),
            BindError::SingleSession { uid } => format!("taken {uid}"),
            other => panic!("{other:?} without a race"),
        });
        assert_eq!(result, self.naive.bind(s, USERS[u]));
    }

    fn send(&mut self, op: &Op, s: usize, len: usize) {
        let bytes = self.bytes(len);
        let session = &self.sessions[s];
        let result = match op {
            Op::Send(..) => session.send(bytes.clone()),
            Op::Buffer(..) => session.offer(bytes.clone(), BUFFERED).map(drop),
            _ => {
                // An encoder that fails leaves nothing behind.
                let failed = session.send_with(|buf| {
                    buf.extend_from_slice(b"half a mess");
                    Err("age")
                });
                assert!(failed.is_err());
                let encoded = session.send_with(|buf| {
                    buf.extend_from_slice(&bytes);
                    Ok::<_, ()>(())
                });
                encoded.map_err(|error| match error {
                    PushError::Send(error) => error,
                    PushError::Encode(()) => unreachable!("this one does not fail"),
                })
            }
        };
        let is_answer = matches!(op, Op::Encode(..));
        assert_eq!(result, self.naive.send(s, &bytes, is_answer));
    }

    /// The driver takes all and writes `n` bytes of it.
    fn drain(&mut self, s: usize, n: usize) {
        let outbox = self.sessions[s].outbox();
        outbox.begin_poll(Waker::noop());
        let (mut drained, taken) = (Drained::default(), &mut self.taken[s]);
        let next = outbox.take(&mut drained);
        taken.extend_from_slice(&drained.copy_to_bytes(drained.remaining()));
        let n = n.min(taken.len());
        let rest = taken.split_off(n);
        let written = std::mem::replace(taken, rest);
        outbox.written(n);
        let flush = if taken.is_empty() || next == Next::CloseNow {
            Flush::Done
        } else {
            Flush::Blocked
        };
        let _ = outbox.end_poll(flush);
        assert_eq!((written, next), self.naive.drain(s, n));
    }

    fn apply_to_view(&mut self, op: &Op) {
        let Some((session, settings)) = &mut self.view else {
            return;
        };
        match *op {
            Op::ViewSet(k, v) => {
                settings.set(KEYS[k], v);
                self.naive.view_set(KEYS[k], v);
            }
            Op::ViewPush(k) => {
                let value = settings.get(KEYS[k]).cloned();
                let pushed = value.is_some_and(|value| session.set(KEYS[k], value).is_ok());
                assert_eq!(pushed, self.naive.view_push(KEYS[k]));
            }
            Op::ViewPushAll => {
                let pushed = session.set_all(settings.to_map()).is_ok();
                assert_eq!(pushed, self.naive.view_push_all());
            }
            _ => unreachable!("{op:?} is not for views"),
        }
    }

    /// The invariants, at rest.
    fn check(&self) {
        let service = &self.service;
        let open: Vec<_> = self.naive.open().map(|s| self.sessions[s].id()).collect();
        let mut walked = vec![];
        service.for_each_session(|session| walked.push(session.id()));
        assert_eq!(walked, open, "ascending, and exactly the open ones");
        assert_eq!(service.session_count(), open.len());

        let mut bound = 0;
        for user in USERS {
            let expected: Vec<_> = self
                .naive
                .bound_to(user)
                .map(|s| self.sessions[s].id())
                .collect();
            let found: Vec<_> = service.get_by_uid(user).iter().map(|s| s.id()).collect();
            assert_eq!(found, expected, "in the order of binding");
            assert_eq!(service.for_each_session_of(user, |_| ()), expected.len());
            bound += expected.len();
        }
        let mut walked = 0;
        service.for_each_bound_session(|_| walked += 1);
        assert_eq!(walked, bound);

        for (session, naive) in self.sessions.iter().zip(&self.naive.all) {
            let expected = match naive.state {
                State::Open => SessionState::Open,
                State::Closed => SessionState::Closed,
            };
            assert_eq!(session.state(), expected);
            assert_eq!(
                service.get(session.id()).is_some(),
                naive.state != State::Closed
            );
            assert_eq!(session.uid().map(|uid| uid.to_string()), naive.uid);
            let settings: HashMap<_, _> =
                naive.settings.iter().map(|(k, v)| (*k, json!(v))).collect();
            assert_eq!(
                session
                    .settings()
                    .iter()
                    .map(|(k, v)| (k, v.clone()))
                    .collect::<HashMap<_, _>>(),
                settings
            );
            let heard = self.heard.0.lock().unwrap();
            assert_eq!(heard.get(&session.id()).unwrap_or(&vec![]), &naive.events);
            let stats = session.outbox().stats();
            assert_eq!(stats.queued_bytes, naive.queued.len());
            assert_eq!(stats.in_flight_bytes, naive.taken.len());
            assert_eq!(stats.messages, naive.messages);
        }
        let statistics = service.statistics();
        assert_eq!(statistics.created, self.sessions.len() as u64);
        let closed: u64 = statistics.closed.iter().map(|(_, n)| n).sum();
        assert_eq!(closed as usize, self.sessions.len() - open.len());
    }
}

fn uid(u: usize) -> Uid {
    Uid::new(USERS[u]).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn the_service_does_what_the_naive_one_does(
        ops in ops(),
        single in prop_oneof![
            Just(None), Just(Some(Conflict::RejectNew)), Just(Some(Conflict::ReplaceOld))
        ],
    ) {
        let mut pair = Pair::new(single);
        for op in &ops {
            pair.apply(op);
            pair.check();
        }
        pair.apply(&Op::CloseAll);
        pair.check();
    }
}
