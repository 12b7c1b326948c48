//! NATS or etcd is away, is restarted, or forgets something.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use shaddock_cluster::{
    Conflict, JoinOptions, Receivers, RemoteErrorKind, SessionsPerUser, Status,
};

use crate::support::node::{Server, delivery, raw, request, works};
use crate::support::servers::Backing;
use crate::support::until;
use crate::support::wait::{PATIENCE, breathe, eventually, throughout};
use crate::{SECOND, TTL, at_rest, clean, join, join_with};

/// The state that a server keeps, without temporary state.
fn lasting(server: &Server) -> Status {
    let mut status = server.member.status();
    status.lease_left = None;
    // Looked up now and then.
    (status.etcd_bytes, status.etcd_bytes_in_use) = (0, 0);
    status
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nats_is_away_for_a_while() {
    let mut backing = Backing::start();
    let config = backing.config();
    let front = join(&config, "front-1", "connector").await;
    let back = join(&config, "chat-1", "chat").await;
    front.sees("chat-1").await;
    front.open(1);
    front.bind(1, "u").await.unwrap();
    let before = (lasting(&front), lasting(&back));
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
    assert!(
        start.elapsed() < config.request_timeout,
        "requests fail fast"
    );
    // Messages of a frontend to its own clients do not go over NATS.
    front.open(3);
    let own = delivery("own", Receivers::Sids([raw(3)].into()));
    let delivered = front.member.deliver(&front.id(), own.clone()).await;
    assert_eq!(delivered.unwrap().queued, 1);
    front.member.deliver_unconfirmed(&front.id(), own).unwrap();
    assert_eq!(front.got(3), ["own", "own"]);
    // Longer than the lease, which NATS has nothing to do with.
    throughout(TTL + SECOND, "clients and servers stay", async || {
        front.uid(1).as_deref() == Some("u")
            && front.member.members().server("chat-1").is_some()
            && front.member.status().listed
    })
    .await;
    // A bind now counts when NATS is back.
    front.open(2);
    front.bind(2, "late").await.unwrap();

    backing.nats.again();
    until("connected again", || {
        front.member.status().connected && back.member.status().connected
    })
    .await;
    eventually("NATS has their subscriptions again", async || {
        let answer = front.request(back.info(), "chat.room.echo", "on").await;
        answer.is_ok()
    })
    .await;
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
    until("both hold what they held", || {
        (lasting(&front), lasting(&back)) == before
    })
    .await;
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
    let (answered, failed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let done = Arc::new(AtomicBool::new(false));
    let load = {
        let (front, done) = (Arc::clone(&front), Arc::clone(&done));
        let (answered, failed) = (Arc::clone(&answered), Arc::clone(&failed));
        tokio::spawn(async move {
            for n in 0.. {
                if done.load(Ordering::Relaxed) {
                    return;
                }
                let text = format!("{n}");
                let asked = front.request(&info, "chat.room.echo", &text);
                let ended = tokio::time::timeout(PATIENCE, asked).await;
                match ended.expect("nothing hangs") {
                    Ok(answer) => {
                        assert_eq!(answer, text);
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(_) => {
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                }
                breathe().await;
            }
        })
    };
    let more_than = |counted: &AtomicUsize, n| counted.load(Ordering::Relaxed) > n;
    until("served", || more_than(&answered, 20)).await;
    backing.nats.kill();
    until("refused", || more_than(&failed, 0)).await;
    backing.nats.again();
    let before = answered.load(Ordering::Relaxed);
    until("served again", || more_than(&answered, before + 50)).await;
    done.store(true, Ordering::Relaxed);
    load.await.unwrap();
    at_rest(&front, 0).await;
    at_rest(&back, 0).await;
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
    throughout(TTL * 2 + SECOND, "known while etcd is silent", async || {
        works(&front, &back).await;
        front.member.members().server("chat-1").is_some()
    })
    .await;
    backing.etcd.resume();
    // All leases have ended: each server takes a new one, and none is missed meanwhile.
    throughout(TTL + SECOND * 2, "known meanwhile", async || {
        front.member.members().server("chat-1").is_some()
            && back.member.members().server("front-1").is_some()
    })
    .await;
    assert!(front.state().left.is_empty() && back.state().left.is_empty());
    until("both are listed", || {
        backing.etcd.keys("pitaya/servers/").len() == 2
            && front.member.status().listed
            && back.member.status().listed
    })
    .await;
    at_rest(&front, 0).await;
    at_rest(&back, 0).await;
    clean(&backing, &[&front, &back]).await;
    // And a server that really leaves is seen.
    let third = join(&config, "chat-2", "chat").await;
    front.sees("chat-2").await;
    third.member.leave().await;
    until("gone", || front.member.members().server("chat-2").is_none()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_is_restarted() {
    let mut backing = Backing::start();
    let config = backing.config();
    let options = JoinOptions::new().sessions_per_user(SessionsPerUser::One(Conflict::ReplaceOld));
    let front = join_with(&config, "front-1", "connector", options).await;
    let back = join(&config, "chat-1", "chat").await;
    front.sees("chat-1").await;
    front.open(1);
    front.bind(1, "u").await.unwrap();
    backing.etcd.kill();
    works(&front, &back).await;
    // The owner of a user cannot be determined now, and the error comes soon.
    front.open(2);
    assert!(front.bind(2, "v").await.is_err());
    backing.etcd.again();
    // If etcd is fast, the lease gets doubtful only now, for as long as the frontend needs to connect.
    eventually("bound", async || front.bind(2, "v").await.is_ok()).await;
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
    at_rest(&front, 2).await;
    assert!(front.state().left.is_empty());
    clean(&backing, &[&front, &back, &third]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_forgets_everything() {
    let mut backing = Backing::start();
    let config = backing.config();
    let options = JoinOptions::new().sessions_per_user(SessionsPerUser::One(Conflict::ReplaceOld));
    let front = join_with(&config, "front-1", "connector", options).await;
    let back = join(&config, "chat-1", "chat").await;
    front.sees("chat-1").await;
    back.sees("front-1").await;
    front.open(1);
    front.bind(1, "u").await.unwrap();
    backing.etcd.forget_everything();
    // The server that detects it first does not consider the others dead.
    throughout(TTL + SECOND * 2, "both work", async || {
        works(&front, &back).await;
        true
    })
    .await;
    assert!(front.state().left.is_empty() && back.state().left.is_empty());
    until("listed and claimed again", || {
        backing.etcd.keys("pitaya/servers/").len() == 2
            && backing.etcd.keys("pitaya/bindings/").len() == 1
    })
    .await;
    at_rest(&front, 1).await;
    clean(&backing, &[&front, &back]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_key_and_a_lease_are_deleted_at_etcd() {
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
    until("listed with new leases", || {
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
