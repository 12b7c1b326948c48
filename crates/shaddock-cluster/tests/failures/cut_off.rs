//! A frontend is cut off while its clients stay, and its users may come to another one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use shaddock_cluster::{Conflict, JoinOptions, Receivers, RemoteErrorKind, SessionsPerUser};

use crate::support::node::{delivery, raw, request, uids};
use crate::support::proxy::Proxy;
use crate::support::servers::{Backing, config};
use crate::support::until;
use crate::support::wait::{PATIENCE, eventually};
use crate::{at_rest, clean, join, join_with, places};

/// A frontend is cut off from NATS and etcd while its client stays, and the user comes to another one.
async fn partition(unique: SessionsPerUser) {
    let backing = Backing::start();
    let (nats, etcd) = (
        Proxy::to(backing.nats.address).await,
        Proxy::to(backing.etcd.address).await,
    );
    let options = JoinOptions::new().sessions_per_user(unique);
    let alone = join_with(
        &config(nats.address, etcd.address),
        "front-1",
        "connector",
        options.clone(),
    )
    .await;
    let other = join_with(&backing.config(), "front-2", "connector", options).await;
    let back = join(&backing.config(), "chat-1", "chat").await;
    alone.sees("chat-1").await;
    for sid in [1, 2] {
        alone.open(sid);
        alone.bind(sid, &format!("user-{sid}")).await.unwrap();
    }
    nats.cut();
    etcd.cut();
    other.open(11);
    eventually("bound", async || {
        let bound = other.bind(11, "user-1").await.is_ok();
        // Not settled; but never two at once.
        assert_eq!(other.uid(11).is_some(), bound);
        bound
    })
    .await;
    // The user is elsewhere now: the old frontend knows that it may not act for this user.
    assert!(alone.member.is_fenced());
    assert_eq!(alone.state().fenced, [true]);
    let mut message = request("chat.room.echo", "as user-1");
    message.session.uid = Some("user-1".into());
    let error = alone
        .member
        .forward(back.info(), message)
        .await
        .unwrap_err();
    assert!(
        !matches!(
            error.kind(),
            RemoteErrorKind::Timeout | RemoteErrorKind::Remote
        ),
        "{error}"
    );
    let pushed = back.member.deliver_to_users(
        "connector",
        "onChat".into(),
        "x".into(),
        [Arc::from("user-1")].into(),
    );
    assert_eq!(pushed.await.unwrap().queued, 1);
    assert_eq!(other.got(11), ["x"]);
    assert_eq!(alone.closed(1), None, "his old client is still connected");
    until("not routed to", || {
        back.member.members().server("front-1").is_none()
    })
    .await;

    nats.heal();
    etcd.heal();
    until("back", || !alone.member.is_fenced()).await;
    assert_eq!(alone.closed(1).as_deref(), Some("replaced"));
    assert_eq!(
        alone.uid(2).as_deref(),
        Some("user-2"),
        "nobody took this one"
    );
    assert!(alone.got(1).is_empty());
    until("listed again", || {
        back.member.members().server("front-1").is_some()
    })
    .await;
    assert_eq!(places(&back, "user-1").await, ["front-2"]);
    back.member
        .deliver(&alone.id(), delivery("y", uids(&["user-2"])))
        .await
        .unwrap();
    assert_eq!(alone.got(2), ["y"]);
    assert_eq!(backing.etcd.keys("pitaya/bindings/").len(), 2);
    at_rest(&alone, 1).await;
    at_rest(&other, 1).await;
    at_rest(&back, 0).await;
    clean(&backing, &[&alone, &other, &back]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frontend_is_cut_off_and_its_user_replaced() {
    partition(SessionsPerUser::One(Conflict::ReplaceOld)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frontend_is_cut_off_and_its_user_comes_anew() {
    partition(SessionsPerUser::One(Conflict::RejectNew)).await;
}

/// Only etcd is away: the lease of the frontend ends, and NATS still brings it messages for those whom it may have lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fenced_frontend_delivers_to_guests_only() {
    let backing = Backing::start();
    let etcd = Proxy::to(backing.etcd.address).await;
    let options = JoinOptions::new().sessions_per_user(SessionsPerUser::One(Conflict::ReplaceOld));
    let front = join_with(
        &config(backing.nats.address, etcd.address),
        "front-1",
        "connector",
        options,
    )
    .await;
    let back = join(&backing.config(), "chat-1", "chat").await;
    back.sees("front-1").await;
    front.open(1);
    front.open(2);
    front.bind(1, "u").await.unwrap();
    let everybody = |bound_only| Receivers::All { bound_only };
    let both = || Receivers::Sids([raw(1), raw(2)].into());

    etcd.cut();
    // The list may lose it before the messages are sent; where it is called stays the same.
    let push = async |body: &str, to| {
        back.member
            .deliver(&front.id(), delivery(body, to))
            .await
            .unwrap()
    };
    until("fenced", || front.member.is_fenced()).await;
    let delivered = push("by uid", uids(&["u"])).await;
    assert_eq!((delivered.queued, delivered.missing_uids.len()), (0, 1));
    let delivered = push("by sid", both()).await;
    assert_eq!(
        (delivered.queued, delivered.missing_sids),
        (1, vec![raw(1)])
    );
    assert_eq!(push("to users", everybody(true)).await.queued, 0);
    assert_eq!(push("to all", everybody(false)).await.queued, 1);
    assert!(front.got(1).is_empty());
    assert_eq!(front.got(2), ["by sid", "to all"]);

    etcd.heal();
    until("sure again", || !front.member.is_fenced()).await;
    until("listed again", || {
        back.member.members().server("front-1").is_some()
    })
    .await;
    assert_eq!(push("by sid", both()).await.queued, 2);
    assert_eq!(push("to all", everybody(false)).await.queued, 2);
    assert_eq!(push("by uid", uids(&["u"])).await.queued, 1);
    assert_eq!(front.got(1), ["by sid", "to all", "by uid"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_link_blinks_while_another_takes_the_user() {
    let backing = Backing::start();
    let nats = Proxy::to(backing.nats.address).await;
    let options = JoinOptions::new().sessions_per_user(SessionsPerUser::One(Conflict::ReplaceOld));
    let blinks = join_with(
        &config(nats.address, backing.etcd.address),
        "front-1",
        "connector",
        options.clone(),
    )
    .await;
    let other = join_with(&backing.config(), "front-2", "connector", options).await;
    blinks.open(1);
    blinks.bind(1, "u").await.unwrap();
    // Only NATS is away: the lease lives on.
    nats.cut();
    until("noticed", || blinks.member.is_fenced()).await;
    other.open(2);
    let start = Instant::now();
    while let Err(error) = other.bind(2, "u").await {
        assert!(start.elapsed() < PATIENCE * 2, "{error}");
        assert!(!other.member.is_bound("u", raw(2)));
        // NATS' server has its own idea of when a connection is dead.
        nats.heal();
    }
    nats.heal();
    until("sure again", || !blinks.member.is_fenced()).await;
    until("replaced", || {
        blinks.closed(1).as_deref() == Some("replaced")
    })
    .await;
    assert_eq!(other.uid(2).as_deref(), Some("u"));
    clean(&backing, &[&blinks, &other]).await;
}

/// A recovered frontend may still be unknown to a part of a NATS cluster: a frontend that claims a user there asks no other server, and its
/// claim in etcd is written after the recovered frontend has read its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_that_is_claimed_right_after_the_cut_is_given_up() {
    let backing = Backing::start();
    let nats = Proxy::to(backing.nats.address).await;
    let options = JoinOptions::new().sessions_per_user(SessionsPerUser::One(Conflict::ReplaceOld));
    let config = config(nats.address, backing.etcd.address);
    let front = join_with(&config, "front-1", "connector", options).await;
    for (sid, uid) in [(1, "u"), (2, "v")] {
        front.open(sid);
        front.bind(sid, uid).await.unwrap();
    }
    // Once more if this machine was so slow that the claim came later than it may.
    for round in 1.. {
        assert!(round < 50, "too slow");
        nats.cut();
        until("noticed", || front.member.is_fenced()).await;
        nats.heal();
        until("sure again", || !front.member.is_fenced()).await;
        let start = Instant::now();
        let key = "pitaya/bindings/connector/u";
        backing.etcd.put_at_once(key, "front-2");
        if start.elapsed() < Duration::from_millis(700) {
            break;
        }
        backing.etcd.put_at_once(key, "front-1");
    }
    until("given up", || {
        front.closed(1).as_deref() == Some("replaced")
    })
    .await;
    assert_eq!(front.uid(2).as_deref(), Some("v"), "nobody took this one");
    assert!(!front.member.is_fenced());
    assert_eq!(front.state().lost, ["u"]);
}
