//! The work that runs for a connection.

use std::sync::Arc;

use shaddock_core::{CloseReason, Credentials, ResumeRefusal, Session};

use crate::{
    frontend::{ResumeTerms, Verdict},
    pipe::Pipe,
    ready::{BoxFuture, MaybeReady},
};

/// The work that runs for this connection.
pub(super) enum Work {
    Idle,
    /// The application judges the handshake. Dropped when the client leaves.
    Handshake(BoxFuture<Verdict>),
    /// The client comes back to its session.
    Returning(Box<Returning>),
    /// The client comes back to a session of another frontend, which is asked. Dropped when the client leaves.
    Elsewhere(Box<Elsewhere>),
    /// A handler of the session. Polled to its end in every phase.
    Handler(BoxFuture<()>),
}

impl Work {
    pub(super) fn is_handler(&self) -> bool {
        matches!(self, Self::Handler(_))
    }
}

/// A client that comes back, while its handshake waits for the answer.
pub(super) struct Returning {
    pub(super) session: Arc<Session>,
    pub(super) shown: Credentials,
    /// The client takes what is sent again directly behind the answer.
    pub(super) is_early: bool,
    /// For the answer.
    pub(super) user: Option<serde_json::Value>,
    pub(super) terms: ResumeTerms,
    /// The number of its claim.
    pub(super) number: u64,
    pub(super) stage: Claim,
}

/// How far the claim of a client that comes back is.
pub(super) enum Claim {
    /// The application is asked.
    Asked(MaybeReady<Result<(), ResumeRefusal>>),
    /// The driver that has the session is about to let go of it.
    Claimed,
}

impl Returning {
    /// The driver ends: closes a session that was, or will be, handed over to it, because it has no other owner.
    pub(super) fn close_if_claimed(&self) {
        if matches!(self.stage, Claim::Claimed) {
            self.session.close(CloseReason::Internal);
        }
    }
}

/// A client whose session is at another frontend, while that is asked.
pub(super) struct Elsewhere {
    pub(super) asked: BoxFuture<Result<Option<Pipe>, ResumeRefusal>>,
    pub(super) user: Option<serde_json::Value>,
    pub(super) terms: ResumeTerms,
}
