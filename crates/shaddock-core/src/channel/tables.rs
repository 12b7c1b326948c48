//! The tables of the channels of one server: names, members' index, store.

use super::config::ChannelConfig;
use crate::event::guarded;
use crate::few::{Few, Removed};
use crate::ids::MAX_ID_BYTES;
use crate::shards::Shards;
use crate::sync::MutexGuard;
use crate::{ChannelError, ChannelStore, FrontendId, StoreError, Uid};
use hashbrown::{DefaultHashBuilder, HashMap};
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// A user on a frontend.
type Member = (Uid, FrontendId);

/// The channels of one server by name and by member, and their store. The type of a channel is its user's: channels and their service share
/// the tables.
pub(super) struct Tables<C> {
    server_id: String,
    pub(super) config: ChannelConfig,
    /// Locked first and held over store calls, so that calls for one name stay in order. Used only with a store.
    turns: Shards<()>,
    names: Shards<HashMap<Arc<str>, Arc<C>>>,
    count: AtomicUsize,
    /// The channels of each member, so that a close need not query all of them.
    joined: Shards<HashMap<Member, Few<Arc<C>>>>,
    numbers: AtomicU64,
    hasher: DefaultHashBuilder,
    store_errors: AtomicU64,
}

/// A borrowed [`Member`], for look-ups.
#[derive(Hash)]
struct MemberRef<'a>(&'a str, &'a str);

impl hashbrown::Equivalent<Member> for MemberRef<'_> {
    fn equivalent(&self, member: &Member) -> bool {
        member.0 == *self.0 && member.1 == *self.1
    }
}

impl<C> Tables<C> {
    pub(super) fn new(server_id: &str, config: ChannelConfig) -> Self {
        Self {
            server_id: server_id.to_owned(),
            config,
            turns: Shards::default(),
            names: Shards::default(),
            count: AtomicUsize::new(0),
            joined: Shards::default(),
            numbers: AtomicU64::new(1),
            hasher: DefaultHashBuilder::default(),
            store_errors: AtomicU64::new(0),
        }
    }

    /// The server.
    pub(super) fn server_id(&self) -> &str {
        &self.server_id
    }

    /// The number of channels.
    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// The number of failed calls of the store.
    pub(super) fn store_errors(&self) -> u64 {
        self.store_errors.load(Ordering::Relaxed)
    }

    /// The names of all channels, in no particular order.
    pub(super) fn names(&self) -> Vec<Arc<str>> {
        let mut names = Vec::new();
        for shard in self.names.each() {
            names.extend(shard.keys().cloned());
        }
        names
    }

    /// With a store, the right to change channels of this name. Without one there is no order to keep.
    pub(super) fn turn(&self, name: &str) -> Option<MutexGuard<'_, ()>> {
        self.config
            .store
            .is_some()
            .then(|| self.turns.lock(self.hasher.hash_one(name)))
    }

    /// Locks the names that share a lock with this one.
    pub(super) fn named(&self, name: &str) -> MutexGuard<'_, HashMap<Arc<str>, Arc<C>>> {
        self.names.lock(self.hasher.hash_one(name))
    }

    fn joined(&self, uid: &str, frontend: &str) -> MutexGuard<'_, HashMap<Member, Few<Arc<C>>>> {
        self.joined.lock(self.hasher.hash_one((uid, frontend)))
    }

    /// The channels of a member, without a lock.
    pub(super) fn channels_of(&self, uid: &str, frontend: &str) -> Vec<Arc<C>> {
        let joined = self.joined(uid, frontend);
        let known = joined.get(&MemberRef(uid, frontend));
        known.map_or_else(Vec::new, |known| known.as_slice().to_vec())
    }

    /// The existing channel with this name or a new one, and whether it is new. A channel that is not open any more is replaced.
    pub(super) fn obtain(
        &self,
        name: &str,
        is_open: impl FnOnce(&C) -> bool,
        create: impl FnOnce(Arc<str>, u64) -> C,
    ) -> Result<(Arc<C>, bool), ChannelError> {
        if name.is_empty() || name.len() > MAX_ID_BYTES {
            return Err(ChannelError::BadName { len: name.len() });
        }
        let mut names = self.named(name);
        let old = names.get(name);
        if let Some(known) = old.filter(|channel| is_open(channel)) {
            return Ok((Arc::clone(known), false));
        }
        let limit = self.config.max_channels;
        let one_more = |count| (count < limit).then_some(count + 1);
        if old.is_none()
            && self
                .count
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more)
                .is_err()
        {
            return Err(ChannelError::TooMany { limit });
        }
        let name: Arc<str> = name.into();
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let channel = Arc::new(create(Arc::clone(&name), number));
        names.insert(name, Arc::clone(&channel));
        Ok((channel, true))
    }

    /// Removes this channel from the names, but no other of the same name.
    pub(super) fn forget(&self, name: &str, channel: &C) {
        let mut names = self.named(name);
        if names
            .get(name)
            .is_some_and(|known| std::ptr::eq(&raw const **known, channel))
        {
            names.remove(name);
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Records that a member is in a channel by name. The caller holds the lock of the channel.
    pub(super) fn link(&self, uid: &Uid, frontend: &FrontendId, channel: &Arc<C>) {
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

    pub(super) fn unlink(&self, uid: &str, frontend: &str, channel: &C) {
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
