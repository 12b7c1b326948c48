//! The rooms. A room is a topic: who is in is known where the connections are, and any server pushes to it.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use shaddock::{channel::Departure, prelude::*};

/// Setting of a session: the room of its user.
pub(super) const RID: &str = "rid";

/// In front of the names of rooms, as topics.
const ROOM: &str = "room:";

pub(super) fn install(app: &mut App) {
    app.handle("chatHandler.send", send);
    app.on_topic(ROOM, lost);
}

/// The room of that name.
pub(super) fn room(app: &AppHandle, rid: &str) -> Topic {
    app.topic(&format!("{ROOM}{rid}"))
}

/// `alice*lobby` → `alice`
pub(super) fn name_of(uid: &Uid) -> &str {
    uid.as_str().split('*').next().unwrap_or_default()
}

/// A push to a room about one of its members.
#[derive(Serialize)]
pub(super) struct UserEvent<'a> {
    user: &'a str,
}

impl<'a> UserEvent<'a> {
    pub(super) fn of(uid: &'a Uid) -> Self {
        Self { user: name_of(uid) }
    }
}

/// A connector is gone: it cannot tell the others in its rooms any more that its users have left.
async fn lost(app: AppHandle, event: MemberEvent) {
    if event.departure() == Some(Departure::FrontendLost) {
        let gone = UserEvent::of(event.uid());
        app.topic(event.name()).push("onLeave", &gone).forget();
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

/// `{rid, content, from, target}`: to all users in the room of the sender (`target` is `*`), or to one of them.
///
/// Sender and room come from the session; `rid` and `from` of the message are ignored.
async fn send(
    Ctx(app): Ctx,
    channels: Channels,
    session: SessionView,
    Json(message): Json<Send>,
) -> Result<Json<Sent>, HandlerError> {
    let rid = session.get(RID).and_then(Value::as_str);
    let (Some(uid), Some(rid)) = (session.uid(), rid) else {
        return Err(HandlerError::bad_request("enter a room first"));
    };
    let text = message.content.as_str().unwrap_or_default();
    // How long it may be, the bound of packages says.
    if text.is_empty() {
        return Err(HandlerError::bad_request(
            "a message must be a text that is not empty",
        ));
    }
    let chat = Chat {
        msg: &message.content,
        from: name_of(uid),
        target: &message.target,
    };
    if message.target == "*" {
        room(&app, rid).push("onChat", &chat).await?;
        return Ok(Json(Sent { code: 200 }));
    }
    // A user is a name in a room.
    let receiver = [Uid::new(format!("{}*{rid}", message.target))?];
    let sent = channels
        .push_message_to_users("connector", "onChat", &chat, &receiver)
        .await?;
    let code = if sent.queued > 0 { 200 } else { 404 };
    Ok(Json(Sent { code }))
}
