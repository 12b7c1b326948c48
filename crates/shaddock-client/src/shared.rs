//! The state that the task of a connection shares with its handles.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::RwLock;
use tokio::sync::{Notify, watch};

use crate::CloseKind;
use crate::events::Bell;
use crate::pending::Pending;
use crate::pushes::Hub;
use crate::wire::Wire;

/// A DATA package from a handle to be sent.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) package: Bytes,
    /// The id of a request; 0 for a notify.
    pub(crate) id: u64,
    /// The session for which it was encoded.
    pub(crate) generation: u32,
}

/// State shared by the task and the handles.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) pending: Pending,
    pub(crate) pushes: Arc<Hub>,
    /// Requests a goodbye from the task.
    pub(crate) closing: Notify,
    /// Requests the task to drop its socket.
    pub(crate) interrupt: Notify,
    /// The encoding negotiated for the current session. The lock is held for a clone only.
    wire: RwLock<Arc<Wire>>,
    suspended: AtomicBool,
    resumable: AtomicBool,
    pub(crate) bell: Bell,
    /// Set once, when the socket is gone.
    pub(crate) closed: watch::Sender<Option<CloseKind>>,
    pub(crate) counters: Counters,
}

/// Counts of discarded messages.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) unreadable: AtomicU64,
    pub(crate) late_answers: AtomicU64,
}

impl Shared {
    pub(crate) fn new(max_pending: usize, wire: Arc<Wire>) -> Self {
        Self {
            interrupt: Notify::new(),
            wire: RwLock::new(wire),
            suspended: AtomicBool::new(false),
            resumable: AtomicBool::new(false),
            bell: Bell::default(),
            pending: Pending::new(max_pending),
            pushes: Arc::default(),
            closing: Notify::new(),
            closed: watch::Sender::new(None),
            counters: Counters::default(),
        }
    }

    pub(crate) fn wire(&self) -> Arc<Wire> {
        self.wire.read().clone()
    }

    /// A new session began: messages for the old one are not sent any more, and its requests fail.
    pub(crate) fn restart(&self, wire: Arc<Wire>) {
        let present = wire.generation;
        *self.wire.write() = wire;
        self.pending.fail_outdated(present);
    }

    pub(crate) fn set_suspended(&self, suspended: bool) {
        self.suspended.store(suspended, Ordering::Release);
    }

    pub(crate) fn is_suspended(&self) -> bool {
        self.suspended.load(Ordering::Acquire)
    }

    pub(crate) fn set_resumable(&self, resumable: bool) {
        self.resumable.store(resumable, Ordering::Release);
    }

    pub(crate) fn is_resumable(&self) -> bool {
        self.resumable.load(Ordering::Acquire)
    }

    /// Ends responses, pushes and events. The reason of the first call is kept.
    pub(crate) fn end(&self, kind: &CloseKind) {
        self.set_suspended(false);
        self.set_resumable(false);
        self.bell.close();
        self.pending.close(kind);
        self.pushes.close();
    }
}
