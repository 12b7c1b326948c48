//! Sessions that outlive their sockets: a client and a server beside a reference that keeps everything in a list, and cases.

// Tests panic on purpose.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

use bytes::{Buf, Bytes, BytesMut};
use proptest::prelude::*;
use shaddock_core::*;
use shaddock_protocol::{PackageType, encode_package};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, mpsc};
use std::task::Waker;

const MAX_MESSAGES: usize = 6;
const KEYS: [&str; 2] = ["x", "y"];

/// Of which the newest of the key is enough.
fn latest(key: &Arc<str>) -> Offer<'_> {
    Offer {
        latest: Some(key),
        ..Offer::default()
    }
}

fn config(resume: ResumeConfig) -> SessionConfig {
    SessionConfig::default()
        .sessions_per_user(SessionsPerUser::One(Conflict::RejectNew))
        .outbox_bytes(4096)
        .resume(resume)
}

fn service_with(resume: ResumeConfig) -> SessionService {
    let frontend = FrontendId::new("f").unwrap();
    SessionService::new(frontend, SidAllocator::new(1, 1), config(resume))
}

fn secret(n: u32) -> ResumeSecret {
    let mut bytes = [7; 16];
    bytes[..4].copy_from_slice(&n.to_be_bytes());
    ResumeSecret(bytes)
}

/// A DATA package that says which one it is.
fn data(id: u32, filler: usize) -> Bytes {
    let mut body = id.to_be_bytes().to_vec();
    body.resize(4 + filler, b'.');
    encode_package(PackageType::Data, &body).unwrap()
}

/// Messages that are kept for the client of a suspended session.
fn kept_while_suspended(session: &Session) -> usize {
    let state = session.resumable().unwrap();
    assert!(state.suspended.is_some());
    state.kept_messages
}

fn back(token: &str, received: u64, sent: u64) -> Credentials {
    Credentials::from(&ReturningClient {
        token: token.to_owned(),
        received,
        sent,
        early: false,
    })
}

/// A session that its client has acknowledged, and its token.
fn joined(service: &SessionService, n: u32) -> (Arc<Session>, String) {
    let session = service.create_resumable(ClientInfo::default(), &secret(n));
    assert!(session.go_live(&ClientInfo::default()));
    let token = secret(n).token(session.id());
    (session, token)
}

fn lost() -> CloseReason {
    CloseReason::Transport(std::io::ErrorKind::ConnectionReset)
}

fn lose(session: &Arc<Session>) {
    assert!(session.suspend(&lost(), Millis(5)));
}

/// The ids of the DATA that a driver takes now.
fn take(session: &Session) -> Vec<u32> {
    let mut drained = Drained::default();
    let _ = session.outbox().take(&mut drained);
    let bytes = drained.copy_to_bytes(drained.remaining());
    session.outbox().written(bytes.len());
    ids(&mut bytes.into_iter().collect())
}

fn ids(bytes: &mut VecDeque<u8>) -> Vec<u32> {
    let mut found = Vec::new();
    while let Some(id) = next_id(bytes) {
        found.push(id);
    }
    found
}

/// Takes one package off the front; its id.
fn next_id(bytes: &mut VecDeque<u8>) -> Option<u32> {
    let all = bytes.make_contiguous();
    let head = all.first_chunk::<4>()?;
    let len = usize::from(head[2]) << 8 | usize::from(head[3]);
    let id = u32::from_be_bytes(all[4..8].try_into().unwrap());
    bytes.drain(..4 + len);
    Some(id)
}

/// The connection that has a claimed session hands it over.
fn release(session: &Arc<Session>, number: u64, n: u32) {
    assert!(matches!(
        session.poll_claim(number, Waker::noop()),
        Claimed::Pending
    ));
    assert!(session.resumable().is_some_and(|state| state.is_claimed));
    if session.state() == SessionState::Open
        || session
            .resumable()
            .is_none_or(|state| state.suspended.is_none())
    {
        lose(session);
    } else {
        session.suspend(&lost(), Millis(9));
    }
    session.outbox().release();
    assert!(session.hand_over(Box::new(n)).is_ok());
}

/// Everything that a connection does to take a session over from the one that has it. `None`: it does not get it.
fn take_over(
    service: &SessionService,
    back: &Credentials,
    n: u32,
) -> Option<(Arc<Session>, Resumption)> {
    let session = service.find_resumable(back, Dialect::Pomelo).ok()?;
    let number = service.next_claim();
    // A session that waits already may be parked.
    let is_parked = n.is_multiple_of(2)
        && matches!(session.park(Box::new(n), Waker::noop()), Parking::Parked(_));
    session.claim(number, back, Waker::noop()).ok()?;
    if !is_parked {
        release(&session, number, n);
    }
    let Claimed::Yours(left) = session.poll_claim(number, Waker::noop()) else {
        panic!("it was handed over");
    };
    assert_eq!(*left.downcast::<u32>().unwrap(), n);
    let resumption = session.resume_from(back, &secret(n))?;
    Some((session, resumption))
}

// ---- the model

#[derive(Clone, Debug)]
enum Op {
    /// A message of this length, encoded for the client or shared.
    Push(usize, bool),
    Latest(usize),
    /// The socket is full, until the next delivery.
    Block,
    Deliver(usize),
    Acknowledge,
    ClientSends(bool),
    Cut,
    /// The frontend goes, and sends the client away; so many messages come before the connection has gone.
    Dismiss(usize),
    /// Whether the answer arrives, how much of what was sent with it if the client wants that, and whether the acknowledgement does.
    Resume(bool, Option<usize>, bool),
    /// The acknowledgement of the last answer, if it has not come yet.
    LateAcknowledgement,
    /// The same, with the token of a session that is gone or of another.
    Forge,
    Expire,
    Kick,
    BindElsewhere,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        8 => (prop_oneof![0..20_usize, 80..90_usize], any::<bool>()).prop_map(|(n, own)| Op::Push(n, own)),
        5 => (0..2_usize).prop_map(Op::Latest),
        3 => Just(Op::Block),
        6 => (1..9_usize).prop_map(Op::Deliver),
        3 => Just(Op::Acknowledge),
        4 => any::<bool>().prop_map(Op::ClientSends),
        3 => Just(Op::Cut),
        2 => (0..9_usize).prop_map(Op::Dismiss),
        6 => (prop::bool::weighted(0.8), prop::option::of(0..9_usize), prop::bool::weighted(0.5))
            .prop_map(|(answer, early, ack)| Op::Resume(answer, early, ack)),
        3 => Just(Op::LateAcknowledgement),
        1 => Just(Op::Forge),
        1 => Just(Op::Expire),
        1 => Just(Op::Kick),
        1 => Just(Op::BindElsewhere),
    ];
    prop::collection::vec(op, 1..120)
}

/// The expected behaviour of the server, as a list of all messages. The number of a message is its place.
#[derive(Default)]
struct Naive {
    all: Vec<(u32, Option<usize>)>,
    /// How many at the front are not kept any more.
    gone: usize,
    acked: usize,
    /// How many at the front were given to a connection.
    given: usize,
    is_blocked: bool,
    link: Link,
    received: u64,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
enum Link {
    #[default]
    Waiting,
    Early,
    Live,
    Away,
}

impl Link {
    fn is_sending(self) -> bool {
        matches!(self, Self::Early | Self::Live)
    }
}

impl Naive {
    fn push(&mut self, id: u32, key: Option<usize>) {
        let key = key.filter(|_| !self.link.is_sending() || self.is_blocked);
        if key.is_some() {
            let from = self.given.max(self.gone).min(self.all.len());
            let old = self.all[from..].iter().position(|known| known.1 == key);
            if let Some(old) = old {
                self.all.remove(from + old);
            }
        }
        self.all.push((id, key));
        self.bound();
    }

    fn bound(&mut self) {
        if self.link != Link::Waiting {
            self.gone = self.gone.max(self.all.len().saturating_sub(MAX_MESSAGES));
        }
    }

    fn acknowledge(&mut self, n: u64) {
        self.acked = n as usize;
        self.gone = self.gone.max(self.acked);
    }

    fn lose(&mut self) {
        self.link = Link::Away;
        self.is_blocked = false;
        self.bound();
    }

    fn give(&mut self) {
        self.given = self.all.len();
        self.is_blocked = false;
    }
}

struct Pair {
    service: SessionService,
    session: Arc<Session>,
    naive: Naive,
    wire: VecDeque<u8>,
    /// The server's answer on the latest connection has arrived, and so does what follows it.
    hears: bool,
    token: String,
    received: u64,
    sent: u64,
    told: u64,
    next: u32,
    secrets: u32,
    heard: Heard,
}

#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<&'static str>>>);

impl SessionEvents for Heard {
    fn suspended(&self, _: &Arc<Session>) {
        self.0.lock().unwrap().push("suspended");
    }

    fn resumed(&self, _: &Arc<Session>) {
        self.0.lock().unwrap().push("resumed");
    }

    fn closed(&self, _: &Arc<Session>, _: &CloseReason) {
        self.0.lock().unwrap().push("closed");
    }
}

impl Pair {
    fn new() -> Self {
        let resume = ResumeConfig::default().max_messages(MAX_MESSAGES).ack(3);
        let config = config(resume).outbox_bytes(1 << 20);
        let frontend = FrontendId::new("f").unwrap();
        let service = SessionService::new(frontend, SidAllocator::new(1, 1), config);
        let heard = Heard::default();
        service.set_events(Arc::new(heard.clone()));
        let (session, token) = joined(&service, 0);
        session.bind(Uid::new("ann").unwrap()).unwrap();
        Self {
            service,
            session,
            naive: Naive {
                link: Link::Live,
                ..Naive::default()
            },
            wire: VecDeque::new(),
            hears: true,
            token,
            received: 0,
            sent: 0,
            told: 0,
            next: 0,
            secrets: 1,
            heard,
        }
    }

    /// The client gets a new session.
    fn restart(&mut self, why: ResumeRefusal) {
        let old = back(&self.token, self.received, self.sent);
        let found = self.service.find_resumable(&old, Dialect::Pomelo);
        assert_eq!(found.err(), Some(why));
        assert_eq!(self.heard.0.lock().unwrap().pop(), Some("closed"));
        *self = Self::new();
    }

    fn run(&mut self, op: &Op) {
        match *op {
            Op::Push(len, own) => self.push(len, own),
            Op::Latest(key) => {
                self.next += 1;
                let package = data(self.next, 70);
                let name = Arc::from(KEYS[key]);
                self.session.offer(package, latest(&name)).unwrap();
                self.naive.push(self.next, Some(key));
            }
            Op::Block => {
                if self.naive.link.is_sending() {
                    self.session.outbox().begin_poll(Waker::noop());
                    assert!(!self.session.outbox().end_poll(Flush::Blocked));
                    self.naive.is_blocked = true;
                }
            }
            Op::Deliver(n) => self.deliver(n),
            Op::Acknowledge => {
                if self.naive.link == Link::Live {
                    assert_eq!(self.session.acknowledged(self.received), Ok(()));
                    self.naive.acknowledge(self.received);
                    let (low, high) = (self.naive.acked as u64, self.naive.all.len() as u64);
                    assert!(self.session.acknowledged(high + 1).is_err());
                    assert!(low == 0 || self.session.acknowledged(low - 1).is_err());
                }
            }
            Op::ClientSends(arrives) => {
                self.sent += 1;
                if self.naive.link == Link::Live && arrives && self.sent == self.naive.received + 1
                {
                    self.naive.received += 1;
                    let owes = self.session.took();
                    assert_eq!(owes, self.naive.received - self.told >= 3);
                    if owes {
                        assert_eq!(self.session.acknowledgement(), Some(self.naive.received));
                        assert_eq!(self.session.acknowledgement(), None);
                        self.told = self.naive.received;
                    }
                }
            }
            Op::Cut => self.cut(),
            Op::Dismiss(messages) => self.dismiss(messages),
            Op::Resume(answer, early, ack) => self.resume(answer, early, ack),
            Op::LateAcknowledgement => {
                if self.hears && matches!(self.naive.link, Link::Waiting | Link::Early) {
                    self.go_live();
                }
            }
            Op::Forge => self.forge(),
            Op::Expire => {
                if self.naive.link == Link::Away {
                    assert!(self.session.expire());
                    assert_eq!(self.session.close_reason(), Some(lost()));
                    self.restart(ResumeRefusal::Expired);
                }
            }
            Op::Kick => {
                assert_eq!(self.service.kick("ann", None), 1);
                self.restart(ResumeRefusal::Unknown);
            }
            Op::BindElsewhere => self.bind_elsewhere(),
        }
    }

    fn push(&mut self, len: usize, own: bool) {
        self.next += 1;
        let package = data(self.next, len);
        if own {
            let copy = |out: &mut BytesMut| {
                out.extend_from_slice(&package);
                Ok::<_, ()>(())
            };
            self.session.send_with(copy).unwrap();
        } else {
            self.session.send(package).unwrap();
        }
        self.naive.push(self.next, None);
    }

    fn deliver(&mut self, n: usize) {
        if !self.naive.link.is_sending() {
            assert!(take(&self.session).is_empty(), "nobody is there");
            return;
        }
        let mut drained = Drained::default();
        self.session.outbox().begin_poll(Waker::noop());
        assert_eq!(self.session.outbox().take(&mut drained), Next::Continue);
        self.naive.give();
        let bytes = drained.copy_to_bytes(drained.remaining());
        self.session.outbox().written(bytes.len());
        if !self.hears {
            return;
        }
        self.wire.extend(bytes);
        for _ in 0..n {
            let Some(id) = next_id(&mut self.wire) else {
                return;
            };
            assert_eq!(id, self.naive.all[self.received as usize].0);
            self.received += 1;
        }
    }

    fn cut(&mut self) {
        self.wire.clear();
        if self.naive.link != Link::Away {
            lose(&self.session);
            self.naive.lose();
        }
        assert_eq!(self.session.state(), SessionState::Suspended);
        let suspended = self
            .session
            .resumable()
            .filter(|state| state.suspended.is_some())
            .unwrap();
        assert_eq!(
            suspended.kept_messages,
            self.naive.all.len() - self.naive.gone
        );
    }

    fn dismiss(&mut self, messages: usize) {
        let has_connection = self.naive.link != Link::Away;
        let before = self.service.resume_statistics().dismissed;
        assert_eq!(self.session.dismiss(), has_connection);
        assert_eq!(
            self.session
                .resumable()
                .is_some_and(|state| state.is_dismissed),
            has_connection
        );
        assert!(!self.session.dismiss(), "once");
        let dismissed = self.service.resume_statistics().dismissed;
        assert_eq!(dismissed - before, u64::from(has_connection));
        if has_connection {
            self.naive.give();
            self.naive.link = Link::Away;
            self.naive.bound();
        }
        for n in 0..messages {
            self.push(10, n % 2 == 0);
        }
        if has_connection {
            let mut drained = Drained::default();
            assert_eq!(self.session.outbox().take(&mut drained), Next::Release);
            lose(&self.session);
            assert!(
                !self
                    .session
                    .resumable()
                    .is_some_and(|state| state.is_dismissed)
            );
        }
        self.cut();
    }

    fn resume(&mut self, answer: bool, early: Option<usize>, acknowledgement: bool) {
        self.wire.clear();
        let n = self.secrets;
        self.secrets += 1;
        let back = back(&self.token, self.received, self.sent);
        let (session, resumption) = take_over(&self.service, &back, n).expect("its token");
        assert!(Arc::ptr_eq(&session, &self.session));
        self.naive.lose();
        self.naive.acknowledge(self.received);
        self.naive.link = Link::Waiting;
        if early.is_some() {
            session.send_early();
            self.naive.link = Link::Early;
            self.naive.give();
        }
        let position = self.received.max(self.naive.gone as u64);
        let expected = Resumption {
            received: self.naive.received,
            position,
            missed: position - self.received,
        };
        assert_eq!(resumption, expected);
        self.told = self.naive.received;
        self.hears = answer;
        if !answer {
            // The connection stays as it is until it is cut, or the client returns.
            return;
        }
        self.received = position;
        self.token = secret(n).token(self.session.id());
        if let Some(arrive) = early {
            self.deliver(arrive);
        }
        if acknowledgement {
            self.go_live();
        }
    }

    /// The client's acknowledgement of the answer arrives.
    fn go_live(&mut self) {
        assert!(self.session.go_live(&ClientInfo::default()));
        if self.naive.link == Link::Waiting {
            self.naive.give();
        }
        self.naive.link = Link::Live;
        self.naive.bound();
        // The client sends again what the server has not.
        while self.naive.received < self.sent {
            self.naive.received += 1;
            self.session.took();
        }
        self.session.acknowledgement();
        self.told = self.naive.received;
    }

    fn forge(&self) {
        let (token, n, m) = (&self.token, self.received, self.sent);
        let mut other = token.clone().into_bytes();
        let last = other.len() - 1;
        other[last] = if other[last] == b'0' { b'1' } else { b'0' };
        let other = String::from_utf8(other).unwrap();
        let find = |back: &Credentials| self.service.find_resumable(back, Dialect::Pomelo).err();
        for forged in [&other[..], &token[1..], "", &token.to_uppercase()] {
            if forged != token {
                assert_eq!(
                    find(&back(forged, n, m)),
                    Some(ResumeRefusal::Unknown),
                    "{forged}"
                );
            }
        }
        let changed = self
            .service
            .find_resumable(&back(token, n, m), Dialect::Pitaya);
        assert_eq!(changed.err(), Some(ResumeRefusal::Changed));
        // Counts that cannot be.
        let sent = self.naive.all.len() as u64;
        for (received, sent) in [(sent + 1, m), (u64::MAX, m)] {
            let back = back(token, received, sent);
            let claimed = self
                .session
                .claim(self.service.next_claim(), &back, Waker::noop());
            assert_eq!(claimed.err(), Some(ResumeRefusal::Unknown));
        }
    }

    fn bind_elsewhere(&mut self) {
        let other = self.service.create(ClientInfo::default());
        let bound = self.service.bind(other.id(), Uid::new("ann").unwrap());
        if self.session.state() == SessionState::Open {
            assert!(bound.is_err());
            other.close(CloseReason::ClientClosed);
            self.heard.0.lock().unwrap().pop();
        } else {
            assert_eq!(bound, Ok(()));
            assert_eq!(self.session.close_reason(), Some(CloseReason::Replaced));
            other.close(CloseReason::ClientClosed);
            self.heard.0.lock().unwrap().pop();
            self.restart(ResumeRefusal::Unknown);
        }
    }

    /// The client comes back a last time: it has all that was not told to be missing.
    fn end(mut self) {
        self.resume(true, None, true);
        self.deliver(1000);
        assert_eq!(self.received, self.naive.all.len() as u64);
        assert_eq!(self.naive.received, self.sent);
        // suspended and resumed take turns.
        let heard = self.heard.0.lock().unwrap().clone();
        let events: Vec<_> = heard
            .into_iter()
            .filter(|event| *event != "closed")
            .collect();
        for pair in events.chunks(2) {
            assert_eq!(pair, ["suspended", "resumed"]);
        }
        self.session.close(CloseReason::ClientClosed);
        let left = self.service.resume_statistics();
        assert_eq!((left.kept_bytes, left.suspended), (0, 0), "{left:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn client_and_server_agree_whatever_happens(ops in ops()) {
        let mut pair = Pair::new();
        for op in ops {
            pair.run(&op);
        }
        pair.end();
    }
}

// ---- cases

fn send(session: &Arc<Session>, ids: std::ops::RangeInclusive<u32>, filler: usize) {
    for id in ids {
        session.send(data(id, filler)).unwrap();
    }
}

/// Comes back, and what is sent again.
fn resumed(service: &SessionService, back: &Credentials, n: u32) -> (Resumption, Vec<u32>) {
    let (session, resumption) = take_over(service, back, n).unwrap();
    assert!(session.go_live(&ClientInfo::default()));
    (resumption, take(&session))
}

/// A package that was queued early and not taken is neither sent nor counted when a newer one of its key comes, also after the acknowledgement.
#[test]
fn what_is_queued_early_may_be_superseded_after_the_acknowledgement() {
    let service = service_with(ResumeConfig::default());
    let (session, token) = joined(&service, 1);
    lose(&session);
    take_over(&service, &back(&token, 0, 0), 2).unwrap();
    session.send_early();
    session.outbox().begin_poll(Waker::noop());
    assert!(!session.outbox().end_poll(Flush::Blocked));
    let key = Arc::from("x");
    session.offer(data(1, 70), latest(&key)).unwrap();
    assert!(session.go_live(&ClientInfo::default()));
    session.offer(data(2, 70), latest(&key)).unwrap();
    assert_eq!(take(&session), [2]);
    assert!(session.acknowledged(2).is_err());
    assert_eq!(session.acknowledged(1), Ok(()));
}

/// Until the client acknowledges the answer its session counts as suspended: a login elsewhere closes it, and too many suspended ones do not.
#[test]
fn an_answer_that_is_not_acknowledged_leaves_the_session_suspended() {
    for early in [false, true] {
        let service = service_with(ResumeConfig::default().max_suspended(1));
        let (session, token) = joined(&service, 1);
        lose(&session);
        take_over(&service, &back(&token, 0, 0), 2).unwrap();
        if early {
            session.send_early();
        }
        for n in [3, 4] {
            lose(&joined(&service, n).0);
        }
        assert_eq!(session.state(), SessionState::Suspended, "early: {early}");
        assert!(session.close_suspended(CloseReason::Replaced));
        assert_eq!(session.close_reason(), Some(CloseReason::Replaced));
    }
}

#[test]
fn a_client_that_never_acknowledges_is_bounded_in_messages_and_bytes() {
    for (max_messages, max_bytes, kept) in [(5, 1 << 20, 5), (1000, 12 * 108, 12)] {
        let service = service_with(
            ResumeConfig::default()
                .max_messages(max_messages)
                .max_bytes(max_bytes),
        );
        let (session, token) = joined(&service, 1);
        for id in 1..=100 {
            send(&session, id..=id, 100);
            assert_eq!(take(&session), [id], "the connection notices nothing");
        }
        assert_eq!(service.resume_statistics().kept_bytes, kept * 108);
        let (resumption, again) = resumed(&service, &back(&token, 10, 0), 2);
        let (first, missed) = (101 - kept as u32, 90 - kept as u64);
        assert_eq!(again, (first..=100).collect::<Vec<_>>());
        assert_eq!(
            (resumption.position, resumption.missed),
            (10 + missed, missed)
        );
        assert_eq!(service.resume_statistics().missed, missed);
    }
}

#[test]
fn all_sessions_together_are_bounded() {
    let service = service_with(ResumeConfig::default().max_total_bytes(1080));
    let sessions: Vec<_> = (0..4).map(|n| joined(&service, n)).collect();
    for id in 1..=20 {
        for (session, _) in &sessions {
            send(session, id..=id, 100);
            assert!(service.resume_statistics().kept_bytes <= 1080);
        }
    }
    for (session, _) in sessions {
        session.close(CloseReason::ClientClosed);
    }
    assert_eq!(service.resume_statistics().kept_bytes, 0);
}

#[test]
fn of_too_many_that_wait_the_one_that_waits_longest_ends() {
    let service = service_with(ResumeConfig::default().max_suspended(3));
    let sessions: Vec<_> = (0..5).map(|n| joined(&service, n)).collect();
    for (session, _) in &sessions {
        lose(session);
    }
    let states: Vec<_> = sessions
        .iter()
        .map(|(session, _)| session.state())
        .collect();
    let (closed, waits) = (SessionState::Closed, SessionState::Suspended);
    assert_eq!(states, [closed, closed, waits, waits, waits]);
    assert_eq!(sessions[0].0.close_reason(), Some(lost()));
    let statistics = service.resume_statistics();
    assert_eq!((statistics.evicted, statistics.suspended), (2, 3));
    // One that has come back does not count.
    resumed(&service, &back(&sessions[2].1, 0, 0), 9);
    assert_eq!(service.resume_statistics().suspended, 2);
    let (late, _) = joined(&service, 10);
    lose(&late);
    assert_eq!(sessions[3].0.state(), waits);
}

/// As many as the default allows, and some more.
#[test]
fn a_hundred_thousand_wait_and_not_one_more() {
    const MORE: usize = 500;
    let service = service_with(ResumeConfig::default());
    let most = ResumeConfig::default().max_suspended;
    let mut first = Vec::new();
    for n in 0..most + MORE {
        let (session, _) = joined(&service, n as u32);
        lose(&session);
        if n <= MORE {
            first.push(session);
        }
    }
    let statistics = service.resume_statistics();
    assert_eq!(
        (statistics.evicted, statistics.suspended),
        (MORE as u64, most)
    );
    assert_eq!(service.session_count(), most);
    // The oldest ones.
    let waits = first.iter().filter(|session| !session.is_closed());
    assert_eq!(waits.count(), 1);
    assert_eq!(first[MORE].state(), SessionState::Suspended);
}

#[test]
fn a_claimed_session_is_not_evicted_for_another() {
    let service = service_with(ResumeConfig::default().max_suspended(2));
    let all: Vec<_> = (0..5).map(|n| joined(&service, n)).collect();
    let session = |n: usize| &all[n].0;
    let states = || {
        let states = all.iter().map(|(session, _)| session.state());
        states.collect::<Vec<_>>()
    };
    let (open, closed, waits) = (
        SessionState::Open,
        SessionState::Closed,
        SessionState::Suspended,
    );
    lose(session(0));
    lose(session(1));
    // Its client has shown its token, and the connection that has the session has not let go yet.
    let back = back(&all[0].1, 0, 0);
    let number = service.next_claim();
    session(0).claim(number, &back, Waker::noop()).unwrap();
    lose(session(2));
    assert_eq!(states(), [waits, waits, waits, open, open]);
    lose(session(3));
    assert_eq!(states(), [waits, closed, waits, waits, open]);
    // It has the answer, and its acknowledgement is under way.
    assert!(session(0).hand_over(Box::new(())).is_ok());
    let claimed = session(0).poll_claim(number, Waker::noop());
    assert!(matches!(claimed, Claimed::Yours(_)));
    assert!(session(0).resume_from(&back, &secret(7)).is_some());
    lose(session(4));
    assert_eq!(states(), [waits, closed, closed, waits, waits]);
    assert_eq!(service.resume_statistics().suspended, 2);
    // It is lost again: it has waited for the longest time.
    assert!(session(0).suspend(&lost(), Millis(9)));
    assert_eq!(states(), [closed, closed, closed, waits, waits]);
    let statistics = service.resume_statistics();
    assert_eq!((statistics.evicted, statistics.suspended), (3, 2));
}

#[test]
fn a_handshake_that_is_not_acknowledged_keeps_everything_up_to_the_bound_of_the_outbox() {
    let service = service_with(ResumeConfig::default().max_messages(2));
    let (session, token) = joined(&service, 1);
    send(&session, 1..=5, 100);
    let (_, resumption) = take_over(&service, &back(&token, 3, 0), 2).unwrap();
    assert_eq!((resumption.position, resumption.missed), (3, 0));
    send(&session, 6..=30, 100);
    assert_eq!(kept_while_suspended(&session), 27);
    // The bound of the outbox: the connection has to go, and what was told does not hold any more.
    let mut drained = Drained::default();
    assert_eq!(session.outbox().take(&mut drained), Next::Continue);
    send(&session, 31..=50, 100);
    assert_eq!(session.outbox().take(&mut drained), Next::Release);
    lose_again(&session);
    let (resumption, again) = resumed(&service, &back(&token, 3, 0), 3);
    assert_eq!((resumption.position, resumption.missed), (48, 45));
    assert_eq!(again, [49, 50]);
}

#[test]
fn a_connection_that_another_frontend_has_accepted_stays() {
    let service = service_with(ResumeConfig::default());
    let (session, token) = joined(&service, 1);
    session.set_relayed();
    assert!(!session.dismiss());
    send(&session, 1..=1, 10);
    assert_eq!(take(&session), [1], "and is live");
    lose(&session);
    // The next one is no relay, unless it says so.
    let (_, again) = resumed(&service, &back(&token, 0, 0), 2);
    assert_eq!(again, [1]);
    assert!(session.dismiss() && session.resumable().is_some_and(|state| state.is_dismissed));
    lose(&session);
    assert_eq!(service.resume_statistics().dismissed, 1);
    // Without resumption there is nothing to come back to.
    let other = service.create(ClientInfo::default());
    assert!(!other.dismiss() && other.resumable().is_none());
    other.set_relayed();
}

fn lose_again(session: &Arc<Session>) {
    assert!(session.suspend(&lost(), Millis(9)));
    assert_eq!(
        session.resumable().unwrap().suspended,
        Some(Millis(5)),
        "the window goes on"
    );
}

#[test]
fn a_slow_client_loses_its_connection_and_not_its_session() {
    let service = service_with(ResumeConfig::default());
    let (session, token) = joined(&service, 1);
    session.outbox().begin_poll(Waker::noop());
    send(&session, 1..=1, 1000);
    let mut drained = Drained::default();
    assert_eq!(session.outbox().take(&mut drained), Next::Continue);
    assert!(!session.outbox().end_poll(Flush::Blocked));
    send(&session, 2..=10, 1000);
    assert_eq!(session.state(), SessionState::Open);
    session.outbox().begin_poll(Waker::noop());
    assert_eq!(session.outbox().take(&mut drained), Next::Release);
    lose(&session);
    let (resumption, again) = resumed(&service, &back(&token, 0, 0), 2);
    assert_eq!((resumption.missed, again.len()), (0, 10));
}

#[test]
fn the_later_connection_wins_whichever_the_application_is_done_with_first() {
    let service = service_with(ResumeConfig::default());
    let (session, token) = joined(&service, 1);
    lose(&session);
    let back = back(&token, 0, 0);
    let (first, second) = (service.next_claim(), service.next_claim());
    session.claim(second, &back, Waker::noop()).unwrap();
    session.claim(first, &back, Waker::noop()).unwrap();
    let poll = |number| session.poll_claim(number, Waker::noop());
    assert!(matches!(poll(first), Claimed::Superseded));
    assert!(session.hand_over(Box::new(())).is_ok());
    assert!(matches!(poll(second), Claimed::Yours(_)));
    assert!(
        session.hand_over(Box::new(())).is_err(),
        "nobody wants it any more"
    );
    // One that was handed over goes to the latest as well.
    let (third, fourth) = (service.next_claim(), service.next_claim());
    session.claim(third, &back, Waker::noop()).unwrap();
    assert!(session.hand_over(Box::new(3)).is_ok());
    session.claim(fourth, &back, Waker::noop()).unwrap();
    assert!(matches!(poll(third), Claimed::Superseded));
    assert!(matches!(poll(fourth), Claimed::Yours(_)));
}

/// A hand-over may contain values of the application, whose destructors must not run in a close on another thread.
#[test]
fn the_hand_over_of_a_parked_session_that_is_closed_is_left_to_its_task() {
    let service = service_with(ResumeConfig::default());
    let (session, token) = joined(&service, 1);
    lose(&session);
    let left = Arc::new(());
    let handover = Box::new(Arc::clone(&left));
    let Parking::Parked(number) = session.park(handover, Waker::noop()) else {
        panic!("no connection has claimed it");
    };
    assert!(session.close(CloseReason::kicked("go")));
    assert_eq!(Arc::strong_count(&left), 2, "the close has dropped it");
    let claim = session.claim(service.next_claim(), &back(&token, 0, 0), Waker::noop());
    assert_eq!(claim.err(), Some(ResumeRefusal::Unknown));
    let handover = session.unpark(number).expect("it is the task's");
    assert!(matches!(
        session.park(handover, Waker::noop()),
        Parking::Ended(_)
    ));
    assert_eq!(Arc::strong_count(&left), 1);
    assert!(session.unpark(number).is_none());
}

#[test]
fn what_was_handed_over_is_not_lost_when_the_session_ends() {
    for handed_first in [true, false] {
        let service = service_with(ResumeConfig::default());
        let (session, token) = joined(&service, 1);
        lose(&session);
        let number = service.next_claim();
        let back = back(&token, 0, 0);
        session.claim(number, &back, Waker::noop()).unwrap();
        if handed_first {
            assert!(session.hand_over(Box::new("work")).is_ok());
        }
        session.close(CloseReason::kicked("go"));
        if !handed_first {
            assert!(session.hand_over(Box::new("work")).is_err());
        }
        let Claimed::Closed(left) = session.poll_claim(number, Waker::noop()) else {
            panic!("it is closed");
        };
        assert_eq!(left.is_some(), handed_first);
        assert!(
            session
                .claim(service.next_claim(), &back, Waker::noop())
                .is_err()
        );
    }
}

#[test]
fn heartbeats_are_not_counted_and_a_kick_ends_what_is_kept() {
    let service = service_with(ResumeConfig::default());
    let (session, token) = joined(&service, 1);
    session
        .send(Bytes::from_static(b"\x03\x00\x00\x00"))
        .unwrap();
    // Several packages at once count one each.
    let many = [&data(1, 0)[..], b"\x03\x00\x00\x00", &data(2, 80)].concat();
    session.send(many.into()).unwrap();
    let mut drained = Drained::default();
    let _ = session.outbox().take(&mut drained);
    assert_eq!(drained.remaining(), 4 + 8 + 4 + 88);
    let (resumption, again) = resumed(&service, &back(&token, 1, 0), 2);
    assert_eq!((resumption.position, again), (1, vec![2]));
    let token = secret(2).token(session.id());
    service.kick_by_session_id(session.id(), None);
    let found = service.find_resumable(&back(&token, 1, 0), Dialect::Pomelo);
    assert_eq!(found.err(), Some(ResumeRefusal::Unknown));
    assert_eq!(
        session
            .resumable()
            .filter(|state| state.suspended.is_some()),
        None
    );
    assert!(!session.expire() && !session.suspend(&lost(), Millis(9)));
}

#[test]
fn what_is_for_the_connection_is_not_kept_while_there_is_none() {
    let service = service_with(ResumeConfig::default());
    let (session, token) = joined(&service, 1);
    send(&session, 1..=1, 0);
    lose(&session);
    session
        .send(Bytes::from_static(b"\x03\x00\x00\x00"))
        .unwrap();
    assert_eq!(kept_while_suspended(&session), 1);
    let (resumption, again) = resumed(&service, &back(&token, 0, 0), 2);
    assert_eq!((resumption.position, again), (0, vec![1]));
}

#[test]
fn an_acknowledgement_after_a_later_claim_does_not_lock_the_later_one_out() {
    let service = service_with(ResumeConfig::default());
    let (session, token) = joined(&service, 1);
    lose(&session);
    let back = back(&token, 0, 0);
    take_over(&service, &back, 2).unwrap();
    let later = service.next_claim();
    session.claim(later, &back, Waker::noop()).unwrap();
    assert!(!session.go_live(&ClientInfo::default()));
    assert!(session.hand_over(Box::new(())).is_ok());
    assert!(matches!(
        session.poll_claim(later, Waker::noop()),
        Claimed::Yours(_)
    ));
    assert!(session.resume_from(&back, &secret(3)).is_some());
}

#[test]
fn a_connection_rests_between_the_two_steps_of_a_close() {
    let service = service_with(ResumeConfig::default());
    let (session, token) = joined(&service, 1);
    let claim = service.next_claim();
    session
        .claim(claim, &back(&token, 0, 0), Waker::noop())
        .unwrap();
    session.outbox().begin_poll(Waker::noop());
    let (rested, rests) = mpsc::channel();
    let between = move |session: &Arc<Session>, _: &CloseReason| {
        let next = session.outbox().take(&mut Drained::default());
        let again = session.outbox().end_poll(Flush::Done);
        rested.send((next, again)).unwrap();
    };
    session.on_closed(between).unwrap();
    session.close(CloseReason::Removed);
    assert_eq!(rests.try_recv(), Ok((Next::Continue, false)));
}

#[test]
fn a_login_of_the_same_user_ends_only_a_session_that_still_waits() {
    let service = service_with(ResumeConfig::default());
    let (session, token) = joined(&service, 1);
    assert!(!session.close_suspended(CloseReason::Replaced));
    lose(&session);
    resumed(&service, &back(&token, 0, 0), 2);
    assert!(!session.close_suspended(CloseReason::Replaced));
    assert_eq!(session.state(), SessionState::Open);
    lose(&session);
    assert!(session.close_suspended(CloseReason::Replaced));
    assert_eq!(session.close_reason(), Some(CloseReason::Replaced));
    assert!(!session.close_suspended(CloseReason::Replaced));
}
