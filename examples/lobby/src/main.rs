//! A small game lobby: players log in with their handshake, wait for a match, move in a world that is told ten times a second, and whisper.
//!
//! `cargo run -p lobby` runs connector and lobby in one process. As a cluster on NATS and etcd the same program is every server, by
//! configuration alone: docs/cluster.md has the commands.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use serde::Deserialize;
use shaddock::{
    app::BoxError,
    cluster::owner_of,
    launch::{LaunchError, Launcher},
    prelude::*,
    session::{Conflict, SessionsPerUser},
};

/// Players of one match.
const PLAYERS: usize = 2;
/// Between two pushes of the world.
const TICK: Duration = Duration::from_millis(100);

/// The section `[app]` of the configuration: `connector`, `lobby` or both, and the number in their ids.
#[derive(Deserialize)]
#[serde(default)]
struct Settings {
    servers: String,
    number: u32,
    /// Where this lobby keeps scores.
    scores: PathBuf,
}

impl Default for Settings {
    fn default() -> Self {
        Self { servers: "connector,lobby".into(), number: 1, scores: "scores.json".into() }
    }
}

/// The state of the lobby. Everything is behind one lock, which is never held across an await.
#[derive(Default)]
struct World(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    waiting: Vec<(Uid, String)>,
    matches: u64,
    /// Room and place of each player.
    players: HashMap<Uid, (String, [i32; 2])>,
    /// Steps of each player: what is kept.
    scores: HashMap<Uid, u64>,
}

impl Inner {
    /// Takes a player out of this match, if it is still theirs. True if it has no players any more.
    fn leave(&mut self, uid: &Uid, room: &str) -> bool {
        self.players.retain(|player, (own, _)| player != uid || own != room);
        !self.players.values().any(|(own, _)| own == room)
    }
}

impl World {
    fn with<T>(&self, look: impl FnOnce(&mut Inner) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Login {
    token: String,
    world: String,
}

/// Ask your account service here. A token is `name.secret` in this example, and good for an hour.
fn account(token: &str) -> Option<(Uid, SystemTime)> {
    let (name, secret) = token.split_once('.')?;
    let uid = (secret == "secret").then(|| Uid::new(name))?.ok()?;
    Some((uid, SystemTime::now() + Duration::from_secs(3600)))
}

async fn log_in(info: HandshakeInfo) -> Result<Accept, HandshakeReject> {
    let login: Login = info.user_as().map_err(|_| HandshakeReject::new("no token"))?;
    let (uid, until) = account(&login.token).ok_or_else(|| HandshakeReject::new("wrong token"))?;
    let accept = Accept::new().bind(uid).expires_at(until).settings([("world", login.world)]);
    Ok(accept.reply(serde_json::json!({"tick_ms": 100})))
}

/// The player waits for others. When there are enough, all of them are told.
async fn join(
    Ctx(app): Ctx,
    State(world): State<World>,
    User(uid): User,
    session: SessionView,
) -> Result<(), HandlerError> {
    let frontend = session.frontend_id().to_owned();
    let ready = world.with(|state| {
        state.waiting.retain(|(other, _)| *other != uid);
        state.waiting.push((uid, frontend));
        (state.waiting.len() >= PLAYERS).then(|| {
            state.matches += 1;
            (format!("match-{}", state.matches), std::mem::take(&mut state.waiting))
        })
    });
    let Some((room, waiting)) = ready else { return Ok(()) };
    let channel = app.channels().create(&room)?;
    // Before they join: from then on `moved` takes players out who leave.
    let places = waiting.iter().map(|(uid, _)| (uid.clone(), (room.clone(), [0, 0])));
    world.with(|state| state.players.extend(places));
    let mut players = Vec::new();
    for (uid, frontend) in waiting {
        // A player who has left cannot be added, and the others play without them.
        if channel.add(&uid, &FrontendId::new(frontend)?).await.is_ok() {
            players.push(uid);
        } else if world.with(|state| state.leave(&uid, &room)) {
            app.channels().destroy(&room);
            return Ok(());
        }
    }
    app.metrics().counter("lobby_matches", "Matches begun").add(1);
    channel.push_message("onMatch", &serde_json::json!({"room": room, "players": players})).await?;
    Ok(())
}

/// One step; the world tells the others with its next tick.
async fn walk(State(world): State<World>, User(uid): User, Json([x, y]): Json<[i32; 2]>) -> Result<(), HandlerError> {
    world.with(|state| {
        let (_, place) = state.players.get_mut(&uid)?;
        *place = [place[0] + x.clamp(-1, 1), place[1] + y.clamp(-1, 1)];
        *state.scores.entry(uid).or_default() += 1;
        Some(())
    });
    Ok(())
}

#[derive(Deserialize)]
struct Whisper {
    to: Uid,
    text: String,
}

/// To one player, wherever they are connected.
async fn whisper(Ctx(app): Ctx, User(from): User, Json(whisper): Json<Whisper>) -> Result<(), HandlerError> {
    let message = serde_json::json!({"from": from, "text": whisper.text});
    let sent = app.channels().push_message_to_users("connector", "onWhisper", &message, &[whisper.to]).await?;
    if sent.queued == 0 {
        return Err(HandlerError::not_found("no player of that name is here"));
    }
    Ok(())
}

/// Tells each room where its players are.
async fn tick(app: AppHandle) {
    let Some(world) = app.get::<World>() else { return };
    let mut rooms: HashMap<String, HashMap<Uid, [i32; 2]>> = HashMap::new();
    world.with(|state| {
        for (uid, (room, place)) in &state.players {
            rooms.entry(room.clone()).or_default().insert(uid.clone(), *place);
        }
    });
    for (room, places) in rooms {
        if let Some(channel) = app.channels().get(&room) {
            channel.push_message("onWorld", &places).forget();
        }
    }
}

/// Players leave their match with their session; with the last one it is over.
async fn moved(app: AppHandle, event: MemberEvent) {
    let Some(world) = app.get::<World>().filter(|_| event.departure().is_some()) else { return };
    if world.with(|state| state.leave(event.uid(), event.name())) {
        app.channels().destroy(event.name());
    }
}

/// Scores come from a file, and go there when the server stops.
struct Scores(PathBuf);

impl Component for Scores {
    fn name(&self) -> &'static str {
        "scores"
    }

    async fn start(&self, app: &AppHandle) -> Result<(), BoxError> {
        let scores = match tokio::fs::read(&self.0).await {
            Ok(text) => serde_json::from_slice(&text)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => HashMap::new(),
            Err(error) => return Err(error.into()),
        };
        app.get::<World>().ok_or("no world")?.with(|state| state.scores = scores);
        Ok(())
    }

    async fn stop(&self, app: &AppHandle) {
        let Some(world) = app.get::<World>() else { return };
        let scores = world.with(|state| serde_json::json!(state.scores).to_string());
        if let Err(error) = tokio::fs::write(&self.0, scores).await {
            tracing::error!(%error, "scores are lost");
        }
    }
}

fn connector(app: &mut App) {
    app.modify(|all: &mut SessionConfig| all.sessions_per_user = SessionsPerUser::One(Conflict::ReplaceOld));
    app.on_handshake(log_in).require_user();
    // Players of one world meet at one lobby, however many lobbies there are.
    app.balance("lobby", |player, lobbies| {
        let settings = player.session.data.to_map().ok()?;
        owner_of(settings.get("world")?.as_str()?.as_bytes(), lobbies)
    });
}

fn lobby(app: &mut App, scores: PathBuf) {
    app.set(World::default()).component(Scores(scores)).every("world", TICK, tick);
    app.require_user();
    app.on_channel("match-", moved);
    app.handle("match.join", join);
    app.handle("world.walk", walk);
    app.handle("chat.whisper", whisper);
}

fn main() -> Result<(), LaunchError> {
    let launcher = Launcher::from_args()?;
    let settings: Settings = launcher.config().app()?;
    let mut servers = Servers::new();
    if settings.servers.contains("connector") {
        let mut app = App::new("connector", &format!("connector-{}", settings.number));
        launcher.configure_frontend(&mut app)?;
        connector(&mut app);
        servers = servers.add(app);
    }
    if settings.servers.contains("lobby") {
        let mut app = App::new("lobby", &format!("lobby-{}", settings.number));
        launcher.configure(&mut app);
        lobby(&mut app, settings.scores);
        servers = servers.add(app);
    }
    launcher.run(servers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use shaddock::testing::{TestClient, TestServers};
    use shaddock_client::Client;

    #[test]
    fn tokens_are_checked() {
        assert_eq!(account("ann.secret").unwrap().0.as_str(), "ann");
        assert!(["", "ann", "ann.guess", ".secret"].iter().all(|token| account(token).is_none()));
    }

    /// A handler is a function: no server is needed to call it.
    #[tokio::test]
    async fn moves_outside_of_a_match_are_rejected() {
        let world = State(std::sync::Arc::new(World::default()));
        walk(world.clone(), User(Uid::new("ann").unwrap()), Json([1, 0])).await.unwrap();
        assert!(world.with(|state| state.scores.is_empty()));
    }

    async fn player(servers: &TestServers, name: &str) -> TestClient {
        let token = json!({"token": format!("{name}.secret")});
        servers.connect_with("connector-1", &Client::builder().user(token)).await.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn two_players_meet() {
        let scores = std::env::temp_dir().join(format!("lobby-{}.json", std::process::id()));
        let (mut front, mut back) = (App::new("connector", "connector-1"), App::new("lobby", "lobby-1"));
        front.listen("127.0.0.1:3010");
        connector(&mut front);
        lobby(&mut back, scores.clone());
        let servers = TestServers::start(Servers::new().add(front).add(back)).await.unwrap();
        assert!(servers.connect("connector-1").await.is_err(), "no token");
        let (ann, bob) = (player(&servers, "ann").await, player(&servers, "bob").await);
        for client in [&ann, &bob] {
            let _: Value = client.request("lobby.match.join", &json!({})).await.unwrap();
        }
        assert_eq!(ann.expect_push("onMatch").await, json!({"room": "match-1", "players": ["ann", "bob"]}));
        let _: Value = ann.request("lobby.world.walk", &json!([1, 0])).await.unwrap();
        while bob.expect_push("onWorld").await["ann"] != json!([1, 0]) {}
        let _: Value = bob.request("lobby.chat.whisper", &json!({"to": "ann", "text": "hi"})).await.unwrap();
        assert_eq!(ann.expect_push("onWhisper").await, json!({"from": "bob", "text": "hi"}));
        // The same player again, from another device.
        let _again = player(&servers, "bob").await;
        bob.expect_end().await;
        assert_eq!(servers.app("lobby-1").metrics().counter("lobby_matches", "").get(), 1);
        servers.shutdown().await;
        let saved: Value = serde_json::from_slice(&std::fs::read(&scores).unwrap()).unwrap();
        assert_eq!(saved, json!({"ann": 1}));
        std::fs::remove_file(scores).unwrap();
    }
}
