//! The app as connectors see it.

use std::{num::NonZeroU64, sync::Arc, time::Duration};

use serde_json::Value;
use shaddock_core::{ClientInfo, CloseReason, Credentials, ResumeRefusal, Session, SessionService};
use shaddock_net::{
    BoxFuture, Carried, Frontend, MaybeReady, Opened, Peer, Pipe, ResumeTerms, Verdict,
};
use shaddock_protocol::{Codec, Dialect, HandshakeRequest, Inbound, RefuseReason, Route};

use crate::{
    answer::Answers,
    app::Server,
    dispatch::{Dispatcher, LeftBehind},
    guarded::caught,
    handshake::{Login, Logins},
    resume::{Resumes, relay::SocketSide},
    session::claims_of,
};

/// What the handshake hook has said of the client.
fn login_in(carried: &Carried) -> Option<&Login> {
    (**carried).downcast_ref()
}

/// What a listener calls.
pub(crate) struct AppFrontend(pub(crate) Server);

impl Frontend for AppFrontend {
    fn for_worker(&self) -> Option<Arc<dyn Frontend>> {
        Some(Arc::new(Self(self.0.counted_apart())))
    }

    fn codec(&self) -> Arc<Codec> {
        self.0.app.codecs().of_connection()
    }

    fn handshake(&self, peer: &Peer, request: &Arc<HandshakeRequest>) -> MaybeReady<Verdict> {
        Logins::of(&self.0.app).check(self.0.registered.hooks(), peer, request)
    }

    fn open(&self, opened: Opened) -> Result<Arc<Session>, CloseReason> {
        if self.0.app.is_draining() {
            return Err(CloseReason::Draining);
        }
        let service = self.0.app.session_service().ok_or(CloseReason::Internal)?;
        let kind = opened.handshake.client_type.as_deref();
        let info = ClientInfo {
            variant: self.0.app.codec().variant(opened.dialect, kind),
            transport: opened.peer.transport,
            address: Some(opened.peer.address),
            connected_at: shaddock_net::now(),
        };
        let session = match &opened.resume {
            Some(secret) => service.create_resumable(info, secret),
            None => service.create(info),
        };
        let limit = self.0.app.config().handshake_bytes;
        session.set_claims(claims_of(&opened.handshake, limit));
        Ok(session)
    }

    fn begin(&self, session: &Arc<Session>, carried: Carried) -> MaybeReady<()> {
        match carried.downcast::<Login>() {
            Ok(login) => Logins::of(&self.0.app).begin(session, *login),
            Err(_) => MaybeReady::Now(()),
        }
    }

    fn resume_terms(&self, peer: &Peer, _: &HandshakeRequest) -> Option<ResumeTerms> {
        Resumes::of(&self.0.app).terms(peer)
    }

    fn resume_window(&self) -> Duration {
        Resumes::of(&self.0.app).window()
    }

    fn next_claim(&self) -> u64 {
        let service = self.0.app.session_service();
        service.map_or(0, SessionService::next_claim)
    }

    fn find_resumable(
        &self,
        peer: &Peer,
        shown: &Credentials,
        dialect: Dialect,
    ) -> Result<Arc<Session>, ResumeRefusal> {
        Resumes::of(&self.0.app).find(peer, shown, dialect)
    }

    fn find_elsewhere(
        &self,
        peer: &Peer,
        request: &Arc<HandshakeRequest>,
        user: Option<&Value>,
        carried: Option<&Carried>,
    ) -> Option<BoxFuture<Result<Option<Pipe>, ResumeRefusal>>> {
        let login = carried.and_then(login_in);
        SocketSide::of(&self.0.app).find_elsewhere(peer, request, user, login)
    }

    fn before_resume(
        &self,
        session: &Arc<Session>,
        peer: &Peer,
        request: &Arc<HandshakeRequest>,
        carried: Option<&Carried>,
    ) -> MaybeReady<Result<(), ResumeRefusal>> {
        let login = carried.and_then(login_in);
        let hook = self.0.registered.hooks().before_resume.get();
        Resumes::of(&self.0.app).before_resume(hook, session, peer, request, login)
    }

    fn session_resumed(&self, session: &Arc<Session>, carried: Carried) {
        if let Some(login) = login_in(&carried) {
            Logins::of(&self.0.app).begin_again(session, login);
        }
    }

    fn resume_refused(&self, why: ResumeRefusal) {
        if let Some(service) = self.0.app.session_service() {
            service.count_resume_refused(why);
        }
    }

    fn message(&self, session: &Arc<Session>, message: Inbound) -> MaybeReady<()> {
        let id = message.id;
        // Code of the application is guarded where it is called. This is the last net under the framework's own.
        caught(|| Dispatcher::of(&self.0).serve_client(session, message)).unwrap_or_else(|panic| {
            shaddock_net::quiet!(error, "the dispatcher panicked", sid = %session.id(), panic = panic.text());
            self.0.app.stats().panics.add(1);
            if let Some(id) = id {
                Answers::of(&self.0.app).refuse(session, id, None, RefuseReason::BadRoute);
            }
            MaybeReady::Now(())
        })
    }

    fn outlives_client(&self, handler: BoxFuture<()>) -> BoxFuture<()> {
        LeftBehind::count(&self.0.app, handler)
    }

    fn refused(
        &self,
        session: &Arc<Session>,
        id: NonZeroU64,
        route: Option<Route>,
        reason: RefuseReason,
    ) {
        Answers::of(&self.0.app).refuse(session, id, route.as_ref(), reason);
    }
}
