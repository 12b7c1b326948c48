//! The behaviour of every implementation of the cluster, in process and on NATS and etcd: the same tests for both.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

macro_rules! for_both {
    ($($name:ident)*) => {
        mod local {
            $(#[tokio::test] async fn $name() { super::$name(crate::World::local()).await; })*
        }
        #[cfg(feature = "nats")]
        mod nats {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(crate::World::nats()).await; })*
        }
    };
}

mod audiences;
mod calls;
mod delivery;
mod membership;
mod owners;
mod sessions;
#[path = "../support/mod.rs"]
mod support;

use std::sync::Arc;
use std::time::Duration;

use shaddock_cluster::{Cluster, JoinOptions};
use support::node::Server;

/// A cluster to test, with what it runs on.
pub(crate) struct World {
    cluster: Arc<dyn Cluster>,
    #[cfg(feature = "nats")]
    backing: Option<support::servers::Backing>,
}

impl World {
    fn local() -> Self {
        Self {
            cluster: Arc::new(shaddock_cluster::LocalCluster::with_request_timeout(
                Duration::from_secs(20),
            )),
            #[cfg(feature = "nats")]
            backing: None,
        }
    }

    #[cfg(feature = "nats")]
    fn nats() -> Self {
        let backing = support::servers::Backing::start();
        Self {
            cluster: Arc::new(backing.cluster()),
            backing: Some(backing),
        }
    }

    pub(crate) async fn join(&self, id: &str, server_type: &str) -> Server {
        self.join_with(id, server_type, JoinOptions::new()).await
    }

    pub(crate) async fn join_with(
        &self,
        id: &str,
        server_type: &str,
        options: JoinOptions,
    ) -> Server {
        Server::join(&*self.cluster, id, server_type, options).await
    }

    /// As [`join`](Self::join), with short times: the others miss it soon when it dies.
    pub(crate) async fn join_mortal(&self, id: &str, server_type: &str) -> Server {
        #[cfg(feature = "nats")]
        if let Some(backing) = &self.backing {
            let cluster = shaddock_cluster::NatsCluster::new(backing.config()).unwrap();
            return Server::join(&cluster, id, server_type, JoinOptions::new()).await;
        }
        self.join(id, server_type).await
    }

    /// A frontend and a backend that know each other.
    pub(crate) async fn pair(&self) -> (Server, Server) {
        let front = self.join("front-1", "connector").await;
        let back = self.join("back-1", "chat").await;
        front.sees("back-1").await;
        back.sees("front-1").await;
        (front, back)
    }
}
