//! An event of a session anywhere in the cluster.

use std::sync::Arc;

use shaddock_cluster::ServerId;
use shaddock_core::Uid;

use super::SessionView;

/// What happened to a session somewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClusterEventKind {
    /// It was bound to the user.
    Bound,
    /// The user was taken away; it stays open.
    Unbound,
    /// Its connection is lost, and it waits for its client.
    Suspended,
    /// Its client has come back.
    Resumed,
    /// It is closed, for the reason of this name.
    Closed(Arc<str>),
    /// Its frontend is gone without a goodbye, and all sessions with it. Of no session in particular.
    FrontendLost,
}

/// Something that happened to a session of a frontend of the cluster ([`App::on_cluster_session`](crate::App::on_cluster_session)).
#[derive(Debug, Clone)]
pub struct ClusterSessionEvent {
    pub(super) frontend: ServerId,
    pub(super) frontend_type: Arc<str>,
    pub(super) kind: ClusterEventKind,
    pub(super) session: Option<SessionView>,
    pub(super) uid: Option<Uid>,
}

impl ClusterSessionEvent {
    /// The kind of the event.
    pub const fn kind(&self) -> &ClusterEventKind {
        &self.kind
    }

    /// The frontend.
    pub fn frontend(&self) -> &str {
        self.frontend.as_str()
    }

    /// The type of the frontend.
    pub fn frontend_type(&self) -> &str {
        &self.frontend_type
    }

    /// The user the event is about, if there is one.
    pub const fn uid(&self) -> Option<&Uid> {
        self.uid.as_ref()
    }

    /// The session as it was then. None if the frontend is lost.
    pub const fn session(&self) -> Option<&SessionView> {
        self.session.as_ref()
    }
}
