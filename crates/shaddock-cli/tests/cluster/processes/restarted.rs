//! Servers are stopped as operators do it, one after the other and under load.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Instant,
};

use futures_util::future::{join, join_all};
use serde_json::{Value, json};
use shaddock::cluster::NatsCluster;
use shaddock_client::{Client, CloseKind, Dialect};

use super::{SECOND, clients, ends_well, has_members, holds, stop, subscribed, users};
use crate::{
    Frontend, ask, ask_soon, connect, operators,
    pitaya::{GoServer, UNIQUE, go_program},
    proxy::Proxy,
    room,
    servers::Backing,
    wait::{PATIENCE, breathe, until},
};

/// Clients that ask steadily until they are told to stop. Every request must succeed.
#[derive(Default)]
struct Load {
    stop: AtomicBool,
    answers: AtomicUsize,
}

impl Load {
    async fn run(&self, clients: &[Client], routes: &[&str]) {
        let all = clients.iter().enumerate().map(|(n, client)| async move {
            for asked in n.. {
                if self.stop.load(Ordering::Acquire) {
                    return;
                }
                let route = routes[asked % routes.len()];
                ask(client, route, json!({ "ms": 20, "text": "on" })).await;
                self.answers.fetch_add(1, Ordering::Relaxed);
                breathe().await;
            }
        });
        join_all(all).await;
    }

    /// Waits for as many answers as show that it goes on.
    async fn goes_on(&self) {
        let before = self.answers.load(Ordering::Relaxed);
        until("many more answers", || {
            self.answers.load(Ordering::Relaxed) > before + 30
        })
        .await;
    }

    fn end(&self) {
        self.stop.store(true, Ordering::Release);
    }
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
    let load = Load::default();
    let restart = async {
        load.goes_on().await;
        for (id, room) in ids.iter().zip(&mut rooms) {
            stop(room.take().unwrap()).await;
            let (backing, id) = (&backing, *id);
            *room = Some(tokio::task::block_in_place(|| {
                room::start_process(backing, id)
            }));
            load.goes_on().await;
        }
        load.end();
    };
    join(
        load.run(&clients, &["room.room.slow", "room.room.echo"]),
        restart,
    )
    .await;
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
    let load = Load::default();
    let restart = async {
        let start =
            || tokio::task::block_in_place(|| GoServer::start(program, &backing, "room", &[]));
        load.goes_on().await;
        let next = start();
        stop(go_room.program).await;
        load.goes_on().await;
        stop(rust_room).await;
        load.goes_on().await;
        let rust_room = tokio::task::block_in_place(|| room::start_process(&backing, "room-1"));
        stop(next.program).await;
        load.goes_on().await;
        load.end();
        rust_room
    };
    let run = load.run(&clients, &["room.room.slow", "room.room.echo"]);
    let ((), rust_room) = join(run, restart).await;
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
        "drain.spread=12s",
        "--set",
        "drain.wave_interval=500ms",
    ];
    let frontend = Frontend::start(&backing, "connector-1", &[&UNIQUE, &waves[..]].concat());
    let _room = room::start_process(&backing, "room-1");
    let clients = users(&frontend.address, 12).await;
    let slow = json!({ "ms": 3000 });
    let in_flight = clients[11].request::<_, Value>("room.room.slow", &slow);
    let drain = async {
        operators::says(&frontend, "the request is at work", |said| {
            operators::server(said, "room-1")["in_flight"] == 1
        })
        .await;
        frontend.program.signal("-TERM");
        until("not in the list", || {
            backing.etcd.keys("pitaya/servers/connector/").is_empty()
        })
        .await;
        let open = clients
            .iter()
            .filter(|client| client.close_kind().is_none());
        let open: Vec<_> = open.collect();
        assert!(open.len() >= 6, "clients are closed after that, in waves");
        // Connected clients are served.
        if let Some(last) = open.last() {
            ask(last, "room.room.echo", json!({ "text": "still" })).await;
        }
        let mut ends = Vec::new();
        let closed = clients.iter().map(|client| async {
            let kind = tokio::time::timeout(PATIENCE * 2, client.closed()).await;
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
    ends_well(frontend.program).await;
    holds(&backing, &["room room-1"], &[]).await;
}

/// A room to which NATS brings the goodbye of a frontend later than etcd its absence from the list.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_of_a_frontend_that_drains_stay_also_where_its_goodbye_is_late() {
    let backing = Backing::start();
    // One wave closes one client, and the next comes long after the test.
    let slow = ["spread=600s", "wave_interval=60s", "deadline=900s"];
    let slow = slow.map(|setting| ["--set".to_owned(), format!("drain.{setting}")]);
    let slow: Vec<&str> = slow.iter().flatten().map(String::as_str).collect();
    let frontend = Frontend::start(&backing, "connector-1", &slow);
    let nats = Proxy::to(backing.nats.address).await;
    let mut patient = backing.patient_config();
    patient.nats_urls = vec![format!("nats://{}", nats.address).into()];
    let room = room::start(NatsCluster::new(patient).unwrap(), "room-1").await;
    let app = room.app("room-1").unwrap().clone();
    let clients = users(&frontend.address, 2).await;
    for client in &clients {
        ask(client, "room.room.enter", json!({ "name": "lobby" })).await;
    }
    let lobby = app.channels().get("lobby").unwrap();
    assert_eq!(lobby.user_amount().await.unwrap(), 2);

    nats.cut();
    frontend.program.signal("-TERM");
    until("not in the list", || {
        let members = app.membership().unwrap().members();
        members.server("connector-1").is_none()
    })
    .await;
    // Later changes of the list are known here, too.
    let later = room::start(backing.cluster(), "room-2").await;
    until("another server in the list", || {
        let members = app.membership().unwrap().members();
        members.server("room-2").is_some()
    })
    .await;
    nats.heal();
    // A suspicion ends no membership: the next close is long after the test.
    has_members(&lobby, 1).await;
    let push = lobby.push_message("onText", &json!({ "text": "still" }));
    assert_eq!(push.await.unwrap().queued, 1, "the other one is there");
    assert_eq!(lobby.user_amount().await.unwrap(), 1);
    drop(clients);
    later.shutdown().await;
    room.shutdown().await;
}
