//! Random calls on the audiences of a [`SessionService`], compared with lists; and threads that join while others close.

// Tests panic on purpose.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

use proptest::prelude::*;
use shaddock_core::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

const USERS: [&str; 4] = ["ann", "bob", "eve", "constructor"];
const ROOMS: [&str; 3] = ["c/chat-1/1/lobby", "t/lobby", "t/\u{5927}\u{5385}"];

fn user(n: usize) -> Uid {
    Uid::new(USERS[n % USERS.len()]).unwrap()
}

fn service(config: SessionConfig) -> SessionService {
    let frontend = FrontendId::new("connector-1").unwrap();
    SessionService::new(frontend, SidAllocator::new(1, 1), config)
}

/// A session that can wait for its client.
fn resumable(service: &SessionService) -> Arc<Session> {
    let session = service.create_resumable(ClientInfo::default(), &ResumeSecret([7; 16]));
    assert!(session.go_live(&ClientInfo::default()));
    session
}

#[derive(Clone, Debug)]
enum Op {
    Create,
    Bind(usize, usize),
    Unbind(usize, usize),
    Close(usize),
    Kick(usize),
    Suspend(usize),
    /// The view of a session says which user it has: perhaps another one by now.
    JoinBy(usize, usize, usize),
    Join(usize, usize),
    Leave(usize, usize),
    LeaveTopics(usize),
    End(usize),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let (s, u, r) = (0..8_usize, 0..USERS.len(), 0..ROOMS.len());
    let op = prop_oneof![
        3 => Just(Op::Create),
        4 => (s.clone(), u.clone()).prop_map(|(s, u)| Op::Bind(s, u)),
        2 => (s.clone(), u.clone()).prop_map(|(s, u)| Op::Unbind(s, u)),
        2 => s.clone().prop_map(Op::Close),
        1 => u.clone().prop_map(Op::Kick),
        1 => s.clone().prop_map(Op::Suspend),
        6 => (s, u.clone(), r.clone()).prop_map(|(s, u, r)| Op::JoinBy(s, u, r)),
        3 => (u.clone(), r.clone()).prop_map(|(u, r)| Op::Join(u, r)),
        3 => (u.clone(), r.clone()).prop_map(|(u, r)| Op::Leave(u, r)),
        1 => u.prop_map(Op::LeaveTopics),
        1 => r.prop_map(Op::End),
    ];
    prop::collection::vec(op, 1..100)
}

/// The state that a listener of changes derives from the changes alone.
#[derive(Default)]
struct Told(Mutex<BTreeMap<String, BTreeSet<String>>>);

impl SessionEvents for Told {
    fn audience_changed(&self, change: &AudienceChange) {
        let mut rooms = self.0.lock().unwrap();
        let room = rooms.entry(change.audience.to_string()).or_default();
        let uid = change.uid.to_string();
        let made_sense = match change.departure {
            None => room.insert(uid),
            Some(_) => room.remove(&uid),
        };
        assert!(made_sense, "{change:?}");
    }
}

/// One session as the lists know it.
struct One {
    session: Arc<Session>,
    user: Option<usize>,
    is_open: bool,
}

struct World {
    service: SessionService,
    told: Arc<Told>,
    all: Vec<One>,
    /// By room, in the order of joining.
    members: [Vec<usize>; ROOMS.len()],
    limit: usize,
    single: bool,
}

impl World {
    fn new(limit: usize, single: bool) -> Self {
        let service = service(
            SessionConfig::default()
                .max_memberships(limit)
                .sessions_per_user(if single {
                    SessionsPerUser::One(Conflict::ReplaceOld)
                } else {
                    SessionsPerUser::Any
                }),
        );
        let told = Arc::new(Told::default());
        service.set_events(told.clone());
        service.watch_audiences(true);
        Self {
            service,
            told,
            all: vec![],
            members: Default::default(),
            limit,
            single,
        }
    }

    fn has(&self, user: usize) -> bool {
        self.all
            .iter()
            .any(|one| one.is_open && one.user == Some(user))
    }

    fn forget_users_without_session(&mut self) {
        let gone: Vec<usize> = (0..USERS.len()).filter(|user| !self.has(*user)).collect();
        for user in gone {
            for room in &mut self.members {
                room.retain(|member| *member != user);
            }
        }
    }

    fn expect_join(&self, user: usize, room: usize) -> Result<bool, NotJoined> {
        if !self.has(user) {
            return Err(NotJoined::Closed);
        }
        if self.members[room].contains(&user) {
            return Ok(false);
        }
        let rooms = self.members.iter().filter(|room| room.contains(&user));
        if rooms.count() >= self.limit {
            return Err(NotJoined::TooMany { limit: self.limit });
        }
        Ok(true)
    }

    fn joined(
        &mut self,
        uid: usize,
        room: usize,
        sid: Option<Sid>,
        expected: &Result<bool, NotJoined>,
    ) {
        let found = self.service.join(ROOMS[room], &user(uid), sid, None);
        assert_eq!(found, *expected);
        if *expected == Ok(true) {
            self.members[room].push(uid);
        }
    }

    fn apply(&mut self, op: &Op) {
        let count = self.all.len().max(1);
        match *op {
            Op::Create => self.all.push(One {
                session: resumable(&self.service),
                user: None,
                is_open: true,
            }),
            Op::Bind(s, u) => {
                let Some(one) = self.all.get(s % count) else {
                    return;
                };
                if one.session.bind(user(u)).is_ok() {
                    let fresh = one.user.is_none();
                    if self.single && fresh {
                        for rival in &mut self.all {
                            rival.is_open &= rival.user != Some(u);
                        }
                    }
                    self.all[s % count].user = Some(u);
                }
            }
            Op::Unbind(s, u) => {
                let Some(one) = self.all.get_mut(s % count) else {
                    return;
                };
                if one.session.unbind(&user(u)).is_ok() {
                    one.user = None;
                }
            }
            Op::Close(s) => {
                let Some(one) = self.all.get_mut(s % count) else {
                    return;
                };
                one.session.close(CloseReason::ClientClosed);
                one.is_open = false;
            }
            Op::Kick(u) => {
                self.service.kick(USERS[u], None);
                for one in &mut self.all {
                    one.is_open &= one.user != Some(u);
                }
            }
            // A session that waits for its client is a session.
            Op::Suspend(s) => {
                let Some(one) = self.all.get(s % count) else {
                    return;
                };
                let lost = CloseReason::Transport(std::io::ErrorKind::ConnectionReset);
                one.session.suspend(&lost, Millis(5));
            }
            Op::JoinBy(s, u, room) => {
                let Some(one) = self.all.get(s % count) else {
                    return;
                };
                let expected = match (one.is_open, one.user) {
                    (false, _) => Err(NotJoined::Closed),
                    (true, bound) if bound == Some(u) => self.expect_join(u, room),
                    _ => Err(NotJoined::NotBound),
                };
                let sid = one.session.id();
                self.joined(u, room, Some(sid), &expected);
            }
            Op::Join(u, room) => self.joined(u, room, None, &self.expect_join(u, room)),
            Op::Leave(u, room) => {
                let before = self.members[room].len();
                self.members[room].retain(|member| *member != u);
                let left = self.service.leave(ROOMS[room], &user(u));
                assert_eq!(left, self.members[room].len() < before);
            }
            Op::LeaveTopics(u) => {
                let mut expected = 0;
                for (name, room) in ROOMS.iter().zip(&mut self.members) {
                    if name.starts_with("t/") {
                        expected += usize::from(room.contains(&u));
                        room.retain(|member| *member != u);
                    }
                }
                let names = self.service.audiences_of(USERS[u]);
                let left = names.iter().filter(|name| name.starts_with("t/"));
                let left = left.filter(|name| self.service.leave(name, &user(u)));
                assert_eq!(left.count(), expected);
            }
            Op::End(room) => {
                let ended = self.service.end_audience(ROOMS[room]);
                assert_eq!(ended, self.members[room].len());
                self.members[room].clear();
            }
        }
        self.forget_users_without_session();
    }

    fn check(&self) {
        let mut names = Vec::new();
        for (name, members) in ROOMS.iter().zip(&self.members) {
            let uids: Vec<Uid> = members.iter().map(|n| user(*n)).collect();
            let mut found = self.service.audience(name);
            assert_eq!(self.service.audience_len(name), uids.len());
            // A member whose first session has gone is listed where the next one was added.
            found.sort();
            let mut sorted = uids.clone();
            sorted.sort();
            assert_eq!(found, sorted);
            for uid in &USERS {
                let is_in = uids.iter().any(|member| member == uid);
                let names = self.service.audiences_of(uid);
                assert_eq!(names.iter().any(|known| **known == **name), is_in);
            }
            // A push reaches each open session of each member once, and no other session.
            let mut reached = Vec::new();
            assert_eq!(
                self.service
                    .visit_audience(name, |session| reached.push(session.id())),
                uids.len()
            );
            reached.sort();
            let hears = |one: &&One| one.is_open && one.user.is_some_and(|u| members.contains(&u));
            let mut expected: Vec<Sid> = self
                .all
                .iter()
                .filter(hears)
                .map(|one| one.session.id())
                .collect();
            expected.sort();
            assert_eq!(reached, expected);
            let told = self.told.0.lock().unwrap().get(*name).cloned();
            let told: Vec<String> = told.unwrap_or_default().into_iter().collect();
            let mut texts: Vec<String> = uids.iter().map(ToString::to_string).collect();
            texts.sort();
            assert_eq!(told, texts, "as the changes say");
            if !uids.is_empty() {
                names.push((*name).to_owned());
            }
        }
        let mut there: Vec<String> = self
            .service
            .audiences(|_| true)
            .iter()
            .map(ToString::to_string)
            .collect();
        there.sort();
        names.sort();
        assert_eq!(there, names, "an audience without members does not exist");
        assert_eq!(self.service.statistics().listener_panics, 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn audiences_match_the_lists_of_a_model(ops in ops(), limit in 1..4_usize, single in any::<bool>()) {
        let mut world = World::new(limit, single);
        for op in &ops {
            world.apply(op);
            world.check();
        }
    }
}

#[test]
fn members_are_listed_in_the_order_of_joining() {
    let service = service(SessionConfig::default());
    let mut expected = Vec::new();
    for n in 0..300 {
        let uid = Uid::new(format!("user-{n}")).unwrap();
        service
            .create(ClientInfo::default())
            .bind(uid.clone())
            .unwrap();
        assert!(service.join("room", &uid, None, None).unwrap());
        expected.push(uid);
        if n % 3 != 0 {
            let gone = expected.remove(expected.len() / 2);
            assert!(service.leave("room", &gone));
        }
        assert_eq!(service.audience("room"), expected);
    }
}

/// A value that is tied to an audience lives exactly as long as the audience has members.
#[test]
fn a_tie_ends_with_the_last_member() {
    let service = service(SessionConfig::default());
    let session = service.create(ClientInfo::default());
    session.bind(user(0)).unwrap();
    let tie: Tie = Arc::new(());
    service.join("room", &user(0), None, Some(&tie)).unwrap();
    assert_eq!(Arc::strong_count(&tie), 2);
    session.close(CloseReason::ClientClosed);
    assert_eq!(Arc::strong_count(&tie), 1);
    assert_eq!(
        service.join("room", &user(0), None, Some(&tie)),
        Err(NotJoined::Closed)
    );
    assert_eq!(Arc::strong_count(&tie), 1, "a refused join keeps nothing");
}

struct Mix(u64);

impl Mix {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }
}

/// A few users come, join, leave and go on several threads. Whatever the interleaving: no member without a session, the changes tell a
/// true story, and nothing is left in the end.
#[test]
fn joins_that_race_with_closes_leave_no_ghost() {
    const THREADS: usize = 4;
    const ROUNDS: usize = 4000;
    for single in [false, true] {
        let service = service(SessionConfig::default().sessions_per_user(if single {
            SessionsPerUser::One(Conflict::ReplaceOld)
        } else {
            SessionsPerUser::Any
        }));
        let told = Arc::new(Told::default());
        service.set_events(told.clone());
        service.watch_audiences(true);
        let ties = Arc::new(AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (service, ties) = (&service, &ties);
                scope.spawn(move || {
                    let mut mix = Mix((thread as u64 + 1) * 0x9e37_79b9);
                    let mut mine: Vec<Arc<Session>> = Vec::new();
                    for _ in 0..ROUNDS {
                        if mine.len() < 4 {
                            mine.push(service.create(ClientInfo::default()));
                        }
                        let session = Arc::clone(&mine[mix.below(mine.len())]);
                        let (uid, room) =
                            (user(mix.below(USERS.len())), ROOMS[mix.below(ROOMS.len())]);
                        match mix.below(10) {
                            0..=2 => _ = session.bind(uid),
                            3 => _ = session.unbind(&uid),
                            4 => _ = session.close(CloseReason::ClientClosed),
                            5..=7 => {
                                let tie: Tie = Arc::new(Tied::new(ties));
                                let sid = mix.below(2).eq(&0).then_some(session.id());
                                let _ = service.join(room, &uid, sid, Some(&tie));
                            }
                            8 => _ = service.leave(room, &uid),
                            _ => _ = service.end_audience(room),
                        }
                        mine.retain(|session| !session.is_closed());
                    }
                });
            }
        });
        for room in ROOMS {
            let members = service.audience(room);
            assert_eq!(members.len(), service.audience_len(room));
            for uid in &members {
                assert!(
                    !service.get_by_uid(uid.as_str()).is_empty(),
                    "{uid} is a ghost"
                );
            }
            let told = told.0.lock().unwrap().get(room).map_or(0, BTreeSet::len);
            assert_eq!(told, members.len());
        }
        assert_eq!(
            service.audiences(|_| true).len(),
            ties.load(Ordering::Acquire)
        );
        service.close_all(&CloseReason::Draining);
        assert!(service.audiences(|_| true).is_empty());
        assert_eq!(ties.load(Ordering::Acquire), 0);
        assert_eq!(
            service.statistics().listener_panics,
            0,
            "the story was true"
        );
    }
}

/// Counts how many of it there are.
struct Tied(Arc<AtomicUsize>);

impl Tied {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(count))
    }
}

impl Drop for Tied {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Joins and leaves while the first change is dispatched, and records the changes.
#[derive(Default)]
struct Busy {
    service: std::sync::OnceLock<SessionService>,
    told: Mutex<Vec<(bool, u64)>>,
    lost: AtomicUsize,
}

const MANY: u64 = 70_000;

impl SessionEvents for Busy {
    fn audience_changed(&self, change: &AudienceChange) {
        let number = change.audience.parse().unwrap();
        let mut told = self.told.lock().unwrap();
        told.push((change.departure.is_none(), number));
        let is_first = told.len() == 1;
        drop(told);
        if is_first {
            let (service, ann) = (self.service.get().unwrap(), Uid::new("ann").unwrap());
            for n in 1..=MANY {
                let name = n.to_string();
                assert_eq!(service.join(name.as_str(), &ann, None, None), Ok(true));
                assert!(service.leave(&name, &ann));
            }
        }
    }

    fn audience_changes_lost(&self) {
        self.lost.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn waiting_changes_are_bounded_and_their_loss_is_reported() {
    let config = SessionConfig::default();
    let front = FrontendId::new("f").unwrap();
    let service = SessionService::new(front, SidAllocator::new(1, 1), config);
    let busy = Arc::new(Busy::default());
    busy.service.set(service.clone()).ok();
    service.set_events(busy.clone());
    service.watch_audiences(true);
    let session = service.create(ClientInfo::default());
    session.bind(Uid::new("ann").unwrap()).unwrap();
    service
        .join("0", &Uid::new("ann").unwrap(), None, None)
        .unwrap();
    let told = busy.told.lock().unwrap();
    assert_eq!(busy.lost.load(Ordering::Relaxed), 1);
    assert!(told.len() as u64 <= 65_536 + 1, "{}", told.len());
    // The changes after the loss are the last ones, without a gap.
    let rest = told.len() as u64 - 1;
    let all = (1..=MANY).flat_map(|n| [(true, n), (false, n)]);
    let expected: Vec<_> = all
        .skip(usize::try_from(2 * MANY - rest).unwrap())
        .collect();
    assert_eq!(told[1..], expected);
}
