//! A connection that another frontend has accepted, of a client whose session is here.

use shaddock_core::ResumeRefusal;
use tokio::sync::oneshot;

use crate::{
    frontend::{Carried, Peer},
    pipe::Pipe,
};

/// A connection that another frontend has accepted, of a client whose session is here.
pub struct Relayed {
    /// The client, as the other frontend sees it.
    pub peer: Peer,
    /// The data of the other frontend's application for the client.
    pub user: Option<serde_json::Value>,
    /// The data that it left with its answer.
    pub carried: Option<Carried>,
    /// The client's packages, from its HANDSHAKE on, and back.
    pub pipe: Pipe,
    /// Told once whether the client gets its session. If not, the pipe ends. Dropped without a word: it does not, for a reason that only the
    /// log here has.
    pub answer: oneshot::Sender<RelayAnswer>,
}

/// The result for a client that another frontend has accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelayAnswer {
    /// It gets its session.
    Accepted,
    /// It gets a new session where it was accepted.
    Refused(ResumeRefusal),
    /// It has come back on a later connection, and this one is of no use.
    Superseded,
}

/// The attributes of a connection that another frontend has accepted, besides its bytes.
pub(super) struct Accepted {
    pub(super) user: Option<serde_json::Value>,
    pub(super) carried: Option<Carried>,
    pub(super) answer: Option<oneshot::Sender<RelayAnswer>>,
}
