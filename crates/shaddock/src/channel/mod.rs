//! Channels, topics, and every other way to send messages that clients did not ask for.
//!
//! A channel is a named list of members, each a user on a frontend, and belongs to the app that made it. A [`Topic`] is the same without an
//! owner. Who is in is known at the frontend of each member, and nowhere else: a push names the channel, one message goes to each frontend
//! that has members, and there it is encoded once for each dialect; every session gets a pointer to the same bytes.
//!
//! ```
//! use shaddock::prelude::*;
//!
//! async fn send(session: SessionView, channels: Channels, Json(text): Json<String>) -> Result<(), HandlerError> {
//!     let room = channels.create("lobby")?;
//!     room.join(&session).await?;
//!     let delivered = room.push_message("onChat", &serde_json::json!({"msg": text})).await?;
//!     if delivered.missing_count() > 0 {
//!         // So many members have no session that takes messages now.
//!     }
//!     Ok(())
//! }
//! ```
//!
//! A push is on its way when the call returns, before its future is polled: messages of one sender reach a session in the order of the calls.
//! What the future answers with says who was not reached. "Reached" means that the message is in the session's outbound queue.
//!
//! Members leave when their last session on the frontend closes or is unbound, in the same step.
//!
//! Instead of at once a frontend can send pushes in [batches](Schedule::Buffered); its [`PushConfig`] decides that by route.

mod audience;
mod counted;
mod deliver;
mod gone;
mod join;
mod kept;
mod latest;
mod pressure;
mod push;
mod restore;
mod schedule;
mod settling;
mod spawn;
mod topic;
mod watch;
mod watchers;

use std::sync::Arc;

use serde::Serialize;
use shaddock_cluster::{AudienceKey, RawSid, RemoteError, ServerId};
pub use shaddock_core::{
    ChannelConfig, ChannelError, ChannelState, ChannelStore, MemoryStore, RestoreError, StoreError,
};
use shaddock_core::{FrontendId, Uid};

use self::join::user_of;
pub(crate) use self::{
    audience::{Audiences, LIFE},
    counted::RecentCounts,
    deliver::{BROADCAST, Deliveries},
    join::AudienceCalls,
    kept::kept_room,
    push::{Content, Message, Pushes, check_latest},
    restore::OwnChannels,
    schedule::Scheduler,
    settling::Settling,
    watch::{MemberHooks, Watch, Watching},
    watchers::Watchers,
};
pub use self::{
    join::{JoinError, Joined, Members, PartlyKnown},
    latest::Latest,
    push::{AtFrontend, BroadcastOptions, Delivered, FailedFrontend, Push, PushError},
    schedule::{BroadcastFilter, PushConfig, RouteSchedule, Schedule},
    topic::{Topic, TopicPush},
    watch::{Departure, MemberEvent},
};
use crate::{app::AppHandle, session::SessionView};

/// The channels of an app, and pushes without a channel. Pomelo's `channelService`. An extractor; also [`AppHandle::channels`].
#[derive(Debug, Clone)]
pub struct Channels(AppHandle);

impl Channels {
    pub(crate) fn of(app: &AppHandle) -> Self {
        Self(app.clone())
    }

    /// The channel of that name, a new one if there is none. (Pomelo `createChannel`, `getChannel(name, true)`.)
    ///
    /// # Errors
    /// The name is empty or longer than 256 bytes, or there are too many channels.
    pub fn create(&self, name: &str) -> Result<Channel, ChannelError> {
        Ok(self.wrap(self.0.channel_data().create_channel(name)?))
    }

    /// The channel of that name.
    pub fn get(&self, name: &str) -> Option<Channel> {
        Some(self.wrap(self.0.channel_data().channel(name)?))
    }

    /// Destroys the channel of that name. False if there is none.
    pub fn destroy(&self, name: &str) -> bool {
        self.get(name).is_some_and(|channel| channel.destroy())
    }

    /// The names of all channels, in no order.
    pub fn names(&self) -> Vec<Arc<str>> {
        self.0.channel_data().names()
    }

    /// Number of channels.
    pub fn count(&self) -> usize {
        self.0.channel_data().channel_count()
    }

    /// Takes a user on a frontend out of all channels of this app, and says of how many.
    ///
    /// # Errors
    /// The frontend could not be asked.
    pub async fn leave_all(&self, uid: &str, frontend: &str) -> Result<usize, RemoteError> {
        let by_name = self
            .0
            .channel_data()
            .remove_member_everywhere(uid, frontend);
        let id = ServerId::new(frontend).map_err(|_| RemoteError::server_not_found())?;
        if !self.0.membership()?.keeps_audiences(&id)? {
            return Ok(by_name);
        }
        let all = AudienceKey::channels(self.0.id(), self.0.life());
        let left = AudienceCalls::of(&self.0)
            .leave(&id, all.into(), true, uid)
            .await?;
        Ok(by_name + left)
    }

    /// Brings back the channels from the [store](ChannelConfig::store), and those of their members who are still connected. Call it once, from a
    /// component's start.
    ///
    /// Each member's frontend is asked whether they are there, when this server has joined the cluster; those who are not are taken out of the
    /// store. Until a frontend answers, pushes name its members to it, and it is asked again. Members on a frontend that is not there for a minute
    /// have left.
    ///
    /// # Errors
    /// The store failed or holds something else; then nothing was restored.
    pub fn restore(&self) -> Result<usize, RestoreError> {
        let restored = self.0.channel_data().restore()?;
        OwnChannels::of(&self.0).settle_restored();
        Ok(restored)
    }

    fn wrap(&self, data: Arc<shaddock_core::Channel>) -> Channel {
        Channel {
            app: self.0.clone(),
            data,
        }
    }

    /// Sends a message to users whose frontends are known. A user who is listed twice on one frontend gets it once.
    ///
    /// # Errors
    /// [`PushError`]: the list is empty, the value is empty or cannot be serialised, or no frontend could be reached.
    pub fn push_message_by_uids<T: Serialize + ?Sized>(
        &self,
        route: &str,
        value: &T,
        users: &[(Uid, FrontendId)],
    ) -> Push {
        Latest::of(self, None).push_message_by_uids(route, value, users)
    }

    /// Sends a message to all sessions of these users on frontends of one type, wherever they are connected.
    ///
    /// # Errors
    /// As [`push_message_by_uids`](Self::push_message_by_uids).
    pub fn push_message_to_users<T: Serialize + ?Sized>(
        &self,
        frontend_type: &str,
        route: &str,
        value: &T,
        users: &[Uid],
    ) -> Push {
        Latest::of(self, None).push_message_to_users(frontend_type, route, value, users)
    }

    /// Sends a message to the clients of all frontends of a type. It is not an error if there are no clients.
    ///
    /// # Errors
    /// [`PushError`]: the value is empty or cannot be serialised, or there are frontends and none could be reached.
    pub fn broadcast<T: Serialize + ?Sized>(
        &self,
        frontend_type: &str,
        route: &str,
        value: &T,
        options: BroadcastOptions,
    ) -> Push {
        Latest::of(self, None).broadcast(frontend_type, route, value, options)
    }
}

/// One channel.
#[derive(Debug, Clone)]
pub struct Channel {
    app: AppHandle,
    data: Arc<shaddock_core::Channel>,
}

impl Channel {
    /// Its name.
    pub fn name(&self) -> &str {
        self.data.name()
    }

    /// Whether it can be used.
    pub fn state(&self) -> ChannelState {
        self.data.state()
    }

    fn key(&self) -> Option<AudienceKey> {
        OwnChannels::of(&self.app).key_of(&self.data)
    }

    /// Makes the user of this session a member, at the session's frontend. When it is done, every push that begins later reaches them; they
    /// leave by themselves with their last session there.
    ///
    /// # Errors
    /// [`JoinError`].
    pub async fn join(&self, session: &SessionView) -> Result<Joined, JoinError> {
        let (uid, sid) = user_of(session)?;
        self.enter(&uid, session.frontend_id(), sid).await
    }

    /// Makes a user on a frontend a member. (Pomelo `add`.)
    ///
    /// # Errors
    /// As [`join`](Self::join).
    pub async fn add(&self, uid: &Uid, frontend: &FrontendId) -> Result<Joined, JoinError> {
        self.enter(uid, frontend.as_str(), None).await
    }

    async fn enter(
        &self,
        uid: &Uid,
        frontend: &str,
        sid: Option<RawSid>,
    ) -> Result<Joined, JoinError> {
        let (Ok(place), Ok(id)) = (FrontendId::new(frontend), ServerId::new(frontend)) else {
            return Err(RemoteError::server_not_found().into());
        };
        let key = self.key().ok_or(JoinError::Destroyed)?;
        if !self.app.membership()?.keeps_audiences(&id)? {
            let joined = self.enter_by_name(uid, &place)?;
            // It may have gone meanwhile, when its members had left already.
            if let Err(error) = self.app.membership()?.keeps_audiences(&id) {
                self.data.leave(uid.as_str(), frontend);
                return Err(error.into());
            }
            return Ok(joined);
        }
        // Before it is asked, so that it counts as a place if its answer is lost; and again after it.
        if !self.data.enter_place(&place) {
            return Err(JoinError::Destroyed);
        }
        let joined = AudienceCalls::of(&self.app)
            .join(&id, key.clone(), uid, sid)
            .await?;
        if !self.data.enter_place(&place) {
            OwnChannels::of(&self.app).end_audience(&id, key);
            return Err(JoinError::Destroyed);
        }
        if joined.is_new() {
            self.data.store_join(uid.as_str(), frontend);
        }
        Ok(joined)
    }

    /// At a Pitaya frontend, which cannot be asked.
    fn enter_by_name(&self, uid: &Uid, frontend: &FrontendId) -> Result<Joined, JoinError> {
        if self.data.add(uid, frontend) {
            return Ok(Joined::New);
        }
        match self.data.state() {
            ChannelState::Open => Ok(Joined::Already),
            ChannelState::Destroyed => Err(JoinError::Destroyed),
        }
    }

    /// Takes the user of this session out. False if they were no member there.
    ///
    /// # Errors
    /// The frontend could not be asked. It still has the member then.
    pub async fn quit(&self, session: &SessionView) -> Result<bool, RemoteError> {
        match session.uid() {
            Some(uid) => self.leave(uid.as_str(), session.frontend_id()).await,
            None => Ok(false),
        }
    }

    /// Takes a user on a frontend out. False if they were no member there.
    ///
    /// # Errors
    /// As [`quit`](Self::quit).
    pub async fn leave(&self, uid: &str, frontend: &str) -> Result<bool, RemoteError> {
        if self.data.leave(uid, frontend) {
            return Ok(true);
        }
        let id = ServerId::new(frontend).map_err(|_| RemoteError::server_not_found())?;
        // Its places do not say it: a frontend that is away is none, and keeps its members.
        if !self.app.membership()?.keeps_audiences(&id)? {
            return Ok(false);
        }
        let Some(key) = self.key() else {
            return Ok(false);
        };
        let key = Arc::clone(key.shared());
        let left = AudienceCalls::of(&self.app)
            .leave(&id, key, false, uid)
            .await?
            > 0;
        if left {
            self.data.store_leave(uid, frontend);
        }
        Ok(left)
    }

    /// The members, by frontend, on each in the order of joining. Asks the frontends that have some.
    ///
    /// # Errors
    /// Some frontends did not say; the others' members are in the error.
    pub async fn members(&self) -> Result<Members, PartlyKnown> {
        self.ask(true, None).await
    }

    /// How many members there are. Asks the frontends that have some.
    ///
    /// # Errors
    /// As [`members`](Self::members).
    pub async fn len(&self) -> Result<usize, PartlyKnown> {
        Ok(self.ask(false, None).await?.count)
    }

    /// Whether there are no members.
    ///
    /// # Errors
    /// As [`members`](Self::members).
    pub async fn is_empty(&self) -> Result<bool, PartlyKnown> {
        Ok(self.len().await? == 0)
    }

    /// Pomelo's name for [`len`](Self::len).
    ///
    /// # Errors
    /// As [`members`](Self::members).
    pub async fn user_amount(&self) -> Result<usize, PartlyKnown> {
        self.len().await
    }

    /// The frontends on which a user is a member.
    ///
    /// # Errors
    /// As [`members`](Self::members).
    pub async fn frontends_of(&self, uid: &str) -> Result<Vec<FrontendId>, PartlyKnown> {
        let found = self.ask(true, Some(uid)).await?;
        Ok((found.list.into_iter())
            .map(|(_, frontend)| frontend)
            .collect())
    }

    /// Pomelo's name (`getMember`) for [`frontends_of`](Self::frontends_of).
    ///
    /// # Errors
    /// As [`members`](Self::members).
    pub async fn member(&self, uid: &str) -> Result<Vec<FrontendId>, PartlyKnown> {
        self.frontends_of(uid).await
    }

    async fn ask(&self, named: bool, only: Option<&str>) -> Result<Members, PartlyKnown> {
        let places = self.data.places();
        let frontends: Vec<FrontendId> = places.into_iter().map(|p| p.frontend).collect();
        let asked = match self.key().filter(|_| !frontends.is_empty()) {
            Some(key) => {
                AudienceCalls::of(&self.app)
                    .members(&key, frontends, named, only)
                    .await
            }
            None => Ok(Members::default()),
        };
        let plan = self.data.members_by_frontend();
        let by_name = plan.iter().flat_map(|group| {
            let uids = group.uids.iter();
            uids.map(|uid| (uid.clone(), group.frontend.clone()))
        });
        let by_name: Vec<_> = by_name
            .filter(|(uid, _)| only.is_none_or(|only| uid.as_str() == only))
            .collect();
        let with = |mut members: Members| {
            members.count += by_name.len();
            if named {
                members.list.extend(by_name);
            }
            members
        };
        match asked {
            Ok(members) => Ok(with(members)),
            Err(PartlyKnown { members, silent }) => Err(PartlyKnown {
                members: with(members),
                silent,
            }),
        }
    }

    /// Destroys the channel: joins and pushes fail, and its members leave. A new channel of that name is independent. Returns false if it
    /// was destroyed before.
    pub fn destroy(&self) -> bool {
        let destroyed = self.data.destroy();
        if destroyed && let Some(key) = self.key() {
            for place in self.data.places() {
                if let Ok(id) = ServerId::new(place.frontend.as_str()) {
                    OwnChannels::of(&self.app).end_audience(&id, key.clone());
                }
            }
        }
        destroyed
    }

    /// Sends a message to all members. A channel without members is no error.
    ///
    /// # Errors
    /// [`PushError`]: the channel was destroyed, the value is empty or cannot be serialised, or no frontend could be reached.
    pub fn push_message<T: Serialize + ?Sized>(&self, route: &str, value: &T) -> Push {
        Latest::of(self, None).push_message(route, value)
    }

    /// As [`push_message`](Self::push_message), to all members but this user.
    ///
    /// # Errors
    /// As [`push_message`](Self::push_message).
    pub fn push_except<T: Serialize + ?Sized>(&self, uid: &str, route: &str, value: &T) -> Push {
        Latest::of(self, None).push_except(uid, route, value)
    }

    /// As [`push_message`](Self::push_message), and [`Delivered::missing`] names the members whose sessions did not take it instead of only
    /// counting them.
    ///
    /// # Errors
    /// As [`push_message`](Self::push_message).
    pub fn push_message_naming<T: Serialize + ?Sized>(&self, route: &str, value: &T) -> Push {
        Latest::of(self, None).push_message_naming(route, value)
    }

    /// As [`push_message`](Self::push_message), without asking who was reached: one message for each frontend and none back, half of what
    /// goes over the network otherwise.
    ///
    /// # Errors
    /// As [`push_message`](Self::push_message).
    pub fn push_message_unconfirmed<T: Serialize + ?Sized>(
        &self,
        route: &str,
        value: &T,
    ) -> Result<(), PushError> {
        Latest::of(self, None).push_message_unconfirmed(route, value)
    }
}
