//! A backend in Rust that does what the Go program in `interop/pitaya` does, route by route.

use std::sync::Mutex;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use shaddock::{cluster::NatsCluster, prelude::*};

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

/// What notifies said.
#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

/// A server of type `room`.
pub(crate) async fn start(cluster: NatsCluster, id: &str) -> Running {
    let mut app = App::new("room", id);
    app.set(Heard::default());
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
    Servers::new()
        .add(app)
        .cluster(cluster)
        .start()
        .await
        .unwrap()
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
    session.bind(Uid::new(user.uid)?).await?;
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
