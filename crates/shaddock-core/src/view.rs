//! Views of a session for handlers, with a copy of its values.

use crate::error::{ListenerError, SettingError};
use crate::event::ListenerId;
use crate::{
    BindError, CloseReason, FrontendId, Session, SessionState, Settings, Sid, Uid, UnbindError,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::Arc;

/// The view of a session in a handler or filter on its frontend, for one request.
///
/// `uid` and settings are those of the time of its creation. [`set`](Self::set) changes the view only, until [`push`](Self::push) or
/// [`push_all`](Self::push_all) writes it back to the session; the last push of a key wins.
///
/// ```
/// # use shaddock_core::*;
/// # let service = SessionService::new(FrontendId::new("connector-1")?, SidAllocator::new(0, 0), SessionConfig::default());
/// # let session = service.create(ClientInfo::default());
/// let mut view = session.to_frontend_session();
/// view.bind(Uid::new("alice")?)?;
/// view.set("room", "lobby");
/// assert!(session.get("room").is_none());
/// view.push("room")?;
/// assert_eq!(session.get("room").unwrap(), "lobby");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct FrontendSession {
    session: Arc<Session>,
    uid: Option<Uid>,
    settings: Settings,
}

impl FrontendSession {
    pub(crate) const fn new(session: Arc<Session>, uid: Option<Uid>, settings: Settings) -> Self {
        Self {
            session,
            uid,
            settings,
        }
    }

    /// The id of the session.
    pub fn id(&self) -> Sid {
        self.session.id()
    }

    /// The frontend of the session.
    pub fn frontend_id(&self) -> &FrontendId {
        self.session.frontend_id()
    }

    /// The user in this view.
    pub const fn uid(&self) -> Option<&Uid> {
        self.uid.as_ref()
    }

    /// The settings of the view.
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The session itself.
    pub const fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// Whether the session is still open.
    pub fn is_online(&self) -> bool {
        self.session.state() != SessionState::Closed
    }

    /// One setting of the view.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.settings.get(key)
    }

    /// Sets one setting in the view only.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<Value>) {
        self.settings.set(key, value);
    }

    /// Sets several settings in the view only.
    pub fn set_all(&mut self, values: impl IntoIterator<Item = (String, Value)>) {
        self.settings.set_all(values);
    }

    /// Binds the session to a user, see [`SessionService::bind`](crate::SessionService::bind). Updates the view on success.
    ///
    /// # Errors
    ///
    /// See [`BindError`].
    pub fn bind(&mut self, uid: Uid) -> Result<(), BindError> {
        self.session.bind(uid.clone())?;
        self.uid = Some(uid);
        Ok(())
    }

    /// Unbinds the session from this user. Updates the view on success.
    ///
    /// # Errors
    ///
    /// See [`UnbindError`].
    pub fn unbind(&mut self, uid: &Uid) -> Result<(), UnbindError> {
        self.session.unbind(uid)?;
        self.uid = None;
        Ok(())
    }

    /// Copies one setting of the view to the session.
    ///
    /// # Errors
    ///
    /// The view has no such setting, the session is closed, or it has too many.
    pub fn push(&self, key: &str) -> Result<(), SettingError> {
        let value = self.settings.get(key).cloned();
        let value = value.ok_or_else(|| SettingError::NoSuchSetting {
            key: key.to_owned(),
        })?;
        self.session.set(key, value)
    }

    /// Copies all settings of the view to the session. Other settings of the session stay.
    ///
    /// # Errors
    ///
    /// The session is closed, or would have too many settings.
    pub fn push_all(&self) -> Result<(), SettingError> {
        self.session.set_all(self.settings.to_map())
    }

    /// Registers a listener on the session, which outlives this view. See [`Session::on_bind`].
    ///
    /// # Errors
    ///
    /// The session is closed, or has too many listeners.
    pub fn on_bind(
        &self,
        f: impl Fn(&Arc<Session>, &Uid) + Send + Sync + 'static,
    ) -> Result<ListenerId, ListenerError> {
        self.session.on_bind(f)
    }

    /// Registers a listener on the session, which outlives this view. See [`Session::on_unbind`].
    ///
    /// # Errors
    ///
    /// The session is closed, or has too many listeners.
    pub fn on_unbind(
        &self,
        f: impl Fn(&Arc<Session>, &Uid) + Send + Sync + 'static,
    ) -> Result<ListenerId, ListenerError> {
        self.session.on_unbind(f)
    }

    /// Registers a listener on the session, which outlives this view. See [`Session::on_closed`].
    ///
    /// # Errors
    ///
    /// The session is closed, or has too many listeners.
    pub fn on_closed(
        &self,
        f: impl Fn(&Arc<Session>, &CloseReason) + Send + Sync + 'static,
    ) -> Result<ListenerId, ListenerError> {
        self.session.on_closed(f)
    }

    /// Removes a listener. Returns false if there is no such listener.
    pub fn off(&self, id: ListenerId) -> bool {
        self.session.off(id)
    }

    /// The data that are sent with a request to another server.
    pub fn export(&self) -> ExportedSession {
        ExportedSession {
            id: self.id(),
            frontend_id: self.frontend_id().clone(),
            uid: self.uid.clone(),
            settings: self.settings.clone(),
        }
    }
}

/// A session in its serialised form.
///
/// As JSON: `{"id":1,"frontendId":"connector-1","uid":null,"settings":{}}`, as in Pomelo.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExportedSession {
    /// The id of the session.
    pub id: Sid,
    /// The frontend of the session.
    pub frontend_id: FrontendId,
    /// The user of the session; `None` if it is unbound.
    pub uid: Option<Uid>,
    /// The settings at that moment.
    #[serde(default)]
    pub settings: Settings,
}
