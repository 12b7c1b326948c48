//! `shaddock servers`, `sessions`, `kick` and `drain` on a whole cluster, asked through any of its servers or from outside.

use std::sync::Arc;

use serde_json::{Value, json};
use shaddock::{config::Sources, launch::Launcher, prelude::*};
use shaddock_client::{Client, CloseKind, Dialect};
use tokio::{
    sync::{Notify, oneshot},
    task::JoinHandle,
};

use crate::{
    Frontend, Said, ask, ask_soon, connect,
    pitaya::{GoServer, go_program},
    player::Player,
    refused,
    servers::Backing,
    shaddock,
    wait::{PATIENCE, eventually},
};

/// A backend of type `room` with everything that a launched process has. Done when an operator drained it.
async fn launch_room(backing: &Backing, id: &str) -> JoinHandle<bool> {
    launch_room_with(backing, id, Arc::default()).await
}

/// The same, with something that its route `slow` waits for.
async fn launch_room_with(backing: &Backing, id: &str, gate: Arc<Notify>) -> JoinHandle<bool> {
    let sources = ["admin.address=", "drain.spread=0s", "cluster.mode=nats"]
        .into_iter()
        .fold(Sources::default(), Sources::flag);
    let launcher = Launcher::new(sources).unwrap();
    let mut app = App::new("room", id);
    launcher.configure(&mut app);
    app.route("room.echo", async |Json(body): Json<Value>| Json(body));
    app.route(
        "room.bind",
        async |mut session: SessionView, Json(body): Json<Value>| {
            session
                .bind(Uid::new(body["uid"].as_str().unwrap_or_default())?)
                .await?;
            Ok::<_, HandlerError>(Json(
                json!({ "sid": session.id().map(|sid| sid.to_string()) }),
            ))
        },
    );
    app.route("room.slow", move |Json(body): Json<Value>| {
        let gate = Arc::clone(&gate);
        async move {
            gate.notified().await;
            Json(body)
        }
    });
    let servers = Servers::new().add(app).cluster(backing.cluster());
    let (ready, is_ready) = oneshot::channel();
    let served = tokio::spawn(async move {
        let served = launcher
            .serve(servers, |_| {
                let _ = ready.send(());
            })
            .await;
        served.is_ok()
    });
    is_ready.await.unwrap();
    served
}

/// A client that is bound, and its sid.
async fn enter(frontend: &Frontend, uid: &str) -> (Client, String) {
    let client = connect(&frontend.address, Dialect::Pomelo).await;
    ask_soon(&client, "room.room.echo").await;
    let bound = ask(&client, "room.room.bind", json!({ "uid": uid })).await;
    (client, bound["sid"].as_str().unwrap().to_owned())
}

fn kicked(reason: &str) -> CloseKind {
    CloseKind::Kicked {
        reason: Some(reason.to_owned()),
    }
}

async fn close_of(client: &Client) -> CloseKind {
    let closed = tokio::time::timeout(PATIENCE, client.closed()).await;
    closed.expect("closed in time")
}

fn json_of(said: &Said) -> Value {
    serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {said:?}"))
}

/// The entry of one server in `servers --json`.
pub(crate) fn server(said: &Said, id: &str) -> Value {
    let overview = json_of(said);
    let servers = overview["servers"].as_array().unwrap();
    let found = servers.iter().find(|server| server["id"] == id);
    found.cloned().unwrap_or_default()
}

fn ids(said: &Said) -> Vec<String> {
    let overview = json_of(said);
    let servers = overview["servers"].as_array().unwrap().iter();
    servers
        .map(|server| server["id"].as_str().unwrap().to_owned())
        .collect()
}

/// The servers as `frontend` lists them, once it lists so many.
pub(crate) async fn listed(frontend: &Frontend, count: usize) -> Said {
    says(frontend, &format!("{count} servers"), |said| {
        ids(said).len() == count
    })
    .await
}

/// The answer of `servers --json` at a frontend, as soon as it fulfils the condition.
pub(crate) async fn says(
    frontend: &Frontend,
    what: &str,
    mut is_so: impl FnMut(&Said) -> bool,
) -> Said {
    let mut last = None;
    eventually(what, async || {
        let said = frontend.operate(&["servers", "--json"]);
        let is_so = said.code == Some(0) && is_so(&said);
        last = Some(said);
        is_so
    })
    .await;
    last.unwrap()
}

/// Two frontends with a user each and a backend, as every server lists them.
fn all_is_seen_by(who: &[&str], bob_sid: &str) {
    let said = shaddock(&[&["servers", "--json"], who].concat());
    assert_eq!(ids(&said), ["connector-1", "connector-2", "room-1"]);
    for id in ["connector-1", "connector-2"] {
        let one = server(&said, id);
        assert_eq!(
            (
                &one["state"],
                &one["sessions"],
                &one["users"],
                &one["frontend"]
            ),
            (&json!("running"), &json!(1), &json!(1), &json!(true)),
            "{one}"
        );
        assert!(one["uptime_ms"].as_u64().is_some_and(|ms| ms > 0), "{one}");
        assert!(!one["host"].as_str().unwrap().is_empty(), "{one}");
    }
    let room = server(&said, "room-1");
    assert_eq!(
        (&room["version"], &room["in_flight"]),
        (&json!(env!("CARGO_PKG_VERSION")), &json!(0))
    );
    let table = shaddock(&[&["servers"], who].concat()).out;
    assert!(
        table.starts_with("ID") && table.contains("3 servers, 2 sessions, 2 users"),
        "{table}"
    );

    let page = json_of(&shaddock(&[&["sessions", "--json"], who].concat()));
    assert_eq!(
        (&page["total"], &page["unanswered"]),
        (&json!(2), &json!([]))
    );
    let page = json_of(&shaddock(
        &[&["sessions", "--json", "--frontend", "connector-2"], who].concat(),
    ));
    assert_eq!(
        (&page["total"], &page["sessions"][0]["uid"]),
        (&json!(1), &json!("bob"))
    );
    let one = shaddock(&[&["sessions", bob_sid], who].concat());
    assert_eq!(json_of(&one)["frontend"], "connector-2");
    let wrong = shaddock(&[&["sessions", "--frontend", "room-9"], who].concat());
    assert!(
        wrong.code == Some(2) && wrong.err.contains("connector-1, connector-2"),
        "{wrong:?}"
    );
    let wrong = shaddock(&[&["sessions", "--transport", "udp"], who].concat());
    assert!(
        wrong.code == Some(2) && wrong.err.contains("tcp, tls, ws or wss"),
        "{wrong:?}"
    );
    let missing = shaddock(&[&["servers", "room-9"], who].concat());
    assert!(
        missing.code == Some(1) && missing.out.is_empty() && missing.err.contains("\"room-9\""),
        "{missing:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_server_lists_and_kicks_on_all() {
    let backing = Backing::start();
    let first = Frontend::start(&backing, "connector-1", &[]);
    let second = Frontend::start(&backing, "connector-2", &[]);
    let _room = launch_room(&backing, "room-1").await;
    let (ann, ann_sid) = enter(&first, "ann").await;
    let (bob, bob_sid) = enter(&second, "bob").await;

    // Asked through a server, and from outside with nothing but the addresses of NATS and etcd.
    let nats = format!("nats://{}", backing.nats.address);
    let etcd = backing.etcd.address.to_string();
    let outside = ["--nats", &nats, "--etcd", &etcd];
    let inside = ["--admin", &first.admin];
    listed(&first, 3).await;
    for who in [&inside[..], &outside[..]] {
        all_is_seen_by(who, &bob_sid);
    }
    // Page by page over both frontends.
    let page = json_of(&first.operate(&["sessions", "--json", "--limit", "1"]));
    let next = page["next"].as_str().unwrap();
    let rest = json_of(&first.operate(&["sessions", "--json", "--limit", "1", "--after", next]));
    let mut seen =
        [&page, &rest].map(|page| page["sessions"][0]["sid"].as_str().unwrap().to_owned());
    seen.sort();
    let mut both = [ann_sid.clone(), bob_sid.clone()];
    both.sort();
    assert_eq!((seen, &rest["next"]), (both, &Value::Null));

    // No client reaches what operators reach.
    let report = json!({ "ask": "report" });
    let sly = connect(&first.address, Dialect::Pitaya).await;
    for route in ["connector.shaddock.operate", "room.shaddock.operate"] {
        assert_eq!(
            refused(&sly, route, report.clone()).await.code(),
            "PIT-404",
            "{route}"
        );
    }

    // By sid, on the other frontend; from outside, by address: who is left.
    let said = first.operate(&["kick", "--sid", &bob_sid, "--reason", "bye"]);
    assert!(
        said.code == Some(0) && said.out.contains("1 at connector-2"),
        "{said:?}"
    );
    assert_eq!(close_of(&bob).await, kicked("bye"));
    assert_eq!(
        first.operate(&["kick", "--sid", &bob_sid]).code,
        Some(1),
        "nobody is there"
    );
    assert_eq!(ann.close_kind(), None, "nobody else");
    let (carol, _) = enter(&second, "carol").await;
    let said = shaddock(
        &[
            &["kick", "--address", "127.0.0.0/8", "--json"],
            &outside[..],
        ]
        .concat(),
    );
    assert_eq!(
        json_of(&said)["by_frontend"],
        json!({ "connector-1": 2, "connector-2": 1 })
    );
    for client in [&ann, &sly, &carol] {
        assert!(matches!(close_of(client).await, CloseKind::Kicked { .. }));
    }
    let said = second.operate(&["kick", "--uid", "ann"]);
    assert_eq!(
        (said.code, said.out.trim()),
        (Some(1), "no session matched")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_server_is_drained_and_the_others_go_on() {
    let backing = Backing::start();
    let first = Frontend::start(&backing, "connector-1", &[]);
    let mut second = Frontend::start(
        &backing,
        "connector-2",
        &[
            "--set",
            "drain.spread=3s",
            "--set",
            "drain.wave_interval=500ms",
        ],
    );
    let gate = Arc::new(Notify::new());
    let old_room = launch_room_with(&backing, "room-1", Arc::clone(&gate)).await;
    let (ann, _) = enter(&first, "ann").await;
    let (bob, _) = enter(&second, "bob").await;
    let (carol, _) = enter(&second, "carol").await;

    let missing = first.operate(&["drain", "connector-9"]);
    assert!(
        missing.code == Some(1) && missing.err.contains("servers are: connector-1"),
        "{missing:?}"
    );
    let said = first.operate(&["drain", "connector-2", "--wait"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(
        said.out
            .contains("connector-2 drains: 2 sessions; clients that resume come back"),
        "{said:?}"
    );
    assert!(said.out.contains("connector-2 is gone after"), "{said:?}");
    assert!(
        said.err.contains("connector-2: draining"),
        "progress: {said:?}"
    );
    for client in [&bob, &carol] {
        assert_eq!(close_of(client).await, kicked("draining"));
    }
    let ended = second.program.ended();
    assert_eq!(ended.code(), Some(0), "as on SIGTERM");
    assert_eq!(ids(&listed(&first, 2).await), ["connector-1", "room-1"]);

    // A backend, from outside: the request that it has is answered, new ones go to its successor.
    let asks = connect(&first.address, Dialect::Pomelo).await;
    let slow = tokio::spawn(async move { ask(&asks, "room.room.slow", json!({ "n": 1 })).await });
    says(&first, "the request is at work", |said| {
        server(said, "room-1")["in_flight"] == 1
    })
    .await;
    let new_room = launch_room(&backing, "room-2").await;
    listed(&first, 3).await;
    let nats = format!("nats://{}", backing.nats.address);
    let etcd = backing.etcd.address.to_string();
    let drain = tokio::task::spawn_blocking(move || {
        shaddock(&[
            "drain", "room-1", "--wait", "--nats", &nats, "--etcd", &etcd,
        ])
    });
    says(&first, "room-1 drains", |said| {
        server(said, "room-1")["state"] == "draining"
    })
    .await;
    assert!(!slow.is_finished() && !drain.is_finished());
    gate.notify_one();
    let (slow, said) = tokio::join!(slow, drain);
    let said = said.unwrap();
    assert_eq!(slow.ok(), Some(json!({ "n": 1 })), "{said:?}");
    assert!(
        said.code == Some(0) && said.out.contains("room-1 is gone"),
        "{said:?}"
    );
    assert!(old_room.await.unwrap(), "it ended as on SIGTERM");
    assert_eq!(ids(&listed(&first, 2).await), ["connector-1", "room-2"]);
    ask_soon(&ann, "room.room.echo").await;
    assert_eq!(ann.close_kind(), None);

    // Its own admin server ends with it.
    let mut first = first;
    let said = first.operate(&["drain", "connector-1", "--wait", "--json"]);
    assert!(
        said.code == Some(0) && json_of(&said)["here"] == true,
        "{said:?}"
    );
    assert!(first.program.ended().success());
    new_room.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frontend_that_left_the_list_is_still_seen_and_its_clients_kicked() {
    let backing = Backing::start();
    let first = Frontend::start(&backing, "connector-1", &[]);
    // One wave closes one client, and the next comes long after the test.
    let slow = ["drain.spread=600s", "drain.wave_interval=60s"];
    let second = Frontend::start(
        &backing,
        "connector-2",
        &[
            "--set",
            slow[0],
            "--set",
            slow[1],
            "--set",
            "drain.deadline=900s",
        ],
    );
    let _room = launch_room(&backing, "room-1").await;
    let (bob, _) = enter(&second, "bob").await;
    let (carol, _) = enter(&second, "carol").await;
    let begun = first.operate(&["drain", "connector-2", "--no-wait"]);
    assert_eq!(begun.code, Some(0));
    let closed = tokio::time::timeout(PATIENCE, async {
        tokio::select! { kind = bob.closed() => kind, kind = carol.closed() => kind }
    });
    assert_eq!(closed.await.unwrap(), kicked("draining"), "the first wave");
    assert!(
        backing
            .etcd
            .keys("pitaya/servers/connector/connector-2")
            .is_empty(),
        "it left the list before"
    );

    let nats = format!("nats://{}", backing.nats.address);
    let etcd = backing.etcd.address.to_string();
    let outside = ["--nats", &nats, "--etcd", &etcd];
    let inside = ["--admin", &first.admin];
    for who in [&inside[..], &outside[..]] {
        let said = shaddock(&[&["servers", "--json"], who].concat());
        let one = server(&said, "connector-2");
        assert_eq!(
            (&one["state"], &one["listed"], &one["sessions"]),
            (&json!("draining"), &json!(false), &json!(1)),
            "{said:?}"
        );
    }
    let page = json_of(&shaddock(&[&["sessions", "--json"], &outside[..]].concat()));
    assert_eq!(page["total"], 1, "{page}");
    let sid = page["sessions"][0]["sid"].as_str().unwrap();
    let kick = shaddock(&[&["kick", "--sid", sid, "--reason", "bye"], &outside[..]].concat());
    assert!(kick.out.contains("1 at connector-2"), "{kick:?}");
    let left = if bob.close_kind() == Some(kicked("draining")) {
        &carol
    } else {
        &bob
    };
    assert_eq!(close_of(left).await, kicked("bye"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hung_and_dead_servers_delay_no_query() {
    let backing = Backing::start();
    let first = Frontend::start(
        &backing,
        "connector-1",
        &["--set", "admin.cluster_timeout=1s"],
    );
    // In the list for as long as the test takes.
    let second = Frontend::start(&backing, "connector-2", &[]);
    let _room = launch_room(&backing, "room-1").await;
    let (ann, _) = enter(&first, "ann").await;
    let (bob, bob_sid) = enter(&second, "bob").await;
    listed(&first, 3).await;

    second.program.signal("-STOP");
    let said = says(&first, "connector-2 is silent", |said| {
        server(said, "connector-2")["state"] == "silent"
    })
    .await;
    let one = server(&said, "connector-2");
    assert_eq!(
        (&one["state"], &one["unanswered"]["why"]),
        (&json!("silent"), &json!("silent"))
    );
    assert!(said.code == Some(0) && said.took < PATIENCE, "{said:?}");
    assert_eq!(
        server(&said, "connector-1")["sessions"],
        1,
        "the others answer"
    );
    let said = first.operate(&["sessions"]);
    assert!(
        said.took < PATIENCE && said.out.contains("1 of 1 sessions"),
        "{said:?}"
    );
    assert!(
        said.err.contains("connector-2: it did not reply"),
        "{said:?}"
    );
    let said = first.operate(&["kick", "--sid", &bob_sid]);
    assert_eq!(said.code, Some(2), "it may be there: {said:?}");
    let nats = format!("nats://{}", backing.nats.address);
    let etcd = backing.etcd.address.to_string();
    let said = shaddock(&["drain", "connector-2", "--nats", &nats, "--etcd", &etcd]);
    assert!(said.code == Some(2) && said.took < PATIENCE, "{said:?}");

    drop(second);
    let said = first.operate(&["servers"]);
    assert!(said.code == Some(0) && said.took < PATIENCE, "{said:?}");
    let said = first.operate(&["kick", "--uid", "ann"]);
    assert!(
        said.code == Some(0) && said.took < PATIENCE,
        "a dead one has nobody: {said:?}"
    );
    assert!(matches!(close_of(&ann).await, CloseKind::Kicked { .. }));
    drop(bob);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn go_servers_are_listed_and_their_users_kicked() {
    let Some(program) = go_program() else { return };
    let backing = Backing::start();
    let ours = Frontend::start(&backing, "connector-1", &[]);
    let room = GoServer::start(program, &backing, "room", &[]);
    let theirs = GoServer::frontend(program, &backing, "gofront", &[]);
    let mut ann = Player::ours(&theirs.address, Dialect::Pitaya).await;
    ann.ask_soon("room.room.echo").await;
    ann.ask("room.room.bind", json!({ "uid": "ann" })).await;
    let said = listed(&ours, 3).await;
    for go in [&room, &theirs] {
        let one = server(&said, &go.id);
        assert_eq!(
            (&one["software"], &one["state"], &one["sessions"]),
            (&json!("pitaya"), &json!("listed"), &Value::Null),
            "{one}"
        );
    }
    let table = ours.operate(&["servers"]);
    assert_eq!(table.out.matches("  pitaya").count(), 2, "{table:?}");
    assert_eq!((table.code, table.err.as_str()), (Some(0), ""));

    let said = ours.operate(&["sessions"]);
    assert!(
        said.code == Some(0) && said.err.contains("Pitaya server"),
        "{said:?}"
    );
    let said = ours.operate(&["kick", "--uid", "absent"]);
    assert_eq!((said.code, said.err.as_str()), (Some(1), ""));
    let said = ours.operate(&["kick", "--uid", "ann"]);
    assert!(
        said.code == Some(0) && said.out.contains("kicked 1 session"),
        "{said:?}"
    );
    ann.kicked().await;
    let said = ours.operate(&["drain", &room.id]);
    assert!(
        said.code == Some(2) && said.err.contains("Pitaya server"),
        "{said:?}"
    );
}

/// A member that left has no lease any more; one that only ended keeps it for the time of a lease.
#[test]
fn commands_leave_the_cluster_however_they_end() {
    let backing = Backing::start();
    let nats = format!("nats://{}", backing.nats.address);
    let etcd = backing.etcd.address.to_string();
    for (command, code) in [
        (&["servers"][..], 0),
        (&["servers", "absent-1"], 1),
        (&["sessions", "--after", "nonsense"], 2),
        (&["kick", "--sid", "nonsense"], 2),
        (&["kick", "--uid", "absent"], 1),
        (&["drain", "absent-1"], 1),
    ] {
        let said = shaddock(&[command, &["--nats", &nats, "--etcd", &etcd]].concat());
        assert_eq!(said.code, Some(code), "{command:?}: {said:?}");
        assert_eq!(backing.etcd.leases(), 0, "{command:?}");
    }
}

#[test]
fn a_missing_cluster_is_reported() {
    let silent = crate::free_address();
    let said = shaddock(&["servers", "--admin", &silent]);
    assert!(
        said.code == Some(2) && said.err.contains(&silent),
        "{said:?}"
    );
    let admin = format!("admin.address={silent}");
    let nats = format!("cluster.nats_urls=nats://{}", crate::free_address());
    let said = shaddock(&["servers", "--set", &admin, "--set", &nats]);
    assert_eq!(said.code, Some(2));
    assert!(
        said.err.contains(&silent) && said.err.contains("NATS at"),
        "{said:?}"
    );
    let said = shaddock(&["servers", "--set", &admin, "--set", "cluster.mode=local"]);
    assert!(
        said.code == Some(2) && said.err.contains("cluster.mode"),
        "{said:?}"
    );
    assert!(said.took < PATIENCE, "{said:?}");
}
