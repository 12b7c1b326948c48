//! An event of a session of this frontend.

use shaddock_core::{CloseReason, Uid};

use super::{EventKind, FrontendSession};

/// Something that happened to a session of this frontend.
#[derive(Debug, Clone)]
pub struct SessionEvent {
    pub(super) session: FrontendSession,
    pub(super) uid: Option<Uid>,
    pub(super) reason: Option<CloseReason>,
    pub(super) kind: EventKind,
}

impl SessionEvent {
    /// The session. Its user and settings are those of the moment the listener looks; after a close they stay as they were last.
    pub const fn session(&self) -> &FrontendSession {
        &self.session
    }

    /// The user the event is about: who was bound, who was unbound, or whose session was closed, if it was bound.
    pub const fn uid(&self) -> Option<&Uid> {
        self.uid.as_ref()
    }

    /// Why the session was closed; only of a close.
    pub const fn reason(&self) -> Option<&CloseReason> {
        self.reason.as_ref()
    }

    /// The kind of the event.
    pub const fn kind(&self) -> EventKind {
        self.kind
    }
}
