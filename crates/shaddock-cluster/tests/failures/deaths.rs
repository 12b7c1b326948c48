//! Servers die.

use std::time::Instant;

use shaddock_cluster::{Context, JoinOptions, RemoteErrorKind, Unique};

use crate::support::node::{request, works};
use crate::support::servers::Backing;
use crate::support::until;
use crate::support::wait::PATIENCE;
use crate::{SECOND, at_rest, clean, join, join_with, places};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_dies_with_requests_in_flight() {
    let backing = Backing::start();
    let config = backing.config();
    let front = join(&config, "front-1", "connector").await;
    let dies = join(&config, "chat-1", "chat").await;
    let lives = join(&config, "chat-2", "chat").await;
    front.sees("chat-2").await;
    let info = dies.info().clone();
    let replies: Vec<_> = (0..50)
        .map(|_| {
            let mut never = request("chat.room.never", "");
            never.context = Context::with_timeout(SECOND * 5);
            front.member.forward(&info, never)
        })
        .collect();
    until("they run", || dies.member.status().serving == 50).await;
    let start = Instant::now();
    dies.crash();
    for reply in replies {
        let error = reply.await.unwrap_err();
        assert_eq!(error.kind(), RemoteErrorKind::Timeout, "{error}");
    }
    assert!(start.elapsed() < PATIENCE, "they end by their deadline");
    // Later callers are notified immediately, and after the lease no request is routed there.
    let error = front
        .request(&info, "chat.room.echo", "")
        .await
        .unwrap_err();
    assert_eq!(error.kind(), RemoteErrorKind::NoResponder);
    until("gone from the list", || {
        front.member.members().servers_of("chat").len() == 1
    })
    .await;
    works(&front, &lives).await;
    at_rest(&front, 0);
    at_rest(&lives, 0);
    clean(&backing, &[&front, &lives]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frontend_dies_and_leaves_no_ghost() {
    let backing = Backing::start();
    let config = backing.config();
    let unique = JoinOptions::new().unique(Unique::ReplaceOld);
    let dies = join_with(&config, "front-1", "connector", unique.clone()).await;
    let lives = join_with(&config, "front-2", "connector", unique).await;
    let back = join(&config, "chat-1", "chat").await;
    for sid in 1..=20 {
        dies.open(sid);
        dies.bind(sid, &format!("user-{sid}")).await.unwrap();
    }
    assert_eq!(backing.etcd.keys("pitaya/bindings/").len(), 20);
    assert_eq!(places(&back, "user-1").await, ["front-1"]);
    dies.crash();

    // A missing subscriber proves nothing; the end of the lease does.
    lives.open(1);
    let start = Instant::now();
    lives.bind(1, "user-1").await.unwrap();
    assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
    assert_eq!(places(&back, "user-1").await, ["front-2"]);
    assert!(places(&back, "user-2").await.is_empty());

    until("gone from the list", || {
        back.member.members().servers_of("connector").len() == 1
    })
    .await;
    until("only the new bind", || {
        backing.etcd.keys("pitaya/bindings/") == ["pitaya/bindings/connector/user-1"]
    })
    .await;
    assert_eq!(backing.etcd.keys("pitaya/servers/").len(), 2);
    at_rest(&lives, 1);
    at_rest(&back, 0);
    clean(&backing, &[&lives, &back]).await;
}
