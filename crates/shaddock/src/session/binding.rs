//! Binding a session of this frontend: the app's hook, the cluster, the session service, in this order.

use std::sync::Arc;

use shaddock_core::{BindError, CloseReason, Session, SessionState, Sid, Uid};

use super::{FrontendSession, SessionError, SessionView, view::raw};
use crate::{app::AppHandle, error::HandlerError, handler::BoxFuture};

/// Asked before a session is bound; may refuse.
pub(crate) type BindHook = Arc<
    dyn Fn(AppHandle, FrontendSession, Uid) -> BoxFuture<Result<(), HandlerError>> + Send + Sync,
>;

impl AppHandle {
    /// Binds a session of this frontend to a user, as [`SessionView::bind`] does. For code that has no view, such as background work.
    ///
    /// # Errors
    /// [`SessionError`].
    pub async fn bind(&self, sid: Sid, uid: Uid) -> Result<(), SessionError> {
        let service = self.session_service().ok_or(SessionError::NoFrontend)?;
        let session = service.get(sid).ok_or(BindError::NoSuchSession { sid })?;
        self.bind_here(&session, uid).await
    }

    pub(crate) async fn bind_here(
        &self,
        session: &Arc<Session>,
        uid: Uid,
    ) -> Result<(), SessionError> {
        // What cannot succeed need not ask anybody. The last word is the service's.
        match session.uid() {
            Some(bound) if bound == uid && !session.is_closed() => return Ok(()),
            Some(bound) if !session.is_closed() => {
                return Err(BindError::AlreadyBound { uid: bound }.into());
            }
            _ if session.is_closed() => {
                return Err(BindError::SessionClosed { sid: session.id() }.into());
            }
            _ => {}
        }
        self.ask_bind_hook(session, &uid).await?;
        self.end_suspended_rivals(&uid);
        let user: Arc<str> = Arc::clone(uid.shared());
        let membership = self.membership()?;
        // Undone if the bind fails, or if this future is dropped while it waits (the request's deadline, its client).
        let bound = membership
            .bind_user(user, raw(session.id()))
            .await
            .map_err(|error| owner_error(error, &uid))?;
        session.bind(uid.clone())?;
        let is_bound = || !session.is_closed() && session.uid().as_ref() == Some(&uid);
        // Another frontend may have taken the user before the session could be found as theirs.
        if !bound.keep(is_bound) {
            session.close(CloseReason::Replaced);
            return Err(BindError::SessionClosed { sid: session.id() }.into());
        }
        Ok(())
    }

    /// With unique sessions, the session of a user that waits for its client blocks no login of the same user: the one who logs in is here, and
    /// the one of that session is not.
    fn end_suspended_rivals(&self, uid: &Uid) {
        let Some(service) = self.session_service() else {
            return;
        };
        if service.config().single_session {
            service.for_each_session_of(uid.as_str(), |rival| {
                if rival.state() == SessionState::Suspended {
                    rival.close(CloseReason::Replaced);
                }
            });
        }
    }

    async fn ask_bind_hook(&self, session: &Arc<Session>, uid: &Uid) -> Result<(), SessionError> {
        let Some(hook) = self.hooks().before_bind.get() else {
            return Ok(());
        };
        let Some(view) = FrontendSession::try_from_view(SessionView::of_session(self, session))
        else {
            return Err(SessionError::NoFrontend);
        };
        let (app, hook, uid) = (self.clone(), Arc::clone(hook), uid.clone());
        match self
            .limited("bind hook", self.config().handler_timeout, move || {
                hook(app, view, uid)
            })
            .await
        {
            Some(Ok(())) => Ok(()),
            Some(Err(error)) => Err(SessionError::Refused(error)),
            None => Err(SessionError::Refused(HandlerError::internal(
                "the bind hook failed",
            ))),
        }
    }
}

/// The user's text, when unique sessions are refused by the cluster, is the one that Pomelo's service gives.
fn owner_error(error: shaddock_cluster::BindError, uid: &Uid) -> SessionError {
    match error {
        shaddock_cluster::BindError::Taken(_) => {
            BindError::SingleSession { uid: uid.clone() }.into()
        }
        other => SessionError::Owner(other),
    }
}
