//! A change of the members of a channel or topic.

use shaddock_cluster::{AudienceKey, Departure};
use shaddock_core::{FrontendId, Uid};

/// A user joined or left a channel or topic.
#[derive(Debug, Clone)]
pub struct MemberEvent {
    pub(super) audience: AudienceKey,
    pub(super) uid: Uid,
    pub(super) frontend: FrontendId,
    pub(super) departure: Option<Departure>,
}

impl MemberEvent {
    /// The name of the channel or topic.
    pub fn name(&self) -> &str {
        self.audience.name()
    }

    /// The member.
    pub const fn uid(&self) -> &Uid {
        &self.uid
    }

    /// The frontend on which they joined or left.
    pub const fn frontend(&self) -> &FrontendId {
        &self.frontend
    }

    /// Why they left; `None` if they joined. After a gap in the news it is not known, and given as [`Departure::Closed`].
    pub const fn departure(&self) -> Option<Departure> {
        self.departure
    }
}
