//! A cluster on NATS and etcd that Pitaya v3 servers can be part of.

use std::sync::Arc;

use crate::{BoxFuture, Cluster, ClusterError, JoinOptions, Membership, Node, ServerInfo};

mod bind;
mod calls;
mod capabilities;
mod config;
mod core;
mod delivery;
mod departing;
mod detector;
mod directory;
pub(crate) mod encode;
mod etcd_size;
mod events;
mod everywhere;
mod health;
mod inbox;
mod incoming;
mod interest;
mod join;
mod lateness;
mod link;
mod list_changes;
mod member;
mod moving;
mod ops;
mod owners;
mod pace;
mod probes;
mod promises;
mod questions;
mod request_id;
mod run;
mod serve;
mod servers;
pub(crate) mod subject;
mod tasks;
#[cfg(test)]
mod tests;
mod thread;
mod to_users;
mod topics;
mod user_messages;
mod users;
mod waiting;
mod watched;
mod watches;
pub(crate) mod wire;

pub use config::{NatsConfig, NatsLogin, TlsFiles};

/// Servers that call each other over NATS and are listed in etcd. Cheap to clone.
///
/// Each server that joins has one connection to NATS, and one to etcd. It must join, and be used, inside a tokio runtime: handlers that
/// wait go on there, so that runtime must live as long as the server. The lease, the list of servers and the connection to NATS have a thread of their
/// own, unless [`JoinOptions::background_on`] and [`JoinOptions::connection_on`] name others.
#[derive(Clone, Debug)]
pub struct NatsCluster(Arc<NatsConfig>);

impl NatsCluster {
    /// Checks the settings. Nothing is connected yet.
    ///
    /// # Errors
    /// [`ClusterError::Setting`] if one cannot be used.
    pub fn new(config: NatsConfig) -> Result<Self, ClusterError> {
        config.validate()?;
        Ok(Self(Arc::new(config)))
    }

    /// The settings.
    pub fn config(&self) -> &NatsConfig {
        &self.0
    }
}

impl Cluster for NatsCluster {
    fn join(
        &self,
        info: ServerInfo,
        options: JoinOptions,
        node: Arc<dyn Node>,
    ) -> BoxFuture<'_, Result<Arc<dyn Membership>, ClusterError>> {
        Box::pin(join::join(Arc::clone(&self.0), info, options, node))
    }
}
