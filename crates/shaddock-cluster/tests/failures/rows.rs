//! The table of the issue about owners, rows 2 to 7, each on two NATS servers with a proxy between them. Row 1, and row 3, are in `two_owners.rs`.
//! The other cases of each row are in the other files, on one NATS server.

use std::sync::Arc;
use std::time::Duration;

use shaddock_cluster::{
    Cluster, ClusterError, Conflict, JoinOptions, NatsCluster, Receivers, RemoteErrorKind,
    ServerInfo, SessionsPerUser,
};

use crate::sides::Sides;
use crate::support::node::{Server, TestNode, delivery, raw, uids};
use crate::support::proxy::Proxy;
use crate::support::servers::config;
use crate::support::until;
use crate::support::wait::{PATIENCE, eventually};
use crate::{SECOND, join, join_with, places};

fn unique() -> JoinOptions {
    JoinOptions::new().sessions_per_user(SessionsPerUser::One(Conflict::ReplaceOld))
}

/// A push to these users arrives at so many of them, sooner or later: NATS servers tell each other of subscriptions in their own time.
async fn all_are_reached(back: &Server, users: &Arc<[Arc<str>]>) {
    eventually("all are reached", async || {
        let push = back.member.deliver_to_users(
            "connector",
            "onChat".into(),
            "late".into(),
            users.clone(),
        );
        push.await
            .is_ok_and(|delivered| delivered.queued == users.len() && delivered.failed.is_empty())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_2_one_server_for_an_id() {
    let sides = Sides::start().await;
    let (nats, etcd) = (
        Proxy::to(sides.nats[0].address).await,
        Proxy::to(sides.etcd.address).await,
    );
    let hangs = config(nats.address, etcd.address);
    let old = join_with(&hangs, "front-1", "connector", unique()).await;
    old.open(1);
    old.bind(1, "ann").await.unwrap();
    sides.part().await;
    // The first one lives, although nothing of it is heard on the other side; and its id is taken for all types.
    for server_type in ["connector", "chat"] {
        let cluster = NatsCluster::new(sides.config(1)).unwrap();
        let info = ServerInfo::new("front-1", server_type, server_type == "connector").unwrap();
        let node = Arc::new(TestNode::default());
        let refused = cluster.join(info, JoinOptions::new(), node).await;
        let error = refused.err();
        assert!(
            matches!(&error, Some(ClusterError::IdTaken(id)) if id.as_str() == "front-1"),
            "{error:?}"
        );
    }
    // It hangs, and is replaced on the other side.
    nats.cut();
    etcd.cut();
    until("its lease ends", || {
        sides.etcd.keys("pitaya/shaddock/ids/front-1").is_empty()
    })
    .await;
    let new = join_with(&sides.config(1), "front-1", "connector", unique()).await;
    new.open(11);
    new.bind(11, "ann").await.unwrap();
    assert!(old.member.is_fenced());
    sides.join().await;
    nats.heal();
    etcd.heal();
    until("expelled", || !old.state().expelled.is_empty()).await;
    // The frontend may learn of the other owner of its user first, or of the other server with its id.
    let reason = old.closed(1).unwrap_or_default();
    assert!(matches!(&*reason, "replaced" | "expelled"), "{reason}");
    // On the side of the old one its id is the new one's.
    let back = join(&sides.config(0), "chat-1", "chat").await;
    back.sees("front-1").await;
    eventually("the new one is called", async || {
        let asked = back.request(new.info(), "connector.room.echo", "x").await;
        asked.is_ok()
    })
    .await;
    assert!(old.state().requests.is_empty() && !new.state().requests.is_empty());
    assert_eq!(new.uid(11).as_deref(), Some("ann"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_4_pushes_of_one_sender_stay_in_order() {
    const PUSHES: usize = 3000;
    let sides = Sides::start().await;
    let back = join(&sides.config(1), "chat-1", "chat").await;
    let near = join(&sides.config(1), "front-2", "connector").await;
    let far = join(&sides.config(0), "front-1", "connector").await;
    back.sees("front-1").await;
    back.sees("front-2").await;
    for (server, sid, uid) in [(&far, 1, "u"), (&near, 2, "v")] {
        server.open(sid);
        server.bind(sid, uid).await.unwrap();
    }
    let both: Arc<[Arc<str>]> = ["u".into(), "v".into()].into();
    all_are_reached(&back, &both).await;
    let before = far.got(1).len();
    let id = far.id();
    let mut waiting = Vec::new();
    for n in 0..PUSHES {
        let body = n.to_string();
        let deliver = |to| back.member.deliver(&id, delivery(&body, to));
        let to_users = |users: &[&str]| {
            let users = users.iter().map(|uid| Arc::from(*uid)).collect();
            back.member
                .deliver_to_users("connector", "onChat".into(), body.clone().into(), users)
        };
        match n % 6 {
            0 => waiting.push(to_users(&["u"])),
            1 => waiting.push(deliver(uids(&["u"]))),
            2 => waiting.push(deliver(Receivers::Sids([raw(1)].into()))),
            3 => back
                .member
                .deliver_unconfirmed(&id, delivery(&body, uids(&["u"])))
                .unwrap(),
            4 => waiting.push(deliver(Receivers::All { bound_only: true })),
            _ => waiting.push(to_users(&["v", "u"])),
        }
        // A link that stands still for a moment, with pushes before, in and behind it.
        match n {
            1000 => sides.between.cut(),
            2000 => sides.between.heal(),
            _ => {}
        }
    }
    for push in waiting {
        push.await.unwrap();
    }
    until("all came", || far.got(1).len() == before + PUSHES).await;
    let got = far.got(1).split_off(before);
    let expected: Vec<_> = (0..PUSHES).map(|n| n.to_string()).collect();
    assert!(got == expected, "{got:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_5_a_frontend_that_was_away_is_announced_as_back() {
    let sides = Sides::start().await;
    let etcd = Proxy::to(sides.etcd.address).await;
    let back = join(&sides.config(1), "chat-1", "chat").await;
    let cut = config(sides.nats[0].address, etcd.address);
    let front = join(&cut, "front-1", "connector").await;
    back.sees("front-1").await;
    front.open(1);
    front.bind(1, "u").await.unwrap();
    // Its own NATS server is there all the time.
    sides.part().await;
    etcd.cut();
    until("counts as gone", || back.state().left == ["front-1"]).await;
    assert!(back.state().returned.is_empty());
    sides.join().await;
    etcd.heal();
    until("back", || back.state().returned == ["front-1"]).await;
    assert_eq!(front.uid(1).as_deref(), Some("u"));
    all_are_reached(&back, &["u".into()].into()).await;
    assert!(front.got(1).contains(&"late".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_6_a_bind_that_is_dropped_leaves_the_session_its_user() {
    let sides = Sides::start().await;
    let etcd = Proxy::to(sides.etcd.address).await;
    // Nothing ends by itself in this test.
    let patient = |nats: std::net::SocketAddr, etcd| {
        let mut config = config(nats, etcd);
        config.lease_ttl = SECOND * 120;
        config.takeover_timeout = SECOND * 90;
        config
    };
    let own = patient(sides.nats[0].address, etcd.address);
    let first = join_with(&own, "front-1", "connector", unique()).await;
    let others = patient(sides.nats[1].address, sides.etcd.address);
    let second = join_with(&others, "front-2", "connector", unique()).await;
    first.open(1);
    first.bind(1, "u").await.unwrap();
    sides.part().await;
    etcd.cut();
    for _ in 0..3 {
        let again = first.member.bind_user("u".into(), raw(1));
        let pending = tokio::time::timeout(Duration::from_millis(50), again).await;
        drop(pending);
    }
    etcd.heal();
    assert!(first.member.is_bound("u", raw(1)));
    // So the next login finds the first session, on this side of the cut and after it.
    second.open(2);
    second.bind(2, "u").await.unwrap();
    assert_eq!(first.closed(1).as_deref(), Some("replaced"));
    sides.join().await;
    eventually("one owner", async || {
        places(&first, "u").await == ["front-2"]
    })
    .await;
    assert!(!first.member.is_bound("u", raw(1)) && second.member.is_bound("u", raw(2)));
}

/// The servers on the other side hang (nothing goes through), and then are dead as far as NATS knows (they have no subscriber).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_7_a_frontend_that_does_not_answer_fails_alone() {
    let sides = Sides::start().await;
    let patient = |side, id, server_type| {
        let mut config = sides.config(side);
        config.lease_ttl = SECOND * 120;
        config.probe_interval = Duration::from_millis(100);
        config.push_timeout = SECOND * 2;
        config.request_timeout = PATIENCE;
        async move { join(&config, id, server_type).await }
    };
    let back = patient(1, "chat-1", "chat").await;
    let near = patient(1, "front-1", "connector").await;
    let far = patient(0, "front-2", "connector").await;
    back.sees("front-1").await;
    back.sees("front-2").await;
    for n in 1..=9 {
        let server = if n <= 6 { &near } else { &far };
        server.open(n);
        server.bind(n, &format!("user-{n}")).await.unwrap();
    }
    let all: Arc<[Arc<str>]> = (1..=9).map(|n| format!("user-{n}").into()).collect();
    let push = || {
        back.member
            .deliver_to_users("connector", "onChat".into(), "x".into(), all.clone())
    };
    all_are_reached(&back, &all).await;
    for hangs in [true, false] {
        if hangs {
            sides.between.cut();
        } else {
            sides.part().await;
        }
        for _ in 0..4 {
            let delivered = push().await.unwrap();
            assert_eq!(delivered.queued, 6);
            let [failed] = &delivered.failed[..] else {
                panic!("{delivered:?}")
            };
            assert_eq!(failed.frontend.as_str(), "front-2");
            assert_eq!(failed.uids, all[6..]);
            let kind = failed.error.kind();
            assert!(
                !hangs || kind != RemoteErrorKind::NoResponder,
                "it has a subscriber: {kind:?}"
            );
        }
        assert_eq!(back.member.status().suspects, 1, "hangs: {hangs}");
        sides.join().await;
        all_are_reached(&back, &all).await;
        assert_eq!(back.member.status().suspects, 0);
    }
}
