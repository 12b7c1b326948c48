//! A backend in Rust that does what the Go program in `interop/pitaya` does, route by route.

use std::{process::Command, sync::Mutex, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use shaddock::{
    cluster::{GroupError, Groups, NatsCluster, NatsConfig},
    config::Sources,
    launch::Launcher,
    prelude::*,
    remote::RpcError,
};

use crate::{Program, servers::Backing};

#[derive(Serialize, Deserialize)]
pub(crate) struct Text {
    text: String,
}

#[derive(Deserialize)]
struct User {
    uid: String,
}

#[derive(Deserialize)]
struct ToUser {
    uid: String,
    frontend: String,
    #[serde(default)]
    text: String,
}

/// The bodies of notifies.
#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

#[derive(Deserialize)]
struct Group {
    name: String,
    #[serde(default)]
    frontend: String,
    #[serde(default)]
    text: String,
}

#[derive(Deserialize)]
struct Pause {
    ms: u64,
}

#[derive(Deserialize)]
struct Call {
    route: String,
    #[serde(default)]
    server: String,
    #[serde(default)]
    text: String,
    #[serde(default)]
    timeout: String,
}

/// A server of type `room`.
pub(crate) async fn start(cluster: NatsCluster, id: &str) -> Running {
    start_as("room", cluster, id).await
}

/// The same server under another type.
pub(crate) async fn start_as(server_type: &str, cluster: NatsCluster, id: &str) -> Running {
    let mut app = App::new(server_type, id);
    furnish(&mut app, cluster.config());
    Servers::new()
        .add(app)
        .cluster(cluster)
        .start()
        .await
        .unwrap()
}

/// A room in a process of its own.
pub(crate) fn start_process(backing: &Backing, id: &str) -> Program {
    start_process_with(backing, id, "handlers.timeout=30s")
}

/// The same with a setting of its own.
pub(crate) fn start_process_with(backing: &Backing, id: &str, setting: &str) -> Program {
    // This test program, which becomes a room when it is asked to.
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["room::be_a_room", "--exact", "--ignored", "--nocapture"])
        .env("TEST_ROOM_ID", id)
        .env("TEST_ROOM_SETTING", setting)
        .env("TEST_ROOM_NATS", backing.nats.address.to_string())
        .env("TEST_ROOM_ETCD", backing.etcd.address.to_string());
    Program::start(&mut command, "the room is ready").0
}

#[test]
#[ignore = "the program of other tests: what they start as a process"]
fn be_a_room() {
    let Ok(id) = std::env::var("TEST_ROOM_ID") else {
        return;
    };
    let of = |key| std::env::var(key).unwrap();
    let settings = [
        "cluster.mode=nats".to_owned(),
        format!("cluster.nats_urls=nats://{}", of("TEST_ROOM_NATS")),
        format!("cluster.etcd_endpoints={}", of("TEST_ROOM_ETCD")),
        "cluster.lease_ttl=5s".to_owned(),
        "admin.address=".to_owned(),
        of("TEST_ROOM_SETTING"),
    ];
    let launcher = Launcher::new(Sources::of_process(None, settings.to_vec())).unwrap();
    let mut app = App::new("room", &id);
    launcher.configure(&mut app);
    furnish(&mut app, &launcher.config().nats_config());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let served = launcher.serve(Servers::new().add(app), |_| {
        println!("the room is ready");
    });
    runtime.block_on(served).unwrap();
}

fn furnish(app: &mut App, config: &NatsConfig) {
    app.set(Heard::default());
    app.set(Groups::new(config).unwrap());
    app.route("room.echo", async |Json(text): Json<Text>| Json(text));
    app.route("room.fail", fail);
    app.route("room.say", say);
    app.route("room.heard", heard);
    app.route("room.bind", bind);
    app.route("room.who", async |session: SessionView, Ctx(app): Ctx| {
        Json(who(&app, &session))
    });
    app.route("room.remember", remember);
    app.route("room.push", push);
    app.route("room.tell", tell);
    app.route("room.kick", kick);
    app.route("room.kickme", kick_me);
    app.route("room.slow", slow);
    app.route("room.call", call);
    app.route("room.join", join);
    app.route("room.leave", leave);
    app.route("room.members", members);
    app.route("room.broadcast", broadcast);
    app.route("room.enter", enter);
    app.route("room.chat", chat);
    app.remote("room.shout", shout);
    app.remote(
        "room.fail",
        async |Body(body): Body| -> Result<(), HandlerError> {
            let what = text_of(&body);
            Err(HandlerError::new("ROOM-7", format!("no {what}"))
                .with_metadata("what", what)
                .with_metadata("empty", ""))
        },
    );
    app.remote("room.never", std::future::pending::<Reply>);
}

/// A protobuf message with one text, of fewer than 128 bytes, in field 1.
pub(crate) fn message(text: &str) -> Vec<u8> {
    if text.is_empty() {
        return Vec::new();
    }
    let mut bytes = vec![0x0a, u8::try_from(text.len()).unwrap()];
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

/// The text of such a message.
pub(crate) fn text_of(message: &[u8]) -> String {
    String::from_utf8_lossy(message.get(2..).unwrap_or_default()).into_owned()
}

/// The same message, typed: Pitaya's `KickMsg`.
#[derive(Clone, PartialEq, prost::Message)]
struct KickMsg {
    #[prost(string, tag = "1")]
    user_id: String,
}

async fn shout(
    Protobuf(KickMsg { user_id }): Protobuf<KickMsg>,
) -> Result<Protobuf<KickMsg>, HandlerError> {
    if user_id.is_empty() {
        return Err(HandlerError::new("ROOM-9", "nothing to shout"));
    }
    let user_id = user_id.to_uppercase();
    Ok(Protobuf(KickMsg { user_id }))
}

async fn slow(Ctx(app): Ctx, Json(pause): Json<Pause>) -> Json<Value> {
    tokio::time::sleep(Duration::from_millis(pause.ms)).await;
    Json(json!({ "text": app.id() }))
}

/// Calls a remote of another server; its error is the answer's.
async fn call(Ctx(app): Ctx, Json(call): Json<Call>) -> Result<Json<Text>, HandlerError> {
    let mut rpc = app.rpc(&call.route);
    if !call.server.is_empty() {
        rpc = rpc.to(call.server);
    }
    if let Some(ms) = call.timeout.strip_suffix("ms") {
        rpc = rpc.timeout(Duration::from_millis(ms.parse().unwrap()));
    }
    let argument = KickMsg { user_id: call.text };
    match rpc.call_protobuf::<KickMsg>(&argument).await {
        Ok(answer) => Ok(Json(Text {
            text: answer.user_id,
        })),
        Err(RpcError::Remote(error)) => {
            let mut answer = HandlerError::new(error.code().to_owned(), error.message().to_owned());
            for (key, value) in error.metadata() {
                answer = answer.with_metadata(key, value);
            }
            Err(answer)
        }
        Err(error) => Err(HandlerError::new("PIT-500", error.to_string())),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is given to `map_err`")]
fn group_error(error: GroupError) -> HandlerError {
    HandlerError::new("PIT-500", error.to_string())
}

async fn members_of(groups: &Groups, name: &str) -> Result<Json<Value>, HandlerError> {
    let members = groups.members(name).await.map_err(group_error)?;
    let members: Vec<&str> = members.iter().map(|uid| &**uid).collect();
    let count = groups.count(name).await.map_err(group_error)?;
    Ok(Json(json!({ "members": members, "count": count })))
}

async fn join(
    State(groups): State<Groups>,
    session: SessionView,
    Json(group): Json<Group>,
) -> Result<Json<Value>, HandlerError> {
    match groups.create(&group.name).await {
        Ok(()) | Err(GroupError::Exists) => {}
        Err(error) => return Err(group_error(error)),
    }
    let uid = session.uid().map_or("", |uid| uid.as_str());
    groups.add(&group.name, uid).await.map_err(group_error)?;
    members_of(&groups, &group.name).await
}

async fn leave(
    State(groups): State<Groups>,
    session: SessionView,
    Json(group): Json<Group>,
) -> Result<Json<Value>, HandlerError> {
    let uid = session.uid().map_or("", |uid| uid.as_str());
    groups.remove(&group.name, uid).await.map_err(group_error)?;
    members_of(&groups, &group.name).await
}

async fn members(
    State(groups): State<Groups>,
    Json(group): Json<Group>,
) -> Result<Json<Value>, HandlerError> {
    members_of(&groups, &group.name).await
}

async fn broadcast(
    Ctx(app): Ctx,
    State(groups): State<Groups>,
    Json(group): Json<Group>,
) -> Result<Json<Text>, HandlerError> {
    let members = groups.members(&group.name).await.map_err(group_error)?;
    let members: Vec<Uid> = members
        .iter()
        .filter_map(|uid| Uid::new(&**uid).ok())
        .collect();
    let text = Text { text: group.text };
    app.channels()
        .push_message_to_users(&group.frontend, "onText", &text, &members)
        .await?;
    Ok(Json(text))
}

/// Makes the user a member of a channel of this server.
async fn enter(
    channels: Channels,
    session: SessionView,
    Json(group): Json<Group>,
) -> Result<Json<Value>, HandlerError> {
    let channel = channels.create(&group.name)?;
    let entered = channel
        .join(&session)
        .await
        .is_ok_and(shaddock::channel::Joined::is_new);
    Ok(Json(
        json!({ "entered": entered, "count": channel.user_amount().await? }),
    ))
}

async fn chat(channels: Channels, Json(group): Json<Group>) -> Result<Json<Value>, HandlerError> {
    let channel = channels.create(&group.name)?;
    let delivered = channel
        .push_message("onText", &json!({ "text": group.text }))
        .await?;
    let missing: Vec<&str> = delivered.not_reached().map(Uid::as_str).collect();
    Ok(Json(
        json!({ "queued": delivered.queued, "missing": missing }),
    ))
}

fn who(app: &AppHandle, session: &SessionView) -> Value {
    json!({
        "uid": session.uid().map_or("", |uid| uid.as_str()),
        "data": session.settings().iter().collect::<std::collections::BTreeMap<_, _>>(),
        "server": app.id(),
    })
}

async fn fail(Json(text): Json<Text>) -> Result<(), HandlerError> {
    Err(HandlerError::new("ROOM-7", format!("no {}", text.text)).with_metadata("what", text.text))
}

async fn say(State(heard): State<Heard>, Json(text): Json<Text>) {
    heard.0.lock().unwrap().push(text.text);
}

async fn heard(State(heard): State<Heard>) -> Json<Value> {
    let first = heard.0.lock().unwrap().first().cloned();
    Json(json!({ "text": first }))
}

async fn bind(
    Ctx(app): Ctx,
    mut session: SessionView,
    Json(user): Json<User>,
) -> Result<Json<Value>, HandlerError> {
    let bound = session.bind(Uid::new(user.uid)?).await;
    bound.map_err(|error| HandlerError::new("ROOM-1", error.to_string()))?;
    Ok(Json(who(&app, &session)))
}

async fn remember(
    Ctx(app): Ctx,
    mut session: SessionView,
    Json(data): Json<Map<String, Value>>,
) -> Result<Json<Value>, HandlerError> {
    session.set_all(data);
    session.push_all().await?;
    Ok(Json(who(&app, &session)))
}

async fn push(session: SessionView, Json(text): Json<Text>) -> Result<Json<Text>, HandlerError> {
    session.push_message("onText", &text).await?;
    Ok(Json(text))
}

async fn tell(Ctx(app): Ctx, Json(to): Json<ToUser>) -> Result<Json<Value>, HandlerError> {
    let text = Text { text: to.text };
    let pushed = app
        .channels()
        .push_message_to_users(&to.frontend, "onText", &text, &[Uid::new(to.uid)?])
        .await?;
    let missing: Vec<&str> = pushed.not_reached().map(Uid::as_str).collect();
    Ok(Json(json!({ "missing": missing })))
}

async fn kick(Ctx(app): Ctx, Json(to): Json<ToUser>) -> Result<Json<Value>, HandlerError> {
    app.backend_sessions()
        .kick_everywhere(&to.uid, "out")
        .await?;
    Ok(Json(json!({ "missing": [] })))
}

async fn kick_me(session: SessionView) -> Result<Json<Value>, HandlerError> {
    session.kick("out").await?;
    Ok(Json(json!({ "text": "kicked" })))
}
