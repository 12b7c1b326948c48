//! Follows the list of servers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::pb::{EventType, KeyValue, WatchResponse};
use super::{Etcd, EtcdResult, Lease, record};
use crate::nats::NatsConfig;
use crate::quiet::quiet;
use crate::{BoxFuture, MemberChange, Members, ServerInfo};

/// Keeps [`Members`] equal to the list in etcd, and reports each change.
pub(crate) struct Watcher {
    etcd: Etcd,
    lease: Arc<Lease>,
    own: Arc<ServerInfo>,
    members: Members,
    /// The work that must be done before a server is in the list, if there is any.
    before: Box<Before>,
    changed: Box<dyn Fn(MemberChange) + Send + Sync>,
    sync_interval: Duration,
    retry: Duration,
    grace: Duration,
    ignored: Vec<String>,
    /// Servers that are missing after etcd was silent, and until when they may come back.
    missing: HashMap<String, Instant>,
    /// The revision up to which the list is known.
    revision: i64,
}

type Before = dyn Fn(&ServerInfo) -> Option<BoxFuture<'static, ()>> + Send + Sync;

impl Watcher {
    pub(crate) fn new(
        etcd: Etcd,
        lease: Arc<Lease>,
        own: Arc<ServerInfo>,
        members: Members,
        config: &NatsConfig,
        (before, changed): (
            impl Fn(&ServerInfo) -> Option<BoxFuture<'static, ()>> + Send + Sync + 'static,
            impl Fn(MemberChange) + Send + Sync + 'static,
        ),
    ) -> Self {
        Self {
            etcd,
            lease,
            own,
            members,
            before: Box::new(before),
            changed: Box::new(changed),
            sync_interval: config.sync_interval,
            retry: config.etcd_retry_delay,
            grace: config.rejoin_grace,
            ignored: config.ignored_types.clone(),
            missing: HashMap::new(),
            revision: 0,
        }
    }

    /// Reads the whole list. Servers that are not in it are removed, or only doubted if etcd was silent.
    pub(crate) async fn read_all(&mut self) -> EtcdResult<()> {
        let servers_key = self.etcd.servers_key();
        let answer = self.etcd.get_prefix(&servers_key).await?;
        self.revision = answer.header.map_or(0, |header| header.revision);
        let mut there = std::collections::HashSet::new();
        for kv in &answer.kvs {
            if let Some(id) = self.put(kv, &servers_key).await {
                there.insert(id);
            }
        }
        // An etcd that has lost its memory does not have this server either, and none of the others has left.
        let has_forgotten = self.lease.is_listed() && !there.contains(self.own.id.as_str());
        if has_forgotten {
            tracing::warn!(server = %self.own.id, "etcd has forgotten this server; the known servers are kept");
            self.lease.restore();
        }
        let gone: Vec<_> = self
            .members
            .all()
            .into_iter()
            .filter(|s| !there.contains(s.id.as_str()))
            .collect();
        for server in gone {
            let id = server.id.as_str();
            if has_forgotten {
                // They have yet to find out, each when it keeps its lease alive.
                self.suspect(id, self.grace + self.lease.ttl());
            } else {
                self.key_deleted(id);
            }
        }
        Ok(())
    }

    /// Follows the list for ever. [`read_all`](Self::read_all) was called once.
    pub(crate) async fn follow(mut self) {
        loop {
            let error = self
                .watch()
                .await
                .map_or_else(|e| e.to_string(), |()| "the watch ended".to_owned());
            tracing::warn!(server = %self.own.id, error, "etcd does not respond; the known servers are kept");
            while let Err(error) = self.read_all().await {
                tracing::debug!(%error, "etcd still does not respond");
                sleep(self.retry).await;
            }
            tracing::info!(server = %self.own.id, "etcd responds again");
        }
    }

    async fn watch(&mut self) -> EtcdResult<()> {
        let servers_key = self.etcd.servers_key();
        let mut watch = self.etcd.watch(&servers_key, self.revision + 1).await?;
        let mut next_sync = Instant::now() + self.sync_interval;
        loop {
            let deadline = self
                .missing
                .values()
                .min()
                .copied()
                .unwrap_or(next_sync)
                .min(next_sync);
            tokio::select! {
                answer = watch.answers.message() => match answer? {
                    Some(answer) if !answer.canceled => self.take(&answer, &servers_key).await,
                    _ => return Ok(()),
                },
                () = sleep_until(deadline) => {
                    self.remove_missing();
                    if Instant::now() >= next_sync {
                        self.read_all().await?;
                        next_sync = Instant::now() + self.sync_interval;
                    }
                }
            }
        }
    }

    async fn take(&mut self, answer: &WatchResponse, servers_key: &str) {
        for event in &answer.events {
            let Some(kv) = &event.kv else { continue };
            self.revision = self.revision.max(kv.mod_revision);
            match EventType::try_from(event.kind) {
                Ok(EventType::Put) => {
                    self.put(kv, servers_key).await;
                }
                Ok(EventType::Delete) => self.delete(kv, servers_key),
                Err(_) => {}
            }
        }
    }

    fn delete(&mut self, kv: &KeyValue, servers_key: &str) {
        let key = String::from_utf8_lossy(&kv.key);
        let Some((_, id)) = record::split_key(&key, servers_key) else {
            return;
        };
        if *id == *self.own.id.as_str() {
            self.lease.restore();
        }
        self.key_deleted(id);
    }

    /// A server is in the list. Returns its id if its entry can be used.
    async fn put(&mut self, kv: &KeyValue, servers_key: &str) -> Option<String> {
        let key = String::from_utf8_lossy(&kv.key);
        let info = match record::read(&key, &kv.value, servers_key) {
            Ok(info) => info,
            Err(reason) => {
                quiet!(warn, "a server in the list cannot be used", %key, reason);
                return None;
            }
        };
        if info.server_type != self.own.server_type
            && self.ignored.iter().any(|t| **t == *info.server_type)
        {
            return None;
        }
        let id = info.id.as_str().to_owned();
        self.missing.remove(&id);
        if self.members.server(&id).is_none()
            && let Some(before) = (self.before)(&info)
        {
            before.await;
        }
        let info = Arc::new(info);
        if self.members.add(Arc::clone(&info)) && info.id != self.own.id {
            tracing::info!(server = %info.id, server_type = %info.server_type, "server joined");
            (self.changed)(MemberChange::Joined(info));
        }
        Some(id)
    }

    fn key_deleted(&mut self, id: &str) {
        if !self.lease.absence_counts(self.grace) && self.members.server(id).is_some() {
            self.suspect(id, self.grace);
        } else {
            self.remove(id);
        }
    }

    /// A server may come back for so long.
    fn suspect(&mut self, id: &str, time: Duration) {
        self.missing
            .entry(id.to_owned())
            .or_insert_with(|| Instant::now() + time);
    }

    fn remove_missing(&mut self) {
        let now = Instant::now();
        let over: Vec<_> = self
            .missing
            .iter()
            .filter(|(_, until)| **until <= now)
            .map(|(id, _)| id.clone())
            .collect();
        for id in over {
            self.remove(&id);
        }
    }

    fn remove(&mut self, id: &str) {
        self.missing.remove(id);
        if *id == *self.own.id.as_str() {
            // One finds oneself in one's list as long as one runs.
            if self.lease.is_listed() {
                return;
            }
        }
        if let Some(info) = self.members.remove(id) {
            tracing::info!(server = %info.id, server_type = %info.server_type, "server left");
            if info.id != self.own.id {
                (self.changed)(MemberChange::Left(info));
            }
        }
    }
}
