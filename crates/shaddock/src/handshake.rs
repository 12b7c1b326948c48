//! Handshakes as the application sees them: check the client, answer with data.

use std::{net::SocketAddr, sync::Arc};

use shaddock_net::{Handled, Peer, Verdict};
use shaddock_protocol::{Dialect, HandshakeRequest, RejectCode};

use crate::{
    app::AppHandle,
    guarded::{Part, guard},
    handler::BoxFuture,
};

/// Judges clients by kind and version.
pub(crate) type ClientCheck = Arc<dyn Fn(Option<&str>, Option<&str>) -> bool + Send + Sync>;
/// Judges handshakes.
pub(crate) type HandshakeHook = Arc<
    dyn Fn(HandshakeInfo) -> BoxFuture<Result<Option<serde_json::Value>, HandshakeReject>>
        + Send
        + Sync,
>;

/// What a client said before it has a session.
#[derive(Debug, Clone)]
pub struct HandshakeInfo {
    app: AppHandle,
    request: Arc<HandshakeRequest>,
    peer: Peer,
}

impl HandshakeInfo {
    /// The app the client connects to.
    pub const fn app(&self) -> &AppHandle {
        &self.app
    }

    /// Everything in the handshake.
    pub fn request(&self) -> &HandshakeRequest {
        &self.request
    }

    /// What the client sent under `user`, parsed anew at each call; null if nothing. A tree may take a hundred times the memory of its
    /// text, and the client has not logged in yet: [`user_as`](Self::user_as) takes what the type takes.
    pub fn user(&self) -> serde_json::Value {
        self.request.user()
    }

    /// What the client sent under `user`, as a type of the application. Members that the type does not have are passed over.
    ///
    /// ```
    /// # use shaddock::prelude::*;
    /// #[derive(serde::Deserialize)]
    /// struct Login<'a> {
    ///     token: &'a str,
    /// }
    ///
    /// fn token(info: &HandshakeInfo) -> Result<&str, HandshakeReject> {
    ///     let login: Login<'_> = info.user_as().map_err(|_| HandshakeReject::new("no token"))?;
    ///     Ok(login.token)
    /// }
    /// ```
    ///
    /// # Errors
    /// It is something else.
    pub fn user_as<'a, T: serde::Deserialize<'a>>(&'a self) -> Result<T, serde_json::Error> {
        self.request.user_as()
    }

    /// The client's address.
    pub const fn address(&self) -> SocketAddr {
        self.peer.address
    }

    /// How it is connected and where from.
    pub const fn peer(&self) -> &Peer {
        &self.peer
    }

    /// The dialect it speaks.
    pub fn dialect(&self) -> Dialect {
        self.request.dialect
    }
}

/// Why a client is refused. It learns the code only; the text is for the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct HandshakeReject {
    code: RejectCode,
    reason: String,
}

impl HandshakeReject {
    /// Code 500 (Pitaya: 400).
    pub fn new(reason: impl Into<String>) -> Self {
        Self {
            code: RejectCode::Failed,
            reason: reason.into(),
        }
    }

    /// Code 501 (Pitaya: 400): the client is too old.
    pub fn old_client(reason: impl Into<String>) -> Self {
        Self {
            code: RejectCode::OldClient,
            reason: reason.into(),
        }
    }
}

impl AppHandle {
    /// Judges a handshake with the app's check and hook.
    pub(crate) fn judge_handshake(
        &self,
        peer: &Peer,
        request: &Arc<HandshakeRequest>,
    ) -> Handled<Verdict> {
        let hooks = self.hooks();
        if let Some(check) = &hooks.client_check {
            let part = Part {
                app: self.clone(),
                name: "client check",
            };
            let judged = guard(&part, || {
                check(request.client_type.as_deref(), request.version.as_deref())
            });
            if !judged.unwrap_or(false) {
                return Handled::Now(Verdict::Reject(RejectCode::OldClient));
            }
        }
        let Some(hook) = &hooks.handshake else {
            return Handled::Now(Verdict::Accept(None));
        };
        let info = HandshakeInfo {
            app: self.clone(),
            request: Arc::clone(request),
            peer: *peer,
        };
        let address = peer.address;
        let hook = Arc::clone(hook);
        let app = self.clone();
        Handled::Later(Box::pin(async move {
            match app
                .limited(
                    "handshake hook",
                    app.config().handshake_timeout,
                    move || hook(info),
                )
                .await
            {
                Some(Ok(user)) => Verdict::Accept(user),
                Some(Err(reject)) => {
                    shaddock_net::quiet!(info, "handshake refused", %address, %reject);
                    Verdict::Reject(reject.code)
                }
                None => Verdict::Reject(RejectCode::Failed),
            }
        }))
    }
}
