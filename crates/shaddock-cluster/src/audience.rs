//! Audiences: members of a channel or a topic, in messages between servers.
//!
//! A frontend stores the members among its own users; there is no other copy. Other servers send it joins, leaves, pushes to the audience,
//! and queries for members.
//!
//! | | channel | topic |
//! | --- | --- | --- |
//! | owner | one incarnation of one server; a later channel of the same name is another audience | none: the same for all servers |
//! | a push | one message to each frontend that has members, on the path of all its deliveries | one message for all frontends that have members |
//! | location of members | its server knows the frontends | each frontend with members has subscribed |

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use crate::ServerId;

/// The longest name of a channel or topic, in bytes.
pub const MAX_AUDIENCE_NAME: usize = 256;

/// Keeps a frontend subscribed to a topic while it lives.
pub type Tie = Arc<dyn Any + Send + Sync>;

/// The key of the audience of a channel or of a topic. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AudienceKey(Arc<str>);

/// Prefix of the keys of topics, followed by the name.
const TOPIC: &str = "t/";
/// Prefix of the keys of channels, followed by owner, incarnation, number of the channel in this incarnation, and name. An id contains no
/// `/`.
const CHANNEL: &str = "c/";

impl AudienceKey {
    /// The audience of a topic. `None` if the name is empty or too long.
    pub fn topic(name: &str) -> Option<Self> {
        is_name(name).then(|| Self(format!("{TOPIC}{name}").into()))
    }

    /// The audience of the channel with this number in this incarnation of its server. `None` if the name is empty or too long.
    pub fn channel(owner: &str, life: u64, number: u64, name: &str) -> Option<Self> {
        let key = || format!("{}{number:x}/{name}", Self::channels(owner, life));
        is_name(name).then(|| Self(key().into()))
    }

    /// The prefix of the keys of all channels of one incarnation of a server.
    pub fn channels(owner: &str, life: u64) -> String {
        format!("{CHANNEL}{owner}/{life:x}/")
    }

    /// Parses a key returned by [`as_str`](Self::as_str). `None` if it is invalid.
    pub fn parse(text: &str) -> Option<Self> {
        let key = Self(text.into());
        if key.as_topic().is_none() {
            key.owner()?;
            key.number()?;
        }
        is_name(key.name()).then_some(key)
    }

    /// The name of the topic, if the key is a topic's.
    pub fn as_topic(&self) -> Option<&str> {
        self.0.strip_prefix(TOPIC)
    }

    /// The server that owns the channel, and its incarnation.
    pub fn owner(&self) -> Option<(&str, u64)> {
        let mut parts = self.0.strip_prefix(CHANNEL)?.splitn(3, '/');
        let owner = parts.next().filter(|owner| !owner.is_empty())?;
        let life = u64::from_str_radix(parts.next()?, 16).ok()?;
        parts.next().map(|_name| (owner, life))
    }

    /// The number of the channel in the incarnation of its server.
    pub fn number(&self) -> Option<u64> {
        let mut parts = self.0.strip_prefix(CHANNEL)?.splitn(4, '/').skip(2);
        let number = u64::from_str_radix(parts.next()?, 16).ok()?;
        parts.next().map(|_name| number)
    }

    /// The name of the channel or topic.
    pub fn name(&self) -> &str {
        let parts = if self.as_topic().is_some() { 2 } else { 5 };
        self.0.splitn(parts, '/').last().unwrap_or_default()
    }

    /// The complete key, as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The shared text.
    pub const fn shared(&self) -> &Arc<str> {
        &self.0
    }
}

/// Whether a text is a valid name of a channel or topic.
fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= MAX_AUDIENCE_NAME
}

impl fmt::Debug for AudienceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// The answer of a frontend to a join.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum JoinAnswer {
    /// The user is a member now.
    Joined,
    /// The user was already a member.
    Already,
    /// The session is not bound to this user.
    NotBound,
    /// The session is closed, or the user has no session on the frontend.
    Closed,
    /// The frontend refuses the join, for this reason.
    Refused(Arc<str>),
}

/// The part of an audience on one frontend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AudiencePart {
    /// The key.
    pub audience: Arc<str>,
    /// Its members there, in the order of joining; fewer than `count` if they were not requested or exceed the size of one answer.
    pub uids: Vec<Arc<str>>,
    /// The number of members.
    pub count: u64,
}

/// A notice of a frontend to a subscribed server that a user has joined or left. Notices for one user on one frontend arrive in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberNotice {
    /// The frontend.
    pub frontend: ServerId,
    /// Counts the notices of this frontend to this server since its subscription, from 1: a gap means that notices were lost.
    pub number: u64,
    /// The audience.
    pub audience: AudienceKey,
    /// The user.
    pub uid: Arc<str>,
    /// Why the user left; `None` if the user joined.
    pub departure: Option<Departure>,
}

/// Why a user is no longer a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Departure {
    /// A server removed the user.
    Left,
    /// The user's last session on the frontend was closed.
    Closed,
    /// The user's last session on the frontend was unbound.
    Unbound,
    /// The channel was destroyed.
    Ended,
    /// The frontend is gone, with all its sessions.
    FrontendLost,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_any_names_are_read_back() {
        for name in [
            "lobby",
            "a/b/c",
            "/",
            "t/x",
            "c/chat-1/1/x",
            "\u{5927}\u{5385} > *",
            "a.b",
        ] {
            let topic = AudienceKey::topic(name).unwrap();
            assert_eq!((topic.as_topic(), topic.owner()), (Some(name), None));
            let channel = AudienceKey::channel("chat-1", 0x1f, 0x2e, name).unwrap();
            assert_eq!(
                (channel.as_topic(), channel.owner()),
                (None, Some(("chat-1", 0x1f)))
            );
            assert_eq!(channel.number(), Some(0x2e));
            let all = AudienceKey::channels("chat-1", 0x1f);
            assert!(channel.as_str().starts_with(&all));
            for key in [topic, channel] {
                assert_eq!(key.name(), name);
                assert_eq!(AudienceKey::parse(key.as_str()), Some(key));
            }
        }
    }

    #[test]
    fn what_is_no_key_is_not_read() {
        let long = "x".repeat(MAX_AUDIENCE_NAME + 1);
        assert_eq!(AudienceKey::topic(&long), None);
        for text in [
            "",
            "t",
            "t/",
            "c/",
            "c/a",
            "c/a/1",
            "c/a/1/",
            "c/a/1/1",
            "c/a/1/1/",
            "c/a/z/1/x",
            "c/a/1/z/x",
            "c//1/1/x",
            "x/y",
            &format!("t/{long}"),
        ] {
            assert_eq!(AudienceKey::parse(text), None, "{text}");
        }
    }
}
