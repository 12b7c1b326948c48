//! What an app does with handshakes: its check and hook decide, and the session begins as they say.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use shaddock_core::{CloseReason, Session};
use shaddock_net::{MaybeReady, Peer, Verdict};
use shaddock_protocol::{HandshakeRequest, RejectCode};

use super::{Accept, HandshakeInfo, Login};
use crate::{
    app::{AppHandle, Hooks, Part},
    guarded::guard,
    session::{Binder, SessionError},
};

/// Logs clients in by their handshakes.
#[derive(Clone, Copy)]
pub(crate) struct Logins<'a> {
    app: &'a AppHandle,
}

impl<'a> Logins<'a> {
    pub(crate) const fn of(app: &'a AppHandle) -> Self {
        Self { app }
    }

    /// The session begins as the handshake hook said. Its first message waits.
    pub(crate) fn begin(self, session: &Arc<Session>, login: Login) -> MaybeReady<()> {
        let Login {
            uid,
            settings,
            expires_at,
        } = login;
        let begun = session.set_all(settings).map_err(SessionError::from);
        let begun = begun.and_then(|()| match expires_at {
            Some(when) => {
                let left = when.duration_since(SystemTime::now());
                self.app
                    .expiries()
                    .set(session, Some(left.unwrap_or(Duration::ZERO)))
            }
            None => Ok(()),
        });
        if let Err(error) = begun {
            refuse(session, error);
            return MaybeReady::Now(());
        }
        let Some(uid) = uid else {
            return MaybeReady::Now(());
        };
        let (app, session) = (self.app.clone(), Arc::clone(session));
        MaybeReady::later(async move {
            if let Err(error) = Binder::of(&app).bind(&session, uid).await {
                refuse(&session, error);
            }
        })
    }

    /// The client has come back to its session with this handshake. A later end of its token counts from now on. The settings are those of the session.
    pub(crate) fn begin_again(self, session: &Arc<Session>, login: &Login) {
        // Bound since the session was given to this client.
        if login.is_of_another_user(session) {
            session.close(CloseReason::kicked("the session belongs to another user"));
        } else if let Some(when) = login.expires_at {
            self.app.expiries().put_off(session, when);
        }
    }

    /// Judges a handshake with the app's check and hook.
    pub(crate) fn check(
        self,
        hooks: &Hooks,
        peer: &Peer,
        request: &Arc<HandshakeRequest>,
    ) -> MaybeReady<Verdict> {
        if let Some(check) = hooks.client_check.get() {
            let part = Part::of(self.app, "client check");
            let judged = guard(&part, || {
                check(request.client_type.as_deref(), request.version.as_deref())
            });
            if !judged.unwrap_or(false) {
                return MaybeReady::Now(Verdict::Reject(RejectCode::OldClient));
            }
        }
        let Some(hook) = hooks.handshake.get() else {
            return MaybeReady::Now(Verdict::Accept(None));
        };
        let info = HandshakeInfo::new(self.app, request, peer);
        let address = peer.address;
        let hook = Arc::clone(hook);
        let app = self.app.clone();
        MaybeReady::later(async move {
            let limit = app.config().handshake_timeout;
            let part = Part::of(&app, "handshake hook");
            match part.run(limit, move || hook(info)).await {
                Some(Ok(Accept { reply, login })) => match login {
                    None => Verdict::Accept(reply),
                    Some(login) => Verdict::AcceptWith(reply, login),
                },
                Some(Err(reject)) => {
                    shaddock_net::quiet!(info, "handshake refused", %address, %reject);
                    Verdict::Reject(reject.code)
                }
                None => Verdict::Reject(RejectCode::Failed),
            }
        })
    }
}

/// The session cannot be what the handshake hook wants it to be.
fn refuse(session: &Arc<Session>, error: SessionError) {
    shaddock_net::quiet!(info, "a client is rejected after its handshake", sid = %session.id(), %error);
    let reason = match error {
        SessionError::Refused(error) => CloseReason::kicked(error.message()),
        SessionError::Bind(error) => CloseReason::kicked(error.to_string()),
        // The client may return: the owner of the user cannot be determined now.
        _ => CloseReason::Internal,
    };
    session.close(reason);
}
