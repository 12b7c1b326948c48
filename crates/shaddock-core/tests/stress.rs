//! Real threads on one service, without pause. Short: loom has the proofs, this has the hardware.

// Tests panic on purpose.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

use bytes::{Buf, Bytes};
use shaddock_core::*;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Wake, Waker};

const THREADS: usize = 4;
const ROUNDS: usize = 4_000;
const USERS: usize = 5;

/// A generator good enough to mix calls, with a seed that a failure can name.
struct Mix(u64);

impl Mix {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }
}

fn user(n: usize) -> Uid {
    Uid::new(format!("user-{n}")).unwrap()
}

/// Checks that the events of each session make sense one after the other.
#[derive(Default)]
struct Referee {
    bound: Mutex<HashMap<Sid, Option<Uid>>>,
    closed: AtomicUsize,
}

impl SessionEvents for Referee {
    fn bound(&self, session: &Arc<Session>, uid: &Uid) {
        let old = self
            .bound
            .lock()
            .unwrap()
            .insert(session.id(), Some(uid.clone()));
        assert!(old.is_none_or(|old| old.is_none()), "bound twice");
    }

    fn unbound(&self, session: &Arc<Session>, uid: &Uid) {
        let old = self.bound.lock().unwrap().insert(session.id(), None);
        assert_eq!(old, Some(Some(uid.clone())), "unbound before it was bound");
    }

    fn closed(&self, session: &Arc<Session>, _: &CloseReason) {
        let last = self.bound.lock().unwrap().remove(&session.id()).flatten();
        assert_eq!(last, session.uid(), "closed before the last event");
        self.closed.fetch_add(1, Ordering::Relaxed);
    }
}

fn churn(service: &SessionService, seed: u64) {
    let mut mix = Mix(seed);
    let mut mine = Vec::new();
    for _ in 0..ROUNDS {
        if mine.len() < 8 {
            mine.push(service.create(ClientInfo::default()));
        }
        let session = Arc::clone(&mine[mix.below(mine.len())]);
        let uid = user(mix.below(USERS));
        match mix.below(12) {
            0..=3 => _ = session.bind(uid),
            4 => _ = session.unbind(&uid),
            5 => _ = service.kick(uid.as_str(), None),
            6 => _ = session.close(CloseReason::ClientClosed),
            7 => {
                let hello = Bytes::from_static(b"hello");
                let greet = |session: &Arc<Session>| _ = session.send(hello.clone());
                service.for_each_session_of(uid.as_str(), greet);
            }
            8 => service.for_each_bound_session(|session| _ = session.set("x", 1)),
            9..=10 => _ = service.join(["a", "b"][mix.below(2)], &uid, None, None),
            _ => _ = service.end_audience("b"),
        }
        mine.retain(|session| !session.is_closed());
    }
}

#[test]
fn sessions_under_fire() {
    for (round, single) in [None, Some(Conflict::RejectNew), Some(Conflict::ReplaceOld)]
        .into_iter()
        .enumerate()
    {
        let config = SessionConfig::default()
            .sessions_per_user(single.map_or(SessionsPerUser::Any, SessionsPerUser::One));
        let frontend = FrontendId::new("connector-1").unwrap();
        let service = SessionService::new(frontend, SidAllocator::new(1, 1), config);
        let referee = Arc::new(Referee::default());
        service.set_events(referee.clone());
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let service = &service;
                let seed = (round * 10 + thread + 1) as u64 * 0x9e37_79b9;
                scope.spawn(move || churn(service, seed));
            }
        });
        assert_eq!(
            service.statistics().listener_panics,
            0,
            "the referee objected"
        );

        // At rest the uid index is the set of open bound sessions.
        let mut bound: HashMap<Uid, usize> = HashMap::new();
        service.for_each_session(|session| {
            if let Some(uid) = session.uid() {
                *bound.entry(uid).or_default() += 1;
            }
        });
        for n in 0..USERS {
            let found = service.get_by_uid(user(n).as_str()).len();
            assert_eq!(found, bound.get(&user(n)).copied().unwrap_or(0));
            assert!(single.is_none() || found <= 1);
        }
        service.close_all(&CloseReason::Draining);
        let statistics = service.statistics();
        assert_eq!((statistics.sessions, statistics.users), (0, 0));
        assert_eq!(
            referee.closed.load(Ordering::Relaxed) as u64,
            statistics.created
        );
        assert!(service.audiences(|_| true).is_empty());
    }
}

struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

#[test]
fn an_outbox_under_fire_keeps_order_and_loses_nothing() {
    const MESSAGES: u32 = 20_000;
    let outbox = Outbox::new(usize::MAX);
    let unpark = Arc::new(Unpark(std::thread::current()));
    std::thread::scope(|scope| {
        let senders: Vec<_> = (0..THREADS as u32)
            .map(|sender| {
                let outbox = &outbox;
                scope.spawn(move || {
                    for n in 0..MESSAGES {
                        let message = u64::from(sender) << 32 | u64::from(n);
                        if n % 2 == 0 {
                            outbox
                                .push(Bytes::copy_from_slice(&message.to_be_bytes()))
                                .unwrap();
                        } else {
                            let encode = |buf: &mut bytes::BytesMut| {
                                buf.extend_from_slice(&message.to_be_bytes());
                                Ok::<_, ()>(())
                            };
                            outbox.push_with(encode).unwrap();
                        }
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            for sender in senders {
                sender.join().unwrap();
            }
            outbox.close_after(None);
        });

        let waker = Waker::from(Arc::clone(&unpark));
        let mut expected = [0; THREADS];
        let mut drained = Drained::default();
        'polls: loop {
            outbox.begin_poll(&waker);
            loop {
                let next = outbox.take(&mut drained);
                outbox.written(drained.remaining());
                while drained.has_remaining() {
                    let (sender, n) = (drained.get_u32() as usize, drained.get_u32());
                    assert_eq!(n, expected[sender], "of sender {sender}");
                    expected[sender] += 1;
                }
                if next == Next::CloseAfterFlush {
                    break 'polls;
                }
                if !outbox.end_poll(Flush::Done) {
                    break;
                }
            }
            std::thread::park();
        }
        assert_eq!(expected, [MESSAGES; THREADS]);
    });
    assert_eq!(outbox.stats().in_flight_bytes, 0);
}
