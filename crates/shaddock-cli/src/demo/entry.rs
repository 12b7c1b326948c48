//! The connectors: where clients log in.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use shaddock::{
    config::Config,
    prelude::*,
    remote::{Rpc, RpcError},
};

use super::{
    chat::{Member, Members},
    gate::CLIENT_PORT,
    rooms::{self, RID},
};

/// Characters of a name and of a room; the sample's page allows no more either.
const LONGEST: usize = 64;

#[derive(Deserialize)]
struct Login {
    username: String,
    rid: String,
}

pub(super) fn install(app: &mut App, port: u16, config: &Config) {
    app.metadata(CLIENT_PORT, port.to_string());
    // A user is a name in a room, and may be there once, on whichever connector: the framework's own policy.
    app.set(SessionConfig {
        single_session: true,
        ..config.session_config()
    });
    app.route("entryHandler.enter", enter);
    app.on_session_closed(left);
    rooms::install(app);
}

#[derive(Serialize)]
#[serde(untagged)]
enum Entered {
    In(Members),
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
    // A second login on the same connection would leave the first room with a ghost.
    if session.uid().is_some() || !is_name(&login.username) || !is_name(&login.rid) {
        return Ok(REFUSED);
    }
    let uid = Uid::new(format!("{}*{}", login.username, login.rid))?;
    if let Err(error) = session.bind(uid.clone()).await {
        tracing::debug!(%error, uid = uid.as_str(), "login refused");
        return Ok(REFUSED);
    }
    let rid = login.rid.clone();
    session.set(RID, rid);
    // Now the room says which chat server the session's messages and calls go to.
    session.push(RID).await?;
    let member = Member::new(&uid, session.frontend_id(), login.rid);
    let add = app.rpc("chat.chatRemote.add").by_session(&session);
    match tell::<Members>(add, &member).await {
        Ok(members) => {
            // Who left meanwhile was taken out of the room before he was put in.
            if session.record().is_closed() {
                forget(&app, &session, &member).await;
            }
            Ok(Json(Entered::In(members)))
        }
        Err(error) => {
            tracing::warn!(%error, uid = uid.as_str(), "the chat server did not let a user in");
            session.unbind().await?;
            Ok(REFUSED)
        }
    }
}

/// A name must not contain what separates it from the room.
fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.chars().count() <= LONGEST
        && !text.chars().any(|c| c == '*' || c.is_control())
}

/// A client is gone: the others in its room are told.
async fn left(app: AppHandle, event: SessionEvent) {
    let session = event.session();
    let rid = session.get(RID).and_then(Value::as_str);
    if let (Some(uid), Some(rid)) = (event.uid(), rid) {
        let member = Member::new(uid, session.frontend_id(), rid.to_owned());
        forget(&app, session, &member).await;
    }
}

async fn forget(app: &AppHandle, session: &SessionView, member: &Member) {
    let kick = app.rpc("chat.chatRemote.kick").by_session(session);
    if let Err(error) = tell::<Value>(kick, member).await {
        tracing::warn!(%error, "the chat server was not told that a user left");
    }
}

/// Calls the chat server of a member.
async fn tell<R: DeserializeOwned>(call: Rpc, member: &Member) -> Result<R, RpcError> {
    match call.clone().call(member).await {
        // A server that has just died did not get it; the next call goes to another one.
        Err(error) if error.is_retryable() => call.call(member).await,
        answer => answer,
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
