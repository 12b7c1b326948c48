//! Frontends promise a sender to tell where a user comes. One that cannot keep that says so, and no push is lost for longer.

use std::sync::Arc;

use shaddock_cluster::{Delivered, JoinOptions};

use crate::support::node::Server;
use crate::support::proxy::Proxy;
use crate::support::servers::{Backing, config};
use crate::support::until;
use crate::support::wait::eventually;
use crate::{SECOND, join, join_with};

async fn push(back: &Server, body: &'static str) -> Delivered {
    let to: Arc<[Arc<str>]> = ["u".into()].into();
    let push = back
        .member
        .deliver_to_users("connector", "onChat".into(), body.into(), to);
    push.await.unwrap()
}

/// The sender knows that the user is nowhere, for as long as it was promised to be told otherwise. The user comes to a frontend whose link is away:
/// the promise is broken, aloud as soon as that is possible.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promise_that_cannot_be_kept_is_taken_back() {
    let backing = Backing::start();
    let nats = Proxy::to(backing.nats.address).await;
    let mut settings = config(nats.address, backing.etcd.address);
    settings.lease_ttl = SECOND * 120;
    let cut_off = join_with(&settings, "front-1", "connector", JoinOptions::new()).await;
    let mut long = backing.config();
    long.lease_ttl = SECOND * 120;
    let _other = join(&long, "front-2", "connector").await;
    let back = join(&long, "chat-1", "chat").await;
    back.sees("front-1").await;
    back.sees("front-2").await;
    cut_off.sees("chat-1").await;
    for _ in 0..2 {
        assert_eq!(push(&back, "nowhere").await.missing_uids, ["u".into()]);
    }

    nats.sever();
    until("its link is away", || !cut_off.member.status().connected).await;
    cut_off.open(1);
    cut_off.bind(1, "u").await.unwrap();
    assert_eq!(push(&back, "unknown").await.missing_uids, ["u".into()]);
    nats.heal();
    until("its link is back", || cut_off.member.status().connected).await;
    // Far sooner than the promise would have ended by itself.
    eventually("found", async || push(&back, "found").await.queued == 1).await;
    assert_eq!(cut_off.got(1), ["found"]);
}
