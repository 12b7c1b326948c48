//! Pushes of which the newest of a key is enough, as an application sends them: by every way, from the frontend and from another server, to clients that are
//! away and to clients that do not read. Beside a list that says what they should see.

use std::net::SocketAddr;

use serde_json::{Value, json};
use shaddock::{channel::PushError, prelude::*, testing::TestServers};
use shaddock_core::SessionState;
use tokio::net::TcpStream;

use crate::support::{by_hand::ByHand, front, uid};
use crate::wait::until;

struct Rng(u64);

impl Rng {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % n as u64).unwrap()
    }

    fn key(&mut self) -> Option<&'static str> {
        [None, None, Some("a"), Some("b"), Some("c")][self.below(5)]
    }
}

/// What a client should see of messages that it could not take when they were sent.
#[derive(Default)]
struct Naive(Vec<(Option<&'static str>, u32)>);

impl Naive {
    fn push(&mut self, key: Option<&'static str>, n: u32) {
        if key.is_some() {
            self.0.retain(|(known, _)| *known != key);
        }
        self.0.push((key, n));
    }

    fn bodies(&self) -> Vec<Value> {
        self.0.iter().map(|(_, n)| json!({"n": n})).collect()
    }
}

fn connector() -> App {
    let mut app = App::new("connector", "connector-1");
    app.listen("127.0.0.1:0");
    app.route(
        "h.join",
        async |ctx: Ctx, mut session: SessionView, Json(name): Json<String>| {
            session.bind(Uid::new(name)?).await?;
            ctx.topic("all").join(&session).await.unwrap();
            Ok::<_, HandlerError>(Json(1))
        },
    );
    app
}

/// A server with rooms, of which one is `lobby`.
fn lobby() -> App {
    let mut app = App::new("lobby", "lobby-1");
    app.route(
        "h.enter",
        async |channels: Channels, session: SessionView| {
            channels
                .create("lobby")
                .unwrap()
                .join(&session)
                .await
                .unwrap();
            Json(1)
        },
    );
    app
}

/// One push by one of the ways that keep the order among each other.
async fn push(way: usize, app: &AppHandle, name: &str, key: Option<&str>, body: &Value) -> usize {
    let (channels, route) = (app.channels(), "onNews");
    let (known, users) = ([(uid(name), front("connector-1"))], [uid(name)]);
    let sent = match (way, key) {
        (0, None) => channels.push_message_by_uids(route, body, &known),
        (0, Some(key)) => channels
            .latest(key)
            .push_message_by_uids(route, body, &known),
        (1, None) => channels.push_message_to_users("connector", route, body, &users),
        (1, Some(key)) => {
            let latest = channels.latest(key);
            latest.push_message_to_users("connector", route, body, &users)
        }
        (2, None) => channels.broadcast("connector", route, body, BroadcastOptions::bound()),
        (2, Some(key)) => {
            let to = BroadcastOptions::bound();
            channels.latest(key).broadcast("connector", route, body, to)
        }
        (3, None) => channels.broadcast(
            "connector",
            route,
            body,
            BroadcastOptions::bound().filtered(1),
        ),
        (3, Some(key)) => {
            let to = BroadcastOptions::bound().filtered(1);
            channels.latest(key).broadcast("connector", route, body, to)
        }
        (_, None) => channels.get("lobby").unwrap().push_message(route, body),
        (_, Some(key)) => {
            let lobby = channels.get("lobby").unwrap();
            lobby.latest(key).push_message(route, body)
        }
    };
    sent.await.unwrap().queued
}

/// A client that has logged in and entered the lobby.
async fn enter(address: SocketAddr, name: &str) -> ByHand<TcpStream> {
    let mut client = ByHand::new(TcpStream::connect(address).await.unwrap()).await;
    client.request("connector.h.join", &json!(name)).await;
    client.request("lobby.h.enter", &json!({})).await;
    client
}

async fn away(front: Running, back: Running) {
    let (app, lobby) = (
        front.app("connector-1").unwrap(),
        back.app("lobby-1").unwrap(),
    );
    let address = front.address("connector-1").unwrap();
    let service = app.session_service().unwrap();
    until("the servers know each other", || {
        let known = |app: &AppHandle| app.membership().unwrap().members().all().len();
        (known(app), known(lobby)) == (2, 2)
    })
    .await;
    for seed in 0..12 {
        let (mut rng, name) = (Rng(seed), format!("user{seed}"));
        let client = enter(address, &name).await;
        let client = client.cut();
        until("its session is suspended", || {
            let sessions = service.get_by_uid(&name);
            sessions
                .iter()
                .all(|one| one.state() == SessionState::Suspended)
        })
        .await;
        let mut naive = Naive::default();
        for n in 0..40 {
            let key = rng.key();
            // From the frontend, and from another server; only that one has rooms.
            let way = rng.below(5);
            let from = if way < 4 && rng.below(2) == 0 {
                app
            } else {
                lobby
            };
            let queued = push(way, from, &name, key, &json!({"n": n})).await;
            assert_eq!(queued, 1, "seed {seed}, way {way}");
            naive.push(key, n);
        }
        let stream = TcpStream::connect(address).await.unwrap();
        let mut client = client.again(stream).await;
        push(1, lobby, &name, None, &json!({"n": 40})).await;
        app.channels()
            .broadcast(
                "connector",
                "onEnd",
                &json!({"n": 41}),
                BroadcastOptions::all(),
            )
            .await
            .unwrap();
        naive.push(None, 40);
        assert_eq!(
            client.pushes_until("onEnd").await,
            naive.bodies(),
            "seed {seed}"
        );
        assert_eq!(client.resume["missed"], 0);
        client.goodbye().await;
        until("nobody is left", || service.session_count() == 0).await;
    }
    // A topic has an order of its own.
    let client = enter(address, "ann").await.cut();
    until("its session is suspended", || {
        service.get_by_uid("ann")[0].state() == SessionState::Suspended
    })
    .await;
    let topic = lobby.topic("all");
    for n in 0..9 {
        let latest = topic.latest(["x", "y"][n % 2]);
        latest.push("onNews", &json!({"n": n})).await.unwrap();
    }
    topic.push("onEnd", &json!({})).await.unwrap();
    until("they have come", || {
        let session = service.get_by_uid("ann").remove(0);
        // With the two answers, which it has not acknowledged.
        session
            .resumable()
            .filter(|state| state.suspended.is_some())
            .unwrap()
            .kept_messages
            == 5
    })
    .await;
    let mut client = client
        .again(TcpStream::connect(address).await.unwrap())
        .await;
    assert_eq!(
        client.pushes_until("onEnd").await,
        [json!({"n": 7}), json!({"n": 8})]
    );
    front.shutdown().await;
    back.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_client_is_away_the_newest_of_a_key_waits() {
    let cluster = shaddock::cluster::LocalCluster::new();
    let start = |app| Servers::new().add(app).cluster(cluster.clone()).start();
    away(
        start(connector()).await.unwrap(),
        start(lobby()).await.unwrap(),
    )
    .await;
}

#[cfg(feature = "nats")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_client_is_away_the_newest_of_a_key_waits_over_nats() {
    let backing = crate::servers::Backing::start();
    let cluster = backing.cluster();
    let start = |app| Servers::new().add(app).cluster(cluster.clone()).start();
    away(
        start(connector()).await.unwrap(),
        start(lobby()).await.unwrap(),
    )
    .await;
}

/// With and without resumption: what matters is what the socket has taken.
#[tokio::test(start_paused = true)]
async fn of_what_a_slow_client_has_not_taken_the_newest_of_a_key_stays() {
    let mut app = connector();
    app.route(
        "h.burst",
        async |session: SessionView, Json(burst): Json<Vec<(Option<String>, u32)>>| {
            for (key, n) in burst {
                let body = json!({"n": n});
                match key {
                    Some(key) => session.latest(&key).push_message("onNews", &body).await?,
                    None => session.push_message("onNews", &body).await?,
                }
            }
            Ok::<_, HandlerError>(())
        },
    );
    let servers = TestServers::start(Servers::new().add(app)).await.unwrap();
    for seed in 0..40 {
        let mut rng = Rng(seed);
        let ann = servers.connect("connector-1").await.unwrap();
        ann.request::<_, u32>("connector.h.join", "ann")
            .await
            .unwrap();
        ann.stall();
        // The socket is offered this one, and takes nothing of it.
        ann.notify("connector.h.burst", &json!([[null, 0]]))
            .await
            .unwrap();
        servers.settle().await;
        let (mut naive, mut n) = (Naive::default(), 0);
        for _ in 0..4 {
            let mut burst = Vec::new();
            for _ in 0..rng.below(10) {
                n += 1;
                let key = rng.key();
                naive.push(key, n);
                burst.push((key, n));
            }
            if rng.below(2) == 0 {
                ann.notify("connector.h.burst", &burst).await.unwrap();
            } else {
                // From elsewhere, while nothing of the client is looked at.
                for (key, n) in burst {
                    push(0, servers.app("connector-1"), "ann", key, &json!({"n": n})).await;
                }
            }
            servers.settle().await;
        }
        assert_eq!(ann.pushes().await, [], "seed {seed}");
        ann.resume();
        servers.settle().await;
        let seen: Vec<_> = ann
            .pushes()
            .await
            .into_iter()
            .map(|(_, body)| body)
            .collect();
        assert_eq!(seen[0], json!({"n": 0}));
        assert_eq!(seen[1..], naive.bodies(), "seed {seed}");
        // A client that reads gets all.
        for n in 0..3 {
            push(
                0,
                servers.app("connector-1"),
                "ann",
                Some("a"),
                &json!({"n": n}),
            )
            .await;
            servers.settle().await;
        }
        assert_eq!(ann.pushes().await.len(), 3);
        ann.cut();
        servers.settle().await;
    }
    servers.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_key_has_a_length() {
    let servers = TestServers::start(Servers::new().add(connector()))
        .await
        .unwrap();
    let app = servers.app("connector-1");
    for (len, ok) in [(0, false), (1, true), (128, true), (129, false)] {
        let (key, body) = ("k".repeat(len), json!({"n": 1}));
        let channels = app.channels();
        let sent = channels
            .latest(&key)
            .broadcast("connector", "onNews", &body, BroadcastOptions::all())
            .await;
        let topic = app.topic("all").latest(&key).push("onNews", &body).await;
        match (sent, topic) {
            (Ok(_), Ok(())) => assert!(ok, "{len}"),
            (Err(PushError::LatestKey { len: one }), Err(PushError::LatestKey { len: other })) => {
                assert_eq!((one, other, ok), (len, len, false));
            }
            other => panic!("{len}: {other:?}"),
        }
    }
    servers.shutdown().await;
}
