//! What breaks in a cluster, with the real servers: each test breaks one thing, looks what still works, and then whether
//! everything is as before. Times are short here; each is a setting.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use shaddock_cluster::{
    Context, JoinOptions, NatsCluster, NatsConfig, Receivers, RemoteErrorKind, SessionAnswer,
    SessionOp, Unique,
};
use support::node::{Server, call, delivery, raw, request, uids};
use support::proxy::Proxy;
use support::servers::{Backing, config};
use support::{until, within};

/// The lease of the tests, and how much later at most a server is gone.
const TTL: Duration = Duration::from_secs(2);
const SECOND: Duration = Duration::from_secs(1);

async fn join(config: &NatsConfig, id: &str, server_type: &str) -> Server {
    join_with(config, id, server_type, JoinOptions::new()).await
}

async fn join_with(
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

async fn works(front: &Server, back: &Server) {
    let answer = front.request(back.info(), "chat.room.echo", "on").await;
    assert_eq!(answer.unwrap(), "on");
}

/// Everybody holds what a server without work and with so many users holds.
fn at_rest(server: &Server, users: usize) {
    let status = server.member.status();
    assert!(status.connected && status.listed, "{status:?}");
    assert_eq!(
        (status.pending_calls, status.serving, status.bound_users),
        (0, 0, users),
        "{status:?}"
    );
    let unique_and_events = status.subscriptions - 2 * users;
    assert!((3..=5).contains(&unique_and_events), "{status:?}");
}

/// NATS and etcd themselves hold what these servers need, and nothing that others have left.
async fn clean(backing: &Backing, servers: &[&Server]) {
    within(TTL + SECOND * 3, "a lease for each server", || {
        backing.etcd.leases() == servers.len()
    })
    .await;
    let of_servers: BTreeMap<String, usize> = servers
        .iter()
        .map(|server| {
            let name = format!("{} {}", server.info().server_type, server.id());
            (name, server.member.status().subscriptions)
        })
        .collect();
    within(
        SECOND * 3,
        "the subscriptions that the servers have",
        || {
            let mut at_nats = backing.nats.subscriptions();
            // Clients of the test itself.
            at_nats.remove("");
            let at_nats = at_nats.into_iter().map(|(name, list)| (name, list.len()));
            at_nats.collect::<BTreeMap<_, _>>() == of_servers
        },
    )
    .await;
    for server in servers {
        let status = server.member.status();
        assert_eq!((status.pending_calls, status.serving), (0, 0), "{status:?}");
    }
}

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
            never.context = Context::with_timeout(SECOND);
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
    // Not much later than their deadline of one second, on a machine that has other work.
    assert!(start.elapsed() < SECOND * 4);
    // The next ones are told at once, and after the lease nobody is sent there.
    let error = front
        .request(&info, "chat.room.echo", "")
        .await
        .unwrap_err();
    assert_eq!(error.kind(), RemoteErrorKind::NoResponder);
    within(TTL + SECOND, "gone from the list", || {
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
    let dies = join_with(&config, "front-1", "connector", unique).await;
    let lives = join_with(&config, "front-2", "connector", unique).await;
    let back = join(&config, "chat-1", "chat").await;
    for sid in 1..=20 {
        dies.open(sid);
        dies.bind(sid, &format!("user-{sid}")).await.unwrap();
    }
    assert_eq!(backing.etcd.keys("pitaya/bindings/").len(), 20);
    assert_eq!(
        back.member.where_is("user-1".into()).await.unwrap().len(),
        1
    );
    dies.crash();

    // One who comes back at once is not kept waiting for the lease of the dead.
    lives.open(1);
    let start = Instant::now();
    lives.bind(1, "user-1").await.unwrap();
    assert!(start.elapsed() < SECOND, "{:?}", start.elapsed());
    let places = back.member.where_is("user-1".into()).await.unwrap();
    assert_eq!(
        places
            .iter()
            .map(|p| p.frontend.as_str())
            .collect::<Vec<_>>(),
        ["front-2"]
    );
    assert!(
        back.member
            .where_is("user-2".into())
            .await
            .unwrap()
            .is_empty()
    );

    within(TTL + SECOND, "gone from the list", || {
        back.member.members().servers_of("connector").len() == 1
    })
    .await;
    within(SECOND, "only the new bind", || {
        backing.etcd.keys("pitaya/bindings/") == ["pitaya/bindings/connector/user-1"]
    })
    .await;
    assert_eq!(backing.etcd.keys("pitaya/servers/").len(), 2);
    at_rest(&lives, 1);
    at_rest(&back, 0);
    clean(&backing, &[&lives, &back]).await;
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
    until("settled again", || {
        !front.member.is_fenced() && front.member.status().listed
    })
    .await;
    front.bind(2, "v").await.unwrap();
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

/// A frontend is cut off from NATS and etcd while its client stays, and the user comes to another one.
async fn partition(unique: Unique) {
    let backing = Backing::start();
    let (nats, etcd) = (
        Proxy::to(backing.nats.address).await,
        Proxy::to(backing.etcd.address).await,
    );
    let options = JoinOptions::new().unique(unique);
    let alone = join_with(
        &config(nats.address, etcd.address),
        "front-1",
        "connector",
        options,
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
    let start = Instant::now();
    let mut bound = other.bind(11, "user-1").await;
    while bound.is_err() {
        assert!(start.elapsed() < TTL * 3, "{bound:?}");
        // Not settled; but never two at once.
        assert_eq!(other.uid(11), None);
        bound = other.bind(11, "user-1").await;
    }
    // Now it is his elsewhere: the old frontend knows that it may not act for him.
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
    // Gone from the list within a second of the end of its lease.
    within(TTL + SECOND, "not routed to", || {
        back.member.members().server("front-1").is_none()
    })
    .await;

    nats.heal();
    etcd.heal();
    within(SECOND * 10, "back", || !alone.member.is_fenced()).await;
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
    let places = back.member.where_is("user-1".into()).await.unwrap();
    assert_eq!(
        places
            .iter()
            .map(|p| p.frontend.as_str())
            .collect::<Vec<_>>(),
        ["front-2"]
    );
    back.member
        .deliver(&alone.id(), delivery("y", uids(&["user-2"])))
        .await
        .unwrap();
    assert_eq!(alone.got(2), ["y"]);
    assert_eq!(backing.etcd.keys("pitaya/bindings/").len(), 2);
    at_rest(&alone, 1);
    at_rest(&other, 1);
    at_rest(&back, 0);
    clean(&backing, &[&alone, &other, &back]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frontend_is_cut_off_and_its_user_replaced() {
    partition(Unique::ReplaceOld).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frontend_is_cut_off_and_its_user_comes_anew() {
    partition(Unique::RejectNew).await;
}

/// Only etcd is away: the lease of the frontend ends, and NATS still brings it messages for those whom it may have lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fenced_frontend_delivers_to_guests_only() {
    let backing = Backing::start();
    let etcd = Proxy::to(backing.etcd.address).await;
    let options = JoinOptions::new().unique(Unique::ReplaceOld);
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
    within(TTL * 3, "fenced", || front.member.is_fenced()).await;
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
    within(SECOND * 10, "sure again", || !front.member.is_fenced()).await;
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
    let options = JoinOptions::new().unique(Unique::ReplaceOld);
    let blinks = join_with(
        &config(nats.address, backing.etcd.address),
        "front-1",
        "connector",
        options,
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
        assert!(start.elapsed() < SECOND * 20, "{error}");
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

/// A frontend that is sure again may still be unknown to a part of a NATS cluster: who takes a user there asks nobody, and his claim at etcd
/// is written after the frontend has read its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_who_is_taken_right_after_the_cut_is_given_up() {
    let backing = Backing::start();
    let nats = Proxy::to(backing.nats.address).await;
    let options = JoinOptions::new().unique(Unique::ReplaceOld);
    let config = config(nats.address, backing.etcd.address);
    let front = join_with(&config, "front-1", "connector", options).await;
    for (sid, uid) in [(1, "u"), (2, "v")] {
        front.open(sid);
        front.bind(sid, uid).await.unwrap();
    }
    // Once more if this machine was so slow that the claim came later than it may.
    for round in 1.. {
        assert!(round < 10, "too slow");
        nats.cut();
        until("noticed", || front.member.is_fenced()).await;
        nats.heal();
        until("sure again", || !front.member.is_fenced()).await;
        let start = Instant::now();
        let key = "pitaya/bindings/connector/u";
        backing.etcd.etcdctl(&["put", key, "front-2"]);
        if start.elapsed() < Duration::from_millis(700) {
            break;
        }
        backing.etcd.etcdctl(&["put", key, "front-1"]);
    }
    until("given up", || {
        front.closed(1).as_deref() == Some("replaced")
    })
    .await;
    assert_eq!(front.uid(2).as_deref(), Some("v"), "nobody took this one");
    assert!(!front.member.is_fenced());
    assert_eq!(front.state().lost, ["u"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_server_says_so_at_once() {
    let backing = Backing::start();
    let mut config = backing.config();
    let front = join(&config, "front-1", "connector").await;
    config.max_serving = 10;
    let back = join(&config, "chat-1", "chat").await;
    front.sees("chat-1").await;
    let slow: Vec<_> = (0..10)
        .map(|_| {
            front
                .member
                .call(back.info(), call("chat.room.slow", "500"))
        })
        .collect();
    until("ten run", || back.member.status().serving == 10).await;
    let start = Instant::now();
    let error = front
        .request(back.info(), "chat.room.echo", "")
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.code(), error.message()),
        (RemoteErrorKind::Busy, "PIT-503", "server busy")
    );
    assert!(start.elapsed() < Duration::from_millis(300));
    futures_util::future::try_join_all(slow).await.unwrap();
    works(&front, &back).await;
    assert_eq!(back.member.status().refused_busy, 1);
}

/// Lists a server that is not one of ours, and answers for it after a while; returns how many it had at once at most.
async fn pitaya_like(
    backing: &Backing,
    id: &str,
    delay: Duration,
) -> Arc<std::sync::atomic::AtomicUsize> {
    use futures_util::StreamExt;
    use std::sync::atomic::{AtomicUsize, Ordering};
    let value =
        format!(r#"{{"id":"{id}","type":"game","metadata":{{}},"frontend":false,"hostname":"x"}}"#);
    let client = async_nats::connect(format!("nats://{}", backing.nats.address))
        .await
        .unwrap();
    let mut requests = client
        .subscribe(format!("pitaya/servers/game/{id}"))
        .await
        .unwrap();
    client.flush().await.unwrap();
    backing
        .etcd
        .etcdctl(&["put", &format!("pitaya/servers/game/{id}"), &value]);
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let seen = Arc::clone(&most);
    tokio::spawn(async move {
        while let Some(message) = requests.next().await {
            seen.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            let (client, now) = (client.clone(), Arc::clone(&now));
            tokio::spawn(async move {
                tokio::time::sleep(delay).await;
                now.fetch_sub(1, Ordering::SeqCst);
                let reply = message.reply.expect("a reply subject");
                client
                    .publish(reply, Bytes::from_static(b"\x0a\x02ok"))
                    .await
                    .unwrap();
            });
        }
    });
    most
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pitaya_server_never_gets_more_than_it_can_take() {
    let backing = Backing::start();
    let front = join(&backing.config(), "front-1", "connector").await;
    let most = pitaya_like(&backing, "game-1", Duration::from_millis(20)).await;
    front.sees("game-1").await;
    let game = front.member.members().server("game-1").unwrap();
    let mut calls: Vec<_> = (0..300)
        .map(|_| front.member.forward(&game, request("game.a.b", "")))
        .collect();
    // Some give up while they wait, some while they are on the way.
    drop(calls.drain(..10));
    drop(calls.drain(100..150));
    for call in calls {
        assert_eq!(call.await.unwrap(), "ok");
    }
    assert_eq!(most.load(std::sync::atomic::Ordering::SeqCst), 25);
    assert_eq!(front.member.status().pending_calls, 0);

    // One that never answers fills its places; what waits fails by its own deadline.
    pitaya_like(&backing, "game-2", Duration::from_secs(60)).await;
    front.sees("game-2").await;
    let silent = front.member.members().server("game-2").unwrap();
    let calls = (0..60).map(|_| {
        let mut late = request("game.a.b", "");
        late.context = Context::with_timeout(Duration::from_millis(300));
        front.member.forward(&silent, late)
    });
    for answer in futures_util::future::join_all(calls).await {
        assert_eq!(answer.unwrap_err().kind(), RemoteErrorKind::Timeout);
    }
    assert_eq!(front.member.status().pending_calls, 0);
    assert_eq!(
        front
            .member
            .forward(&game, request("game.a.b", ""))
            .await
            .unwrap(),
        "ok"
    );
    // What it cannot do is said without asking it.
    let error = front
        .member
        .session_op(&game.id, SessionOp::Get { sid: raw(1) }, Context::new())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), RemoteErrorKind::Refused);
}

/// Pitaya sends the KICK and then closes; a client that is faster makes it say that it failed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kicked_client_that_closes_first_was_kicked() {
    use futures_util::StreamExt;
    let backing = Backing::start();
    let back = join(&backing.config(), "chat-1", "chat").await;
    let client = async_nats::connect(format!("nats://{}", backing.nats.address))
        .await
        .unwrap();
    let mut requests = client
        .subscribe("pitaya/servers/gofront/go-1")
        .await
        .unwrap();
    client.flush().await.unwrap();
    let value = r#"{"id":"go-1","type":"gofront","metadata":null,"frontend":true,"hostname":"x"}"#;
    backing
        .etcd
        .etcdctl(&["put", "pitaya/servers/gofront/go-1", value]);
    back.sees("go-1").await;
    let go = shaddock_cluster::ServerId::new("go-1").unwrap();
    let answers = [
        (&b"\x0a\x02\x08\x01"[..], Ok(1)),
        (
            b"\x12\x1f\x0a\x07PIT-000\x12\x14close closed session",
            Ok(1),
        ),
        (
            b"\x12\x1c\x0a\x07PIT-000\x12\x11session not found",
            Err("session not found"),
        ),
    ];
    for (answer, expected) in answers {
        let kick = SessionOp::KickUser {
            uid: "u".into(),
            reason: None,
        };
        let kicked = back.member.session_op(&go, kick, Context::new());
        let reply = requests.next().await.unwrap().reply.unwrap();
        let answer = Bytes::from_static(answer);
        client.publish(reply, answer).await.unwrap();
        client.flush().await.unwrap();
        match (kicked.await, expected) {
            (Ok(SessionAnswer::Kicked(n)), Ok(expected)) => assert_eq!(n, expected),
            (Err(error), Err(text)) => assert_eq!(error.message(), text),
            (got, expected) => panic!("{got:?} and not {expected:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_answers_late_twice_wrongly_and_unasked() {
    use futures_util::StreamExt;
    let backing = Backing::start();
    let front = join(&backing.config(), "front-1", "connector").await;
    let back = join(&backing.config(), "chat-1", "chat").await;
    let client = async_nats::connect(format!("nats://{}", backing.nats.address))
        .await
        .unwrap();
    let mut requests = client
        .subscribe("pitaya/servers/game/game-1")
        .await
        .unwrap();
    client.flush().await.unwrap();
    let value = r#"{"id":"game-1","type":"game","metadata":null,"frontend":false,"hostname":"x"}"#;
    backing
        .etcd
        .etcdctl(&["put", "pitaya/servers/game/game-1", value]);
    front.sees("game-1").await;
    front.sees("chat-1").await;
    let game = front.member.members().server("game-1").unwrap();
    let mut ask = async |limit| {
        let mut request = request("game.a.b", "");
        request.context = Context::with_timeout(limit);
        let reply = front.member.forward(&game, request);
        (reply, requests.next().await.unwrap().reply.unwrap())
    };
    let answer = async |subject: async_nats::Subject, payload: &'static [u8]| {
        let payload = Bytes::from_static(payload);
        client.publish(subject, payload).await.unwrap();
        client.flush().await.unwrap();
    };

    let (twice, subject) = ask(SECOND).await;
    answer(subject.clone(), b"\x0a\x05first").await;
    answer(subject.clone(), b"\x0a\x06second").await;
    assert_eq!(twice.await.unwrap(), "first");
    let (late, late_subject) = ask(Duration::from_millis(200)).await;
    assert_eq!(late.await.unwrap_err().kind(), RemoteErrorKind::Timeout);
    answer(late_subject, b"\x0a\x04late").await;
    for garbage in [
        &b"\xff"[..],
        b"\x0a\xff\xff\xff\xff\x0f",
        b"\x12\x05\x0a\x03\xff\xff\xff",
    ] {
        let (wrong, subject) = ask(SECOND).await;
        answer(subject, garbage).await;
        let error = wrong.await.unwrap_err();
        assert_eq!(
            (error.kind(), error.code()),
            (RemoteErrorKind::BadAnswer, "PIT-000")
        );
    }
    let (before_number, _) = subject.rsplit_once('.').unwrap();
    for number in [
        "0",
        "1",
        "-1",
        "999999999",
        "18446744073709551616",
        "",
        "x.y",
    ] {
        answer(format!("{before_number}.{number}").into(), b"\x0a\x03odd").await;
    }
    // One who says nothing any more holds up nobody who calls another.
    let silent: Vec<_> = (0..200)
        .map(|_| front.member.forward(&game, request("game.a.b", "")))
        .collect();
    let start = Instant::now();
    for _ in 0..20 {
        works(&front, &back).await;
    }
    assert!(start.elapsed() < SECOND);
    drop(silent);
    assert_eq!(front.member.status().pending_calls, 0);
    clean(&backing, &[&front, &back]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_bytes_on_every_subject_harm_nobody() {
    let backing = Backing::start();
    let unique = JoinOptions::new()
        .unique(Unique::ReplaceOld)
        .with_session_events();
    let front = join_with(&backing.config(), "front-1", "connector", unique).await;
    let back = join(&backing.config(), "chat-1", "chat").await;
    front.sees("chat-1").await;
    front.open(1);
    front.bind(1, "u").await.unwrap();
    let client = async_nats::connect(format!("nats://{}", backing.nats.address))
        .await
        .unwrap();
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/vectors/cluster.json"
    );
    let vectors: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let mut payloads = [b"".as_slice(), b"\xff", b"\x0a\xff\xff\xff\xff\x0f"]
        .map(Bytes::copy_from_slice)
        .to_vec();
    payloads.push(vec![b'x'; 70_000].into());
    for list in ["hostile", "messages"] {
        for vector in vectors[list].as_array().unwrap() {
            let hex = vector["hex"].as_str().unwrap();
            let bytes = (0..hex.len())
                .step_by(2)
                .map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap());
            payloads.push(bytes.collect());
        }
    }
    let subjects = [
        "pitaya/servers/connector/front-1",
        "pitaya/servers/chat/chat-1",
        "pitaya/connector/user/u/push",
        "pitaya/connector/bindings",
        "shaddock.connector.front-1.mpush",
        "shaddock.connector.front-1.op",
        "shaddock.connector.front-1.r.x.1",
        "shaddock.connector.front-1.other",
        "shaddock.events",
        "shaddock.servers",
    ];
    for subject in subjects {
        for payload in &payloads {
            client.publish(subject, payload.clone()).await.unwrap();
            client
                .publish_with_reply(subject, "nobody", payload.clone())
                .await
                .unwrap();
        }
    }
    client.flush().await.unwrap();
    // Answers with garbage are an error of the caller.
    until("all read", || front.member.status().serving == 0).await;
    works(&front, &back).await;
    assert_eq!(front.uid(1).as_deref(), Some("u"));
    let key = "pitaya/servers/chat";
    for (id, value) in [
        ("x1", "{"),
        ("x2", "[]"),
        ("x3", r#"{"id":"other","type":"chat"}"#),
        ("x4/y", "{}"),
        (" ", "null"),
    ] {
        backing
            .etcd
            .etcdctl(&["put", &format!("{key}/{id}"), value]);
    }
    backing
        .etcd
        .etcdctl(&["put", "pitaya/bindings/connector/v", "no . server > at all"]);
    front.open(2);
    front.bind(2, "v").await.unwrap();
    assert_eq!(front.member.members().servers_of("chat").len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_are_subscribed_for_only_while_a_pitaya_server_needs_it() {
    let backing = Backing::start();
    let mut config = backing.config();
    config.lazy_user_subjects = true;
    let front = join(&config, "front-1", "connector").await;
    let back = join(&config, "chat-1", "chat").await;
    for sid in 1..=5 {
        front.open(sid);
        front.bind(sid, &format!("user-{sid}")).await.unwrap();
    }
    assert_eq!(front.member.status().subscriptions, 3);
    back.sees("front-1").await;
    let pushed = back.member.deliver_to_users(
        "connector",
        "onChat".into(),
        "x".into(),
        [Arc::from("user-3")].into(),
    );
    assert_eq!(pushed.await.unwrap().queued, 1);
    pitaya_like(&backing, "game-1", Duration::ZERO).await;
    until("subscribed for all", || {
        front.member.status().subscriptions == 13
    })
    .await;
    let client = async_nats::connect(format!("nats://{}", backing.nats.address))
        .await
        .unwrap();
    let push = Bytes::from_static(b"\x0a\x06onChat\x12\x06user-4\x1a\x02hi");
    until("it arrives", || {
        let _ = futures_util::FutureExt::now_or_never(
            client.publish("pitaya/connector/user/user-4/push", push.clone()),
        );
        !front.got(4).is_empty()
    })
    .await;
    backing.etcd.etcdctl(&["del", "pitaya/servers/game/game-1"]);
    until("and no longer", || front.member.status().subscriptions == 3).await;
}
