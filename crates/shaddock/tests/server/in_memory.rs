//! Whole servers with clients, in memory and in time that does not pass by itself: see `shaddock::testing`.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};
use shaddock::{
    app::AppConfig,
    cluster::{Interest, Membership},
    filter::Filter,
    prelude::*,
    reply::Outcome,
    request::RequestContext,
    session::{Conflict, SessionService, SessionsPerUser},
    testing::{TestClient, TestServers},
    wire::CodecConfig,
};
use shaddock_client::{Client, CloseKind, RequestError};
use tokio::{sync::Notify, time::Instant};

const FRONT: &str = "connector-1";

fn connector() -> App {
    let mut app = App::new("connector", FRONT);
    app.listen("127.0.0.1:3010");
    app.route("h.echo", async |Json(body): Json<Value>| Json(body));
    app.route(
        "h.join",
        async |channels: Channels, mut session: SessionView, Json(name): Json<String>| {
            session.bind(Uid::new(name)?).await?;
            channels.create("room")?.join(&session).await?;
            Ok::<_, HandlerError>(())
        },
    );
    app.route(
        "h.flood",
        async |channels: Channels, Json(times): Json<usize>| {
            let room = channels.create("room")?;
            let text = "x".repeat(4096);
            let mut queued = 0;
            for n in 0..times {
                let sent = room
                    .push_message("onFlood", &json!({"n": n, "text": text}))
                    .await?;
                queued += sent.queued;
            }
            Ok::<_, HandlerError>(Json(queued))
        },
    );
    app
}

async fn started(app: App) -> TestServers {
    TestServers::start(Servers::new().add(app)).await.unwrap()
}

async fn joined(servers: &TestServers, name: &str) -> TestClient {
    let client = servers.connect(FRONT).await.unwrap();
    let _: Value = client.request("connector.h.join", &name).await.unwrap();
    client
}

fn sessions(servers: &TestServers) -> usize {
    servers
        .app(FRONT)
        .session_service()
        .unwrap()
        .session_count()
}

/// Lets so much of the test's time pass, where a handler has no servers at hand: the clock is paused.
async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

/// Far more than may wait for one client, and every client reads: no client is slow, and no message is lost.
#[tokio::test(start_paused = true)]
async fn a_burst_to_a_room_of_readers_reaches_all_of_them() {
    let servers = started(connector()).await;
    let mut room = Vec::new();
    for n in 0..20 {
        let client = joined(&servers, &format!("user-{n}")).await;
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        client.on("onFlood", move |push| {
            let n = push.json::<Value>().unwrap()["n"].as_u64().unwrap();
            let before = counted.fetch_add(1, Ordering::Relaxed);
            assert_eq!(usize::try_from(n).unwrap(), before, "in order");
            async {}
        });
        room.push((client, count));
    }
    let queued: usize = room[0].0.request("connector.h.flood", &400).await.unwrap();
    assert_eq!(queued, 400 * 20);
    for _ in 0..50 {
        servers.settle().await;
    }
    for (client, count) in &room {
        assert_eq!(client.close_kind(), None);
        assert_eq!(count.load(Ordering::Relaxed), 400);
    }
    servers.shutdown().await;
}

/// One that does not read ends, and the others do not notice.
#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_is_slow_and_affects_no_other() {
    let servers = started(connector()).await;
    let (stalled, reads) = (joined(&servers, "ann").await, joined(&servers, "bob").await);
    stalled.stall();
    let _: usize = reads.request("connector.h.flood", &3).await.unwrap();
    servers.pass(Duration::from_millis(4500)).await;
    assert_eq!(sessions(&servers), 2, "5 seconds have not passed");
    servers.pass(Duration::from_secs(1)).await;
    assert_eq!(sessions(&servers), 1);
    for n in 0..3 {
        assert_eq!(reads.expect_push("onFlood").await["n"], n);
    }
    let sent: usize = reads.request("connector.h.flood", &1).await.unwrap();
    assert_eq!(sent, 1, "the room has one member less");
    servers.shutdown().await;
}

/// Clients that ask and leave cannot pile up work: there is a bound, and it counts until the handlers end.
#[tokio::test(start_paused = true)]
async fn handlers_of_clients_that_have_left_are_bounded() {
    let mut app = connector();
    app.set(AppConfig::default().max_concurrent(3));
    let release = Arc::new(Notify::new());
    let wait = Arc::clone(&release);
    app.route("h.wait", move || {
        let wait = Arc::clone(&wait);
        async move { wait.notified().await }
    });
    let servers = started(app).await;
    let patient = servers.connect(FRONT).await.unwrap();
    for _ in 0..3 {
        let client = servers.connect(FRONT).await.unwrap();
        client.notify("connector.h.wait", &json!({})).await.unwrap();
        servers.settle().await;
        client.cut();
        servers.settle().await;
    }
    let one = json!(1);
    let ask = || patient.request::<_, Value>("connector.h.echo", &one);
    assert!(matches!(ask().await, Err(RequestError::Server(_))));
    release.notify_waiters();
    servers.settle().await;
    assert_eq!(ask().await.unwrap(), json!(1));
    servers.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_handler_has_thirty_seconds_and_they_take_no_time() {
    let mut app = connector();
    app.route("h.never", async || std::future::pending::<()>().await);
    let servers = started(app).await;
    let client = Client::builder().request_timeout(None);
    let client = servers.connect_with(FRONT, &client).await.unwrap();
    let begin = Instant::now();
    let answer = client
        .request::<_, Value>("connector.h.never", &json!({}))
        .await;
    assert!(matches!(answer, Err(RequestError::Server(_))));
    let took = begin.elapsed();
    assert!((30..31).contains(&took.as_secs()), "{took:?}");
    servers.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_session_waits_for_its_own_handlers_only() {
    let log: Arc<Mutex<Vec<String>>> = Arc::default();
    let noted = Arc::clone(&log);
    let mut app = connector();
    app.route("h.noted", move |Json(n): Json<u64>| {
        let noted = Arc::clone(&noted);
        async move {
            noted.lock().unwrap().push(format!("begin {n}"));
            pass(Duration::from_millis(n)).await;
            noted.lock().unwrap().push(format!("end {n}"));
            Json(n)
        }
    });
    let servers = started(app).await;
    let slow = servers.connect(FRONT).await.unwrap();
    let quick = servers.connect(FRONT).await.unwrap();
    let first = slow.request::<_, u64>("connector.h.noted", &1000_u64);
    let second = slow.request::<_, u64>("connector.h.noted", &1_u64);
    let others = async {
        for _ in 0..50 {
            let _: Value = quick.request("connector.h.echo", &json!({})).await.unwrap();
        }
        log.lock().unwrap().join(", ")
    };
    let (first, second, seen_by_others) = tokio::join!(first, second, others);
    assert_eq!((first.unwrap(), second.unwrap()), (1000, 1));
    assert_eq!(
        log.lock().unwrap().join(", "),
        "begin 1000, end 1000, begin 1, end 1",
        "one after the other"
    );
    assert!(
        !seen_by_others.contains("end"),
        "others do not wait: {seen_by_others}"
    );
    servers.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_served_after_a_kick_of_the_own_session() {
    let served = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&served);
    let mut app = connector();
    app.route("h.leave", async |session: SessionView| {
        session.kick("bye").await.map_err(HandlerError::from)
    });
    app.route("h.count", move || {
        counted.fetch_add(1, Ordering::Relaxed);
        async {}
    });
    let servers = started(app).await;
    let client = servers.connect(FRONT).await.unwrap();
    client
        .notify("connector.h.count", &json!({}))
        .await
        .unwrap();
    client
        .notify("connector.h.leave", &json!({}))
        .await
        .unwrap();
    for _ in 0..5 {
        let _ = client.notify("connector.h.count", &json!({})).await;
    }
    let end = client.expect_end().await;
    assert!(matches!(&end, CloseKind::Kicked { .. }), "{end:?}");
    assert_eq!(served.load(Ordering::Relaxed), 1);
    servers.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_ends_its_session_and_its_places_in_channels() {
    let servers = started(connector()).await;
    let (ann, bob) = (joined(&servers, "ann").await, joined(&servers, "bob").await);
    ann.cut();
    servers.settle().await;
    assert_eq!(sessions(&servers), 1);
    let queued: usize = bob.request("connector.h.flood", &1).await.unwrap();
    assert_eq!(queued, 1);
    assert!(matches!(ann.expect_end().await, CloseKind::Io { .. }));
    servers.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn events_of_a_session_come_in_order_however_long_their_listeners_take() {
    let log: Arc<Mutex<Vec<String>>> = Arc::default();
    let mut app = connector();
    let noted = Arc::clone(&log);
    app.on_session_bound(move |_, event| {
        let noted = Arc::clone(&noted);
        async move {
            pass(Duration::from_secs(5)).await;
            noted
                .lock()
                .unwrap()
                .push(format!("bound {}", event.uid().unwrap()));
        }
    });
    let noted = Arc::clone(&log);
    app.on_session_closed(move |_, event| {
        let line = format!("closed {}", event.uid().unwrap());
        noted.lock().unwrap().push(line);
        async {}
    });
    let servers = started(app).await;
    let ann = joined(&servers, "ann").await;
    ann.cut();
    servers.settle().await;
    assert_eq!(*log.lock().unwrap(), [""; 0]);
    servers.pass(Duration::from_secs(6)).await;
    assert_eq!(*log.lock().unwrap(), ["bound ann", "closed ann"]);
    servers.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_notifies_clients_and_ends() {
    let mut app = connector();
    let closed = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&closed);
    app.on_session_closed(move |_, event| {
        assert!(event.reason().is_some());
        counted.fetch_add(1, Ordering::Relaxed);
        async {}
    });
    let servers = started(app).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(servers.connect(FRONT).await.unwrap());
    }
    let begin = Instant::now();
    servers.shutdown().await;
    assert!(
        begin.elapsed() < Duration::from_secs(4),
        "{:?}",
        begin.elapsed()
    );
    for client in clients {
        let kind = client.expect_end().await;
        assert!(matches!(&kind, CloseKind::Kicked { .. }), "{kind:?}");
    }
    assert_eq!(closed.load(Ordering::Relaxed), 20, "each exactly once");
}

#[tokio::test(start_paused = true)]
async fn clients_are_described_by_address_and_handshake() {
    let mut app = connector();
    app.on_handshake(
        async |info: HandshakeInfo| match info.user()["token"].as_str() {
            Some("good") => Ok(Some(json!({"from": info.address().ip().to_string()}))),
            _ => Err(HandshakeReject::new("no token")),
        },
    );
    let servers = started(app).await;
    let with = |token: &str| Client::builder().user(json!({"token": token}));
    let client = servers.connect_with(FRONT, &with("good")).await.unwrap();
    assert_eq!(client.handshake_user().unwrap()["from"], "10.0.0.1");
    assert_eq!(client.address().ip().to_string(), "10.0.0.1");
    assert!(servers.connect_with(FRONT, &with("bad")).await.is_err());
    assert!(servers.connect(FRONT).await.is_err());
    servers.shutdown().await;
}

/// A client that falls silent is closed after its heartbeats are due, one that lives is not.
#[tokio::test(start_paused = true)]
async fn heartbeats_decide_between_silent_and_quiet() {
    let mut app = connector();
    app.set(CodecConfig::default().heartbeat(Duration::from_secs(3)));
    let servers = started(app).await;
    let quiet = servers.connect(FRONT).await.unwrap();
    servers.pass(Duration::from_secs(600)).await;
    assert_eq!(sessions(&servers), 1);
    assert_eq!(quiet.close_kind(), None);
    let _: Value = quiet.request("connector.h.echo", &json!({})).await.unwrap();
    servers.shutdown().await;
}

/// Bytes of the application's own are pushed as they are, and a handler says in Pitaya's words that it has no value.
#[tokio::test(start_paused = true)]
async fn bytes_are_pushed_as_they_are() {
    let mut app = connector();
    app.route("h.raw", async |session: SessionView| {
        let body = Body(vec![0xff, 0, b'{'].into());
        session.push_message("onRaw", &body).await?;
        let empty = session.push_message("onRaw", &Body::default()).await;
        assert!(empty.is_err());
        let none: Option<Json<u8>> = None;
        none.ok_or_else(HandlerError::no_value)
    });
    let servers = started(app).await;
    let client = servers.connect(FRONT).await.unwrap();
    let mut raw = client.subscribe("onRaw");
    let refused = client.request::<_, Value>("connector.h.raw", &()).await;
    assert!(refused.is_err());
    let pushed = raw.recv().await.unwrap();
    assert_eq!(&pushed.body()[..], [0xff, 0, b'{']);
    servers.shutdown().await;
}

#[derive(serde::Deserialize)]
struct Token {
    name: String,
    seconds: Option<u64>,
}

/// A frontend whose clients log in with their handshake, and a backend behind it.
async fn with_logins(policy: SessionConfig) -> TestServers {
    let mut app = App::new("connector", FRONT);
    app.listen("127.0.0.1:3010").set(policy);
    // So that no client is closed as silent.
    app.set(CodecConfig::default().heartbeat(Duration::from_secs(30)));
    app.on_handshake(async |info: HandshakeInfo| {
        let Ok(token) = info.user_as::<Token>() else {
            return Ok(Accept::new());
        };
        let uid = Uid::new(token.name).map_err(|_| HandshakeReject::new("no name"))?;
        let accept = Accept::new()
            .bind(uid)
            .settings([("level", 7)])
            .reply(json!({"motd": "welcome"}));
        Ok(match token.seconds {
            Some(seconds) => accept.expires_at(SystemTime::now() + Duration::from_secs(seconds)),
            None => accept,
        })
    });
    app.before_bind(async |_, _, uid: Uid| {
        // Long enough for a first request to come before it is done.
        pass(Duration::from_millis(50)).await;
        match uid.as_str() {
            "mallory" => Err(HandlerError::new("BANNED", "this account is closed")),
            _ => Ok(()),
        }
    });
    app.require_user().except("h.hello").except("game.h.hello");
    app.route("h.hello", async || "hello");
    app.route("h.who", async |User(uid): User, session: SessionView| {
        Json((uid, session.get_as::<u32>("level")))
    });
    app.route("h.again", refresh);
    let mut game = App::new("game", "game-1");
    game.route("h.hello", async || "hello");
    game.route("h.who", async |User(uid): User| Json(uid));
    game.route("h.again", refresh);
    game.route("h.claims", async |session: SessionView| {
        let claims = session.claims().await?.unwrap_or_default();
        let name = claims.user_as::<Token>().map(|token| token.name).ok();
        let seen = (claims.kind.clone(), claims.version.clone(), name);
        Ok::<_, HandlerError>(Json(seen))
    });
    TestServers::start(Servers::new().add(app).add(game))
        .await
        .unwrap()
}

/// The client brings a fresh token.
async fn refresh(
    session: SessionView,
    Json(seconds): Json<Option<u64>>,
) -> Result<(), HandlerError> {
    let until = seconds.map(|seconds| SystemTime::now() + Duration::from_secs(seconds));
    Ok(session.set_expires_at(until).await?)
}

fn as_user(name: &str) -> shaddock_client::ClientBuilder {
    Client::builder()
        .client("js-websocket", "0.0.7")
        .user(json!({"name": name}))
}

fn code_of<T: std::fmt::Debug>(answer: Result<T, RequestError>) -> String {
    match answer {
        Err(RequestError::Server(error)) => error.code().to_owned(),
        other => panic!("{other:?}"),
    }
}

fn kicked(kind: CloseKind) -> String {
    match kind {
        CloseKind::Kicked { reason } => reason.unwrap_or_default(),
        other => panic!("{other}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_handshake_logs_in_before_the_first_message() {
    let servers = with_logins(SessionConfig::default()).await;
    let ann = servers.connect_with(FRONT, &as_user("ann")).await.unwrap();
    assert_eq!(ann.handshake_user().unwrap()["motd"], "welcome");
    // While the bind is still under way.
    let who: Value = ann.request("connector.h.who", &json!({})).await.unwrap();
    assert_eq!(who, json!(["ann", 7]));
    let who: Value = ann.request("game.h.who", &json!({})).await.unwrap();
    assert_eq!(who, "ann");
    let seen: Value = ann.request("game.h.claims", &json!({})).await.unwrap();
    assert_eq!(seen, json!(["js-websocket", "0.0.7", "ann"]));
    let refused = servers
        .connect_with(FRONT, &as_user("mallory"))
        .await
        .unwrap();
    assert_eq!(kicked(refused.expect_end().await), "this account is closed");
    servers.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn requests_before_login_are_rejected() {
    let servers = with_logins(SessionConfig::default()).await;
    let builder = Client::builder().dialect(shaddock_client::Dialect::Pitaya);
    let stranger = servers.connect_with(FRONT, &builder).await.unwrap();
    for route in ["connector.h.hello", "h.hello", "game.h.hello"] {
        let hello: String = stranger.request(route, &json!({})).await.unwrap();
        assert_eq!(hello, "hello", "{route} is an exception");
    }
    for route in [
        "connector.h.who",
        "h.who",
        "game.h.who",
        "game.h.again",
        "nowhere.h.x",
    ] {
        let answer = stranger.request::<_, Value>(route, &json!(1)).await;
        assert_eq!(code_of(answer), "PIT-401", "{route}");
    }
    servers.shutdown().await;
    for (exception, named) in [
        ("h.ehco", "`connector.h.ehco`"),
        ("connector.h.ehco", "`connector.h.ehco`"),
        ("hello", "except(\"hello\")"),
        ("", "except(\"\")"),
        ("h.", "except(\"connector.h.\")"),
        ("game..hello", "except(\"game..hello\")"),
        ("game.h. ", "except(\"game.h. \")"),
        ("game.h.hello.now", "except(\"game.h.hello.now\")"),
    ] {
        let mut app = connector();
        app.require_user().except(exception);
        let Err(error) = TestServers::start(Servers::new().add(app)).await else {
            panic!("it started")
        };
        assert!(error.to_string().contains(named), "{error}");
    }
}

/// What listens as long as the app runs has a task of its own; an app that cannot have it does not start.
#[tokio::test(start_paused = true)]
async fn an_app_that_may_not_listen_does_not_start() {
    for max_tasks in [0, 1, 2, 100] {
        let mut app = connector();
        app.set(AppConfig::default().max_tasks(max_tasks));
        app.on_cluster_session(Interest::all(), |_, _| async {});
        app.on_topic("", |_, _| async {});
        match TestServers::start(Servers::new().add(app)).await {
            Ok(servers) => {
                assert_eq!(max_tasks, 100);
                servers.shutdown().await;
            }
            Err(error) => {
                assert!(max_tasks < 100, "{error}");
                assert!(
                    error.to_string().contains("`handlers.max_tasks`"),
                    "{error}"
                );
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_login_obeys_the_policy_of_sessions() {
    let policy =
        |on_conflict| SessionConfig::default().sessions_per_user(SessionsPerUser::One(on_conflict));
    let servers = with_logins(policy(Conflict::RejectNew)).await;
    let first = servers.connect_with(FRONT, &as_user("ann")).await.unwrap();
    let _: Value = first.request("connector.h.who", &json!({})).await.unwrap();
    let second = servers.connect_with(FRONT, &as_user("ann")).await.unwrap();
    let told = kicked(second.expect_end().await);
    assert!(told.starts_with("singleSession is enabled"), "{told}");
    servers.shutdown().await;
    let servers = with_logins(policy(Conflict::ReplaceOld)).await;
    let first = servers.connect_with(FRONT, &as_user("ann")).await.unwrap();
    let _: Value = first.request("connector.h.who", &json!({})).await.unwrap();
    let second = servers.connect_with(FRONT, &as_user("ann")).await.unwrap();
    assert_eq!(kicked(first.expect_end().await), "replaced");
    let _: Value = second.request("connector.h.who", &json!({})).await.unwrap();
    servers.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_session_ends_with_its_token_unless_a_fresh_one_comes() {
    let minute = |name: &str| {
        let user = json!({"name": name, "seconds": 60});
        Client::builder().user(user)
    };
    let servers = with_logins(SessionConfig::default()).await;
    let begin = Instant::now();
    let lazy = servers.connect_with(FRONT, &minute("ann")).await.unwrap();
    // A new token, once asked for at the frontend and once at a backend, and one without an end.
    let mut fresh = Vec::new();
    for (name, route, seconds) in [
        ("bob", "connector.h.again", Some(120)),
        ("carol", "game.h.again", Some(120)),
        ("dave", "game.h.again", None),
    ] {
        let client = servers.connect_with(FRONT, &minute(name)).await.unwrap();
        let _: Value = client.request(route, &json!(seconds)).await.unwrap();
        fresh.push(client);
    }
    assert_eq!(kicked(lazy.expect_end().await), "expired");
    let lived = begin.elapsed().as_secs();
    assert!((59..=61).contains(&lived), "{lived} s");
    assert_eq!(sessions(&servers), 3);
    servers.pass(Duration::from_secs(70)).await;
    for client in &fresh[..2] {
        assert_eq!(kicked(client.expect_end().await), "expired");
    }
    servers.pass(Duration::from_secs(3600)).await;
    assert_eq!((sessions(&servers), fresh[2].close_kind()), (1, None));
    let service = servers.app(FRONT).session_service().unwrap().statistics();
    assert!(
        service.closed.contains(&("expired", 3)),
        "{:?}",
        service.closed
    );
    servers.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn timers_run_until_they_are_ended() {
    let ran: Arc<[AtomicUsize; 3]> = Arc::default();
    let mut app = connector();
    let counted = Arc::clone(&ran);
    app.every("count", Duration::from_millis(100), move |_| {
        counted[0].fetch_add(1, Ordering::Relaxed);
        async {}
    });
    let counted = Arc::clone(&ran);
    app.every("panic", Duration::from_secs(1), move |_| {
        counted[1].fetch_add(1, Ordering::Relaxed);
        async { panic!("expected in this test") }
    });
    let servers = started(app).await;
    let app = servers.app(FRONT).clone();
    let counted = Arc::clone(&ran);
    let slow = app.every("slow", Duration::from_secs(1), move |_| {
        counted[2].fetch_add(1, Ordering::Relaxed);
        pass(Duration::from_millis(2500))
    });
    let slow = slow.unwrap();
    servers.pass(Duration::from_millis(10_050)).await;
    let counts = || [0, 1, 2].map(|n: usize| ran[n].load(Ordering::Relaxed));
    // A slow one leaves out the runs that it overlaps: at 1, 4, 7 and 10 s.
    assert_eq!(counts(), [100, 10, 4]);
    assert_eq!(app.stats().panics.get(), 10, "and goes on");
    slow.abort();
    servers.pass(Duration::from_secs(10)).await;
    assert_eq!(counts(), [200, 20, 4]);
    assert!(slow.is_finished());
    servers.shutdown().await;
    let after = counts();
    pass(Duration::from_secs(10)).await;
    assert_eq!(counts(), after);
}

#[tokio::test(start_paused = true)]
async fn work_of_a_session_ends_with_it() {
    /// Tells when it is dropped.
    struct Ended(Arc<AtomicUsize>);
    impl Drop for Ended {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let ended: Arc<AtomicUsize> = Arc::default();
    let mut app = connector();
    let counted = Arc::clone(&ended);
    app.route("h.watch", move |session: FrontendSession| {
        let (guard, view) = (Ended(Arc::clone(&counted)), session.clone());
        let spawned = session.spawn("watch", async move {
            let _guard = guard;
            loop {
                pass(Duration::from_secs(1)).await;
                let _ = view.push_message("onTick", &"tick").await;
            }
        });
        async move {
            spawned?;
            Ok::<_, HandlerError>(())
        }
    });
    app.route("h.once", async |session: FrontendSession| {
        // More often than a session may have listeners: each is taken away again.
        for _ in 0..200 {
            let task = session.spawn("once", async {})?;
            while !task.is_finished() {
                tokio::task::yield_now().await;
            }
        }
        Ok::<_, HandlerError>(())
    });
    let servers = started(app).await;
    let ann = servers.connect(FRONT).await.unwrap();
    let bob = servers.connect(FRONT).await.unwrap();
    for client in [&ann, &bob] {
        let _: Value = client
            .request("connector.h.watch", &json!({}))
            .await
            .unwrap();
        assert_eq!(client.expect_push("onTick").await, "tick");
    }
    let _: Value = bob.request("connector.h.once", &json!({})).await.unwrap();
    ann.cut();
    servers.settle().await;
    assert_eq!(ended.load(Ordering::Relaxed), 1, "hers, and not his");
    assert_eq!(bob.expect_push("onTick").await, "tick");
    servers.shutdown().await;
    assert_eq!(ended.load(Ordering::Relaxed), 2);
}

/// Where the choice of a server has to be waited for, a session's messages keep their order all the same.
#[tokio::test(start_paused = true)]
async fn messages_keep_their_order_behind_a_choice_that_waits() {
    let served = Arc::new(Mutex::new(Vec::new()));
    let mut front = connector();
    front.async_route_fn("chat", async |_: AppHandle, request: RoutingRequest| {
        let millis: u64 = serde_json::from_slice(&request.body).unwrap();
        pass(Duration::from_millis(millis)).await;
        Ok(request.server("chat-1"))
    });
    let mut chat = App::new("chat", "chat-1");
    let log = Arc::clone(&served);
    chat.route("room.say", move |Json(millis): Json<u64>| {
        log.lock().unwrap().push(millis);
        std::future::ready(Json(millis))
    });
    let servers = TestServers::start(Servers::new().add(front).add(chat))
        .await
        .unwrap();
    let client = servers.connect(FRONT).await.unwrap();
    let say = async |millis: u64| client.request::<_, u64>("chat.room.say", &millis).await;
    let (slow, quick, last) = tokio::join!(say(1000), say(1), say(20));
    assert_eq!(
        (slow.unwrap(), quick.unwrap(), last.unwrap()),
        (1000, 1, 20)
    );
    assert_eq!(*served.lock().unwrap(), [1000, 1, 20]);
}

#[tokio::test(start_paused = true)]
async fn registrations_end_with_the_app_though_they_hold_its_services() {
    type Services = std::sync::OnceLock<(SessionService, Arc<dyn Membership>)>;
    struct Holds(Arc<Services>);
    impl Filter for Holds {
        fn after(&self, _: &mut RequestContext, _: &mut Outcome) {
            assert!(self.0.get().is_some());
        }
    }
    let services = Arc::new(Services::new());
    let held = Arc::downgrade(&services);
    let mut app = connector();
    let [by_handler, by_remote, by_hook] = std::array::from_fn(|_| Arc::clone(&services));
    app.handle("h.held", move || {
        let by = Arc::clone(&by_handler);
        async move { Json(by.get().is_some()) }
    });
    app.remote("r.held", move || {
        let by = Arc::clone(&by_remote);
        async move { Json(by.get().is_some()) }
    });
    app.on_session_closed(move |_, _| {
        let by = Arc::clone(&by_hook);
        async move { assert!(by.get().is_some()) }
    });
    app.filter(Holds(Arc::clone(&services)));
    let servers = started(app).await;
    let handle = servers.app(FRONT);
    let sessions = handle.session_service().unwrap().clone();
    let membership = Arc::clone(handle.membership().unwrap());
    assert!(services.set((sessions, membership)).is_ok());
    drop(services);
    let client = joined(&servers, "ann").await;
    let is_held: bool = client
        .request("connector.h.held", &json!({}))
        .await
        .unwrap();
    assert!(is_held);
    let by_rpc = servers.app(FRONT).rpc("connector.r.held");
    assert!(by_rpc.call::<bool>(&()).await.unwrap());
    servers.shutdown().await;
    drop(client);
    let gone = async {
        while held.strong_count() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let gone = tokio::time::timeout(Duration::from_secs(60), gone).await;
    assert!(gone.is_ok(), "{} owners are left", held.strong_count());
}
