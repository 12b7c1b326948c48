//! When a push leaves: at once, or with others a moment later. Pomelo's push schedulers.

use std::{sync::Arc, time::Duration};

use hashbrown::HashMap;
use serde_json::Value;
use shaddock_core::{Session, Shards, Sid};
use tokio::sync::Notify;

use super::pressure::Pressure;
use crate::guarded::caught;

/// When a push leaves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Schedule {
    /// At once.
    #[default]
    Direct,
    /// With the next flush, or with whatever is written to the client before that. The order of a session's messages stays; a kick, a close
    /// and a shutdown flush first.
    Buffered,
}

/// Decides for each session whether it gets a broadcast, with the broadcast's parameter.
pub type BroadcastFilter = Arc<dyn Fn(&Arc<Session>, &Value) -> bool + Send + Sync>;

/// Decides by route when a push leaves.
pub type RouteSchedule = Arc<dyn Fn(&str) -> Schedule + Send + Sync>;

/// How a frontend sends pushes. Set with `app.set(PushConfig::default()..)`.
#[derive(Clone)]
#[non_exhaustive]
pub struct PushConfig {
    /// For routes that `by_route` does not decide. Default [`Schedule::Direct`].
    pub schedule: Schedule,
    /// How often buffered pushes are flushed. Default 20 ms.
    pub flush_interval: Duration,
    /// Chooses by route. Default: none. (Pomelo's scheduler `selector`.)
    pub by_route: Option<RouteSchedule>,
    /// Selects the receivers of broadcasts with a filter parameter. Default: none, all sessions receive them. (Pomelo's `broadcastFilter`.)
    pub filter: Option<BroadcastFilter>,
}

shaddock_protocol::setters!(PushConfig {
    schedule: Schedule,
    flush_interval: Duration,
    by_route: RouteSchedule,
    filter: BroadcastFilter,
});

impl Default for PushConfig {
    fn default() -> Self {
        Self {
            schedule: Schedule::Direct,
            flush_interval: Duration::from_millis(20),
            by_route: None,
            filter: None,
        }
    }
}

impl std::fmt::Debug for PushConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PushConfig")
            .field("schedule", &self.schedule)
            .field("flush_interval", &self.flush_interval)
            .field("by_route", &self.by_route.is_some())
            .field("filter", &self.filter.is_some())
            .finish()
    }
}

const SHARDS: usize = 16;

/// Knows which sessions have buffered messages. The messages themselves are in the sessions' queues, where their bytes are bounded.
pub(crate) struct Scheduler {
    config: PushConfig,
    waiting: Shards<HashMap<Sid, Arc<Session>>, SHARDS>,
    some: Notify,
    pressure: Pressure,
}

impl Scheduler {
    pub(crate) fn new(config: PushConfig) -> Self {
        Self {
            config,
            waiting: Shards::default(),
            some: Notify::new(),
            pressure: Pressure::default(),
        }
    }

    pub(crate) fn pressure(&self) -> &Pressure {
        &self.pressure
    }

    pub(crate) fn choose(&self, route: &str) -> Schedule {
        self.config
            .by_route
            .as_ref()
            .map_or(self.config.schedule, |choose| {
                caught(|| choose(route)).unwrap_or_else(|panic| {
                    let panic = panic.text();
                    shaddock_net::quiet!(
                        error,
                        "the function that schedules pushes panicked",
                        route,
                        panic
                    );
                    self.config.schedule
                })
            })
    }

    pub(crate) fn filter(&self) -> Option<BroadcastFilter> {
        self.config.filter.clone()
    }

    pub(crate) fn flush_later(&self, session: &Arc<Session>) {
        let mut shard = self.waiting.of(session.id());
        let first = shard.is_empty();
        shard
            .entry(session.id())
            .or_insert_with(|| Arc::clone(session));
        drop(shard);
        if first {
            self.some.notify_one();
        }
    }

    /// Lets go what is buffered.
    pub(crate) fn flush(&self) {
        for mut shard in self.waiting.each() {
            let sessions = std::mem::take(&mut *shard);
            drop(shard);
            for session in sessions.values() {
                session.outbox().flush();
            }
        }
    }

    /// Whether pushes may be buffered: only then they have to be flushed.
    pub(crate) fn may_buffer(&self) -> bool {
        self.config.schedule == Schedule::Buffered || self.config.by_route.is_some()
    }

    /// Flushes buffered pushes, for as long as it is polled.
    pub(crate) async fn flush_forever(&self) {
        loop {
            self.some.notified().await;
            tokio::time::sleep(self.config.flush_interval).await;
            self.flush();
        }
    }
}
