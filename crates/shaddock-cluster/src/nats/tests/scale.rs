//! A cluster of many servers and users in one process, to count what passes NATS: `docs/scale.md`.
//!
//! NATS is a stand-in that knows who is subscribed to what and counts messages and bytes. What servers decide is decided by the real parts (directory,
//! promises, interests, tables of users) and the bytes are those of the real messages. There are no sockets, no tasks and no etcd.
//!
//! CI runs a small size. The sizes of the guide: `SHADDOCK_SCALE=full cargo test -p shaddock-cluster --all-features --lib scale -- --nocapture`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::super::directory::{Directory, Plan, Question};
use super::super::encode::{RequestParts, SessionParts};
use super::super::interest::Interests;
use super::super::watches::Watches;
use super::super::wire::{
    self, MsgType, MultiPush, MultiPushAnswer, Op, OpAnswer, OpKind, RpcType, Stamp,
};
use super::super::{encode, subject};
use crate::owners::{Moment, Table};
use crate::{Conflict, Interest, RawSid, ServerId, ServerInfo, SessionsPerUser};

const TYPE: &str = "connector";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Size {
    frontends: usize,
    backends: usize,
    users: usize,
}

/// In how far the servers do what they do today.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// Every event to every server, every push to every frontend, two subscriptions for each user: as before there was a directory.
    Before,
    Several,
    Unique,
}

/// The counts.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Count {
    /// Sent to NATS.
    sent: u64,
    /// Passed on by NATS.
    passed_on: u64,
    /// Of both.
    bytes: u64,
}

/// The subscriptions of each server, and the messages that have passed.
#[derive(Default)]
struct Nats {
    /// Subscriptions to one subject.
    exact: HashMap<String, Vec<usize>>,
    /// Subscriptions of users, which only `Kind::Before` has: how many each server holds.
    of_users: HashMap<usize, usize>,
    count: Count,
    /// Messages that each server has sent and got since the last look.
    load: Vec<u64>,
}

impl Nats {
    fn subscribe(&mut self, server: usize, subject: &str) {
        let subject = subject.trim_end_matches(".>").to_owned();
        self.exact.entry(subject).or_default().push(server);
    }

    fn publish(&mut self, from: usize, subject: &str, payload: &Bytes) {
        let size = (subject.len() + payload.len()) as u64;
        let mut to = self.exact.get(subject);
        if to.is_none() && subject.starts_with("shaddock.") {
            // All that is for one server.
            let end = subject.match_indices('.').nth(2).map(|(at, _)| at);
            to = end.and_then(|end| self.exact.get(&subject[..end]));
        }
        let to = to.map_or(&[][..], Vec::as_slice);
        self.count.sent += 1;
        self.count.passed_on += to.len() as u64;
        self.count.bytes += size * (1 + to.len() as u64);
        self.load[from] += 1;
        for &server in to {
            self.load[server] += 1;
        }
    }

    fn subscriptions(&self) -> BTreeMap<usize, usize> {
        let mut each = BTreeMap::new();
        for server in self.exact.values().flatten() {
            *each.entry(*server).or_default() += 1;
        }
        for (server, n) in &self.of_users {
            *each.entry(*server).or_default() += n;
        }
        each
    }
}

struct Server {
    info: Arc<ServerInfo>,
    users: Table<()>,
    interests: Interests,
    watches: Watches,
    directory: Directory,
    is_dead: bool,
}

struct World {
    size: Size,
    kind: Kind,
    nats: Nats,
    /// First the frontends.
    servers: Vec<Server>,
    by_id: HashMap<ServerId, usize>,
    users: Vec<Arc<str>>,
    /// Where each user is.
    at: Vec<Option<usize>>,
    now: Moment,
}

fn reply(info: &ServerInfo, number: u64) -> String {
    format!("{}{number}", subject::answers(info, "0123456789abcdef"))
}

impl World {
    fn new(size: Size, kind: Kind) -> Self {
        let policy = if kind == Kind::Unique {
            SessionsPerUser::One(Conflict::ReplaceOld)
        } else {
            SessionsPerUser::Any
        };
        let mut world = Self {
            size,
            kind,
            nats: Nats::default(),
            servers: Vec::new(),
            by_id: HashMap::new(),
            users: (0..size.users)
                .map(|n| Arc::from(format!("user-{n:0>10}")))
                .collect(),
            at: vec![None; size.users],
            now: Moment(1),
        };
        for n in 0..size.frontends + size.backends {
            let (id, server_type) = if n < size.frontends {
                (format!("connector-{n}"), TYPE)
            } else {
                (format!("chat-{}", n - size.frontends), "chat")
            };
            let mut info = ServerInfo::new(&id, server_type, server_type == TYPE).unwrap();
            for flag in super::super::capabilities::CAPABILITIES {
                info.announce(flag);
            }
            if kind == Kind::Before {
                info.announce_interest(&Interest::all());
            }
            for subject in [
                subject::server(server_type, &id),
                subject::own_all(&info),
                subject::GOODBYES.to_owned(),
            ] {
                world.nats.subscribe(n, &subject);
            }
            if kind == Kind::Unique && info.frontend {
                world.nats.subscribe(n, &subject::bindings(TYPE));
            }
            if let Some((text, _)) = info.interest() {
                world.nats.subscribe(n, &subject::events(text));
            }
            world.by_id.insert(info.id.clone(), n);
            let directory = Directory::new(if kind == Kind::Before { 0 } else { 65_536 });
            world.servers.push(Server {
                info: Arc::new(info),
                users: Table::default(),
                interests: Interests::default(),
                watches: Watches::new(policy),
                directory,
                is_dead: false,
            });
        }
        world.nats.load = vec![0; world.servers.len()];
        world.read_interests();
        world
    }

    fn read_interests(&self) {
        let all: Vec<_> = self
            .servers
            .iter()
            .map(|server| Arc::clone(&server.info))
            .collect();
        for server in &self.servers {
            server.interests.read(&server.info, || all.clone());
        }
    }

    fn ask(&mut self, from: usize, to: usize, subject: &str, question: &Bytes, answer: &Bytes) {
        self.nats.publish(from, subject, question);
        if !self.servers[to].is_dead {
            let reply = reply(&self.servers[from].info, 1_000_000);
            self.nats.publish(to, &reply, answer);
        }
    }

    /// A bind or a close is told.
    fn tell(&mut self, frontend: usize, user: usize, kind: wire::EventKind) {
        let uid = &self.users[user];
        let subjects = self.servers[frontend].interests.subjects(TYPE, Some(uid));
        let event = wire::encode(&wire::Event {
            kind: kind as i32,
            frontend: self.servers[frontend].info.id.as_str().to_owned(),
            session: Some(wire::Session {
                id: i64::MAX,
                uid: uid.to_string(),
                data: Bytes::new(),
            }),
            text: String::new(),
            frontend_type: TYPE.to_owned(),
        });
        for subject in subjects {
            self.nats.publish(frontend, &subject, &event);
        }
    }

    fn backend_of(&self, user: usize) -> usize {
        self.size.frontends + user % self.size.backends
    }

    /// A client sends a message that a backend serves.
    fn request(&mut self, user: usize, uid: &str) {
        let (backend, frontend) = (self.backend_of(user), self.at[user].unwrap());
        let request = RequestParts {
            kind: RpcType::Sys,
            session: Some(SessionParts {
                sid: RawSid::new(i64::MAX as u64),
                uid,
                data: &Bytes::new(),
            }),
            id: 1,
            route: "chat.entry.login",
            body: &Bytes::from_static(b"{\"token\":\"0123456789abcdef\"}"),
            msg_type: MsgType::Request,
            frontend: self.servers[frontend].info.id.as_str(),
            metadata: &Bytes::from_static(b"{\"reqTimeout\":\"5s\",\"peer.id\":\"connector-1\",\"peer.service\":\"connector\"}"),
            stamp: Some(Stamp {
                clock: u64::MAX,
                sent: 3_600_000_000,
                scope: 1,
                revision: 1_000_000,
                era: 1_700_000_000,
            }),
        };
        let to = &self.servers[backend].info;
        let subject = subject::server(&to.server_type, to.id.as_str());
        let answer = encode::success(b"{\"code\":200}");
        self.ask(frontend, backend, &subject, &request.encode(), &answer);
        if self.kind == Kind::Unique && !uid.is_empty() {
            let from = self.servers[frontend].info.id.clone();
            let directory = &self.servers[backend].directory;
            directory.seen(TYPE, &Arc::clone(&self.users[user]), &from);
        }
    }

    /// A user connects to a frontend and sends a login to a backend, which binds the session; after that another request.
    fn log_in(&mut self, user: usize, frontend: usize) {
        self.at[user] = Some(frontend);
        let uid = Arc::clone(&self.users[user]);
        self.request(user, "");
        let backend = self.backend_of(user);
        let op = wire::encode(&Op {
            kind: OpKind::Bind as i32,
            sid: i64::MAX as u64,
            uid: uid.to_string(),
            timeout_ms: 5000,
            from: self.servers[backend].info.id.as_str().to_owned(),
            ..Op::default()
        });
        let subject = subject::operation(&self.servers[frontend].info);
        let done = encode::success(&wire::encode(&OpAnswer::default()));
        self.ask(backend, frontend, &subject, &op, &done);
        let sid = RawSid::new(user as u64 + 1).unwrap();
        let table = &mut self.servers[frontend].users;
        let (hold, ()) = table.begin(&uid, sid, SessionsPerUser::Any).unwrap();
        for watcher in self.servers[frontend].watches.of(&uid, self.now) {
            let to = self.by_id[&watcher];
            let here = wire::encode(&Op {
                kind: OpKind::Here as i32,
                uid: uid.to_string(),
                name: TYPE.to_owned(),
                from: self.servers[frontend].info.id.as_str().to_owned(),
                timeout_ms: 1000,
                ..Op::default()
            });
            let subject = subject::operation(&self.servers[to].info);
            self.ask(frontend, to, &subject, &here, &done);
            let id = self.servers[frontend].info.id.clone();
            let unique = self.kind == Kind::Unique;
            self.servers[to].directory.bound_at(TYPE, &uid, &id, unique);
        }
        let _ = self.servers[frontend].users.keep(&uid, &hold, true);
        if self.kind == Kind::Before {
            *self.nats.of_users.entry(frontend).or_default() += 2;
        }
        self.tell(frontend, user, wire::EventKind::Bound);
    }

    fn log_out(&mut self, user: usize) {
        let Some(frontend) = self.at[user].take() else {
            return;
        };
        let sid = RawSid::new(user as u64 + 1).unwrap();
        let _ = self.servers[frontend].users.unbind(&self.users[user], sid);
        if self.kind == Kind::Before {
            *self.nats.of_users.entry(frontend).or_default() -= 2;
        }
        self.tell(frontend, user, wire::EventKind::Closed);
    }

    /// A message to one frontend, and its answer: whether the user is there, and whether the sender will be told.
    fn send(&mut self, from: usize, to: usize, user: usize, watched: bool) -> (bool, bool) {
        let uid = Arc::clone(&self.users[user]);
        let id = self.servers[from].info.id.clone();
        let push = wire::encode(&MultiPush {
            route: "onChat".to_owned(),
            data: Bytes::from_static(&[b'x'; 100]),
            uids: vec![uid.to_string()],
            sids: Vec::new(),
            everybody: 0,
            watched_by: if watched {
                id.to_string()
            } else {
                String::new()
            },
            ..MultiPush::default()
        });
        let is_there = !self.servers[to].is_dead && self.at[user] == Some(to);
        let promised = watched
            && !self.servers[to].is_dead
            && self.servers[to]
                .watches
                .promise(std::slice::from_ref(&uid), &id, self.now);
        let answer = wire::encode(&MultiPushAnswer {
            queued: u64::from(is_there),
            missing_uids: if is_there {
                vec![]
            } else {
                vec![uid.to_string()]
            },
            watched: promised,
            ..MultiPushAnswer::default()
        });
        let subject = subject::multi_push(&self.servers[to].info);
        self.ask(from, to, &subject, &push, &answer);
        (is_there, promised)
    }

    fn ask_all(&mut self, from: usize, user: usize, question: Option<&Question>) -> bool {
        let mut found = Vec::new();
        let mut leased = true;
        for to in 0..self.size.frontends {
            if self.servers[to].is_dead {
                // It has left the list by now.
                continue;
            }
            let (is_there, promised) = self.send(from, to, user, question.is_some());
            leased &= promised;
            if is_there {
                found.push(self.servers[to].info.id.clone());
            }
        }
        let is_anywhere = !found.is_empty();
        if let Some(question) = question {
            let uid = &self.users[user];
            let found = HashMap::from([(Arc::clone(uid), found)]);
            let directory = &self.servers[from].directory;
            let uids = std::slice::from_ref(uid);
            directory.settle(
                TYPE,
                question,
                uids,
                found,
                leased,
                self.kind == Kind::Unique,
            );
        }
        is_anywhere
    }

    /// A backend pushes to one user by name. Whether it arrived.
    fn push(&mut self, user: usize) -> bool {
        let from = self.backend_of(user);
        if self.kind == Kind::Before {
            return self.ask_all(from, user, None);
        }
        let uid = Arc::clone(&self.users[user]);
        let uids = std::slice::from_ref(&uid);
        let is_there = |id: &ServerId| !self.servers[self.by_id[id]].is_dead;
        let unique = self.kind == Kind::Unique;
        let Plan {
            known,
            unknown,
            question,
            ..
        } = self.servers[from]
            .directory
            .plan(TYPE, uids, unique, is_there, self.now);
        if !unknown.is_empty() {
            return self.ask_all(from, user, Some(&question));
        }
        let mut arrived = false;
        let is_known = !known.is_empty();
        for (frontend, _) in known {
            let to = self.by_id[&frontend];
            let is_there = self.send(from, to, user, false).0;
            arrived |= is_there;
            if !is_there {
                self.servers[from].directory.missed(TYPE, &uid, &frontend);
            }
        }
        if is_known && !arrived {
            let question = self.servers[from].directory.ask_again(TYPE, uids, self.now);
            return self.ask_all(from, user, Some(&question));
        }
        arrived
    }

    /// The messages since the last call: all of them, and those that the busiest server had to send and read.
    fn take(&mut self) -> (Count, u64) {
        let most = self.nats.load.iter().copied().max().unwrap_or(0);
        self.nats.load.iter_mut().for_each(|load| *load = 0);
        (std::mem::take(&mut self.nats.count), most)
    }
}

/// One line of the table.
#[derive(Debug)]
struct Line {
    what: &'static str,
    times: u64,
    count: Count,
    busiest: u64,
}

fn story(size: Size, kind: Kind) -> (Vec<Line>, BTreeMap<usize, usize>) {
    let mut world = World::new(size, kind);
    let mut lines = Vec::new();
    let mut line = |world: &mut World, what, times: usize| {
        let (count, busiest) = world.take();
        lines.push(Line {
            what,
            times: times as u64,
            count,
            busiest,
        });
    };
    let all = size.users;
    for user in 0..all {
        world.log_in(user, user % size.frontends);
    }
    line(&mut world, "logins", all);
    let subscriptions = world.nats.subscriptions();
    for user in 0..all {
        let uid = Arc::clone(&world.users[user]);
        world.request(user, &uid);
    }
    line(&mut world, "requests", all);
    // Without unique sessions not to more users than frontends promise to tell of.
    let pushed = if kind == Kind::Unique {
        all
    } else {
        all.min(50_000)
    };
    for what in ["first pushes", "second pushes"] {
        for user in 0..pushed {
            assert!(world.push(user), "{what} {user}");
        }
        line(&mut world, what, pushed);
    }
    let dies = 0;
    let lost: Vec<_> = (0..all)
        .filter(|user| world.at[*user] == Some(dies))
        .collect();
    world.servers[dies].is_dead = true;
    for user in &lost {
        world.at[*user] = None;
    }
    for (n, user) in lost.iter().enumerate() {
        world.log_in(*user, 1 + n % (size.frontends - 1));
    }
    line(&mut world, "logins after a frontend died", lost.len());
    for user in &lost {
        assert!(world.push(*user), "they are found");
    }
    line(&mut world, "pushes to those", lost.len());
    for user in 0..all {
        world.log_out(user);
    }
    line(&mut world, "logouts", all);
    let some = (all / 20).min(50_000);
    world.now = world.now.after(Duration::from_secs(61));
    for what in ["pushes to users who are away", "the same again"] {
        for user in 0..some {
            assert!(!world.push(user));
        }
        line(&mut world, what, some);
    }
    (lines, subscriptions)
}

fn print(size: Size, kind: Kind, lines: &[Line], subscriptions: &BTreeMap<usize, usize>) {
    let most = subscriptions.values().copied().max().unwrap_or(0);
    println!("{kind:?}, {size:?}: at most {most} subscriptions in a server");
    println!("| what | how many | sent to NATS | passed on | for each | MB | busiest server |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for line in lines {
        let Count {
            sent,
            passed_on,
            bytes,
        } = line.count;
        let (each, rest) = (passed_on / line.times, passed_on * 10 / line.times % 10);
        println!(
            "| {} | {} | {sent} | {passed_on} | {each}.{rest} | {} | {} |",
            line.what,
            line.times,
            bytes / 1_000_000,
            line.busiest
        );
    }
}

#[test]
fn messages_do_not_grow_with_the_number_of_servers() {
    let is_full = std::env::var_os("SHADDOCK_SCALE").is_some_and(|scale| scale == "full");
    let small = Size {
        frontends: 10,
        backends: 10,
        users: 5000,
    };
    let full = Size {
        frontends: 100,
        backends: 100,
        users: 1_000_000,
    };
    let size = if is_full { full } else { small };
    let mut kinds = vec![Kind::Unique, Kind::Several];
    if !is_full {
        kinds.push(Kind::Before);
    }
    for kind in kinds {
        let (lines, subscriptions) = story(size, kind);
        print(size, kind, &lines, &subscriptions);
        let each = |what: &str| {
            let line = lines.iter().find(|line| line.what == what).unwrap();
            line.count.passed_on.div_ceil(line.times)
        };
        let frontends = size.frontends as u64;
        if kind == Kind::Before {
            // The same counting finds what was wrong.
            assert!(each("logins") > 2 * frontends && each("logouts") >= 2 * frontends);
            assert_eq!(each("second pushes"), 2 * frontends);
            continue;
        }
        // Two of them are the request.
        assert_eq!(each("logins") - 2 + each("logouts"), 2);
        assert!(subscriptions.values().all(|n| *n <= 5), "{subscriptions:?}");
        assert_eq!(each("the same again"), 0, "they are known to be nowhere");
        assert_eq!(each("second pushes"), 2);
        if kind == Kind::Unique {
            assert_eq!(each("first pushes"), 2, "a request came before");
        } else {
            assert_eq!(each("first pushes"), 2 * frontends, "all are asked");
        }
    }
}
