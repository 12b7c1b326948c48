//! The rooms. A room is a channel on the chat server that is its home (see `rooms.rs`).

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use shaddock::{
    app::BoxError,
    channel::{Channel, Channels},
    cluster::ServerInfo,
    prelude::*,
    session::Session,
};

use super::rooms::{self, RID};

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

    /// The user of a session, if he is in a room.
    pub(super) fn of(session: &Session) -> Option<Self> {
        let rid = session.get(RID)?.as_str()?.to_owned();
        Some(Self::new(
            &session.uid()?,
            session.frontend_id().as_str(),
            rid,
        ))
    }

    /// The room.
    pub(super) fn rid(&self) -> &str {
        &self.rid
    }
}

/// The names of all who are in a room.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Members {
    users: Vec<String>,
}

/// A room as the people in it were told.
#[derive(Default)]
struct Room {
    /// Each user with his frontend.
    people: BTreeMap<String, String>,
    /// Whether this is its home, and all connectors have said who is in it.
    is_whole: bool,
}

type Table = BTreeMap<String, Room>;

/// The rooms that are here. Locked while one is made or thrown away, so that nobody enters one that is just being thrown away.
#[derive(Default)]
struct Rooms(Mutex<Table>);

impl Rooms {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn install(app: &mut App) {
    app.set(Rooms::default());
    app.route("chatHandler.send", send);
    app.remote("chatRemote.add", add);
    app.remote("chatRemote.restore", restore);
    app.remote("chatRemote.kick", kick);
    app.component(Caretaker);
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
    State(rooms): State<Rooms>,
    Json(member): Json<Member>,
) -> Result<Json<Members>, HandlerError> {
    let mut table = rooms.lock();
    let room = channels.create(&member.rid)?;
    let user = name_of(&member.uid);
    // The newcomer is no member yet, and does not hear of himself.
    room.push_message("onAdd", &UserEvent { user }).forget();
    put_in(&room, &member, &mut table)?;
    let users = room.members();
    Ok(Json(Members {
        users: users
            .iter()
            .map(|uid| name_of(uid.as_str()).to_owned())
            .collect(),
    }))
}

/// Puts users into rooms that have moved here. For the others they have been there all the time.
async fn restore(
    channels: Channels,
    State(rooms): State<Rooms>,
    Json(members): Json<Vec<Member>>,
) -> Result<(), HandlerError> {
    let mut table = rooms.lock();
    for member in &members {
        put_in(&channels.create(&member.rid)?, member, &mut table)?;
    }
    Ok(())
}

fn put_in(room: &Channel, member: &Member, table: &mut Table) -> Result<(), HandlerError> {
    let uid = Uid::new(member.uid.as_str())?;
    room.add(&uid, &FrontendId::new(member.frontend.as_str())?);
    let room = table.entry(member.rid.clone()).or_default();
    room.people
        .insert(member.uid.clone(), member.frontend.clone());
    Ok(())
}

/// Takes a user out of a room and tells the others.
async fn kick(channels: Channels, State(rooms): State<Rooms>, Json(member): Json<Member>) {
    take_out(&channels, &member, &mut rooms.lock());
}

/// An empty room is thrown away.
fn take_out(channels: &Channels, member: &Member, table: &mut Table) {
    let was_in = table
        .get_mut(&member.rid)
        .is_some_and(|room| room.people.remove(&member.uid).is_some());
    let Some(room) = channels.get(&member.rid) else {
        table.remove(&member.rid);
        return;
    };
    room.leave(&member.uid, &member.frontend);
    if room.user_amount() == 0 {
        channels.destroy(&member.rid);
        table.remove(&member.rid);
    } else if was_in {
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
    Ctx(app): Ctx,
    channels: Channels,
    session: SessionView,
    State(rooms): State<Rooms>,
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
            "a message is a text, and not empty",
        ));
    }
    let room = room_of(&app, &rooms, uid, rid).await?;
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

/// The room of a sender, with him in it. One that has just moved here is made whole first.
async fn room_of(
    app: &AppHandle,
    rooms: &Rooms,
    uid: &Uid,
    rid: &str,
) -> Result<Channel, HandlerError> {
    let channels = app.channels();
    let find = || {
        let room = channels.get(rid)?;
        (!room.member(uid.as_str()).is_empty()).then_some(room)
    };
    let is_whole = rooms.lock().get(rid).is_some_and(|room| room.is_whole);
    if let (true, Some(room)) = (is_whole, find()) {
        return Ok(room);
    }
    let all = rooms::ask_connectors(app, Some(rid)).await?;
    // Who stands in for a server that is dead and still listed asks again with each message: people come and go there.
    let servers = app.membership()?.members().servers_of("chat");
    let is_whole = all && rooms::home(rid, &servers).is_some_and(|home| home.id == *app.id());
    if let Some(room) = rooms.lock().get_mut(rid) {
        room.is_whole = is_whole;
    }
    find().ok_or_else(|| HandlerError::not_found("the room is gone"))
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

/// Looks after the rooms when other servers come and go.
struct Caretaker;

impl Component for Caretaker {
    fn name(&self) -> &'static str {
        "caretaker of rooms"
    }

    async fn after_start(&self, app: &AppHandle) -> Result<(), BoxError> {
        let rooms = app.get::<Rooms>().ok_or("`Rooms` is not set")?;
        let worker = app.clone();
        app.spawn("caretaker of rooms", async move {
            if let Err(error) = look_after(&worker, &rooms).await {
                tracing::error!(%error, "rooms are not looked after any more");
            }
        })?;
        Ok(())
    }
}

async fn look_after(app: &AppHandle, rooms: &Rooms) -> Result<(), BoxError> {
    let members = app.membership()?.members();
    let mut changes = members.changes();
    // Another server of this name may have had rooms, and have died too lately for anybody to notice.
    rooms::ask_connectors(app, None).await?;
    loop {
        changes.changed().await?;
        throw_away(app, rooms, &members.servers_of("chat"));
        forget_lost(app, rooms, &members.servers_of("connector"));
    }
}

/// Throws away rooms whose home is elsewhere now.
fn throw_away(app: &AppHandle, rooms: &Rooms, servers: &[Arc<ServerInfo>]) {
    // Whoever leaves the list serves what is still on its way to him.
    if servers.iter().all(|server| server.id != *app.id()) {
        return;
    }
    let channels = app.channels();
    let mut table = rooms.lock();
    for rid in channels.names() {
        if rooms::home(&rid, servers).is_some_and(|home| home.id != *app.id()) {
            channels.destroy(&rid);
            table.remove(&*rid);
        }
    }
}

/// Takes out who was on connectors that are gone, and tells the others.
fn forget_lost(app: &AppHandle, rooms: &Rooms, connectors: &[Arc<ServerInfo>]) {
    let there: HashSet<&str> = connectors.iter().map(|one| one.id.as_str()).collect();
    let mut table = rooms.lock();
    let mut lost = Vec::new();
    for (rid, room) in &*table {
        for (uid, frontend) in &room.people {
            if !there.contains(frontend.as_str()) {
                lost.push(Member {
                    uid: uid.clone(),
                    frontend: frontend.clone(),
                    rid: rid.clone(),
                });
            }
        }
    }
    // A connector that is back, because it only seemed to be gone, has users here.
    table.values_mut().for_each(|room| room.is_whole = false);
    let channels = app.channels();
    for member in &lost {
        take_out(&channels, member, &mut table);
    }
}
