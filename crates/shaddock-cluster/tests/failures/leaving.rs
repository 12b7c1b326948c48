//! A frontend leaves: it says so on NATS and takes itself from the list at etcd. To one member the two come in the other order, or one of
//! them does not come.

use shaddock_cluster::{
    Conflict, Interest, JoinOptions, RemoteErrorKind, SessionEvent, SessionsPerUser,
};

use crate::support::node::{Server, delivery, uids};
use crate::support::proxy::Proxy;
use crate::support::servers::{Backing, config};
use crate::support::until;
use crate::{SECOND, join, join_with};

/// A frontend with a user, and a backend that NATS reaches through a proxy. It takes its link for good while the proxy holds things back.
async fn held_back(backing: &Backing) -> (Server, Server, Proxy) {
    let nats = Proxy::to(backing.nats.address).await;
    let mut patient = config(nats.address, backing.etcd.address);
    patient.nats_ping_interval = SECOND * 60;
    patient.request_timeout = SECOND * 20;
    let events = JoinOptions::new().with_events_of(Interest::all());
    let back = join_with(&patient, "chat-1", "chat", events).await;
    let front = join(&backing.config(), "front-1", "connector").await;
    back.sees("front-1").await;
    until("told of it", || back.state().joined.len() == 1).await;
    front.open(1);
    front.bind(1, "u").await.unwrap();
    (front, back, nats)
}

async fn leaves_the_list(front: &Server, back: &Server) {
    front.member.withdraw().await;
    until("not listed", || {
        back.member.members().server("front-1").is_none()
    })
    .await;
}

fn departing(back: &Server) -> Vec<String> {
    let all = back.member.departing();
    all.iter().map(|info| info.id.to_string()).collect()
}

fn has_lost(back: &Server) -> bool {
    let lost = |event: &SessionEvent| matches!(event, SessionEvent::FrontendLost(_));
    back.state().events.iter().any(lost)
}

async fn pushes_arrive(front: &Server, back: &Server, body: &str) {
    let push = delivery(body, uids(&["u"]));
    let delivered = back.member.deliver(&front.id(), push).await.unwrap();
    assert_eq!(delivered.queued, 1);
    assert_eq!(front.got(1).last().unwrap(), body);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frontend_whose_goodbye_is_late_is_not_lost() {
    let backing = Backing::start();
    let (front, back, nats) = held_back(&backing).await;
    nats.cut();
    leaves_the_list(&front, &back).await;
    // Sent now, it comes when NATS does.
    let push = back
        .member
        .deliver(&front.id(), delivery("early", uids(&["u"])));
    // A backend is not asked whether it serves. Its departure is reported, and no suspicion before or after it.
    let other = join(&backing.config(), "chat-2", "chat").await;
    back.sees("chat-2").await;
    other.member.leave().await;
    until("told of that", || back.state().left == ["chat-2"]).await;
    nats.heal();
    assert_eq!(push.await.unwrap().queued, 1);
    until("known to serve", || departing(&back) == ["front-1"]).await;
    until("told of it", || back.state().left == ["chat-2", "front-1"]).await;
    pushes_arrive(&front, &back, "late").await;
    assert!(!has_lost(&back), "its sessions are there");

    front.member.leave().await;
    until("gone", || departing(&back).is_empty()).await;
    assert!(!has_lost(&back), "it has closed them itself");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frontend_that_left_without_a_word_is_asked() {
    let backing = Backing::start();
    let (front, back, _nats) = held_back(&backing).await;
    // As its lease would end while etcd is away from it; it lists itself again.
    backing
        .etcd
        .etcdctl(&["del", "pitaya/servers/connector/front-1"]);
    until("listed again", || {
        let keys = backing.etcd.keys("pitaya/servers/connector/");
        keys.len() == 1 && back.member.members().server("front-1").is_some()
    })
    .await;
    pushes_arrive(&front, &back, "on").await;
    assert!(!has_lost(&back), "it has lost no session");

    // A dead server has no subscriber: its sessions are gone immediately.
    let id = front.id();
    front.crash();
    until("lost", || has_lost(&back)).await;
    until("told of it", || back.state().left.last().is_some()).await;
    assert!(departing(&back).is_empty());
    let late = back
        .member
        .deliver_unconfirmed(&id, delivery("x", uids(&["u"])));
    assert_eq!(late.unwrap_err().kind(), RemoteErrorKind::NoServer);
}

/// NATS is silent for longer than a frontend is waited for; its goodbye still counts when it comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_goodbye_of_a_given_up_frontend_counts() {
    let backing = Backing::start();
    let (front, back, nats) = held_back(&backing).await;
    nats.cut();
    leaves_the_list(&front, &back).await;
    until("given up", || has_lost(&back)).await;
    assert_eq!(back.state().left, ["front-1"]);
    let push = || delivery("x", uids(&["u"]));
    let refused = back.member.deliver(&front.id(), push()).await.unwrap_err();
    assert_eq!(refused.kind(), RemoteErrorKind::NoServer);
    nats.heal();
    until("known to serve", || departing(&back) == ["front-1"]).await;
    pushes_arrive(&front, &back, "on").await;
    assert_eq!(back.state().left, ["front-1"], "told once");
}

/// A frontend is cut off from NATS and from etcd for longer than its lease and than it is waited for: its sessions are still there when it is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frontend_that_counted_as_gone_is_back() {
    let backing = Backing::start();
    let (nats, etcd) = (
        Proxy::to(backing.nats.address).await,
        Proxy::to(backing.etcd.address).await,
    );
    let back = join(&backing.config(), "chat-1", "chat").await;
    let cut = config(nats.address, etcd.address);
    let front = join(&cut, "front-1", "connector").await;
    back.sees("front-1").await;
    front.open(1);
    front.bind(1, "u").await.unwrap();
    nats.cut();
    etcd.cut();
    until("counts as gone", || back.state().left == ["front-1"]).await;
    assert!(back.state().returned.is_empty());
    nats.heal();
    etcd.heal();
    until("back", || back.state().returned == ["front-1"]).await;
    assert_eq!(
        back.state().joined,
        ["front-1", "front-1"],
        "it has joined again before"
    );
    assert_eq!(front.uid(1).as_deref(), Some("u"));
    pushes_arrive(&front, &back, "on").await;

    // Another life of the same name is no return.
    front.crash();
    until("gone", || back.state().left.len() == 2).await;
    let again = join(&backing.config(), "front-1", "connector").await;
    until("there", || back.state().joined.len() == 3).await;
    again.member.leave().await;
    until("left", || back.state().left.len() == 3).await;
    assert_eq!(back.state().returned, ["front-1"]);
}

/// A server that drains revokes its lease and closes its link itself: that is no cut, and none is reported.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clean_drain_is_not_called_a_cut() {
    let backing = Backing::start();
    let mut config = backing.config();
    // Not on a machine that has too much to do either.
    config.lease_ttl = SECOND * 60;
    config.nats_ping_interval = SECOND * 60;
    config.shutdown_delay = SECOND / 100;
    for round in 0..10 {
        let unique =
            JoinOptions::new().sessions_per_user(SessionsPerUser::One(Conflict::ReplaceOld));
        let front = join_with(&config, &format!("front-{round}"), "connector", unique).await;
        front.open(1);
        front.bind(1, "u").await.unwrap();
        front.member.withdraw().await;
        front.close(1);
        front.member.finish().await;
        front.member.leave().await;
        let node = std::sync::Arc::clone(&front.node);
        // With the membership all that could tell has ended.
        drop(front);
        assert_eq!(node.state.lock().unwrap().fenced, [true; 0], "{round}");
    }
}
