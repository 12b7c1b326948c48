//! Values of the application that panic when they are dropped: wherever we hold one, its panic is counted and goes no further.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use shaddock::{
    app::{App, AppConfig, AppHandle, Servers},
    error::HandlerError,
    filter::{BeforeFlow, ErrorHandler, Filter},
    prelude::*,
    reply::Outcome,
    request::RequestContext,
    wire::{Dialect, HandshakeRequest, MaybeReady, Peer, TransportKind},
};
use shaddock_protocol::DialectChoice;

use crate::support::{Client, eventually, frontend, login, pass, uid};

/// Panics when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("expected in this test")
    }
}

/// Never ends, and holds a bomb.
async fn hang() {
    let _bomb = Bomb;
    std::future::pending::<()>().await;
}

/// Done at once; what it holds is dropped when it is.
fn kept<T: Send + 'static>(value: T) -> impl Future<Output = T> + Send {
    let bomb = Bomb;
    let mut value = Some(value);
    std::future::poll_fn(move |_| {
        let _ = &bomb;
        value
            .take()
            .map_or(std::task::Poll::Pending, std::task::Poll::Ready)
    })
}

struct Bombs;

impl Filter for Bombs {
    fn before(&self, request: &mut RequestContext) -> BeforeFlow {
        match request.route().method().unwrap_or_default() {
            "inserted" => request.insert(Bomb),
            "held" => request.hold(Bomb),
            "filterKept" => return BeforeFlow::later(kept(Ok(()))),
            "filterHangs" => {
                return BeforeFlow::later(async {
                    hang().await;
                    Ok(())
                });
            }
            _ => {}
        }
        BeforeFlow::CONTINUE
    }

    fn after(&self, request: &mut RequestContext, _: &mut Result<Reply, HandlerError>) {
        if request.route().method() == Some("after") {
            drop(Bomb);
        }
    }

    fn session_closed(&self, _: Sid) {
        drop(Bomb);
    }
}

/// Repairs errors later, from a future with a bomb.
struct Repairs;

impl ErrorHandler for Repairs {
    fn handle(&self, request: &mut RequestContext, error: HandlerError) -> MaybeReady<Outcome> {
        match request.route().method() {
            Some("repaired") => MaybeReady::later(kept(Reply::json("repaired"))),
            Some("repairHangs") => MaybeReady::later(async {
                hang().await;
                Ok(Reply::empty())
            }),
            _ => MaybeReady::Now(Err(error)),
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("with a bomb")]
struct Source(#[source] Option<std::io::Error>);

impl Drop for Source {
    fn drop(&mut self) {
        drop(Bomb);
    }
}

/// An argument that is dropped by its handler's caller.
struct Argument;

impl shaddock::extract::FromParts for Argument {
    fn from_parts(_: &shaddock::extract::Parts<'_>) -> Result<Self, HandlerError> {
        Ok(Self)
    }
}

impl Drop for Argument {
    fn drop(&mut self) {
        drop(Bomb);
    }
}

/// A value of an answer.
struct Answer;

impl serde::Serialize for Answer {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("answer")
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        drop(Bomb);
    }
}

/// Routes, and whether their clients get what the handler said, an error, or hear nothing because they were dropped.
#[derive(Clone, Copy, PartialEq, Debug)]
enum End {
    Value,
    Error,
    Dropped,
}

const CASES: [(&str, End); 15] = [
    ("late", End::Error),
    ("kept", End::Value),
    ("gone", End::Dropped),
    ("inserted", End::Value),
    ("held", End::Value),
    ("after", End::Error),
    ("filterKept", End::Value),
    ("filterHangs", End::Error),
    ("repaired", End::Value),
    ("repairHangs", End::Dropped),
    ("source", End::Error),
    ("argument", End::Error),
    ("answer", End::Error),
    ("extracted", End::Error),
    ("payload", End::Error),
];

fn routes(app: &mut App) {
    app.set(
        AppConfig::default()
            .handler_timeout(Duration::from_millis(500))
            .event_timeout(Duration::from_millis(500))
            .handshake_timeout(Duration::from_millis(500)),
    );
    for plain in ["inserted", "held", "after", "filterKept", "filterHangs"] {
        app.route(&format!("h.{plain}"), async || "ok");
    }
    app.route("h.late", hang);
    app.route("h.gone", hang);
    app.route("h.kept", || kept("ok"));
    for failing in ["repaired", "repairHangs"] {
        app.route(&format!("h.{failing}"), async || {
            Err::<(), _>(HandlerError::bad_request("no"))
        });
    }
    app.route("h.source", async || {
        Err::<(), _>(HandlerError::internal("no").with_source(Source(None)))
    });
    app.route("h.argument", async |_argument: Argument| "ok");
    app.route("h.answer", async || Json(Answer));
    app.route(
        "h.extracted",
        async |_argument: Argument, _body: Json<Vec<u8>>| "ok",
    );
    app.route("h.payload", async || -> () { std::panic::panic_any(Bomb) });
    app.filter(Bombs).error_handler(Repairs);
}

#[tokio::test(start_paused = true)]
async fn requests() {
    for server in ["connector", "chat"] {
        for (case, end) in CASES {
            let mut front = frontend("connector-1");
            let mut back = App::new("chat", "chat-1");
            routes(&mut front);
            routes(&mut back);
            let running = Servers::new().add(front).add(back).start().await.unwrap();
            let serving = &running.apps()[usize::from(server == "chat")];
            let mut client = Client::with_dialect(&running.apps()[0], Dialect::Pitaya);
            let route = format!("{server}.h.{case}");
            let MaybeReady::Later(mut flow) = client.start(Some(1), &route, "{}") else {
                panic!("{route}")
            };
            if end == End::Dropped {
                let begun = tokio::time::timeout(Duration::from_millis(1), &mut flow).await;
                assert!(begun.is_err(), "{route}");
                drop(flow);
                // What another server works on ends with its time.
                pass(Duration::from_secs(60)).await;
                assert!(client.drain().is_empty());
            } else {
                flow.await;
                let (body, error) = client.wait_answer(1).await;
                assert_eq!(error, end == End::Error, "{route}: {body}");
            }
            // Its argument and the one of the framework's own answer.
            assert!(serving.stats().panics.get() >= 1, "{route} is counted");
            let (body, error) = client.answer(&format!("{server}.h.kept"), json!({})).await;
            assert_eq!(
                (body, error),
                (json!("ok"), false),
                "{route}: the next is served"
            );
        }
    }
}

/// A filter's future that is dropped before it is ever polled.
#[tokio::test]
async fn a_request_that_is_dropped_before_it_began() {
    let mut app = frontend("connector-1");
    routes(&mut app);
    app.global_filter(Bombs);
    let running = crate::support::start([app]).await;
    let app = &running.apps()[0];
    let mut client = Client::connect(app);
    for case in ["filterHangs", "filterKept", "held", "late", "kept"] {
        let before = app.stats().panics.get();
        drop(client.start(Some(1), &format!("connector.h.{case}"), "{}"));
        // A handler that was not polled has made nothing yet, if it is an async function.
        let counts = app.stats().panics.get() - before;
        assert_eq!(
            counts >= 1,
            !matches!(case, "late" | "filterHangs"),
            "{case}: {counts}"
        );
    }
}

#[tokio::test]
async fn remotes() {
    let mut chat = App::new("chat", "chat-1");
    chat.remote("r.kept", || kept("ok"));
    chat.remote("r.late", hang)
        .timeout(Duration::from_millis(5));
    chat.remote("r.argument", async |_argument: Argument| "ok");
    let running = Servers::new()
        .add(frontend("connector-1"))
        .add(chat)
        .start()
        .await
        .unwrap();
    let [front, chat] = running.apps() else {
        panic!()
    };
    for case in ["kept", "late", "argument"] {
        let before = chat.stats().panics.get();
        let called = front
            .rpc(&format!("chat.r.{case}"))
            .call::<Value>(&())
            .await;
        assert!(called.is_err(), "{case}: {called:?}");
        assert_eq!(chat.stats().panics.get(), before + 1, "{case}");
    }
}

async fn counted(app: &AppHandle, what: &str, panics: u64) {
    eventually(what, || app.stats().panics.get() == panics).await;
}

#[tokio::test]
async fn hooks_and_listeners() {
    let mut app = frontend("connector-1");
    app.set(
        AppConfig::default()
            .handler_timeout(Duration::from_millis(20))
            .event_timeout(Duration::from_millis(20))
            .handshake_timeout(Duration::from_millis(20)),
    );
    app.on_handshake(|_| kept(Ok(None)));
    app.before_bind(|_, _, user: Uid| async move {
        if user == uid("bomb") {
            hang().await;
        }
        Ok::<(), HandlerError>(())
    });
    app.on_session_bound(|_, _| hang())
        .on_session_bound(|_, _| kept(()));
    app.on_session_closed(|_, _| kept(()));
    app.filter(Bombs);
    let running = crate::support::start([app]).await;
    let app = &running.apps()[0];

    let handshake = HandshakeRequest::parse(b"{\"sys\":{}}"[..].into(), DialectChoice::Pomelo);
    let peer = Peer {
        address: ([127, 0, 0, 1], 4711).into(),
        transport: TransportKind::Memory,
    };
    let connector = app.connector().unwrap();
    match connector.handshake(&peer, &Arc::new(handshake.unwrap())) {
        MaybeReady::Later(verdict) => drop(verdict.await),
        MaybeReady::Now(_) => panic!("the hook is asked"),
    }
    counted(app, "the handshake's hook", 1).await;
    let client = Client::connect(app);
    assert!(app.bind(client.sid(), uid("bomb")).await.is_err());
    counted(app, "the hook before binds", 2).await;
    app.bind(client.sid(), uid("ann")).await.unwrap();
    counted(app, "two listeners", 4).await;
    assert!(
        app.session_service()
            .unwrap()
            .kick_by_session_id(client.sid(), Some("bye"))
    );
    counted(app, "a filter and a listener", 6).await;
    login(app, "ann").await;
    // A task that ends with its app.
    app.spawn("bomb", hang()).unwrap();
    running.shutdown().await;
}
