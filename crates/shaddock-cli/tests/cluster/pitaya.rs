//! shaddock beside Pitaya v3, the published Go module: `interop/pitaya`.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use serde_json::{Value, json};
use shaddock::prelude::Running;
use shaddock_client::Dialect;

use crate::{
    Frontend, Program, free_address,
    player::Player,
    room,
    servers::Backing,
    wait::{eventually, until},
};

/// The Go program, built once. `None` if something it needs is not installed, which in CI is a failure.
pub(crate) fn go_program() -> Option<&'static Path> {
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
pub(crate) struct GoServer {
    pub(crate) program: Program,
    pub(crate) id: String,
    /// Of a frontend, for clients.
    pub(crate) address: String,
}

impl GoServer {
    pub(crate) fn start(
        program: &Path,
        backing: &Backing,
        server_type: &str,
        more: &[&str],
    ) -> Self {
        let mut command = Command::new(program);
        command
            .args(["-type", server_type])
            .args(["-nats", &format!("nats://{}", backing.nats.address)])
            .args(["-etcd", &backing.etcd.address.to_string()])
            .args(more);
        let (program, ready) = Program::start(&mut command, "ready");
        Self {
            program,
            id: ready.rsplit(' ').next().unwrap().to_owned(),
            address: String::new(),
        }
    }

    pub(crate) fn frontend(
        program: &Path,
        backing: &Backing,
        server_type: &str,
        more: &[&str],
    ) -> Self {
        let address = free_address();
        let port = address.rsplit(':').next().unwrap();
        let more = [&["-frontend", "-port", port], more].concat();
        let mut server = Self::start(program, backing, server_type, &more);
        server.address = format!("tcp://{address}");
        server
    }
}

/// A Go frontend lets clients in before the others know it.
async fn knows(room: &Running, server: &GoServer) {
    let members = room.apps()[0].membership().unwrap().members();
    until("a Go server is listed", || {
        members.server(&server.id).is_some()
    })
    .await;
}

/// Options of a frontend of ours that has the sessions of a user unique, as Go frontends have.
pub(crate) const UNIQUE: [&str; 4] = [
    "--set",
    "session.single_session=true",
    "--set",
    "session.on_conflict=replace_old",
];

/// A client, and the text that a kick has on its frontend.
struct Seat<'a> {
    player: &'a mut Player,
    kick_text: &'a str,
}

/// Everything that clients can do with a room of this type, wherever frontends and room are written.
async fn the_room_works(room: &str, frontend: &str, ann: Seat<'_>, bob: Seat<'_>) {
    let of = |method: &str| format!("{room}.room.{method}");
    let (ann_kick, bob_kick) = (ann.kick_text, bob.kick_text);
    let (ann, bob) = (ann.player, bob.player);
    let text = json!({ "text": "h\u{e9}llo \u{1f600}" });
    assert_eq!(ann.ask(&of("echo"), text.clone()).await, text);
    errors_reach_the_client(ann, room).await;
    errors_reach_the_client(bob, room).await;
    bob.notify(&of("say"), json!({ "text": "psst" })).await;
    assert_eq!(heard(bob, &of("heard")).await, json!({ "text": "psst" }));

    // Bound by the backend; session data goes there and back.
    let before = ann.ask(&of("who"), json!({})).await;
    assert_eq!(before["uid"], "");
    ann.ask(&of("bind"), json!({ "uid": "ann" })).await;
    bob.ask(&of("bind"), json!({ "uid": "bob" })).await;
    let again = ann.refused(&of("bind"), json!({ "uid": "eve" })).await;
    // Pomelo's clients of our frontends read numbers only.
    assert!(
        again.code == "500" || again.text.starts_with("session"),
        "{again:?}"
    );
    let data = json!({ "level": 7, "name": "Ann", "bag": { "gold": [1, 2] } });
    ann.ask(&of("remember"), data.clone()).await;
    let after = ann.ask(&of("who"), json!({})).await;
    assert_eq!(after["uid"], "ann");
    for (key, value) in data.as_object().unwrap() {
        // A Go frontend has put something of its own beside it.
        assert_eq!(after["data"][key], *value, "{key}");
    }

    // Pushes: to the session, to a user on another connection.
    ann.ask(&of("push"), json!({ "text": "you" })).await;
    assert_eq!(ann.push().await, json!({ "text": "you" }));
    tell(
        ann,
        bob,
        &of("tell"),
        json!({ "uid": "bob", "frontend": frontend }),
    )
    .await;
    tell(
        bob,
        ann,
        &of("tell"),
        json!({ "uid": "ann", "frontend": frontend }),
    )
    .await;

    // Kicks: of a user, of the own session.
    let kick = json!({ "uid": "bob", "frontend": frontend });
    ann.ask(&of("kick"), kick).await;
    let text = bob.kicked().await;
    assert_eq!(text.as_deref().unwrap_or(bob_kick), bob_kick);
    // The answer may be lost with the connection.
    ann.notify(&of("kickme"), json!({})).await;
    let text = ann.kicked().await;
    assert_eq!(text.as_deref().unwrap_or(ann_kick), ann_kick);
}

/// One pushes to the other.
async fn tell(from: &mut Player, to: &mut Player, route: &str, mut whom: Value) {
    whom["text"] = "hello".into();
    from.ask(route, whom).await;
    assert_eq!(to.push().await, json!({ "text": "hello" }));
}

async fn errors_reach_the_client(player: &mut Player, room: &str) {
    let door = json!({ "text": "door" });
    let failed = player.refused(&format!("{room}.room.fail"), door).await;
    let unknown = player
        .refused(&format!("{room}.room.nothing"), json!({}))
        .await;
    if failed.code == "500" {
        // A Pomelo client of our frontend reads numbers only.
        return;
    }
    assert_eq!((&*failed.code, &*failed.text), ("ROOM-7", "no door"));
    assert_eq!(failed.metadata["what"], "door");
    assert_eq!(unknown.code, "PIT-404");
    let nowhere = player.refused("nowhere.room.echo", json!({})).await;
    assert_eq!(nowhere.code, "PIT-500");
    // A Rust backend tells only Go frontends; behind one of ours clients read `{}`. In these tests `hall` may have either.
    if room == "room" {
        let quiet = player
            .refused("room.room.say", json!({ "text": "x" }))
            .await;
        let told = ("PIT-400", "tried to request a notify route");
        assert_eq!((&*quiet.code, &*quiet.text), told);
    }
}

/// A notify has no answer that could be waited for.
async fn heard(player: &mut Player, route: &str) -> Value {
    let mut heard = Value::Null;
    eventually("the notify is heard", async || {
        heard = player.ask(route, json!({})).await;
        !heard["text"].is_null()
    })
    .await;
    heard
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_frontend_serves_a_go_backend() {
    let Some(program) = go_program() else { return };
    let backing = Backing::start();
    let frontend = Frontend::start(&backing, "connector-1", &[]);
    let _room = GoServer::start(program, &backing, "room", &[]);
    for dialect in [Dialect::Pomelo, Dialect::Pitaya] {
        let mut ours = Player::ours(&frontend.address, dialect).await;
        let mut theirs = Player::go(program, &frontend.address).await;
        ours.ask_soon("room.room.echo").await;
        // Pitaya's kicks have no reason.
        let (mut ann, mut bob) = (seat(&mut ours, "kick"), seat(&mut theirs, "kick"));
        if dialect == Dialect::Pitaya {
            std::mem::swap(&mut ann, &mut bob);
        }
        the_room_works("room", "connector", ann, bob).await;
    }
}

const fn seat<'a>(player: &'a mut Player, kick_text: &'a str) -> Seat<'a> {
    Seat { player, kick_text }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_go_frontend_serves_our_backend() {
    let Some(program) = go_program() else { return };
    let backing = Backing::start();
    let room = room::start(backing.cluster(), "room-1").await;
    let frontend = GoServer::frontend(program, &backing, "gofront", &[]);
    // Pomelo's clients cannot read what is compressed.
    let plain = GoServer::frontend(program, &backing, "gofront", &["-compress=false"]);
    knows(&room, &frontend).await;
    knows(&room, &plain).await;
    for (ours, theirs) in [
        ((Dialect::Pomelo, &plain), &frontend),
        ((Dialect::Pitaya, &frontend), &plain),
    ] {
        let mut ours = Player::ours(&ours.1.address, ours.0).await;
        let mut theirs = Player::go(program, &theirs.address).await;
        ours.ask_soon("room.room.echo").await;
        theirs.ask_soon("room.room.echo").await;
        // A Go frontend's KICK has no text.
        the_room_works(
            "room",
            "gofront",
            seat(&mut ours, ""),
            seat(&mut theirs, ""),
        )
        .await;
    }
    room.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frontends_of_both_kinds_in_one_type_serve_backends_of_both_kinds() {
    let Some(program) = go_program() else { return };
    let backing = Backing::start();
    let ours = Frontend::start(&backing, "connector-1", &UNIQUE);
    let theirs = GoServer::frontend(program, &backing, "connector", &["-compress=false"]);
    let hall = room::start_as("hall", backing.cluster(), "hall-1").await;
    knows(&hall, &theirs).await;
    let _room = GoServer::start(program, &backing, "room", &[]);
    for (kind, text) in [("room", "kick"), ("hall", "out")] {
        for swapped in [false, true] {
            let mut here = if swapped {
                Player::ours(&ours.address, Dialect::Pomelo).await
            } else {
                Player::go(program, &ours.address).await
            };
            let mut there = if swapped {
                Player::go(program, &theirs.address).await
            } else {
                Player::ours(&theirs.address, Dialect::Pomelo).await
            };
            for player in [&mut here, &mut there] {
                player.ask_soon(&format!("{kind}.room.echo")).await;
            }
            let (mut ann, mut bob) = (seat(&mut here, text), seat(&mut there, ""));
            if swapped {
                std::mem::swap(&mut ann, &mut bob);
            }
            the_room_works(kind, "connector", ann, bob).await;
        }
    }
    hall.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn go_and_rust_call_each_other_s_remotes() {
    let Some(program) = go_program() else { return };
    let backing = Backing::start();
    let hall = room::start_as("hall", backing.cluster(), "hall-1").await;
    let room = GoServer::start(program, &backing, "room", &[]);
    knows(&hall, &room).await;
    let frontend = Frontend::start(&backing, "connector-1", &[]);
    let mut client = Player::ours(&frontend.address, Dialect::Pitaya).await;
    // From a server of one kind to one of the other.
    for (from, to, id) in [("room", "hall", "hall-1"), ("hall", "room", &*room.id)] {
        client.ask_soon(&format!("{from}.room.echo")).await;
        client.ask_soon(&format!("{to}.room.echo")).await;
        let call = format!("{from}.room.call");
        for server in ["", id] {
            let shout = format!("{to}.room.shout");
            let asked = json!({ "route": shout, "server": server, "text": "hello" });
            assert_eq!(client.ask(&call, asked).await, json!({ "text": "HELLO" }));
        }
        let refused = async |client: &mut Player, method: &str, text: &str| {
            let route = format!("{to}.room.{method}");
            let asked = json!({ "route": route, "text": text, "timeout": "300ms" });
            client.refused(&call, asked).await
        };
        let failed = refused(&mut client, "fail", "door").await;
        assert_eq!((&*failed.code, &*failed.text), ("ROOM-7", "no door"));
        let metadata: Vec<_> = failed.metadata.iter().map(|(k, v)| (&**k, &**v)).collect();
        assert_eq!(metadata, [("empty", ""), ("what", "door")]);
        // An empty argument is a message with its defaults.
        assert_eq!(refused(&mut client, "shout", "").await.code, "ROOM-9");
        let unknown = refused(&mut client, "echo", "x").await;
        assert_eq!(unknown.code, "PIT-404", "a handler is no remote");
        let late = refused(&mut client, "never", "x").await;
        // The first to notice: the caller, or the called server, which knows the deadline too.
        assert!(["PIT-408", "PIT-500"].contains(&&*late.code), "{late:?}");
        assert_eq!(late.text, "rpc client: request timeout");
    }
    hall.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_has_one_session_on_frontends_of_both_kinds() {
    let Some(program) = go_program() else { return };
    let backing = Backing::start();
    let ours = Frontend::start(&backing, "connector-1", &UNIQUE);
    let theirs = GoServer::frontend(program, &backing, "connector", &[]);
    let _room = GoServer::start(program, &backing, "room", &[]);
    let ann = json!({ "uid": "ann" });

    let mut last: Option<Player> = None;
    for address in [
        &theirs.address,
        &ours.address,
        &theirs.address,
        &ours.address,
    ] {
        let mut client = Player::ours(address, Dialect::Pitaya).await;
        client.ask_soon("room.room.echo").await;
        client.ask("room.room.bind", ann.clone()).await;
        if let Some(older) = &mut last {
            older.kicked().await;
        }
        last = Some(client);
    }
    let who = last.unwrap().ask("room.room.who", json!({})).await;
    assert_eq!(who["uid"], "ann");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn go_and_rust_share_groups() {
    let Some(program) = go_program() else { return };
    let backing = Backing::start();
    let ours = Frontend::start(&backing, "connector-1", &UNIQUE);
    let theirs = GoServer::frontend(program, &backing, "connector", &[]);
    let hall = room::start_as("hall", backing.cluster(), "hall-1").await;
    knows(&hall, &theirs).await;
    let _room = GoServer::start(program, &backing, "room", &["-etcd-groups"]);
    let mut ann = Player::ours(&ours.address, Dialect::Pitaya).await;
    let mut bob = Player::go(program, &theirs.address).await;
    for (player, uid) in [(&mut ann, "ann"), (&mut bob, "bob")] {
        player.ask_soon("room.room.echo").await;
        player.ask_soon("hall.room.echo").await;
        player.ask("room.room.bind", json!({ "uid": uid })).await;
    }
    let raid = |text: &str| json!({ "name": "raid", "frontend": "connector", "text": text });
    // One joins by Go, the other by Rust; both see both.
    ann.ask("room.room.join", raid("")).await;
    let members = bob.ask("hall.room.join", raid("")).await;
    assert_eq!(members, json!({ "members": ["ann", "bob"], "count": 2 }));
    assert_eq!(ann.ask("room.room.members", raid("")).await, members);
    for kind in ["room", "hall"] {
        let again = ann.refused(&format!("{kind}.room.join"), raid("")).await;
        assert_eq!(again.text, "member already exists in group");
        let none = json!({ "name": "none" });
        let none = bob.refused(&format!("{kind}.room.members"), none).await;
        assert_eq!(none.text, "group not found");
        ann.ask(&format!("{kind}.room.broadcast"), raid(kind)).await;
        assert_eq!(ann.push().await, json!({ "text": kind }));
        assert_eq!(bob.push().await, json!({ "text": kind }));
    }
    ann.ask("hall.room.leave", raid("")).await;
    let left = bob.ask("room.room.members", raid("")).await;
    assert_eq!(left, json!({ "members": ["bob"], "count": 1 }));
    ann.ask("room.room.broadcast", raid("alone")).await;
    assert_eq!(bob.push().await, json!({ "text": "alone" }));
    // Her next message is another one.
    ann.ask("room.room.push", json!({ "text": "next" })).await;
    assert_eq!(ann.push().await, json!({ "text": "next" }));
    hall.shutdown().await;
}
