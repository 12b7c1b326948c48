//! The connectors: where clients log in.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use shaddock::{
    channel::PartlyKnown, cluster::owner_of, config::Config, prelude::*, session::SessionsPerUser,
};

use super::chat::{RID, UserEvent, name_of, room};

/// Characters of a name and of a room; the sample's page allows no more either.
const LONGEST: usize = 64;

#[derive(Deserialize)]
struct Login {
    username: String,
    rid: String,
}

pub(super) fn install(app: &mut App, config: &Config) {
    // A user is a name in a room, and may be there once, on whichever connector: the framework's own policy.
    app.set(
        config
            .session_config()
            .sessions_per_user(SessionsPerUser::One(config.session.on_conflict)),
    );
    app.handle("entryHandler.enter", enter);
    app.on_session_closed(left);
    // The messages of one room go to one chat server, so that they keep their order.
    app.balance("chat", |target, servers| {
        let settings = target.session.data.to_map().ok()?;
        match settings.get(RID).and_then(Value::as_str) {
            Some(rid) => owner_of(rid.as_bytes(), servers),
            // A user without a room: any chat server can answer that.
            None => servers.first(),
        }
    });
}

#[derive(Serialize)]
#[serde(untagged)]
enum Entered {
    In { users: Vec<String> },
    Refused { code: u16, error: bool },
}

const REFUSED: Json<Entered> = Json(Entered::Refused {
    code: 500,
    error: true,
});

/// `{username, rid}` → `{users}`; a name that is taken in that room → `{code: 500, error: true}`.
async fn enter(
    Ctx(app): Ctx,
    mut session: FrontendSession,
    Json(login): Json<Login>,
) -> Result<Json<Entered>, HandlerError> {
    if session.uid().is_some() || !is_name(&login.username) || !is_name(&login.rid) {
        return Ok(REFUSED);
    }
    let uid = Uid::new(format!("{}*{}", login.username, login.rid))?;
    if let Err(error) = session.bind(uid.clone()).await {
        tracing::debug!(%error, uid = uid.as_str(), "login refused");
        return Ok(REFUSED);
    }
    let room = room(&app, &login.rid);
    session.set(RID, login.rid);
    session.save(RID).await?;
    if let Err(error) = room.join(&session).await {
        tracing::warn!(%error, uid = uid.as_str(), "a user could not enter a room");
        session.unbind().await?;
        return Ok(REFUSED);
    }
    // The newcomer does not hear of themselves.
    let added = room.push_except(uid.as_str(), "onAdd", &UserEvent::of(&uid));
    added.await?;
    let members = room.members().await;
    let members = members.unwrap_or_else(|PartlyKnown { members, .. }| members);
    let others = members.list.iter().filter(|(member, _)| *member != uid);
    let users = others.map(|(member, _)| member).chain([&uid]);
    Ok(Json(Entered::In {
        users: users.map(|uid| name_of(uid).to_owned()).collect(),
    }))
}

/// A name must not contain what separates it from the room.
fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.chars().count() <= LONGEST
        && !text.chars().any(|c| c == '*' || c.is_control())
}

/// A client is gone: the others in its room are told.
async fn left(app: AppHandle, event: SessionEvent) {
    let rid = event.session().get(RID).and_then(Value::as_str);
    if let (Some(uid), Some(rid)) = (event.uid(), rid) {
        let told = room(&app, rid).push("onLeave", &UserEvent::of(uid)).await;
        if let Err(error) = told {
            tracing::warn!(%error, "a room was not notified that a user left");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert!(is_name("alice") && is_name("\u{5c0f}\u{660e}"));
        for wrong in ["", "a*b", "a\nb", &"x".repeat(65)] {
            assert!(!is_name(wrong), "{wrong}");
        }
    }
}
