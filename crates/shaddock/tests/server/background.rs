//! Work beside requests and who it belongs to; handlers that hold their thread; answers that JavaScript takes for false.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use shaddock::{
    app::{SpawnError, Task},
    config::Sources,
    error::HandlerError,
    filter::AsyncFilter,
    launch::Launcher,
    prelude::*,
    request::RequestContext,
    session::{Conflict, SessionsPerUser, Setting},
    testing::TestServers,
};
use shaddock_client::{Client, Dialect};
use shaddock_net::clock::hold_up;

const FRONT: &str = "connector-1";

fn connector() -> App {
    let mut app = App::new("connector", FRONT);
    app.listen("127.0.0.1:3010");
    app
}

async fn started(app: App) -> TestServers {
    TestServers::start(Servers::new().add(app)).await.unwrap()
}

/// Tells when it is dropped.
struct Ended(Arc<AtomicUsize>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(start_paused = true)]
async fn work_of_a_channel_ends_with_it() {
    let servers = started(connector()).await;
    let channels = servers.app(FRONT).channels();
    let ended: Arc<AtomicUsize> = Arc::default();
    let spawn = |channel: &Channel| -> Result<Task, SpawnError> {
        let guard = Ended(Arc::clone(&ended));
        channel.spawn("world", async move {
            let _guard = guard;
            std::future::pending::<()>().await;
        })
    };
    let ended = || ended.load(Ordering::Relaxed);
    let (one, other) = (
        channels.create("one").unwrap(),
        channels.create("other").unwrap(),
    );
    let tasks = [&one, &one, &other].map(|channel| spawn(channel).unwrap());
    servers.settle().await;
    assert_eq!(ended(), 0);
    tasks[0].abort();
    servers.settle().await;
    assert_eq!(ended(), 1, "by its handle");
    channels.destroy("one");
    servers.settle().await;
    assert_eq!(ended(), 2, "with its channel, and not with another one");
    assert_eq!(
        spawn(&one).map(drop),
        Err(SpawnError::ChannelDestroyed),
        "too late"
    );
    servers.settle().await;
    assert_eq!(ended(), 3, "what was not taken is dropped");
    // A new channel of that name is another one.
    spawn(&channels.create("one").unwrap()).unwrap();
    servers.settle().await;
    assert_eq!(ended(), 3);
    servers.shutdown().await;
    assert_eq!(ended(), 5, "with the app");
}

/// Tasks that end by themselves leave nothing behind: a channel may have any number of them, one after the other.
/// Not even an error in the log: a stop takes no longer because of a client that says nothing.
#[tokio::test(start_paused = true)]
async fn a_silent_client_does_not_hold_up_a_stop() {
    let servers = started(connector()).await;
    let silent = servers.connect_raw(FRONT);
    let _client = servers.connect(FRONT).await.unwrap();
    let begun = tokio::time::Instant::now();
    servers.shutdown().await;
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(4), "{took:?}");
    drop(silent);
}

#[tokio::test(start_paused = true)]
async fn work_that_ends_is_forgotten_by_its_channel() {
    let servers = started(connector()).await;
    let room = servers.app(FRONT).channels().create("room").unwrap();
    let counted: Arc<AtomicUsize> = Arc::default();
    let bound = servers.app(FRONT).config().max_tasks;
    for _ in 0..2 * bound {
        let counted = Arc::clone(&counted);
        let done = async move {
            counted.fetch_add(1, Ordering::Relaxed);
        };
        let task = room.spawn("short", done).unwrap();
        while !task.is_finished() {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(counted.load(Ordering::Relaxed), 2 * bound);
    servers.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn work_of_the_app_can_be_ended() {
    let servers = started(connector()).await;
    let ended: Arc<AtomicUsize> = Arc::default();
    let guard = Ended(Arc::clone(&ended));
    let task = servers.app(FRONT).spawn("endless", async move {
        let _guard = guard;
        std::future::pending::<()>().await;
    });
    let task = task.unwrap();
    assert!(!task.is_finished());
    task.abort();
    servers.settle().await;
    assert!(task.is_finished());
    assert_eq!(ended.load(Ordering::Relaxed), 1);
    servers.shutdown().await;
}

/// Lets so much of the test's time pass: the clock is paused.
async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

/// A filter that waits, and then holds its thread.
struct Waits(Duration);

impl AsyncFilter for Waits {
    async fn before(&self, request: &mut RequestContext) -> Result<(), HandlerError> {
        if request.route().as_str().ends_with("filtered") {
            pass(self.0).await;
        }
        Ok(())
    }
}

async fn panics() {
    panic!("expected in this test")
}

const LONG: Duration = Duration::from_millis(100);
const SHORT: Duration = Duration::from_millis(99);

#[tokio::test(start_paused = true)]
async fn a_handler_that_holds_its_thread_is_counted_and_one_that_waits_is_not() {
    let mut app = connector();
    let launcher = Launcher::new(Sources::default()).unwrap();
    launcher.configure(&mut app);
    app.async_filter(Waits(LONG));
    app.route("hold.long", async || hold_up(LONG));
    app.route("hold.short", async || hold_up(SHORT));
    app.route("hold.filtered", async || hold_up(SHORT));
    app.route("hold.waiting", async || pass(10 * LONG).await);
    app.route("hold.after", async || {
        pass(LONG).await;
        hold_up(LONG);
    });
    app.route("hold.between", async || {
        pass(LONG).await;
        hold_up(LONG);
        pass(LONG).await;
        hold_up(SHORT);
    });
    app.route("hold.apart", async || hold_up(LONG)).offload();
    app.route("hold.panic", panics);
    let servers = started(app).await;
    let client = servers.connect(FRONT).await.unwrap();
    let stats = servers.app(FRONT).stats();
    let mut expected = 0;
    for (route, held) in [
        ("long", 1),
        ("short", 0),
        ("filtered", 0),
        ("waiting", 0),
        ("after", 1),
        ("between", 1),
        ("apart", 1),
        ("panic", 0),
        ("long", 1),
    ] {
        let answer: Value = client
            .request(&format!("connector.hold.{route}"), &json!({}))
            .await
            .unwrap_or_default();
        assert!(answer.is_null() || answer == json!({}), "{answer}");
        expected += held;
        assert_eq!(stats.blocked.get(), expected, "{route}");
    }
    let operations = launcher.operations();
    operations.running(std::slice::from_ref(servers.app(FRONT)));
    let text = shaddock::metrics::render(&operations);
    for (metric, route, value) in [
        ("blocked", "long", 2),
        ("blocked", "between", 1),
        ("blocked", "waiting", 0),
        ("panics", "panic", 1),
        ("panics", "long", 0),
        ("errors", "panic", 1),
    ] {
        let line = format!(
            "shaddock_route_{metric}_total{{server=\"{FRONT}\",server_type=\"connector\",route=\"hold.{route}\"}} {value}\n"
        );
        assert!(text.contains(&line), "no {line}{text}");
    }
    servers.shutdown().await;
}

#[derive(Serialize, Deserialize, Debug, PartialEq)]
struct Level(u32);

impl Setting for Level {
    const KEY: &'static str = "level";
}

async fn level_up(mut session: SessionView) -> Result<Json<u32>, HandlerError> {
    let Level(level) = session.setting()?.unwrap_or(Level(0));
    session.push_setting(&Level(level + 1)).await?;
    assert_eq!(session.setting()?, Some(Level(level + 1)));
    Ok(Json(level + 1))
}

async fn spoil(mut session: SessionView) -> Result<(), HandlerError> {
    session.set("level", "high");
    session.push("level").await?;
    let wrong = session.setting::<Level>().unwrap_err().to_string();
    assert!(wrong.contains("`level`"), "{wrong}");
    Ok(())
}

/// On the session's own server and on another one.
#[tokio::test(start_paused = true)]
async fn settings_have_types() {
    let mut front = connector();
    let mut back = App::new("game", "game-1");
    for app in [&mut front, &mut back] {
        app.route("level.up", level_up);
        app.route("level.spoil", spoil);
    }
    let servers = Servers::new().add(front).add(back);
    let servers = TestServers::start(servers).await.unwrap();
    let client = servers.connect(FRONT).await.unwrap();
    for (n, server) in ["connector", "game", "connector", "game"]
        .iter()
        .enumerate()
    {
        let route = format!("{server}.level.up");
        let level: usize = client.request(&route, &json!({})).await.unwrap();
        assert_eq!(level, n + 1, "{server}");
    }
    for server in ["game", "connector"] {
        let route = format!("{server}.level.spoil");
        let spoilt: Value = client.request(&route, &json!({})).await.unwrap();
        assert_eq!(spoilt, json!({}), "{server}");
        let route = format!("{server}.level.up");
        let level: Result<u32, _> = client.request(&route, &json!({})).await;
        assert!(level.is_err(), "{server}");
    }
    servers.shutdown().await;
}

/// What a program changes of what was read from a file is all that changes.
#[test]
fn a_change_of_configuration_keeps_the_rest() {
    let sources = Sources::default().flag("session.max_settings=7");
    let launcher = Launcher::new(sources).unwrap();
    let mut app = connector();
    launcher.configure(&mut app);
    app.modify(|sessions: &mut SessionConfig| {
        sessions.sessions_per_user = SessionsPerUser::One(Conflict::RejectNew);
    });
    let sessions = app.get::<SessionConfig>().unwrap();
    assert_eq!(
        (sessions.sessions_per_user.is_one(), sessions.max_settings),
        (true, 7)
    );
    // Also where nothing was read.
    let mut app = connector();
    app.modify(|sessions: &mut SessionConfig| {
        sessions.sessions_per_user = SessionsPerUser::One(Conflict::RejectNew);
    });
    assert!(
        app.get::<SessionConfig>()
            .unwrap()
            .sessions_per_user
            .is_one()
    );
}

async fn answered<T: DeserializeOwned + PartialEq + std::fmt::Debug>(
    client: &Client,
    route: &str,
    expected: T,
) {
    let answer: T = client
        .request(&format!("connector.{route}"), &json!({}))
        .await
        .unwrap();
    assert_eq!(answer, expected, "{route}");
}

#[tokio::test(start_paused = true)]
async fn falsy_values_of_javascript_are_answered_like_pomelo() {
    let mut app = connector();
    app.route("n.zero", async || Json(0));
    app.route("n.no", async || Json(false));
    app.route("n.empty", async || Json(""));
    app.route("n.null", async || Json(None::<u8>));
    app.route("n.nothing", async || ());
    app.route("n.nobody", async || None::<Json<u8>>);
    app.route("n.float", async || Json(0.0));
    app.route("n.seven", async || Json(7));
    app.route("n.object", async || Json(json!({})));
    let servers = started(app).await;
    for dialect in [Dialect::Pomelo, Dialect::Pitaya] {
        let builder = Client::builder().dialect(dialect);
        let client = servers.connect_with(FRONT, &builder).await.unwrap();
        // What every client reads.
        let raw = client.request_raw("connector.n.zero", "{}").await.unwrap();
        assert_eq!(raw, "{}");
        answered(&client, "n.zero", 0).await;
        answered(&client, "n.zero", 0_u64).await;
        answered(&client, "n.no", false).await;
        answered(&client, "n.empty", String::new()).await;
        answered(&client, "n.null", None::<u8>).await;
        answered(&client, "n.nothing", ()).await;
        answered(&client, "n.nobody", None::<u8>).await;
        answered(&client, "n.float", 0.0).await;
        answered(&client, "n.seven", 7).await;
        answered(&client, "n.object", json!({})).await;
        let wrong = client
            .request::<_, Vec<u8>>("connector.n.zero", &json!({}))
            .await;
        assert!(wrong.is_err(), "no list stands for nothing");
    }
    servers.shutdown().await;
}
