//! What a [`SessionView`] does to its session, on this server or through the session's frontend.

use std::{net::SocketAddr, sync::Arc, time::SystemTime};

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Map, Value};
use shaddock_cluster::{RemoteError, SessionAnswer, SessionData, SessionOp};
use shaddock_core::{ClientClaims, SettingError, Uid};

use super::{
    Binder, SessionCalls, SessionError, SessionView,
    claims::{CLAIMS, Which},
    expiry::{EXPIRE, Expire, until},
    view::raw,
};
use crate::channel::{Deliveries, Message, Pushes, kept_room};

impl SessionView {
    /// Binds the session to a user. When it is done, pushes to the user reach this session. Bound to this user already: nothing happens.
    ///
    /// # Errors
    /// [`SessionError`]: bound to another user, closed, refused by the app's hook, or the user has a session already and may have one only.
    pub async fn bind(&mut self, uid: Uid) -> Result<(), SessionError> {
        if let Some(session) = self.session() {
            Binder::of(self.app()).bind(session, uid.clone()).await?;
        } else {
            let op = SessionOp::Bind {
                sid: self.raw_sid()?,
                uid: Arc::clone(uid.shared()),
            };
            self.ask(op).await?;
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
        if let Some(session) = self.session() {
            session.unbind(&uid)?;
        } else {
            let op = SessionOp::Unbind {
                sid: self.raw_sid()?,
                uid: Arc::clone(uid.shared()),
            };
            self.ask(op).await?;
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
            None if self.removed().iter().any(|removed| removed == key) => {
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
            .removed()
            .iter()
            .filter(|key| self.settings().get(key).is_none())
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
        if let Some(session) = self.session() {
            return Ok(session.change_settings(changes, &removed)?);
        }
        let op = SessionOp::Merge {
            sid: self.raw_sid()?,
            changes: Arc::new(changes),
            removed,
            // An object, also if it is empty: it replaces what a Pitaya frontend has.
            view: SessionData::from(Arc::new(self.settings().to_map())),
        };
        self.ask(op).await.map(drop)
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
        let app = self.app();
        let Some(session) = self.session() else {
            return Pushes::of(app)
                .to_session(self.holder()?, self.raw_sid()?, self.uid(), message)
                .await;
        };
        if Deliveries::of(app).to_session(session, &message)? {
            kept_room(app.session_service().cloned(), vec![raw(session.id())]).await;
        }
        if let Some(room) = app.scheduler().pressure().wait() {
            room.await;
        }
        Ok(())
    }

    /// Closes the session. Its client gets everything that is queued, then a KICK with the reason. Nothing happens if it is closed already.
    ///
    /// # Errors
    /// [`SessionError::Remote`] if the frontend cannot be asked.
    pub async fn kick(&self, reason: &str) -> Result<(), SessionError> {
        if let Some(session) = self.session() {
            session.close(shaddock_core::CloseReason::kicked(reason));
            return Ok(());
        }
        let op = SessionOp::Kick {
            sid: self.raw_sid()?,
            uid: self.uid().map(|uid| Arc::clone(uid.shared())),
            reason: Some(reason.into()),
        };
        self.ask(op).await.map(drop)
    }

    /// Where the client comes from; `None` if the session is gone or not from the network.
    ///
    /// # Errors
    /// [`SessionError::Remote`] if the frontend cannot be asked.
    pub async fn client_address(&self) -> Result<Option<SocketAddr>, SessionError> {
        if let Some(session) = self.session() {
            return Ok(session.client().address);
        }
        let sid = self.raw_sid()?;
        match self.ask(SessionOp::ClientAddress { sid }).await? {
            SessionAnswer::Address(address) => Ok(address),
            _ => Ok(None),
        }
    }

    /// The session ends at this time, with the reason [`CloseReason::Expired`](crate::session::CloseReason::Expired), unless it is told another time before: `None` is never. A handler
    /// that gets a fresh token from the client sets the time of that one.
    ///
    /// # Errors
    /// [`SessionError`]: the session is closed, or its frontend cannot be asked or is a Pitaya server.
    pub async fn set_expires_at(&self, when: Option<SystemTime>) -> Result<(), SessionError> {
        if let Some(session) = self.session() {
            return self.app().expiries().set(session, when.map(until));
        }
        let millis = when.map(|when| u64::try_from(until(when).as_millis()).unwrap_or(u64::MAX));
        let expire = Expire {
            sid: self.raw_sid()?,
            millis,
        };
        self.ask_custom(EXPIRE, &expire).await.map(drop)
    }

    /// What the client said of itself in its handshake: kind, version, platform and user data. `None` if it said nothing, or the session is gone.
    ///
    /// Up to [`AppConfig::handshake_bytes`](crate::app::AppConfig::handshake_bytes) of user data are kept. Nothing of it was checked, except by
    /// your own hooks.
    ///
    /// # Errors
    /// [`SessionError::Remote`] if the frontend cannot be asked, or is a Pitaya server.
    pub async fn claims(&self) -> Result<Option<Arc<ClientClaims>>, SessionError> {
        if let Some(session) = self.session() {
            return Ok(session.claims());
        }
        let which = Which {
            sid: self.raw_sid()?,
        };
        let answer = self.ask_custom(CLAIMS, &which).await?;
        serde_json::from_slice::<Option<ClientClaims>>(&answer)
            .map(|claims| claims.map(Arc::new))
            .map_err(|error| SessionError::Remote(RemoteError::new("PIT-500", error.to_string())))
    }

    /// Requests an operation from the frontend of a session on another server.
    async fn ask(&self, op: SessionOp) -> Result<SessionAnswer, SessionError> {
        SessionCalls::of(self.app()).ask(self.holder()?, op).await
    }

    /// Asks the frontend of a session on another server for something that only ours can do.
    async fn ask_custom<T: Serialize>(
        &self,
        name: &'static str,
        argument: &T,
    ) -> Result<Bytes, SessionError> {
        let argument = serde_json::to_vec(argument).unwrap_or_default();
        let op = SessionOp::Custom {
            name: name.into(),
            argument: argument.into(),
        };
        match self.ask(op).await? {
            SessionAnswer::Custom(answer) => Ok(answer),
            _ => Ok(Bytes::from_static(b"null")),
        }
    }
}
