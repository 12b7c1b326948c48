//! What becomes of a push.

use std::sync::Arc;

use shaddock_cluster::{Delivered as ClusterDelivered, MAX_LATEST_KEY, RemoteError};
use shaddock_core::{ChannelError, FrontendId, Uid};

use crate::session::SessionError;

/// What became of a push.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Delivered {
    /// In how many sessions' queues it is.
    pub queued: usize,
    /// Users without a session where they were looked for.
    pub missing: Vec<Uid>,
    /// Users whose message was sent through a Pitaya frontend, which does not report whether they are connected.
    pub unconfirmed: Vec<Uid>,
    /// Frontends that could not be reached or did not answer in time, and who was meant there.
    pub failed: Vec<FailedFrontend>,
    /// What became of it on each frontend that answered, in numbers. (Of users whose frontends are not known: nothing.)
    pub frontends: Vec<AtFrontend>,
}

/// What became of a push on one frontend.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AtFrontend {
    /// The frontend.
    pub frontend: FrontendId,
    /// In how many sessions' queues it is.
    pub queued: usize,
    /// How many who were meant there have no session that took it.
    pub missing: usize,
}

/// A frontend that could not be reached.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct FailedFrontend {
    /// The frontend.
    pub frontend: FrontendId,
    /// The receivers; empty for a broadcast, and for the members of a channel.
    pub uids: Vec<Uid>,
    /// Why.
    pub error: RemoteError,
}

impl Delivered {
    /// All receivers that are known not to have been reached: missing, or on a frontend that failed. (Pomelo's `fails`, without its defect
    /// 34.)
    pub fn not_reached(&self) -> impl Iterator<Item = &Uid> {
        self.missing
            .iter()
            .chain(self.failed.iter().flat_map(|failed| &failed.uids))
    }

    /// How many who were meant are known to have no session that took it: those of [`missing`](Self::missing), and members of a channel, who are
    /// only named if that was asked for.
    pub fn missing_count(&self) -> usize {
        let counted: usize = self.frontends.iter().map(|one| one.missing).sum();
        counted.max(self.missing.len())
    }

    /// Adds what this frontend said.
    #[must_use]
    pub(super) fn add_from(
        &mut self,
        frontend: FrontendId,
        other: ClusterDelivered,
    ) -> Option<Arc<str>> {
        self.frontends.push(AtFrontend {
            frontend,
            queued: other.queued,
            missing: other.missing.max(other.missing_uids.len()),
        });
        self.add(other)
    }

    /// Adds what a frontend said, and gives back why it cannot send the message, if it cannot.
    #[must_use]
    pub(super) fn add(&mut self, other: ClusterDelivered) -> Option<Arc<str>> {
        let uids = |list: Vec<Arc<str>>| list.into_iter().filter_map(|uid| Uid::new(uid).ok());
        self.queued += other.queued;
        self.missing.extend(uids(other.missing_uids));
        self.unconfirmed.extend(uids(other.unconfirmed));
        let failed = other.failed.into_iter().filter_map(|failed| {
            Some(FailedFrontend {
                frontend: FrontendId::new(failed.frontend.as_str()).ok()?,
                uids: uids(failed.uids).collect(),
                error: failed.error,
            })
        });
        self.failed.extend(failed);
        other.refused
    }

    /// An error if there are frontends and none of them can have reached a receiver.
    pub(super) fn unless_unreached(self) -> Result<Self, PushError> {
        let nobody = self.queued == 0 && self.missing.is_empty() && self.unconfirmed.is_empty();
        if nobody && !self.failed.is_empty() {
            return Err(PushError::NobodyReached(self));
        }
        Ok(self)
    }
}

/// The reason why no receiver got a push.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PushError {
    /// The list of receivers is empty.
    #[error("uids should not be empty")]
    NoReceivers,
    /// The message is nothing: `null`, `0`, `false` or an empty text.
    #[error("can not send empty message.")]
    Empty,
    /// The message cannot be serialised.
    #[error("the message cannot be serialised: {0}")]
    Value(#[source] serde_json::Error),
    /// The key of a push of which the newest is enough is empty or too long.
    #[error("the key of `latest` has {len} bytes; 1 to {MAX_LATEST_KEY} are allowed")]
    LatestKey {
        /// Its length.
        len: usize,
    },
    /// The channel was destroyed.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// There are frontends to send to, and none could be reached.
    #[error("all uids push message fail")]
    NobodyReached(Delivered),
    /// Clients who are there did not get it, because it cannot be written for them: it is too long for a package or for their queue, its route
    /// has more than 255 bytes, or it does not fit the schema of its route. Clients of another dialect may have got it.
    #[error("the message cannot be sent: {reason}")]
    NotSendable {
        /// Why, as the frontend says.
        reason: Arc<str>,
        /// What became of it elsewhere.
        delivered: Delivered,
    },
    /// This server is not in the cluster.
    #[error(transparent)]
    Cluster(#[from] RemoteError),
}

/// The result of a push from what the frontends said: `delivered`, and why some of them cannot send it.
pub(super) fn outcome(
    delivered: Delivered,
    refused: Option<Arc<str>>,
) -> Result<Delivered, PushError> {
    match refused {
        None => Ok(delivered),
        Some(reason) => Err(PushError::NotSendable { reason, delivered }),
    }
}

impl From<PushError> for SessionError {
    fn from(error: PushError) -> Self {
        match error {
            PushError::Cluster(error) => Self::Remote(error),
            other => Self::Encode(Box::new(other)),
        }
    }
}
