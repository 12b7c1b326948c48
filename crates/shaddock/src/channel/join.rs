//! The other side: a server lets users in and out, and asks who is in.

use std::{sync::Arc, time::Duration};

use shaddock_cluster::{
    AudienceKey, BoxFuture, JoinAnswer, RawSid, RemoteError, ServerId, SessionAnswer, SessionOp,
};
use shaddock_core::{FrontendId, Uid};

use super::gone::is_gone;
use crate::{
    app::AppHandle,
    received,
    session::{SessionOps, SessionView, raw_sid},
};

/// A user has joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Joined {
    /// They are a member now.
    New,
    /// They were one before.
    Already,
}

impl Joined {
    /// Whether this call made them a member.
    pub fn is_new(self) -> bool {
        self == Self::New
    }
}

/// A user did not join.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The session is not bound to the user that the view names, or to none. Bind it first.
    #[error("the session is not bound to a user")]
    NotBound,
    /// The session is closed, or the user has none on that frontend.
    #[error("the session is closed, or the user has none on the frontend")]
    Closed,
    /// The frontend does not let them in, for this reason.
    #[error("{0}")]
    Refused(Arc<str>),
    /// The channel was destroyed.
    #[error("channel is not running now")]
    Destroyed,
    /// The frontend could not be asked. After a time-out the user may have joined all the same; `leave` takes them out.
    #[error("{}", .0.message())]
    Remote(#[from] RemoteError),
}

/// Not every frontend has said who is in.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{} did not report the members", list(.silent))]
#[non_exhaustive]
pub struct PartlyKnown {
    /// Those who are known to be in.
    pub members: Members,
    /// The frontends that did not say, and why.
    pub silent: Vec<(FrontendId, RemoteError)>,
}

fn list(silent: &[(FrontendId, RemoteError)]) -> String {
    let names: Vec<&str> = silent.iter().map(|(id, _)| id.as_str()).collect();
    names.join(", ")
}

/// The members of a channel or topic, as the frontends have said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Members {
    /// Users and their frontends; of each frontend in the order of joining. A user on two frontends is two members.
    pub list: Vec<(Uid, FrontendId)>,
    /// How many members there are. More than the list has only if one frontend has more than it can name in one answer (about 20,000).
    pub count: usize,
}

impl Members {
    /// Adds what a frontend has said of one audience.
    fn add(&mut self, frontend: &FrontendId, answer: SessionAnswer) {
        let SessionAnswer::Audiences { parts, .. } = answer else {
            return;
        };
        for part in parts {
            self.count += usize::try_from(part.count).unwrap_or(usize::MAX);
            let uids = part.uids.into_iter().filter_map(|uid| Uid::new(uid).ok());
            self.list.extend(uids.map(|uid| (uid, frontend.clone())));
        }
    }

    /// The users, in the same order.
    pub fn uids(self) -> Vec<Uid> {
        self.list.into_iter().map(|(uid, _)| uid).collect()
    }
}

/// The user and session of a view. Fails if a check without a query to a frontend fails.
pub(super) fn user_of(view: &SessionView) -> Result<(Uid, Option<RawSid>), JoinError> {
    let uid = view.uid().cloned().ok_or(JoinError::NotBound)?;
    if view.frontend_id().is_empty() {
        return Err(JoinError::Closed);
    }
    let sid = view.id().ok_or(JoinError::Closed)?;
    Ok((uid, Some(raw_sid(sid))))
}

/// The calls of a server to the frontends that have the members of its channels and of topics.
#[derive(Clone, Copy)]
pub(crate) struct AudienceCalls<'a> {
    app: &'a AppHandle,
}

impl<'a> AudienceCalls<'a> {
    pub(crate) const fn of(app: &'a AppHandle) -> Self {
        Self { app }
    }

    /// Asks a frontend, which may be this server. It was sent when this returns.
    pub(super) fn ask(
        self,
        frontend: &ServerId,
        op: SessionOp,
        at_most: Option<Duration>,
    ) -> BoxFuture<'static, Result<SessionAnswer, RemoteError>> {
        if frontend == &self.app.info().id {
            return SessionOps::of(self.app).serve(op);
        }
        let wait = self.app.config().rpc_timeout;
        let wait = at_most.map_or(wait, |limit| limit.min(wait));
        match self.app.membership() {
            Ok(membership) => membership.session_op(frontend, op, received::for_call(wait)),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }

    pub(super) async fn join(
        self,
        frontend: &ServerId,
        audience: AudienceKey,
        uid: &Uid,
        sid: Option<RawSid>,
    ) -> Result<Joined, JoinError> {
        let op = SessionOp::Join {
            audience,
            uid: Arc::clone(uid.shared()),
            sid,
        };
        match self.ask(frontend, op, None).await? {
            SessionAnswer::Joined(JoinAnswer::Joined) => Ok(Joined::New),
            SessionAnswer::Joined(JoinAnswer::Already) => Ok(Joined::Already),
            SessionAnswer::Joined(JoinAnswer::NotBound) => Err(JoinError::NotBound),
            SessionAnswer::Joined(JoinAnswer::Closed) => Err(JoinError::Closed),
            SessionAnswer::Joined(JoinAnswer::Refused(reason)) => Err(JoinError::Refused(reason)),
            _ => Err(JoinError::Refused(
                "the frontend's reply does not match a join".into(),
            )),
        }
    }

    /// How many audiences the user has left.
    pub(super) async fn leave(
        self,
        frontend: &ServerId,
        audience: Arc<str>,
        is_prefix: bool,
        uid: &str,
    ) -> Result<usize, RemoteError> {
        let op = SessionOp::Leave {
            audience,
            is_prefix,
            uid: uid.into(),
        };
        match self.ask(frontend, op, None).await? {
            SessionAnswer::Count(left) => Ok(usize::try_from(left).unwrap_or(usize::MAX)),
            _ => Ok(0),
        }
    }

    /// Queries these frontends at the same time for their members. A frontend that is gone has none.
    pub(super) async fn members(
        self,
        audience: &AudienceKey,
        frontends: Vec<FrontendId>,
        named: bool,
        only: Option<&str>,
    ) -> Result<Members, PartlyKnown> {
        let limit = self
            .app
            .membership()
            .map(|membership| membership.push_timeout());
        let ask = |frontend: FrontendId| {
            let id = ServerId::new(frontend.as_str()).ok()?;
            let op = SessionOp::Audience {
                audience: audience.clone(),
                named,
                only: only.map(Arc::from),
            };
            Some((frontend, self.ask(&id, op, limit.as_ref().ok().copied())))
        };
        let asked: Vec<_> = frontends.into_iter().filter_map(ask).collect();
        let (mut members, mut silent) = (Members::default(), Vec::new());
        for (frontend, answer) in asked {
            match answer.await {
                Ok(answer) => members.add(&frontend, answer),
                Err(error) if is_gone(&error) => {}
                Err(error) => silent.push((frontend, error)),
            }
        }
        if silent.is_empty() {
            Ok(members)
        } else {
            Err(PartlyKnown { members, silent })
        }
    }
}
