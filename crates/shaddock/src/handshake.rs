//! Handshakes as the application sees them: check the client, answer with data.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use shaddock_core::{CloseReason, Session, Uid};
use shaddock_net::{Flow, Handled, Peer, Verdict};
use shaddock_protocol::{Dialect, HandshakeRequest, RejectCode};

use crate::{
    app::AppHandle,
    guarded::{Part, guard},
    handler::BoxFuture,
    session::SessionError,
};

/// Judges clients by kind and version.
pub(crate) type ClientCheck = Arc<dyn Fn(Option<&str>, Option<&str>) -> bool + Send + Sync>;
/// Judges handshakes.
pub(crate) type HandshakeHook =
    Arc<dyn Fn(HandshakeInfo) -> BoxFuture<Result<Accept, HandshakeReject>> + Send + Sync>;

/// What a client said before it has a session.
#[derive(Debug, Clone)]
pub struct HandshakeInfo {
    app: AppHandle,
    request: Arc<HandshakeRequest>,
    peer: Peer,
}

impl HandshakeInfo {
    pub(crate) fn new(app: &AppHandle, request: &Arc<HandshakeRequest>, peer: &Peer) -> Self {
        Self {
            app: app.clone(),
            request: Arc::clone(request),
            peer: *peer,
        }
    }

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
    pub fn user(&self) -> Value {
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
    pub fn user_as<'a, T: Deserialize<'a>>(&'a self) -> Result<T, serde_json::Error> {
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

/// How a client is accepted: who it is, what its session begins with, and what it is told.
///
/// With this a client is logged in by its handshake: its session is bound before its first message is served.
///
/// ```
/// use shaddock::prelude::*;
///
/// #[derive(serde::Deserialize)]
/// struct Login {
///     token: String,
/// }
/// # async fn account(token: &str) -> Option<Uid> { Uid::new(token).ok() }
///
/// let mut app = App::new("connector", "connector-1");
/// app.on_handshake(|info: HandshakeInfo| async move {
///     let login: Login = info.user_as().map_err(|_| HandshakeReject::new("no token"))?;
///     let uid = account(&login.token).await.ok_or_else(|| HandshakeReject::new("wrong token"))?;
///     Ok(Accept::new().bind(uid).settings([("level", 7)]).reply(serde_json::json!({"motd": "welcome"})))
/// });
/// ```
///
/// If the bind fails, because the app's hook refuses it or the user has a session already, the client gets a KICK with the text of the error.
#[derive(Debug, Clone, Default)]
#[must_use = "the hook returns it"]
pub struct Accept {
    reply: Option<Value>,
    login: Option<Box<Login>>,
}

/// The initial values of a session. Serialized for the frontend that holds the session of a returning client.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Login {
    #[serde(default, with = "uid_text")]
    uid: Option<Uid>,
    #[serde(default)]
    settings: Map<String, Value>,
    #[serde(default)]
    expires_at: Option<SystemTime>,
}

/// A user as text. A text that is none fails.
mod uid_text {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
    use shaddock_core::Uid;

    #[expect(clippy::ref_option, reason = "serde calls it so")]
    pub(super) fn serialize<S: Serializer>(uid: &Option<Uid>, to: S) -> Result<S::Ok, S::Error> {
        uid.as_ref().map(Uid::as_str).serialize(to)
    }

    pub(super) fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Option<Uid>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        text.map(|text| Uid::new(text).map_err(D::Error::custom))
            .transpose()
    }
}

impl Login {
    /// Whether the session is bound to another user than this handshake logs in.
    pub(crate) fn is_of_another_user(&self, session: &Session) -> bool {
        let bound = session.uid();
        matches!((&self.uid, &bound), (Some(uid), Some(bound)) if uid != bound)
    }
}

impl Accept {
    /// Lets the client in.
    pub fn new() -> Self {
        Self::default()
    }

    fn login(&mut self) -> &mut Login {
        self.login.get_or_insert_default()
    }

    /// Binds the session to this user, as [`SessionView::bind`](crate::session::SessionView::bind) does. A client that [comes
    /// back](crate::resume) to a session of another user does not get that one, and begins a new session.
    pub fn bind(mut self, uid: Uid) -> Self {
        self.login().uid = Some(uid);
        self
    }

    /// Settings of the session. A client that [comes back](crate::resume) to its session has those that the session has by now.
    pub fn settings<K, V>(mut self, settings: impl IntoIterator<Item = (K, V)>) -> Self
    where
        K: Into<String>,
        V: Into<Value>,
    {
        let settings = settings.into_iter();
        let settings = settings.map(|(key, value)| (key.into(), value.into()));
        self.login().settings.extend(settings);
        self
    }

    /// The session ends at this time, with the reason `expired`, unless a handler
    /// [sets a later one](crate::session::SessionView::set_expires_at): the end of the token that the client logs in with. If the client [comes
    /// back](crate::resume) with a token that ends later, the session does too.
    pub fn expires_at(mut self, when: SystemTime) -> Self {
        self.login().expires_at = Some(when);
        self
    }

    /// Data for the client, which it finds under `user`.
    pub fn reply(mut self, data: impl Into<Value>) -> Self {
        self.reply = Some(data.into());
        self
    }
}

/// What a handshake hook may accept a client with: [`Accept`], data for the client, or nothing.
pub trait IntoAccept {
    /// The same as an [`Accept`].
    fn into_accept(self) -> Accept;
}

impl IntoAccept for Accept {
    fn into_accept(self) -> Accept {
        self
    }
}

impl IntoAccept for Option<Value> {
    fn into_accept(self) -> Accept {
        Accept {
            reply: self,
            login: None,
        }
    }
}

impl IntoAccept for () {
    fn into_accept(self) -> Accept {
        Accept::new()
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
    /// The session begins as the handshake hook said. Its first message waits.
    pub(crate) fn log_in_at_once(&self, session: &Arc<Session>, login: Login) -> Flow {
        let Login {
            uid,
            settings,
            expires_at,
        } = login;
        let begun = session.set_all(settings).map_err(SessionError::from);
        let begun = begun.and_then(|()| match expires_at {
            Some(when) => {
                let left = when.duration_since(SystemTime::now());
                self.expire_at(session, Some(left.unwrap_or(Duration::ZERO)))
            }
            None => Ok(()),
        });
        if let Err(error) = begun {
            refuse(session, error);
            return Flow::Done;
        }
        let Some(uid) = uid else {
            return Flow::Done;
        };
        let (app, session) = (self.clone(), Arc::clone(session));
        Flow::Later(Box::pin(async move {
            if let Err(error) = app.bind_here(&session, uid).await {
                refuse(&session, error);
            }
        }))
    }

    /// The client has come back to its session with this handshake. A later end of its token counts from now on. The settings are those of the session.
    pub(crate) fn log_in_again(&self, session: &Arc<Session>, login: &Login) {
        // Bound since the session was given to this client.
        if login.is_of_another_user(session) {
            session.close(CloseReason::kicked("the session belongs to another user"));
        } else if let Some(when) = login.expires_at {
            self.expire_later(session, when);
        }
    }

    /// Judges a handshake with the app's check and hook.
    pub(crate) fn check_handshake(
        &self,
        peer: &Peer,
        request: &Arc<HandshakeRequest>,
    ) -> Handled<Verdict> {
        let hooks = self.hooks();
        if let Some(check) = hooks.client_check.get() {
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
        let Some(hook) = hooks.handshake.get() else {
            return Handled::Now(Verdict::Accept(None));
        };
        let info = HandshakeInfo::new(self, request, peer);
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
        }))
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
