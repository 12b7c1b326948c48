//! `shaddock serve` and backends in Rust.

use std::sync::Arc;

use serde_json::{Value, json};
use shaddock::prelude::*;
use shaddock_client::{Client, CloseKind, Dialect};
use tokio::sync::Notify;

use crate::{
    Frontend, ask, ask_soon, connect, next_push, refused, room,
    servers::Backing,
    wait::{PATIENCE, until},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frontend_from_a_file_serves_backends_in_rust() {
    let backing = Backing::start();
    let mut frontend = Frontend::start(&backing, "connector-1", &[]);
    let client = connect(&frontend.address, Dialect::Pomelo).await;
    // Before there is a backend: an error, at once.
    let error = refused(&client, "room.room.echo", json!({ "text": "?" })).await;
    assert_eq!(error.code(), "500");

    let room = room::start(backing.cluster(), "room-1").await;
    ask_soon(&client, "room.room.echo").await;
    let echo = ask(&client, "room.room.echo", json!({ "text": "a" })).await;
    assert_eq!(echo, json!({ "text": "a" }));
    let who = ask(&client, "room.room.bind", json!({ "uid": "ann" })).await;
    assert_eq!(who["uid"], "ann");
    let mut pushes = client.subscribe("onText");
    let to = json!({ "uid": "ann", "frontend": "connector", "text": "hello" });
    assert_eq!(
        ask(&client, "room.room.tell", to).await,
        json!({ "missing": [] })
    );
    assert_eq!(next_push(&mut pushes).await, json!({ "text": "hello" }));
    let to = json!({ "uid": "nobody", "frontend": "connector", "text": "hello" });
    assert_eq!(
        ask(&client, "room.room.tell", to).await,
        json!({ "missing": ["nobody"] })
    );

    let table = frontend.operate(&["sessions"]).out;
    assert!(
        table.contains("ann") && table.contains("connector-1"),
        "{table}"
    );
    let said = frontend
        .operate(&["kick", "--uid", "ann", "--reason", "bye"])
        .out;
    assert!(said.contains("kicked 1 session"), "{said}");
    let bye = CloseKind::Kicked {
        reason: Some("bye".to_owned()),
    };
    assert_eq!(client.closed().await, bye);

    frontend.program.signal("-TERM");
    assert!(frontend.program.wait().success());
    assert!(
        backing.etcd.keys("pitaya/servers/connector/").is_empty(),
        "it left the list"
    );
    room.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_has_one_session_on_all_frontends() {
    let backing = Backing::start();
    let unique = |policy| ["--set", "session.single_session=true", "--set", policy];
    let replace = unique("session.on_conflict=replace_old");
    let first = Frontend::start(&backing, "connector-1", &replace);
    let second = Frontend::start(&backing, "connector-2", &replace);
    let room = room::start(backing.cluster(), "room-1").await;
    let old = connect(&first.address, Dialect::Pomelo).await;
    let new = connect(&second.address, Dialect::Pomelo).await;
    ask_soon(&old, "room.room.echo").await;
    ask_soon(&new, "room.room.echo").await;
    ask(&old, "room.room.bind", json!({ "uid": "ann" })).await;
    ask(&new, "room.room.bind", json!({ "uid": "ann" })).await;
    let closed = tokio::time::timeout(PATIENCE, old.closed()).await;
    assert!(
        matches!(closed, Ok(CloseKind::Kicked { .. })),
        "the older session is closed: {closed:?}"
    );
    let who = ask(&new, "room.room.who", Value::Null).await;
    assert_eq!(who["uid"], "ann");

    // Many at once, on both: exactly one keeps the user.
    let mut clients = Vec::new();
    for n in 0..8 {
        let frontend = if n % 2 == 0 { &first } else { &second };
        clients.push(connect(&frontend.address, Dialect::Pomelo).await);
    }
    let bob = json!({ "uid": "bob" });
    let binds = clients
        .iter()
        .map(|client| client.request::<_, Value>("room.room.bind", &bob));
    let answers = futures_util::future::join_all(binds).await;
    // Kicks are on their way when a bind is answered.
    let is_open = |client: &&Client| client.close_kind().is_none();
    until("one client is open", || {
        clients.iter().filter(is_open).count() == 1
    })
    .await;
    let sessions = [&first, &second].map(|frontend| {
        let listed = frontend.operate(&["sessions", "--json", "--uid", "bob"]);
        let listed: Value = serde_json::from_str(&listed.out).unwrap();
        assert_eq!(listed["unanswered"], json!([]), "both were asked");
        listed["sessions"].as_array().unwrap().len()
    });
    assert_eq!(sessions, [1, 1], "{answers:?}");
    let left = clients.iter().find(is_open).expect("one is left");
    let who = ask(left, "room.room.who", Value::Null).await;
    assert_eq!(who["uid"], "bob");
    room.shutdown().await;
}

/// A route that waits for another request of the same session: it can, because its server told the frontend that it is concurrent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_does_not_wait_for_a_concurrent_route_of_a_backend() {
    let backing = Backing::start();
    let frontend = Frontend::start(&backing, "connector-1", &[]);
    let gate = Arc::new(Notify::new());
    let (opened, waited) = (Arc::clone(&gate), gate);
    let mut app = App::new("room", "room-1");
    app.route("room.wait", move || {
        let gate = Arc::clone(&waited);
        async move {
            gate.notified().await;
            "waited"
        }
    })
    .concurrent();
    app.route("room.open", move || {
        let gate = Arc::clone(&opened);
        async move { gate.notify_one() }
    });
    let thread = async || Json(std::thread::current().name().map(str::to_owned));
    app.route("room.apart", thread).offload();
    app.route("room.echo", async |Json(body): Json<Value>| Json(body));
    let room = Servers::new()
        .add(app)
        .cluster(backing.cluster())
        .start()
        .await
        .unwrap();
    let client = connect(&frontend.address, Dialect::Pomelo).await;
    ask_soon(&client, "room.room.echo").await;
    let (waited, opened) = tokio::join!(
        ask(&client, "room.room.wait", json!({})),
        ask(&client, "room.room.open", json!({})),
    );
    assert_eq!((waited, opened), (json!("waited"), json!({})));
    let name = ask(&client, "room.room.apart", json!({})).await;
    assert!(name.is_string(), "{name}");
    room.shutdown().await;
}
