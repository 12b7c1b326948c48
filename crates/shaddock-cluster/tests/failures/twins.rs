//! Two servers with one id.

use std::sync::Arc;
use std::time::{Duration, Instant};

use shaddock_cluster::{
    AudienceKey, Cluster, ClusterError, Conflict, Context, ForwardedSession, Interest, JoinOptions,
    MemberNotice, NatsCluster, NatsConfig, Receivers, ServerInfo, SessionEvent, SessionOp,
    SessionsPerUser,
};

use crate::support::node::{Server, TestNode, call, delivery, raw, works};
use crate::support::proxy::Proxy;
use crate::support::servers::{Backing, config};
use crate::support::until;
use crate::support::wait::{PATIENCE, breathe};
use crate::{SECOND, join, join_with};

/// Tries to join under this name.
async fn enters(config: &NatsConfig, id: &str, server_type: &str) -> Result<(), ClusterError> {
    let cluster = NatsCluster::new(config.clone()).unwrap();
    let info = ServerInfo::new(id, server_type, server_type.starts_with("connector")).unwrap();
    let node = Arc::new(TestNode::default());
    let joined = cluster.join(info, JoinOptions::new(), node).await;
    // Kept until all have tried: one that leaves gives the id back.
    joined.map(std::mem::forget)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_that_start_at_once_one_enters() {
    let backing = Backing::start();
    let config = backing.config();
    for (round, types) in [["chat", "chat"], ["chat", "connector"]].iter().enumerate() {
        for n in 0..5 {
            let id = format!("twin-{round}-{n}");
            let starts = types.map(|server_type| enters(&config, &id, server_type));
            let results = futures_util::future::join_all(starts).await;
            let entered = results.iter().filter(|result| result.is_ok()).count();
            assert_eq!(entered, 1, "{id}: {results:?}");
            let refused = results.into_iter().find_map(Result::err).unwrap();
            assert!(
                matches!(&refused, ClusterError::IdTaken(taken) if taken.as_str() == id),
                "{refused}"
            );
        }
    }
    let listed = backing.etcd.keys("pitaya/servers/");
    assert_eq!(listed.len(), 10, "{listed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_is_taken_for_all_types() {
    let backing = Backing::start();
    let mut config = backing.config();
    config.lease_ttl = SECOND * 120;
    let first = join(&config, "one", "chat").await;
    let start = Instant::now();
    let refused = enters(&backing.config(), "one", "connector")
        .await
        .unwrap_err();
    assert!(matches!(refused, ClusterError::IdTaken(_)), "{refused}");
    assert!(
        start.elapsed() < PATIENCE,
        "it lives, so nobody waits for the end of its lease"
    );
    first.member.leave().await;
    enters(&backing.config(), "one", "connector").await.unwrap();
}

/// One that died holds its id until its lease ends; the next one waits for that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_died_is_followed_by_the_next_one() {
    let backing = Backing::start();
    let first = join(&backing.config(), "chat-1", "chat").await;
    first.crash();
    let start = Instant::now();
    let second = join(&backing.config(), "chat-1", "chat").await;
    assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
    assert!(second.member.status().listed);
}

/// A start that is given up, whenever that is, gives its id back: the next one need not wait until a lease ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_is_given_up_holds_no_id() {
    let backing = Backing::start();
    let mut config = backing.config();
    config.lease_ttl = SECOND * 300;
    // The id is given back within it, also on a slow machine.
    config.etcd_timeout = SECOND * 30;
    let ids = || backing.etcd.keys("pitaya/shaddock/ids/").len();
    let mut entered = 0;
    for millis in (0..1000).step_by(3) {
        let joining = join(&config, "chat-1", "chat");
        let joined = tokio::time::timeout(Duration::from_millis(millis), joining).await;
        if let Ok(server) = joined {
            server.member.leave().await;
            entered += 1;
        }
        until("the id is free", || ids() == 0).await;
        if entered == 3 {
            return;
        }
    }
    panic!("a start takes longer than a second");
}

/// The same for a server that has joined, if its caller dropped the start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_abandoned_start_holds_no_id() {
    let backing = Backing::start();
    let mut config = backing.config();
    config.lease_ttl = SECOND * 300;
    config.etcd_timeout = SECOND * 30;
    for _ in 0..3 {
        let mut joining = Box::pin(join(&config, "chat-1", "chat"));
        let begun = futures_util::future::poll_immediate(&mut joining).await;
        assert!(begun.is_none(), "it has to ask NATS and etcd");
        until("listed", || {
            !backing.etcd.keys("pitaya/servers/").is_empty()
        })
        .await;
        // The join ends in this moment, and what comes of it is not looked at.
        for _ in 0..50 {
            breathe().await;
        }
        drop(joining);
        until("the id is free", || {
            backing.etcd.keys("pitaya/shaddock/ids/").is_empty()
        })
        .await;
    }
}

/// One hangs until its lease ends and is replaced; when it awakes it finds another life under its id, and ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_hung_and_was_replaced_ends() {
    let backing = Backing::start();
    let (nats, etcd) = (
        Proxy::to(backing.nats.address).await,
        Proxy::to(backing.etcd.address).await,
    );
    let options =
        || JoinOptions::new().sessions_per_user(SessionsPerUser::One(Conflict::ReplaceOld));
    let hangs = config(nats.address, etcd.address);
    let old = join_with(&hangs, "front-1", "connector", options()).await;
    let back = join(&backing.config(), "chat-1", "chat").await;
    for (sid, uid) in [(1, "ann"), (2, "bob")] {
        old.open(sid);
        old.bind(sid, uid).await.unwrap();
    }
    nats.cut();
    etcd.cut();
    until("its lease ends", || {
        backing.etcd.keys("pitaya/shaddock/ids/front-1").is_empty()
    })
    .await;
    let new = join_with(&backing.config(), "front-1", "connector", options()).await;
    new.open(11);
    new.bind(11, "ann").await.unwrap();
    assert!(old.member.is_fenced());

    nats.heal();
    etcd.heal();
    until("expelled", || !old.state().expelled.is_empty()).await;
    assert_eq!(
        old.state().expelled,
        ["a server with id front-1 is already in the cluster"]
    );
    assert!(old.member.is_fenced() && !old.member.status().connected);
    assert_eq!(old.closed(2).as_deref(), Some("expelled"));
    // It may have read first that this user is another's.
    let reason = old.closed(1).unwrap_or_default();
    assert!(matches!(&*reason, "replaced" | "expelled"), "{reason}");
    assert!(old.bind(2, "bob").await.is_err());
    // Messages to the id reach the new server only.
    until("listed", || {
        back.member.members().server("front-1").is_some()
    })
    .await;
    only_one_is_called(&back, &new, &old).await;
    assert!(new.member.is_bound("ann", raw(11)) && new.member.status().listed);
    assert!(new.state().expelled.is_empty());
    new.open(12);
    new.bind(12, "bob").await.unwrap();
}

async fn only_one_is_called(back: &Server, new: &Server, old: &Server) {
    for _ in 0..5 {
        works(back, new).await;
    }
    assert_eq!(
        (new.state().requests.len(), old.state().requests.len()),
        (5, 0)
    );
}

/// While NATS is away from one that was replaced, something of every kind is sent to its id. It learns from etcd that it was replaced, and then NATS brings
/// all of that: it is for the other life.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_sent_to_the_next_life_is_not_served() {
    let backing = Backing::start();
    let (nats, etcd) = (
        Proxy::to(backing.nats.address).await,
        Proxy::to(backing.etcd.address).await,
    );
    let mut hangs = config(nats.address, etcd.address);
    hangs.nats_ping_interval = SECOND * 60;
    let options = || {
        let unique =
            JoinOptions::new().sessions_per_user(SessionsPerUser::One(Conflict::ReplaceOld));
        unique.with_events_of(Interest::all())
    };
    let old = join_with(&hangs, "front-1", "connector", options()).await;
    let back = join(&backing.config(), "chat-1", "chat").await;
    let other = join(&backing.config(), "front-2", "connector").await;
    let topic = AudienceKey::topic("room").unwrap();
    let held = old.member.hold_topic("room").await.unwrap();
    nats.cut();
    etcd.cut();
    until("its lease ends", || {
        backing.etcd.keys("pitaya/shaddock/ids/front-1").is_empty()
    })
    .await;
    let new = join_with(&backing.config(), "front-1", "connector", options()).await;
    other.is_told_of("front-1").await;

    let to = new.info();
    let answer = back.request(to, "connector.room.echo", "x").await;
    assert_eq!(answer.unwrap(), "x");
    let answer = back.member.call(to, call("connector.room.echo", "x")).await;
    assert_eq!(answer.unwrap(), "x");
    let everybody = delivery("x", Receivers::All { bound_only: false });
    back.member.deliver(&to.id, everybody).await.unwrap();
    let to_topic = |key| Receivers::Audience {
        key,
        except: None,
        name_missing: false,
    };
    let heard = delivery("x", to_topic(topic.clone()));
    back.member.deliver(&to.id, heard.clone()).await.unwrap();
    back.member.deliver_to_topic("room", heard).unwrap().await;
    let join = SessionOp::Join {
        audience: topic.clone(),
        uid: "new".into(),
        sid: None,
    };
    let joined = back.member.session_op(&to.id, join, Context::new()).await;
    joined.unwrap();
    let notice = MemberNotice {
        frontend: other.id(),
        number: 1,
        audience: topic,
        uid: "u".into(),
        departure: None,
    };
    other.member.notify_member(&to.id, notice).unwrap();
    let session = ForwardedSession {
        frontend: Some(other.id()),
        ..ForwardedSession::default()
    };
    other.member.publish_event(SessionEvent::Bound(session));
    until("the new one has all of it", || {
        let state = new.state();
        state.notices.len() == 1 && state.events.len() == 1
    })
    .await;

    etcd.heal();
    until("expelled", || !old.state().expelled.is_empty()).await;
    nats.heal();
    until("its subscriptions are gone", || {
        let all = backing.nats.subscriptions();
        all["connector front-1"].len() == new.member.status().subscriptions
    })
    .await;
    drop(held);
    let state = old.state();
    assert_eq!((state.requests.len(), state.calls.len()), (0, 0));
    assert_eq!((state.heard.len(), state.audience_ops.len()), (0, 0));
    assert_eq!((state.notices.len(), state.events.len()), (0, 0));
}
