//! Sessions of other servers, for code that knows a frontend and a sid or a user. Pomelo's `backendSessionService`.

use std::sync::Arc;

use serde_json::{Map, Value};
use shaddock_cluster::{Located, ServerId, SessionAnswer, SessionOp};
use shaddock_core::{Sid, Uid};

use super::{
    SessionCalls, SessionError, SessionView,
    view::{data_of, raw},
};
use crate::app::AppHandle;

/// Sessions anywhere in the cluster. An extractor; also [`AppHandle::backend_sessions`].
///
/// Every call names the frontend, because a sid means something there only. [`kick_everywhere`](Self::kick_everywhere) and
/// [`locate`](Self::locate) look at all frontends.
#[derive(Debug, Clone)]
pub struct BackendSessions(AppHandle);

impl BackendSessions {
    pub(crate) fn of(app: &AppHandle) -> Self {
        Self(app.clone())
    }

    async fn ask(&self, frontend: &str, op: SessionOp) -> Result<SessionAnswer, SessionError> {
        let frontend = ServerId::new(frontend)
            .map_err(|_| shaddock_cluster::RemoteError::server_not_found())?;
        SessionCalls::of(&self.0).ask(&frontend, op).await
    }

    /// A view of one session, if it is there.
    ///
    /// # Errors
    /// [`SessionError::Remote`] if the frontend cannot be asked.
    pub async fn get(&self, frontend: &str, sid: Sid) -> Result<Option<SessionView>, SessionError> {
        let answer = self.ask(frontend, SessionOp::Get { sid: raw(sid) }).await?;
        Ok(self.views(answer).pop())
    }

    /// Views of all sessions of a user on one frontend.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn get_by_uid(
        &self,
        frontend: &str,
        uid: &str,
    ) -> Result<Vec<SessionView>, SessionError> {
        let answer = self
            .ask(frontend, SessionOp::GetByUid { uid: uid.into() })
            .await?;
        Ok(self.views(answer))
    }

    fn views(&self, answer: SessionAnswer) -> Vec<SessionView> {
        match answer {
            SessionAnswer::Sessions(list) => list
                .into_iter()
                .map(|one| SessionView::of_forwarded(&self.0, one))
                .collect(),
            _ => Vec::new(),
        }
    }

    /// Closes one session; true if it was there. The client is told `reason`.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn kick_by_sid(
        &self,
        frontend: &str,
        sid: Sid,
        reason: &str,
    ) -> Result<bool, SessionError> {
        let op = SessionOp::Kick {
            sid: raw(sid),
            uid: None,
            reason: Some(reason.into()),
        };
        Ok(kicked(&self.ask(frontend, op).await?) > 0)
    }

    /// Closes all sessions of a user on one frontend, and says how many.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn kick_by_uid(
        &self,
        frontend: &str,
        uid: &str,
        reason: &str,
    ) -> Result<u32, SessionError> {
        let op = SessionOp::KickUser {
            uid: uid.into(),
            reason: Some(reason.into()),
        };
        Ok(kicked(&self.ask(frontend, op).await?))
    }

    /// Closes all sessions of a user on all frontends, and says how many. Pomelo has no such call.
    ///
    /// # Errors
    /// [`SessionError::Remote`] if a frontend that might have the user did not answer.
    pub async fn kick_everywhere(&self, uid: &str, reason: &str) -> Result<u32, SessionError> {
        let membership = self.0.membership()?;
        Ok(membership
            .kick_user(uid.into(), Some(reason.into()))
            .await?)
    }

    /// Where a user is connected.
    ///
    /// # Errors
    /// As [`kick_everywhere`](Self::kick_everywhere).
    pub async fn locate(&self, uid: &str) -> Result<Vec<Located>, SessionError> {
        Ok(self.0.membership()?.where_is(uid.into()).await?)
    }

    /// Binds a session to a user.
    ///
    /// # Errors
    /// [`SessionError::Remote`] with the frontend's text.
    pub async fn bind(&self, frontend: &str, sid: Sid, uid: &Uid) -> Result<(), SessionError> {
        self.ask(
            frontend,
            SessionOp::Bind {
                sid: raw(sid),
                uid: Arc::clone(uid.shared()),
            },
        )
        .await
        .map(drop)
    }

    /// Takes the user away from a session.
    ///
    /// # Errors
    /// As [`bind`](Self::bind).
    pub async fn unbind(&self, frontend: &str, sid: Sid, uid: &Uid) -> Result<(), SessionError> {
        self.ask(
            frontend,
            SessionOp::Unbind {
                sid: raw(sid),
                uid: Arc::clone(uid.shared()),
            },
        )
        .await
        .map(drop)
    }

    /// Sets one setting of a session.
    ///
    /// # Errors
    /// As [`bind`](Self::bind).
    pub async fn save(
        &self,
        frontend: &str,
        sid: Sid,
        key: &str,
        value: impl Into<Value>,
    ) -> Result<(), SessionError> {
        let mut settings = Map::new();
        settings.insert(key.to_owned(), value.into());
        self.save_all(frontend, sid, settings).await
    }

    /// Sets several settings of a session and keeps the others.
    ///
    /// # Errors
    /// As [`bind`](Self::bind).
    pub async fn save_all(
        &self,
        frontend: &str,
        sid: Sid,
        settings: Map<String, Value>,
    ) -> Result<(), SessionError> {
        let view = data_of(&settings.clone().into());
        let op = SessionOp::Merge {
            sid: raw(sid),
            changes: Arc::new(settings),
            removed: Vec::new(),
            view,
        };
        self.ask(frontend, op).await.map(drop)
    }
}

fn kicked(answer: &SessionAnswer) -> u32 {
    match answer {
        SessionAnswer::Kicked(n) => *n,
        _ => 0,
    }
}
