//! Apps from start to stop: what is checked, components, background work, remotes, mistakes that panic at the caller's line.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    panic::catch_unwind,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::{Value, json};
use shaddock::{
    app::BoxError,
    extract::Caller,
    prelude::*,
    remote::{RpcError, received_value},
};
use support::{Client, eventually, frontend, start};

#[tokio::test]
async fn what_handlers_need_is_checked_at_the_start() {
    struct Db;
    let reason = async |app: App| match Servers::new().add(app).start().await {
        Err(StartError::Requirement { route, reason, .. }) => format!("{route}: {reason}"),
        other => panic!("{other:?}"),
    };
    let mut app = frontend("connector-1");
    app.route("h.m", async |_db: State<Db>| ());
    assert!(
        reason(app)
            .await
            .starts_with("connector.h.m: it takes `State<")
    );
    let mut app = App::new("chat", "chat-1");
    app.route("h.m", async |_session: FrontendSession| ());
    assert!(reason(app).await.contains("FrontendSession"));
    let mut app = frontend("connector-1");
    app.route("h.m", async |_session: BackendSession| ());
    assert!(reason(app).await.contains("BackendSession"));
    let mut app = App::new("chat", "chat-1");
    app.remote("r.m", async |_session: SessionView| ());
    assert!(reason(app).await.contains("SessionView"));
    let mut app = frontend("connector-1");
    app.set(Db);
    app.route("h.m", async |_db: State<Db>, _maybe: Option<State<u8>>| ());
    let running = start([app]).await;
    let mut client = Client::connect(&running.apps()[0]);
    assert_eq!(client.request("connector.h.m", json!({})).await, json!({}));
    assert!(matches!(
        Servers::new().start().await,
        Err(StartError::NoApp)
    ));
}

#[test]
fn mistakes_panic_at_the_line_of_the_caller() {
    let place = Arc::new(Mutex::new(String::new()));
    let seen = Arc::clone(&place);
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        *seen.lock().unwrap() = format!(
            "{} {}",
            info.location().unwrap().file(),
            info.payload_as_str().unwrap_or_default()
        );
    }));
    let mistakes: [(&str, fn()); 7] = [
        ("has a handler already", || {
            let mut app = App::new("chat", "chat-1");
            app.route("h.m", async || ());
            app.route("chat.h.m", async || ());
        }),
        ("malformed", || {
            let _ = App::new("chat", "chat-1").route("justone", async || ());
        }),
        ("malformed", || {
            let _ = App::new("chat", "chat-1").route("a.b.c.d", async || ());
        }),
        ("empty part", || {
            let _ = App::new("chat", "chat-1").route("a. ", async || ());
        }),
        ("belongs to servers of type `game`", || {
            let _ = App::new("chat", "chat-1").route("game.h.m", async || ());
        }),
        ("cannot name a server", || {
            let _ = App::new("a.b", "chat-1");
        }),
        ("is not a valid IP:PORT", || {
            let _ = App::new("chat", "chat-1").listen("nonsense");
        }),
    ];
    for (text, mistake) in mistakes {
        assert!(catch_unwind(mistake).is_err(), "{text}");
        let seen = place.lock().unwrap().clone();
        assert!(
            seen.contains("lifecycle.rs") && seen.contains(text),
            "{seen}"
        );
    }
    std::panic::set_hook(before);
}

struct Part {
    name: &'static str,
    log: Arc<Mutex<Vec<String>>>,
}

impl Part {
    fn note(&self, what: &str) {
        self.log
            .lock()
            .unwrap()
            .push(format!("{} {what}", self.name));
    }
}

impl Component for Part {
    fn name(&self) -> &str {
        self.name
    }

    async fn start(&self, app: &AppHandle) -> Result<(), BoxError> {
        self.note("start");
        assert!(app.membership().is_err(), "nobody can be called yet");
        if self.name == "fails" {
            Err("expected in this test".into())
        } else {
            Ok(())
        }
    }

    async fn after_start(&self, app: &AppHandle) -> Result<(), BoxError> {
        assert!(app.membership().is_ok());
        self.note("after");
        Ok(())
    }

    async fn stop(&self, _app: &AppHandle) {
        self.note("stop");
        if self.name == "slow" {
            std::future::pending::<()>().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn components_start_in_order_and_stop_in_reverse_within_a_deadline() {
    let log: Arc<Mutex<Vec<String>>> = Arc::default();
    let part = |name| Part {
        name,
        log: Arc::clone(&log),
    };
    let mut app = App::new("chat", "chat-1");
    app.component(part("a"))
        .component(part("slow"))
        .component(part("c"));
    let running = start([app]).await;
    running.shutdown().await;
    let expected =
        "a start, slow start, c start, a after, slow after, c after, c stop, slow stop, a stop";
    assert_eq!(
        std::mem::take(&mut *log.lock().unwrap()).join(", "),
        expected
    );

    let mut app = App::new("chat", "chat-1");
    app.component(part("a"))
        .component(part("fails"))
        .component(part("c"));
    let error = Servers::new().add(app).start().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "component `fails` of `chat-1` did not start: expected in this test"
    );
    assert_eq!(
        log.lock().unwrap().join(", "),
        "a start, fails start, a stop"
    );
}

#[tokio::test]
async fn a_start_that_fails_late_stops_what_was_started() {
    let log: Arc<Mutex<Vec<String>>> = Arc::default();
    let mut first = App::new("chat", "same");
    first.component(Part {
        name: "a",
        log: Arc::clone(&log),
    });
    let error = Servers::new()
        .add(first)
        .add(App::new("game", "same"))
        .start()
        .await
        .unwrap_err();
    assert!(matches!(error, StartError::Cluster(_)), "{error}");
    assert_eq!(log.lock().unwrap().join(", "), "a start, a stop");
}

#[tokio::test]
async fn background_work_ends_with_the_app() {
    let running = start([App::new("chat", "chat-1")]).await;
    let app = running.apps()[0].clone();
    let dropped = Arc::new(());
    let held = Arc::clone(&dropped);
    app.spawn("forever", async move {
        std::future::pending::<()>().await;
        drop(held);
    })
    .unwrap();
    let stopping = app.stopping();
    running.shutdown().await;
    assert_eq!(Arc::strong_count(&dropped), 1, "it was dropped");
    tokio::time::timeout(support::wait::PATIENCE, stopping)
        .await
        .expect("it is told");
    assert!(app.spawn("late", async {}).is_err());
}

#[tokio::test]
async fn nothing_keeps_an_app_alive_that_was_shut_down() {
    let mut app = frontend("connector-1");
    let witness = Arc::new(7_u8);
    app.set_shared(Arc::clone(&witness));
    app.on_session_closed(async |_, _| {});
    let running = start([app]).await;
    let client = Client::connect(&running.apps()[0]);
    running.shutdown().await;
    drop(client);
    assert_eq!(Arc::strong_count(&witness), 1);
}

fn calculators() -> [App; 3] {
    let calculator = |id: &str| {
        let mut app = App::new("calc", id);
        app.set(id.to_owned());
        app.remote("sum.add", async |Json((a, b)): Json<(i32, i32)>| {
            Json(a + b)
        });
        app.remote(
            "sum.who",
            async |id: State<String>, caller: Caller, Json(()): Json<()>| {
                Json(json!([*id, caller.0.map(|id| id.to_string())]))
            },
        );
        app.remote("sum.fail", async || {
            Err::<(), _>(HandlerError::new("C-9", "no"))
        });
        app.remote("sum.panic", async || -> () {
            panic!("expected in this test")
        });
        app.remote("sum.never", async || std::future::pending::<()>().await);
        app
    };
    [
        calculator("calc-1"),
        calculator("calc-2"),
        App::new("chat", "chat-1"),
    ]
}

/// What comes with a call goes along with the calls it causes.
#[tokio::test(start_paused = true)]
async fn a_remote_passes_on_what_came_with_its_call() {
    let mut relay = App::new("relay", "relay-1");
    relay.remote("way.through", async |Ctx(app): Ctx| {
        let here = received_value("trace");
        let there: Value = app.rpc("end.way.reached").call(&()).await?;
        Ok::<_, HandlerError>(Json(json!([here, there])))
    });
    let mut end = App::new("end", "end-1");
    end.remote("way.reached", async || Json(received_value("trace")));
    let running = start([relay, end, App::new("chat", "chat-1")]).await;
    let app = running.app("chat-1").unwrap();
    let call = app.rpc("relay.way.through").with("trace", json!("t-1"));
    let seen: Value = call.call(&()).await.unwrap();
    assert_eq!(seen, json!(["t-1", "t-1"]));
    let seen: Value = app.rpc("relay.way.through").call(&()).await.unwrap();
    assert_eq!(
        seen,
        json!([null, null]),
        "nothing is left of the call before"
    );
}

#[cfg(feature = "protobuf")]
#[tokio::test(start_paused = true)]
async fn remotes_are_called_with_protobuf_messages() {
    #[derive(Clone, PartialEq, prost::Message)]
    struct Score {
        #[prost(string, tag = "1")]
        player: String,
        #[prost(uint64, tag = "2")]
        points: u64,
    }
    let mut calc = App::new("calc", "calc-1");
    calc.remote("score.double", async |Protobuf(score): Protobuf<Score>| {
        let points = score.points * 2;
        Protobuf(Score { points, ..score })
    });
    calc.remote("score.json", async || Json(7));
    let running = start([calc, App::new("chat", "chat-1")]).await;
    let app = running.app("chat-1").unwrap();
    // A message without values has no bytes, and is a value all the same.
    for (player, points) in [("ann", 21), ("", 0)] {
        let player = player.to_owned();
        let score = Score { player, points };
        let rpc = app.rpc("calc.score.double");
        let doubled: Score = rpc.call_protobuf(&score).await.unwrap();
        let points = points * 2;
        assert_eq!(doubled, Score { points, ..score });
    }
    let garbage = app.rpc("calc.score.double").call_raw("\u{7f}").await;
    let Err(RpcError::Remote(refused)) = garbage else {
        panic!("{garbage:?}")
    };
    assert_eq!(refused.code(), "PIT-400");
    let rpc = app.rpc("calc.score.json");
    let answer = rpc.call_protobuf::<Score>(&Score::default()).await;
    assert!(matches!(answer, Err(RpcError::Protobuf(_))), "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn remotes_are_called_with_typed_arguments() {
    let running = start(calculators()).await;
    let app = running.app("chat-1").unwrap();
    assert_eq!(
        app.rpc("calc.sum.add").call::<i32>(&(2, 3)).await.unwrap(),
        5
    );
    let who: Value = app
        .rpc("calc.sum.who")
        .to("calc-2")
        .call(&())
        .await
        .unwrap();
    assert_eq!(who, json!(["calc-2", "chat-1"]));
    // A server of the type may be asked for another one than itself.
    let one = running.app("calc-1").unwrap();
    for _ in 0..20 {
        let who: Value = one.rpc("calc.sum.who").elsewhere().call(&()).await.unwrap();
        assert_eq!(who, json!(["calc-2", "calc-1"]));
    }
    let itself = one.rpc("calc.sum.who").elsewhere().to("calc-1");
    assert!(itself.call::<Value>(&()).await.is_err());
    let alone = app.rpc("chat.sum.who").elsewhere().call::<Value>(&()).await;
    assert!(matches!(alone, Err(RpcError::Remote(error)) if error.code() == "PIT-500"));
    let all = app
        .rpc("calc.sum.who")
        .call_all::<Value>(&())
        .await
        .unwrap();
    assert_eq!(all.len(), 2);
    let others = one.rpc("calc.sum.who").elsewhere();
    let others = others.call_all::<Value>(&()).await.unwrap();
    let ids: Vec<&str> = others.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!(ids, ["calc-2"]);
    let code = |error: RpcError| match error {
        RpcError::Remote(error) => error.code().to_owned(),
        other => format!("{other:?}"),
    };
    assert_eq!(
        code(app.rpc("calc.sum.fail").call::<()>(&()).await.unwrap_err()),
        "C-9"
    );
    assert_eq!(
        code(app.rpc("calc.sum.panic").call::<()>(&()).await.unwrap_err()),
        "PIT-000"
    );
    assert_eq!(
        code(
            app.rpc("calc.sum.unknown")
                .call::<()>(&())
                .await
                .unwrap_err()
        ),
        "PIT-404"
    );
    assert_eq!(
        code(
            app.rpc("calc.sum.add")
                .call::<i32>(&"text")
                .await
                .unwrap_err()
        ),
        "PIT-400"
    );
    let begin = tokio::time::Instant::now();
    assert_eq!(
        code(
            app.rpc("calc.sum.never")
                .timeout(Duration::from_secs(1))
                .call::<()>(&())
                .await
                .unwrap_err()
        ),
        "PIT-408"
    );
    assert_eq!(begin.elapsed().as_secs(), 1);
    let gone = app
        .rpc("gone.sum.add")
        .call::<i32>(&(1, 1))
        .await
        .unwrap_err();
    assert!(gone.is_retryable(), "{gone}");
    assert!(
        app.rpc("calc.sum.add")
            .to("chat-1")
            .call::<i32>(&(1, 1))
            .await
            .is_err(),
        "a server of another type"
    );
    assert!(matches!(
        app.rpc("sum.add").call::<i32>(&(1, 1)).await,
        Err(RpcError::Route(_))
    ));
    assert!(matches!(
        app.rpc("calc.sum.add").call::<String>(&(1, 1)).await,
        Err(RpcError::Answer(_))
    ));
}

/// What an application does when a client leaves may call the backends of its process, also while the process goes down.
#[tokio::test]
async fn a_client_that_a_shutdown_closes_can_still_be_saved() {
    let saved = Arc::new(Mutex::new(Vec::new()));
    let store = Arc::clone(&saved);
    let mut chat = App::new("chat", "chat-1");
    chat.remote("player.save", move |Json(sid): Json<String>| {
        store.lock().unwrap().push(sid);
        async { Json(true) }
    });
    let mut app = frontend("connector-1");
    app.on_session_closed(|app: AppHandle, event: SessionEvent| async move {
        let sid = event.session().id().to_string();
        app.rpc("chat.player.save")
            .call::<bool>(&sid)
            .await
            .unwrap();
    });
    let running = start([app, chat]).await;
    let client = Client::connect(&running.apps()[0]);
    running.shutdown().await;
    assert_eq!(saved.lock().unwrap().len(), 1);
    drop(client);
}

/// What handlers need is there until the last request that was taken is answered.
#[tokio::test]
async fn a_backend_answers_what_it_has_before_its_components_stop() {
    let log = Arc::new(Mutex::new(Vec::new()));
    let cluster = Arc::new(shaddock::cluster::LocalCluster::new());
    let mut chat = App::new("chat", "chat-1");
    chat.component(Part {
        name: "database",
        log: Arc::clone(&log),
    });
    let seen = Arc::clone(&log);
    let (entered, has_entered) = tokio::sync::oneshot::channel();
    let entered = Mutex::new(Some(entered));
    let gate = Arc::new(tokio::sync::Notify::new());
    let waits = Arc::clone(&gate);
    chat.remote("room.slow", move || {
        if let Some(entered) = entered.lock().unwrap().take() {
            let _ = entered.send(());
        }
        let (seen, waits) = (Arc::clone(&seen), Arc::clone(&waits));
        async move {
            waits.notified().await;
            Json(seen.lock().unwrap().last().cloned())
        }
    });
    let servers = |app| {
        let cluster = Arc::clone(&cluster) as Arc<dyn shaddock::cluster::Cluster>;
        Servers::new().add(app).cluster_shared(cluster).start()
    };
    let chat = servers(chat).await.unwrap();
    let other = servers(App::new("other", "other-1")).await.unwrap();
    let app = other.app("other-1").unwrap().clone();
    let asked = tokio::spawn(async move { app.rpc("chat.room.slow").call::<String>(&()).await });
    has_entered.await.unwrap();
    let members = other.apps()[0].membership().unwrap().clone();
    let opens = async {
        eventually("the stop has begun", || {
            members.members().server("chat-1").is_none()
        })
        .await;
        gate.notify_one();
    };
    tokio::join!(chat.shutdown(), opens);
    assert_eq!(asked.await.unwrap().unwrap(), "database after");
    assert_eq!(log.lock().unwrap().last().unwrap(), "database stop");
    other.shutdown().await;
}

#[tokio::test]
async fn one_request_that_hangs_keeps_the_stop_from_nothing_else() {
    let (held, dropped) = tokio::sync::oneshot::channel::<()>();
    let mut app = frontend("connector-1");
    // Longer than any test: the step is dropped when the test ends.
    app.set(AppConfig::default().stop_timeout(Duration::from_secs(3600)));
    app.route("h.hang", async || std::future::pending::<()>().await)
        .concurrent();
    let running = start([app]).await;
    let app = running.apps()[0].clone();
    app.spawn("background", async move {
        let _dropped_when_told = held;
        std::future::pending::<()>().await;
    })
    .unwrap();
    let mut client = Client::connect(&app);
    support::drive(client.start(Some(1), "connector.h.hang", "{}")).await;
    let shutdown = tokio::spawn(running.shutdown());
    tokio::time::timeout(Duration::from_secs(20), dropped)
        .await
        .expect("background work hears of the stop while the request hangs")
        .unwrap_err();
    assert!(!shutdown.is_finished(), "the request has its time");
    shutdown.abort();
}

#[tokio::test]
async fn listeners_that_are_behind_converge_to_the_bound_users() {
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let (sender, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let mut app = frontend("connector-1");
    app.set(AppConfig::default().max_waiting_events(5));
    let (opened, bound) = (Arc::clone(&gate), sender.clone());
    app.on_session_bound(move |_, event: SessionEvent| {
        let (opened, bound) = (Arc::clone(&opened), bound.clone());
        async move {
            let _ = opened.acquire().await;
            let _ = bound.send(format!("+{}", event.uid().unwrap()));
        }
    });
    app.on_session_unbound(move |_, event: SessionEvent| {
        let _ = sender.send(format!("-{}", event.uid().unwrap()));
        async {}
    });
    let running = start([app]).await;
    let app = running.apps()[0].clone();
    let client = Client::connect(&app);
    for n in 0..100 {
        app.bind(client.sid(), support::uid(&format!("user-{n}")))
            .await
            .unwrap();
        let service = app.session_service().unwrap();
        service
            .unbind(client.sid(), &support::uid(&format!("user-{n}")))
            .unwrap();
    }
    app.bind(client.sid(), support::uid("last")).await.unwrap();
    gate.add_permits(1000);
    let mut online: Option<String> = None;
    loop {
        let told = tokio::time::timeout(Duration::from_secs(20), heard.recv());
        let told = told.await.expect("the last one is told").unwrap();
        let name = told[1..].to_owned();
        if told.starts_with('+') {
            assert_eq!(online.replace(name.clone()), None, "{told}");
        } else {
            assert_eq!(online.take(), Some(name.clone()), "{told}");
        }
        if name == "last" {
            break;
        }
    }
    assert!(app.stats().lost_events.get() > 0);
}
