//! Channels and topics with real NATS in between: many members on several frontends, who come and go while pushes are sent.
//!
//! By hand, for a minute, with 10,000 members:
//!
//! ```sh
//! MEMBERS=10000 PUSHES=50 CHURN=500 SECONDS=60 cargo test --release -p shaddock --all-features --test nats rooms_on_nats:: -- --ignored --nocapture
//! ```

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::Waker,
    time::{Duration, Instant},
};

use bytes::Buf;
use shaddock::{
    channel::{Channel, Departure, JoinError, Joined, MemberEvent},
    prelude::*,
};
use shaddock_core::{Drained, Flush, Session};

use crate::proxy::Proxy;
use crate::servers::Backing;
use crate::support::{
    Client, frontend, uid,
    wait::{breathe, eventually, until},
};

const FRONTENDS: [&str; 3] = ["connector-1", "connector-2", "connector-3"];
/// Tasks that let members in and out: each waits for one answer at a time.
const CHURNERS: usize = 8;
/// Pushes are numbers with so many digits, so that all packages are of one length.
const DIGITS: u64 = 1_000_000;

#[derive(Clone, Copy)]
struct Load {
    members: usize,
    pushes: u64,
    churn: u64,
    time: Duration,
    /// Whether pushes and churn must be as many as that: not on a machine that others use.
    at_full_rate: bool,
}

/// A room of either kind, as a server has it.
#[derive(Clone)]
enum Room {
    Channel(Channel),
    Topic(Topic),
}

impl Room {
    async fn join(&self, member: &Member) -> Result<Joined, JoinError> {
        match self {
            Self::Channel(channel) => channel.add(&member.uid, &member.frontend).await,
            Self::Topic(topic) => topic.add(&member.uid, &member.frontend).await,
        }
    }

    async fn leave(&self, member: &Member) -> bool {
        let (uid, frontend) = (member.uid.as_str(), member.frontend.as_str());
        let left = match self {
            Self::Channel(channel) => channel.leave(uid, frontend).await,
            Self::Topic(topic) => topic.leave(uid, frontend).await,
        };
        left.unwrap()
    }

    async fn push(&self, n: u64) {
        match self {
            Self::Channel(channel) => {
                let delivered = channel.push_message("onN", &(DIGITS + n)).await.unwrap();
                assert_eq!((delivered.failed.len(), delivered.missing_count()), (0, 0));
            }
            Self::Topic(topic) => topic.push("onN", &(DIGITS + n)).await.unwrap(),
        }
    }

    async fn len(&self) -> usize {
        match self {
            Self::Channel(channel) => channel.user_amount().await.unwrap(),
            Self::Topic(topic) => topic.len().await.unwrap(),
        }
    }
}

/// A client that is bound, and what it has read.
struct Member {
    session: Arc<Session>,
    uid: Uid,
    frontend: FrontendId,
    /// The first and the last number of this stay.
    read: Mutex<Option<(u64, u64)>>,
}

impl Member {
    /// Reads what there is: each number must follow the one before.
    fn read(&self) {
        let outbox = self.session.outbox();
        let mut drained = Drained::default();
        outbox.begin_poll(Waker::noop());
        let _ = outbox.take(&mut drained);
        let length = drained.remaining();
        let bytes = drained.copy_to_bytes(length);
        outbox.written(length);
        let _ = outbox.end_poll(Flush::Done);
        let mut read = self.read.lock().unwrap();
        for package in bytes
            .split(|byte| *byte == 4)
            .filter(|package| package.len() > 7)
        {
            let digits = &package[package.len() - 7..];
            let n: u64 = std::str::from_utf8(digits).unwrap().parse().unwrap();
            let n = n - DIGITS;
            *read = Some(match *read {
                None => (n, n),
                Some((first, last)) => {
                    assert_eq!(n, last + 1, "{} lost one, or got one twice", self.uid);
                    (first, n)
                }
            });
        }
    }
}

struct World {
    backing: Backing,
    running: Running,
    members: Vec<Arc<Member>>,
}

impl World {
    async fn start(count: usize) -> Self {
        let backing = Backing::start();
        let mut config = backing.config();
        // This test shows no failures, and the machine may be slow.
        config.lease_ttl = Duration::from_secs(60);
        config.request_timeout = Duration::from_secs(30);
        let cluster = shaddock::cluster::NatsCluster::new(config).unwrap();
        let mut servers = Servers::new();
        for id in FRONTENDS {
            servers = servers.add(frontend(id));
        }
        let mut chat = App::new("chat", "chat-1");
        chat.set(AppConfig::default().rpc_timeout(Duration::from_secs(30)));
        let running = servers.add(chat).cluster(cluster).start().await.unwrap();
        let chat = running.app("chat-1").unwrap();
        until("the frontends are listed", || {
            let members = chat.membership().unwrap().members();
            members.frontends().len() == FRONTENDS.len()
        })
        .await;
        let mut members = Vec::new();
        for n in 0..count {
            let id = FRONTENDS[n % FRONTENDS.len()];
            let app = running.app(id).unwrap();
            let session = Arc::clone(&Client::connect(app).session);
            let uid = uid(&format!("user-{n}"));
            app.bind(session.id(), uid.clone()).await.unwrap();
            members.push(Arc::new(Member {
                session,
                uid,
                frontend: FrontendId::new(id).unwrap(),
                read: Mutex::default(),
            }));
        }
        Self {
            backing,
            running,
            members,
        }
    }

    fn chat(&self) -> &AppHandle {
        self.running.app("chat-1").unwrap()
    }

    fn room(&self, is_topic: bool, name: &str) -> Room {
        if is_topic {
            Room::Topic(self.chat().topic(name))
        } else {
            Room::Channel(self.chat().channels().create(name).unwrap())
        }
    }

    /// Reads until each of these has read this number.
    async fn all_have(&self, members: &[Arc<Member>], n: u64) {
        let deadline = Instant::now() + Duration::from_secs(60);
        for member in members {
            loop {
                member.read();
                let last = member.read.lock().unwrap().map(|(_, last)| last);
                if last == Some(n) {
                    break;
                }
                assert!(
                    Instant::now() < deadline,
                    "{} has {last:?} of {n}",
                    member.uid
                );
                breathe().await;
            }
        }
    }

    /// No room has members, and no frontend has anything left of one.
    async fn nothing_is_left(self) {
        for member in &self.members {
            member.session.close(CloseReason::ClientClosed);
        }
        for id in FRONTENDS {
            let service = self.running.app(id).unwrap().session_service().unwrap();
            assert!(service.audiences(|_| true).is_empty(), "{id} has ghosts");
        }
        self.running.shutdown().await;
    }
}

/// Members stay or come and go while pushes are sent. Those who stay get each push once; those who come and go get each that is sent
/// while they are in. In the end all have left.
async fn under_load(is_topic: bool, load: Load) {
    let world = World::start(load.members).await;
    let room = world.room(is_topic, "lobby");
    let (goers, stayers) = world.members.split_at(load.members / 10);
    for some in stayers.chunks(256) {
        let joins: Vec<_> = some
            .iter()
            .map(|member| {
                let (room, member) = (room.clone(), Arc::clone(member));
                tokio::spawn(async move { room.join(&member).await.unwrap() })
            })
            .collect();
        for join in joins {
            assert!(join.await.unwrap().is_new());
        }
    }
    assert_eq!(room.len().await, stayers.len());

    let begun = Arc::new(AtomicU64::new(0));
    let is_over = Arc::new(AtomicBool::new(false));
    let groups = goers.chunks(goers.len().div_ceil(CHURNERS));
    let churns: Vec<_> = groups
        .map(|goers| {
            let (begun, is_over) = (Arc::clone(&begun), Arc::clone(&is_over));
            tokio::spawn(churn(room.clone(), goers.to_vec(), load, begun, is_over))
        })
        .collect();
    let readers: Vec<_> = [stayers.to_vec()]
        .into_iter()
        .map(|members| {
            let is_over = Arc::clone(&is_over);
            tokio::spawn(async move {
                while !is_over.load(Ordering::Acquire) {
                    for some in members.chunks(64) {
                        for member in some {
                            member.read();
                        }
                        tokio::task::yield_now().await;
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            })
        })
        .collect();
    let start = Instant::now();
    let (messages, bytes) = (world.backing.nats.messages(), world.backing.nats.bytes());
    let mut n = 0;
    let mut ticks =
        tokio::time::interval(Duration::from_secs(1) / u32::try_from(load.pushes).unwrap());
    while start.elapsed() < load.time {
        ticks.tick().await;
        n += 1;
        begun.store(n, Ordering::Release);
        room.push(n).await;
    }
    let took = start.elapsed();
    is_over.store(true, Ordering::Release);
    let mut churned = 0;
    for churn in churns {
        churned += churn.await.unwrap();
    }
    if load.at_full_rate {
        let times = |rate: u64| rate * load.time.as_secs() * 19 / 20;
        assert!(n >= times(load.pushes), "only {n} pushes in {took:?}");
        assert!(
            churned >= times(load.churn),
            "only {churned} joins and leaves in {took:?}"
        );
    }
    for reader in readers {
        reader.await.unwrap();
    }
    world.all_have(stayers, n).await;
    for member in stayers {
        assert_eq!(*member.read.lock().unwrap(), Some((1, n)), "{}", member.uid);
    }
    assert_eq!(room.len().await, stayers.len(), "who went has gone");
    let sent = world.backing.nats.messages() - messages;
    let (now_in, now_out) = world.backing.nats.bytes();
    println!(
        "{}: {} members who stay, {n} pushes and {churned} joins and leaves in {took:?}: 0 lost, 0 twice; NATS: {sent} messages, {} bytes in, {} out",
        if is_topic { "topic" } else { "channel" },
        stayers.len(),
        now_in - bytes.0,
        now_out - bytes.1,
    );
    world.nothing_is_left().await;
}

/// Lets members in and out, one after the other. What one reads of a stay must have no holes, and begin no later than with the first push after
/// the join; between two stays there is nothing.
async fn churn(
    room: Room,
    goers: Vec<Arc<Member>>,
    load: Load,
    begun: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
) -> u64 {
    let every = Duration::from_secs(1) * u32::try_from(CHURNERS).unwrap();
    let mut ticks = tokio::time::interval(every / u32::try_from(load.churn).unwrap());
    let mut in_since: Vec<Option<u64>> = vec![None; goers.len()];
    let mut done = 0;
    for at in (0..goers.len()).cycle() {
        let member = &goers[at];
        if is_over.load(Ordering::Acquire) && in_since.iter().all(Option::is_none) {
            return done;
        }
        let since_now = &mut in_since[at];
        ticks.tick().await;
        match since_now.take() {
            None if is_over.load(Ordering::Acquire) => continue,
            None => {
                member.read();
                assert_eq!(*member.read.lock().unwrap(), None, "{} is out", member.uid);
                assert!(room.join(member).await.unwrap().is_new());
                // Every push that begins from now on reaches them.
                *since_now = Some(begun.load(Ordering::Acquire) + 1);
            }
            Some(from) => {
                assert!(room.leave(member).await);
                member.read();
                if let Some((first, _)) = member.read.lock().unwrap().take() {
                    assert!(
                        first <= from,
                        "{} is in since {from} and got {first} first",
                        member.uid
                    );
                }
            }
        }
        done += 1;
    }
    done
}

fn small() -> Load {
    Load {
        members: 300,
        pushes: 20,
        churn: 100,
        time: Duration::from_secs(2),
        at_full_rate: false,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_loses_nothing_and_keeps_no_ghost() {
    under_load(true, small()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_loses_nothing_and_keeps_no_ghost() {
    under_load(false, small()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes, and a machine of its own"]
async fn many_members_for_a_minute() {
    let of = |key: &str, default: u64| {
        let set = std::env::var(key).ok();
        set.map_or(default, |text| text.parse().unwrap())
    };
    let load = Load {
        members: usize::try_from(of("MEMBERS", 10_000)).unwrap(),
        pushes: of("PUSHES", 50),
        churn: of("CHURN", 500),
        time: Duration::from_secs(of("SECONDS", 60)),
        at_full_rate: true,
    };
    under_load(true, load).await;
    under_load(false, load).await;
}

/// What a push costs on NATS does not depend on how many hear it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_is_as_long_for_many_as_for_few() {
    let world = World::start(600).await;
    for is_topic in [true, false] {
        let mut cost = Vec::new();
        for (name, count) in [("few", 3), ("many", 600)] {
            let room = world.room(is_topic, name);
            let members = &world.members[..count];
            for member in members {
                assert!(room.join(member).await.unwrap().is_new());
                *member.read.lock().unwrap() = None;
            }
            let (before, _) = world.backing.nats.bytes();
            for n in 1..=20 {
                room.push(n).await;
            }
            world.all_have(members, 20).await;
            cost.push(world.backing.nats.bytes().0 - before);
        }
        let (few, many) = (cost[0], cost[1]);
        assert!(
            many < few + few / 4,
            "{few} bytes for 3 members, {many} for 600"
        );
    }
    world.nothing_is_left().await;
}

/// The name of a room, and the reason of a departure.
type Line = (String, Option<Departure>);

/// How long that server waits for frontends.
const RPC_TIMEOUT: Duration = Duration::from_secs(1);

/// What the listeners of a chat server were told.
#[derive(Clone, Default)]
struct Told {
    lines: Arc<Mutex<Vec<Line>>>,
    /// Of the topic `room:first`, which is in no line.
    has_begun: Arc<AtomicBool>,
}

impl Told {
    /// A chat server that listens to one channel and to topics.
    fn listener(&self) -> App {
        let note = |told: Self| {
            move |_, event: MemberEvent| {
                if event.name() == "room:first" {
                    told.has_begun.store(true, Ordering::Release);
                } else {
                    let line = (event.name().to_owned(), event.departure());
                    told.lines.lock().unwrap().push(line);
                }
                async {}
            }
        };
        let mut chat = App::new("chat", "chat-1");
        chat.set(AppConfig::default().rpc_timeout(RPC_TIMEOUT));
        chat.on_channel("kept", note(self.clone()));
        chat.on_topic("room:", note(self.clone()));
        chat
    }
}

/// A frontend is cut off from NATS and etcd for longer than its lease and than it is waited for: it counts as dead, and its members are in no room. They are
/// still connected, and receive messages of their rooms again when it returns. Rooms that were destroyed meanwhile end. Listeners are
/// notified of both.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_of_a_frontend_that_was_away_are_in_their_rooms_again() {
    let backing = Backing::start();
    let (nats, etcd) = (
        Proxy::to(backing.nats.address).await,
        Proxy::to(backing.etcd.address).await,
    );
    let cluster = |config| shaddock::cluster::NatsCluster::new(config).unwrap();
    let behind = cluster(crate::servers::config(nats.address, etcd.address));
    let fronts = Servers::new().add(frontend("connector-1")).cluster(behind);
    let fronts = fronts.start().await.unwrap();
    let told = Told::default();
    // Told of both rooms, each time for the same reason.
    let is_told = async |why| {
        let expected = ["kept", "room:7"].map(|name| (name.to_owned(), why));
        until(&format!("told of {why:?}"), || {
            told.lines.lock().unwrap().len() >= expected.len()
        })
        .await;
        let mut lines = std::mem::take(&mut *told.lines.lock().unwrap());
        lines.sort_by(|one, other| one.0.cmp(&other.0));
        assert_eq!(lines, expected);
    };
    let chats = Servers::new()
        .add(told.listener())
        .cluster(cluster(backing.config()));
    let chats = chats.start().await.unwrap();
    let (front, chat) = (&fronts.apps()[0], &chats.apps()[0]);
    let knows = |one: &AppHandle, other| {
        let members = one.membership().unwrap().members();
        members.server(other).is_some()
    };
    until("each other", || {
        knows(chat, "connector-1") && knows(front, "chat-1")
    })
    .await;
    let mut ann = Client::connect(front);
    front.bind(ann.sid(), uid("ann")).await.unwrap();
    let here = FrontendId::new("connector-1").unwrap();
    let channel = chat.channels().create("kept").unwrap();
    let ended = chat.channels().create("ended").unwrap();
    let topic = chat.topic("room:7");
    // Who is in before a listener has begun is no news to it.
    let first = chat.topic("room:first");
    eventually("the listener has begun", async || {
        first.add(&uid("ann"), &here).await.unwrap();
        first.leave("ann", "connector-1").await.unwrap();
        told.has_begun.load(Ordering::Acquire)
    })
    .await;
    for joined in [
        channel.add(&uid("ann"), &here).await,
        ended.add(&uid("ann"), &here).await,
        topic.add(&uid("ann"), &here).await,
    ] {
        assert!(joined.unwrap().is_new());
    }
    assert_eq!(channel.user_amount().await.unwrap(), 1);
    is_told(None).await;

    nats.cut();
    etcd.cut();
    eventually("nobody is in", async || {
        matches!(channel.user_amount().await, Ok(0)) && matches!(topic.len().await, Ok(0))
    })
    .await;
    is_told(Some(Departure::FrontendLost)).await;
    let pushed = channel.push_message("onChannel", "nobody").await.unwrap();
    assert_eq!((pushed.queued, pushed.failed.len()), (0, 0), "{pushed:?}");
    assert!(chat.channels().destroy("ended"));
    // It is in the list again before NATS reaches it, for longer than a question to it may take.
    etcd.heal();
    until("listed again", || knows(chat, "connector-1")).await;
    tokio::time::sleep(RPC_TIMEOUT * 2).await;
    nats.heal();
    eventually("in again", async || {
        matches!(channel.user_amount().await, Ok(1)) && matches!(topic.len().await, Ok(1))
    })
    .await;
    is_told(None).await;
    channel.push_message("onChannel", &1).await.unwrap();
    topic.push("onTopic", &2).await.unwrap();
    let mut heard = Vec::new();
    eventually("both are heard", async || {
        heard.extend(ann.drain());
        heard.len() == 2
    })
    .await;
    eventually("what was destroyed has ended", async || {
        let service = front.session_service().unwrap();
        service.audiences(|key| key.ends_with("ended")).is_empty()
    })
    .await;
    assert_eq!(channel.members().await.unwrap().uids(), [uid("ann")]);
    chats.shutdown().await;
    fronts.shutdown().await;
}

/// A Pitaya frontend keeps no members: they are listed by name. When it is gone they have left, and later joins fail.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_by_name_leave_with_their_frontend() {
    let backing = Backing::start();
    let cluster = shaddock::cluster::NatsCluster::new(backing.config()).unwrap();
    let servers = Servers::new().add(App::new("chat", "chat-1"));
    let running = servers.cluster(cluster).start().await.unwrap();
    let chat = &running.apps()[0];
    let (key, go) = (
        "pitaya/servers/connector/go-1",
        FrontendId::new("go-1").unwrap(),
    );
    let value =
        r#"{"id":"go-1","type":"connector","metadata":null,"frontend":true,"hostname":"x"}"#;
    backing.etcd.etcdctl(&["put", key, value]);
    let is_known = || {
        let members = chat.membership().unwrap().members();
        members.server("go-1").is_some()
    };
    until("it is known", is_known).await;
    let rooms = ["one", "two"].map(|name| chat.channels().create(name).unwrap());
    for room in &rooms {
        assert!(room.add(&uid("ann"), &go).await.unwrap().is_new());
        assert_eq!(room.user_amount().await.unwrap(), 1);
    }
    backing.etcd.etcdctl(&["del", key]);
    for room in &rooms {
        eventually("ann has left", async || {
            matches!(room.user_amount().await, Ok(0))
        })
        .await;
        let joined = room.add(&uid("bob"), &go).await;
        assert!(matches!(joined, Err(JoinError::Remote(_))), "{joined:?}");
        assert_eq!(room.user_amount().await.unwrap(), 0);
    }
    running.shutdown().await;
}
