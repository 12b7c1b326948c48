//! Sessions as other servers see them, and what they may do to them.

use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::{AudienceKey, AudiencePart, JoinAnswer, RemoteError, ServerId, ServerInfo};

/// The number of a session on its frontend: at most `i64::MAX`. Only the pair of frontend and number means one session.
pub type RawSid = NonZeroU64;

/// The settings of a session, shared or as text, whichever the sender had. Cheap to clone.
///
/// In one process the frontend's map itself is passed. From another process it is JSON text that is parsed on demand.
#[derive(Clone, Debug, Default)]
pub struct SessionData(Form);

#[derive(Clone, Debug, Default)]
enum Form {
    #[default]
    Empty,
    Shared(Arc<Map<String, Value>>),
    Json(Bytes),
}

impl SessionData {
    /// No settings.
    pub fn empty() -> Self {
        Self::default()
    }

    /// A JSON object as text, not read yet. No bytes mean no settings.
    pub fn from_json(json: Bytes) -> Self {
        if json.is_empty() {
            Self::default()
        } else {
            Self(Form::Json(json))
        }
    }

    /// The settings as a map.
    ///
    /// # Errors
    /// The text that arrived is not a JSON object.
    pub fn to_map(&self) -> Result<Arc<Map<String, Value>>, serde_json::Error> {
        match &self.0 {
            Form::Empty => Ok(Arc::default()),
            Form::Shared(map) => Ok(Arc::clone(map)),
            Form::Json(json) => serde_json::from_slice(json).map(Arc::new),
        }
    }

    /// The settings as JSON text; empty if there are none.
    pub fn to_json(&self) -> Bytes {
        match &self.0 {
            Form::Empty => Bytes::new(),
            Form::Json(json) => json.clone(),
            // A map of JSON values always has a text.
            Form::Shared(map) => serde_json::to_vec(map.as_ref())
                .map(Bytes::from)
                .unwrap_or_default(),
        }
    }

    /// True for an empty text, which is less than an object without settings.
    pub fn is_missing(&self) -> bool {
        matches!(self.0, Form::Empty)
    }

    /// Whether there is nothing in it, as far as can be said without reading text.
    pub fn is_empty(&self) -> bool {
        match &self.0 {
            Form::Empty => true,
            Form::Shared(map) => map.is_empty(),
            Form::Json(json) => json.is_empty() || json == "{}",
        }
    }
}

impl From<Arc<Map<String, Value>>> for SessionData {
    fn from(map: Arc<Map<String, Value>>) -> Self {
        Self(Form::Shared(map))
    }
}

/// A session as it is exported to another server: what a `BackendSession` is made of.
#[derive(Clone, Debug, Default)]
pub struct ForwardedSession {
    /// The frontend that holds it. Missing only in requests that no client sent.
    pub frontend: Option<ServerId>,
    /// Its number there. Missing only in requests that no client sent.
    pub sid: Option<RawSid>,
    /// Its user, if bound.
    pub uid: Option<Arc<str>>,
    /// Its settings.
    pub data: SessionData,
}

/// Something that another server wants done to a session, or asks of it. Served by frontends.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum SessionOp {
    /// Binds a session to a user. Pomelo `sessionRemote.bind`, Pitaya `sys.bindsession`.
    Bind {
        /// The session.
        sid: RawSid,
        /// The user.
        uid: Arc<str>,
    },
    /// Takes the user away. A Pitaya frontend cannot.
    Unbind {
        /// The session.
        sid: RawSid,
        /// The user it must be bound to.
        uid: Arc<str>,
    },
    /// Takes settings away and writes others, key by key; other keys stay. All or none. Pomelo `push` and `pushAll`.
    Merge {
        /// The session.
        sid: RawSid,
        /// The settings to write.
        changes: Arc<Map<String, Value>>,
        /// The keys to remove, before that.
        removed: Vec<String>,
        /// All settings of the sender's view, with the changes: for Pitaya frontends, which only replace the whole.
        view: SessionData,
    },
    /// Replaces all settings, all or none; data without any bytes changes nothing (`{}` takes all away). Pitaya `sys.pushsession`.
    Replace {
        /// The session.
        sid: RawSid,
        /// The new settings.
        data: SessionData,
    },
    /// Closes one session.
    Kick {
        /// The session.
        sid: RawSid,
        /// The user of the sender's view: a Pitaya frontend can only be told whom to kick.
        uid: Option<Arc<str>>,
        /// The reason in the KICK package; without one there is no package, only the close.
        reason: Option<Arc<str>>,
    },
    /// Closes every session of the user on this frontend.
    KickUser {
        /// The user.
        uid: Arc<str>,
        /// The reason in the KICK package; without one there is no package, only the close.
        reason: Option<Arc<str>>,
    },
    /// Asks for one session.
    Get {
        /// The session.
        sid: RawSid,
    },
    /// Asks for all sessions of a user.
    GetByUid {
        /// The user.
        uid: Arc<str>,
    },
    /// Asks where the client of a session is.
    ClientAddress {
        /// The session.
        sid: RawSid,
    },
    /// Makes a user of the frontend a member of an audience. With a session, it must be open and theirs.
    Join {
        /// The audience.
        audience: AudienceKey,
        /// The user.
        uid: Arc<str>,
        /// The session on whose behalf.
        sid: Option<RawSid>,
    },
    /// Takes a user out of an audience, or out of all whose keys begin so. The answer counts them.
    Leave {
        /// The key, or the beginning of keys.
        audience: Arc<str>,
        /// True for a prefix.
        is_prefix: bool,
        /// The user.
        uid: Arc<str>,
    },
    /// Takes all members out of an audience. The answer counts them.
    EndAudience {
        /// The audience.
        audience: AudienceKey,
    },
    /// Asks for the members of an audience on this frontend.
    Audience {
        /// The audience.
        audience: AudienceKey,
        /// Whether to name them, or only to count.
        named: bool,
        /// Look for this user only.
        only: Option<Arc<str>>,
    },
    /// Asks for the audiences on this frontend whose keys begin so, in the order of their keys.
    Audiences {
        /// Prefixes, of which one must match.
        prefixes: Vec<String>,
        /// Only those behind this key: the last one of the answer before.
        after: Arc<str>,
        /// Whether to name their members.
        named: bool,
        /// Tell this server from now on who joins and leaves such audiences.
        watcher: Option<ServerId>,
    },
    /// Asks for the number of the next notice that a watcher will be sent; 0 if the frontend does not know of it.
    NextNotice {
        /// The watcher.
        watcher: ServerId,
    },
    /// An operation of the framework that the cluster only carries, such as a question of an operator.
    Custom {
        /// The question.
        name: Arc<str>,
        /// JSON text.
        argument: Bytes,
    },
}

/// The reply of a frontend to a [`SessionOp`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum SessionAnswer {
    /// It is done.
    Done,
    /// So many sessions were closed.
    Kicked(u32),
    /// The sessions asked for, perhaps none.
    Sessions(Vec<ForwardedSession>),
    /// The client's address, if the session is there.
    Address(Option<SocketAddr>),
    /// The result of a [`SessionOp::Join`].
    Joined(JoinAnswer),
    /// So many.
    Count(u64),
    /// Audiences.
    Audiences {
        /// As they are now.
        parts: Vec<AudiencePart>,
        /// There are more behind the last one.
        more: bool,
        /// The number of the last notice that was sent to the watcher before this answer was made.
        notices: u64,
    },
    /// The answer to [`SessionOp::Custom`]: JSON text.
    Custom(Bytes),
}

/// Something that happened to a session, for servers that asked for it ([`Interest`](crate::Interest)).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum SessionEvent {
    /// Bound to `session.uid`.
    Bound(ForwardedSession),
    /// No longer bound to this user, and still open.
    Unbound {
        /// The session after it.
        session: ForwardedSession,
        /// The user before it.
        uid: Arc<str>,
    },
    /// Its connection is lost, and it waits for its client.
    Suspended(ForwardedSession),
    /// Its client has come back.
    Resumed(ForwardedSession),
    /// Gone, with its last user and settings.
    Closed {
        /// The session as it was.
        session: ForwardedSession,
        /// The name of the reason.
        reason: Arc<str>,
    },
    /// A frontend is gone without a goodbye, and all its sessions with it.
    FrontendLost(Arc<ServerInfo>),
}

/// Where a user is connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// The frontend.
    pub frontend: ServerId,
    /// Its type.
    pub server_type: Arc<str>,
    /// The user's sessions there; empty where only the frontend is known (a Pitaya server in the bindings directory).
    pub sids: Vec<RawSid>,
}

/// The reply of a server without client connections.
pub(crate) fn not_a_frontend() -> RemoteError {
    RemoteError::session_not_found()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_the_same_in_both_forms() {
        let map: Arc<Map<String, Value>> =
            Arc::new(serde_json::from_str(r#"{"rid":"r1","big":9007199254740993}"#).unwrap());
        let shared = SessionData::from(Arc::clone(&map));
        let text = SessionData::from_json(shared.to_json());
        assert_eq!(text.to_map().unwrap(), map);
        assert!(
            Arc::ptr_eq(&shared.to_map().unwrap(), &map),
            "in one process nothing is copied"
        );
    }

    #[test]
    fn settings_that_are_no_object_are_an_error() {
        assert!(
            SessionData::from_json(Bytes::from_static(b"[1]"))
                .to_map()
                .is_err()
        );
        assert!(
            SessionData::from_json(Bytes::new())
                .to_map()
                .unwrap()
                .is_empty()
        );
    }
}
