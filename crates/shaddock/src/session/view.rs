//! The view of a session that handlers get.

use std::{
    net::SocketAddr,
    ops::{Deref, DerefMut},
    sync::{Arc, OnceLock},
};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use shaddock_cluster::{ForwardedSession, ServerId, SessionAnswer, SessionData, SessionOp};
use shaddock_core::{Session, SessionState, SettingError, Settings, Sid, Uid};
use shaddock_protocol::Dialect;

use super::SessionError;
use crate::{
    app::AppHandle,
    channel::Message,
    error::HandlerError,
    extract::{FromParts, Parts, Requirements},
};

/// A session as a handler or filter sees it, for one request. See the [module](super).
///
/// On the frontend nothing is copied until the user or a setting is read.
#[derive(Clone, Debug)]
pub struct SessionView {
    app: AppHandle,
    id: Sid,
    place: Place,
    /// As of the first read.
    copy: OnceLock<Copied>,
    /// Settings that were removed from the view, so that a push of them removes them from the session.
    removed: Vec<String>,
}

#[derive(Clone, Debug)]
enum Place {
    Here(Arc<Session>),
    There(Arc<Forwarded>),
}

#[derive(Debug)]
struct Forwarded {
    /// None, and no number either, in a request that no client sent.
    frontend: Option<ServerId>,
    has_number: bool,
    uid: Option<Uid>,
    data: SessionData,
}

impl Forwarded {
    /// Whom to ask.
    fn frontend(&self) -> Result<&ServerId, SessionError> {
        let frontend = self.frontend.as_ref().filter(|_| self.has_number);
        frontend.ok_or(SessionError::NoSession)
    }
}

#[derive(Clone, Debug, Default)]
struct Copied {
    uid: Option<Uid>,
    settings: Settings,
}

impl SessionView {
    pub(crate) fn of_session(app: &AppHandle, session: &Arc<Session>) -> Self {
        Self {
            app: app.clone(),
            id: session.id(),
            place: Place::Here(Arc::clone(session)),
            copy: OnceLock::new(),
            removed: Vec::new(),
        }
    }

    /// A view of a session as another server sent it. One that does not say which session it is can be read, and nothing else.
    pub(crate) fn of_forwarded(app: &AppHandle, forwarded: ForwardedSession) -> Self {
        let id = forwarded.sid.and_then(|sid| Sid::new(sid.get()));
        let place = Forwarded {
            frontend: forwarded.frontend,
            has_number: id.is_some(),
            uid: forwarded.uid.and_then(|uid| Uid::new(uid).ok()),
            data: forwarded.data,
        };
        Self {
            app: app.clone(),
            id: id.unwrap_or(Sid::MAX),
            place: Place::There(Arc::new(place)),
            copy: OnceLock::new(),
            removed: Vec::new(),
        }
    }

    /// The app that this view belongs to.
    pub const fn app(&self) -> &AppHandle {
        &self.app
    }

    /// The number of the session. Only together with the frontend it means one session.
    ///
    /// A request that came without a session, as programs may send it to a backend, has [`Sid::MAX`]. It has no user either, and whatever is
    /// asked of its session fails with [`SessionError::NoSession`].
    pub const fn id(&self) -> Sid {
        self.id
    }

    /// The frontend that holds the session. Empty if the request came without one.
    pub fn frontend_id(&self) -> &str {
        match &self.place {
            Place::Here(session) => session.frontend_id().as_str(),
            Place::There(there) => there.frontend.as_ref().map_or("", ServerId::as_str),
        }
    }

    /// The session itself, if it is on this server.
    pub const fn session(&self) -> Option<&Arc<Session>> {
        match &self.place {
            Place::Here(session) => Some(session),
            Place::There(_) => None,
        }
    }

    /// The frontend that holds a session of another server.
    pub(super) fn holder(&self) -> Result<&ServerId, SessionError> {
        match &self.place {
            Place::Here(_) => Err(SessionError::NoSession),
            Place::There(there) => there.frontend(),
        }
    }

    /// Whether the session is bound to a user, without a copy.
    pub(crate) fn has_user(&self) -> bool {
        match (&self.place, self.copy.get()) {
            (_, Some(copy)) => copy.uid.is_some(),
            (Place::Here(session), None) => session.uid().is_some(),
            (Place::There(there), None) => there.uid.is_some(),
        }
    }

    /// Whether the session is on this server.
    pub const fn is_here(&self) -> bool {
        matches!(self.place, Place::Here(_))
    }

    /// Whether the session has lost its connection and waits for its client. False on other servers, which do not know.
    pub fn is_suspended(&self) -> bool {
        self.session()
            .is_some_and(|session| session.state() == SessionState::Suspended)
    }

    /// The user, as far as this view knows.
    pub fn uid(&self) -> Option<&Uid> {
        self.copy().uid.as_ref()
    }

    /// The settings of the view.
    pub fn settings(&self) -> &Settings {
        &self.copy().settings
    }

    /// One setting of the view.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.settings().get(key)
    }

    /// One setting of the view as a `T`; `None` if it is not there or something else.
    pub fn get_as<T: DeserializeOwned>(&self, key: &str) -> Option<T> {
        T::deserialize(self.get(key)?).ok()
    }

    /// Sets one in the view only; [`save`](Self::save) writes it to the session.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<Value>) {
        self.copy_mut().settings.set(key, value);
    }

    /// Sets several in the view only.
    pub fn set_all(&mut self, values: impl IntoIterator<Item = (String, Value)>) {
        self.copy_mut().settings.set_all(values);
    }

    /// Removes one from the view only; [`save`](Self::save) of the key removes it from the session.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        let old = self.copy_mut().settings.remove(key)?;
        self.removed.push(key.to_owned());
        Some(old)
    }

    /// Binds the session to a user. When it is done, pushes to the user reach this session. Bound to this user already: nothing happens.
    ///
    /// # Errors
    /// [`SessionError`]: bound to another user, closed, refused by the app's hook, or the user has a session already and may have one only.
    pub async fn bind(&mut self, uid: Uid) -> Result<(), SessionError> {
        match &self.place {
            Place::Here(session) => self.app.bind_here(session, uid.clone()).await?,
            Place::There(there) => {
                let op = SessionOp::Bind {
                    sid: raw(self.id),
                    uid: Arc::clone(uid.shared()),
                };
                self.app.ask_frontend(there.frontend()?, op).await?;
            }
        }
        self.copy_mut().uid = Some(uid);
        Ok(())
    }

    /// Takes the user away from the session. The connection stays.
    ///
    /// # Errors
    /// [`SessionError`]: not bound to the user that this view knows, or closed.
    pub async fn unbind(&mut self) -> Result<(), SessionError> {
        let uid = self.uid().cloned().ok_or(SessionError::NotBound)?;
        match &self.place {
            Place::Here(session) => session.unbind(&uid)?,
            Place::There(there) => {
                let op = SessionOp::Unbind {
                    sid: raw(self.id),
                    uid: Arc::clone(uid.shared()),
                };
                self.app.ask_frontend(there.frontend()?, op).await?;
            }
        }
        self.copy_mut().uid = None;
        Ok(())
    }

    /// Writes one setting of the view to the session. The last save of a key wins.
    ///
    /// # Errors
    /// [`SessionError`]: the view never had such a setting, the session is closed, or it has too many.
    pub async fn save(&self, key: &str) -> Result<(), SessionError> {
        let mut changes = Map::new();
        let mut removed = Vec::new();
        match self.get(key) {
            Some(value) => drop(changes.insert(key.to_owned(), value.clone())),
            None if self.removed.iter().any(|removed| removed == key) => {
                removed.push(key.to_owned());
            }
            None => {
                return Err(SettingError::NoSuchSetting {
                    key: key.to_owned(),
                }
                .into());
            }
        }
        self.write_settings(changes, removed).await
    }

    /// Writes all settings of the view to the session, and removes from it what was removed from the view. Other settings of the session stay.
    /// All or none.
    ///
    /// # Errors
    /// [`SessionError`]: the session is closed, or would have too many settings.
    pub async fn save_all(&self) -> Result<(), SessionError> {
        let removed: Vec<String> = self
            .removed
            .iter()
            .filter(|key| !self.settings().contains_key(key))
            .cloned()
            .collect();
        if self.settings().is_empty() && removed.is_empty() {
            return Ok(());
        }
        self.write_settings(self.settings().to_map(), removed).await
    }

    /// One step, wherever the session is.
    async fn write_settings(
        &self,
        changes: Map<String, Value>,
        removed: Vec<String>,
    ) -> Result<(), SessionError> {
        match &self.place {
            Place::Here(session) => Ok(session.change_settings(changes, &removed)?),
            Place::There(there) => {
                let op = SessionOp::Merge {
                    sid: raw(self.id),
                    changes: Arc::new(changes),
                    removed,
                    // An object, also if it is empty: it replaces what a Pitaya frontend has.
                    view: SessionData::from(Arc::new(self.settings().to_map())),
                };
                self.app.ask_frontend(there.frontend()?, op).await.map(drop)
            }
        }
    }

    /// Sends a message to the client of this very session. It is in the session's queue, or on its way to the frontend, when this is done; the
    /// order of messages to one session is the order of the calls.
    ///
    /// # Errors
    /// [`SessionError`]: the value cannot be serialised, or the session is closed.
    pub async fn push_message<T: Serialize + ?Sized>(
        &self,
        route: &str,
        value: &T,
    ) -> Result<(), SessionError> {
        self.send_message(Message::new(route, value)?).await
    }

    pub(crate) async fn send_message(&self, message: Message) -> Result<(), SessionError> {
        match &self.place {
            Place::Here(session) => {
                if self.app.send_to(session, &message)? {
                    self.app.kept_room(vec![raw(self.id)]).await;
                }
                if let Some(room) = self.app.scheduler().pressure().wait() {
                    room.await;
                }
                Ok(())
            }
            Place::There(there) => {
                self.app
                    .send_there(there.frontend()?, self.id, self.uid(), message)
                    .await
            }
        }
    }

    /// Closes the session. Its client gets everything that is queued, then a KICK with the reason. Nothing happens if it is closed already.
    ///
    /// # Errors
    /// [`SessionError::Remote`] if the frontend cannot be asked.
    pub async fn kick(&self, reason: &str) -> Result<(), SessionError> {
        match &self.place {
            Place::Here(session) => {
                session.close(shaddock_core::CloseReason::kicked(reason));
                Ok(())
            }
            Place::There(there) => {
                let uid = self.uid().map(|uid| Arc::clone(uid.shared()));
                let op = SessionOp::Kick {
                    sid: raw(self.id),
                    uid,
                    reason: Some(reason.into()),
                };
                self.app.ask_frontend(there.frontend()?, op).await.map(drop)
            }
        }
    }

    /// Where the client comes from; `None` if the session is gone or not from the network.
    ///
    /// # Errors
    /// [`SessionError::Remote`] if the frontend cannot be asked.
    pub async fn client_address(&self) -> Result<Option<SocketAddr>, SessionError> {
        match &self.place {
            Place::Here(session) => Ok(session.client_address()),
            Place::There(there) => {
                let op = SessionOp::ClientAddress { sid: raw(self.id) };
                match self.app.ask_frontend(there.frontend()?, op).await? {
                    SessionAnswer::Address(address) => Ok(address),
                    _ => Ok(None),
                }
            }
        }
    }

    /// The session as it travels to other servers.
    pub(crate) fn export(&self) -> ForwardedSession {
        let copy = self.copy();
        ForwardedSession {
            frontend: match &self.place {
                // This server, whose id is checked and shared already.
                Place::Here(_) => {
                    (self.app.membership().ok()).map(|membership| membership.info().id.clone())
                }
                Place::There(there) => there.frontend.clone(),
            },
            sid: match &self.place {
                Place::There(there) if !there.has_number => None,
                _ => Some(raw(self.id)),
            },
            uid: copy.uid.as_ref().map(|uid| Arc::clone(uid.shared())),
            data: data_of(&copy.settings),
        }
    }

    /// The dialect of the client; on other servers it does not matter.
    pub(crate) fn dialect(&self) -> Dialect {
        match &self.place {
            Place::Here(session) => session.dialect(),
            Place::There(_) => Dialect::default(),
        }
    }

    fn copy(&self) -> &Copied {
        self.copy.get_or_init(|| match &self.place {
            Place::Here(session) => {
                let view = session.to_frontend_session();
                Copied { uid: view.uid().cloned(), settings: view.settings().clone() }
            }
            Place::There(there) => {
                let settings = there.data.to_map().unwrap_or_else(|error| {
                    shaddock_net::quiet!(warn, "settings of a forwarded session cannot be read", %error, frontend = self.frontend_id());
                    Arc::default()
                });
                Copied { uid: there.uid.clone(), settings: Settings::from(settings) }
            }
        })
    }

    fn copy_mut(&mut self) -> &mut Copied {
        self.copy();
        match self.copy.get_mut() {
            Some(copy) => copy,
            None => unreachable!("it was made in the line above"),
        }
    }
}

/// The number as the cluster writes it.
pub(crate) fn raw(sid: Sid) -> shaddock_cluster::RawSid {
    // A sid is never 0.
    shaddock_cluster::RawSid::new(sid.get()).unwrap_or(shaddock_cluster::RawSid::MIN)
}

/// Settings as the cluster sends them.
pub(super) fn data_of(settings: &Settings) -> SessionData {
    settings
        .shared()
        .map_or_else(SessionData::empty, SessionData::from)
}

impl FromParts for SessionView {
    fn from_parts(parts: &Parts<'_>) -> Result<Self, HandlerError> {
        Ok(parts.request()?.session().clone())
    }

    fn requirements(needs: &mut Requirements) {
        needs.request("SessionView");
    }
}

macro_rules! view_of {
    ($(#[$doc:meta])* $name:ident, $text:literal, $here:literal, $need:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug)]
        pub struct $name(SessionView);

        impl $name {
            /// The view, if it is of this kind.
            pub fn try_from_view(view: SessionView) -> Option<Self> {
                (view.is_here() == $here).then_some(Self(view))
            }

            /// The view without the promise of where it is.
            pub fn into_view(self) -> SessionView {
                self.0
            }
        }

        impl Deref for $name {
            type Target = SessionView;
            fn deref(&self) -> &SessionView {
                &self.0
            }
        }

        impl DerefMut for $name {
            fn deref_mut(&mut self) -> &mut SessionView {
                &mut self.0
            }
        }

        impl FromParts for $name {
            fn from_parts(parts: &Parts<'_>) -> Result<Self, HandlerError> {
                Self::try_from_view(parts.request()?.session().clone()).ok_or_else(|| HandlerError::internal($text))
            }

            fn requirements(needs: &mut Requirements) {
                needs.request(stringify!($name));
                needs.$need(stringify!($name));
            }
        }
    };
}

view_of!(
    /// A [`SessionView`] of a session on this server. As an argument it makes the app refuse to start unless it listens for clients.
    FrontendSession,
    "the session is on another server",
    true,
    frontend
);
view_of!(
    /// A [`SessionView`] of a session on another server. As an argument it makes the app refuse to start if it listens for clients.
    BackendSession,
    "the session is on this server",
    false,
    backend
);

impl FrontendSession {
    /// The session itself.
    pub fn record(&self) -> &Arc<Session> {
        match &self.0.place {
            Place::Here(session) => session,
            Place::There(_) => unreachable!("checked when it was made"),
        }
    }
}
