//! Pushes of which the newest is enough.

use serde::Serialize;
use shaddock_core::{ChannelError, FanOutGroup, FrontendId, Uid};

use super::{
    BroadcastOptions, Channel, Channels, Push, PushError, Topic, TopicPush,
    push::{Content, Pushes, ToMembers},
};
use crate::session::{SessionError, SessionView};

/// Pushes of which the newest of a key is enough: positions, scores, the state of a match. `latest(key)` of a [session](SessionView::latest), of a
/// [channel](Channel::latest), of a [topic](Topic::latest) and of [`Channels`](Channels::latest) gives it.
///
/// While a client cannot take messages (its socket is full, or its session is [suspended](crate::session::SessionView::is_suspended)), only the newest
/// message of each key waits for it, in its place in the order of messages; the older ones are not sent. A client that reads gets all of them.
///
/// A key belongs to one session and has 1 to 128 bytes; it is the same key for all senders and routes.
///
/// ```
/// use shaddock::prelude::*;
///
/// async fn moved(User(uid): User, channels: Channels, Json(place): Json<(f32, f32)>) -> Result<(), HandlerError> {
///     let room = channels.create("room")?;
///     // Whoever was away for a while gets the last position of each player, and not the way there.
///     let key = format!("position:{uid}");
///     room.latest(&key).push_message("onMove", &place).await?;
///     Ok(())
/// }
/// ```
#[derive(Debug, Clone, Copy)]
#[must_use = "nothing is sent yet"]
pub struct Latest<'a, S> {
    sender: &'a S,
    key: Option<&'a str>,
}

impl<'a, S> Latest<'a, S> {
    /// Without a key, all messages are needed.
    pub(crate) const fn of(sender: &'a S, key: Option<&'a str>) -> Self {
        Self { sender, key }
    }

    const fn content<'b, T: ?Sized>(&self, route: &'b str, value: &'b T) -> Content<'b, T>
    where
        'a: 'b,
    {
        Content {
            route,
            value,
            latest: self.key,
        }
    }
}

impl SessionView {
    /// Pushes of which the newest of this key is enough.
    pub const fn latest<'a>(&'a self, key: &'a str) -> Latest<'a, Self> {
        Latest::of(self, Some(key))
    }
}

impl Latest<'_, SessionView> {
    /// As [`SessionView::push_message`].
    ///
    /// # Errors
    /// As there, and the key is empty or too long.
    pub async fn push_message<T: Serialize + ?Sized>(
        &self,
        route: &str,
        value: &T,
    ) -> Result<(), SessionError> {
        let message = self.content(route, value).message()?;
        self.sender.send_message(message).await
    }
}

impl Channels {
    /// Pushes of which the newest of this key is enough.
    pub const fn latest<'a>(&'a self, key: &'a str) -> Latest<'a, Self> {
        Latest::of(self, Some(key))
    }
}

impl Latest<'_, Channels> {
    /// As [`Channels::push_message_by_uids`].
    ///
    /// # Errors
    /// As there, and [`PushError::LatestKey`].
    pub fn push_message_by_uids<T: Serialize + ?Sized>(
        &self,
        route: &str,
        value: &T,
        users: &[(Uid, FrontendId)],
    ) -> Push {
        if users.is_empty() {
            return Push::failed(PushError::NoReceivers);
        }
        let plan = FanOutGroup::plan(users.iter().cloned());
        let span = Pushes::of(&self.sender.0).span(route, "users", None);
        let pushed = Pushes::of(&self.sender.0).to_plan(&self.content(route, value), &plan);
        pushed.in_span(span)
    }

    /// As [`Channels::push_message_to_users`].
    ///
    /// # Errors
    /// As there, and [`PushError::LatestKey`].
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
        let content = self.content(route, value);
        let span = Pushes::of(&self.sender.0).span(route, "users", None);
        let pushed = Pushes::of(&self.sender.0).to_users(frontend_type, &content, users);
        pushed.in_span(span)
    }

    /// As [`Channels::broadcast`].
    ///
    /// # Errors
    /// As there, and [`PushError::LatestKey`].
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
        let content = self.content(route, value);
        let span = Pushes::of(&self.sender.0).span(route, "all", Some(frontend_type));
        let pushed = Pushes::of(&self.sender.0).broadcast(frontend_type, &content, &options);
        pushed.in_span(span)
    }
}

impl Channel {
    /// Pushes of which the newest of this key is enough.
    pub const fn latest<'a>(&'a self, key: &'a str) -> Latest<'a, Self> {
        Latest::of(self, Some(key))
    }
}

impl Latest<'_, Channel> {
    /// As [`Channel::push_message`].
    ///
    /// # Errors
    /// As there, and [`PushError::LatestKey`].
    pub fn push_message<T: Serialize + ?Sized>(&self, route: &str, value: &T) -> Push {
        self.send(route, value, None, false)
    }

    /// As [`Channel::push_except`].
    ///
    /// # Errors
    /// As there, and [`PushError::LatestKey`].
    pub fn push_except<T: Serialize + ?Sized>(&self, uid: &str, route: &str, value: &T) -> Push {
        self.send(route, value, Some(uid), false)
    }

    /// As [`Channel::push_message_naming`].
    ///
    /// # Errors
    /// As there, and [`PushError::LatestKey`].
    pub fn push_message_naming<T: Serialize + ?Sized>(&self, route: &str, value: &T) -> Push {
        self.send(route, value, None, true)
    }

    fn send<T: Serialize + ?Sized>(
        &self,
        route: &str,
        value: &T,
        except: Option<&str>,
        name_missing: bool,
    ) -> Push {
        let Some(key) = self.sender.key() else {
            return Push::failed(ChannelError::Destroyed.into());
        };
        let to = ToMembers {
            key,
            except,
            name_missing,
        };
        let Channel { app, data } = self.sender;
        let span = Pushes::of(app).span(route, "channel", Some(to.key.name()));
        let pushed = Pushes::of(app).to_channel(&self.content(route, value), data, &to);
        pushed.in_span(span)
    }

    /// As [`Channel::push_message_unconfirmed`].
    ///
    /// # Errors
    /// As there, and [`PushError::LatestKey`].
    pub fn push_message_unconfirmed<T: Serialize + ?Sized>(
        &self,
        route: &str,
        value: &T,
    ) -> Result<(), PushError> {
        let to = ToMembers {
            key: self.sender.key().ok_or(ChannelError::Destroyed)?,
            except: None,
            name_missing: false,
        };
        let Channel { app, data } = self.sender;
        let span = Pushes::of(app).span(route, "channel", Some(to.key.name()));
        let pushed = Pushes::of(app).to_channel_unconfirmed(&self.content(route, value), data, &to);
        if let (Some(span), Err(error)) = (&span, &pushed) {
            span.failed("push", &error.to_string());
        }
        pushed
    }
}

impl Topic {
    /// Pushes of which the newest of this key is enough.
    pub const fn latest<'a>(&'a self, key: &'a str) -> Latest<'a, Self> {
        Latest::of(self, Some(key))
    }
}

impl Latest<'_, Topic> {
    /// As [`Topic::push`].
    pub fn push<T: Serialize + ?Sized>(&self, route: &str, value: &T) -> TopicPush {
        self.sender.send(&self.content(route, value), None)
    }

    /// As [`Topic::push_except`].
    pub fn push_except<T: Serialize + ?Sized>(
        &self,
        uid: &str,
        route: &str,
        value: &T,
    ) -> TopicPush {
        self.sender.send(&self.content(route, value), Some(uid))
    }
}
