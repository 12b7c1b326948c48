//! Real processes that are killed, restarted and drained, and what is left of them at NATS and etcd.

mod away;
mod drained;
mod killed;
mod restarted;

use std::{collections::BTreeSet, time::Duration};

use futures_util::future::join_all;
use serde_json::json;
use shaddock::channel::Channel;
use shaddock_client::{Client, Dialect};

use crate::{
    Program, ask, ask_soon, connect,
    servers::Backing,
    wait::{eventually, until},
};

const SECOND: Duration = Duration::from_secs(1);

/// Waits until a channel has so many members. While a frontend does not answer, it is not known.
async fn has_members(channel: &Channel, wanted: usize) {
    eventually(&format!("{wanted} members"), async || {
        channel.user_amount().await.is_ok_and(|now| now == wanted)
    })
    .await;
}

/// The clients of NATS by name, and how many subscriptions each has.
fn subscribed(backing: &Backing) -> Vec<(String, usize)> {
    let all = backing.nats.subscriptions();
    all.into_iter()
        .map(|(name, list)| (name, list.len()))
        .collect()
}

/// NATS and etcd hold what these servers need, one connection and one lease for each, and nothing of others. `users` are bound, at
/// frontends with unique sessions.
async fn holds(backing: &Backing, servers: &[&str], users: &[&str]) {
    // Servers are asked to do so, not made to do it before they answer.
    until("the right clients of NATS", || {
        let now: BTreeSet<_> = backing.nats.subscriptions().into_keys().collect();
        now == servers.iter().map(ToString::to_string).collect()
    })
    .await;
    until("a lease for each server", || {
        backing.etcd.leases() == servers.len()
    })
    .await;
    let keys = |kind: &str| -> BTreeSet<String> {
        let keys = backing.etcd.keys(&format!("pitaya/{kind}/"));
        keys.iter()
            .map(|key| key.rsplit('/').next().unwrap().to_owned())
            .collect()
    };
    let ids = servers
        .iter()
        .map(|name| name.rsplit(' ').next().unwrap().to_owned());
    let ids = ids.collect();
    until("the servers in the list", || keys("servers") == ids).await;
    until("the bound users", || {
        keys("bindings") == users.iter().map(ToString::to_string).collect()
    })
    .await;
    let of_users: BTreeSet<String> = users
        .iter()
        .flat_map(|uid| ["kick", "push"].map(|what| format!("pitaya/connector/user/{uid}/{what}")))
        .collect();
    // Users have them while a Pitaya server is there, and a little longer.
    until("no subscriptions of other users", || {
        let all = backing.nats.subscriptions().into_values().flatten();
        all.filter(|subject| subject.contains("/user/"))
            .all(|subject| of_users.contains(&subject))
    })
    .await;
}

async fn clients(address: &str, n: usize) -> Vec<Client> {
    join_all((0..n).map(|_| connect(address, Dialect::Pitaya))).await
}

/// Binds a client to a user, in the room.
async fn bind(client: &Client, uid: &str) {
    ask_soon(client, "room.room.echo").await;
    ask(client, "room.room.bind", json!({ "uid": uid })).await;
}

/// So many clients that are bound as `user-0`, `user-1`, ...
async fn users(address: &str, n: usize) -> Vec<Client> {
    let clients = clients(address, n).await;
    for (n, client) in clients.iter().enumerate() {
        bind(client, &format!("user-{n}")).await;
    }
    clients
}

/// Stops a server as an operator does, and waits for its end.
async fn stop(program: Program) {
    program.signal("-TERM");
    ends_well(program).await;
}

async fn ends_well(mut program: Program) {
    let status = tokio::task::spawn_blocking(move || program.wait()).await;
    assert!(status.unwrap().success());
}
