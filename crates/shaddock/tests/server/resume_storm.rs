//! A storm: all sessions of a frontend lose their sockets within a second and come back, while others play on. All are resumed, what is kept for
//! them stays within its bound, and nothing is lost. What the others notice of it is measured by hand, 5,000 clients:
//!
//! ```sh
//! CLIENTS=5000 cargo test --release -p shaddock --all-features --test server resume_storm:: -- --ignored --nocapture
//! ```

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{FutureExt as _, future::join_all};
use shaddock::prelude::*;
use shaddock_client::{Client, Events, Reconnect, SessionEvent, Subscription};
use tokio::{task::JoinHandle, time::timeout};

use crate::support::{
    roaming::{self, PATIENCE, Ran},
    wait::breathe,
};

/// Clients that are not cut.
const OTHERS: usize = 20;

/// A client that is cut.
struct Player {
    client: Client,
    events: Events,
    pushes: Subscription,
}

impl Player {
    async fn come(n: usize, address: &str) -> Self {
        let waits = Reconnect::new().waits(Duration::from_millis(50), Duration::from_secs(1));
        let builder = Client::builder()
            .connect_timeout(PATIENCE)
            .request_timeout(Some(PATIENCE))
            .push_capacity(100_000)
            .resume(waits.attempts(10_000));
        let setup = |client: &Client| (client.events(), client.subscribe("onN"));
        let (client, (events, pushes)) = builder.connect_with(address, setup).await.unwrap();
        let name = format!("user-{n}");
        let _: u64 = client.request("connector.h.join", &name).await.unwrap();
        Self {
            client,
            events,
            pushes,
        }
    }

    /// Its session goes on, and it has heard everything up to the last push, once and in order.
    async fn check(&mut self, last: u64) {
        let answer: u64 = self
            .client
            .request("connector.h.echo", &last)
            .await
            .unwrap();
        assert_eq!(answer, last);
        let mut before = None;
        while before != Some(last) {
            let push = timeout(PATIENCE, self.pushes.recv()).await;
            let push = push.unwrap_or_else(|_| panic!("{last} after {before:?}"));
            let number: u64 = push.unwrap().json().unwrap();
            assert_eq!(number, before.map_or(number, |before| before + 1));
            before = Some(number);
        }
        assert_eq!(self.pushes.missed(), 0);
        // A task that has used up its budget is polled as if nothing were ready.
        tokio::task::yield_now().await;
        let mut resumed = 0;
        while let Some(event) = self.events.recv().now_or_never() {
            match event.unwrap() {
                SessionEvent::Resumed { missed: 0 } => resumed += 1,
                SessionEvent::Suspended(_) => {}
                other => panic!("{other:?}"),
            }
        }
        assert!(resumed >= 1);
    }
}

/// How long requests take to a client that is not cut, until it is told to stop.
fn observe(address: String, is_over: Arc<AtomicBool>) -> JoinHandle<Vec<Duration>> {
    tokio::spawn(async move {
        let builder = Client::builder().request_timeout(Some(PATIENCE));
        let client = builder.connect(&address).await.unwrap();
        let mut times = Vec::new();
        loop {
            let begun = Instant::now();
            let n = times.len() as u64;
            let answer: u64 = client.request("connector.h.echo", &n).await.unwrap();
            times.push(begun.elapsed());
            assert_eq!(answer, n);
            if is_over.load(Ordering::Acquire) {
                return times;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
}

/// The times of the others while something happens.
async fn beside(address: &str, what: impl Future<Output = ()>) -> Vec<Duration> {
    let is_over = Arc::new(AtomicBool::new(false));
    let others = (0..OTHERS).map(|_| observe(address.to_owned(), Arc::clone(&is_over)));
    let others: Vec<_> = others.collect();
    what.await;
    is_over.store(true, Ordering::Release);
    let times = join_all(others).await;
    let mut times: Vec<_> = times.into_iter().flat_map(Result::unwrap).collect();
    times.sort();
    times
}

fn quantile(times: &[Duration], of_100: usize) -> Duration {
    times[times.len() * of_100 / 100]
}

/// Pushes to all, a few times a second.
async fn push(app: AppHandle, said: Arc<AtomicU64>, is_over: Arc<AtomicBool>) {
    while !is_over.load(Ordering::Acquire) {
        let next = said.fetch_add(1, Ordering::AcqRel) + 1;
        app.topic("lobby").push("onN", &next).await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

async fn storm(clients: usize, watched: Duration) {
    let mut connector = roaming::connector("connector-1", roaming::sessions(), &Ran::default());
    connector.route("h.echo", async |Json(n): Json<u64>| Json(n));
    let bound = roaming::sessions().resume.max_total_bytes;
    let running = Servers::new().add(connector).start().await.unwrap();
    let app = running.app("connector-1").unwrap().clone();
    let service = app.session_service().unwrap().clone();
    let address = format!("tcp://{}", running.address("connector-1").unwrap());
    let mut players: Vec<Player> = Vec::new();
    while players.len() < clients {
        let from = players.len();
        let coming = (from..clients.min(from + 200)).map(|n| Player::come(n, &address));
        players.extend(join_all(coming).await);
    }
    let (said, is_over) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
    let pushing = push(app, Arc::clone(&said), Arc::clone(&is_over));
    let pushing = tokio::spawn(pushing);

    let quiet = beside(&address, tokio::time::sleep(watched)).await;
    let mut most_kept = 0;
    let begun = Instant::now();
    let many = clients as u64;
    let stormy = beside(&address, async {
        for (n, player) in players.iter().enumerate() {
            player.client.interrupt();
            if n % clients.div_ceil(50) == 0 {
                breathe().await;
            }
        }
        let end = Instant::now() + PATIENCE;
        loop {
            let now = service.resume_statistics();
            most_kept = most_kept.max(now.kept_bytes);
            if now.resumed >= many && now.suspended == 0 {
                break;
            }
            assert!(Instant::now() < end, "not all are back: {now:?}");
            breathe().await;
        }
        println!(
            "{clients} clients back {:?} after the first was cut",
            begun.elapsed()
        );
        tokio::time::sleep(watched.saturating_sub(begun.elapsed())).await;
    })
    .await;
    is_over.store(true, Ordering::Release);
    pushing.await.unwrap();
    let last = said.load(Ordering::Acquire);
    for player in &mut players {
        player.check(last).await;
    }
    let seen = service.resume_statistics();
    assert_eq!((seen.missed, seen.expired, seen.evicted), (0, 0, 0));
    assert!(most_kept <= bound, "{most_kept} bytes are kept");
    assert_eq!(service.statistics().users, clients, "no session has ended");
    println!(
        "others, p50 and p99 of requests: {:?} and {:?} in quiet ({} requests), {:?} and {:?} in the storm ({} requests); {most_kept} bytes kept at most",
        quantile(&quiet, 50),
        quantile(&quiet, 99),
        quiet.len(),
        quantile(&stormy, 50),
        quantile(&stormy, 99),
        stormy.len(),
    );
    for player in players {
        player.client.close().await;
    }
    running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_is_survived() {
    storm(200, Duration::from_millis(200)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a minute, and a machine of its own"]
async fn a_storm_of_thousands() {
    let set = std::env::var("CLIENTS").ok();
    let clients = set.map_or(5000, |text| text.parse().unwrap());
    storm(clients, Duration::from_secs(5)).await;
}
