//! Persistence of channels: keys and values. The application provides the storage.

use crate::sync::Mutex;
use crate::{FrontendId, Uid};
use hashbrown::HashMap;
use std::fmt;

/// A store of lists of texts, such as Redis sets (Pomelo's channel `store`).
///
/// The list of channels of a server is `<prefix>:<server id>`, the members of one are `<prefix>:<server id>:<name>`, a member
/// is `<frontend id>:<uid>`. A `:` or `%` in a frontend id is written as `%3A` or `%25`.
///
/// Calls for one channel name are made one after another and in order, while no other call can change the members of that channel. An
/// implementation should therefore not wait for a network: it should enqueue the call, and it must not call the
/// [`ChannelService`](crate::ChannelService). Errors and panics do not undo the change; they are counted
/// ([`ChannelService::store_errors`](crate::ChannelService::store_errors)).
pub trait ChannelStore: Send + Sync + 'static {
    /// Adds `value` to the list `key`, if it is not there.
    ///
    /// # Errors
    ///
    /// The store failed.
    fn add(&self, key: &str, value: &str) -> Result<(), StoreError>;

    /// Removes `value` from the list `key`, if present.
    ///
    /// # Errors
    ///
    /// The store failed.
    fn remove(&self, key: &str, value: &str) -> Result<(), StoreError>;

    /// Removes the list `key`.
    ///
    /// # Errors
    ///
    /// The store failed.
    fn remove_all(&self, key: &str) -> Result<(), StoreError>;

    /// All values of the list `key`, none if there is no such list.
    ///
    /// # Errors
    ///
    /// The store failed.
    fn load(&self, key: &str) -> Result<Vec<String>, StoreError>;
}

/// An error of the store, with its message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("channel store: {0}")]
pub struct StoreError(pub String);

/// Channels were not restored, and none of them exists.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store contains an invalid member.
    #[error(
        "channel {channel} has the member {member:?} in the store, which is not <frontend id>:<uid>"
    )]
    BadMember {
        /// Name of the channel.
        channel: String,
        /// The value in the store.
        member: String,
    },
    /// The store contains a channel that is not allowed here.
    #[error("channel {channel:?} of the store: {error}")]
    BadChannel {
        /// Name of the channel.
        channel: String,
        /// The error.
        error: crate::ChannelError,
    },
}

/// The text of a member in a store.
pub(crate) fn member_text(uid: &str, frontend: &str) -> String {
    let mut text = String::with_capacity(uid.len() + frontend.len() + 1);
    for c in frontend.chars() {
        match c {
            ':' => text.push_str("%3A"),
            '%' => text.push_str("%25"),
            _ => text.push(c),
        }
    }
    text.push(':');
    text.push_str(uid);
    text
}

/// Parses a member. A uid may contain any number of `:`.
pub(crate) fn parse_member(text: &str) -> Option<(Uid, FrontendId)> {
    let (frontend, uid) = text.split_once(':')?;
    let frontend = frontend.replace("%3A", ":").replace("%25", "%");
    Some((Uid::new(uid).ok()?, FrontendId::new(frontend).ok()?))
}

/// A store in memory, for tests and single processes.
#[derive(Default)]
pub struct MemoryStore {
    lists: Mutex<HashMap<String, Vec<String>>>,
}

impl ChannelStore for MemoryStore {
    fn add(&self, key: &str, value: &str) -> Result<(), StoreError> {
        let mut lists = self.lists.lock();
        let list = lists.entry_ref(key).or_default();
        if !list.iter().any(|known| known == value) {
            list.push(value.to_owned());
        }
        Ok(())
    }

    fn remove(&self, key: &str, value: &str) -> Result<(), StoreError> {
        let mut lists = self.lists.lock();
        if let Some(list) = lists.get_mut(key) {
            list.retain(|known| known != value);
            if list.is_empty() {
                lists.remove(key);
            }
        }
        Ok(())
    }

    fn remove_all(&self, key: &str) -> Result<(), StoreError> {
        self.lists.lock().remove(key);
        Ok(())
    }

    fn load(&self, key: &str) -> Result<Vec<String>, StoreError> {
        Ok(self.lists.lock().get(key).cloned().unwrap_or_default())
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore")
            .field("lists", &self.lists.lock().len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_survive_the_text_form() {
        for (uid, frontend) in [
            ("ann*room", "connector-1"),
            ("a:b:c", "x"),
            ("1", "a:%3A%25:b"),
        ] {
            let (uid2, frontend2) = parse_member(&member_text(uid, frontend)).unwrap();
            assert_eq!((uid2.as_str(), frontend2.as_str()), (uid, frontend));
        }
        assert_eq!(member_text("ann*r", "connector-1"), "connector-1:ann*r");
        assert!(parse_member("nobody").is_none());
        assert!(parse_member(":ann").is_none());
        assert!(parse_member("connector-1:").is_none());
    }
}
