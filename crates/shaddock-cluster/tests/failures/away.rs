//! NATS or etcd is away, is restarted, or forgets something.

use std::sync::Arc;
use std::time::{Duration, Instant};

use shaddock_cluster::{JoinOptions, Receivers, RemoteErrorKind, Unique};

use crate::support::node::{delivery, raw, request, works};
use crate::support::servers::Backing;
use crate::support::{until, within};
use crate::{SECOND, TTL, at_rest, clean, join, join_with};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nats_is_away_for_a_while() {
    let mut backing = Backing::start();
    let config = backing.config();
    let front = join(&config, "front-1", "connector").await;
    let back = join(&config, "chat-1", "chat").await;
    front.sees("chat-1").await;
    front.open(1);
    front.bind(1, "u").await.unwrap();
    let before = (front.member.status(), back.member.status());
    let pending = front
        .member
        .forward(back.info(), request("chat.room.never", ""));

    backing.nats.kill();
    let start = Instant::now();
    let error = pending.await.unwrap_err();
    assert_eq!(error.kind(), RemoteErrorKind::LinkLost, "{error}");
    let error = front
        .request(back.info(), "chat.room.echo", "")
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.code()),
        (RemoteErrorKind::Disconnected, "PIT-503")
    );
    assert!(start.elapsed() < SECOND, "requests fail fast");
    // What a frontend says to its own clients does not go over NATS.
    front.open(3);
    let own = delivery("own", Receivers::Sids([raw(3)].into()));
    let delivered = front.member.deliver(&front.id(), own.clone()).await;
    assert_eq!(delivered.unwrap().queued, 1);
    front.member.deliver_unconfirmed(&front.id(), own).unwrap();
    assert_eq!(front.got(3), ["own", "own"]);
    // Longer than the lease, which NATS has nothing to do with.
    tokio::time::sleep(TTL + SECOND).await;
    assert_eq!(front.uid(1).as_deref(), Some("u"), "clients stay");
    assert!(front.member.members().server("chat-1").is_some() && front.member.status().listed);
    // A bind now counts when NATS is back.
    front.open(2);
    front.bind(2, "late").await.unwrap();

    backing.nats.again();
    until("connected again", || {
        front.member.status().connected && back.member.status().connected
    })
    .await;
    works(&front, &back).await;
    for (uid, sid) in [("u", 1), ("late", 2)] {
        // By the subject of the user: its subscription is there again.
        let pushed = back.member.deliver_to_users(
            "connector",
            "onChat".into(),
            "x".into(),
            [Arc::from(uid)].into(),
        );
        assert_eq!(pushed.await.unwrap().queued, 1);
        assert_eq!(front.got(sid), ["x"]);
    }
    until("the request is over", || back.member.status().serving == 0).await;
    front.close(2);
    assert_eq!((front.member.status(), back.member.status()), before);
    clean(&backing, &[&front, &back]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nats_is_restarted_under_load() {
    let mut backing = Backing::start();
    let config = backing.config();
    let front = Arc::new(join(&config, "front-1", "connector").await);
    let back = join(&config, "chat-1", "chat").await;
    front.sees("chat-1").await;
    let info = back.info().clone();
    let load = {
        let front = Arc::clone(&front);
        tokio::spawn(async move {
            let mut failed = 0;
            for n in 0..400 {
                let start = Instant::now();
                match front.request(&info, "chat.room.echo", &n.to_string()).await {
                    Ok(answer) => assert_eq!(answer, n.to_string()),
                    Err(_) => failed += 1,
                }
                assert!(start.elapsed() < SECOND * 3, "nothing hangs");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            failed
        })
    };
    tokio::time::sleep(Duration::from_millis(300)).await;
    backing.nats.kill();
    backing.nats.again();
    let failed = load.await.unwrap();
    assert!(failed < 350, "{failed} of 400 failed: it never came back");
    at_rest(&front, 0);
    at_rest(&back, 0);
    clean(&backing, &[&front, &back]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_is_silent_longer_than_the_leases() {
    let backing = Backing::start();
    let config = backing.config();
    let front = join(&config, "front-1", "connector").await;
    let back = join(&config, "chat-1", "chat").await;
    front.sees("chat-1").await;
    until("told of it", || front.state().joined.len() == 1).await;
    backing.etcd.pause();
    for _ in 0..10 {
        tokio::time::sleep(TTL / 5 + Duration::from_millis(100)).await;
        works(&front, &back).await;
        assert!(front.member.members().server("chat-1").is_some());
    }
    backing.etcd.resume();
    // All leases have ended: each server takes a new one, and none is missed meanwhile.
    let start = Instant::now();
    while start.elapsed() < TTL + SECOND * 2 {
        assert!(
            front.member.members().server("chat-1").is_some()
                && back.member.members().server("front-1").is_some()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(front.state().left.is_empty() && back.state().left.is_empty());
    assert_eq!(backing.etcd.keys("pitaya/servers/").len(), 2);
    at_rest(&front, 0);
    at_rest(&back, 0);
    clean(&backing, &[&front, &back]).await;
    // And a server that really leaves is seen.
    let third = join(&config, "chat-2", "chat").await;
    front.sees("chat-2").await;
    third.member.leave().await;
    within(config.rejoin_grace + SECOND, "gone", || {
        front.member.members().server("chat-2").is_none()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_is_restarted() {
    let mut backing = Backing::start();
    let config = backing.config();
    let options = JoinOptions::new().unique(Unique::ReplaceOld);
    let front = join_with(&config, "front-1", "connector", options).await;
    let back = join(&config, "chat-1", "chat").await;
    front.sees("chat-1").await;
    front.open(1);
    front.bind(1, "u").await.unwrap();
    backing.etcd.kill();
    works(&front, &back).await;
    // Who owns a user cannot be settled now, and that is said soon.
    front.open(2);
    let start = Instant::now();
    assert!(front.bind(2, "v").await.is_err());
    assert!(start.elapsed() < config.takeover_timeout + SECOND);
    backing.etcd.again();
    // If etcd is fast, the lease gets doubtful only now, for as long as the frontend needs to connect.
    let start = Instant::now();
    while let Err(error) = front.bind(2, "v").await {
        assert!(start.elapsed() < SECOND * 10, "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(front.uid(1).as_deref(), Some("u"));
    let third = join(&config, "chat-2", "chat").await;
    front.sees("chat-2").await;
    works(&front, &third).await;
    until("both claims", || {
        backing.etcd.keys("pitaya/bindings/").len() == 2
    })
    .await;
    // The lease may be taken anew once more after all is settled.
    until("at rest", || {
        let status = front.member.status();
        status.listed && status.pending_calls == 0 && status.serving == 0
    })
    .await;
    at_rest(&front, 2);
    assert!(front.state().left.is_empty());
    clean(&backing, &[&front, &back, &third]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_forgets_everything() {
    let mut backing = Backing::start();
    let config = backing.config();
    let options = JoinOptions::new().unique(Unique::ReplaceOld);
    let front = join_with(&config, "front-1", "connector", options).await;
    let back = join(&config, "chat-1", "chat").await;
    front.sees("chat-1").await;
    back.sees("front-1").await;
    front.open(1);
    front.bind(1, "u").await.unwrap();
    backing.etcd.forget_everything();
    // Whoever finds out first does not think that the others are gone.
    let start = Instant::now();
    while start.elapsed() < TTL + SECOND * 2 {
        works(&front, &back).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(front.state().left.is_empty() && back.state().left.is_empty());
    until("listed and claimed again", || {
        backing.etcd.keys("pitaya/servers/").len() == 2
            && backing.etcd.keys("pitaya/bindings/").len() == 1
    })
    .await;
    at_rest(&front, 1);
    clean(&backing, &[&front, &back]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn somebody_deletes_a_server_and_a_lease_at_etcd() {
    let backing = Backing::start();
    let config = backing.config();
    let front = join(&config, "front-1", "connector").await;
    let back = join(&config, "chat-1", "chat").await;
    front.sees("chat-1").await;
    backing.etcd.etcdctl(&["del", "pitaya/servers/chat/chat-1"]);
    until("listed again", || {
        backing.etcd.keys("pitaya/servers/").len() == 2
    })
    .await;
    until("seen again", || {
        front.member.members().server("chat-1").is_some()
    })
    .await;
    let leases = backing.etcd.etcdctl(&["lease", "list"]);
    for lease in leases.lines().skip(1) {
        backing.etcd.etcdctl(&["lease", "revoke", lease]);
    }
    within(TTL + SECOND, "listed with new leases", || {
        backing.etcd.keys("pitaya/servers/").len() == 2
    })
    .await;
    until("seen again", || {
        front.member.members().server("chat-1").is_some()
    })
    .await;
    works(&front, &back).await;
    clean(&backing, &[&front, &back]).await;
}
