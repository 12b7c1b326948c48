//! A frontend is disconnected, or NATS or etcd is away for a long time.

use std::time::{Duration, Instant};

use futures_util::future::join;
use serde_json::{Value, json};
use shaddock::{cluster::NatsCluster, prelude::Uid};
use shaddock_client::{Client, CloseKind, Dialect, RequestError};

use super::{bind, clients, holds, stop, subscribed, users};
use crate::{
    Frontend, Program, ask, ask_soon, connect, next_push,
    pitaya::UNIQUE,
    proxy::Proxy,
    room,
    servers::Backing,
    wait::{PATIENCE, eventually, throughout},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frontend_is_cut_off_while_its_clients_stay() {
    let backing = Backing::start();
    let nats = Proxy::to(backing.nats.address).await;
    let etcd = Proxy::to(backing.etcd.address).await;
    let pings = ["--set", "cluster.nats_ping_interval=300ms"];
    let more = [&UNIQUE, &pings[..]].concat();
    let (nats_at, etcd_at) = (nats.address, etcd.address);
    let alone =
        tokio::task::block_in_place(|| Frontend::start_at(nats_at, etcd_at, "connector-1", &more));
    let other = Frontend::mortal(&backing, "connector-2", &UNIQUE);
    let room = room::start(NatsCluster::new(backing.config()).unwrap(), "room-1").await;
    let app = room.app("room-1").unwrap().clone();
    let [ann, amy]: [Client; 2] = clients(&alone.address, 2).await.try_into().unwrap();
    for (client, uid) in [(&ann, "ann"), (&amy, "amy")] {
        bind(client, uid).await;
    }
    let mut old_pushes = ann.subscribe("onText");
    nats.cut();
    etcd.cut();
    // The user comes to another frontend.
    let again = connect(&other.address, Dialect::Pitaya).await;
    let uid = json!({ "uid": "ann" });
    eventually("bound", async || {
        let bound = again.request::<_, Value>("room.room.bind", &uid);
        bound.await.is_ok()
    })
    .await;
    // The old one can do nothing for the user any more, and gets nothing that is for the user.
    let old = ann
        .request::<_, Value>("room.room.echo", &json!({ "text": "me?" }))
        .await;
    let Err(RequestError::Server(error)) = old else {
        panic!("{old:?}");
    };
    assert_eq!(error.code(), "PIT-503");
    let mut pushes = again.subscribe("onText");
    let push = async |text: &str| {
        let users = [Uid::new("ann").unwrap()];
        let text = json!({ "text": text });
        app.channels()
            .push_message_to_users("connector", "onText", &text, &users)
            .await
    };
    let _ = push("cut").await;
    assert_eq!(next_push(&mut pushes).await, json!({ "text": "cut" }));
    assert_eq!(
        (ann.close_kind(), amy.close_kind()),
        (None, None),
        "clients stay"
    );

    nats.heal();
    etcd.heal();
    let closed = tokio::time::timeout(PATIENCE, ann.closed()).await;
    assert!(matches!(closed, Ok(CloseKind::Kicked { .. })), "{closed:?}");
    assert!(
        old_pushes.try_recv().is_none(),
        "nothing of the user came here"
    );
    ask_soon(&amy, "room.room.echo").await;
    for (uid, frontend) in [("ann", "connector-2"), ("amy", "connector-1")] {
        let places = app.backend_sessions().locate(uid).await.unwrap();
        let places: Vec<_> = places.iter().map(|place| place.frontend.as_str()).collect();
        assert_eq!(places, [frontend]);
    }
    assert_eq!(push("healed").await.unwrap().queued, 1);
    assert_eq!(next_push(&mut pushes).await, json!({ "text": "healed" }));
    let servers = [
        "connector connector-1",
        "connector connector-2",
        "room room-1",
    ];
    holds(&backing, &servers, &["amy", "ann"]).await;
    room.shutdown().await;
}

/// A frontend, a room, and two users who are in a channel of it.
struct Lobby {
    backing: Backing,
    frontend: Frontend,
    _room: Program,
    users: [Client; 2],
    before: Vec<(String, usize)>,
}

impl Lobby {
    async fn open() -> Self {
        let backing = Backing::start();
        let frontend = Frontend::mortal(&backing, "connector-1", &UNIQUE);
        let room = room::start_process(&backing, "room-1");
        let users = users(&frontend.address, 2).await;
        for client in &users {
            ask(client, "room.room.enter", json!({ "name": "lobby" })).await;
        }
        let before = subscribed(&backing);
        let users = users.try_into().unwrap_or_else(|_| unreachable!());
        Self {
            backing,
            frontend,
            _room: room,
            users,
            before,
        }
    }

    /// All is as it was: sessions, users, members, subscriptions, leases; and everything works.
    async fn is_whole(&self) {
        let [ann, bob] = &self.users;
        for client in &self.users {
            ask_soon(client, "room.room.echo").await;
        }
        let mut pushes = bob.subscribe("onText");
        let tell = json!({ "uid": "user-1", "frontend": "connector", "text": "by uid" });
        assert_eq!(
            ask(ann, "room.room.tell", tell).await,
            json!({ "missing": [] })
        );
        assert_eq!(next_push(&mut pushes).await, json!({ "text": "by uid" }));
        let chat = json!({ "name": "lobby", "text": "to all" });
        let said = ask(ann, "room.room.chat", chat).await;
        assert_eq!(said, json!({ "queued": 2, "missing": [] }));
        assert_eq!(next_push(&mut pushes).await, json!({ "text": "to all" }));
        let listed = self.frontend.operate(&["sessions", "--json"]).out;
        let listed: Value = serde_json::from_str(&listed).unwrap();
        assert_eq!(listed["total"], 2);
        let servers = ["connector connector-1", "room room-1"];
        holds(&self.backing, &servers, &["user-0", "user-1"]).await;
        assert_eq!(subscribed(&self.backing), self.before);
        // One comes and goes.
        let guest = connect(&self.frontend.address, Dialect::Pitaya).await;
        ask(&guest, "room.room.bind", json!({ "uid": "guest" })).await;
        drop(guest);
        holds(&self.backing, &servers, &["user-0", "user-1"]).await;
        assert_eq!(subscribed(&self.backing), self.before);
    }
}

const AWAY: Duration = Duration::from_secs(30);

async fn nats_is_away_for_thirty_seconds() {
    let mut lobby = Lobby::open().await;
    lobby.backing.nats.kill();
    throughout(AWAY, "requests fail at once", async || {
        for client in &lobby.users {
            let text = json!({ "text": "?" });
            let echo = client.request::<_, Value>("room.room.echo", &text);
            let Err(RequestError::Server(error)) = echo.await else {
                panic!("answered, or disconnected");
            };
            // One that waits for its deadline fails with PIT-408.
            assert_eq!(error.code(), "PIT-503", "{error:?}");
            assert!(!error.message().is_empty());
        }
        true
    })
    .await;
    lobby.backing.nats.again();
    lobby.is_whole().await;
}

async fn etcd_is_away_for_thirty_seconds() {
    let mut lobby = Lobby::open().await;
    lobby.backing.etcd.kill();
    // With leases of two seconds a fence comes up: who owns a user cannot be known. Others are served.
    let guest = connect(&lobby.frontend.address, Dialect::Pitaya).await;
    throughout(AWAY, "clients stay", async || {
        let asked = Instant::now();
        ask(&guest, "room.room.echo", json!({ "text": "on" })).await;
        let uid = json!({ "uid": "guest" });
        let bind = guest.request::<_, Value>("room.room.bind", &uid);
        assert!(bind.await.is_err(), "nobody can say whose user that is");
        assert!(asked.elapsed() < PATIENCE);
        let mut users = lobby.users.iter();
        users.all(|client| client.close_kind().is_none())
    })
    .await;
    lobby.backing.etcd.again();
    drop(guest);
    lobby.is_whole().await;
    // And a server that comes now is seen.
    let late = tokio::task::block_in_place(|| room::start_process(&lobby.backing, "room-2"));
    eventually("the new room is chosen", async || {
        let who = ask(&lobby.users[0], "room.room.slow", json!({ "ms": 0 })).await;
        who["text"] == "room-2"
    })
    .await;
    stop(late).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nats_or_etcd_is_away_for_thirty_seconds() {
    // Beside each other, on servers of their own.
    join(
        nats_is_away_for_thirty_seconds(),
        etcd_is_away_for_thirty_seconds(),
    )
    .await;
}
