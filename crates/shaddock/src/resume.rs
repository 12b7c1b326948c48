//! Sessions that outlive their sockets, as the application and the operator see them. The guide is `docs/resume.md`.

mod policy;
pub(crate) mod relay;
mod relays;
mod returns;

use std::{sync::Arc, time::Duration};

use shaddock_core::{Credentials, ResumeRefusal, Session, TransportKind};
use shaddock_net::{MaybeReady, Peer, ResumeTerms, clock};
use shaddock_protocol::{Dialect, HandshakeRequest};

pub use self::policy::ResumePolicy;
pub(crate) use self::{relays::Relays, returns::Returns};
use crate::{
    app::{AppHandle, Part, ResumeHook},
    handshake::{HandshakeInfo, Login},
    session::{FrontendSession, SessionView},
};

/// Clients that resume their sessions at this frontend.
#[derive(Clone, Copy)]
pub(crate) struct Resumes<'a> {
    app: &'a AppHandle,
}

impl<'a> Resumes<'a> {
    pub(crate) const fn of(app: &'a AppHandle) -> Self {
        Self { app }
    }

    /// What a client that asks for a session which outlives its socket is granted.
    pub(crate) fn terms(self, peer: &Peer) -> Option<ResumeTerms> {
        let policy = self.app.resume_policy();
        let is_tls = matches!(
            peer.transport,
            TransportKind::Tls | TransportKind::WebSocketTls
        );
        if !policy.enabled || (policy.require_tls && !is_tls) {
            return None;
        }
        let config = &self.app.session_service()?.config().resume;
        Some(ResumeTerms {
            window: config.window,
            ack: config.ack.max(1),
            // This frontend can no longer be reached there.
            address: policy.address.clone().filter(|_| !self.app.is_draining()),
        })
    }

    pub(crate) fn window(self) -> Duration {
        self.app
            .session_service()
            .map_or(Duration::ZERO, |service| service.config().resume.window)
    }

    /// The session that a client comes back to.
    pub(crate) fn find(
        self,
        peer: &Peer,
        shown: &Credentials,
        dialect: Dialect,
    ) -> Result<Arc<Session>, ResumeRefusal> {
        let service = self.app.session_service().ok_or(ResumeRefusal::Unknown)?;
        let (address, now) = (peer.address.ip().to_canonical(), clock::now());
        if !self
            .app
            .returns()
            .comes(address, now, self.app.resume_policy())
        {
            service.count_resume_refused(ResumeRefusal::Busy);
            return Err(ResumeRefusal::Busy);
        }
        let found = service.find_resumable(shown, dialect);
        found.inspect_err(|_| self.app.returns().refused(address, now))
    }

    /// Asks the application's hook, if there is one, on the app's behalf as for a handshake. A hook that panics or takes too long refuses.
    pub(crate) fn before_resume(
        self,
        hook: Option<&ResumeHook>,
        session: &Arc<Session>,
        peer: &Peer,
        request: &Arc<HandshakeRequest>,
        login: Option<&Login>,
    ) -> MaybeReady<Result<(), ResumeRefusal>> {
        // The handshake has logged in another user, who gets a session of their own.
        if login.is_some_and(|login| login.is_of_another_user(session)) {
            return MaybeReady::Now(Err(ResumeRefusal::Denied));
        }
        // Cut off: perhaps another frontend owns its user by now.
        if self.app.is_fenced() && session.uid().is_some() {
            return MaybeReady::Now(Err(ResumeRefusal::Denied));
        }
        let Some(hook) = hook else {
            return MaybeReady::Now(Ok(()));
        };
        let view = SessionView::of_session(self.app, session);
        let Some(view) = FrontendSession::try_from_view(view) else {
            return MaybeReady::Now(Err(ResumeRefusal::Denied));
        };
        let info = HandshakeInfo::new(self.app, request, peer);
        let (app, hook, address) = (self.app.clone(), Arc::clone(hook), peer.address);
        MaybeReady::later(async move {
            let limit = app.config().handshake_timeout;
            let asked = app.clone();
            let judged = Part::of(&app, "resume hook")
                .run(limit, move || hook(asked, view, info))
                .await;
            match judged {
                Some(Ok(())) => Ok(()),
                Some(Err(reject)) => {
                    shaddock_net::quiet!(info, "a client cannot resume its session", %address, %reject);
                    Err(ResumeRefusal::Denied)
                }
                None => Err(ResumeRefusal::Denied),
            }
        })
    }
}
