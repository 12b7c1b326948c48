//! A frontend that drains and lingers: it loses its sockets and not its sessions. Clients come back through other frontends while they ask and are
//! pushed to, and their sessions end when they do. In process, and with real NATS in between.
//!
//! By hand, 2,500 clients. Each takes four descriptors of this one process, and more while it changes its connection: at a limit of 20,000, 4,000
//! clients never come back. The same with a process for each server, and with 5,000 clients: `shaddock-cli/tests/cluster/processes/drained.rs`.
//!
//! ```sh
//! CLIENTS=2500 cargo test --release -p shaddock --all-features --test nats drain_elsewhere:: -- --ignored --nocapture
//! ```

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use shaddock::{
    cluster::{LocalCluster, NatsCluster},
    config::{Config, Time},
    operations::Operations,
    prelude::*,
    session::{Conflict, SessionsPerUser},
    shutdown::drain,
};
use shaddock_client::{Client, CloseKind, Events, Reconnect, SessionEvent, Subscription};

use crate::balancer::Balancer;
use crate::servers::Backing;
use crate::support::{
    roaming::{self, JOINED, PATIENCE, Ran},
    wait::{breathe, until},
};

fn connector(id: &str, ran: &Ran) -> App {
    let sessions = roaming::sessions().sessions_per_user(SessionsPerUser::One(Conflict::RejectNew));
    roaming::connector(id, sessions, ran)
}

/// A client of the shipped library that knows nothing of drains.
struct Player {
    name: String,
    client: Client,
    events: Events,
    topic: Subscription,
    everybody: Subscription,
    asked: u64,
}

impl Player {
    async fn come(name: String, address: &str) -> Self {
        let waits = Reconnect::new().waits(Duration::from_millis(20), Duration::from_millis(500));
        let builder = Client::builder()
            .request_timeout(Some(PATIENCE))
            .push_capacity(100_000)
            .resume(waits.attempts(10_000));
        let setup = |client: &Client| {
            (
                client.events(),
                client.subscribe("onN"),
                client.subscribe("onAll"),
            )
        };
        let (client, (events, topic, everybody)) =
            builder.connect_with(address, setup).await.unwrap();
        let joined: u64 = client.request("connector.h.join", &name).await.unwrap();
        assert!(joined == JOINED && client.is_resumable());
        Self {
            name,
            client,
            events,
            topic,
            everybody,
            asked: 0,
        }
    }

    /// Asks, with this pause, until it is told to stop: each request has its answer.
    async fn play(&mut self, pause: Duration, is_over: &AtomicBool) {
        while !is_over.load(Ordering::Acquire) {
            self.asked += 1;
            let answer: u64 = match self.client.request("connector.h.count", &self.asked).await {
                Ok(answer) => answer,
                Err(error) => panic!("{}, {}: {error}", self.name, self.asked),
            };
            assert_eq!(answer, self.asked);
            tokio::time::sleep(pause).await;
        }
    }

    /// It has seen everything from its login on up to the last push, once and in order, and its session has never been another one.
    async fn check(&mut self, last: u64, last_to_all: u64) -> u64 {
        let whole = [(&mut self.topic, last), (&mut self.everybody, last_to_all)];
        for (pushes, last) in whole {
            let mut before = None;
            while before != Some(last) {
                let push = tokio::time::timeout(PATIENCE, pushes.recv()).await;
                let push =
                    push.unwrap_or_else(|_| panic!("{}: {last} after {before:?}", self.name));
                let number: u64 = push.unwrap().json().unwrap();
                let next = before.map_or(number, |before| before + 1);
                assert_eq!(number, next, "{}", self.name);
                before = Some(number);
            }
            assert_eq!((pushes.try_recv(), pushes.missed()), (None, 0));
        }
        assert_eq!(self.client.close_kind(), None, "{}", self.name);
        self.resumed().await
    }

    /// How often its session has gone on until now.
    async fn resumed(&mut self) -> u64 {
        // A task that has used up its budget is polled as if nothing were ready.
        tokio::task::yield_now().await;
        let mut resumed = 0;
        while let Some(event) = futures_util::FutureExt::now_or_never(self.events.recv()) {
            match event.unwrap() {
                SessionEvent::Resumed { missed: 0 } => resumed += 1,
                SessionEvent::Suspended(_) => {}
                other => panic!("{}: {other:?}", self.name),
            }
        }
        resumed
    }
}

/// Drains a process, as an operator does. True if all has ended in time.
async fn end(running: Running, linger: Time) -> bool {
    let mut settings = Config::default().drain;
    settings.spread = Time::millis(300);
    settings.wave_interval = Time::millis(100);
    settings.deadline = Time::secs(60);
    settings.linger = linger;
    drain(running, &settings, &Operations::new()).await
}

/// Where the servers of a test meet: each process has its own link to the cluster.
enum Meeting {
    Here(LocalCluster),
    Nats(Box<Backing>),
}

impl Meeting {
    async fn start(&self, apps: impl IntoIterator<Item = App>) -> Running {
        let servers = apps.into_iter().fold(Servers::new(), Servers::add);
        let servers = match self {
            Self::Here(cluster) => servers.cluster(cluster.clone()),
            Self::Nats(backing) => {
                servers.cluster(NatsCluster::new(backing.patient_config()).unwrap())
            }
        };
        servers.start().await.unwrap()
    }
}

async fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "not in time: {what}");
        breathe().await;
    }
}

fn numbers_of(app: &AppHandle, reason: &str) -> u64 {
    let closed = app.session_service().unwrap().statistics().closed;
    closed.iter().find(|(name, _)| *name == reason).unwrap().1
}

/// Pushes to the topic, and to all sessions, until it is stopped.
async fn push(
    game: AppHandle,
    pause: Duration,
    is_over: Arc<AtomicBool>,
    all: Arc<AtomicU64>,
) -> u64 {
    let mut n = 0;
    while !is_over.load(Ordering::Acquire) {
        n += 1;
        game.topic("lobby").push("onN", &n).await.unwrap();
        if n % 4 == 0 {
            to_all(&game, &all).await;
        }
        tokio::time::sleep(pause).await;
    }
    n += 1;
    game.topic("lobby").push("onN", &n).await.unwrap();
    n
}

async fn to_all(game: &AppHandle, all: &AtomicU64) {
    let next = all.fetch_add(1, Ordering::AcqRel) + 1;
    let sent = game
        .channels()
        .broadcast("connector", "onAll", &next, BroadcastOptions::all());
    // A frontend that has just gone is named in it. Whether all have it is seen where it arrives.
    let _ = sent.await;
}

/// Servers that join after the goodbye of the first frontend, and know of it.
async fn start_late(meeting: &Meeting, ran: &Ran) -> Running {
    let late = [connector("connector-3", ran), App::new("game", "game-2")];
    let late = meeting.start(late).await;
    for id in ["connector-3", "game-2"] {
        wait_until("the frontend that left the list is known", || {
            let departing = late.app(id).unwrap().membership().unwrap().departing();
            departing
                .iter()
                .any(|info| info.id.as_str() == "connector-1")
        })
        .await;
    }
    late
}

/// So many clients, who come by and by.
async fn come(clients: usize, balancer: &Balancer) -> Vec<Player> {
    let mut players: Vec<Player> = Vec::new();
    while players.len() < clients {
        let from = players.len();
        let coming = (from..clients.min(from + 200))
            .map(|n| Player::come(format!("user-{n}"), &balancer.address));
        players.extend(join_all(coming).await);
    }
    players
}

async fn drains(meeting: Meeting, clients: usize) {
    let ran = Ran::default();
    let home = meeting.start([connector("connector-1", &ran)]).await;
    let door = meeting.start([connector("connector-2", &ran)]).await;
    let games = meeting.start([App::new("game", "game-1")]).await;
    let app = home.app("connector-1").unwrap().clone();
    let game = games.app("game-1").unwrap().clone();
    let at_door = door.address("connector-2").unwrap();
    let listed = |app: &AppHandle| app.membership().unwrap().members().frontends().len();
    wait_until("the frontends are listed", || {
        listed(&app) == 2 && listed(&game) == 2
    })
    .await;
    let balancer = Balancer::to(&[home.address("connector-1").unwrap()]).await;
    let players = come(clients, &balancer).await;
    let service = app.session_service().unwrap().clone();
    assert_eq!(service.statistics().users, clients);
    balancer.set(&[home.address("connector-1").unwrap(), at_door]);

    let (is_over, all) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    // As much in all, however many they are: 4,000 requests and 20,000 pushes a second at most. Pushes wait for no client: with a pause of 10 ms,
    // 4,000 clients would be sent 400,000 a second.
    let each = Duration::from_secs(1) * u32::try_from(clients).unwrap();
    let pause = Duration::from_millis(5).max(each / 4000);
    let pushes = Duration::from_millis(10).max(each / 20_000);
    let pushing = push(game, pushes, Arc::clone(&is_over), Arc::clone(&all));
    let pushing = tokio::spawn(pushing);
    let playing: Vec<_> = players
        .into_iter()
        .map(|mut player| {
            let is_over = Arc::clone(&is_over);
            tokio::spawn(async move {
                player.play(pause, &is_over).await;
                player
            })
        })
        .collect();
    wait_until("they play", || {
        ran.lock().unwrap().len() == clients && all.load(Ordering::Acquire) > 2
    })
    .await;

    let begun = Instant::now();
    let draining = tokio::spawn(end(home, Time::secs(3600)));
    let many = clients as u64;
    wait_until("all are back through the other frontend", || {
        let now = service.resume_statistics();
        now.dismissed >= many && now.resumed >= many && now.suspended == 0
    })
    .await;
    let moved = begun.elapsed();
    assert!(!draining.is_finished());

    // Who joins after the goodbye finds the sessions too. The frontend that relays is the next one to go: a rolling update.
    let late = start_late(&meeting, &ran).await;
    balancer.set(&[at_door, late.address("connector-3").unwrap()]);
    let again = end(door, Time::secs(3600)).await;
    assert!(again, "it has no session of its own");
    wait_until("all are back through the new frontend", || {
        let now = service.resume_statistics();
        now.resumed >= 2 * many && now.suspended == 0
    })
    .await;
    assert!(!draining.is_finished());

    is_over.store(true, Ordering::Release);
    let mut players = join_all(playing).await;
    let last = pushing.await.unwrap();
    to_all(late.app("game-2").unwrap(), &all).await;
    let last_to_all = all.load(Ordering::Acquire);
    let (mut resumed, mut asked) = (0, 0);
    for player in &mut players {
        let player = player.as_mut().unwrap();
        resumed += player.check(last, last_to_all).await;
        let expected: Vec<u64> = (1..=player.asked).collect();
        let ran = ran.lock().unwrap();
        assert_eq!(ran[&player.name], expected, "each ran once, in order");
        asked += player.asked;
    }
    let seen = service.resume_statistics();
    assert!(resumed >= 2 * many, "{resumed} times back, {seen:?}");
    assert_eq!(
        service.session_count(),
        clients,
        "nobody's session has ended"
    );
    println!(
        "{clients} clients moved in {moved:?}, {asked} requests, {last} pushes to a topic, {last_to_all} to everybody: \
         0 sessions ended, 0 messages lost, 0 twice, 0 out of order"
    );

    for player in players {
        player.unwrap().client.close().await;
    }
    assert!(
        draining.await.unwrap(),
        "the last session was the end of it"
    );
    assert_eq!(numbers_of(&app, "client_closed"), many);
    assert_eq!(numbers_of(&app, "draining"), 0);
    games.shutdown().await;
    late.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_one_process() {
    drains(Meeting::Here(LocalCluster::new()), 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_nats() {
    drains(Meeting::Nats(Box::new(Backing::start())), 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes, and a machine of its own"]
async fn many_over_nats() {
    let set = std::env::var("CLIENTS").ok();
    let clients = set.map_or(2500, |text| text.parse().unwrap());
    drains(Meeting::Nats(Box::new(Backing::start())), clients).await;
}

fn draining() -> CloseKind {
    let reason = Some("draining".to_owned());
    CloseKind::Kicked { reason }
}

/// With nowhere to go, a drain is what it always was, however long it might linger.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frontend_alone_closes_its_clients() {
    let meeting = Meeting::Here(LocalCluster::new());
    let home = meeting
        .start([connector("connector-1", &Ran::default())])
        .await;
    // Frontends of other types do not count.
    let mut gate = App::new("gate", "gate-1");
    gate.listen("127.0.0.1:0");
    let gate = meeting.start([gate]).await;
    let app = home.app("connector-1").unwrap().clone();
    let address = format!("tcp://{}", home.address("connector-1").unwrap());
    let player = Player::come("ann".to_owned(), &address).await;
    let drained = end(home, Time::secs(3600));
    let (drained, heard) = tokio::join!(drained, player.client.closed());
    assert!(drained);
    assert_eq!(heard, draining());
    assert_eq!(numbers_of(&app, "draining"), 1);
    gate.shutdown().await;
}

/// Who cannot come back is told so at once, and who is still there when the time is over hears it then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closed_clients_receive_the_reason() {
    let meeting = Meeting::Here(LocalCluster::new());
    let ran = Ran::default();
    let home = meeting.start([connector("connector-1", &ran)]).await;
    let other = meeting.start([connector("connector-2", &ran)]).await;
    let app = home.app("connector-1").unwrap().clone();
    let address = home.address("connector-1").unwrap();
    let balancer = Balancer::to(&[address]).await;
    let mut player = Player::come("ann".to_owned(), &balancer.address).await;
    let plain = Client::connect(&balancer.address).await.unwrap();
    let service = app.session_service().unwrap().clone();
    until("both are there", || service.session_count() == 2).await;
    balancer.set(&[other.address("connector-2").unwrap()]);

    let begun = Instant::now();
    let linger = Duration::from_secs(3);
    let draining_home = tokio::spawn(end(home, Time(linger)));
    assert_eq!(plain.closed().await, draining());
    // On a slow machine the time may be over before she is back. Either way she hears of it.
    let heard = async {
        let mut is_back = false;
        loop {
            match player.events.recv().await {
                None => return player.client.closed().await,
                Some(SessionEvent::Resumed { .. }) => is_back = true,
                Some(SessionEvent::Restarted { why, .. }) => {
                    assert!(!is_back, "a client that is back gets a KICK");
                    assert_eq!(why, "unknown");
                    return draining();
                }
                Some(_) => {}
            }
        }
    };
    assert_eq!(heard.await, draining());
    assert!(begun.elapsed() >= linger, "not before the time is over");
    assert!(draining_home.await.unwrap());
    assert_eq!(numbers_of(&app, "draining"), 2);
    assert_eq!(service.resume_statistics().dismissed, 1);
    other.shutdown().await;
}
