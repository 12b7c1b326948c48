//! The channels of one server: names, members' index, store.

use super::{Channel, ChannelConfig, ChannelState, Data};
use crate::event::guarded;
use crate::few::{Few, Removed};
use crate::members::ChannelMembers;
use crate::shards::Shards;
use crate::store::parse_member;
use crate::sync::{Mutex, MutexGuard};
use crate::{ChannelError, ChannelStore, FrontendId, MAX_ID_BYTES, RestoreError, StoreError, Uid};
use hashbrown::{DefaultHashBuilder, HashMap};
use std::fmt;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// The channels of one server, by name. A clone is a handle to the same channels.
///
/// ```
/// use shaddock_core::{ChannelConfig, ChannelService, FrontendId, Uid};
/// let channels = ChannelService::new("chat-1", ChannelConfig::default());
/// let room = channels.create_channel("lobby")?;
/// room.add(&Uid::new("ann")?, &FrontendId::new("connector-1")?);
/// assert_eq!(room.fan_out()?.receivers(), 1);
///
/// channels.remove_member_everywhere("ann", "connector-1");
/// assert_eq!(room.len(), 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct ChannelService {
    inner: Arc<Inner>,
}

/// A user on a frontend.
type Member = (Uid, FrontendId);

pub(super) struct Inner {
    server_id: String,
    config: ChannelConfig,
    /// Locked first and held over store calls, so that calls for one name stay in order. Used only with a store.
    turns: Shards<()>,
    names: Shards<HashMap<Arc<str>, Arc<Channel>>>,
    count: AtomicUsize,
    /// The channels of each member, so that a close need not query all of them.
    joined: Shards<HashMap<Member, Few<Arc<Channel>>>>,
    numbers: AtomicU64,
    hasher: DefaultHashBuilder,
    store_errors: AtomicU64,
}

impl ChannelService {
    /// Creates a service without channels, for the server `server_id`.
    pub fn new(server_id: &str, config: ChannelConfig) -> Self {
        let inner = Inner {
            server_id: server_id.to_owned(),
            config,
            turns: Shards::default(),
            names: Shards::default(),
            count: AtomicUsize::new(0),
            joined: Shards::default(),
            numbers: AtomicU64::new(1),
            hasher: DefaultHashBuilder::default(),
            store_errors: AtomicU64::new(0),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// The channel with this name; created if there is none.
    ///
    /// # Errors
    ///
    /// The name is invalid, or there are too many channels.
    pub fn create_channel(&self, name: &str) -> Result<Arc<Channel>, ChannelError> {
        let inner = &self.inner;
        let _turn = inner.turn(name);
        let (channel, new) = Inner::obtain(inner, name)?;
        if new {
            inner.with_store(|store| store.add(&inner.list_key(), name));
        }
        Ok(channel)
    }

    /// The channel with this name.
    pub fn channel(&self, name: &str) -> Option<Arc<Channel>> {
        let found = self.inner.names(name).get(name).cloned();
        found.filter(|channel| channel.state() == ChannelState::Open)
    }

    /// The names of all channels, in no particular order.
    pub fn names(&self) -> Vec<Arc<str>> {
        let mut names = Vec::new();
        for shard in self.inner.names.each() {
            names.extend(shard.keys().cloned());
        }
        names
    }

    /// Number of channels.
    pub fn channel_count(&self) -> usize {
        self.inner.count.load(Ordering::Relaxed)
    }

    /// Removes a user on a frontend from all channels that list the member by name, and returns their number.
    pub fn remove_member_everywhere(&self, uid: &str, frontend: &str) -> usize {
        let left = self.inner.channels(uid, frontend);
        let left = left.iter();
        left.filter(|channel| channel.leave(uid, frontend)).count()
    }

    /// Whether there is a store.
    pub fn has_store(&self) -> bool {
        self.inner.config.store.is_some()
    }

    /// The number of failed store calls since the start.
    pub fn store_errors(&self) -> u64 {
        self.inner.store_errors.load(Ordering::Relaxed)
    }

    /// Restores the channels of this server from the store, with all their members, before it returns.
    ///
    /// Call it once, before the server starts to work. Returns the number of channels. Nothing is written to the store.
    ///
    /// # Errors
    ///
    /// The store failed or contains invalid data. Nothing was restored.
    pub fn restore(&self) -> Result<usize, RestoreError> {
        let inner = &self.inner;
        let Some(store) = &inner.config.store else {
            return Ok(0);
        };
        let mut loaded = Vec::new();
        for name in store.load(&inner.list_key())? {
            let mut members = Vec::new();
            for member in store.load(&inner.members_key(&name))? {
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
            match Inner::obtain(inner, &name) {
                Ok((channel, _)) => channels.push((channel, members)),
                Err(error) => {
                    for (channel, _) in &channels {
                        inner.forget(channel);
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
                channel.enter(inner, uid, frontend);
            }
        }
        Ok(channels.len())
    }
}

impl fmt::Debug for ChannelService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelService")
            .field("server_id", &self.inner.server_id)
            .field("channels", &self.channel_count())
            .finish_non_exhaustive()
    }
}

/// A borrowed [`Member`], for look-ups.
#[derive(Hash)]
struct MemberRef<'a>(&'a str, &'a str);

impl hashbrown::Equivalent<Member> for MemberRef<'_> {
    fn equivalent(&self, member: &Member) -> bool {
        member.0 == *self.0 && member.1 == *self.1
    }
}

impl Inner {
    /// With a store, the right to change channels of this name. Without one there is no order to keep.
    pub(super) fn turn(&self, name: &str) -> Option<MutexGuard<'_, ()>> {
        self.config
            .store
            .is_some()
            .then(|| self.turns.lock(self.hasher.hash_one(name)))
    }

    fn names(&self, name: &str) -> MutexGuard<'_, HashMap<Arc<str>, Arc<Channel>>> {
        self.names.lock(self.hasher.hash_one(name))
    }

    fn joined(
        &self,
        uid: &str,
        frontend: &str,
    ) -> MutexGuard<'_, HashMap<Member, Few<Arc<Channel>>>> {
        self.joined.lock(self.hasher.hash_one((uid, frontend)))
    }

    /// The channels of a member, without a lock.
    fn channels(&self, uid: &str, frontend: &str) -> Vec<Arc<Channel>> {
        let joined = self.joined(uid, frontend);
        let known = joined.get(&MemberRef(uid, frontend));
        known.map_or_else(Vec::new, |known| known.as_slice().to_vec())
    }

    /// The existing channel with this name or a new one, and whether it is new.
    fn obtain(this: &Arc<Self>, name: &str) -> Result<(Arc<Channel>, bool), ChannelError> {
        if name.is_empty() || name.len() > MAX_ID_BYTES {
            return Err(ChannelError::BadName { len: name.len() });
        }
        let mut names = this.names(name);
        // A channel that is being destroyed is replaced.
        let old = names.get(name);
        if let Some(known) = old.filter(|channel| channel.state() == ChannelState::Open) {
            return Ok((Arc::clone(known), false));
        }
        let limit = this.config.max_channels;
        let one_more = |count| (count < limit).then_some(count + 1);
        if old.is_none()
            && this
                .count
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more)
                .is_err()
        {
            return Err(ChannelError::TooMany { limit });
        }
        let name: Arc<str> = name.into();
        let data = Data {
            state: ChannelState::Open,
            members: ChannelMembers::new(),
            places: Vec::new(),
            plan: None,
            ends: Vec::new(),
            next_end: 0,
        };
        let channel = Arc::new(Channel {
            name: Arc::clone(&name),
            number: this.numbers.fetch_add(1, Ordering::Relaxed),
            service: Arc::downgrade(this),
            data: Mutex::new(data),
        });
        names.insert(name, Arc::clone(&channel));
        Ok((channel, true))
    }

    /// Removes this channel from the names, but no other of the same name.
    pub(super) fn forget(&self, channel: &Channel) {
        let mut names = self.names(channel.name());
        if names
            .get(channel.name())
            .is_some_and(|known| std::ptr::eq(&raw const **known, channel))
        {
            names.remove(channel.name());
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Records that a member is in a channel by name. The caller holds the lock of the channel.
    pub(super) fn link(&self, uid: &Uid, frontend: &FrontendId, channel: &Arc<Channel>) {
        let mut joined = self.joined(uid.as_str(), frontend.as_str());
        if let Some(known) = joined.get_mut(&MemberRef(uid.as_str(), frontend.as_str())) {
            known.push(Arc::clone(channel));
            return;
        }
        joined.insert(
            (uid.clone(), frontend.clone()),
            Few::One(Arc::clone(channel)),
        );
    }

    pub(super) fn unlink(&self, uid: &str, frontend: &str, channel: &Channel) {
        let member = MemberRef(uid, frontend);
        let mut joined = self.joined(uid, frontend);
        if let Some(known) = joined.get_mut(&member)
            && known.remove(|known| std::ptr::eq(&raw const **known, channel)) == Removed::Last
        {
            joined.remove(&member);
        }
    }

    pub(super) fn list_key(&self) -> String {
        format!("{}:{}", self.config.prefix, self.server_id)
    }

    pub(super) fn members_key(&self, name: &str) -> String {
        format!("{}:{}:{name}", self.config.prefix, self.server_id)
    }

    /// Calls the store, if there is one. The store is the application's: its errors and panics are counted, and do not fail the operation.
    pub(super) fn with_store(&self, run: impl FnOnce(&dyn ChannelStore) -> Result<(), StoreError>) {
        let Some(store) = &self.config.store else {
            return;
        };
        let mut done = false;
        let asked = guarded(|| done = run(&**store).is_ok());
        if asked.is_err() || !done {
            self.store_errors.fetch_add(1, Ordering::Relaxed);
        }
    }
}
