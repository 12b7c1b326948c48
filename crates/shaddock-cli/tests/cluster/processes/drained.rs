//! A frontend that drains and lingers: clients of the shipped library come back through the other one, to the same sessions.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    process::{Command, Output, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use serde_json::{Value, json};
use shaddock_client::{Client, CloseKind, Events, Reconnect, SessionEvent, Subscription};
use tokio::task::JoinHandle;

use super::{ends_well, holds};
use crate::{
    Frontend, ask, ask_soon,
    balancer::Balancer,
    operators,
    pitaya::UNIQUE,
    room,
    servers::Backing,
    wait::{PATIENCE, breathe, until},
};

const SPREAD: [&str; 2] = ["--set", "drain.spread=200ms"];
const LINGER: [&str; 2] = ["--set", "drain.linger=1h"];

/// As much is kept for clients as comes while they are away, also on a slow machine with thousands of them.
const PATIENT: [&str; 8] = [
    "--set",
    "session.resume.max_messages=60000",
    "--set",
    "session.resume.max_bytes=16MiB",
    "--set",
    "session.resume.window=600s",
    "--set",
    "handlers.rpc_timeout=30s",
];

/// The events of a session, and the time of each absence of its client.
#[derive(Default)]
struct Story {
    away: Vec<Duration>,
    others: Vec<SessionEvent>,
}

async fn read(mut events: Events) -> Story {
    let (mut story, mut since) = (Story::default(), None);
    while let Some(event) = events.recv().await {
        match event {
            SessionEvent::Suspended(_) => since = Some(Instant::now()),
            SessionEvent::Resumed { missed: 0 } => {
                let since = since.take().unwrap_or_else(Instant::now);
                story.away.push(since.elapsed());
            }
            other => story.others.push(other),
        }
    }
    story
}

struct Player {
    client: Client,
    pushes: Subscription,
    story: JoinHandle<Story>,
}

impl Player {
    async fn come(n: usize, address: &str) -> Self {
        let waits = Reconnect::new().waits(Duration::from_millis(20), Duration::from_millis(500));
        let builder = Client::builder()
            .connect_timeout(PATIENCE)
            .request_timeout(Some(2 * PATIENCE))
            .push_capacity(100_000)
            .resume(waits.attempts(1000));
        let setup = |client: &Client| (client.events(), client.subscribe("onText"));
        let (client, (events, pushes)) = builder.connect_with(address, setup).await.unwrap();
        ask_soon(&client, "room.room.echo").await;
        let uid = json!({ "uid": format!("user-{n}") });
        ask(&client, "room.room.bind", uid).await;
        ask(&client, "room.room.enter", json!({ "name": "hall" })).await;
        let story = tokio::spawn(read(events));
        Self {
            client,
            pushes,
            story,
        }
    }

    /// Asks until it is told to stop: each request has its answer. How many.
    async fn play(&self, pause: Duration, is_over: &AtomicBool) -> usize {
        let mut asked = 0;
        while !is_over.load(Ordering::Acquire) {
            asked += 1;
            let text = format!("{asked}");
            let answer = ask(&self.client, "room.room.echo", json!({ "text": text })).await;
            assert_eq!(answer["text"], text);
            tokio::time::sleep(pause).await;
        }
        asked
    }

    /// It has seen all that was said from its first push on, once and in order.
    async fn heard(&mut self, last: usize) {
        let mut before = None;
        while before != Some(last) {
            let push = tokio::time::timeout(2 * PATIENCE, self.pushes.recv()).await;
            let push = push.unwrap_or_else(|_| panic!("{last} after {before:?}"));
            let text: Value = push.unwrap().json().unwrap();
            let number: usize = text["text"].as_str().unwrap().parse().unwrap();
            assert_eq!(number, before.map_or(number, |before| before + 1));
            before = Some(number);
        }
        assert_eq!((self.pushes.try_recv(), self.pushes.missed()), (None, 0));
    }
}

/// Two frontends of one type, a room, and clients whose sessions are all at the first one.
struct World {
    backing: Backing,
    first: Frontend,
    second: Frontend,
    _room: crate::Program,
    players: Vec<Player>,
}

impl World {
    async fn start(clients: usize, settings: &[&str]) -> Self {
        let backing = Backing::start();
        let settings = [&UNIQUE, &SPREAD[..], &PATIENT, settings].concat();
        let first = Frontend::mortal(&backing, "connector-1", &settings);
        let second = Frontend::mortal(&backing, "connector-2", &settings);
        let room = room::start_process_with(&backing, "room-1", "cluster.lease_ttl=30s");
        let address_of = |frontend: &Frontend| -> SocketAddr {
            let address = frontend.address.strip_prefix("tcp://");
            address.unwrap().parse().unwrap()
        };
        let balancer = Balancer::to(&[address_of(&first)]).await;
        let mut players = Vec::with_capacity(clients);
        while players.len() < clients {
            let from = players.len();
            let coming =
                (from..clients.min(from + 100)).map(|n| Player::come(n, &balancer.address));
            players.extend(join_all(coming).await);
        }
        balancer.set(&[address_of(&first), address_of(&second)]);
        Self {
            backing,
            first,
            second,
            _room: room,
            players,
        }
    }

    /// The row of the first frontend in the output of `shaddock servers`.
    async fn relayed(&self) {
        operators::says(
            &self.second,
            "all came back through the other one",
            |said| {
                let first = operators::server(said, "connector-1");
                first["state"] == "draining" && first["sessions_relayed"] == self.players.len()
            },
        )
        .await;
    }

    fn close_kinds(&self) -> Vec<CloseKind> {
        let kinds = self.players.iter().map(|player| player.client.close_kind());
        kinds.flatten().collect()
    }
}

/// Says numbers to all in the channel until it is told to stop. The last one.
async fn talk(client: &Client, pause: Duration, is_over: &AtomicBool) -> usize {
    let mut said = 0;
    loop {
        let is_last = is_over.load(Ordering::Acquire);
        said += 1;
        let body = json!({ "name": "hall", "text": format!("{said}") });
        ask(client, "room.room.chat", body).await;
        if is_last {
            return said;
        }
        tokio::time::sleep(pause).await;
    }
}

/// `shaddock drain connector-1`: its end, and what it shows until then.
fn drain_command(admin: &str) -> (JoinHandle<Output>, Arc<Mutex<String>>) {
    let mut command = Command::new(crate::SHADDOCK);
    command.args(["drain", "connector-1", "--admin", admin]);
    let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().unwrap();
    let shown = Arc::<Mutex<String>>::default();
    let (lines, all) = (child.stderr.take().unwrap(), Arc::clone(&shown));
    std::thread::spawn(move || {
        for line in BufReader::new(lines).lines().map_while(Result::ok) {
            *all.lock().unwrap() += &(line + "\n");
        }
    });
    let ended = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
    (ended, shown)
}

/// `shaddock drain`, with no setting and no option for it: all clients come back to their sessions through the other frontend, while they ask and
/// are spoken to, and play on.
async fn hands_over(clients: usize, settings: &[&str]) {
    let mut world = World::start(clients, settings).await;
    let speaker = Client::builder().request_timeout(Some(2 * PATIENCE));
    let speaker = speaker.connect(&world.second.address).await.unwrap();
    ask_soon(&speaker, "room.room.echo").await;
    let is_over = AtomicBool::new(false);
    // As much in all, however many they are: 3,000 requests and 20,000 pushes a second at most.
    let clients_u32 = u32::try_from(clients).unwrap();
    let pause = Duration::from_millis(5).max(Duration::from_secs(1) * clients_u32 / 3000);
    let talks = Duration::from_millis(20).max(Duration::from_secs(1) * clients_u32 / 20_000);

    let begun = Instant::now();
    let (command, shown) = drain_command(&world.second.admin);
    let all_back =
        format!("{clients} with clients at other frontends, 0 whose clients are not back yet");
    let load = join_all((world.players.iter()).map(|player| player.play(pause, &is_over)));
    let drain = async {
        world.relayed().await;
        let took = begun.elapsed();
        until("the command shows it", || {
            shown.lock().unwrap().contains(&all_back)
        })
        .await;
        // And they play on for a while.
        for _ in 0..100 {
            breathe().await;
        }
        is_over.store(true, Ordering::Release);
        took
    };
    let (answers, last, took) = tokio::join!(load, talk(&speaker, talks, &is_over), drain);
    assert!(answers.iter().all(|answers| *answers > 0));
    assert!(!command.is_finished(), "as long as sessions are there");
    assert_eq!(world.close_kinds(), []);
    for player in &mut world.players {
        player.heard(last).await;
    }
    join_all(world.players.iter().map(|player| player.client.close())).await;
    let mut away = Vec::new();
    for player in world.players {
        let story = player.story.await.unwrap();
        assert_eq!(story.others, []);
        assert!(!story.away.is_empty());
        away.extend(story.away);
    }
    away.sort();
    println!(
        "{clients} clients: all back through the other frontend {took:?} after the command, each away for {:?} (median) and {:?} (longest), \
         {} times back; {} requests, {last} pushes to all: 0 sessions ended, 0 lost, 0 twice, 0 out of order",
        away[away.len() / 2],
        away[away.len() - 1],
        away.len(),
        answers.iter().sum::<usize>(),
    );
    let output = command.await.unwrap();
    let (said, shown) = (
        String::from_utf8_lossy(&output.stdout),
        shown.lock().unwrap().clone(),
    );
    println!("{said}{shown}");
    assert!(output.status.success(), "{said}{shown}");
    for words in [
        "clients that resume come back through other frontends, for at most 10m",
        "connector-1 is gone after",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(shown.contains("; it ends in 10m"), "{shown}");
    speaker.close().await;
    ends_well(world.first.program).await;
    holds(
        &world.backing,
        &["connector connector-2", "room room-1"],
        &[],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_outlive_the_drain_of_their_frontend() {
    hands_over(200, &[]).await;
}

/// ```sh
/// CLIENTS=5000 cargo test --release -p shaddock-cli --test cluster -- --ignored --nocapture thousands_of_sessions
/// ```
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a minute, and a machine of its own with 20,000 descriptors for a process"]
async fn thousands_of_sessions_outlive_the_drain_of_their_frontend() {
    let set = std::env::var("CLIENTS").ok();
    let clients = set.map_or(5000, |text| text.parse().unwrap());
    hands_over(
        clients,
        &["--set", "cluster.lease_ttl=30s", "--set", "drain.spread=5s"],
    )
    .await;
}

/// `--linger 0s` ends a drain by hand: at the beginning, during the drain, or by a signal.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manual_drain_ends_on_request() {
    for how in ["at once", "later", "signal"] {
        let mut world = World::start(3, &[]).await;
        let drain = |more: &[&str]| {
            let words = [&["drain", "connector-1", "--no-wait"], more].concat();
            let said = world.second.operate(&words);
            assert_eq!(said.code, Some(0), "{how}: {said:?}");
        };
        if how == "at once" {
            drain(&["--linger", "0s"]);
        } else {
            drain(&[]);
            world.relayed().await;
            // Not a new time: nothing was said of one.
            drain(&[]);
            assert_eq!(world.close_kinds(), [], "{how}");
        }
        match how {
            "later" => drain(&["--linger", "0s"]),
            "signal" => world.first.program.signal("-TERM"),
            _ => {}
        }
        for player in &world.players {
            let closed = tokio::time::timeout(PATIENCE, player.client.closed()).await;
            let reason = Some("draining".to_owned());
            assert_eq!(closed.unwrap(), CloseKind::Kicked { reason }, "{how}");
        }
        assert!(world.first.program.ended().success(), "{how}");
    }
}

/// The old frontend is killed while it lingers: its sessions are gone, and each client hears it and has a new one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killing_a_draining_frontend_closes_its_sessions_and_clients_notice() {
    const CLIENTS: usize = 20;
    let world = World::start(CLIENTS, &LINGER).await;
    world.first.program.signal("-TERM");
    world.relayed().await;
    let mut all_events = Vec::new();
    for player in &world.players {
        all_events.push(player.client.events());
    }
    world.first.program.signal("-KILL");
    for (player, events) in world.players.iter().zip(&mut all_events) {
        let client = &player.client;
        let restarted = async {
            loop {
                match events.recv().await {
                    Some(SessionEvent::Restarted { why, .. }) => return why,
                    Some(_) => {}
                    None => panic!("{:?}", client.close_kind()),
                }
            }
        };
        let why = tokio::time::timeout(PATIENCE, restarted).await;
        assert_eq!(why.expect("it hears of it in time"), "unknown");
        ask_soon(client, "room.room.echo").await;
    }
    until("the users have no owner", || {
        world.backing.etcd.keys("pitaya/bindings/").is_empty()
    })
    .await;
}
