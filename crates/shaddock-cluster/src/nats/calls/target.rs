//! A server that is called, and the calls on the way to it.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_nats::Subject;
use bytes::Bytes;

use super::number::BuildNumberHasher;
use crate::ServerInfo;
use crate::nats::subject;
use parking_lot::{Mutex, MutexGuard};

/// A server that is called: where, and what is on the way to it.
pub(in crate::nats) struct Target {
    pub(in crate::nats) info: Arc<ServerInfo>,
    /// Where it is called by all kinds of servers.
    pub(in crate::nats) subject: Subject,
    /// True for a server that understands this crate's own subjects.
    pub(in crate::nats) is_ours: bool,
    /// Calls that may be on their way to it at the same time.
    pub(super) capacity: usize,
    /// Calls that may wait for a place.
    pub(super) max_queued: usize,
    gate: Mutex<Gate>,
    /// It failed to answer a call in time, and has answered none since.
    pub(in crate::nats) is_silent: AtomicBool,
    /// The time of its last early probe, in milliseconds; 0: it had none.
    probed_early: AtomicU64,
}

#[derive(Default)]
pub(super) struct Gate {
    /// The calls that are on their way.
    pub(super) placed: HashSet<u64, BuildNumberHasher>,
    /// The calls that wait for a place, by number, which is their order. A call leaves with its caller.
    pub(super) queue: BTreeMap<u64, Queued>,
}

/// A call that waits for a place.
pub(super) struct Queued {
    pub(super) payload: Bytes,
    /// How long it is worth sending.
    pub(super) life: Duration,
}

impl Target {
    pub(in crate::nats) fn new(info: Arc<ServerInfo>, capacity: usize, max_queued: usize) -> Self {
        let subject = Subject::from(subject::server(&info.server_type, info.id.as_str()));
        Self {
            is_ours: info.is_shaddock(),
            info,
            subject,
            capacity,
            max_queued,
            gate: Mutex::default(),
            is_silent: AtomicBool::new(false),
            probed_early: AtomicU64::new(0),
        }
    }

    /// Whether a slow call causes an early probe at this moment: not again before the pause is over.
    pub(in crate::nats) fn may_probe_early(&self, now: Duration, pause: Duration) -> bool {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let now = millis(now).saturating_add(1);
        let last = self.probed_early.load(Ordering::Relaxed);
        let may = last == 0 || now >= last.saturating_add(millis(pause));
        if may {
            self.probed_early.store(now, Ordering::Relaxed);
        }
        may
    }

    pub(super) fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock()
    }
}
