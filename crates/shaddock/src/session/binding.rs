//! Binding a session of this frontend: the app's hook, the cluster, the session service, in this order.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use shaddock_cluster::{ServerId, SessionAnswer, SessionOp};
use shaddock_core::{BindError, CloseReason, Session, SessionService, SessionState, Sid, Uid};

use super::{SessionCalls, SessionError, view::raw};
use crate::app::AppHandle;

/// The operation that asks a frontend to let go of a user whose session waits for its client.
pub(super) const END_SUSPENDED: &str = "shaddock.end_suspended";

/// The longest pause before a bind is tried once more, of pauses that double. All together are twice as long.
const RELEASED: Duration = Duration::from_secs(1);

/// Binds sessions of this frontend to users.
#[derive(Clone, Copy)]
pub(crate) struct Binder<'a> {
    app: &'a AppHandle,
}

impl<'a> Binder<'a> {
    pub(crate) const fn of(app: &'a AppHandle) -> Self {
        Self { app }
    }

    /// Binds the session with this id.
    pub(crate) async fn bind_sid(self, sid: Sid, uid: Uid) -> Result<(), SessionError> {
        let service = self.app.session_service().ok_or(SessionError::NoFrontend)?;
        let session = service.get(sid).ok_or(BindError::NoSuchSession { sid })?;
        self.bind(&session, uid).await
    }

    /// Binds a session.
    pub(crate) async fn bind(self, session: &Arc<Session>, uid: Uid) -> Result<(), SessionError> {
        // A bind that cannot succeed needs no query. The final check is the service's.
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
        self.ask_hook(session, &uid).await?;
        self.end_rivals(&uid);
        let user: Arc<str> = Arc::clone(uid.shared());
        let membership = self.app.membership()?;
        let mut pause = Duration::from_millis(10);
        // Undone if the bind fails, or if this future is dropped while it waits (the request's deadline, its client).
        let bound = loop {
            match membership
                .bind_user(Arc::clone(&user), raw(session.id()))
                .await
            {
                Ok(bound) => break bound,
                Err(shaddock_cluster::BindError::Taken(owner))
                    if self.end_rival_at(&owner, &uid, &mut pause).await => {}
                Err(error) => return Err(owner_error(error, &uid)),
            }
        };
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
    fn end_rivals(self, uid: &Uid) {
        let Some(service) = self.app.session_service() else {
            return;
        };
        if service.config().sessions_per_user.is_one() {
            service.for_each_session_of(uid.as_str(), |rival| {
                rival.close_suspended(CloseReason::Replaced);
            });
        }
    }

    /// The same at another frontend. False: it has a client there, or that frontend cannot be asked, or does not let go in time.
    async fn end_rival_at(self, owner: &ServerId, uid: &Uid, pause: &mut Duration) -> bool {
        if owner.as_str() == self.app.id() || *pause > RELEASED {
            return false;
        }
        let op = SessionOp::Custom {
            name: END_SUSPENDED.into(),
            argument: serde_json::to_vec(uid.as_str()).unwrap_or_default().into(),
        };
        let ended = match SessionCalls::of(self.app).ask(owner, op).await {
            Ok(SessionAnswer::Custom(answer)) => &answer[..] == b"true",
            _ => false,
        };
        if ended {
            // Where the owner is a key at etcd, it is let go of after the session.
            self.app.sleep(*pause).await;
            *pause *= 2;
        }
        ended
    }

    async fn ask_hook(self, session: &Arc<Session>, uid: &Uid) -> Result<(), SessionError> {
        let asked = self.app.application().before_bind(self.app, session, uid);
        match asked {
            Some(decision) => decision.await.map_err(SessionError::Refused),
            None => Ok(()),
        }
    }
}

/// Another frontend wants to bind this user. True if nothing is in its way here any more.
pub(super) fn serve_end_suspended(service: &SessionService, uid: &str) -> SessionAnswer {
    let (mut rivals, mut is_there) = (Vec::new(), false);
    service.for_each_session_of(uid, |rival| match rival.state() {
        SessionState::Suspended => rivals.push(Arc::clone(rival)),
        SessionState::Open => is_there = true,
        SessionState::Closed => {}
    });
    if !is_there {
        for rival in rivals {
            let has_ended = rival.close_suspended(CloseReason::Replaced);
            is_there |= !has_ended && !rival.is_closed();
        }
    }
    let answer: &[u8] = if is_there { b"false" } else { b"true" };
    SessionAnswer::Custom(Bytes::from_static(answer))
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
