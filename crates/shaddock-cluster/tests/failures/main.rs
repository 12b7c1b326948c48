//! Failures in a cluster, with the real servers: each test breaks one thing, looks what still works, and then whether
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
mod sizes;
#[path = "../support/mod.rs"]
mod support;
mod told;
mod twins;
mod two_owners;
mod writes;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use shaddock_cluster::{JoinOptions, NatsCluster, NatsConfig, Status};
use support::node::Server;
use support::servers::Backing;
use support::until;
use support::wait::{PATIENCE, breathe};

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

/// Waits until a server holds exactly the state of a server without work and with this number of users.
pub(crate) async fn at_rest(server: &Server, users: usize) {
    settles(server, |status| {
        let has = (status.pending_calls, status.serving, status.bound_users);
        // Users have none of their own: there is no Pitaya server.
        status.connected
            && status.listed
            && has == (0, 0, users)
            && (3..=5).contains(&status.subscriptions)
    })
    .await;
}

/// Waits until the state of a server is so. A question of its own to a frontend that was cut off, which it asks without being told to, waits for
/// an answer for some seconds more.
async fn settles(server: &Server, is_so: impl Fn(&Status) -> bool) {
    let end = Instant::now() + PATIENCE;
    loop {
        let status = server.member.status();
        if is_so(&status) {
            return;
        }
        assert!(Instant::now() < end, "{}: {status:?}", server.id());
        breathe().await;
    }
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
        settles(server, |status| {
            (status.pending_calls, status.serving) == (0, 0)
        })
        .await;
    }
}
