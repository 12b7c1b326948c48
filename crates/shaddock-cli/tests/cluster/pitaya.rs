//! shaddock beside Pitaya v3, the published Go module: `interop/pitaya`.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::Duration,
};

use serde_json::{Value, json};
use shaddock::{prelude::*, remote::RpcError};
use shaddock_client::{Client, CloseKind, Dialect};

use crate::{
    Frontend, Program, ask, ask_soon, connect, free_address, next_push, refused, room,
    servers::Backing,
};

/// The Go program, built once. `None` if something it needs is not installed, which in CI is a failure.
fn go_program() -> Option<&'static Path> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    PROGRAM.get_or_init(build).as_deref()
}

fn build() -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let places = ["/usr/sbin", "/usr/local/bin", "/usr/local/go/bin"];
    let find = |program: &str| {
        path.split(':')
            .chain(places)
            .map(|place| Path::new(place).join(program))
            .find(|file| file.is_file())
    };
    let missing: Vec<&str> = ["go", "nats-server", "etcd"]
        .into_iter()
        .filter(|program| find(program).is_none())
        .collect();
    if !missing.is_empty() {
        let in_ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
        assert!(!in_ci, "not installed: {missing:?}");
        eprintln!("SKIPPED, because these are not installed: {missing:?}");
        return None;
    }
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../../interop/pitaya");
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pitaya-interop");
    let built = Command::new(find("go")?)
        .args(["build", "-o"])
        .arg(&program)
        .arg(".")
        .current_dir(source)
        .status()
        .unwrap();
    assert!(built.success(), "interop/pitaya does not build");
    Some(program)
}

/// A Pitaya server of this type; a frontend if it has an address.
fn start_go(
    program: &Path,
    backing: &Backing,
    server_type: &str,
    address: Option<&str>,
) -> Program {
    let mut command = Command::new(program);
    command
        .args(["-type", server_type])
        .args(["-nats", &format!("nats://{}", backing.nats.address)])
        .args(["-etcd", &backing.etcd.address.to_string()]);
    if let Some(address) = address {
        let port = address.rsplit(':').next().unwrap();
        command.args(["-frontend", "-port", port]);
    }
    Program::start(&mut command, "ready").0
}

/// Everything that a client can do with a room, wherever frontend and room are written.
async fn the_room_works(clients: [Client; 2], frontend_type: &str, kick_text: &str) {
    let [ann, bob] = &clients;
    let echo = ask(
        ann,
        "room.room.echo",
        json!({ "text": "h\u{e9}llo \u{1f600}" }),
    )
    .await;
    assert_eq!(echo, json!({ "text": "h\u{e9}llo \u{1f600}" }));
    ann.notify("room.room.say", &json!({ "text": "psst" }))
        .await
        .unwrap();
    let heard = ask_heard(ann).await;
    assert_eq!(heard, json!({ "text": "psst" }));

    // Bound by the backend; session data goes there and back.
    let before = ask(ann, "room.room.who", json!({})).await;
    assert_eq!(before["uid"], "");
    ask(ann, "room.room.bind", json!({ "uid": "ann" })).await;
    ask(bob, "room.room.bind", json!({ "uid": "bob" })).await;
    let data = json!({ "level": 7, "name": "Ann", "bag": { "gold": [1, 2] } });
    ask(ann, "room.room.remember", data.clone()).await;
    let after = ask(ann, "room.room.who", json!({})).await;
    assert_eq!(after["uid"], "ann");
    for (key, value) in data.as_object().unwrap() {
        // A Go frontend has put something of its own beside it.
        assert_eq!(after["data"][key], *value, "{key}");
    }

    // Pushes: to the session, to a user on another connection.
    let mut to_ann = ann.subscribe("onText");
    let mut to_bob = bob.subscribe("onText");
    ask(ann, "room.room.push", json!({ "text": "you" })).await;
    assert_eq!(next_push(&mut to_ann).await, json!({ "text": "you" }));
    let tell = json!({ "uid": "bob", "frontend": frontend_type, "text": "from ann" });
    ask(ann, "room.room.tell", tell).await;
    assert_eq!(next_push(&mut to_bob).await, json!({ "text": "from ann" }));

    // Kicks: of a user, of the own session.
    ask(
        ann,
        "room.room.kick",
        json!({ "uid": "bob", "frontend": frontend_type }),
    )
    .await;
    is_kicked(bob, kick_text).await;
    let _ = ann
        .request::<_, Value>("room.room.kickme", &json!({}))
        .await;
    is_kicked(ann, kick_text).await;
}

/// A notify has no answer that could be waited for.
async fn ask_heard(client: &Client) -> Value {
    let mut heard = Value::Null;
    for _ in 0..100 {
        heard = ask(client, "room.room.heard", json!({})).await;
        if !heard["text"].is_null() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    heard
}

async fn is_kicked(client: &Client, text: &str) {
    let closed = tokio::time::timeout(Duration::from_secs(5), client.closed()).await;
    match closed.expect("closed within 5 s") {
        CloseKind::Kicked { reason } => assert_eq!(reason.as_deref().unwrap_or_default(), text),
        other => panic!("not kicked: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_frontend_serves_a_go_backend() {
    let Some(program) = go_program() else { return };
    let backing = Backing::start();
    let frontend = Frontend::start(&backing, "connector-1", &[]);
    let _room = start_go(program, &backing, "room", None);
    for dialect in [Dialect::Pomelo, Dialect::Pitaya] {
        let clients = [
            connect(&frontend.address, dialect).await,
            connect(&frontend.address, dialect).await,
        ];
        ask_soon(&clients[0], "room.room.echo").await;
        if dialect == Dialect::Pitaya {
            let error = refused(&clients[0], "room.room.fail", json!({ "text": "door" })).await;
            assert_eq!(
                (error.code(), error.message(), error.metadata("what")),
                ("ROOM-7", "no door", Some("door"))
            );
            let error = refused(&clients[0], "room.room.nothing", json!({})).await;
            assert_eq!(error.code(), "PIT-404");
        } else {
            let error = refused(&clients[0], "room.room.fail", json!({ "text": "door" })).await;
            assert_eq!(error.code(), "500", "Pomelo clients read numbers only");
        }
        the_room_works(clients, "connector", "kick").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_go_frontend_serves_our_backend() {
    let Some(program) = go_program() else { return };
    let backing = Backing::start();
    let room = room::start(backing.cluster(), "room-1").await;
    let address = free_address();
    let _frontend = start_go(program, &backing, "gofront", Some(&address));
    let address = format!("tcp://{address}");
    // A Go frontend lets clients in before the others know it.
    let members = room.apps()[0].membership().unwrap().members();
    while !members.has_type("gofront") {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let clients = [
        connect(&address, Dialect::Pitaya).await,
        connect(&address, Dialect::Pitaya).await,
    ];
    ask_soon(&clients[0], "room.room.echo").await;
    let error = refused(&clients[0], "room.room.fail", json!({ "text": "door" })).await;
    assert_eq!(
        (error.code(), error.message(), error.metadata("what")),
        ("ROOM-7", "no door", Some("door"))
    );
    let error = refused(&clients[0], "room.room.nothing", json!({})).await;
    assert_eq!(error.code(), "PIT-404");
    // A Go frontend's KICK has no text.
    the_room_works(clients, "gofront", "").await;
    room.shutdown().await;
}

/// A protobuf message with one text, of fewer than 128 bytes, in field 1.
fn message(text: &str) -> Vec<u8> {
    let mut bytes = vec![0x0a, u8::try_from(text.len()).unwrap()];
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn go_and_rust_call_each_other_s_remotes() {
    let Some(program) = go_program() else { return };
    let backing = Backing::start();
    let mut vault = App::new("vault", "vault-1");
    vault.remote("room.shout", async |Body(body): Body| match &body[..] {
        [0x0a, _, text @ ..] => {
            let text = String::from_utf8_lossy(text).to_uppercase();
            Ok(Reply::raw(message(&text)))
        }
        _ => Err(HandlerError::bad_request("no text")),
    });
    let vault = Servers::new()
        .add(vault)
        .cluster(backing.cluster())
        .start()
        .await
        .unwrap();
    let app = vault.app("vault-1").unwrap();
    let frontend = Frontend::start(&backing, "connector-1", &[]);
    let _room = start_go(program, &backing, "room", None);
    let client = connect(&frontend.address, Dialect::Pitaya).await;
    ask_soon(&client, "room.room.echo").await;

    let text = ask(&client, "room.room.callshout", json!({ "text": "go" })).await;
    assert_eq!(text, json!({ "text": "GO" }), "Go called Rust");
    let call = || app.rpc("room.room.shout");
    let answer = call().call_raw(message("rust")).await.unwrap();
    assert_eq!(answer, message("RUST"), "Rust called Go");
    match call().call_raw(Vec::new()).await {
        Err(RpcError::Remote(error)) => assert_eq!(error.code(), "ROOM-9"),
        other => panic!("{other:?}"),
    }
    match app.rpc("room.room.echo").call_raw(message("x")).await {
        Err(RpcError::Remote(error)) => {
            assert_eq!(error.code(), "PIT-404", "a handler is no remote");
        }
        other => panic!("{other:?}"),
    }
    vault.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_has_one_session_on_frontends_of_both_kinds() {
    let Some(program) = go_program() else { return };
    let backing = Backing::start();
    let ours = Frontend::start(
        &backing,
        "connector-1",
        &[
            "--set",
            "session.single_session=true",
            "--set",
            "session.on_conflict=replace_old",
        ],
    );
    let address = free_address();
    let _theirs = start_go(program, &backing, "connector", Some(&address));
    let theirs = format!("tcp://{address}");
    let _room = start_go(program, &backing, "room", None);
    let ann = json!({ "uid": "ann" });

    let mut clients = Vec::new();
    for address in [&theirs, &ours.address, &theirs] {
        let client = connect(address, Dialect::Pitaya).await;
        ask_soon(&client, "room.room.echo").await;
        ask(&client, "room.room.bind", ann.clone()).await;
        if let Some(older) = clients.last() {
            let older: &Client = older;
            let closed = tokio::time::timeout(Duration::from_secs(5), older.closed()).await;
            assert!(matches!(closed, Ok(CloseKind::Kicked { .. })), "{closed:?}");
        }
        clients.push(client);
    }
    let who = ask(&clients[2], "room.room.who", json!({})).await;
    assert_eq!(who["uid"], "ann");
}
