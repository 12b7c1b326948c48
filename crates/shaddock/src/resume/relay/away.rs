//! The frontend with the socket: it finds the frontend that has the session, and requests it there.

use std::sync::Arc;

use serde_json::{Value, value::RawValue};
use shaddock_cluster::{
    BoxFuture, RemoteErrorKind, ServerId, ServerInfo, SessionAnswer, SessionOp,
};
use shaddock_core::{ResumeRefusal, Sid, TransportKind};
use shaddock_net::{Peer, Pipe, clock};
use shaddock_protocol::{HandshakeRequest, ResumeRequest, ReturningClient};

use super::{
    Listed, OPEN,
    wire::{Open, Opened},
};
use crate::{
    app::AppHandle,
    handshake::Login,
    random::random,
    resume::relays::Key,
    session::{SessionCalls, SessionError},
};

/// The frontend with the socket.
#[derive(Clone, Copy)]
pub(crate) struct SocketSide<'a> {
    app: &'a AppHandle,
}

impl<'a> SocketSide<'a> {
    pub(crate) const fn of(app: &'a AppHandle) -> Self {
        Self { app }
    }

    /// The frontend that has the session of a client which comes back, if it is another one of the type.
    fn home_of(self, back: &ReturningClient) -> Option<Arc<ServerInfo>> {
        if !self.app.resume_policy().other_frontends {
            return None;
        }
        let node = Sid::of_token(&back.token)?.node();
        let membership = self.app.membership().ok()?;
        if node == membership.start_number() {
            return None;
        }
        let mut servers = membership.departing();
        servers.extend(
            membership
                .members()
                .servers_of(self.app.server_type())
                .iter()
                .cloned(),
        );
        servers.into_iter().find(|server| {
            server.frontend
                && *server.server_type == *self.app.server_type()
                && server.id.as_str() != self.app.id()
                && server.announces_node(node)
        })
    }

    /// As [`Frontend::find_elsewhere`](shaddock_net::Frontend::find_elsewhere).
    pub(crate) fn find_elsewhere(
        self,
        peer: &Peer,
        request: &Arc<HandshakeRequest>,
        user: Option<&Value>,
        login: Option<&Login>,
    ) -> Option<BoxFuture<'static, Result<Option<Pipe>, ResumeRefusal>>> {
        let ResumeRequest::Back(back) = &request.resume else {
            return None;
        };
        let home = self.home_of(back)?;
        let (address, now) = (peer.address.ip().to_canonical(), clock::now());
        if !self
            .app
            .returns()
            .comes(address, now, self.app.resume_policy())
        {
            if let Some(service) = self.app.session_service() {
                service.count_resume_refused(ResumeRefusal::Busy);
            }
            return Some(Box::pin(std::future::ready(Err(ResumeRefusal::Busy))));
        }
        let app = self.app.clone();
        let text = std::str::from_utf8(&request.raw).ok()?.to_owned();
        let open = Open {
            from: self.app.id().to_owned(),
            // Not used before, by this start of the server or by an earlier one.
            number: random(),
            handshake: RawValue::from_string(text).ok()?,
            user: user.cloned(),
            login: login.cloned(),
            address: peer.address,
            is_tls: matches!(
                peer.transport,
                TransportKind::Tls | TransportKind::WebSocketTls
            ),
            is_websocket: matches!(
                peer.transport,
                TransportKind::WebSocket | TransportKind::WebSocketTls
            ),
        };
        Some(Box::pin(async move {
            SocketSide::of(&app).open_relay(&home, open).await
        }))
    }

    /// Whether a frontend that did not answer the request for a session may still have the session. A slow frontend has it: with many clients that
    /// come back at once, not all are answered in time. A [suspected](shaddock_cluster::Members::is_suspect) frontend may have died.
    fn may_still_be_there(self, home: &ServerId, error: &SessionError) -> bool {
        let SessionError::Remote(error) = error else {
            return false;
        };
        match error.kind() {
            RemoteErrorKind::Busy | RemoteErrorKind::Disconnected => true,
            RemoteErrorKind::Timeout => {
                let membership = self.app.membership();
                membership.is_ok_and(|it| !it.members().is_suspect(home.as_str()))
            }
            _ => false,
        }
    }

    async fn open_relay(
        self,
        home: &ServerInfo,
        open: Open,
    ) -> Result<Option<Pipe>, ResumeRefusal> {
        let key = Key {
            other: home.id.clone(),
            number: open.number,
            is_home: false,
        };
        let (ours, drivers) = Pipe::pair();
        // Before it is asked: what the session says may come before the answer.
        let listed = Listed::new(self.app, key, ours);
        let op = SessionOp::Custom {
            name: OPEN.into(),
            argument: serde_json::to_vec(&open).unwrap_or_default().into(),
        };
        let answer = SessionCalls::of(self.app).ask(&home.id, op).await;
        // The session lives: the connection is lost, and its client tries again.
        let is_passing = matches!(&answer, Err(error) if self.may_still_be_there(&home.id, error));
        let opened = match answer {
            Ok(SessionAnswer::Custom(answer)) => serde_json::from_slice(&answer).ok(),
            Ok(_) => None,
            Err(error) => {
                shaddock_net::quiet!(warn, "a client resumes a session of a frontend that does not reply", frontend = %home.id, %error);
                None
            }
        };
        match opened {
            Some(Opened::Yes) => {
                listed.begin();
                Ok(Some(drivers))
            }
            Some(Opened::Elsewhere) => Ok(None),
            None if is_passing => Ok(None),
            Some(Opened::Refused(why)) => {
                // Only a frontend that was asked can say that a client showed what it does not have.
                let address = open.address.ip().to_canonical();
                self.app.returns().refused(address, clock::now());
                let mut all = ResumeRefusal::ALL.iter();
                let known = all.find(|known| known.name() == why);
                Err(known.copied().unwrap_or(ResumeRefusal::Unknown))
            }
            None => {
                if let Some(service) = self.app.session_service() {
                    service.count_resume_refused(ResumeRefusal::Unknown);
                }
                Err(ResumeRefusal::Unknown)
            }
        }
    }
}
