//! Servers that a function of the application chooses, for which requests and calls wait.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use shaddock::{
    cluster::{ServerInfo, Strategy},
    filter::TimeoutFilter,
    prelude::*,
    remote::RpcError,
    wire::{Dialect, MaybeReady},
};
use tokio::{sync::Notify, time::Instant};

use crate::support::{Client, drive, eventually, frontend, pass, start};

const SECOND: Duration = Duration::from_secs(1);

fn chat(id: &str) -> App {
    let mut app = App::new("chat", id);
    app.route("room.who", async |ctx: Ctx| Json(ctx.id().to_owned()));
    app.route("room.slow", async |ctx: Ctx, Json(secs): Json<u64>| {
        pass(SECOND * u32::try_from(secs).unwrap()).await;
        Json(ctx.id().to_owned())
    });
    app.remote("room.who", async |ctx: Ctx| Json(ctx.id().to_owned()));
    app
}

/// Knows where the rooms are.
fn directory() -> App {
    let mut app = App::new("directory", "directory-1");
    app.remote(
        "rooms.find",
        async |Json(room): Json<String>| match &*room {
            "lobby" => Ok(Json("chat-2".to_owned())),
            "lost" => Ok(Json("chat-9".to_owned())),
            "here" => Ok(Json("connector-1".to_owned())),
            _ => Err(HandlerError::new("DIR-1", "no such room")),
        },
    );
    app
}

type Chosen = Result<Option<Arc<ServerInfo>>, HandlerError>;

async fn by_room(app: AppHandle, request: RoutingRequest) -> Chosen {
    let room = request.session.get_as::<String>("room").unwrap_or_default();
    let id: String = app.rpc("directory.rooms.find").call(&room).await?;
    // Not `request.server(&id)`: what such functions may answer with, too.
    let found = app.membership()?.members().server(&id);
    Ok(found.or_else(|| request.server("chat-1").filter(|_| room == "none")))
}

fn connector() -> App {
    let mut app = frontend("connector-1");
    app.route(
        "h.room",
        async |mut session: SessionView, Json(room): Json<String>| {
            session.set("room", room);
            session.push("room").await
        },
    );
    app
}

#[tokio::test(start_paused = true)]
async fn a_directory_is_asked_for_the_server() {
    let mut front = connector();
    front.async_route_fn("chat", by_room);
    let running = start([front, chat("chat-1"), chat("chat-2"), directory()]).await;
    let mut client = Client::with_dialect(running.app("connector-1").unwrap(), Dialect::Pitaya);
    for (room, expected) in [
        ("lobby", (json!("chat-2"), false)),
        // The function's own error.
        (
            "attic",
            (json!({"code": "DIR-1", "msg": "no such room"}), true),
        ),
    ] {
        client.request("h.room", json!(room)).await;
        assert_eq!(
            client.answer("chat.room.who", json!({})).await,
            expected,
            "{room}"
        );
    }
    // None, and a server of another type, are no server.
    for room in ["lost", "here"] {
        client.request("h.room", json!(room)).await;
        let (error, is_error) = client.answer("chat.room.who", json!({})).await;
        assert!(is_error && error["code"] == "PIT-500", "{room}: {error}");
    }
    // Other types are unaffected.
    let (error, _) = client.answer("nowhere.room.who", json!({})).await;
    assert_eq!(error["code"], "PIT-500");
}

#[tokio::test(start_paused = true)]
async fn calls_ask_too_and_the_last_word_counts() {
    let mut front = connector();
    front.route_fn("chat", |_, servers| servers.first());
    front.async_route_fn("chat", async |_app: AppHandle, request: RoutingRequest| {
        assert_eq!(request.servers.len(), 2);
        if &request.body[..] == b"\"late\"" {
            pass(SECOND * 3600).await;
        }
        Ok(request.server("chat-2"))
    });
    let mut other = frontend("connector-2");
    other.async_route_fn("chat", async |_: AppHandle, _: RoutingRequest| Ok(None));
    other.route_by("chat", Strategy::RoundRobin);
    let running = start([front, other, chat("chat-1"), chat("chat-2")]).await;
    let app = running.app("connector-1").unwrap();
    let call = |argument: &'static str| app.rpc("chat.room.who").call::<Value>(argument);
    assert_eq!(call("soon").await.unwrap(), "chat-2");
    let began = Instant::now();
    let late = app.rpc("chat.room.who").timeout(SECOND * 2);
    let late = late.call::<Value>("late").await;
    assert!(
        matches!(&late, Err(RpcError::Remote(error)) if error.code() == "PIT-408"),
        "{late:?}"
    );
    assert_eq!(began.elapsed().as_secs(), 2);
    let app = running.app("connector-2").unwrap();
    let any = app.rpc("chat.room.who").call::<Value>(&()).await;
    assert!(any.is_ok(), "{any:?}");
}

/// Pitaya refuses a call of the own type that names no server; so does `to_other_type`.
#[tokio::test(start_paused = true)]
async fn a_call_of_the_own_type_can_be_refused() {
    let running = start([chat("chat-1"), chat("chat-2")]).await;
    let app = running.app("chat-1").unwrap();
    let rpc = || app.rpc("chat.room.who");
    let any = rpc().call::<Value>(&()).await;
    assert!(any.is_ok(), "{any:?}");
    let named = rpc().to_other_type().to("chat-2").call::<Value>(&()).await;
    assert_eq!(named.unwrap(), "chat-2");
    match rpc().to_other_type().call::<Value>(&()).await {
        Err(RpcError::Remote(error)) => {
            assert_eq!(error.code(), "PIT-000");
            let text = "you are making a rpc that may be processed locally, either specify a different server type or specify a server id";
            assert_eq!(error.message(), text);
        }
        other => panic!("{other:?}"),
    }
}

/// A choice and what is done with it have the time of one request together.
#[tokio::test(start_paused = true)]
async fn a_choice_takes_its_time_from_the_request() {
    let mut front = connector();
    front.global_filter(TimeoutFilter::new(SECOND * 5));
    front.async_route_fn("chat", async |_app: AppHandle, request: RoutingRequest| {
        let secs: u64 = serde_json::from_slice(&request.body).unwrap();
        let secs = if secs == 99 { secs } else { 3 };
        pass(Duration::from_secs(secs)).await;
        Ok(request.server("chat-1"))
    });
    let running = start([front, chat("chat-1")]).await;
    let mut client = Client::with_dialect(running.app("connector-1").unwrap(), Dialect::Pitaya);
    for (handler, took, expected) in [
        (1, 4, json!("chat-1")),
        (3, 5, json!("PIT-408")),
        (99, 5, json!("PIT-408")),
    ] {
        let began = Instant::now();
        let (body, is_error) = client.answer("chat.room.slow", json!(handler)).await;
        let seen = if is_error { body["code"].clone() } else { body };
        assert_eq!(
            (began.elapsed().as_secs(), seen),
            (took, expected),
            "{handler}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_and_a_drop_that_panics_are_errors() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("expected in this test");
        }
    }
    let mut front = connector();
    front.async_route_fn("chat", |_: AppHandle, request: RoutingRequest| {
        assert!(&request.body[..] != b"1", "expected in this test");
        async move {
            assert!(&request.body[..] != b"2", "expected in this test");
            let _bomb = Bomb;
            std::future::pending::<Chosen>().await
        }
    });
    let running = start([front, chat("chat-1")]).await;
    let app = running.app("connector-1").unwrap();
    let mut client = Client::with_dialect(app, Dialect::Pitaya);
    for (body, code) in [(1, "PIT-000"), (2, "PIT-000"), (3, "PIT-408")] {
        let (error, is_error) = client.answer("chat.room.who", json!(body)).await;
        assert!(is_error && error["code"] == code, "{body}: {error}");
    }
    assert_eq!(app.stats().panics.get(), 3);
    let (error, _) = client.answer("h.room", json!("lobby")).await;
    assert_eq!(error, json!({}), "the session goes on");
}

#[tokio::test]
async fn nothing_is_sent_for_a_session_that_is_closed_meanwhile() {
    let (gate, runs) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
    let mut front = connector();
    let waited = Arc::clone(&gate);
    front.async_route_fn("chat", move |_: AppHandle, request: RoutingRequest| {
        let waited = Arc::clone(&waited);
        async move {
            waited.notified().await;
            Ok(request.server("chat-1"))
        }
    });
    let mut back = chat("chat-1");
    let counted = Arc::clone(&runs);
    back.route("room.count", move || {
        counted.fetch_add(1, Ordering::Relaxed);
        std::future::ready(Json(1))
    });
    let running = start([front, back]).await;
    let app = running.app("connector-1").unwrap();
    let (mut leaves, mut stays) = (Client::connect(app), Client::connect(app));
    let flow = leaves.start(Some(1), "chat.room.count", "{}");
    leaves.session.close(CloseReason::ClientClosed);
    gate.notify_one();
    drive(flow).await;
    gate.notify_one();
    assert_eq!(stays.request("chat.room.count", json!({})).await, json!(1));
    assert_eq!(runs.load(Ordering::Relaxed), 1);
}

/// The session waits for the choice; whether it waits for the handler, the chosen server says.
#[tokio::test]
async fn a_concurrent_route_is_one_after_the_choice() {
    let gate = Arc::new(Notify::new());
    let mut front = connector();
    front.async_route_fn("chat", async |_: AppHandle, request: RoutingRequest| {
        tokio::task::yield_now().await;
        Ok(request.server("chat-1"))
    });
    let mut back = chat("chat-1");
    let waited = Arc::clone(&gate);
    let mut route = back.route("room.wait", move || {
        let waited = Arc::clone(&waited);
        async move { waited.notified().await }
    });
    route.concurrent();
    let running = start([front, back]).await;
    let mut client = Client::connect(running.app("connector-1").unwrap());
    let flow = client.start(Some(900), "chat.room.wait", "{}");
    assert!(
        matches!(flow, MaybeReady::Later(_)),
        "the choice is waited for"
    );
    // Done although the handler is not.
    drive(flow).await;
    assert_eq!(
        client.request("chat.room.who", json!({})).await,
        json!("chat-1")
    );
    gate.notify_one();
    eventually("the answer", || !client.drain().is_empty()).await;
}
