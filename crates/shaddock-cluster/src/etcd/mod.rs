//! The servers of the cluster in etcd: this server's lease and key, and the list of all servers.

use crate::ClusterError;
use crate::nats::NatsConfig;

mod batch;
mod client;
mod granted;
mod groups;
mod lease;
pub(crate) mod pb;
pub(crate) mod record;
mod size;
mod watcher;

pub(crate) use batch::{Batches, Waiting};
pub(crate) use client::{Etcd, EtcdError, EtcdResult};
pub use groups::{GroupError, Groups};
pub(crate) use lease::{EnterError, Lease, LeaseState};
pub(crate) use size::EtcdSize;
pub(crate) use watcher::Watcher;

/// etcd cannot be reached at start.
pub(crate) fn unreachable(config: &NatsConfig, reason: &dyn std::fmt::Display) -> ClusterError {
    ClusterError::Unreachable {
        what: "etcd",
        address: crate::secret::list(&config.etcd_endpoints),
        reason: reason.to_string(),
    }
}
