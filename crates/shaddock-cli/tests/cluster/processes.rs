//! Real processes that are killed, restarted and drained, and what is left of them at NATS and etcd.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::{join, join_all};
use serde_json::{Value, json};
use shaddock::prelude::Uid;
use shaddock_client::{Client, CloseKind, Dialect, RequestError};

use crate::{
    Frontend, Program, ask, ask_soon, connect, next_push,
    pitaya::{GoServer, UNIQUE, go_program},
    proxy::Proxy,
    room,
    servers::Backing,
};

const SECOND: Duration = Duration::from_secs(1);
/// The lease of servers in these tests.
const TTL: Duration = Duration::from_secs(2);

/// Waits until something holds.
async fn within(limit: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The clients of NATS by name, and how many subscriptions each has.
fn subscribed(backing: &Backing) -> Vec<(String, usize)> {
    let all = backing.nats.subscriptions();
    all.into_iter()
        .map(|(name, list)| (name, list.len()))
        .collect()
}

/// NATS and etcd hold what these servers need, one connection and one lease for each, and nothing of others. `users` are bound, at
/// frontends with unique sessions.
async fn holds(backing: &Backing, servers: &[&str], users: &[&str]) {
    // Servers are asked to do so, not made to do it before they answer.
    within(TTL * 2, "the right clients of NATS", || {
        let now: BTreeSet<_> = backing.nats.subscriptions().into_keys().collect();
        now == servers.iter().map(ToString::to_string).collect()
    })
    .await;
    within(TTL * 2, "a lease for each server", || {
        backing.etcd.leases() == servers.len()
    })
    .await;
    let keys = |kind: &str| -> BTreeSet<String> {
        let keys = backing.etcd.keys(&format!("pitaya/{kind}/"));
        keys.iter()
            .map(|key| key.rsplit('/').next().unwrap().to_owned())
            .collect()
    };
    let ids = servers
        .iter()
        .map(|name| name.rsplit(' ').next().unwrap().to_owned());
    assert_eq!(keys("servers"), ids.collect());
    within(SECOND, "the bound users", || {
        keys("bindings") == users.iter().map(ToString::to_string).collect()
    })
    .await;
    let of_users: BTreeSet<String> = users
        .iter()
        .flat_map(|uid| ["kick", "push"].map(|what| format!("pitaya/connector/user/{uid}/{what}")))
        .collect();
    within(SECOND, "the subscriptions of the users", || {
        let all = backing.nats.subscriptions().into_values().flatten();
        all.filter(|subject| subject.contains("/user/"))
            .collect::<BTreeSet<_>>()
            == of_users
    })
    .await;
}

/// Ends a server of type `room` the hard way, and waits until NATS knows: what is sent to it before that is in flight.
async fn kill(backing: &Backing, program: &Program, id: &str) {
    program.signal("-KILL");
    let subject = format!("pitaya/servers/room/{id}");
    within(SECOND * 5, "NATS notices", || {
        let mut all = backing.nats.subscriptions().into_values().flatten();
        all.all(|other| other != subject)
    })
    .await;
}

async fn clients(address: &str, n: usize) -> Vec<Client> {
    join_all((0..n).map(|_| connect(address, Dialect::Pitaya))).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_is_killed_with_requests_in_flight() {
    let backing = Backing::start();
    let limit = ["--set", "cluster.request_timeout=2s"];
    let frontend = Frontend::start(&backing, "connector-1", &limit);
    let dies = room::start_process(&backing, "room-1");
    let _lives = room::start_process(&backing, "room-2");
    let clients = clients(&frontend.address, 24).await;
    for client in &clients {
        ask_soon(client, "room.room.echo").await;
    }
    let start = Instant::now();
    let in_flight = join_all(clients.iter().map(|client| async {
        let slow = json!({ "ms": 1200 });
        client.request::<_, Value>("room.room.slow", &slow).await
    }));
    let kill = async {
        tokio::time::sleep(SECOND / 2).await;
        kill(&backing, &dies, "room-1").await;
        // The next ones go elsewhere: nobody is told of a server that is not there any more.
        let other = connect(&frontend.address, Dialect::Pitaya).await;
        let killed = Instant::now();
        for _ in 0..100 {
            let answer = ask(&other, "room.room.slow", json!({ "ms": 0 })).await;
            assert_eq!(answer, json!({ "text": "room-2" }));
        }
        let took = killed.elapsed();
        assert!(took < TTL, "before its lease has ended: {took:?}");
    };
    let (answers, ()) = join(in_flight, kill).await;
    assert!(start.elapsed() < SECOND * 4, "errors come by the deadline");
    let mut failed = 0;
    for answer in answers {
        match answer {
            Ok(answer) => assert_eq!(answer, json!({ "text": "room-2" })),
            Err(RequestError::Server(error)) => {
                assert!(["PIT-408", "500"].contains(&error.code()), "{error:?}");
                failed += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(failed > 0, "some were there");
    assert!(clients.iter().all(|client| client.close_kind().is_none()));
    holds(&backing, &["connector connector-1", "room room-2"], &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frontend_is_killed_and_leaves_no_ghost() {
    let backing = Backing::start();
    let dies = Frontend::start(&backing, "connector-1", &UNIQUE);
    let lives = Frontend::start(&backing, "connector-2", &UNIQUE);
    let room = room::start(backing.cluster(), "room-1").await;
    let app = room.app("room-1").unwrap().clone();
    let mut there = Vec::new();
    for (frontend, uid) in [(&dies, "ann"), (&dies, "amy"), (&lives, "bob")] {
        let client = connect(&frontend.address, Dialect::Pomelo).await;
        ask_soon(&client, "room.room.echo").await;
        ask(&client, "room.room.bind", json!({ "uid": uid })).await;
        ask(&client, "room.room.enter", json!({ "name": "lobby" })).await;
        there.push(client);
    }
    let lobby = app.channels().get("lobby").unwrap();
    assert_eq!(lobby.user_amount(), 3);
    assert_eq!(app.backend_sessions().locate("ann").await.unwrap().len(), 1);
    let servers = [
        "connector connector-1",
        "connector connector-2",
        "room room-1",
    ];
    holds(&backing, &servers, &["amy", "ann", "bob"]).await;

    dies.program.signal("-KILL");
    let killed = Instant::now();
    there[0].closed().await;
    // One who comes back need not wait for the lease.
    let ann = connect(&lives.address, Dialect::Pomelo).await;
    ask(&ann, "room.room.bind", json!({ "uid": "ann" })).await;
    assert!(killed.elapsed() < TTL);
    within(TTL + SECOND, "out of the channel", || {
        lobby.user_amount() == 1
    })
    .await;
    for (uid, places) in [("ann", 1), ("amy", 0), ("bob", 1)] {
        let found = app.backend_sessions().locate(uid).await.unwrap();
        assert_eq!(found.len(), places, "{uid}");
        assert!(
            found
                .iter()
                .all(|place| place.frontend.as_str() == "connector-2")
        );
    }
    let said = ask(
        &ann,
        "room.room.chat",
        json!({ "name": "lobby", "text": "who?" }),
    )
    .await;
    assert_eq!(said, json!({ "queued": 1, "missing": [] }));
    let servers = ["connector connector-2", "room room-1"];
    holds(&backing, &servers, &["ann", "bob"]).await;
    let listed = lives.operate(&["sessions", "--json"]).out;
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed["total"], 2);

    drop((ann, there));
    within(SECOND * 5, "nobody is bound", || {
        backing.etcd.keys("pitaya/bindings/").is_empty()
    })
    .await;
    holds(&backing, &servers, &[]).await;
    room.shutdown().await;
}

/// Clients that ask steadily until they are told to stop; each gives its number of answers. Every request must succeed.
async fn steady_load(clients: &[Client], routes: &[&str], stop: &AtomicBool) -> usize {
    let counts = clients.iter().enumerate().map(|(n, client)| async move {
        let mut asked = 0;
        while !stop.load(Ordering::Acquire) {
            let route = routes[(n + asked) % routes.len()];
            ask(client, route, json!({ "ms": 20, "text": "on" })).await;
            asked += 1;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        asked
    });
    join_all(counts).await.into_iter().sum()
}

/// Stops a server as an operator does, and waits for its end.
async fn stop(program: Program) {
    program.signal("-TERM");
    ends_well(program).await;
}

async fn ends_well(mut program: Program) {
    let status = tokio::task::spawn_blocking(move || program.wait()).await;
    assert!(status.unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_backends_are_restarted_under_load_and_nothing_is_lost() {
    let backing = Backing::start();
    let frontend = Frontend::start(&backing, "connector-1", &UNIQUE);
    let ids = ["room-1", "room-2", "room-3"];
    let mut rooms: Vec<_> = ids
        .iter()
        .map(|id| Some(room::start_process(&backing, id)))
        .collect();
    let clients = clients(&frontend.address, 8).await;
    for (n, client) in clients.iter().enumerate() {
        ask_soon(client, "room.room.echo").await;
        ask(
            client,
            "room.room.bind",
            json!({ "uid": format!("user-{n}") }),
        )
        .await;
    }
    let done = Arc::new(AtomicBool::new(false));
    let load = steady_load(&clients, &["room.room.slow", "room.room.echo"], &done);
    let restart = async {
        for (id, room) in ids.iter().zip(&mut rooms) {
            stop(room.take().unwrap()).await;
            let (backing, id) = (&backing, *id);
            *room = Some(tokio::task::block_in_place(|| {
                room::start_process(backing, id)
            }));
        }
        done.store(true, Ordering::Release);
    };
    let (answers, ()) = join(load, restart).await;
    assert!(answers > 100, "{answers} requests");
    assert!(clients.iter().all(|client| client.close_kind().is_none()));
    let servers = [
        "connector connector-1",
        "room room-1",
        "room room-2",
        "room room-3",
    ];
    let users: Vec<_> = (0..8).map(|n| format!("user-{n}")).collect();
    let users: Vec<_> = users.iter().map(String::as_str).collect();
    holds(&backing, &servers, &users).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_of_both_kinds_are_restarted_in_one_cluster() {
    let Some(program) = go_program() else { return };
    let backing = Backing::start();
    let ours = Frontend::start(&backing, "connector-1", &UNIQUE);
    let theirs = GoServer::frontend(program, &backing, "connector", &[]);
    let go_room = GoServer::start(program, &backing, "room", &[]);
    let rust_room = room::start_process(&backing, "room-1");
    let mut clients = clients(&ours.address, 3).await;
    clients.push(connect(&theirs.address, Dialect::Pitaya).await);
    for client in &clients {
        ask_soon(client, "room.room.echo").await;
    }
    let done = AtomicBool::new(false);
    let load = steady_load(&clients, &["room.room.slow", "room.room.echo"], &done);
    let restart = async {
        let start =
            || tokio::task::block_in_place(|| GoServer::start(program, &backing, "room", &[]));
        let settle = || tokio::time::sleep(SECOND / 2);
        settle().await;
        let next = start();
        stop(go_room.program).await;
        settle().await;
        stop(rust_room).await;
        settle().await;
        let rust_room = tokio::task::block_in_place(|| room::start_process(&backing, "room-1"));
        stop(next.program).await;
        settle().await;
        done.store(true, Ordering::Release);
        rust_room
    };
    let (answers, rust_room) = join(load, restart).await;
    assert!(answers > 50, "{answers} requests");
    assert!(clients.iter().all(|client| client.close_kind().is_none()));
    // A Go server names no connection, and has two.
    let ours_at_nats = subscribed(&backing);
    let names: Vec<_> = ours_at_nats.iter().map(|(name, _)| &**name).collect();
    assert_eq!(names, ["", "connector connector-1", "room room-1"]);
    assert_eq!(backing.etcd.keys("pitaya/servers/").len(), 3);
    stop(rust_room).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn go_servers_are_killed() {
    let Some(program) = go_program() else { return };
    let backing = Backing::start();
    let ours = Frontend::start(&backing, "connector-1", &UNIQUE);
    let lease = ["-ttl", "2s"];
    let theirs = GoServer::frontend(program, &backing, "connector", &lease);
    let go_room = GoServer::start(program, &backing, "room", &lease);
    let rust_room = room::start(backing.cluster(), "room-1").await;
    let app = rust_room.app("room-1").unwrap().clone();
    let here = connect(&ours.address, Dialect::Pitaya).await;
    let there = connect(&theirs.address, Dialect::Pitaya).await;
    for (client, uid) in [(&here, "ann"), (&there, "bob")] {
        ask_soon(client, "room.room.echo").await;
        ask(client, "room.room.bind", json!({ "uid": uid })).await;
    }

    kill(&backing, &go_room.program, &go_room.id).await;
    // A frontend of ours sends them elsewhere at once, long before the lease of the dead has ended.
    for _ in 0..50 {
        let answer = ask(&here, "room.room.slow", json!({ "ms": 0 })).await;
        assert_eq!(answer, json!({ "text": "room-1" }));
    }
    let listed = || app.membership().unwrap().members().servers_of("room").len();
    within(TTL + SECOND * 2, "gone from the list", || listed() == 1).await;
    // Only the room that is left is asked now, also by the frontend in Go.
    for client in [&here, &there] {
        ask_soon(client, "room.room.echo").await;
        ask(client, "room.room.enter", json!({ "name": "lobby" })).await;
    }
    let lobby = app.channels().get("lobby").unwrap();
    assert_eq!(lobby.user_amount(), 2);

    theirs.program.signal("-KILL");
    there.closed().await;
    within(TTL + SECOND * 2, "no ghost in the channel", || {
        lobby.user_amount() == 1
    })
    .await;
    assert!(
        app.backend_sessions()
            .locate("bob")
            .await
            .unwrap()
            .is_empty()
    );
    // And he can come back.
    let again = connect(&ours.address, Dialect::Pitaya).await;
    ask(&again, "room.room.bind", json!({ "uid": "bob" })).await;
    assert_eq!(app.backend_sessions().locate("bob").await.unwrap().len(), 1);
    holds(
        &backing,
        &["connector connector-1", "room room-1"],
        &["ann", "bob"],
    )
    .await;
    rust_room.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frontend_that_drains_leaves_the_list_then_closes_its_clients_in_waves() {
    let backing = Backing::start();
    let waves = [
        "--set",
        "drain.spread=2s",
        "--set",
        "drain.wave_interval=500ms",
    ];
    let frontend = Frontend::start(&backing, "connector-1", &[&UNIQUE, &waves[..]].concat());
    let _room = room::start_process(&backing, "room-1");
    let clients = clients(&frontend.address, 12).await;
    for (n, client) in clients.iter().enumerate() {
        ask_soon(client, "room.room.echo").await;
        ask(
            client,
            "room.room.bind",
            json!({ "uid": format!("user-{n}") }),
        )
        .await;
    }
    let slow = json!({ "ms": 400 });
    let in_flight = clients[11].request::<_, Value>("room.room.slow", &slow);
    let Frontend { program, .. } = frontend;
    let drain = async {
        tokio::time::sleep(SECOND / 10).await;
        program.signal("-TERM");
        within(SECOND * 2, "not in the list", || {
            backing.etcd.keys("pitaya/servers/connector/").is_empty()
        })
        .await;
        let open = clients
            .iter()
            .filter(|client| client.close_kind().is_none());
        let open: Vec<_> = open.collect();
        assert!(open.len() >= 6, "clients are closed after that, in waves");
        // Who is still connected is served.
        if let Some(last) = open.last() {
            ask(last, "room.room.echo", json!({ "text": "still" })).await;
        }
        let mut ends = Vec::new();
        let closed = clients.iter().map(|client| async {
            let kind = tokio::time::timeout(SECOND * 6, client.closed()).await;
            (kind.expect("closed"), Instant::now())
        });
        for (kind, at) in join_all(closed).await {
            let reason = Some("draining".to_owned());
            assert_eq!(kind, CloseKind::Kicked { reason });
            ends.push(at);
        }
        ends.sort();
        assert!(ends[11] - ends[0] > SECOND, "not all at once");
    };
    let (answer, ()) = join(in_flight, drain).await;
    assert_eq!(
        answer.unwrap(),
        json!({ "text": "room-1" }),
        "what was accepted is answered"
    );
    ends_well(program).await;
    holds(&backing, &["room room-1"], &[]).await;
}

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
    let other = Frontend::start(&backing, "connector-2", &UNIQUE);
    let room = room::start(backing.cluster(), "room-1").await;
    let app = room.app("room-1").unwrap().clone();
    let [ann, amy]: [Client; 2] = clients(&alone.address, 2).await.try_into().unwrap();
    for (client, uid) in [(&ann, "ann"), (&amy, "amy")] {
        ask_soon(client, "room.room.echo").await;
        ask(client, "room.room.bind", json!({ "uid": uid })).await;
    }
    let mut old_pushes = ann.subscribe("onText");
    nats.cut();
    etcd.cut();
    // The user comes to another frontend.
    let again = connect(&other.address, Dialect::Pitaya).await;
    let uid = json!({ "uid": "ann" });
    let start = Instant::now();
    while let Err(error) = again.request::<_, Value>("room.room.bind", &uid).await {
        assert!(start.elapsed() < TTL * 4, "{error}");
    }
    // The old one can do nothing in his name any more, and gets nothing of his.
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
    let closed = tokio::time::timeout(SECOND * 10, ann.closed()).await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_stands_still_for_a_while() {
    let backing = Backing::start();
    let limit = ["--set", "cluster.request_timeout=1s"];
    let frontend = Frontend::start(&backing, "connector-1", &limit);
    let stands = room::start_process(&backing, "room-1");
    let _goes = room::start_process(&backing, "room-2");
    let clients = clients(&frontend.address, 6).await;
    let slow = async |client: &Client| {
        let asked = Instant::now();
        let answer = client
            .request::<_, Value>("room.room.slow", &json!({ "ms": 0 }))
            .await;
        assert!(
            asked.elapsed() < SECOND * 3,
            "an answer or an error in time"
        );
        answer.map(|answer| answer["text"].as_str().unwrap().to_owned())
    };
    for client in &clients {
        ask_soon(client, "room.room.echo").await;
    }
    stands.signal("-STOP");
    // Some wait for it, each no longer than the deadline, until its lease ends.
    let start = Instant::now();
    let mut late = 0;
    while start.elapsed() < TTL + SECOND * 2 {
        for answer in join_all(clients.iter().map(&slow)).await {
            match answer {
                Ok(id) => assert_eq!(id, "room-2"),
                Err(RequestError::Server(error)) => {
                    assert_eq!(error.code(), "PIT-408");
                    late += 1;
                }
                Err(error) => panic!("{error}"),
            }
        }
        tokio::time::sleep(SECOND / 20).await;
    }
    assert!(late > 0);
    for client in &clients {
        assert_eq!(slow(client).await.unwrap(), "room-2", "its lease has ended");
    }
    stands.signal("-CONT");
    let end = Instant::now() + SECOND * 10;
    while slow(&clients[0]).await.unwrap() != "room-1" {
        assert!(Instant::now() < end, "it is never asked again");
    }
    let servers = ["connector connector-1", "room room-1", "room room-2"];
    holds(&backing, &servers, &[]).await;
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
        let frontend = Frontend::start(&backing, "connector-1", &UNIQUE);
        let room = room::start_process(&backing, "room-1");
        let users = clients(&frontend.address, 2).await;
        for (n, client) in users.iter().enumerate() {
            ask_soon(client, "room.room.echo").await;
            ask(
                client,
                "room.room.bind",
                json!({ "uid": format!("user-{n}") }),
            )
            .await;
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
    let start = Instant::now();
    while start.elapsed() < AWAY {
        for client in &lobby.users {
            let asked = Instant::now();
            let text = json!({ "text": "?" });
            let echo = client.request::<_, Value>("room.room.echo", &text);
            let Err(RequestError::Server(error)) = echo.await else {
                panic!("answered, or disconnected");
            };
            assert_eq!(error.code(), "PIT-503", "{error:?}");
            assert!(!error.message().is_empty());
            assert!(asked.elapsed() < SECOND, "requests fail fast");
        }
        tokio::time::sleep(SECOND).await;
    }
    lobby.backing.nats.again();
    lobby.is_whole().await;
}

async fn etcd_is_away_for_thirty_seconds() {
    let mut lobby = Lobby::open().await;
    lobby.backing.etcd.kill();
    let start = Instant::now();
    // With leases of two seconds a fence comes up: who owns a user cannot be known. Others are served.
    let guest = connect(&lobby.frontend.address, Dialect::Pitaya).await;
    while start.elapsed() < AWAY {
        let asked = Instant::now();
        ask(&guest, "room.room.echo", json!({ "text": "on" })).await;
        let uid = json!({ "uid": "guest" });
        let bind = guest.request::<_, Value>("room.room.bind", &uid);
        assert!(bind.await.is_err(), "nobody can say whose he is");
        assert!(asked.elapsed() < SECOND * 8);
        assert!(
            lobby
                .users
                .iter()
                .all(|client| client.close_kind().is_none())
        );
        tokio::time::sleep(SECOND).await;
    }
    lobby.backing.etcd.again();
    drop(guest);
    lobby.is_whole().await;
    // And a server that comes now is seen.
    let late = tokio::task::block_in_place(|| room::start_process(&lobby.backing, "room-2"));
    let end = Instant::now() + SECOND * 5;
    loop {
        let who = ask(&lobby.users[0], "room.room.slow", json!({ "ms": 0 })).await;
        if who["text"] == "room-2" {
            break;
        }
        assert!(Instant::now() < end, "the new room is never chosen");
    }
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
