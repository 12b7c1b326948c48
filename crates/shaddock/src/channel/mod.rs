//! Channels, and every other way to send messages that clients did not ask for.
//!
//! A channel is a named list of members, each a user on a frontend. It is known to the app that made it, usually a backend. A push groups the
//! members by frontend, sends one message to each frontend, and there the message is encoded once for each dialect; every session gets a
//! pointer to the same bytes.
//!
//! ```
//! use shaddock::prelude::*;
//!
//! async fn send(session: SessionView, channels: Channels, Json(text): Json<String>) -> Result<(), HandlerError> {
//!     let room = channels.create("lobby")?;
//!     room.join(&session);
//!     let delivered = room.push_message("onChat", &serde_json::json!({"msg": text})).await?;
//!     if !delivered.missing.is_empty() {
//!         // These members have no session any more.
//!     }
//!     Ok(())
//! }
//! ```
//!
//! A push is on its way when the call returns, before its future is polled: messages of one sender reach a session in the order of the calls.
//! What the future answers with says who was not reached. "Reached" means that the message is in the session's outbound queue.
//!
//! Members leave by themselves when their last session on the frontend closes or is unbound.
//!
//! Instead of at once a frontend can send pushes in [batches](Schedule::Buffered); its [`PushConfig`] decides that by route.

mod deliver;
mod forget;
mod pressure;
mod push;
mod schedule;

use std::{ops::Deref, sync::Arc};

use serde::Serialize;
pub use shaddock_core::{
    ChannelConfig, ChannelError, ChannelState, ChannelStore, MemoryStore, RestoreError, StoreError,
};
use shaddock_core::{FanOut, FrontendId, Uid};

pub(crate) use self::{deliver::BROADCAST, forget::Forgotten, push::Message, schedule::Scheduler};
pub use self::{
    push::{BroadcastOptions, Delivered, FailedFrontend, Push, PushError},
    schedule::{BroadcastFilter, PushConfig, RouteSchedule, Schedule},
};
use crate::{
    app::AppHandle,
    error::HandlerError,
    extract::{FromParts, Parts},
    session::SessionView,
};

/// The channels of an app, and pushes without a channel. Pomelo's `channelService`. An extractor; also [`AppHandle::channels`].
#[derive(Debug, Clone)]
pub struct Channels(AppHandle);

impl AppHandle {
    /// The channels of this app.
    pub fn channels(&self) -> Channels {
        Channels(self.clone())
    }
}

impl FromParts for Channels {
    fn from_parts(parts: &Parts<'_>) -> Result<Self, HandlerError> {
        Ok(parts.app().channels())
    }
}

impl Channels {
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
        self.0.channel_data().destroy_channel(name)
    }

    /// The names of all channels, in no order.
    pub fn names(&self) -> Vec<Arc<str>> {
        self.0.channel_data().names()
    }

    /// Number of channels.
    pub fn count(&self) -> usize {
        self.0.channel_data().channel_count()
    }

    /// Takes a user out of all channels of this app, and says of how many.
    pub fn leave_all(&self, uid: &str, frontend: &str) -> usize {
        self.0
            .channel_data()
            .remove_member_everywhere(uid, frontend)
    }

    /// Brings back the channels from the [store](ChannelConfig::store). Call it once, from a component's start.
    ///
    /// # Errors
    /// The store failed or holds something else; then nothing was restored.
    pub fn restore(&self) -> Result<usize, RestoreError> {
        self.0.channel_data().restore()
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
        if users.is_empty() {
            return Push::failed(PushError::NoReceivers);
        }
        self.0
            .push_to(route, value, &FanOut::from_targets(users.iter().cloned()))
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
        if users.is_empty() {
            return Push::failed(PushError::NoReceivers);
        }
        self.0.push_to_users(frontend_type, route, value, users)
    }

    /// Sends a message to the clients of all frontends of a type. Nobody there is no error.
    ///
    /// # Errors
    /// [`PushError`]: the value is empty or cannot be serialised, or there are frontends and none could be reached.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "options are made for the call"
    )]
    pub fn broadcast<T: Serialize + ?Sized>(
        &self,
        frontend_type: &str,
        route: &str,
        value: &T,
        options: BroadcastOptions,
    ) -> Push {
        self.0.broadcast(frontend_type, route, value, &options)
    }
}

/// One channel. Dereferences to the list of its members.
#[derive(Debug, Clone)]
pub struct Channel {
    app: AppHandle,
    data: Arc<shaddock_core::Channel>,
}

impl Deref for Channel {
    type Target = Arc<shaddock_core::Channel>;
    fn deref(&self) -> &Self::Target {
        &self.data
    }
}

impl Channel {
    /// Makes the user of this session a member. False if the session has no user, is closed, or the user is a member already.
    pub fn join(&self, session: &SessionView) -> bool {
        let (Some(uid), Ok(frontend)) = (session.uid(), FrontendId::new(session.frontend_id()))
        else {
            return false;
        };
        let Some(here) = session.session() else {
            return self.data.add(uid, &frontend);
        };
        if here.is_closed() {
            return false;
        }
        // It may close in this moment; then another session of the user may be there.
        let service = self.app.session_service();
        let is_there =
            || service.is_some_and(|all| all.for_each_session_of(uid.as_str(), |_| ()) > 0);
        self.data.add_if(uid, &frontend, is_there)
    }

    /// Takes the user of this session out. False if he is no member.
    pub fn quit(&self, session: &SessionView) -> bool {
        session
            .uid()
            .is_some_and(|uid| self.data.leave(uid.as_str(), session.frontend_id()))
    }

    /// Sends a message to all members. A channel without members is no error.
    ///
    /// # Errors
    /// [`PushError`]: the channel was destroyed, the value is empty or cannot be serialised, or no frontend could be reached.
    pub fn push_message<T: Serialize + ?Sized>(&self, route: &str, value: &T) -> Push {
        match self.data.fan_out() {
            Ok(plan) => self.app.push_to(route, value, &plan),
            Err(error) => Push::failed(error.into()),
        }
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
        let plan = self.data.fan_out()?;
        self.app.push_unconfirmed(route, value, &plan)
    }
}
