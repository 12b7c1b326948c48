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
    /// A key, if the newest message of it is enough for a client that cannot take messages at the moment. At most
    /// [`MAX_LATEST_KEY`] bytes; a longer one, and an empty one, counts as none.
    pub latest: Option<Arc<str>>,
    /// The receivers.
    pub to: Receivers,
}

/// The longest key of [`Delivery::latest`], in bytes.
pub const MAX_LATEST_KEY: usize = 128;

/// The key, if it is one.
#[cfg(feature = "nats")]
pub(crate) fn latest_key(key: &str) -> Option<&str> {
    (1..=MAX_LATEST_KEY).contains(&key.len()).then_some(key)
}

/// The receivers of a message.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Receivers {
    /// All sessions of these users. A user who is listed twice receives it twice.
    Uids(Arc<[Arc<str>]>),
    /// These sessions.
    Sids(Arc<[RawSid]>),
    /// All sessions of the members of an audience.
    Audience {
        /// The audience.
        key: AudienceKey,
        /// A member who does not receive it.
        except: Option<Arc<str>>,
        /// Whether the answer names missing members, or only counts them.
        name_missing: bool,
    },
    /// All clients of the frontend.
    All {
        /// Only sessions that are bound to a user.
        bound_only: bool,
    },
}

/// The result of a [`Delivery`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delivered {
    /// The number of sessions whose outbox accepted it.
    pub queued: usize,
    /// The number of members of an audience that did not receive it. They are named in `missing_uids` if that was requested, as many as fit
    /// in one message between servers.
    pub missing: usize,
    /// There is no such audience: it has no members there.
    pub no_audience: bool,
    /// Users who have no session there.
    pub missing_uids: Vec<Arc<str>>,
    /// Sessions that are not there.
    pub missing_sids: Vec<RawSid>,
    /// Users on a Pitaya server, which does not report the result.
    pub unconfirmed: Vec<Arc<str>>,
    /// Why some connected clients did not receive it: the frontend cannot encode it for them. These clients are not missing.
    pub refused: Option<Arc<str>>,
    /// Frontends that failed or did not reply in time. Whether their clients received the message is unknown.
    pub failed: Vec<FailedDelivery>,
    /// Sessions of the node for which the sender is to wait ([`Node::kept_room`](crate::Node::kept_room)). They are not told to other servers:
    /// these get their answer when the wait is over.
    pub full: Vec<RawSid>,
}

/// A frontend that did not report the result of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedDelivery {
    /// The frontend.
    pub frontend: ServerId,
    /// The intended users on this frontend who are on no other frontend. Empty if the message was not for users.
    pub uids: Vec<Arc<str>>,
    /// The error.
    pub error: RemoteError,
}

impl Delivered {
    /// Adds the result of another frontend.
    pub fn merge(&mut self, other: Self) {
        self.queued += other.queued;
        self.missing += other.missing;
        self.no_audience |= other.no_audience;
        self.missing_uids.extend(other.missing_uids);
        self.missing_sids.extend(other.missing_sids);
        self.unconfirmed.extend(other.unconfirmed);
        self.refused = self.refused.take().or(other.refused);
        self.failed.extend(other.failed);
        self.full.extend(other.full);
    }
}
