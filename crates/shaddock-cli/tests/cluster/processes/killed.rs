//! Servers are killed, or stand still.

use std::time::Instant;

use futures_util::future::{join, join_all};
use serde_json::{Value, json};
use shaddock::prelude::Uid;
use shaddock_client::{Client, Dialect, RequestError};

use super::{bind, clients, has_members, holds};
use crate::{
    Frontend, Program, ask, ask_soon, connect, operators,
    pitaya::{GoServer, UNIQUE, go_program},
    room,
    servers::Backing,
    wait::{PATIENCE, eventually, until},
};

/// Ends a server of type `room` the hard way, and waits until NATS knows: what is sent to it before that is in flight.
async fn kill(backing: &Backing, program: &Program, id: &str) {
    program.signal("-KILL");
    let subject = format!("pitaya/servers/room/{id}");
    until("NATS notices", || {
        let mut all = backing.nats.subscriptions().into_values().flatten();
        all.all(|other| other != subject)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_is_killed_with_requests_in_flight() {
    let backing = Backing::start();
    let frontend = Frontend::mortal(&backing, "connector-1", &[]);
    // Frontends wait for as long as the rooms say that their handlers may take.
    let start = |id| room::start_process_with(&backing, id, "handlers.timeout=12s");
    let (dies, _lives) = (start("room-1"), start("room-2"));
    let clients = clients(&frontend.address, 24).await;
    for client in &clients {
        ask_soon(client, "room.room.echo").await;
    }
    let start = Instant::now();
    let in_flight = join_all(clients.iter().map(|client| async {
        let slow = json!({ "ms": 5000 });
        client.request::<_, Value>("room.room.slow", &slow).await
    }));
    let kill = async {
        operators::says(&frontend, "requests are running", |said| {
            let at_work = operators::server(said, "room-1")["in_flight"].as_u64();
            at_work.is_some_and(|n| n > 0)
        })
        .await;
        kill(&backing, &dies, "room-1").await;
        // The next ones go to other servers: no message is sent to a server that is gone.
        let other = connect(&frontend.address, Dialect::Pitaya).await;
        // It is in the list until its lease ends.
        for _ in 0..100 {
            let answer = ask(&other, "room.room.slow", json!({ "ms": 0 })).await;
            assert_eq!(answer, json!({ "text": "room-2" }));
        }
    };
    let (answers, ()) = join(in_flight, kill).await;
    assert!(
        start.elapsed() < PATIENCE * 2,
        "errors come by the deadline"
    );
    let mut failed = 0;
    for answer in answers {
        match answer {
            Ok(answer) => assert_eq!(answer, json!({ "text": "room-2" })),
            Err(RequestError::Server(error)) => {
                // By the deadline, or by the death itself, which NATS and the list tell.
                let codes = ["PIT-408", "500", "PIT-503"];
                assert!(codes.contains(&error.code()), "{error:?}");
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
    let dies = Frontend::mortal(&backing, "connector-1", &UNIQUE);
    let lives = Frontend::mortal(&backing, "connector-2", &UNIQUE);
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
    assert_eq!(lobby.user_amount().await.unwrap(), 3);
    assert_eq!(app.backend_sessions().locate("ann").await.unwrap().len(), 1);
    let servers = [
        "connector connector-1",
        "connector connector-2",
        "room room-1",
    ];
    holds(&backing, &servers, &["amy", "ann", "bob"]).await;

    dies.program.signal("-KILL");
    there[0].closed().await;
    // A user who returns waits for the lease: that the id has no subscriber proves nothing.
    let ann = connect(&lives.address, Dialect::Pomelo).await;
    let login = json!({ "uid": "ann" });
    eventually("bound", async || {
        let bound = ann.request::<_, Value>("room.room.bind", &login);
        bound.await.is_ok()
    })
    .await;
    has_members(&lobby, 1).await;
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
    until("nobody is bound", || {
        backing.etcd.keys("pitaya/bindings/").is_empty()
    })
    .await;
    holds(&backing, &servers, &[]).await;
    room.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn go_servers_are_killed() {
    let Some(program) = go_program() else { return };
    let backing = Backing::start();
    let ours = Frontend::mortal(&backing, "connector-1", &UNIQUE);
    let lease = ["-ttl", "5s"];
    let theirs = GoServer::frontend(program, &backing, "connector", &lease);
    let go_room = GoServer::start(program, &backing, "room", &lease);
    let rust_room = room::start(backing.cluster(), "room-1").await;
    let app = rust_room.app("room-1").unwrap().clone();
    let here = connect(&ours.address, Dialect::Pitaya).await;
    let there = connect(&theirs.address, Dialect::Pitaya).await;
    for (client, uid) in [(&here, "ann"), (&there, "bob")] {
        bind(client, uid).await;
    }

    kill(&backing, &go_room.program, &go_room.id).await;
    // A frontend of ours sends them elsewhere at once, long before the lease of the dead has ended.
    for _ in 0..50 {
        let answer = ask(&here, "room.room.slow", json!({ "ms": 0 })).await;
        assert_eq!(answer, json!({ "text": "room-1" }));
    }
    let listed = || app.membership().unwrap().members().servers_of("room").len();
    until("gone from the list", || listed() == 1).await;
    // Only the room that is left is asked now, also by the frontend in Go.
    for client in [&here, &there] {
        ask_soon(client, "room.room.echo").await;
        ask(client, "room.room.enter", json!({ "name": "lobby" })).await;
    }
    let lobby = app.channels().get("lobby").unwrap();
    assert_eq!(lobby.user_amount().await.unwrap(), 2);

    theirs.program.signal("-KILL");
    there.closed().await;
    has_members(&lobby, 1).await;
    assert!(
        app.backend_sessions()
            .locate("bob")
            .await
            .unwrap()
            .is_empty()
    );
    // And they can return.
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
async fn a_backend_stands_still_for_a_while() {
    let backing = Backing::start();
    let frontend = Frontend::mortal(&backing, "connector-1", &[]);
    let start = |id| room::start_process_with(&backing, id, "handlers.timeout=3s");
    let (stands, _goes) = (start("room-1"), start("room-2"));
    let clients = clients(&frontend.address, 6).await;
    let slow = async |client: &Client| {
        let asked = Instant::now();
        let answer = client
            .request::<_, Value>("room.room.slow", &json!({ "ms": 0 }))
            .await;
        assert!(asked.elapsed() < PATIENCE, "an answer or an error in time");
        answer.map(|answer| answer["text"].as_str().unwrap().to_owned())
    };
    for client in &clients {
        ask_soon(client, "room.room.echo").await;
    }
    stands.signal("-STOP");
    // Some wait for it, each no longer than the deadline, until its lease ends.
    let mut late = 0;
    eventually("the end of its lease", async || {
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
        backing.etcd.keys("pitaya/servers/room/").len() == 1
    })
    .await;
    assert!(late > 0);
    operators::listed(&frontend, 2).await;
    for client in &clients {
        assert_eq!(slow(client).await.unwrap(), "room-2", "its lease has ended");
    }
    stands.signal("-CONT");
    eventually("it is asked again", async || {
        slow(&clients[0]).await.unwrap() == "room-1"
    })
    .await;
    let servers = ["connector connector-1", "room room-1", "room room-2"];
    holds(&backing, &servers, &[]).await;
}

/// A frontend stands still for longer than its lease and than others wait for it. They forget it, and remember it when it goes on: its users are
/// in their channels, except those who have gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frontend_that_was_away_is_in_its_channels_again() {
    let backing = Backing::start();
    let stops = Frontend::mortal(&backing, "connector-1", &UNIQUE);
    let room = room::start(backing.cluster(), "room-1").await;
    let app = room.app("room-1").unwrap().clone();
    let mut there = Vec::new();
    for uid in ["ann", "amy"] {
        let client = connect(&stops.address, Dialect::Pomelo).await;
        ask_soon(&client, "room.room.echo").await;
        ask(&client, "room.room.bind", json!({ "uid": uid })).await;
        ask(&client, "room.room.enter", json!({ "name": "lobby" })).await;
        there.push(client);
    }
    let lobby = app.channels().get("lobby").unwrap();
    stops.program.signal("-STOP");
    has_members(&lobby, 0).await;
    // A user leaves while no watcher is running.
    drop(there.pop());
    stops.program.signal("-CONT");
    has_members(&lobby, 1).await;
    let members = lobby.members().await.unwrap().uids();
    assert_eq!(members, [Uid::new("ann").unwrap()]);
    // It gets what is pushed as soon as its frontend is sure that it still owns its users.
    let mut pushes = there[0].subscribe("onText");
    let text = json!({ "text": "back" });
    eventually("the push is queued", async || {
        let delivered = lobby.push_message("onText", &text).await.unwrap();
        delivered.queued == 1
    })
    .await;
    assert_eq!(crate::next_push(&mut pushes).await, text);
}
