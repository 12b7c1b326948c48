//! Where a room lives, and what happens when it moves.
//!
//! A room is on one chat server: the one that its name chooses among those that are there. All connectors choose alike, so its
//! members may be on different connectors. With one chat server there is nothing to choose, and the same code runs.
//!
//! When a chat server comes or goes, some rooms get another home. The connectors know who is in which room (a setting of the
//! session), and put their users into the rooms at the new home; nobody else in the room is told, because nobody came or left.
//! Not all notice at the same moment, so a chat server asks the connectors who is in a room before the first message there, and for
//! all its rooms when it has just started.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::chat::Member;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use shaddock::{
    app::BoxError,
    cluster::{RoutingTarget, ServerInfo, owner_of},
    prelude::*,
    remote::RpcError,
    session::Session,
};

/// Setting of a session: the room of its user.
pub(super) const RID: &str = "rid";
/// Users that are put into rooms by one call.
const BATCH: usize = 500;
/// Time between attempts to put users into rooms, if a chat server did not answer.
const AGAIN: Duration = Duration::from_secs(1);
/// How long a chat server waits for connectors. A message waits with it, but not longer than its sender.
const PATIENCE: Duration = Duration::from_secs(3);

type List = [Arc<ServerInfo>];

/// The chat server that has this room.
pub(super) fn home<'a>(rid: &str, servers: &'a List) -> Option<&'a Arc<ServerInfo>> {
    owner_of(rid.as_bytes(), servers)
}

/// The chat server for the messages of a session.
fn of_session<'a>(target: &RoutingTarget<'a>, servers: &'a List) -> Option<&'a Arc<ServerInfo>> {
    let settings = target.session.data.to_map().ok()?;
    match settings.get(RID).and_then(Value::as_str) {
        Some(rid) => home(rid, servers),
        // Who is in no room can be told so by any of them.
        None => servers.first(),
    }
}

/// Makes a connector send everybody to the server of his room, also after rooms have moved.
pub(super) fn install(app: &mut App) {
    app.route_fn("chat", of_session);
    app.remote("roomRemote.restore", restore_wanted);
    app.component(Restorer);
}

/// What a chat server asks of connectors: their users of one room, or of all rooms whose home it is.
#[derive(Serialize, Deserialize)]
struct Wanted {
    server: String,
    rid: Option<String>,
}

/// Chat servers: asks all connectors to put their users into this room here, or into all rooms whose home this is. Done when they are in;
/// false if a connector did not answer.
pub(super) async fn ask_connectors(app: &AppHandle, rid: Option<&str>) -> Result<bool, RpcError> {
    let wanted = Wanted {
        server: app.id().to_owned(),
        rid: rid.map(str::to_owned),
    };
    let ask = app.rpc("connector.roomRemote.restore").timeout(PATIENCE);
    let mut all = true;
    for (connector, answer) in ask.call_all::<Value>(&wanted).await? {
        if let Err(error) = answer {
            tracing::warn!(%connector, %error, "a connector does not say who is in which room");
            all = false;
        }
    }
    Ok(all)
}

async fn restore_wanted(Ctx(app): Ctx, Json(wanted): Json<Wanted>) -> Result<(), HandlerError> {
    let now = app.membership()?.members().servers_of("chat");
    let is_wanted = |rid: &str| match &wanted.rid {
        Some(one) => one == rid,
        None => home(rid, &now).is_some_and(|home| home.id == *wanted.server),
    };
    let users = users(&app, is_wanted);
    for batch in users.chunks(BATCH) {
        put(&app, &wanted.server, batch).await?;
    }
    Ok(())
}

/// Puts the users of this connector into their rooms when these have moved.
struct Restorer;

impl Component for Restorer {
    fn name(&self) -> &'static str {
        "rooms of users"
    }

    async fn after_start(&self, app: &AppHandle) -> Result<(), BoxError> {
        let worker = app.clone();
        app.spawn("rooms of users", async move {
            if let Err(error) = follow(&worker).await {
                tracing::error!(%error, "rooms are not followed any more");
            }
        })?;
        Ok(())
    }
}

async fn follow(app: &AppHandle) -> Result<(), BoxError> {
    let members = app.membership()?.members();
    let mut changes = members.changes();
    // Everybody here is in his room at its home among these servers. `None`: not known.
    let mut settled = Some(members.servers_of("chat"));
    loop {
        tokio::select! {
            next = changes.changed() => next?,
            () = tokio::time::sleep(AGAIN), if settled.is_none() => {}
        }
        let now = members.servers_of("chat");
        if settled.as_ref() != Some(&now) {
            let done = restore(app, settled.as_deref(), &now).await;
            settled = done.then_some(now);
        }
    }
}

/// Puts everybody whose room has another home than before into the room there. False if somebody could not be.
async fn restore(app: &AppHandle, before: Option<&List>, now: &List) -> bool {
    let old = |rid: &str| before.and_then(|list| home(rid, list));
    let mut moved: BTreeMap<Option<&str>, Users> = BTreeMap::new();
    for user in users(app, |rid| before.is_none() || old(rid) != home(rid, now)) {
        let new = home(user.1.rid(), now).map(|server| server.id.as_str());
        moved.entry(new).or_default().push(user);
    }
    let mut done = true;
    for (server, users) in moved {
        let Some(server) = server else {
            done = false;
            continue;
        };
        for batch in users.chunks(BATCH) {
            match put(app, server, batch).await {
                Ok(()) => tracing::info!(users = batch.len(), server, "rooms moved"),
                Err(error) => {
                    tracing::warn!(%error, server, "rooms could not be moved; trying again");
                    done = false;
                }
            }
        }
    }
    done
}

type Users = Vec<(Arc<Session>, Member)>;

/// The users of this connector in such rooms.
fn users(app: &AppHandle, is_wanted: impl Fn(&str) -> bool) -> Users {
    let mut users = Vec::new();
    if let Some(service) = app.session_service() {
        service.visit_sessions(|session| {
            if let Some(member) = Member::of(session).filter(|member| is_wanted(member.rid())) {
                users.push((Arc::clone(session), member));
            }
        });
    }
    users
}

async fn put(
    app: &AppHandle,
    server: &str,
    batch: &[(Arc<Session>, Member)],
) -> Result<(), RpcError> {
    let members: Vec<&Member> = batch.iter().map(|(_, member)| member).collect();
    let put = app.rpc("chat.chatRemote.restore").to(server);
    put.call::<Value>(&members).await?;
    // Who left meanwhile was taken out of the room before he was put in.
    for (_, member) in batch.iter().filter(|(session, _)| session.is_closed()) {
        let forget = app.rpc("chat.chatRemote.kick").to(server);
        forget.call::<Value>(member).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(ids: &[&str]) -> Vec<Arc<ServerInfo>> {
        ids.iter()
            .filter_map(|id| ServerInfo::new(id, "chat", false).ok().map(Arc::new))
            .collect()
    }

    #[test]
    fn rooms_use_all_servers_and_only_those_of_a_lost_one_move() {
        let (both, one) = (servers(&["chat-1", "chat-2"]), servers(&["chat-2"]));
        let mut at_home = 0;
        for n in 0..100 {
            let rid = format!("room {n}");
            let before = home(&rid, &both).map(|server| server.id.clone());
            let after = home(&rid, &one).map(|server| server.id.clone());
            at_home += usize::from(before == after);
            assert!(after.is_some_and(|id| id == *"chat-2"));
        }
        assert!((20..80).contains(&at_home), "{at_home} rooms are on chat-2");
        assert_eq!(home("lobby", &[]), None);
    }
}
