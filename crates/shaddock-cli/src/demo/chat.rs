//! The rooms. A room is a channel; who is in it is known here only.

use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use shaddock::{
    channel::{Channel, Channels},
    prelude::*,
};

/// Characters of a message.
const LONGEST: usize = 2000;

/// Somebody in a room.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Member {
    uid: String,
    frontend: String,
    rid: String,
}

impl Member {
    pub(super) fn new(uid: &Uid, frontend: &str, rid: String) -> Self {
        Self {
            uid: uid.as_str().to_owned(),
            frontend: frontend.to_owned(),
            rid,
        }
    }
}

/// The names of all who are in a room.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Members {
    users: Vec<String>,
}

/// Held while a room is made or thrown away, so that nobody enters one that is just being thrown away.
#[derive(Default)]
struct Door(Mutex<()>);

pub(super) fn install(app: &mut App) {
    app.set(Door::default());
    app.route("chatHandler.send", send);
    app.remote("chatRemote.add", add);
    app.remote("chatRemote.kick", kick);
}

/// `alice*lobby` → `alice`
fn name_of(uid: &str) -> &str {
    uid.split('*').next().unwrap_or_default()
}

#[derive(Serialize)]
struct UserEvent<'a> {
    user: &'a str,
}

/// Puts a user into a room, tells the others, and answers with all names.
async fn add(
    channels: Channels,
    State(door): State<Door>,
    Json(member): Json<Member>,
) -> Result<Json<Members>, HandlerError> {
    let uid = Uid::new(member.uid.as_str())?;
    let frontend = FrontendId::new(member.frontend.as_str())?;
    let _door = door.0.lock().unwrap_or_else(PoisonError::into_inner);
    let room = channels.create(&member.rid)?;
    let user = name_of(uid.as_str());
    // The newcomer is no member yet, and does not hear of himself.
    room.push_message("onAdd", &UserEvent { user }).forget();
    room.add(&uid, &frontend);
    let users = room.members();
    Ok(Json(Members {
        users: users
            .iter()
            .map(|uid| name_of(uid.as_str()).to_owned())
            .collect(),
    }))
}

/// Takes a user out of a room and tells the others. An empty room is thrown away.
async fn kick(channels: Channels, State(door): State<Door>, Json(member): Json<Member>) {
    let _door = door.0.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(room) = channels.get(&member.rid) else {
        return;
    };
    room.leave(&member.uid, &member.frontend);
    if room.user_amount() == 0 {
        channels.destroy(&member.rid);
    } else {
        let user = name_of(&member.uid);
        room.push_message("onLeave", &UserEvent { user }).forget();
    }
}

#[derive(Deserialize)]
struct Send {
    #[serde(default)]
    content: Value,
    target: String,
}

#[derive(Serialize)]
struct Chat<'a> {
    msg: &'a Value,
    from: &'a str,
    target: &'a str,
}

#[derive(Serialize)]
struct Sent {
    code: u16,
}

/// `{rid, content, from, target}`: to everybody in the room of the sender (`target` is `*`), or to one of them.
///
/// Who the sender is, and where, is known from his session; `rid` and `from` of the message are not believed.
async fn send(
    channels: Channels,
    session: SessionView,
    Json(message): Json<Send>,
) -> Result<Json<Sent>, HandlerError> {
    let rid = session.get("rid").and_then(Value::as_str);
    let (Some(uid), Some(rid)) = (session.uid(), rid) else {
        return Err(HandlerError::bad_request("enter a room first"));
    };
    let room = channels
        .get(rid)
        .ok_or_else(|| HandlerError::not_found("the room is gone"))?;
    let text = message.content.as_str().unwrap_or_default();
    if text.is_empty() || text.chars().count() > LONGEST {
        return Err(HandlerError::bad_request(
            "a message has 1 to 2000 characters",
        ));
    }
    let chat = Chat {
        msg: &message.content,
        from: name_of(uid.as_str()),
        target: &message.target,
    };
    if message.target == "*" {
        room.push_message("onChat", &chat).await?;
        return Ok(Json(Sent { code: 200 }));
    }
    let receivers = receivers(&room, &message.target, rid)?;
    if receivers.is_empty() {
        return Ok(Json(Sent { code: 404 }));
    }
    channels
        .push_message_by_uids("onChat", &chat, &receivers)
        .await?;
    Ok(Json(Sent { code: 200 }))
}

/// Where the user of that name is connected, if he is in the room.
fn receivers(
    room: &Channel,
    name: &str,
    rid: &str,
) -> Result<Vec<(Uid, FrontendId)>, HandlerError> {
    let uid = Uid::new(format!("{name}*{rid}"))?;
    let frontends = room.member(uid.as_str());
    Ok(frontends
        .into_iter()
        .map(|frontend| (uid.clone(), frontend))
        .collect())
}
