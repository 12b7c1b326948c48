//! The view of a session that handlers get.

use std::{
    ops::{Deref, DerefMut},
    sync::{Arc, OnceLock},
};

use serde::de::DeserializeOwned;
use serde_json::Value;
use shaddock_cluster::{ForwardedSession, ServerId, SessionData};
use shaddock_core::{Session, SessionState, Settings, Sid, Uid};
use shaddock_protocol::Dialect;

use super::SessionError;
use crate::app::AppHandle;

/// A session as a handler or filter sees it, for one request. See the [module](super).
///
/// On the frontend nothing is copied until the user or a setting is read.
#[derive(Clone, Debug)]
pub struct SessionView {
    app: AppHandle,
    id: Option<Sid>,
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
    /// None, and no session id either, in a request that no client sent.
    frontend: Option<ServerId>,
    uid: Option<Uid>,
    data: SessionData,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Copied {
    pub(super) uid: Option<Uid>,
    settings: Settings,
}

impl SessionView {
    pub(crate) fn of_session(app: &AppHandle, session: &Arc<Session>) -> Self {
        Self {
            app: app.clone(),
            id: Some(session.id()),
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
            uid: forwarded.uid.and_then(|uid| Uid::new(uid).ok()),
            data: forwarded.data,
        };
        Self {
            app: app.clone(),
            id,
            place: Place::There(Arc::new(place)),
            copy: OnceLock::new(),
            removed: Vec::new(),
        }
    }

    /// The app that this view belongs to.
    pub const fn app(&self) -> &AppHandle {
        &self.app
    }

    /// The session id, which is unique together with the frontend. On the frontend, [`FrontendSession::id`] always has one.
    ///
    /// `None` for a request that came without a session, as programs may send it to a backend. It has no user either, and everything that
    /// needs its session fails with [`SessionError::NoSession`].
    pub const fn id(&self) -> Option<Sid> {
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
            Place::There(there) => there
                .frontend
                .as_ref()
                .filter(|_| self.id.is_some())
                .ok_or(SessionError::NoSession),
        }
    }

    /// The session id as the cluster writes it.
    pub(super) fn raw_sid(&self) -> Result<shaddock_cluster::RawSid, SessionError> {
        self.id.map(raw).ok_or(SessionError::NoSession)
    }

    /// Settings that were removed from the view.
    pub(super) fn removed(&self) -> &[String] {
        &self.removed
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
            sid: self.id.map(raw),
            uid: copy.uid.as_ref().map(|uid| Arc::clone(uid.shared())),
            data: data_of(&copy.settings),
        }
    }

    /// The dialect of the client; on other servers it does not matter.
    pub(crate) fn dialect(&self) -> Dialect {
        match &self.place {
            Place::Here(session) => session.variant().dialect(),
            Place::There(_) => Dialect::default(),
        }
    }

    fn copy(&self) -> &Copied {
        self.copy.get_or_init(|| match &self.place {
            Place::Here(session) => {
                let (uid, settings) = session.uid_and_settings();
                Copied { uid, settings }
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

    /// The copy, to be changed.
    pub(super) fn copy_mut(&mut self) -> &mut Copied {
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

macro_rules! view_of {
    ($(#[$doc:meta])* $name:ident, $here:literal) => {
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
    };
}

view_of!(
    /// A [`SessionView`] of a session on this server. As an argument it makes the app refuse to start unless it listens for clients.
    FrontendSession,
    true
);
view_of!(
    /// A [`SessionView`] of a session on another server. As an argument it makes the app refuse to start if it listens for clients.
    BackendSession,
    false
);

impl FrontendSession {
    /// The session id, which is unique together with the frontend.
    pub fn id(&self) -> Sid {
        self.record().id()
    }

    /// The session itself.
    pub fn record(&self) -> &Arc<Session> {
        match &self.0.place {
            Place::Here(session) => session,
            Place::There(_) => unreachable!("checked when it was made"),
        }
    }
}
