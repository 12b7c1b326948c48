//! The state that the connections of a listener share, with each other and with those of other workers.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::AtomicBool},
};

use crate::{
    access::{Gate, Refusal},
    config::{ListenConfig, Live},
    current::Current,
    frontend::Frontend,
    socket::Socket as Stream,
    stats::{Group, WorkerStats},
};

/// The state that all connections of a listener share.
pub(crate) struct Shared {
    pub(crate) config: ListenConfig,
    pub(crate) gate: Arc<Gate>,
    /// Connections whose descriptor has this number or a higher one are refused.
    pub(super) first_reserved: Option<u64>,
    pub(super) live: Current<Live>,
    /// The listener waits for sessions and handlers only.
    pub(super) ends: AtomicBool,
}

impl Shared {
    pub(crate) fn live(&self) -> Arc<Live> {
        self.live.get()
    }

    pub(super) fn check_descriptor(&self, stream: &Stream) -> Result<(), Refusal> {
        match (stream.descriptor(), self.first_reserved) {
            (Some(number), Some(first)) if number >= first => Err(Refusal::OutOfDescriptors),
            _ => Ok(()),
        }
    }
}

/// The state that the connections of a listener on one worker share.
pub(crate) struct Local {
    pub(crate) shared: Arc<Shared>,
    pub(crate) frontend: Arc<dyn Frontend>,
    pub(crate) stats: Arc<WorkerStats>,
}

/// Counts and logs a connection that is turned away.
pub(crate) fn refuse(refusal: Refusal, address: SocketAddr, stats: &WorkerStats) {
    stats.count(Group::Refused, refusal.name());
    // The framework tells once a minute how many there were.
    tracing::debug!(%address, reason = refusal.name(), "connection refused");
}
