//! The way of a request, without sockets: routes, answers, filters, error handlers, panics, timeouts, order.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shaddock::{
    cluster::LocalCluster,
    filter::{AsyncFilter, BeforeFlow, Filter, RateLimitFilter, TimeoutFilter, TooBusyFilter},
    prelude::*,
    reply::Outcome,
    request::RequestContext,
    wire::{CodecConfig, Dialect, MaybeReady, PomeloErrors},
};

use crate::support::{Client, drive, eventually, frontend, pass, start};

async fn echo(Json(body): Json<Value>) -> Json<Value> {
    Json(body)
}

#[derive(Serialize, Deserialize)]
struct Move {
    x: i32,
}

fn answers() -> App {
    let mut app = frontend("connector-1");
    app.route("h.echo", echo);
    app.route("connector.h.typed", async |Json(mut m): Json<Move>| {
        m.x += 1;
        Json(m)
    });
    app.route("h.nothing", async || ());
    app.route("h.none", async || None::<Json<u8>>);
    app.route("h.text", async || "text");
    app.route("h.zero", async || Json(0));
    app.route("h.fail", async || {
        Err::<(), _>(HandlerError::new("X-1", "no"))
    });
    app.route("h.failBody", async || {
        Err::<(), _>(HandlerError::new("X-2", "no").with_body(&json!({"a": 1})))
    });
    app.route("h.failStd", async || "x".parse::<u8>().map(Json));
    app.route("h.panic", async || -> () {
        panic!("expected in this test")
    });
    app.route("h.panicNow", |_: Json<Value>| -> std::future::Ready<()> {
        panic!("expected in this test")
    });
    app.route("h.raw", async |Body(body): Body| Reply::raw(body));
    app.route(
        "h.route",
        async |RoutePath(route): RoutePath, id: RequestId| {
            Json((route.to_string(), id.is_notify()))
        },
    );
    app
}

#[tokio::test]
async fn pomelo_clients_receive_the_codes_of_the_table() {
    let running = start([answers()]).await;
    let mut client = Client::connect(&running.apps()[0]);
    let cases = [
        (
            "connector.h.echo",
            json!({"a": [1, "x"]}),
            json!({"a": [1, "x"]}),
        ),
        ("connector.h.echo", json!([1, 2]), json!([1, 2])),
        ("connector.h.typed", json!({"x": 1}), json!({"x": 2})),
        ("connector.h.typed", json!({"y": 1}), json!({"code": 500})),
        ("connector.h.nothing", json!({}), json!({})),
        ("connector.h.none", json!({}), json!({})),
        ("connector.h.zero", json!({}), json!({})),
        ("connector.h.text", json!({}), json!("text")),
        ("connector.h.fail", json!({}), json!({"code": 500})),
        (
            "connector.h.failBody",
            json!({}),
            json!({"a": 1, "code": 500}),
        ),
        ("connector.h.failStd", json!({}), json!({"code": 500})),
        ("connector.h.panic", json!({}), json!({"code": 500})),
        ("connector.h.panicNow", json!({}), json!({"code": 500})),
        ("connector.h.raw", json!({"k": 1}), json!({"k": 1})),
        (
            "connector.h.route",
            json!({}),
            json!(["connector.h.route", false]),
        ),
        ("connector.h.unknown", json!({}), json!({"code": 500})),
        ("connector.toString.x", json!({}), json!({"code": 500})),
        ("nowhere.h.echo", json!({}), json!({"code": 500})),
        ("h.echo", json!({}), json!({"code": 500})),
        ("Connector.h.echo", json!({}), json!({"code": 500})),
    ];
    for (route, body, expected) in cases {
        assert_eq!(client.request(route, body).await, expected, "{route}");
    }
    assert_eq!(running.apps()[0].stats().panics.get(), 2);
    assert!(client.drain().is_empty(), "one answer for each request");
}

#[tokio::test]
async fn pitaya_clients_get_flagged_errors_and_short_routes() {
    let running = start([answers()]).await;
    let mut client = Client::with_dialect(&running.apps()[0], Dialect::Pitaya);
    assert_eq!(
        client.answer("h.echo", json!({"a": 1})).await,
        (json!({"a": 1}), false)
    );
    assert_eq!(
        client.answer("connector.h.echo", json!({"a": 1})).await,
        (json!({"a": 1}), false)
    );
    assert_eq!(
        client.answer("h.fail", json!({})).await,
        (json!({"code": "X-1", "msg": "no"}), true)
    );
    for route in ["h.unknown", "connector.h.unknown"] {
        let text = format!("pitaya/handler: {route} not found");
        let expected = json!({"code": "PIT-404", "msg": text});
        assert_eq!(client.answer(route, json!({})).await, (expected, true));
    }
    let (body, flag) = client.answer("h.failStd", json!({})).await;
    assert_eq!(
        (&body["msg"], flag),
        (&json!("internal error"), true),
        "the error's own text stays here"
    );
    let (body, _) = client.answer("nowhere.h.echo", json!({})).await;
    assert_eq!(body["code"], "PIT-500");
}

#[tokio::test]
async fn a_notify_runs_the_handler_and_is_never_answered() {
    let running = start([answers()]).await;
    let app = &running.apps()[0];
    let mut client = Client::connect(app);
    client.notify("connector.h.echo", json!({"a": 1})).await;
    client.notify("connector.h.fail", json!({})).await;
    client.notify("connector.h.unknown", json!({})).await;
    assert!(client.drain().is_empty());
    assert_eq!(app.stats().dropped_replies.get(), 1);
    assert_eq!(app.stats().requests.get(), 3);
}

/// Writes down where the request is.
struct Mark(&'static str, Arc<Mutex<Vec<String>>>);

impl Filter for Mark {
    fn before(&self, request: &mut RequestContext) -> BeforeFlow {
        self.1.lock().unwrap().push(format!("{} before", self.0));
        request.session_mut().set(self.0, true);
        let body: Value = serde_json::from_slice(request.body()).unwrap();
        let asked = |what: &str| body[what] == self.0;
        let refused = || Err(HandlerError::new("F-1", "refused"));
        let outcome = if asked("refuse") { refused() } else { Ok(()) };
        if asked("later") {
            return BeforeFlow::later(async {
                tokio::task::yield_now().await;
                outcome
            });
        }
        BeforeFlow::from(outcome)
    }

    fn after(&self, _request: &mut RequestContext, outcome: &mut Outcome) {
        self.1.lock().unwrap().push(format!(
            "{} after {}",
            self.0,
            if outcome.is_ok() { "ok" } else { "error" }
        ));
    }
}

/// `tests/vectors/filters.json` is what Pomelo's own filter service does; `tests/js/filters.test.js` holds it to that.
#[tokio::test]
async fn filters_run_in_pomelos_order() {
    let vectors: Value =
        serde_json::from_str(include_str!("../../../../tests/vectors/filters.json")).unwrap();
    let cases = vectors["cases"].as_array().unwrap();
    assert!(cases.len() >= 6);
    for case in cases {
        let log: Arc<Mutex<Vec<String>>> = Arc::default();
        let names: Vec<&'static str> = case["filters"]
            .as_array()
            .unwrap()
            .iter()
            .map(|name| &*name.as_str().unwrap().to_owned().leak())
            .collect();
        for global in [false, true] {
            let mut app = frontend("connector-1");
            for name in &names {
                let mark = Mark(name, Arc::clone(&log));
                if global {
                    app.global_filter(mark);
                } else {
                    app.filter(mark);
                }
            }
            let noted = Arc::clone(&log);
            app.route("h.ok", move || {
                noted.lock().unwrap().push("handler".to_owned());
                async {}
            });
            let running = start([app]).await;
            let mut client = Client::connect(&running.apps()[0]);
            let asked = json!({"refuse": case["refuses"], "later": case["waits"]});
            client.request("connector.h.ok", asked).await;
            let ran = std::mem::take(&mut *log.lock().unwrap());
            let ran: Vec<_> = ran
                .iter()
                .map(|step| step.trim_end_matches(" ok").trim_end_matches(" error"))
                .collect();
            assert_eq!(json!(ran), case["order"], "{} {global}", case["name"]);
        }
    }
}

#[tokio::test]
async fn error_handlers_are_asked_as_in_pomelo() {
    let log: Arc<Mutex<Vec<String>>> = Arc::default();
    let mark = |name| Mark(name, Arc::clone(&log));
    let mut app = frontend("connector-1");
    app.global_filter(mark("g1"))
        .global_filter(mark("g2"))
        .filter(mark("l1"))
        .filter(mark("l2"));
    let noted = Arc::clone(&log);
    app.error_handler(
        move |_: &mut RequestContext, error: HandlerError| -> Outcome {
            noted
                .lock()
                .unwrap()
                .push(format!("local {}", error.code()));
            Reply::json(&json!({"repaired": error.code()}))
        },
    );
    let noted = Arc::clone(&log);
    app.global_error_handler(
        move |_: &mut RequestContext, error: HandlerError| -> Outcome {
            noted
                .lock()
                .unwrap()
                .push(format!("global {}", error.code()));
            Err(error.with_body(&json!({"code": 403})))
        },
    );
    let noted = Arc::clone(&log);
    app.route("h.ok", move |session: SessionView| {
        noted.lock().unwrap().push("handler".to_owned());
        async move {
            Json(
                session.get_as::<bool>("g1") == Some(true)
                    && session.get_as::<bool>("l2") == Some(true),
            )
        }
    });
    let mut chat = App::new("chat", "chat-1");
    chat.route("h.fail", async || {
        Err::<(), _>(HandlerError::new("C-1", "no").with_body(&json!({"code": 7})))
    });
    let running = start([app, chat]).await;
    let mut client = Client::connect(&running.apps()[0]);
    let mut run = async |route: &str, body: Value| {
        let answer = client.request(route, body).await;
        (answer, std::mem::take(&mut *log.lock().unwrap()).join(", "))
    };
    let straight = "g1 before, g2 before, l1 before, l2 before, handler, l2 after ok, l1 after ok, g2 after ok, g1 after ok";
    assert_eq!(
        run("connector.h.ok", json!({})).await,
        (json!(true), straight.into())
    );
    for who in ["g1", "g2", "l1", "l2"] {
        assert_eq!(
            run("connector.h.ok", json!({"later": who})).await,
            (json!(true), straight.into()),
            "{who} waits"
        );
    }
    assert_eq!(
        run("connector.h.ok", json!({"refuse": "l1"})).await,
        (
            json!({"repaired": "F-1"}),
            "g1 before, g2 before, l1 before, local F-1, l2 after ok, l1 after ok, g2 after ok, g1 after ok".into()
        )
    );
    for later in [Value::Null, json!("g1")] {
        assert_eq!(
            run("connector.h.ok", json!({"refuse": "g1", "later": later})).await,
            (
                json!({"code": 403}),
                "g1 before, global F-1, g2 after error, g1 after error".into()
            )
        );
    }
    // Neither a server that there is not, nor one that answers with an error, is the global error handler's business.
    let outside = "g1 before, g2 before, g2 after error, g1 after error";
    for (route, answer) in [
        ("nowhere.h.ok", json!({"code": 500})),
        ("chat.h.fail", json!({"code": 7})),
    ] {
        assert_eq!(
            run(route, json!({})).await,
            (answer, outside.into()),
            "{route}"
        );
    }
}

/// What a filter found out.
struct Player {
    level: u32,
}

/// A filter that asks a database, so to speak.
struct LoadPlayer;

impl AsyncFilter for LoadPlayer {
    async fn before(&self, request: &mut RequestContext) -> Result<(), HandlerError> {
        tokio::time::sleep(Duration::from_millis(5)).await;
        match &request.body()[..] {
            b"\"refuse\"" => return Err(HandlerError::new("F-1", "no such player")),
            b"\"panic\"" => panic!("expected in this test"),
            b"\"hang\"" => std::future::pending().await,
            _ => {}
        }
        request.insert(Player { level: 7 });
        request.session_mut().set("level", 7);
        request.session().push("level").await?;
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_filter_that_waits_leaves_values_and_changes_the_session() {
    for global in [false, true] {
        let mut app = frontend("connector-1");
        if global {
            app.global_async_filter(LoadPlayer);
        } else {
            app.async_filter(LoadPlayer);
        }
        app.route(
            "h.level",
            async |session: SessionView, Extension(player): Extension<Player>| {
                Json((player.level, session.get_as::<u32>("level")))
            },
        );
        let running = start([app]).await;
        let app = &running.apps()[0];
        let mut client = Client::with_dialect(app, Dialect::Pitaya);
        let (answer, _) = client.answer("connector.h.level", json!({})).await;
        assert_eq!(answer, json!([7, 7]));
        let settings = client.session.settings();
        assert_eq!(settings.get("level"), Some(&json!(7)), "it was pushed");
        let begin = tokio::time::Instant::now();
        for (body, code) in [("refuse", "F-1"), ("panic", "PIT-000"), ("hang", "PIT-408")] {
            let (answer, error) = client.answer("connector.h.level", json!(body)).await;
            assert_eq!((&answer["code"], error), (&json!(code), true), "{body}");
        }
        assert_eq!(
            begin.elapsed().as_secs(),
            30,
            "as long as a handler may take"
        );
        assert_eq!(app.stats().panics.get(), 1);
    }
}

#[tokio::test]
async fn a_hook_that_is_set_twice_is_an_error_at_start() {
    type Set = fn(&mut App);
    let hooks: [(&str, Set); 5] = [
        ("check_client", |app| {
            app.check_client(|_, _| true);
        }),
        ("on_handshake", |app| {
            app.on_handshake(async |_| Ok(None));
        }),
        ("before_bind", |app| {
            app.before_bind(|_, _, _| async { Ok::<_, HandlerError>(()) });
        }),
        ("error_handler", |app| {
            app.error_handler(|_: &mut RequestContext, error: HandlerError| -> Outcome {
                Err(error)
            });
        }),
        ("global_error_handler", |app| {
            app.global_error_handler(|_: &mut RequestContext, error: HandlerError| -> Outcome {
                Err(error)
            });
        }),
    ];
    for (name, set) in hooks {
        let mut app = frontend("connector-1");
        set(&mut app);
        let running = start([app]).await;
        running.shutdown().await;
        let mut app = frontend("connector-1");
        set(&mut app);
        set(&mut app);
        let error = Servers::new().add(app).start().await.unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains(&format!("`{name}`")) && error.contains("dispatch.rs:"),
            "{error}"
        );
    }
}

struct Panics;

impl Filter for Panics {
    fn before(&self, request: &mut RequestContext) -> BeforeFlow {
        match &request.body()[..] {
            b"\"now\"" => panic!("expected in this test"),
            b"\"later\"" => BeforeFlow::later(async { panic!("expected in this test") }),
            _ => BeforeFlow::CONTINUE,
        }
    }

    fn after(&self, request: &mut RequestContext, _outcome: &mut Outcome) {
        assert_ne!(&request.body()[..], b"\"after\"", "expected in this test");
    }
}

#[tokio::test]
async fn a_filter_that_panics_is_answered_like_a_handler_that_does() {
    let mut app = frontend("connector-1");
    app.filter(Panics);
    app.route("h.echo", echo);
    let running = start([app]).await;
    let mut client = Client::connect(&running.apps()[0]);
    for body in ["now", "later", "after"] {
        assert_eq!(
            client.request("connector.h.echo", json!(body)).await,
            json!({"code": 500}),
            "{body}"
        );
    }
    assert_eq!(
        client.request("connector.h.echo", json!("fine")).await,
        json!("fine")
    );
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_never_answers_is_answered_for() {
    let mut app = frontend("connector-1");
    app.route("h.never", async || std::future::pending::<()>().await);
    app.route("h.short", async || std::future::pending::<()>().await)
        .timeout(Duration::from_secs(1));
    app.route("h.slow", async || {
        pass(Duration::from_secs(3600)).await;
    })
    .timeout(Duration::ZERO);
    let running = start([app]).await;
    let app = &running.apps()[0];
    let mut client = Client::connect(app);
    let begin = tokio::time::Instant::now();
    assert_eq!(
        client.request("connector.h.never", json!({})).await,
        json!({"code": 500})
    );
    assert_eq!(begin.elapsed().as_secs(), 30, "the default");
    assert_eq!(
        client.request("connector.h.short", json!({})).await,
        json!({"code": 500})
    );
    assert_eq!(begin.elapsed().as_secs(), 31);
    assert_eq!(
        client.request("connector.h.slow", json!({})).await,
        json!({})
    );
    assert_eq!(app.stats().timeouts.get(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_timeout_filter_shortens_the_time() {
    let mut app = frontend("connector-1");
    app.filter(TimeoutFilter::new(Duration::from_millis(200)));
    app.route("h.never", async || std::future::pending::<()>().await);
    let running = start([app]).await;
    let mut client = Client::connect(&running.apps()[0]);
    let begin = tokio::time::Instant::now();
    assert_eq!(
        client.request("connector.h.never", json!({})).await,
        json!({"code": 500})
    );
    assert_eq!(begin.elapsed().as_millis(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_forwarded_request_has_the_time_of_the_server_that_handles_it() {
    /// How long the client waited.
    async fn waited(route: &str, filter: Option<u64>) -> (u64, Value) {
        let mut front = frontend("connector-1");
        if let Some(seconds) = filter {
            front.global_filter(TimeoutFilter::new(Duration::from_secs(seconds)));
        }
        // Not a bound on what others do.
        front.set(AppConfig::default().handler_timeout(Duration::from_secs(1)));
        let mut chat = App::new("chat", "chat-1");
        let never = async || std::future::pending::<()>().await;
        chat.route("h.never", never);
        chat.route("h.long", never).timeout(Duration::from_secs(60));
        chat.route("h.short", never).timeout(Duration::from_secs(2));
        chat.route("h.ever", never).timeout(Duration::ZERO);
        let mut patient = App::new("patient", "patient-1");
        patient.set(AppConfig::default().handler_timeout(Duration::from_secs(90)));
        patient.route("h.never", never);
        let cluster = LocalCluster::with_request_timeout(Duration::from_secs(7));
        let servers = Servers::new().add(front).add(chat).add(patient);
        let running = servers.cluster(cluster).start().await.unwrap();
        let mut client = Client::with_dialect(&running.apps()[0], Dialect::Pitaya);
        let begin = tokio::time::Instant::now();
        let (answer, error) = client.answer(route, json!({})).await;
        assert!(error, "{answer}");
        (begin.elapsed().as_secs(), answer["code"].clone())
    }
    for (route, filter, seconds) in [
        ("chat.h.never", None, 30),
        ("chat.h.long", None, 60),
        ("chat.h.short", None, 2),
        ("chat.h.ever", None, 3600),
        ("patient.h.never", None, 90),
        // A filter chooses another time, for ever excepted.
        ("chat.h.never", Some(0), 30),
        ("chat.h.never", Some(3), 3),
        ("chat.h.long", Some(20), 20),
        // Neither works longer than the other waits.
        ("chat.h.short", Some(20), 2),
    ] {
        let late = (seconds, json!("PIT-408"));
        assert_eq!(waited(route, filter).await, late, "{route} {filter:?}");
    }
}

/// Every kind of failure, told apart by clients of Pomelo that are told more.
#[tokio::test(start_paused = true)]
async fn pomelo_clients_can_distinguish_errors() {
    let mut app = answers();
    app.set(CodecConfig::default().pomelo_errors(PomeloErrors::Text));
    app.route("h.never", async || std::future::pending::<()>().await);
    app.route("h.fault", async || {
        Err::<(), _>(HandlerError::internal("the disk is full"))
    });
    app.route("h.why", async || Err::<(), _>("a text"));
    app.route("h.busy", async || {
        Err::<(), _>(HandlerError::too_many("too many requests are running"))
    });
    let running = start([app]).await;
    let mut client = Client::connect(&running.apps()[0]);
    for (route, body, error, text) in [
        (
            "connector.h.typed",
            json!({"y": 1}),
            "PIT-400",
            "the body is not what the handler expects",
        ),
        (
            "connector.h.unknown",
            json!({}),
            "PIT-404",
            "pitaya/handler: connector.h.unknown not found",
        ),
        (
            "connector.h.never",
            json!({}),
            "PIT-408",
            "rpc client: request timeout",
        ),
        (
            "connector.h.busy",
            json!({}),
            "PIT-429",
            "too many requests are running",
        ),
        ("connector.h.fault", json!({}), "PIT-500", "internal error"),
        (
            "connector.h.failStd",
            json!({}),
            "PIT-000",
            "internal error",
        ),
        (
            "connector.h.panic",
            json!({}),
            "PIT-000",
            "the handler failed",
        ),
        ("connector.h.fail", json!({}), "X-1", "no"),
    ] {
        let expected = json!({"code": 500, "error": error, "msg": text});
        assert_eq!(client.request(route, body).await, expected, "{route}");
    }
    let answer = client.request("nowhere.h.echo", json!({})).await;
    assert_eq!(answer["error"], "PIT-500");
    let answer = client.request("connector.h.failBody", json!({})).await;
    assert_eq!(answer, json!({"a": 1, "code": 500}), "a body is enough");
}

#[tokio::test]
async fn busy_and_greedy_are_refused() {
    let mut app = frontend("connector-1");
    let busy = TooBusyFilter::new(1);
    app.filter(busy.clone()).filter(RateLimitFilter::new(1, 3));
    app.route("h.echo", echo);
    app.route("h.wait", async || std::future::pending::<()>().await);
    let running = start([app]).await;
    let app = &running.apps()[0];
    let mut first = Client::connect(app);
    let mut second = Client::with_dialect(app, Dialect::Pitaya);
    let MaybeReady::Later(waiting) = first.start(Some(9), "connector.h.wait", "{}") else {
        panic!("it waits")
    };
    assert_eq!(busy.at_work(), 1);
    assert_eq!(
        second.answer("h.echo", json!({})).await.0["code"],
        "PIT-429"
    );
    drop(waiting);
    assert_eq!(busy.at_work(), 0, "also a request that is dropped is over");
    for n in 0..4 {
        let (body, error) = second.answer("h.echo", json!({"n": n})).await;
        assert_eq!(error, n == 3, "{body}");
    }
    assert_eq!(
        first.request("connector.h.echo", json!({"mine": 1})).await,
        json!({"mine": 1}),
        "others have their own bucket"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_routes_do_not_wait_and_offloaded_ones_run_elsewhere() {
    let mut app = frontend("connector-1");
    let gate = Arc::new(tokio::sync::Notify::new());
    let waits = Arc::clone(&gate);
    app.route("h.slow", move || {
        let waits = Arc::clone(&waits);
        async move {
            waits.notified().await;
            "slow"
        }
    })
    .concurrent();
    app.route("h.where", async || {
        Json(format!("{:?}", std::thread::current().id()))
    })
    .offload();
    app.route("h.here", async || {
        Json(format!("{:?}", std::thread::current().id()))
    });
    let running = start([app]).await;
    let mut client = Client::connect(&running.apps()[0]);
    assert!(
        matches!(
            client.start(Some(100), "connector.h.slow", "{}"),
            MaybeReady::Now(())
        ),
        "the next one may start"
    );
    let here = std::thread::current().id();
    let MaybeReady::Later(flow) = client.start(Some(101), "connector.h.where", "{}") else {
        panic!("the session waits for it")
    };
    flow.await;
    let elsewhere = client.wait_answer(101).await.0;
    assert!(!elsewhere.as_str().unwrap().is_empty());
    let (local, _) = client.answer("connector.h.here", json!({})).await;
    assert_eq!(local, json!(format!("{here:?}")));
    gate.notify_one();
    assert_eq!(client.wait_answer(100).await.0, json!("slow"));
}

#[tokio::test]
async fn concurrent_requests_are_bounded() {
    let mut app = frontend("connector-1");
    app.set(AppConfig::default().max_concurrent(2));
    app.route("h.wait", async || std::future::pending::<()>().await)
        .concurrent();
    let running = start([app]).await;
    let mut client = Client::with_dialect(&running.apps()[0], Dialect::Pitaya);
    for id in 1..=3 {
        drive(client.start(Some(id), "h.wait", "{}")).await;
    }
    assert_eq!(client.wait_answer(3).await.0["code"], "PIT-429");
    assert!(client.drain().is_empty());
    let rejected = "shaddock_requests_rejected_total";
    assert_eq!(crate::metrics::value(&running, rejected), 1);
}

/// Requests of each thread at the bound, and how many are sent before answers are read.
const RACING: u64 = 1000;
const AT_ONCE: u64 = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_at_the_bound_gets_one_answer() {
    let called = Arc::new(AtomicUsize::new(0));
    let mut app = frontend("connector-1");
    app.set(AppConfig::default().max_concurrent(2));
    let calls = Arc::clone(&called);
    app.route("h.m", move || {
        calls.fetch_add(1, Ordering::Relaxed);
        // Others ask for a place while this one is called, and while its future waits.
        std::thread::yield_now();
        tokio::task::yield_now()
    })
    .concurrent();
    let running = start([app]).await;
    let race = |mut client: Client| {
        tokio::task::spawn_blocking(move || {
            let runtime = tokio::runtime::Handle::current();
            let (mut answers, mut served) = (vec![0; usize::try_from(RACING).unwrap()], 0);
            for first in (0..RACING).step_by(usize::try_from(AT_ONCE).unwrap()) {
                for n in first..first + AT_ONCE {
                    runtime.block_on(drive(client.start(Some(n + 1), "h.m", "{}")));
                }
                for n in first..first + AT_ONCE {
                    let (body, is_error) = runtime.block_on(client.wait_answer(n + 1));
                    answers[usize::try_from(n).unwrap()] += 1;
                    served += usize::from(!is_error);
                    assert!(!is_error || body["code"] == "PIT-429", "{body}");
                }
            }
            assert!(client.drain().is_empty(), "a second answer");
            assert!(answers.iter().all(|count| *count == 1));
            served
        })
    };
    let app = &running.apps()[0];
    let racing = [(); 4].map(|()| race(Client::with_dialect(app, Dialect::Pitaya)));
    let mut served = 0;
    for one in racing {
        served += one.await.unwrap();
    }
    assert_eq!(
        called.load(Ordering::Relaxed),
        served,
        "a handler that was called is the one whose answer is sent"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_place_is_taken_before_the_handler_is_called() {
    let (begins, begun) = std::sync::mpsc::channel();
    let (go, may_go) = std::sync::mpsc::channel::<()>();
    let may_go = Mutex::new(may_go);
    let mut app = frontend("connector-1");
    app.set(AppConfig::default().max_concurrent(1));
    app.route("h.m", move || {
        begins.send(()).unwrap();
        let _ = may_go.lock().unwrap().recv();
        std::future::pending::<()>()
    })
    .concurrent();
    let running = start([app]).await;
    let send = |mut client: Client| {
        tokio::task::spawn_blocking(move || {
            let runtime = tokio::runtime::Handle::current();
            runtime.block_on(drive(client.start(Some(1), "h.m", "{}")));
            client
        })
    };
    let app = &running.apps()[0];
    let [first, second] = [(); 2].map(|()| Client::with_dialect(app, Dialect::Pitaya));
    let first = send(first);
    tokio::task::block_in_place(|| begun.recv()).unwrap();
    // The first is being called, and has the only place.
    let second = send(second);
    eventually("the second is answered, or called", || {
        second.is_finished() || begun.try_recv().is_ok()
    })
    .await;
    drop(go);
    first.await.unwrap();
    let (body, _) = second.await.unwrap().wait_answer(1).await;
    assert_eq!(body["code"], "PIT-429");
}

#[tokio::test]
async fn requests_go_to_servers_of_the_type_and_back() {
    let mut chat = App::new("chat", "chat-1");
    chat.route("h.who", async |session: SessionView, ctx: Ctx| {
        Json(json!({"app": ctx.id(), "frontend": session.frontend_id(), "uid": session.uid().map(ToString::to_string), "room": session.get("room")}))
    });
    chat.route("h.fail", async || {
        Err::<(), _>(HandlerError::new("C-1", "no").with_body(&json!({"why": 1})))
    });
    chat.route("h.panic", async || -> () {
        panic!("expected in this test")
    });
    let mut other = App::new("chat", "chat-2");
    other.route("h.who", async || Json("never"));
    let mut connector = frontend("connector-1");
    connector.route("h.enter", async |mut session: SessionView| {
        session.bind(Uid::try_from("ann")?).await?;
        session.set("room", "lobby");
        session.push("room").await?;
        Ok::<_, HandlerError>(())
    });
    connector.route_fn("chat", |_, servers| {
        servers.iter().find(|server| server.id.as_str() == "chat-1")
    });
    let running = start([chat, other, connector]).await;
    let app = running.app("connector-1").unwrap();
    let mut client = Client::connect(app);
    let unbound = json!({"app": "chat-1", "frontend": "connector-1", "uid": null, "room": null});
    assert_eq!(client.request("chat.h.who", json!({})).await, unbound);
    client.request("connector.h.enter", json!({})).await;
    let bound = json!({"app": "chat-1", "frontend": "connector-1", "uid": "ann", "room": "lobby"});
    assert_eq!(client.request("chat.h.who", json!({})).await, bound);
    assert_eq!(
        client.request("chat.h.fail", json!({})).await,
        json!({"why": 1, "code": 500})
    );
    assert_eq!(
        client.request("chat.h.panic", json!({})).await,
        json!({"code": 500})
    );
    assert_eq!(
        client.request("chat.h.unknown", json!({})).await,
        json!({"code": 500})
    );
    let mut pitaya = Client::with_dialect(app, Dialect::Pitaya);
    assert_eq!(
        pitaya.answer("chat.h.fail", json!({})).await,
        (json!({"code": "C-1", "msg": "no"}), true)
    );
}

#[tokio::test]
async fn clients_cannot_reach_remotes() {
    let mut connector = frontend("connector-1");
    connector.remote("r.secret", async || "secret");
    let running = start([connector]).await;
    let mut client = Client::connect(&running.apps()[0]);
    assert_eq!(
        client.request("connector.r.secret", json!({})).await,
        json!({"code": 500})
    );
}

#[tokio::test]
async fn a_handler_runs_to_its_end_when_its_client_leaves() {
    let done = Arc::new(AtomicUsize::new(0));
    let mut app = frontend("connector-1");
    let counted = Arc::clone(&done);
    app.route("h.slow", move || {
        let counted = Arc::clone(&counted);
        async move {
            tokio::task::yield_now().await;
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    let running = start([app]).await;
    let mut client = Client::connect(&running.apps()[0]);
    let flow = client.start(Some(1), "connector.h.slow", "{}");
    client.session.close(CloseReason::ClientClosed);
    drive(flow).await;
    eventually("the handler has run", || done.load(Ordering::Relaxed) == 1).await;
    assert!(client.drain().is_empty(), "a closed session gets no answer");
}

/// What `concurrent` and `offload` say of a route holds on frontends and backends alike.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn options_of_routes_hold_wherever_the_route_is() {
    let gate = Arc::new(tokio::sync::Notify::new());
    let routes = |app: &mut App| {
        let (opened, waited) = (Arc::clone(&gate), Arc::clone(&gate));
        app.route("h.wait", move || {
            let gate = Arc::clone(&waited);
            async move {
                gate.notified().await;
                "waited"
            }
        })
        .concurrent();
        app.route("h.open", move || {
            let gate = Arc::clone(&opened);
            async move { gate.notify_one() }
        });
        let thread = async || Json(format!("{:?}", std::thread::current().id()));
        app.route("h.here", thread);
        app.route("h.apart", thread).offload();
        app.route("h.apartConcurrent", thread)
            .offload()
            .concurrent();
        app.route("h.panics", async || -> () {
            panic!("expected in this test")
        })
        .offload();
    };
    let mut front = frontend("connector-1");
    let mut back = App::new("game", "game-1");
    routes(&mut front);
    routes(&mut back);
    let running = start([front, back]).await;
    let app = running.app("connector-1").unwrap();
    let here = format!("{:?}", std::thread::current().id());
    for server in ["connector", "game"] {
        let mut client = Client::connect(app);
        let route = |method: &str| format!("{server}.h.{method}");
        // What the session waits for would be given back as `Later`.
        let waits = client.start(Some(901), &route("wait"), "{}");
        assert!(matches!(waits, MaybeReady::Now(())), "{server}");
        assert!(
            matches!(
                client.start(Some(900), &route("here"), "{}"),
                MaybeReady::Later(_)
            ),
            "{server}"
        );
        client.request(&route("open"), json!({})).await;
        assert_eq!(client.wait_answer(901).await.0, json!("waited"), "{server}");
        for (method, is_here) in [("here", true), ("apart", false), ("apartConcurrent", false)] {
            let (thread, _) = client.answer(&route(method), json!({})).await;
            assert_eq!(thread == json!(here), is_here, "{server} {method}");
        }
        let (answer, _) = client.answer(&route("panics"), json!({})).await;
        assert_eq!(answer["code"], 500, "{server}");
    }
}

#[tokio::test]
async fn concurrent_requests_of_other_servers_are_bounded() {
    let mut front = frontend("connector-1");
    let mut game = App::new("game", "game-1");
    let two = AppConfig::default().max_concurrent(2);
    front.set(two.clone());
    game.set(two);
    game.route("h.wait", async || std::future::pending::<()>().await)
        .concurrent();
    game.route("h.apart", async || std::future::pending::<()>().await)
        .offload();
    let running = start([front, game]).await;
    let mut client = Client::with_dialect(&running.apps()[0], Dialect::Pitaya);
    // On the frontend they are bounded as concurrent, on the backend as offloaded.
    for id in 1..=3 {
        drive(client.start(Some(id), "game.h.wait", "{}")).await;
    }
    assert_eq!(client.wait_answer(3).await.0["code"], "PIT-429");
    let mut at_work = Vec::new();
    for id in 11..=13 {
        let MaybeReady::Later(mut flow) = client.start(Some(id), "game.h.apart", "{}") else {
            panic!("the session waits")
        };
        let ended = tokio::time::timeout(Duration::from_millis(20), &mut flow).await;
        assert_eq!(ended.is_ok(), id == 13);
        at_work.push(flow);
    }
    assert_eq!(client.wait_answer(13).await.0["code"], "PIT-429");
    assert!(client.drain().is_empty());
}

#[tokio::test]
async fn metadata_has_a_bound() {
    for (routes, starts) in [(1_000, true), (3_000, false)] {
        let mut game = App::new("game", "game-1");
        for n in 0..routes {
            game.route(&format!("handler.methodWithALongName{n}"), async || ())
                .concurrent();
        }
        let started = Servers::new().add(game).start().await;
        assert_eq!(started.is_ok(), starts, "{routes}");
        if let Err(error) = started {
            assert!(
                error.to_string().contains("at most") || error.to_string().contains("65536"),
                "{error}"
            );
        }
    }
}
