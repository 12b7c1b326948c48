//! What breaks in a cluster, with the real servers: each test breaks one thing, looks what still works, and then whether
//! everything is as before. Times are short here; each is a setting.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod away;
mod cut_off;
mod deaths;
mod hung;
mod late;
mod leaving;
mod measured;
mod overload;
mod peers;
mod promises;
mod rows;
mod secured;
mod sides;
mod silent;
#[path = "../support/mod.rs"]
mod support;
mod told;
mod twins;
mod two_owners;
mod writes;

use std::collections::BTreeMap;
use std::time::Duration;

use shaddock_cluster::{JoinOptions, NatsCluster, NatsConfig};
use support::node::Server;
use support::servers::Backing;
use support::until;

/// The lease of the tests.
pub(crate) const TTL: Duration = Duration::from_secs(4);
pub(crate) const SECOND: Duration = Duration::from_secs(1);

pub(crate) async fn join(config: &NatsConfig, id: &str, server_type: &str) -> Server {
    join_with(config, id, server_type, JoinOptions::new()).await
}

pub(crate) async fn join_with(
    config: &NatsConfig,
    id: &str,
    server_type: &str,
    options: JoinOptions,
) -> Server {
    Server::join(
        &NatsCluster::new(config.clone()).unwrap(),
        id,
        server_type,
        options,
    )
    .await
}

/// The frontends at which a server finds a user.
pub(crate) async fn places(server: &Server, uid: &str) -> Vec<String> {
    let found = server.member.where_is(uid.into()).await.unwrap();
    let ids = found.iter().map(|place| place.frontend.to_string());
    ids.collect()
}

/// All servers hold exactly the state of a server without work and with this number of users.
pub(crate) fn at_rest(server: &Server, users: usize) {
    let status = server.member.status();
    assert!(status.connected && status.listed, "{status:?}");
    assert_eq!(
        (status.pending_calls, status.serving, status.bound_users),
        (0, 0, users),
        "{status:?}"
    );
    // Users have none of their own: there is no Pitaya server.
    assert!((3..=5).contains(&status.subscriptions), "{status:?}");
}

/// NATS and etcd themselves hold what these servers need, and nothing that others have left.
pub(crate) async fn clean(backing: &Backing, servers: &[&Server]) {
    until("a lease for each server", || {
        backing.etcd.leases() == servers.len()
    })
    .await;
    let of_servers = || -> BTreeMap<String, usize> {
        let named = servers.iter().map(|server| {
            let name = format!("{} {}", server.info().server_type, server.id());
            (name, server.member.status().subscriptions)
        });
        named.collect()
    };
    until("the subscriptions that the servers have", || {
        let mut at_nats = backing.nats.subscriptions();
        // Clients of the test itself.
        at_nats.remove("");
        let at_nats = at_nats.into_iter().map(|(name, list)| (name, list.len()));
        at_nats.collect::<BTreeMap<_, _>>() == of_servers()
    })
    .await;
    for server in servers {
        let status = server.member.status();
        assert_eq!((status.pending_calls, status.serving), (0, 0), "{status:?}");
    }
}
