//! The channels of one server, and their restoration from the store.

use super::config::ChannelConfig;
use super::tables::Tables;
use super::{Channel, ChannelState};
use crate::store::parse_member;
use crate::{ChannelError, RestoreError};
use std::fmt;
use std::sync::Arc;

/// The channels of one server, by name. A clone is a handle to the same channels.
///
/// ```
/// use shaddock_core::{ChannelConfig, ChannelService, FrontendId, Uid};
/// let channels = ChannelService::new("chat-1", ChannelConfig::default());
/// let room = channels.create_channel("lobby")?;
/// room.add(&Uid::new("ann")?, &FrontendId::new("connector-1")?);
/// assert_eq!(room.fan_out()?[0].uids.len(), 1);
///
/// channels.remove_member_everywhere("ann", "connector-1");
/// assert!(room.fan_out()?.is_empty());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct ChannelService {
    tables: Arc<Tables<Channel>>,
}

impl ChannelService {
    /// Creates a service without channels, for the server `server_id`.
    pub fn new(server_id: &str, config: ChannelConfig) -> Self {
        Self {
            tables: Arc::new(Tables::new(server_id, config)),
        }
    }

    /// The channel with this name; created if there is none.
    ///
    /// # Errors
    ///
    /// The name is invalid, or there are too many channels.
    pub fn create_channel(&self, name: &str) -> Result<Arc<Channel>, ChannelError> {
        let tables = &self.tables;
        let _turn = tables.turn(name);
        let (channel, new) = self.obtain(name)?;
        if new {
            tables.with_store(|store| store.add(&tables.list_key(), name));
        }
        Ok(channel)
    }

    /// The existing channel with this name or a new one, and whether it is new.
    fn obtain(&self, name: &str) -> Result<(Arc<Channel>, bool), ChannelError> {
        self.tables.obtain(
            name,
            |channel| channel.state() == ChannelState::Open,
            |name, number| Channel::new(name, number, &self.tables),
        )
    }

    /// The channel with this name.
    pub fn channel(&self, name: &str) -> Option<Arc<Channel>> {
        let found = self.tables.named(name).get(name).cloned();
        found.filter(|channel| channel.state() == ChannelState::Open)
    }

    /// The names of all channels, in no particular order.
    pub fn names(&self) -> Vec<Arc<str>> {
        self.tables.names()
    }

    /// Number of channels.
    pub fn channel_count(&self) -> usize {
        self.tables.count()
    }

    /// Removes a user on a frontend from all channels that list the member by name, and returns their number.
    pub fn remove_member_everywhere(&self, uid: &str, frontend: &str) -> usize {
        let left = self.tables.channels_of(uid, frontend);
        let left = left.iter();
        left.filter(|channel| channel.leave(uid, frontend)).count()
    }

    /// Whether there is a store.
    pub fn has_store(&self) -> bool {
        self.tables.config.store.is_some()
    }

    /// The number of failed store calls since the start.
    pub fn store_errors(&self) -> u64 {
        self.tables.store_errors()
    }

    /// Restores the channels of this server from the store, with all their members, before it returns.
    ///
    /// Call it once, before the server starts to work. Returns the number of channels. Nothing is written to the store.
    ///
    /// # Errors
    ///
    /// The store failed or contains invalid data. Nothing was restored.
    pub fn restore(&self) -> Result<usize, RestoreError> {
        let tables = &self.tables;
        let Some(store) = &tables.config.store else {
            return Ok(0);
        };
        let mut loaded = Vec::new();
        for name in store.load(&tables.list_key())? {
            let mut members = Vec::new();
            for member in store.load(&tables.members_key(&name))? {
                match parse_member(&member) {
                    Some(member) => members.push(member),
                    None => {
                        return Err(RestoreError::BadMember {
                            channel: name,
                            member,
                        });
                    }
                }
            }
            loaded.push((name, members));
        }
        let mut channels = Vec::new();
        for (name, members) in loaded {
            match self.obtain(&name) {
                Ok((channel, _)) => channels.push((channel, members)),
                Err(error) => {
                    for (channel, _) in &channels {
                        tables.forget(channel.name(), channel);
                    }
                    return Err(RestoreError::BadChannel {
                        channel: name,
                        error,
                    });
                }
            }
        }
        for (channel, members) in &channels {
            for (uid, frontend) in members {
                channel.enter(tables, uid, frontend);
            }
        }
        Ok(channels.len())
    }
}

impl fmt::Debug for ChannelService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelService")
            .field("server_id", &self.tables.server_id())
            .field("channels", &self.channel_count())
            .finish_non_exhaustive()
    }
}
