//! Topics: rooms that no server owns.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use serde::Serialize;
use shaddock_cluster::{AudienceKey, RemoteError, ServerId, ServerInfo};
use shaddock_core::{ChannelError, FrontendId, Uid};
use shaddock_net::MaybeReady;

use super::{
    join::{AudienceCalls, JoinError, Joined, Members, PartlyKnown, user_of},
    push::{Content, PushError, Pushes, ToMembers},
};
use crate::{app::AppHandle, session::SessionView};

/// A room without an owner: any server adds and removes users, pushes, and queries the members. [`AppHandle::topic`] returns it; it exists
/// while it has members.
///
/// ```
/// use shaddock::prelude::*;
///
/// async fn enter(Ctx(app): Ctx, session: SessionView, Json(room): Json<String>) -> Result<Json<usize>, HandlerError> {
///     let topic = app.topic(&format!("room:{room}"));
///     if let (true, Some(uid)) = (topic.join(&session).await?.is_new(), session.uid()) {
///         topic.push_except(uid.as_str(), "onAdd", uid).await?;
///     }
///     Ok(Json(topic.len().await?))
/// }
/// ```
#[derive(Debug, Clone)]
pub struct Topic {
    app: AppHandle,
    /// Or the length of a name that is none.
    key: Result<AudienceKey, usize>,
}

impl Topic {
    pub(crate) fn of(app: &AppHandle, name: &str) -> Self {
        Self {
            app: app.clone(),
            key: AudienceKey::topic(name).ok_or(name.len()),
        }
    }

    /// The frontends that may have members of topics.
    fn frontends(&self) -> Result<Vec<Arc<ServerInfo>>, RemoteError> {
        let membership = self.app.membership()?;
        let mut frontends = membership.members().frontends();
        for departing in membership.departing() {
            if departing.frontend && !frontends.iter().any(|known| known.id == departing.id) {
                frontends.push(departing);
            }
        }
        let keeps =
            |info: &Arc<ServerInfo>| matches!(membership.keeps_audiences(&info.id), Ok(true));
        frontends.retain(keeps);
        Ok(frontends)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.key.as_ref().map_or("", AudienceKey::name)
    }

    fn key(&self) -> Result<&AudienceKey, ChannelError> {
        self.key
            .as_ref()
            .map_err(|len| ChannelError::BadName { len: *len })
    }

    /// Makes the user of this session a member, at the session's frontend. When it is done, every push that begins later, on whichever server,
    /// reaches them; they leave by themselves with their last session there.
    ///
    /// # Errors
    /// [`JoinError`]. Frontends that are Pitaya servers refuse.
    pub async fn join(&self, session: &SessionView) -> Result<Joined, JoinError> {
        let (uid, sid) = user_of(session)?;
        self.enter(&uid, session.frontend_id(), sid).await
    }

    /// Makes a user on a frontend a member.
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
        sid: Option<shaddock_cluster::RawSid>,
    ) -> Result<Joined, JoinError> {
        let key = self
            .key()
            .map_err(|error| JoinError::Refused(error.to_string().into()))?;
        let frontend = ServerId::new(frontend).map_err(|_| RemoteError::server_not_found())?;
        if !self.app.membership()?.keeps_audiences(&frontend)? {
            let why =
                "the frontend is a Pitaya server, which does not support topics; use a channel";
            return Err(JoinError::Refused(why.into()));
        }
        AudienceCalls::of(&self.app)
            .join(&frontend, key.clone(), uid, sid)
            .await
    }

    /// Takes the user of this session out. False if they were no member there.
    ///
    /// # Errors
    /// The frontend could not be asked.
    pub async fn quit(&self, session: &SessionView) -> Result<bool, RemoteError> {
        match session.uid() {
            Some(uid) => self.leave(uid.as_str(), session.frontend_id()).await,
            None => Ok(false),
        }
    }

    /// Takes a user on a frontend out. False if they were no member there. A push that was sent before may not reach them any more.
    ///
    /// # Errors
    /// As [`quit`](Self::quit).
    pub async fn leave(&self, uid: &str, frontend: &str) -> Result<bool, RemoteError> {
        let Ok(key) = self.key() else {
            return Ok(false);
        };
        let frontend = ServerId::new(frontend).map_err(|_| RemoteError::server_not_found())?;
        let key = Arc::clone(key.shared());
        let left = AudienceCalls::of(&self.app)
            .leave(&frontend, key, false, uid)
            .await?;
        Ok(left > 0)
    }

    /// Sends a message to all members: one message for all frontends with members, without replies. Messages of one sender to one topic
    /// arrive in the order of the calls.
    ///
    /// It is on its way when the call returns. Awaiting it tells whether it is, and waits where much is on its way already.
    pub fn push<T: Serialize + ?Sized>(&self, route: &str, value: &T) -> TopicPush {
        self.send(&Content::new(route, value), None)
    }

    /// As [`push`](Self::push), to all members but this user.
    pub fn push_except<T: Serialize + ?Sized>(
        &self,
        uid: &str,
        route: &str,
        value: &T,
    ) -> TopicPush {
        self.send(&Content::new(route, value), Some(uid))
    }

    pub(super) fn send<T: Serialize + ?Sized>(
        &self,
        content: &Content<'_, T>,
        except: Option<&str>,
    ) -> TopicPush {
        let sent = self.key().map_err(PushError::from).and_then(|key| {
            let to = ToMembers {
                key: key.clone(),
                except,
                name_missing: false,
            };
            let sender = Pushes::of(&self.app);
            let span = sender.span(content.route, "topic", Some(key.name()));
            let pushed = sender.to_topic(content, key.name(), to.receivers());
            if let (Some(span), Err(error)) = (&span, &pushed) {
                span.failed("push", &error.to_string());
            }
            pushed
        });
        TopicPush(match sent {
            Ok(room) => MaybeReady::later(async move {
                room.await;
                Ok(())
            }),
            Err(error) => MaybeReady::Now(Err(error)),
        })
    }

    /// The members, by frontend, on each in the order of joining. Asks every frontend.
    ///
    /// # Errors
    /// Some frontends did not say; the others' members are in the error.
    pub async fn members(&self) -> Result<Members, PartlyKnown> {
        self.ask(true, None).await
    }

    /// How many members there are. Asks every frontend.
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

    /// As [`len`](Self::len), or what that said on this server no longer than `age` ago.
    ///
    /// # Errors
    /// As [`members`](Self::members).
    pub async fn len_within(&self, age: Duration) -> Result<usize, PartlyKnown> {
        let Ok(key) = self.key() else { return Ok(0) };
        if let Some(known) = self.app.counted().get(key, age) {
            return Ok(known);
        }
        let count = self.len().await?;
        self.app.counted().put(key, count);
        Ok(count)
    }

    /// The frontends on which a user is a member. Asks every frontend.
    ///
    /// # Errors
    /// As [`members`](Self::members).
    pub async fn frontends_of(&self, uid: &str) -> Result<Vec<FrontendId>, PartlyKnown> {
        let found = self.ask(true, Some(uid)).await?;
        Ok(found
            .list
            .into_iter()
            .map(|(_, frontend)| frontend)
            .collect())
    }

    /// The earlier name of [`frontends_of`](Self::frontends_of).
    ///
    /// # Errors
    /// As [`members`](Self::members).
    pub async fn member(&self, uid: &str) -> Result<Vec<FrontendId>, PartlyKnown> {
        self.frontends_of(uid).await
    }

    async fn ask(&self, named: bool, only: Option<&str>) -> Result<Members, PartlyKnown> {
        let Ok(key) = self.key() else {
            return Ok(Members::default());
        };
        let frontends = self.frontends().map_err(|error| {
            let id = FrontendId::new(self.app.id()).ok();
            PartlyKnown {
                members: Members::default(),
                silent: id.map(|id| (id, error)).into_iter().collect(),
            }
        })?;
        let ids = frontends
            .iter()
            .filter_map(|info| FrontendId::new(info.id.as_str()).ok());
        AudienceCalls::of(&self.app)
            .members(key, ids.collect(), named, only)
            .await
    }
}

/// A push to a topic that is on its way. Dropping it does not take the push back.
#[must_use = "the result says whether it was sent; drop it explicitly to ignore it"]
pub struct TopicPush(MaybeReady<Result<(), PushError>>);

impl TopicPush {
    /// Does not wait.
    pub fn forget(self) {}
}

impl Future for TopicPush {
    type Output = Result<(), PushError>;

    fn poll(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(task)
    }
}
