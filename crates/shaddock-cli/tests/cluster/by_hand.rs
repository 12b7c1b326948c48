//! A Pitaya server that is nothing but messages, written by hand: what it is answered, word for word.

use async_nats::Client as Nats;
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use shaddock::prelude::*;
use shaddock_client::Dialect;
use shaddock_cluster::{Context, ServerId, SessionAnswer, SessionOp};

use crate::{
    Frontend, ask_soon, connect,
    hostile::{WireError, fields, wire_error},
    servers::Backing,
    wait::{PATIENCE, until},
};

/// A number in as many bytes as it takes.
fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let [low, ..] = value.to_le_bytes();
        value >>= 7;
        if value == 0 {
            bytes.push(low & 0x7f);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

/// A field with a length.
fn field(number: u8, value: &[u8]) -> Vec<u8> {
    let length = varint(value.len() as u64);
    [&[number << 3 | 2], &*length, value].concat()
}

/// Field 1 as a number.
fn number(value: u64) -> Vec<u8> {
    [vec![0x08], varint(value)].concat()
}

/// A forwarded request (`Sys`) of an unbound session.
fn request(route: &str, body: &[u8], metadata: &str) -> Vec<u8> {
    let message = [number(3), field(2, route.as_bytes()), field(3, body)].concat();
    let session = field(2, &number(7));
    [session, field(3, &message), field(5, metadata.as_bytes())].concat()
}

/// A call of a remote (`User`).
pub(crate) fn call(route: &str, argument: &[u8], metadata: &str) -> Vec<u8> {
    let message = [field(2, route.as_bytes()), field(3, argument)].concat();
    [number(1), field(3, &message), field(5, metadata.as_bytes())].concat()
}

async fn answer(peer: &Nats, server: &str, payload: Vec<u8>) -> Bytes {
    let answer = peer.request(server.to_owned(), payload.into());
    let answer = tokio::time::timeout(PATIENCE, answer).await;
    answer.expect("an answer").unwrap().payload
}

async fn refusal(peer: &Nats, server: &str, payload: Vec<u8>) -> (String, String) {
    let answer = answer(peer, server, payload).await;
    let WireError { code, text, .. } = wire_error(&answer).expect("an error");
    (code, text)
}

fn error(code: &str, text: &str) -> (String, String) {
    (code.to_owned(), text.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_answers_in_the_words_of_pitaya() {
    let backing = Backing::start();
    let mut game = App::new("game", "game-1");
    game.route("room.panic", async || -> Reply {
        panic!("expected in this test")
    });
    game.remote("room.panic", async || -> Reply {
        panic!("expected in this test")
    });
    game.route("room.never", std::future::pending::<Reply>);
    game.remote("room.never", std::future::pending::<Reply>);
    // A protobuf message without values has no bytes.
    game.remote("room.length", async |Body(body): Body| Json(body.len()));
    let game = Servers::new().add(game).cluster(backing.cluster()).start();
    let game = game.await.unwrap();
    let peer = async_nats::connect(format!("nats://{}", backing.nats.address));
    let peer = peer.await.unwrap();

    let server = "pitaya/servers/game/game-1";
    let short = r#"{"reqTimeout":"100ms"}"#;
    let late = error("PIT-500", "rpc client: request timeout");
    for (payload, expected) in [
        (
            request("game.room.panic", b"{}", "{}"),
            error("PIT-000", "the handler failed"),
        ),
        (
            call("game.room.panic", b"", "{}"),
            error("PIT-000", "the remote failed"),
        ),
        (request("game.room.never", b"{}", short), late.clone()),
        (call("game.room.never", b"", short), late),
    ] {
        assert_eq!(refusal(&peer, server, payload).await, expected);
    }
    let length = answer(&peer, server, call("game.room.length", b"", "{}")).await;
    assert_eq!(fields(&length), [(1, &b"0"[..])]);
    game.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frontend_binds_as_pitayas_does_and_passes_answers_on_unchanged() {
    let backing = Backing::start();
    let mut game = App::new("game", "game-1");
    game.route("room.sid", async |session: SessionView| {
        Json(session.id().map(|sid| sid.to_string()))
    });
    game.route("room.raw", async |Json(text): Json<String>| {
        Reply::raw(text)
    });
    let game = Servers::new().add(game).cluster(backing.cluster()).start();
    let game = game.await.unwrap();
    let frontend = Frontend::start(&backing, "connector-1", &[]);
    let client = connect(&frontend.address, Dialect::Pitaya).await;
    ask_soon(&client, "game.room.sid").await;
    let sid: String = client.request("game.room.sid", &json!({})).await.unwrap();
    let sid: u64 = sid.parse().unwrap();

    let peer = async_nats::connect(format!("nats://{}", backing.nats.address));
    let peer = peer.await.unwrap();
    let server = "pitaya/servers/connector/connector-1";
    let session = |sid, uid: &str| [number(sid), field(2, uid.as_bytes())].concat();
    let not_found = error("PIT-000", "session not found");
    for route in ["sys.bindsession", "sys.pushsession"] {
        let unknown = [session(77, "ann"), field(3, b"{}")].concat();
        let refused = refusal(&peer, server, call(route, &unknown, "{}")).await;
        assert_eq!(refused, not_found, "{route}");
    }
    let bind = |uid| call("sys.bindsession", &session(sid, uid), "{}");
    let ack = b"\x0a\x03ack";
    let answered = answer(&peer, server, bind("ann")).await;
    assert_eq!(fields(&answered), [(1, &ack[..])]);
    let bound = error("PIT-000", "session is already bound to an uid");
    for uid in ["ann", "bob"] {
        assert_eq!(refusal(&peer, server, bind(uid)).await, bound, "{uid}");
    }

    for text in ["null", "0", "false", "\"\"", "[ 1 ]"] {
        let read = client.request_raw("game.room.raw", serde_json::to_vec(text).unwrap());
        assert_eq!(read.await.unwrap(), text);
    }
    let nothing: Value = client.request("game.room.raw", &"").await.unwrap();
    assert_eq!(nothing, json!({}));
    drop(client);
    game.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_closes_before_a_pitaya_frontend_does_was_kicked() {
    let backing = Backing::start();
    let admin = App::new("admin", "admin-1");
    let admin = Servers::new().add(admin).cluster(backing.cluster()).start();
    let admin = admin.await.unwrap();
    let peer = async_nats::connect(format!("nats://{}", backing.nats.address));
    let peer = peer.await.unwrap();
    let mut kicks = peer
        .subscribe("pitaya/servers/connector/go-1")
        .await
        .unwrap();
    // Its own message comes back when NATS has the subscription; `flush` ends when it is sent.
    let own = "pitaya/servers/connector/go-1";
    peer.publish(own, Bytes::new()).await.unwrap();
    kicks.next().await.unwrap();
    let go = r#"{"id":"go-1","type":"connector","metadata":{},"frontend":true,"hostname":""}"#;
    let put = ["put", "pitaya/servers/connector/go-1", go];
    backing.etcd.etcdctl(&put);
    let member = admin.apps()[0].membership().unwrap();
    until("go-1 is listed", || {
        member.members().server("go-1").is_some()
    })
    .await;

    let answers = ["session not found", "close closed session"];
    let answering = async {
        for text in answers {
            let kick = kicks.next().await.unwrap();
            let error = [field(1, b"PIT-000"), field(2, text.as_bytes())].concat();
            peer.publish(kick.reply.unwrap(), field(2, &error).into())
                .await
                .unwrap();
        }
    };
    let asking = async {
        let kick = || {
            let (uid, reason) = ("ann".into(), None);
            let context = Context::with_timeout(PATIENCE);
            let go = ServerId::new("go-1").unwrap();
            member.session_op(&go, SessionOp::KickUser { uid, reason }, context)
        };
        let refused = kick().await.unwrap_err();
        assert_eq!(refused.message(), answers[0]);
        let kicked = kick().await.unwrap();
        assert!(matches!(kicked, SessionAnswer::Kicked(1)), "{kicked:?}");
    };
    tokio::join!(answering, asking);
    admin.shutdown().await;
}
