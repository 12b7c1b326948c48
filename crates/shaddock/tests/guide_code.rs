//! The code of guides that is longer than a few lines. The guides have parts of it, word for word (`tests/guides.rs` compares), so what they show
//! compiles and passes, with nothing hidden.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(dead_code, reason = "a `main` of a guide is not called here")]
#![allow(
    clippy::unused_async,
    reason = "a handler is async, whether or not it waits"
)]

/// `docs/first-server.md`, steps 5 and 6.
#[rustfmt::skip]
mod first_server {
    use serde::{Deserialize, Serialize};
    use shaddock::prelude::*;

    #[derive(Deserialize)]
    struct Enter { name: String }

    /// On the connector: binds the session to a user.
    async fn enter(mut session: SessionView, Json(enter): Json<Enter>) -> Result<(), HandlerError> {
        session.bind(Uid::new(enter.name)?).await?;
        Ok(())
    }

    #[derive(Deserialize)]
    struct Room { room: String }

    /// On the chat server: adds the user to a room and returns its members.
    async fn join(session: SessionView, channels: Channels, Json(wanted): Json<Room>) -> Result<Json<Vec<Uid>>, HandlerError> {
        let room = channels.create(&wanted.room)?;
        room.join(&session).await?;
        Ok(Json(room.members().await?.uids()))
    }

    #[derive(Deserialize)]
    struct Say { room: String, text: String }

    #[derive(Serialize)]
    struct Said<'a> { from: &'a str, text: &'a str }

    /// On the chat server: pushes the text to all members of the room.
    async fn say(User(from): User, channels: Channels, Json(say): Json<Say>) -> Result<(), HandlerError> {
        let room = channels.get(&say.room).ok_or_else(|| HandlerError::not_found("no such room"))?;
        room.push_message("onSay", &Said { from: from.as_str(), text: &say.text }).await?;
        Ok(())
    }

    fn servers(address: &str) -> Servers {
        let mut connector = App::new("connector", "connector-1");
        connector.listen(address);
        connector.require_user().except("entryHandler.enter");
        connector.handle("entryHandler.enter", enter);

        let mut chat = App::new("chat", "chat-1");
        chat.handle("roomHandler.join", join);
        chat.handle("roomHandler.say", say);

        Servers::new().add(connector).add(chat)
    }

    fn main() -> Result<(), StartError> {
        servers("127.0.0.1:3010").run_blocking()
    }

    #[cfg(test)]
    mod tests {
        use serde_json::{Value, json};
        use shaddock_client::Client;

        #[tokio::test]
        async fn two_words_in_a_room() -> Result<(), Box<dyn std::error::Error>> {
            // Port 0 selects a free port.
            let running = super::servers("127.0.0.1:0").workers(1).start().await?;
            let address = running.address("connector-1").ok_or("no listener")?;

            let ann = Client::connect(&format!("tcp://{address}")).await?;
            let mut said = ann.subscribe("onSay");
            ann.request::<_, ()>("connector.entryHandler.enter", &json!({"name": "ann"})).await?;
            let members: Vec<String> = ann.request("chat.roomHandler.join", &json!({"room": "lobby"})).await?;
            assert_eq!(members, ["ann"]);

            ann.notify("chat.roomHandler.say", &json!({"room": "lobby", "text": "hello"})).await?;
            let push = said.recv().await.ok_or("no push")?;
            assert_eq!(push.json::<Value>()?, json!({"from": "ann", "text": "hello"}));

            running.shutdown().await;
            Ok(())
        }
    }
}

/// `docs/testing.md`
#[rustfmt::skip]
mod testing {
    use std::{sync::Arc, time::Duration};

    use serde_json::{Value, json};
    use shaddock::{extract::State, prelude::*, testing::TestServers};
    use shaddock_client::Client;

    /// The gold of a player.
    struct Purse(std::sync::Mutex<u32>);

    async fn buy(State(purse): State<Purse>, Json(price): Json<u32>) -> Result<Json<u32>, HandlerError> {
        let mut gold = purse.0.lock().unwrap();
        *gold = gold.checked_sub(price).ok_or_else(|| HandlerError::new("SHOP-1", "not enough gold"))?;
        Ok(Json(*gold))
    }

    #[tokio::test]
    async fn a_purse_gives_what_it_has() {
        let purse = State(Arc::new(Purse(10.into())));
        assert_eq!(buy(purse.clone(), Json(7)).await.unwrap().0, 3);
        assert_eq!(buy(purse, Json(7)).await.unwrap_err().code(), "SHOP-1");
    }

    async fn log_in(info: HandshakeInfo) -> Result<Accept, HandshakeReject> {
        let name: String = info.user_as().map_err(|_| HandshakeReject::new("no name"))?;
        Ok(Accept::new().bind(Uid::new(name).map_err(|_| HandshakeReject::new("not a name"))?))
    }

    async fn enter(session: SessionView, channels: Channels) -> Result<(), HandlerError> {
        channels.create("room")?.join(&session).await?;
        Ok(())
    }

    async fn tell(channels: Channels, Json(text): Json<String>) -> Result<(), HandlerError> {
        let room = channels.get("room").ok_or_else(|| HandlerError::not_found("no room"))?;
        room.push_message("onTell", &text).await?;
        Ok(())
    }

    async fn slow() {
        tokio::time::sleep(Duration::from_secs(60)).await;
    }

    async fn started() -> TestServers {
        let mut front = App::new("connector", "connector-1");
        front.listen("127.0.0.1:3010");
        front.on_handshake(log_in).require_user();
        let mut room = App::new("room", "room-1");
        room.handle("room.enter", enter);
        room.handle("room.tell", tell);
        room.handle("room.slow", slow);
        TestServers::start(Servers::new().add(front).add(room)).await.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn members_of_the_room_receive_the_push() {
        let servers = started().await;
        assert!(servers.connect("connector-1").await.is_err(), "a client without a name is rejected");
        let named = |name: &str| Client::builder().user(json!(name));
        let ann = servers.connect_with("connector-1", &named("ann")).await.unwrap();
        let bob = servers.connect_with("connector-1", &named("bob")).await.unwrap();
        for client in [&ann, &bob] {
            client.request::<_, ()>("room.room.enter", &json!({})).await.unwrap();
        }
        ann.notify("room.room.tell", &"hello").await.unwrap();
        assert_eq!(bob.expect_push("onTell").await, "hello");

        // The network of Bob's phone fails: the membership ends with the session.
        bob.cut();
        servers.settle().await;
        let room = servers.app("room-1").channels().get("room").unwrap();
        assert_eq!(room.members().await.unwrap().uids(), [Uid::new("ann").unwrap()]);
        servers.shutdown().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_handler_that_takes_a_minute_is_too_late() {
        let servers = started().await;
        let ann = Client::builder().user(json!("ann")).request_timeout(None);
        let ann = servers.connect_with("connector-1", &ann).await.unwrap();
        let began = tokio::time::Instant::now();
        let answer = ann.request::<_, Value>("room.room.slow", &json!({})).await;
        assert!(answer.is_err());
        // 30 seconds of virtual time, which pass immediately.
        assert_eq!(began.elapsed().as_secs(), 30);
        servers.shutdown().await;
    }
}

/// `docs/timers.md`
#[rustfmt::skip]
mod timers {
    use std::{
        sync::atomic::{AtomicU64, Ordering},
        time::Duration,
    };

    use serde_json::json;
    use shaddock::{app::BoxError, prelude::*, testing::TestServers};

    /// The state of the world.
    #[derive(Default)]
    struct World {
        ticks: AtomicU64,
    }

    async fn tick(app: AppHandle) {
        let Some(world) = app.get::<World>() else { return };
        let tick = world.ticks.fetch_add(1, Ordering::Relaxed) + 1;
        let all = BroadcastOptions::all();
        if let Err(error) = app.channels().broadcast("connector", "onTick", &tick, all).await {
            eprintln!("the tick was not pushed: {error}");
        }
    }

    /// A round ends when its room is destroyed.
    async fn open(channels: Channels) -> Result<(), HandlerError> {
        let room = channels.create("round")?;
        let round = room.clone();
        room.spawn("round", async move {
            tokio::time::sleep(Duration::from_secs(60)).await;
            let _ = round.push_message("onOver", &"time is up").await;
            round.destroy();
        })?;
        Ok(())
    }

    /// Hints for a player end with their session.
    async fn hints(session: FrontendSession) -> Result<(), HandlerError> {
        let view = session.clone();
        session.spawn("hints", async move {
            for hint in ["look left", "look right"] {
                tokio::time::sleep(Duration::from_secs(5)).await;
                if view.push_message("onHint", &hint).await.is_err() {
                    return;
                }
            }
        })?;
        Ok(())
    }

    /// Blocking code runs on the blocking thread pool.
    async fn digest(Json(text): Json<String>) -> Result<Json<usize>, HandlerError> {
        let count = tokio::task::spawn_blocking(move || text.split(' ').count()).await?;
        Ok(Json(count))
    }

    /// Work that must complete at shutdown belongs in a component: `stop` runs after the last request has finished.
    struct Saves;

    impl Component for Saves {
        fn name(&self) -> &'static str {
            "saves"
        }

        async fn start(&self, app: &AppHandle) -> Result<(), BoxError> {
            app.every("save", Duration::from_secs(30), save)?;
            Ok(())
        }

        async fn stop(&self, app: &AppHandle) {
            save(app.clone()).await;
        }
    }

    async fn save(app: AppHandle) {
        if let Some(world) = app.get::<World>() {
            println!("saved at tick {}", world.ticks.load(Ordering::Relaxed));
        }
    }

    fn connector() -> App {
        let mut app = App::new("connector", "connector-1");
        app.listen("127.0.0.1:3010");
        app.set(World::default()).component(Saves);
        app.every("world", Duration::from_millis(100), tick);
        app.handle("round.open", open);
        app.handle("player.hints", hints);
        app.handle("text.digest", digest);
        app
    }

    #[tokio::test(start_paused = true)]
    async fn ten_ticks_take_a_second() {
        let servers = TestServers::start(Servers::new().add(connector())).await.unwrap();
        let ann = servers.connect("connector-1").await.unwrap();
        for route in ["round.open", "player.hints"] {
            ann.request::<_, ()>(&format!("connector.{route}"), &json!({})).await.unwrap();
        }
        let words: usize = ann.request("connector.text.digest", &"a b c").await.unwrap();
        assert_eq!(words, 3);
        let world = servers.app("connector-1").get::<World>().unwrap();
        let before = world.ticks.load(Ordering::Relaxed);
        servers.pass(Duration::from_secs(1)).await;
        assert_eq!(world.ticks.load(Ordering::Relaxed), before + 10);
        assert_eq!(ann.expect_push("onHint").await, "look left");
        let channels = servers.app("connector-1").channels();
        assert!(channels.get("round").is_some());
        servers.pass(Duration::from_secs(60)).await;
        assert!(channels.get("round").is_none(), "the round is over");
        servers.shutdown().await;
    }
}
