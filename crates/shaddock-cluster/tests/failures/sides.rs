//! Two NATS servers with a proxy between them, and one etcd that both sides reach.

use shaddock_cluster::NatsConfig;

use crate::support::ports::{free_port, local};
use crate::support::proxy::Proxy;
use crate::support::servers::{EtcdServer, NatsServer, config};
use crate::support::until;

pub(crate) struct Sides {
    pub(crate) nats: [NatsServer; 2],
    pub(crate) between: Proxy,
    pub(crate) etcd: EtcdServer,
}

impl Sides {
    pub(crate) async fn start() -> Self {
        crate::support::logs();
        let routes = local(free_port());
        let right = NatsServer::start_in_cluster(routes, None);
        let between = Proxy::to(routes).await;
        let left = NatsServer::start_in_cluster(local(free_port()), Some(between.address));
        let sides = Self {
            nats: [left, right],
            between,
            etcd: EtcdServer::start(),
        };
        sides.are_one().await;
        sides
    }

    /// For servers on one side.
    pub(crate) fn config(&self, side: usize) -> NatsConfig {
        config(self.nats[side].address, self.etcd.address)
    }

    /// From now on each side reports of the other's servers that they have no subscribers.
    pub(crate) async fn part(&self) {
        self.between.sever();
        until("apart", || self.nats.iter().all(|nats| nats.routes() == 0)).await;
    }

    pub(crate) async fn join(&self) {
        self.between.heal();
        self.are_one().await;
    }

    async fn are_one(&self) {
        until("one cluster", || {
            self.nats.iter().all(|nats| nats.routes() >= 1)
        })
        .await;
    }
}
