//! Messages for clients, sent to the frontend that holds them.

use std::sync::Arc;

use bytes::Bytes;

use crate::{AudienceKey, RawSid, RemoteError, ServerId};

/// One message for clients of one frontend, with all its receivers there. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The route that the client listens on.
    pub route: Arc<str>,
    /// The body: JSON text, or raw bytes for clients with another serializer.
    pub body: Bytes,
    /// Who gets it.
    pub to: Receivers,
}

/// Who gets a message.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Receivers {
    /// All sessions of these users. A user who is named twice gets it twice.
    Uids(Arc<[Arc<str>]>),
    /// These sessions.
    Sids(Arc<[RawSid]>),
    /// All sessions of the members of an audience.
    Audience {
        /// The audience.
        key: AudienceKey,
        /// A member who does not get it.
        except: Option<Arc<str>>,
        /// Whether the answer names who is missing, or only counts them.
        name_missing: bool,
    },
    /// Everybody on the frontend.
    All {
        /// Only sessions that are bound to a user.
        bound_only: bool,
    },
}

/// What became of a [`Delivery`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delivered {
    /// Into how many sessions' outboxes it was put.
    pub queued: usize,
    /// How many members of an audience did not take it. They are named in `missing_uids` if that was asked for.
    pub missing: usize,
    /// There is no such audience: it has no members there.
    pub no_audience: bool,
    /// Users who have no session there.
    pub missing_uids: Vec<Arc<str>>,
    /// Sessions that are not there.
    pub missing_sids: Vec<RawSid>,
    /// Users to whom it was sent without an answer: the frontend is a Pitaya server, which does not say.
    pub unconfirmed: Vec<Arc<str>>,
    /// Why some clients who are there did not get it: the frontend cannot write it for them. Who is meant is not missing.
    pub refused: Option<Arc<str>>,
    /// Frontends that failed or did not answer in time. Whether their clients got the message is not known.
    pub failed: Vec<FailedDelivery>,
}

/// A frontend that was sent a message and did not say what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedDelivery {
    /// The frontend.
    pub frontend: ServerId,
    /// Users who were meant there and whom no other frontend has. Empty if the message was not for users.
    pub uids: Vec<Arc<str>>,
    /// Why.
    pub error: RemoteError,
}

impl Delivered {
    /// Adds what another frontend said.
    pub fn merge(&mut self, other: Self) {
        self.queued += other.queued;
        self.missing += other.missing;
        self.no_audience |= other.no_audience;
        self.missing_uids.extend(other.missing_uids);
        self.missing_sids.extend(other.missing_sids);
        self.unconfirmed.extend(other.unconfirmed);
        self.refused = self.refused.take().or(other.refused);
        self.failed.extend(other.failed);
    }
}
