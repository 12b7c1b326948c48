//! Servers are stopped as operators do it, one after the other and under load.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use futures_util::future::{join, join_all};
use serde_json::{Value, json};
use shaddock::cluster::NatsCluster;
use shaddock_client::{Client, CloseKind, Dialect};

use super::{SECOND, clients, ends_well, holds, stop, subscribed, users, within};
use crate::{
    Frontend, ask, ask_soon, connect,
    pitaya::{GoServer, UNIQUE, go_program},
    proxy::Proxy,
    room,
    servers::{Backing, config},
};

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_backends_are_restarted_under_load_and_nothing_is_lost() {
    let backing = Backing::start();
    let frontend = Frontend::start(&backing, "connector-1", &UNIQUE);
    let ids = ["room-1", "room-2", "room-3"];
    let mut rooms: Vec<_> = ids
        .iter()
        .map(|id| Some(room::start_process(&backing, id)))
        .collect();
    let clients = users(&frontend.address, 8).await;
    let done = AtomicBool::new(false);
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
    let clients = users(&frontend.address, 12).await;
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

/// A room to which NATS brings the goodbye of a frontend later than etcd its absence from the list.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_of_a_frontend_that_drains_stay_also_where_its_goodbye_is_late() {
    let backing = Backing::start();
    // One wave closes one client, and the next comes long after the test.
    let slow = ["spread=60s", "wave_interval=30s", "deadline=90s"];
    let slow = slow.map(|setting| ["--set".to_owned(), format!("drain.{setting}")]);
    let slow: Vec<&str> = slow.iter().flatten().map(String::as_str).collect();
    let frontend = Frontend::start(&backing, "connector-1", &slow);
    let nats = Proxy::to(backing.nats.address).await;
    let mut patient = config(nats.address, backing.etcd.address);
    patient.nats_ping_interval = SECOND * 60;
    let room = room::start(NatsCluster::new(patient).unwrap(), "room-1").await;
    let app = room.app("room-1").unwrap().clone();
    let clients = users(&frontend.address, 2).await;
    for client in &clients {
        ask(client, "room.room.enter", json!({ "name": "lobby" })).await;
    }
    let lobby = app.channels().get("lobby").unwrap();
    assert_eq!(lobby.user_amount(), 2);

    nats.cut();
    frontend.program.signal("-TERM");
    within(SECOND * 5, "not in the list", || {
        let members = app.membership().unwrap().members();
        members.server("connector-1").is_none()
    })
    .await;
    tokio::time::sleep(SECOND / 2).await;
    assert_eq!(lobby.user_amount(), 2, "nobody leaves on a suspicion");
    nats.heal();
    within(SECOND * 5, "the first wave", || lobby.user_amount() < 2).await;
    let push = lobby.push_message("onText", &json!({ "text": "still" }));
    assert_eq!(push.await.unwrap().queued, 1, "the other one is there");
    assert_eq!(lobby.user_amount(), 1);
    drop(clients);
    room.shutdown().await;
}
