//! Audiences: who is in a channel or a topic, as servers name it to each other.
//!
//! A frontend keeps the members among its own users, and nobody else does. Others ask it to let a user in or out, name the audience in a
//! push, and ask who is in.
//!
//! | | channel | topic |
//! | --- | --- | --- |
//! | whose | one server's, in one life of it; another channel of its name later is another audience | nobody's: the same for all servers |
//! | a push | one message to each frontend that has members, on the path of all its deliveries | one message for all frontends that have members |
//! | where members are | its server knows the frontends | each frontend with members has subscribed |

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use crate::ServerId;

/// The longest name of a channel or topic, in bytes.
pub const MAX_AUDIENCE_NAME: usize = 256;

/// What keeps a topic open at a frontend: as long as it lives, pushes to the topic come there.
pub type Tie = Arc<dyn Any + Send + Sync>;

/// Names the audience of a channel or of a topic. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AudienceKey(Arc<str>);

/// In front of the keys of topics; the name follows.
const TOPIC: &str = "t/";
/// In front of the keys of channels; owner, its life, a number of the channel in this life and the name follow. An id has no `/`.
const CHANNEL: &str = "c/";

impl AudienceKey {
    /// The audience of a topic. `None` if the name is empty or too long.
    pub fn topic(name: &str) -> Option<Self> {
        is_name(name).then(|| Self(format!("{TOPIC}{name}").into()))
    }

    /// The audience of the channel that has this number in this life of its server. `None` if the name is empty or too long.
    pub fn channel(owner: &str, life: u64, number: u64, name: &str) -> Option<Self> {
        let key = || format!("{}{number:x}/{name}", Self::channels(owner, life));
        is_name(name).then(|| Self(key().into()))
    }

    /// What the keys of all channels of one life of a server begin with.
    pub fn channels(owner: &str, life: u64) -> String {
        format!("{CHANNEL}{owner}/{life:x}/")
    }

    /// Reads a key that [`as_str`](Self::as_str) gave. `None` if it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let key = Self(text.into());
        if key.as_topic().is_none() {
            key.owner()?;
            key.number()?;
        }
        is_name(key.name()).then_some(key)
    }

    /// The name of the topic, if it is one.
    pub fn as_topic(&self) -> Option<&str> {
        self.0.strip_prefix(TOPIC)
    }

    /// The server whose channel it is, and its life.
    pub fn owner(&self) -> Option<(&str, u64)> {
        let mut parts = self.0.strip_prefix(CHANNEL)?.splitn(3, '/');
        let owner = parts.next().filter(|owner| !owner.is_empty())?;
        let life = u64::from_str_radix(parts.next()?, 16).ok()?;
        parts.next().map(|_name| (owner, life))
    }

    /// The number of the channel in the life of its server.
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

    /// The whole key, as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The shared text.
    pub const fn shared(&self) -> &Arc<str> {
        &self.0
    }
}

/// Whether a text may name a channel or topic.
fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= MAX_AUDIENCE_NAME
}

impl fmt::Debug for AudienceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// What a frontend says to a join.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum JoinAnswer {
    /// The user is a member now.
    Joined,
    /// The user was a member before.
    Already,
    /// The session is not bound to this user.
    NotBound,
    /// The session is closed, or the user has none on the frontend.
    Closed,
    /// The frontend does not let them in, for this reason.
    Refused(Arc<str>),
}

/// The part of an audience that one frontend has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AudiencePart {
    /// The key.
    pub audience: Arc<str>,
    /// Its members there, in the order of joining; fewer than `count` if they were not asked for or are more than one answer holds.
    pub uids: Vec<Arc<str>>,
    /// How many they are.
    pub count: u64,
}

/// A frontend tells a server that asked for it who has joined or left. Those of one user on one frontend come in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberNotice {
    /// The frontend.
    pub frontend: ServerId,
    /// Counts the notices of this frontend to this server since it asked, from 1: a gap means that some were lost.
    pub number: u64,
    /// The audience.
    pub audience: AudienceKey,
    /// Who.
    pub uid: Arc<str>,
    /// Why they left; `None` if they have joined.
    pub departure: Option<Departure>,
}

/// Why somebody is no member any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Departure {
    /// A server took them out.
    Left,
    /// Their last session on the frontend was closed.
    Closed,
    /// Their last session on the frontend was unbound.
    Unbound,
    /// The channel was destroyed.
    Ended,
    /// The frontend is gone, and their sessions with it.
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
