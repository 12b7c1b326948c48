//! What other servers may do to the sessions of this frontend. Pomelo's `sessionRemote`.

use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use shaddock_cluster::{
    BoxFuture, ForwardedSession, RawSid, RemoteError, SessionAnswer, SessionData, SessionOp, code,
};
use shaddock_core::{CloseReason, Session, SessionService, SettingError, Sid, Uid};

use super::{
    Binder, SessionError, SessionView,
    binding::{END_SUSPENDED, serve_end_suspended},
    claims::{CLAIMS, serve_claims},
    expiry::EXPIRE,
};
use crate::{
    app::AppHandle,
    channel::{Audiences, Deliveries},
    resume::relay::{self, Mover, SessionSide},
};

/// Operations on sessions of this frontend, which other servers request.
#[derive(Clone, Copy)]
pub(crate) struct SessionOps<'a> {
    app: &'a AppHandle,
}

impl<'a> SessionOps<'a> {
    pub(crate) const fn of(app: &'a AppHandle) -> Self {
        Self { app }
    }

    /// Does what another server asks.
    pub(crate) fn serve(
        self,
        op: SessionOp,
    ) -> BoxFuture<'static, Result<SessionAnswer, RemoteError>> {
        let Some(service) = self.app.session_service() else {
            return Box::pin(std::future::ready(Err(SessionError::NoFrontend.into())));
        };
        // Only a bind may have to wait.
        if let SessionOp::Bind { sid, uid } = op {
            let app = self.app.clone();
            return Box::pin(async move {
                let uid = Uid::new(uid).map_err(SessionError::from)?;
                Binder::of(&app).bind_sid(sid_of(sid)?, uid).await?;
                Ok(SessionAnswer::Done)
            });
        }
        match op {
            SessionOp::Join { .. }
            | SessionOp::Leave { .. }
            | SessionOp::EndAudience { .. }
            | SessionOp::Audience { .. }
            | SessionOp::Audiences { .. }
            | SessionOp::NextNotice { .. } => Audiences::of(self.app).serve(service, op),
            SessionOp::Custom { name, argument } if *name == *relay::OPEN => {
                match parse(&argument) {
                    Ok(open) => SessionSide::of(self.app).serve_relay(open),
                    Err(error) => Box::pin(std::future::ready(Err(error))),
                }
            }
            SessionOp::Custom { name, argument } if *name == *relay::BYTES => {
                Mover::of(self.app).serve_relay_bytes(argument)
            }
            op => Box::pin(std::future::ready(self.execute(service, op))),
        }
    }

    fn execute(
        self,
        service: &SessionService,
        op: SessionOp,
    ) -> Result<SessionAnswer, RemoteError> {
        match op {
            SessionOp::Unbind { sid, uid } => {
                let uid = Uid::new(uid).map_err(SessionError::from)?;
                service
                    .unbind(sid_of(sid)?, &uid)
                    .map_err(SessionError::from)?;
                Ok(SessionAnswer::Done)
            }
            SessionOp::Merge {
                sid,
                changes,
                removed,
                ..
            } => {
                session(service, sid)?
                    .change_settings(Arc::unwrap_or_clone(changes), &removed)
                    .map_err(SessionError::from)?;
                Ok(SessionAnswer::Done)
            }
            SessionOp::Replace { sid, data } => replace(&*session(service, sid)?, &data),
            SessionOp::Kick { sid, reason, .. } => {
                let closed = session(service, sid).is_ok_and(|s| s.close(kick(reason)));
                Ok(SessionAnswer::Kicked(u32::from(closed)))
            }
            SessionOp::KickUser { uid, reason } => {
                let closed = service.close_by_uid(&uid, &kick(reason));
                Ok(SessionAnswer::Kicked(
                    u32::try_from(closed).unwrap_or(u32::MAX),
                ))
            }
            SessionOp::Get { sid } => {
                let found = session(service, sid);
                let exported = found.iter().map(|s| self.export(s));
                Ok(SessionAnswer::Sessions(exported.collect()))
            }
            SessionOp::GetByUid { uid } => {
                let found = service.get_by_uid(&uid);
                let exported = found.iter().map(|s| self.export(s));
                Ok(SessionAnswer::Sessions(exported.collect()))
            }
            SessionOp::ClientAddress { sid } => Ok(SessionAnswer::Address(
                sid_of(sid)
                    .ok()
                    .and_then(|sid| service.get(sid)?.client().address),
            )),
            SessionOp::Custom { name, argument } => self.execute_custom(service, &name, &argument),
            _ => Err(RemoteError::new(
                code::NOT_FOUND,
                "this frontend does not support the operation",
            )),
        }
    }

    fn execute_custom(
        self,
        service: &SessionService,
        name: &str,
        argument: &Bytes,
    ) -> Result<SessionAnswer, RemoteError> {
        match name {
            CLAIMS => Ok(serve_claims(service, &parse(argument)?)),
            EXPIRE => self.app.expiries().serve(&parse(argument)?),
            END_SUSPENDED => {
                let uid: String = parse(argument)?;
                Ok(serve_end_suspended(service, &uid))
            }
            crate::channel::BROADCAST => {
                let answer = Deliveries::of(self.app).filtered_broadcast(&parse(argument)?);
                Ok(SessionAnswer::Custom(answer))
            }
            _ => Err(RemoteError::new(
                code::NOT_FOUND,
                "this frontend does not support the operation",
            )),
        }
    }

    /// A session as other servers see it.
    fn export(self, session: &Arc<Session>) -> ForwardedSession {
        SessionView::of_session(self.app, session).export()
    }
}

fn parse<'a, T: Deserialize<'a>>(argument: &'a [u8]) -> Result<T, RemoteError> {
    serde_json::from_slice(argument)
        .map_err(|error| RemoteError::new(code::BAD_REQUEST, error.to_string()))
}

fn sid_of(sid: RawSid) -> Result<Sid, RemoteError> {
    Sid::new(sid.get()).ok_or_else(RemoteError::session_not_found)
}

fn session(service: &SessionService, sid: RawSid) -> Result<Arc<Session>, RemoteError> {
    let sid = sid_of(sid)?;
    service
        .get(sid)
        .ok_or_else(|| SessionError::from(SettingError::NoSuchSession { sid }).into())
}

fn replace(session: &Session, data: &SessionData) -> Result<SessionAnswer, RemoteError> {
    if data.is_missing() {
        return Ok(SessionAnswer::Done);
    }
    let new = data
        .to_map()
        .map_err(|error| RemoteError::new(code::BAD_REQUEST, error.to_string()))?;
    session.replace_settings(new).map_err(SessionError::from)?;
    Ok(SessionAnswer::Done)
}

/// A kick that names no reason says `kick`: the client must learn why it was closed.
fn kick(reason: Option<Arc<str>>) -> CloseReason {
    CloseReason::kicked(reason.unwrap_or_else(|| "kick".into()))
}
