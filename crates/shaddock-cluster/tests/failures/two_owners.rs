//! Two frontends that do not hear each other, and one user: the rows of the issue about owners, each with what made it fail.

use std::time::Instant;

use shaddock_cluster::{Conflict, JoinOptions, RemoteErrorKind, SessionsPerUser};

use crate::sides::Sides;
use crate::support::node::{Server, raw, request};
use crate::support::proxy::Proxy;
use crate::support::servers::{Backing, config};
use crate::support::until;
use crate::support::wait::PATIENCE;
use crate::{SECOND, at_rest, join, join_with, places};

/// Two NATS servers with a proxy between them, and a frontend at each.
struct TwoSides {
    sides: Sides,
    first: Server,
    second: Server,
}

impl TwoSides {
    async fn start(unique: SessionsPerUser) -> Self {
        let sides = Sides::start().await;
        let options = || JoinOptions::new().sessions_per_user(unique);
        // A claimant that waits for the end of a lease waits for longer than the test.
        let at = |side| {
            let mut config = sides.config(side);
            config.lease_ttl = SECOND * 120;
            config.takeover_timeout = SECOND * 90;
            config
        };
        let first = join_with(&at(0), "front-1", "connector", options()).await;
        let second = join_with(&at(1), "front-2", "connector", options()).await;
        Self {
            sides,
            first,
            second,
        }
    }

    /// The first has a user, and NATS reports on the other side that the first has no subscriber.
    async fn apart(unique: SessionsPerUser) -> Self {
        let two = Self::start(unique).await;
        two.first.open(1);
        two.first.bind(1, "u").await.unwrap();
        two.sides.part().await;
        assert!(two.first.member.status().connected && two.second.member.status().connected);
        two
    }

    fn owners(&self) -> [bool; 2] {
        [
            self.first.member.is_bound("u", raw(1)),
            self.second.member.is_bound("u", raw(2)),
        ]
    }

    fn claim(&self) -> String {
        let key = "pitaya/bindings/connector/u";
        let value = self.sides.etcd.etcdctl(&["get", "--print-value-only", key]);
        value.trim().to_owned()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_between_two_nats_servers_makes_no_second_owner() {
    let two = TwoSides::apart(SessionsPerUser::One(Conflict::ReplaceOld)).await;
    two.second.open(2);
    // The owner is there at etcd, and gives the user up when it reads there that it is asked to.
    let start = Instant::now();
    two.second.bind(2, "u").await.unwrap();
    assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
    assert_eq!(two.first.closed(1).as_deref(), Some("replaced"));
    assert_eq!(two.owners(), [false, true]);
    two.sides.join().await;
    assert_eq!(places(&two.second, "u").await, ["front-2"]);
    assert_eq!((two.owners(), &*two.claim()), ([false, true], "front-2"));
    assert!(two.sides.etcd.keys("pitaya/shaddock/asks/").is_empty());
    at_rest(&two.first, 0).await;
    at_rest(&two.second, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreachable_owner_keeps_the_user_if_new_sessions_are_rejected() {
    let two = TwoSides::apart(SessionsPerUser::One(Conflict::RejectNew)).await;
    two.second.open(2);
    let refused = two.second.bind(2, "u").await.unwrap_err();
    assert!(
        refused.message().contains("already bound at front-1"),
        "{refused}"
    );
    assert_eq!((two.owners(), &*two.claim()), ([true, false], "front-1"));
    two.first.close(1);
    two.second.bind(2, "u").await.unwrap();
}

/// The owner is unreachable over NATS and over etcd, but alive: it keeps the user until its lease has ended, and does nothing for the user
/// after that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_owner_keeps_the_user_until_its_lease_ends() {
    let backing = Backing::start();
    let (nats, etcd) = (
        Proxy::to(backing.nats.address).await,
        Proxy::to(backing.etcd.address).await,
    );
    let options =
        || JoinOptions::new().sessions_per_user(SessionsPerUser::One(Conflict::ReplaceOld));
    let cut = config(nats.address, etcd.address);
    let first = join_with(&cut, "front-1", "connector", options()).await;
    let second = join_with(&backing.config(), "front-2", "connector", options()).await;
    first.open(1);
    first.bind(1, "u").await.unwrap();
    // Its link breaks, and NATS forgets it at once; to etcd it is only silent.
    nats.sever();
    etcd.cut();
    second.open(2);
    // While the first one may act for the user, the second one has no claim.
    let seen = until("the second one has the user", || {
        // In this order: the first one never becomes open again here.
        let (has, may_act) = (
            second.member.is_bound("u", raw(2)) && second.uid(2).is_some(),
            !first.member.is_fenced(),
        );
        assert!(!(has && may_act), "two owners");
        has
    });
    let (bound, ()) = tokio::join!(second.bind(2, "u"), seen);
    bound.unwrap();
    nats.heal();
    etcd.heal();
    until("replaced", || {
        first.closed(1).as_deref() == Some("replaced")
    })
    .await;
}

/// A process that stands still, as after SIGSTOP, has no task that could set a flag. What it does first when it goes on is refused all the same.
#[test]
fn a_frontend_that_was_stopped_does_nothing_before_it_has_looked() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let own = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let sides = runtime.block_on(Sides::start());
    let options =
        || JoinOptions::new().sessions_per_user(SessionsPerUser::One(Conflict::ReplaceOld));
    let (config, others) = (sides.config(0), sides.config(1));
    let first = own.block_on(async {
        let here = options().background_on(tokio::runtime::Handle::current());
        let first = join_with(&config, "front-1", "connector", here).await;
        first.open(1);
        first.bind(1, "u").await.unwrap();
        first
    });
    runtime.block_on(async {
        let second = join_with(&others, "front-2", "connector", options()).await;
        let back = join(&others, "chat-1", "chat").await;
        second.open(2);
        // Every task of the first one stands still.
        let (go_on, stopped) = std::sync::mpsc::channel::<()>();
        own.spawn(async move {
            let _ = stopped.recv();
        });
        second.bind(2, "u").await.unwrap();
        assert!(
            first.member.is_fenced(),
            "nothing has run that could have fenced it"
        );
        assert!(first.state().fenced.is_empty());
        let mut late = request("chat.room.echo", "as u");
        late.session.uid = Some("u".into());
        let refused = first.member.forward(back.info(), late).await.unwrap_err();
        assert_eq!(refused.kind(), RemoteErrorKind::Fenced, "{refused}");
        drop(go_on);
        until("replaced", || {
            first.closed(1).as_deref() == Some("replaced")
        })
        .await;
        assert!(back.state().requests.is_empty());
        assert_eq!(second.uid(2).as_deref(), Some("u"));
    });
}
