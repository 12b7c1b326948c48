//! Faulty peers, and our messages that a Pitaya server must survive.

use std::{num::NonZeroU64, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::StreamExt as _;
use serde_json::{Map, Value, json};
use shaddock::{cluster::Membership, prelude::*};
use shaddock_client::Dialect;
use shaddock_cluster::{
    Context, Delivery, ForwardedRequest, ForwardedSession, RawSid, Receivers, RemoteCall,
    ServerInfo, SessionData, SessionOp,
};

use crate::{
    Frontend, ask_soon, by_hand, connect,
    pitaya::{GoServer, go_program},
    player::Player,
    room,
    servers::Backing,
    wait::{PATIENCE, until},
};

fn from_hex(digits: &str) -> Bytes {
    let byte = |i: usize| u8::from_str_radix(&digits[i..i + 2], 16).unwrap();
    (0..digits.len()).step_by(2).map(byte).collect()
}

/// An answer on the wire, as far as it is looked at: the code, text and metadata of its error.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct WireError {
    pub(crate) code: String,
    pub(crate) text: String,
    pub(crate) metadata: Map<String, Value>,
}

/// The fields of a protobuf message that have a length.
pub(crate) fn fields(mut bytes: &[u8]) -> Vec<(u8, &[u8])> {
    let mut all = Vec::new();
    while let [tag, rest @ ..] = bytes {
        let (mut length, mut shift, mut read) = (0, 0, 0);
        for byte in rest {
            length |= usize::from(byte & 0x7f) << shift;
            (shift, read) = (shift + 7, read + 1);
            if byte & 0x80 == 0 {
                break;
            }
        }
        assert_eq!(tag & 7, 2, "a field with a length");
        all.push((tag >> 3, &rest[read..read + length]));
        bytes = &rest[read + length..];
    }
    all
}

pub(crate) fn wire_error(response: &[u8]) -> Option<WireError> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let (_, error) = fields(response)
        .into_iter()
        .find(|(field, _)| *field == 2)?;
    let mut read = WireError::default();
    for (field, bytes) in fields(error) {
        match field {
            1 => read.code = text(bytes),
            2 => read.text = text(bytes),
            _ => {
                let entry = fields(bytes);
                let of = |wanted| {
                    let found = entry.iter().find(|(field, _)| *field == wanted);
                    found.map(|(_, bytes)| text(bytes)).unwrap_or_default()
                };
                read.metadata.insert(of(1), of(2).into());
            }
        }
    }
    Some(read)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_hostile_request_of_the_vectors_receives_the_expected_answer() {
    let backing = Backing::start();
    let mut game = App::new("game", "game-1");
    game.remote("stats.count", async || Reply::raw("7"));
    game.route("room.join", async || ());
    let game = Servers::new().add(game).cluster(backing.cluster()).start();
    let game = game.await.unwrap();
    let frontend = Frontend::start(&backing, "connector-1", &[]);
    let client = connect(&frontend.address, Dialect::Pitaya).await;
    ask_soon(&client, "game.room.join").await;

    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/vectors/cluster.json"
    );
    let vectors: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let peer = async_nats::connect(format!("nats://{}", backing.nats.address));
    let peer = peer.await.unwrap();
    let mut checked = 0;
    for server in [
        "pitaya/servers/game/game-1",
        "pitaya/servers/connector/connector-1",
    ] {
        let is_game = server.ends_with("game-1");
        for vector in vectors["hostile"].as_array().unwrap() {
            let (name, expect) = (&vector["name"], &vector["expect"]);
            if expect["action"] == "caller_error" {
                // Of an answer, not of a request: `a_peer_answers_late_twice_and_unasked` has it.
                continue;
            }
            let inbox = peer.new_inbox();
            let mut answers = peer.subscribe(inbox.clone()).await.unwrap();
            let payload = from_hex(vector["hex"].as_str().unwrap());
            peer.publish_with_reply(server, inbox.clone(), payload)
                .await
                .unwrap();
            if expect["action"] == "drop_without_answer" {
                // The next one is answered, and first.
                let unknown = by_hand::call("game.room.unheardof", b"", "{}");
                peer.publish_with_reply(server, inbox, unknown.into())
                    .await
                    .unwrap();
                let answer = tokio::time::timeout(PATIENCE, answers.next()).await;
                let answer = answer.unwrap().unwrap();
                let error = wire_error(&answer.payload).unwrap();
                assert_eq!(error.metadata["route"], "room.unheardof", "{name}");
                continue;
            }
            let answer = tokio::time::timeout(PATIENCE, answers.next()).await;
            let answer = answer
                .unwrap_or_else(|_| panic!("{name}: no answer"))
                .unwrap();
            let error = wire_error(&answer.payload);
            if expect["action"] == "handle" {
                // The frontend has no such remote, which is an answer too.
                assert_eq!(error.is_none(), is_game, "{name}: {error:?}");
                continue;
            }
            let error = error.unwrap_or_else(|| panic!("{name}: a success"));
            assert_eq!(error.code, expect["code"], "{name}");
            if expect["msg"].is_string() {
                assert_eq!(error.text, expect["msg"], "{name}");
            }
            if expect["metadata"].is_object() {
                assert_eq!(Value::from(error.metadata), expect["metadata"], "{name}");
            }
            checked += 1;
        }
    }
    assert_eq!(checked, 20);
    ask_soon(&client, "game.room.join").await;
    drop(client);
    game.shutdown().await;
}

/// Texts that a program may have where it should have a name.
const ODD_TEXTS: [&str; 9] = [
    "",
    " ",
    "a b",
    "..",
    "a.*.b",
    ">",
    "\n\0",
    "\u{fffd}\u{1f600}",
    "pitaya/servers/room/x",
];

/// Bodies of all kinds, one of them too large for NATS.
fn bodies() -> Vec<Bytes> {
    vec![
        Bytes::new(),
        Bytes::from_static(b"\xff\xfe\x00"),
        Bytes::from_static(b"null"),
        Bytes::from_static(b"[-]"),
        Bytes::from_static(b"\x0a\xff\xff\xff\xff\x0f"),
        vec![b'['; 20_000].into(),
        vec![0x0a; 900_000].into(),
        vec![b'x'; 2_000_000].into(),
    ]
}

fn odd_contexts() -> Vec<Context> {
    let mut deep = json!({});
    for _ in 0..100 {
        deep = json!({ "d": [deep] });
    }
    let keys = [
        "",
        "reqTimeout",
        "peer.id",
        "peer.service",
        "request.id",
        "req-route",
        "req-start-time",
        "otel-span",
        "metric-tags",
        "mine",
    ];
    let values = [
        json!(null),
        json!(""),
        json!(7),
        json!(-1.5e300),
        json!([1, null]),
        json!({ "a": 1 }),
        json!({ "traceparent": "" }),
        json!({ "a": { "b": [] } }),
        json!("\u{0}\u{ffff}"),
        json!("x".repeat(100_000)),
        deep,
    ];
    let mut all: Vec<_> = [Duration::ZERO, Duration::from_nanos(1), Duration::MAX]
        .map(Context::with_timeout)
        .into();
    for key in keys {
        for value in &values {
            let mut context = Context::with_timeout(Duration::from_millis(500));
            context.set(key, value.clone());
            all.push(context);
        }
    }
    all
}

fn forwarded(route: &str, body: Bytes, context: Context) -> ForwardedRequest {
    ForwardedRequest {
        route: route.into(),
        body,
        id: NonZeroU64::new(3),
        session: ForwardedSession::default(),
        context,
    }
}

/// Everything odd that can be asked of a server with what an application has in its hands.
async fn ask_oddly(member: &dyn Membership, server: &ServerInfo) {
    let soon = || Context::with_timeout(Duration::from_millis(500));
    let mut replies = Vec::new();
    for context in odd_contexts() {
        let call = RemoteCall {
            route: "room.room.shout".into(),
            body: room::message("x").into(),
            from: None,
            context: context.clone(),
        };
        replies.push(member.call(server, call));
        replies.push(member.forward(server, forwarded("room.room.echo", Bytes::new(), context)));
    }
    let long = "x".repeat(70_000);
    let routes = [
        "room.room.echo",
        "room.room.shout",
        "sys.kick",
        "room.sys.bindsession",
        "x.y",
    ];
    let routes = routes.into_iter().chain(ODD_TEXTS).chain([&*long]);
    for route in routes {
        for body in bodies() {
            let call = RemoteCall {
                route: route.into(),
                body: body.clone(),
                from: None,
                context: soon(),
            };
            replies.push(member.call(server, call));
            let mut request = forwarded(route, body, soon());
            request.id = NonZeroU64::new(u64::MAX);
            replies.push(member.forward(server, request));
        }
        // Most fail, each in its own way; that is no matter.
        for reply in replies.drain(..) {
            let _ = reply.await;
        }
    }
    let datas = [
        &b""[..],
        b"{}",
        b"[]",
        b"null",
        b"{\"a\":",
        b"{\"a\":1e999}",
        b"\xff",
    ];
    for (data, uid) in datas.into_iter().zip(ODD_TEXTS) {
        let mut request = forwarded("room.room.who", Bytes::from_static(b"{}"), soon());
        request.session = ForwardedSession {
            frontend: None,
            sid: RawSid::new(u64::MAX),
            uid: Some(uid.into()),
            data: SessionData::from_json(Bytes::from_static(data)),
        };
        request.id = None;
        let _ = member.forward(server, request).await;
    }
}

/// Odd operations on sessions and users of a frontend.
async fn operate_oddly(member: &dyn Membership, frontend: &ServerInfo) {
    let ask = async |op| {
        let context = Context::with_timeout(Duration::from_millis(500));
        let _ = member.session_op(&frontend.id, op, context).await;
    };
    for sid in [1, 2, u64::MAX] {
        let sid = RawSid::new(sid).unwrap();
        for uid in ODD_TEXTS {
            let uid: Arc<str> = uid.into();
            ask(SessionOp::Bind {
                sid,
                uid: Arc::clone(&uid),
            })
            .await;
            ask(SessionOp::Unbind {
                sid,
                uid: Arc::clone(&uid),
            })
            .await;
            let reason = Some(Arc::clone(&uid));
            ask(SessionOp::Kick {
                sid,
                uid: Some(Arc::clone(&uid)),
                reason: None,
            })
            .await;
            ask(SessionOp::KickUser {
                uid: Arc::clone(&uid),
                reason,
            })
            .await;
            ask(SessionOp::GetByUid { uid }).await;
        }
        for body in bodies() {
            let data = SessionData::from_json(body);
            ask(SessionOp::Replace { sid, data }).await;
        }
        ask(SessionOp::Get { sid }).await;
    }
    for uid in ODD_TEXTS.into_iter().chain(["ann"]) {
        let uid: Arc<str> = uid.into();
        for (route, body) in ODD_TEXTS.into_iter().cycle().zip(bodies()) {
            let pushed = member.deliver_to_users(
                &frontend.server_type,
                route.into(),
                body.clone(),
                [Arc::clone(&uid)].into(),
            );
            let _ = pushed.await;
            let to = Receivers::Uids([Arc::clone(&uid)].into());
            let delivery = Delivery {
                route: route.into(),
                body,
                latest: Some(route.into()),
                to,
            };
            let _ = member.deliver(&frontend.id, delivery).await;
        }
        let _ = member.kick_user(Arc::clone(&uid), Some("\0".into())).await;
        let _ = member.where_is(uid).await;
    }
}

fn odd_error(n: usize) -> HandlerError {
    let long = "y".repeat(100_000);
    let (code, text) = [("", ""), ("\0", "\n"), ("PIT-408", &*long), (&*long, "")][n % 4];
    HandlerError::new(code.to_owned(), text.to_owned())
        .with_metadata("", "")
        .with_metadata("a", "")
        .with_metadata("\u{0}", long)
}

/// A room of ours that answers Go servers as oddly as it can.
fn odd_room() -> App {
    let mut app = App::new("odd", "odd-1");
    for n in 0..8 {
        let body = move || std::future::ready(Reply::raw(bodies().swap_remove(n)));
        app.remote(&format!("room.body{n}"), body);
        app.route(&format!("room.body{n}"), body);
        let fail = move || std::future::ready(Err::<(), _>(odd_error(n)));
        app.remote(&format!("room.fail{n}"), fail);
        app.route(&format!("room.fail{n}"), fail);
    }
    app
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_we_send_ends_a_go_server() {
    let Some(program) = go_program() else { return };
    let backing = Backing::start();
    let mut go_room = GoServer::start(program, &backing, "room", &[]);
    let mut go_front = GoServer::frontend(program, &backing, "gofront", &[]);
    let ours = Servers::new().add(odd_room()).cluster(backing.cluster());
    let ours = ours.start().await.unwrap();
    let member = ours.apps()[0].membership().unwrap().clone();
    let server = async |id: &str| {
        until(&format!("{id} is listed"), || {
            member.members().server(id).is_some()
        })
        .await;
        member.members().server(id).unwrap()
    };
    let (room_info, front_info) = (server(&go_room.id).await, server(&go_front.id).await);
    let mut player = Player::go(program, &go_front.address).await;
    player.ask_soon("room.room.echo").await;
    player.ask("room.room.bind", json!({ "uid": "ann" })).await;

    // The replies of our servers to a Go frontend and to a Go backend.
    for n in 0..8 {
        for what in ["body", "fail"] {
            let route = format!("odd.room.{what}{n}");
            let _ = player.request(&route, json!({})).await;
            let call = json!({ "route": route, "text": "x" });
            let _ = player.request("room.room.call", call).await;
        }
    }
    // A reply that exceeds the limit of NATS is an immediate error, so its caller does not wait for the timeout.
    for (route, body) in [
        ("odd.room.body7", json!({})),
        ("room.room.call", json!({ "route": "odd.room.body7" })),
    ] {
        let refused = player.refused(route, body).await;
        assert_eq!(refused.code, "PIT-500", "{refused:?}");
    }
    for info in [&room_info, &front_info] {
        ask_oddly(&*member, info).await;
    }
    operate_oddly(&*member, &front_info).await;
    // A second server starts with the id of a running one.
    for info in [&room_info, &front_info] {
        let mut twin = App::new(&info.server_type, info.id.as_str());
        if info.frontend {
            twin.listen("127.0.0.1:0");
        }
        let twin = Servers::new().add(twin).cluster(backing.cluster());
        let refused = twin.start().await.expect_err("the id is taken");
        assert!(refused.to_string().contains("already"), "{refused}");
    }

    assert!(go_room.program.lives(), "the Go backend has ended");
    assert!(go_front.program.lives(), "the Go frontend has ended");
    // They do not only live, they work.
    let mut fresh = Player::go(program, &go_front.address).await;
    fresh.ask_soon("room.room.echo").await;
    let shout = ours.apps()[0].rpc("room.room.shout");
    let answer = shout.call_raw(room::message("on")).await.unwrap();
    assert_eq!(answer, room::message("ON"));
    assert_eq!(member.status().pending_calls, 0);
    ours.shutdown().await;
}
