//! The frontend with the session: the relay is a connection to it, which claims the session.

use std::sync::Arc;

use shaddock_cluster::{BoxFuture, RemoteError, ServerId, ServerInfo, SessionAnswer, code};
use shaddock_core::{ResumeRefusal, TransportKind};
use shaddock_net::{Carried, Peer, Pipe, RelayAnswer, Relayed};
use shaddock_protocol::{PackageType, encode_package};
use tokio::sync::oneshot;

use super::{
    Listed,
    wire::{Open, Opened},
};
use crate::{app::AppHandle, resume::relays::Key};

/// The frontend with the session.
#[derive(Clone, Copy)]
pub(crate) struct SessionSide<'a> {
    app: &'a AppHandle,
}

impl<'a> SessionSide<'a> {
    pub(crate) const fn of(app: &'a AppHandle) -> Self {
        Self { app }
    }

    /// Whether clients can come back to their sessions here through a frontend that is none of `but`.
    pub(crate) fn is_relayed_by_others(self, but: &[AppHandle]) -> bool {
        let (policy, Ok(membership)) = (self.app.resume_policy(), self.app.membership()) else {
            return false;
        };
        let relays = |server: &Arc<ServerInfo>| {
            let is_ours = but.iter().any(|app| app.id() == server.id.as_str());
            server.frontend && !is_ours && server.announces_any_node()
        };
        let others = membership.members().servers_of(self.app.server_type());
        policy.enabled && policy.other_frontends && others.iter().any(relays)
    }

    /// Another frontend has the socket of a client that comes back.
    pub(crate) fn serve_relay(
        self,
        open: Open,
    ) -> BoxFuture<'static, Result<SessionAnswer, RemoteError>> {
        let app = self.app.clone();
        Box::pin(async move {
            let opened = SessionSide::of(&app).take_in_relay(open).await?;
            let answer = serde_json::to_vec(&opened).unwrap_or_default();
            Ok(SessionAnswer::Custom(answer.into()))
        })
    }

    async fn take_in_relay(self, open: Open) -> Result<Opened, RemoteError> {
        let bad =
            |error: &dyn std::fmt::Display| RemoteError::new(code::BAD_REQUEST, error.to_string());
        let key = Key {
            other: ServerId::new(open.from).map_err(|error| bad(&error))?,
            number: open.number,
            is_home: true,
        };
        let hello = encode_package(PackageType::Handshake, open.handshake.get().as_bytes());
        let hello = hello.map_err(|error| bad(&error))?;
        let (ours, drivers) = Pipe::pair();
        ours.write(&hello);
        let listed = Listed::new(self.app, key, ours);
        let (answer, judged) = oneshot::channel();
        let transport = match (open.is_websocket, open.is_tls) {
            (false, false) => TransportKind::Tcp,
            (false, true) => TransportKind::Tls,
            (true, false) => TransportKind::WebSocket,
            (true, true) => TransportKind::WebSocketTls,
        };
        let relayed = Box::new(Relayed {
            peer: Peer {
                address: open.address,
                transport,
            },
            user: open.user,
            carried: open.login.map(|login| Box::new(login) as Carried),
            pipe: drivers,
            answer,
        });
        if !self.app.listeners().take_in(relayed) {
            return Ok(Opened::Refused(ResumeRefusal::Unknown.name().to_owned()));
        }
        Ok(match judged.await {
            Ok(RelayAnswer::Accepted) => {
                listed.begin();
                Opened::Yes
            }
            Ok(RelayAnswer::Superseded) => Opened::Elsewhere,
            Ok(RelayAnswer::Refused(why)) => Opened::Refused(why.name().to_owned()),
            // The handshake was refused, or this frontend stops.
            Err(_) => Opened::Refused(ResumeRefusal::Unknown.name().to_owned()),
        })
    }
}
