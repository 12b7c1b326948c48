//! Handshakes as the application sees them: check the client, answer with data.

mod logins;

use std::{net::SocketAddr, sync::Arc, time::SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use shaddock_core::{Session, Uid};
use shaddock_net::Peer;
use shaddock_protocol::{Dialect, HandshakeRequest, RejectCode};

pub(crate) use self::logins::Logins;
use crate::app::AppHandle;

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
