//! The load of users on etcd, which keeps every revision until it is told to forget it: counted in revisions of a real one.

use futures_util::{StreamExt, stream};
use shaddock_cluster::{Conflict, JoinOptions, SessionsPerUser};

use crate::support::node::{Server, raw};
use crate::support::servers::Backing;
use crate::support::until;
use crate::{SECOND, join_with};

/// A frontend that does not lose its lease on a machine that has too much to do.
async fn frontend(backing: &Backing, id: &str, unique: SessionsPerUser) -> Server {
    let mut config = backing.config();
    config.lease_ttl = SECOND * 60;
    config.takeover_timeout = SECOND * 60;
    let options = JoinOptions::new().sessions_per_user(unique);
    join_with(&config, id, "connector", options).await
}

/// One user after the other, or so many at once, logs in and out.
async fn log_in_and_out(server: &Server, users: u64, at_once: usize) {
    let logins = stream::iter(1..=users).map(|sid| {
        let member = server.member.clone();
        async move {
            let uid: std::sync::Arc<str> = format!("user-{sid}").into();
            let bound = member.bind_user(uid.clone(), raw(sid)).await;
            assert!(bound.unwrap().keep(|| true));
            member.unbind_user(&uid, raw(sid));
        }
    });
    logins.buffer_unordered(at_once).collect::<Vec<()>>().await;
}

async fn no_user_is_claimed(backing: &Backing) {
    until("all claims are deleted", || {
        backing.etcd.keys("pitaya/bindings/").is_empty()
    })
    .await;
}

/// If a user may have many sessions, their locations are not written to etcd.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_unique_sessions_users_write_nothing() {
    let backing = Backing::start();
    let front = frontend(&backing, "front-1", SessionsPerUser::Any).await;
    let before = backing.etcd.revision();
    log_in_and_out(&front, 200, 20).await;
    // Every write would be on its way by now; these go behind it.
    for _ in 0..3 {
        backing.etcd.keys("pitaya/");
    }
    assert_eq!(backing.etcd.revision(), before);
}

/// A login writes one key and a logout deletes it, each at most one revision. What happens together is written together.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_is_one_write_and_a_logout_another() {
    const USERS: u64 = 300;
    let backing = Backing::start();
    let front = frontend(
        &backing,
        "front-1",
        SessionsPerUser::One(Conflict::ReplaceOld),
    )
    .await;
    let before = backing.etcd.revision();
    for sid in 1..=20 {
        front.open(sid);
        front.bind(sid, &format!("alone-{sid}")).await.unwrap();
    }
    assert_eq!(backing.etcd.revision() - before, 20, "logins");
    // One session in the place of another: the claim is numbered anew, so that a question that another frontend asked about the first one is outdated.
    front.open(21);
    front.bind(21, "alone-1").await.unwrap();
    let replaced = backing.etcd.revision() - before - 20;
    assert_eq!(replaced, 1, "a session is replaced");
    let before = backing.etcd.revision();
    for sid in 1..=21 {
        front.close(sid);
    }
    no_user_is_claimed(&backing).await;
    let logouts = backing.etcd.revision() - before;
    assert!((1..=20).contains(&logouts), "{logouts}");

    let before = backing.etcd.revision();
    log_in_and_out(&front, USERS, usize::try_from(USERS).unwrap()).await;
    no_user_is_claimed(&backing).await;
    let together = backing.etcd.revision() - before;
    let writes = i64::try_from(USERS).unwrap() * 2;
    println!("{together} revisions for {writes} writes at once");
    assert!(together <= writes / 2, "{together}");
}

/// A user who goes to another frontend is overwritten, without a deletion in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_is_one_write() {
    let backing = Backing::start();
    let servers = [
        frontend(
            &backing,
            "front-1",
            SessionsPerUser::One(Conflict::ReplaceOld),
        )
        .await,
        frontend(
            &backing,
            "front-2",
            SessionsPerUser::One(Conflict::ReplaceOld),
        )
        .await,
    ];
    servers[0].sees("front-2").await;
    servers[1].sees("front-1").await;
    let mut moves = Vec::new();
    for (sid, server) in (1..=20).zip(servers.iter().cycle()) {
        let before = backing.etcd.revision();
        server.open(sid);
        server.bind(sid, "wanders").await.unwrap();
        moves.push(backing.etcd.revision() - before);
    }
    println!("{moves:?}");
    // The first is a login. More than one only where the owner did not answer within a second, and was left a notice at etcd.
    let moves = &moves[1..];
    let single = moves.iter().filter(|writes| **writes == 1).count();
    assert!(single * 2 > moves.len(), "{moves:?}");
}
