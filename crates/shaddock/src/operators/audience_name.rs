//! Channels and topics by name.

use serde::{Deserialize, Serialize};
use shaddock_cluster::AudienceKey;
use shaddock_core::SessionService;

/// A channel or a topic by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct AudienceName {
    /// The criterion of the query.
    pub key: String,
    /// `topic` or `channel`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// The server whose channel it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
}

impl AudienceName {
    /// `None` if this is no key of a channel or topic.
    pub(crate) fn of(key: &str) -> Option<Self> {
        let parsed = AudienceKey::parse(key)?;
        let owner = parsed.owner().map(|(owner, _)| owner.to_owned());
        let kind = if owner.is_some() { "channel" } else { "topic" };
        Some(Self {
            key: key.to_owned(),
            kind: kind.to_owned(),
            name: parsed.name().to_owned(),
            owner,
        })
    }

    /// The audiences of a user.
    pub(crate) fn all_of(service: &SessionService, uid: &str) -> Vec<Self> {
        let mut keys = service.audiences_of(uid);
        keys.sort_unstable();
        keys.iter().filter_map(|key| Self::of(key)).collect()
    }
}
