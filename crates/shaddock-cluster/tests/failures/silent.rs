//! A server does not answer: pushes name it and reach the others, and requests go elsewhere.

use std::sync::Arc;
use std::time::{Duration, Instant};

use shaddock_cluster::{Context, JoinOptions, RemoteErrorKind, Routing, RoutingTarget, Strategy};

use crate::support::node::{Server, request};
use crate::support::proxy::Proxy;
use crate::support::servers::{Backing, config};
use crate::support::until;
use crate::support::wait::PATIENCE;
use crate::{SECOND, join, join_with};

/// Joins behind a proxy: when that is cut, the server hangs as far as the others can see, and its own link stays up for a while.
async fn join_behind(backing: &Backing, id: &str, server_type: &str) -> (Server, Proxy) {
    let nats = Proxy::to(backing.nats.address).await;
    let mut patient = config(nats.address, backing.etcd.address);
    patient.nats_ping_interval = SECOND * 60;
    patient.lease_ttl = SECOND * 30;
    let server = join_with(&patient, id, server_type, JoinOptions::new()).await;
    (server, nats)
}

fn users(from: u64, to: u64) -> Arc<[Arc<str>]> {
    (from..=to)
        .map(|n| Arc::from(format!("user-{n}")))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_reaches_the_other_receivers_and_names_the_failed_ones() {
    let backing = Backing::start();
    let front = join(&backing.config(), "front-1", "connector").await;
    let (hung, nats) = join_behind(&backing, "front-2", "connector").await;
    let mut settings = backing.config();
    settings.probe_interval = Duration::from_millis(100);
    settings.push_timeout = SECOND * 2;
    settings.request_timeout = PATIENCE;
    let back = join(&settings, "chat-1", "chat").await;
    back.sees("front-2").await;
    for n in 1..=9 {
        let server = if n <= 6 { &front } else { &hung };
        server.open(n);
        server.bind(n, &format!("user-{n}")).await.unwrap();
    }
    let push = |body: &'static str, to| {
        back.member
            .deliver_to_users("connector", "onChat".into(), body.into(), to)
    };
    assert_eq!(push("all", users(1, 9)).await.unwrap().queued, 9);

    nats.cut();
    for n in 0..3 {
        let start = Instant::now();
        let delivered = push("hung", users(1, 9)).await.unwrap();
        // Less than a request may take, so that a handler that pushes can answer.
        assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
        assert_eq!(
            (delivered.queued, delivered.missing_uids.len()),
            (6, 0),
            "{n}"
        );
        let [failed] = &delivered.failed[..] else {
            panic!("{delivered:?}")
        };
        assert_eq!(failed.frontend.as_str(), "front-2");
        assert_eq!(failed.uids, *users(7, 9));
        assert_eq!(failed.error.kind(), RemoteErrorKind::Timeout);
    }
    // Three time-outs are enough: it is not waited for any more.
    let status = back.member.status();
    assert_eq!((status.suspects, status.suspected), (1, 1));
    let delivered = push("suspect", users(1, 9)).await.unwrap();
    assert_eq!((delivered.queued, delivered.failed.len()), (6, 1));
    let kicked = back
        .member
        .kick_user("user-1".into(), None)
        .await
        .unwrap_err();
    assert_eq!(kicked.metadata()["failed"], "front-2");
    assert_eq!(kicked.metadata()["closed"], "1");

    nats.heal();
    until("it answers again", || back.member.status().suspects == 0).await;
    let delivered = push("again", users(2, 9)).await.unwrap();
    assert_eq!((delivered.queued, delivered.failed.len()), (8, 0));
    // Messages sent meanwhile arrived late, and in order.
    assert_eq!(
        hung.got(9),
        ["all", "hung", "hung", "hung", "suspect", "again"]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_frontend_fails_alone() {
    let backing = Backing::start();
    let mut long = backing.config();
    long.lease_ttl = SECOND * 30;
    let front = join(&long, "front-1", "connector").await;
    let dead = join(&long, "front-2", "connector").await;
    let back = join(&long, "chat-1", "chat").await;
    back.sees("front-2").await;
    for n in 1..=3 {
        let server = if n <= 2 { &front } else { &dead };
        server.open(n);
        server.bind(n, &format!("user-{n}")).await.unwrap();
    }
    dead.crash();
    let push = || {
        back.member
            .deliver_to_users("connector", "onChat".into(), "x".into(), users(1, 3))
    };
    until("its subscriptions are gone", || {
        !backing
            .nats
            .subscriptions()
            .contains_key("connector front-2")
    })
    .await;
    let delivered = push().await.unwrap();
    assert_eq!(delivered.queued, 2);
    assert_eq!(delivered.failed.len(), 1);
    assert_eq!(delivered.failed[0].uids, *users(3, 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_avoid_a_hung_backend_until_it_answers() {
    let backing = Backing::start();
    let mut settings = backing.config();
    settings.probe_interval = Duration::from_millis(100);
    settings.request_timeout = SECOND * 3;
    let front = join(&settings, "front-1", "connector").await;
    let back = join(&backing.config(), "chat-1", "chat").await;
    let (hung, nats) = join_behind(&backing, "chat-2", "chat").await;
    front.sees("chat-1").await;
    front.sees("chat-2").await;
    let mut routing = Routing::new();
    routing.set("chat", Strategy::RoundRobin);
    let ask = async || {
        let message = request("chat.room.who", "");
        let target = RoutingTarget::new(&message.session, &message.route, &message.body);
        let to = routing
            .pick(front.member.members(), "chat", &target)
            .unwrap();
        front.member.forward(&to, message.clone()).await
    };
    assert!(ask().await.is_ok() && ask().await.is_ok());
    nats.cut();
    let mut failed = 0;
    while front.member.status().suspects == 0 {
        failed += usize::from(ask().await.is_err());
        assert!(failed <= 3, "never suspected");
    }
    assert_eq!(failed, 3);
    for _ in 0..20 {
        assert_eq!(ask().await.unwrap(), back.id().as_str());
    }
    nats.heal();
    until("trusted again", || front.member.status().suspects == 0).await;
    let answers = [ask().await.unwrap(), ask().await.unwrap()];
    assert!(
        answers.contains(&hung.id().as_str().to_owned().into()),
        "{answers:?}"
    );
}

/// A route may take long, so its time-outs come late. A backend that freezes is avoided long before, although no call of it has timed out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_backend_is_avoided_before_its_long_calls_end() {
    let backing = Backing::start();
    let mut settings = backing.config();
    settings.request_timeout = SECOND;
    settings.probe_interval = Duration::from_millis(100);
    let front = join(&settings, "front-1", "connector").await;
    let (frozen, nats) = join_behind(&backing, "chat-1", "chat").await;
    front.sees("chat-1").await;
    nats.cut();
    let mut message = request("chat.room.echo", "late");
    message.context = Context::with_timeout(PATIENCE * 4);
    let waits = front.member.forward(frozen.info(), message);
    let suspected = until("suspected", || front.member.status().suspects == 1);
    tokio::select! {
        biased;
        () = suspected => {}
        answer = waits => panic!("the call ended first: {answer:?}"),
    }
    nats.heal();
    until("trusted again", || front.member.status().suspects == 0).await;
}
