//! Clients that come back to another frontend than the one that has their session: cut again and again, round robin over the frontends of a type,
//! while a backend pushes. In process, and with real NATS in between.
//!
//! By hand, 1,000 clients with 10 cuts each:
//!
//! ```sh
//! CLIENTS=1000 CUTS=10 cargo test --release -p shaddock --all-features --test nats resume_elsewhere:: -- --ignored --nocapture
//! ```

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::BytesMut;
use serde_json::{Value, json};
use shaddock::{
    cluster::{Cluster, Interest, LocalCluster},
    prelude::*,
    session::{ClusterEventKind, ClusterSessionEvent, Conflict, SessionsPerUser},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::servers::Backing;
use crate::support::{
    roaming::{self, JOINED, PATIENCE, Ran},
    unreliable::{Fate, Fates, Unreliable},
    wait::until,
};

fn sessions() -> SessionConfig {
    let mut sessions = roaming::sessions();
    sessions.resume.ack = 8;
    sessions
}

fn connector(id: &str, ran: &Ran) -> App {
    roaming::connector(id, sessions(), ran)
}

/// A client that counts, as `docs/protocol/resume.md` says.
struct Roamer {
    name: String,
    addresses: Vec<SocketAddr>,
    turn: usize,
    stream: Option<TcpStream>,
    /// Read, and not taken.
    buffer: BytesMut,
    token: Option<String>,
    received: u64,
    told: u64,
    sent: u64,
    acked: u64,
    kept: VecDeque<Vec<u8>>,
    answers: Vec<u64>,
    pushes: Vec<u64>,
    resumed: u64,
    missed: u64,
    restarted: Vec<String>,
    /// What it says of itself; then what it was told.
    user: Value,
}

fn package(kind: u8, body: &[u8]) -> Vec<u8> {
    let [_, high, middle, low] = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[kind, high, middle, low], body].concat()
}

fn varint(mut n: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = u8::try_from(n & 0x7f).unwrap();
        n >>= 7;
        bytes.push(if n > 0 { low | 0x80 } else { low });
        if n == 0 {
            return bytes;
        }
    }
}

fn read_varint(bytes: &[u8]) -> (u64, usize) {
    let (mut n, mut length) = (0, 0);
    for byte in bytes {
        n |= u64::from(byte & 0x7f) << (7 * length);
        length += 1;
        if byte & 0x80 == 0 {
            break;
        }
    }
    (n, length)
}

impl Roamer {
    fn new(name: &str, addresses: &[SocketAddr], turn: usize) -> Self {
        Self {
            name: name.to_owned(),
            addresses: addresses.to_vec(),
            turn,
            stream: None,
            buffer: BytesMut::new(),
            token: None,
            received: 0,
            told: 0,
            sent: 0,
            acked: 0,
            kept: VecDeque::new(),
            answers: Vec::new(),
            pushes: Vec::new(),
            resumed: 0,
            missed: 0,
            restarted: Vec::new(),
            user: Value::Null,
        }
    }

    /// To the next frontend. False: the connection was lost at once.
    async fn connect(&mut self) -> bool {
        let address = self.addresses[self.turn % self.addresses.len()];
        self.turn += 1;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let resume = match &self.token {
            Some(token) => {
                json!({"v": 1, "token": token, "received": self.received, "sent": self.sent})
            }
            None => json!({"v": 1}),
        };
        let sys = json!({"type": "t", "version": "1", "resume": resume});
        let hello = json!({"sys": sys, "user": self.user}).to_string();
        if stream
            .write_all(&package(1, hello.as_bytes()))
            .await
            .is_err()
        {
            return false;
        }
        self.stream = Some(stream);
        self.buffer.clear();
        let Some((1, body)) = self.next().await else {
            self.stream = None;
            return false;
        };
        let answer: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(answer["code"], 200, "{answer}");
        self.user = answer["user"].clone();
        let resume = &answer["sys"]["resume"];
        let had = self
            .token
            .replace(resume["token"].as_str().unwrap().to_owned());
        let number = |name: &str| resume[name].as_u64().unwrap();
        if resume["resumed"] == true {
            self.resumed += 1;
            self.forget(number("received"));
            self.missed += number("missed");
            self.received = number("position");
            self.told = self.received;
        } else if had.is_some() {
            self.restarted.push(resume["why"].to_string());
        }
        self.write(package(2, b"")).await;
        for package in self.kept.clone() {
            self.write(package).await;
        }
        self.stream.is_some()
    }

    fn forget(&mut self, count: u64) {
        assert!((self.acked..=self.sent).contains(&count));
        for _ in self.acked..count {
            self.kept.pop_front().unwrap();
        }
        self.acked = count;
    }

    async fn write(&mut self, bytes: Vec<u8>) {
        if let Some(stream) = &mut self.stream
            && stream.write_all(&bytes).await.is_err()
        {
            self.stream = None;
        }
    }

    async fn ask(&mut self, method: &str, body: &Value) {
        self.sent += 1;
        let route = format!("connector.h.{method}");
        let mut message = vec![0];
        message.extend(varint(self.sent));
        message.push(u8::try_from(route.len()).unwrap());
        message.extend(route.bytes());
        message.extend(body.to_string().bytes());
        let package = package(4, &message);
        self.kept.push_back(package.clone());
        self.write(package).await;
    }

    /// The next package. None: the connection is gone. Cancel-safe.
    async fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        let stream = self.stream.as_mut()?;
        loop {
            if let Some([kind, high, middle, low]) = self.buffer.first_chunk() {
                let (kind, length) = (*kind, u32::from_be_bytes([0, *high, *middle, *low]));
                let length = usize::try_from(length).unwrap();
                if self.buffer.len() >= 4 + length {
                    let whole = self.buffer.split_to(4 + length);
                    return Some((kind, whole[4..].to_vec()));
                }
            }
            if stream.read_buf(&mut self.buffer).await.ok()? == 0 {
                return None;
            }
        }
    }

    /// Takes one package. False: the connection is gone.
    async fn take(&mut self) -> bool {
        let Some((kind, body)) = self.next().await else {
            self.stream = None;
            return false;
        };
        match kind {
            3 if !body.is_empty() => self.forget(read_varint(&body).0),
            3 => {}
            4 => {
                self.received += 1;
                self.note(&body);
                if self.received - self.told >= 8 {
                    self.told = self.received;
                    self.write(package(3, &varint(self.received))).await;
                }
            }
            other => panic!(
                "{other} from the server: {}",
                String::from_utf8_lossy(&body)
            ),
        }
        true
    }

    fn note(&mut self, message: &[u8]) {
        let number = |bytes: &[u8]| -> u64 {
            let text = String::from_utf8_lossy(bytes);
            text.parse()
                .unwrap_or_else(|_| panic!("not a number: {text}"))
        };
        match message[0] >> 1 & 7 {
            2 => {
                let (_, length) = read_varint(&message[1..]);
                self.answers.push(number(&message[1 + length..]));
            }
            3 => {
                let route = usize::from(message[1]);
                self.pushes.push(number(&message[2 + route..]));
            }
            other => panic!("a message of type {other}"),
        }
    }

    /// Lives through `cuts` cuts, and then until it has seen all.
    async fn live(&mut self, cuts: u64, pushed: &AtomicU64, is_over: &AtomicBool) {
        while !self.connect().await {}
        let name = json!(self.name);
        self.ask("join", &name).await;
        while self.answers.is_empty() {
            assert!(self.take().await, "{} was lost at its login", self.name);
        }
        let mut asked = 0;
        for cut in 0..cuts {
            for _ in 0..=cut % 4 {
                asked += 1;
                self.ask("count", &json!(asked)).await;
            }
            // Cut anywhere: before an answer, between two, or when all is there.
            for _ in 0..cut % 5 {
                if !self.take().await {
                    break;
                }
            }
            self.stream = None;
            for _ in 0..cut % 3 {
                asked += 1;
                self.ask("count", &json!(asked)).await;
            }
            while !self.connect().await {}
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let is_all = is_over.load(Ordering::Acquire)
                && self.pushes.last().copied() == Some(pushed.load(Ordering::Acquire));
            if is_all && self.answers.len() as u64 == asked + 1 {
                break;
            }
            assert!(Instant::now() < deadline, "{} does not get all", self.name);
            let taken = timeout(Duration::from_millis(200), self.take()).await;
            if taken == Ok(false) {
                while !self.connect().await {}
            }
        }
        let expected: Vec<u64> = [JOINED].into_iter().chain(1..=asked).collect();
        assert_eq!(self.answers, expected, "{}", self.name);
        // From its login on, without a hole.
        let first = self.pushes[0];
        let last = pushed.load(Ordering::Acquire);
        assert_eq!(
            self.pushes,
            (first..=last).collect::<Vec<_>>(),
            "{}",
            self.name
        );
        assert_eq!(
            (self.missed, &self.restarted[..]),
            (0, &[][..]),
            "{}",
            self.name
        );
        // The goodbye.
        self.write(package(5, b"")).await;
    }
}

struct Load {
    clients: u64,
    cuts: u64,
    loses_goodbyes: bool,
}

/// Clients of two frontends, which are cut and come back to the other one, while a third server pushes.
async fn roam(cluster: Option<Arc<dyn Cluster>>, load: &Load) {
    let ran = Ran::default();
    let mut servers = Servers::new();
    for id in ["connector-1", "connector-2"] {
        servers = servers.add(connector(id, &ran));
    }
    servers = servers.add(App::new("game", "game-1"));
    if let Some(cluster) = cluster {
        servers = servers.cluster_shared(cluster);
    }
    let running = servers.start().await.unwrap();
    let game = running.app("game-1").unwrap().clone();
    let own = [1, 2].map(|n| running.app(&format!("connector-{n}")).unwrap().clone());
    for app in own.iter().chain([&game]) {
        until("the frontends are listed", || {
            app.membership().unwrap().members().frontends().len() == 2
        })
        .await;
    }
    let addresses = own.each_ref().map(|app| app.local_addrs()[0]);
    let (pushed, is_over) = (
        Arc::new(AtomicU64::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let begun = Instant::now();
    let roamers: Vec<_> = (0..load.clients)
        .map(|n| {
            let (pushed, is_over) = (Arc::clone(&pushed), Arc::clone(&is_over));
            let mut roamer = Roamer::new(
                &format!("user-{n}"),
                &addresses,
                usize::try_from(n).unwrap(),
            );
            let cuts = load.cuts;
            tokio::spawn(async move {
                roamer.live(cuts, &pushed, &is_over).await;
                roamer
            })
        })
        .collect();
    until("some have come", || {
        let mut services = own.iter().map(|app| app.session_service().unwrap());
        services.all(|service| service.session_count() > 0)
    })
    .await;
    let topic = game.topic("lobby");
    for n in 1..=load.cuts * 20 {
        topic.push("onN", &n).await.unwrap();
        pushed.store(n, Ordering::Release);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // The last one is for those who have come late, too.
    until("all are in", || {
        let joined = own.iter().map(|app| app.session_service().unwrap());
        joined
            .map(|service| service.statistics().users)
            .sum::<usize>() as u64
            == load.clients
    })
    .await;
    let last = pushed.load(Ordering::Acquire) + 1;
    topic.push("onN", &last).await.unwrap();
    pushed.store(last, Ordering::Release);
    is_over.store(true, Ordering::Release);
    let mut resumed = 0;
    for roamer in roamers {
        let roamer = roamer.await.unwrap();
        resumed += roamer.resumed;
        let ran = ran.lock().unwrap();
        let asked = roamer.answers.len() as u64 - 1;
        let expected: Vec<u64> = (1..=asked).collect();
        assert_eq!(ran.get(&roamer.name).cloned().unwrap_or_default(), expected);
    }
    println!(
        "{} clients, {resumed} times back, of 2 frontends by turns, {last} pushes, in {:?}: 0 lost, 0 twice, 0 out of order",
        load.clients,
        begun.elapsed()
    );
    assert!(resumed >= load.clients * load.cuts);
    for app in &own {
        let service = app.session_service().unwrap();
        // A goodbye may be lost with its relay. Then the session waits for its client, as after any loss.
        until("all sessions have ended, or wait", || {
            service.session_count() == service.resume_statistics().suspended
        })
        .await;
        until("no connection is left", || app.open_connections() == 0).await;
        if service.session_count() > 0 {
            assert!(load.loses_goodbyes, "{} wait", service.session_count());
        } else {
            assert_eq!(service.resume_statistics().kept_bytes, 0);
        }
    }
    running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_one_process() {
    let load = Load {
        clients: 12,
        cuts: 10,
        loses_goodbyes: false,
    };
    roam(None, &load).await;
}

fn nats(backing: &Backing) -> shaddock::cluster::NatsCluster {
    shaddock::cluster::NatsCluster::new(backing.patient_config()).unwrap()
}

/// The operation that moves bytes between the frontends.
const BYTES: &str = "shaddock.relay.bytes";
/// The one that asks a frontend for a session of it.
const OPEN: &str = "shaddock.relay.open";

/// Whatever becomes of the operations between them: the connection may be lost, and nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_between_the_frontends() {
    // In turns of a length that goes with nothing else.
    let fates = Fates::new(BYTES, |n| match n % 47 {
        3 | 19 => Fate::Busy,
        7 => Fate::Lost,
        13 => Fate::AnswerLost,
        23 => Fate::TooLate,
        31 => Fate::Twice,
        n if n % 5 == 1 => Fate::Late(n),
        _ => Fate::Arrives,
    });
    let load = Load {
        clients: 8,
        cuts: 12,
        loses_goodbyes: true,
    };
    let cluster = Unreliable(LocalCluster::new(), Arc::clone(&fates));
    roam(Some(Arc::new(cluster)), &load).await;
    let moved = fates.count.load(Ordering::Relaxed);
    assert!(moved > 2 * 47, "{moved} operations have met what there is");
}

/// A frontend that does not answer in time has the session all the same: its client tries again and finds it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_frontend_loses_no_session() {
    let fates = Fates::new(OPEN, |n| match n {
        0 => Fate::Lost,
        1 => Fate::AnswerLost,
        2 => Fate::Busy,
        _ => Fate::Arrives,
    });
    let cluster = Unreliable(LocalCluster::new(), Arc::clone(&fates));
    let ran = Ran::default();
    let servers = ["connector-1", "connector-2"].map(|id| connector(id, &ran));
    let servers = servers.into_iter().fold(Servers::new(), Servers::add);
    let running = servers.cluster(cluster).start().await.unwrap();
    let addresses = ["connector-1", "connector-2"].map(|id| running.address(id).unwrap());
    let mut roamer = Roamer::new("ann", &addresses, 0);
    assert!(roamer.connect().await);
    roamer.ask("join", &json!("ann")).await;
    assert!(roamer.take().await);
    roamer.stream = None;
    let mut tries = 0;
    loop {
        // Always through the other one.
        roamer.turn = 1;
        if roamer.connect().await {
            break;
        }
        tries += 1;
    }
    assert_eq!((told(&roamer), tries), ("resumed".to_owned(), 3));
    running.shutdown().await;
}

/// A frontend that is too busy to take bytes gets them again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_frontend_loses_no_connection() {
    let fates = Fates::new(BYTES, |n| match n % 3 {
        0 => Fate::Arrives,
        _ => Fate::Busy,
    });
    let cluster = Unreliable(LocalCluster::new(), fates);
    let ran = Ran::default();
    let servers = ["connector-1", "connector-2"].map(|id| connector(id, &ran));
    let servers = servers.into_iter().fold(Servers::new(), Servers::add);
    let running = servers.cluster(cluster).start().await.unwrap();
    let addresses = ["connector-1", "connector-2"].map(|id| running.address(id).unwrap());
    let mut roamer = Roamer::new("ann", &addresses, 0);
    assert!(roamer.connect().await);
    roamer.ask("join", &json!("ann")).await;
    assert!(roamer.take().await);
    roamer.stream = None;
    // To the other one; its answer comes through the relay.
    assert!(roamer.connect().await);
    for n in 1..=5 {
        roamer.ask("count", &json!(n)).await;
        while roamer.answers.last() != Some(&n) {
            assert!(roamer.take().await, "the connection was lost");
        }
    }
    assert_eq!((roamer.resumed, roamer.turn), (1, 2));
    running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_nats() {
    let backing = Backing::start();
    let load = Load {
        clients: 12,
        cuts: 10,
        loses_goodbyes: false,
    };
    roam(Some(Arc::new(nats(&backing))), &load).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes, and a machine of its own"]
async fn many_over_nats() {
    let of = |key: &str, default: u64| {
        let set = std::env::var(key).ok();
        set.map_or(default, |text| text.parse().unwrap())
    };
    let backing = Backing::start();
    let load = Load {
        clients: of("CLIENTS", 1000),
        cuts: of("CUTS", 10),
        loses_goodbyes: false,
    };
    roam(Some(Arc::new(nats(&backing))), &load).await;
}

/// What the client is told when it comes back: whether it has its session, or why not.
fn told(roamer: &Roamer) -> String {
    match roamer.restarted.last() {
        Some(why) => why.trim_matches('"').to_owned(),
        None => "resumed".to_owned(),
    }
}

async fn ends(roamer: &mut Roamer) -> (Vec<u8>, Vec<(u8, Vec<u8>)>) {
    let mut seen = Vec::new();
    loop {
        match timeout(PATIENCE, roamer.next())
            .await
            .expect("an end in time")
        {
            Some((5, body)) => return (body, seen),
            Some(package) => seen.push(package),
            None => panic!("the end came without a reason, after {seen:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_frontend_with_the_session_has_the_last_word() {
    let cluster = LocalCluster::new();
    let ran = Ran::default();
    let mut home = connector("connector-1", &ran);
    home.before_resume(
        async |_, _, info: HandshakeInfo| match info.user()["say"].as_str() {
            Some("no") => Err(HandshakeReject::new("told to")),
            _ => Ok(()),
        },
    );
    // The door asks its own application, once.
    let asked = Arc::new(AtomicU64::new(0));
    let mut door = connector("connector-2", &ran);
    let counted = Arc::clone(&asked);
    door.on_handshake(move |_: HandshakeInfo| {
        counted.fetch_add(1, Ordering::Relaxed);
        std::future::ready(Ok(Some(json!({"from": "the door"}))))
    });
    let home = Servers::new()
        .add(home)
        .cluster(cluster.clone())
        .start()
        .await
        .unwrap();
    let door = Servers::new()
        .add(door)
        .cluster(cluster)
        .start()
        .await
        .unwrap();
    let addresses = [
        home.address("connector-1").unwrap(),
        door.address("connector-2").unwrap(),
    ];
    let service = home.app("connector-1").unwrap().session_service().unwrap();

    let mut roamer = Roamer::new("ann", &addresses, 0);
    assert!(roamer.connect().await);
    roamer.ask("join", &json!("ann")).await;
    assert!(roamer.take().await);
    roamer.stream = None;
    assert!(roamer.connect().await);
    assert_eq!(
        (told(&roamer), asked.load(Ordering::Relaxed)),
        ("resumed".to_owned(), 1)
    );
    assert_eq!(roamer.user, json!({"from": "the door"}));
    assert_eq!(service.session_count(), 1);
    let door_service = door.app("connector-2").unwrap().session_service().unwrap();
    assert_eq!(door_service.session_count(), 0);
    // The session's frontend sees the client, not the door.
    let session = service.get_by_uid("ann").remove(0);
    assert!(session.client().address.unwrap().ip().is_loopback());
    // A kick goes all the way.
    session.close(CloseReason::kicked("enough"));
    let (reason, _) = ends(&mut roamer).await;
    assert!(String::from_utf8_lossy(&reason).contains("enough"));

    // Rejected, forged, or of an unknown frontend: a new session at this frontend.
    for (user, change, why) in [
        (json!({"say": "no"}), 0, "denied"),
        (Value::Null, 40, "unknown"),
        (Value::Null, 15, "unknown"),
    ] {
        let mut roamer = Roamer::new("bob", &addresses, 0);
        assert!(roamer.connect().await);
        roamer.stream = None;
        roamer.user = user;
        if change > 0 {
            let token = roamer.token.as_mut().unwrap();
            let other = if token.as_bytes()[change] == b'0' {
                "1"
            } else {
                "0"
            };
            token.replace_range(change..=change, other);
        }
        let before = door_service.session_count();
        assert!(roamer.connect().await);
        assert_eq!(told(&roamer), why);
        assert_eq!(door_service.session_count(), before + 1);
    }

    // A frontend that is gone.
    let mut roamer = Roamer::new("eve", &addresses, 0);
    assert!(roamer.connect().await);
    roamer.stream = None;
    assert!(roamer.connect().await);
    assert_eq!(told(&roamer), "resumed");
    home.shutdown().await;
    let (reason, _) = ends(&mut roamer).await;
    assert!(String::from_utf8_lossy(&reason).contains("draining"));
    roamer.stream = None;
    roamer.turn = 1;
    assert!(roamer.connect().await);
    assert_eq!(told(&roamer), "unknown");
    door.shutdown().await;
}

/// A session that waits for its client at one frontend, and the same user logs in at another one.
async fn logs_in_elsewhere(cluster: Option<shaddock::cluster::NatsCluster>) {
    for on_conflict in [Conflict::RejectNew, Conflict::ReplaceOld] {
        let ran = Ran::default();
        let mut servers = Servers::new();
        for id in ["connector-1", "connector-2"] {
            let mut app = connector(id, &ran);
            app.set(sessions().sessions_per_user(SessionsPerUser::One(on_conflict)));
            servers = servers.add(app);
        }
        if let Some(cluster) = &cluster {
            servers = servers.cluster(cluster.clone());
        }
        let running = servers.start().await.unwrap();
        let own = [1, 2].map(|n| running.app(&format!("connector-{n}")).unwrap().clone());
        for app in &own {
            until("the frontends are listed", || {
                app.membership().unwrap().members().frontends().len() == 2
            })
            .await;
        }
        let addresses = own.each_ref().map(|app| app.local_addrs()[0]);
        let service = own[0].session_service().unwrap();
        let mut first = Roamer::new("ann", &addresses, 0);
        assert!(first.connect().await);
        first.ask("join", &json!("ann")).await;
        assert!(first.take().await);
        if on_conflict == Conflict::RejectNew {
            let mut second = Roamer::new("ann", &addresses, 1);
            assert!(second.connect().await);
            second.ask("join", &json!("ann")).await;
            let refused = loop {
                if let (4, body) = second.next().await.unwrap() {
                    break body;
                }
            };
            assert!(
                String::from_utf8_lossy(&refused).contains("500"),
                "{refused:?}"
            );
        }
        first.stream = None;
        until("it waits", || service.resume_statistics().suspended == 1).await;
        let mut second = Roamer::new("ann", &addresses, 1);
        assert!(second.connect().await);
        second.ask("join", &json!("ann")).await;
        assert!(second.take().await);
        assert_eq!(second.answers, [JOINED]);
        until("the first has ended", || {
            service.get_by_uid("ann").is_empty()
        })
        .await;
        assert!(first.connect().await, "at the other one");
        assert_eq!(told(&first), "unknown");
        running.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspended_session_elsewhere_blocks_no_login() {
    logs_in_elsewhere(None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspended_session_elsewhere_blocks_no_login_over_nats() {
    let backing = Backing::start();
    logs_in_elsewhere(Some(nats(&backing))).await;
}

/// Another server hears of suspended sessions in the order of all else; who is in a topic stays in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_servers_are_notified_and_presence_does_not_flap() {
    let heard = Arc::new(Mutex::new(Vec::<String>::new()));
    let mut lobby = App::new("lobby", "lobby-1");
    let note = |heard: &Arc<Mutex<Vec<String>>>, text: String| heard.lock().unwrap().push(text);
    let of_sessions = Arc::clone(&heard);
    lobby.on_cluster_session(Interest::all(), move |_, event: ClusterSessionEvent| {
        let kind = match event.kind() {
            ClusterEventKind::Closed(reason) => format!("closed {reason}"),
            kind => format!("{kind:?}"),
        };
        let uid = event.uid().map_or("nobody", Uid::as_str);
        note(&of_sessions, format!("{kind} {uid}"));
        std::future::ready(())
    });
    let members = Arc::new(Mutex::new(Vec::<String>::new()));
    let of_members = Arc::clone(&members);
    lobby.on_topic("lobby", move |_, event: MemberEvent| {
        note(&of_members, format!("{:?}", event.departure()));
        std::future::ready(())
    });
    let running = Servers::new()
        .add(connector("connector-1", &Ran::default()))
        .add(lobby)
        .start()
        .await
        .unwrap();
    let app = running.app("connector-1").unwrap();
    let service = app.session_service().unwrap();
    let mut roamer = Roamer::new("ann", &app.local_addrs(), 0);
    assert!(roamer.connect().await);
    roamer.ask("join", &json!("ann")).await;
    assert!(roamer.take().await);
    for _ in 0..2 {
        roamer.stream = None;
        until("it waits", || service.resume_statistics().suspended == 1).await;
        assert!(roamer.connect().await);
        until("it is back", || service.resume_statistics().suspended == 0).await;
    }
    roamer.write(package(5, b"")).await;
    let all = [
        "Bound",
        "Suspended",
        "Resumed",
        "Suspended",
        "Resumed",
        "closed client_closed",
    ];
    until("all is heard", || heard.lock().unwrap().len() == all.len()).await;
    assert_eq!(
        *heard.lock().unwrap(),
        all.map(|kind| format!("{kind} ann"))
    );
    until("the member has left", || members.lock().unwrap().len() == 2).await;
    assert_eq!(*members.lock().unwrap(), ["None", "Some(Closed)"]);
    running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frontend_that_goes_takes_no_session_of_others_with_it() {
    let cluster = LocalCluster::new();
    let ran = Ran::default();
    let mut door = connector("connector-2", &ran);
    door.set(
        AppConfig::default()
            // Longer than the test waits: the door has to cut its connections by itself.
            .stop_timeout(PATIENCE * 10),
    );
    let home = Servers::new()
        .add(connector("connector-1", &ran))
        .cluster(cluster.clone());
    let home = home.start().await.unwrap();
    let door = Servers::new()
        .add(door)
        .cluster(cluster)
        .start()
        .await
        .unwrap();
    let addresses = [
        home.address("connector-1").unwrap(),
        door.address("connector-2").unwrap(),
    ];
    let mut roamer = Roamer::new("ann", &addresses, 0);
    assert!(roamer.connect().await);
    roamer.ask("join", &json!("ann")).await;
    assert!(roamer.take().await);
    roamer.stream = None;
    assert!(roamer.connect().await);
    timeout(PATIENCE, door.shutdown())
        .await
        .expect("the door closes");
    roamer.ask("count", &json!(1)).await;
    while roamer.take().await {}
    roamer.turn = 0;
    assert!(roamer.connect().await);
    while roamer.answers.len() < 2 {
        assert!(roamer.take().await);
    }
    assert_eq!(
        (told(&roamer), roamer.resumed, &roamer.answers[..]),
        ("resumed".to_owned(), 2, &[JOINED, 1][..])
    );
    home.shutdown().await;
}
