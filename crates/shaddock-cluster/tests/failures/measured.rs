//! Numbers of `docs/cluster.md`. The second test only measures: `cargo test -p shaddock-cluster --test failures -- --ignored --nocapture
//! measured`. The first one also runs in CI, with few users; `SHADDOCK_TEST_USERS=50000` and `--release` give the number in the guide.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use shaddock_cluster::{Conflict, JoinOptions, SessionsPerUser};

use crate::support::node::{Server, raw};
use crate::support::servers::Backing;
use crate::support::until;
use crate::{SECOND, join_with};

/// Users whose claims are lost in CI.
const FEW: u64 = 5000;
/// Claims in one transaction.
const BATCH: u64 = 120;
/// All of them are back within this time.
const BOUND: Duration = Duration::from_secs(5);

fn users() -> u64 {
    let users = std::env::var("SHADDOCK_TEST_USERS").ok();
    users.map_or(FEW, |users| users.parse().unwrap())
}

async fn with_users(backing: &Backing, users: u64) -> Server {
    let mut config = backing.config();
    config.lazy_user_subjects = true;
    config.lease_ttl = SECOND * 15;
    config.takeover_timeout = SECOND * 120;
    let unique = JoinOptions::new().sessions_per_user(SessionsPerUser::One(Conflict::ReplaceOld));
    let front = join_with(&config, "front-1", "connector", unique).await;
    let binds = stream::iter(1..=users).map(|sid| {
        front.open(sid);
        let member = front.member.clone();
        async move {
            let bound = member
                .bind_user(format!("user-{sid}").into(), raw(sid))
                .await;
            assert!(bound.unwrap().keep(|| true));
        }
    });
    let start = Instant::now();
    binds.buffer_unordered(2000).collect::<Vec<()>>().await;
    println!("{users} users bound in {:?}", start.elapsed());
    front
}

/// Waits until the frontend acts for its users again. Returns how long it did not.
async fn is_back(what: &str, front: &Server, start: Instant) -> Duration {
    until("fenced", || front.member.is_fenced()).await;
    let fenced = start.elapsed();
    until("a new lease", || front.member.status().listed).await;
    until("sure again", || !front.member.is_fenced()).await;
    let took = start.elapsed().saturating_sub(fenced);
    println!("{what}: fenced after {fenced:?}, users back after {took:?} more");
    took
}

/// All claims are there again, written many at a time: entries in etcd's log do not depend on the speed of the machine.
fn are_claimed(backing: &Backing, users: u64, revisions: i64) {
    assert_eq!(backing.etcd.keys("pitaya/bindings/").len() as u64, users);
    println!("{revisions} revisions for {users} claims");
    let revisions = u64::try_from(revisions).unwrap();
    assert!(revisions <= users / BATCH * 2 + 50, "{revisions}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_claims_are_written_again_in_batches_within_five_seconds() {
    let mut backing = Backing::start();
    let users = users();
    let front = with_users(&backing, users).await;
    let leases = backing.etcd.etcdctl(&["lease", "list"]);
    let lease = leases.lines().nth(1).unwrap().to_owned();
    let before = backing.etcd.revision();
    let start = Instant::now();
    backing.etcd.etcdctl(&["lease", "revoke", &lease]);
    let took = is_back("the lease is revoked", &front, start).await;
    are_claimed(&backing, users, backing.etcd.revision() - before);
    assert!(took < BOUND, "{took:?}");
    let start = Instant::now();
    backing.etcd.forget_everything();
    let took = is_back("etcd is wiped", &front, start).await;
    are_claimed(&backing, users, backing.etcd.revision());
    assert!(took < BOUND, "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it measures"]
async fn writes_for_a_login() {
    let backing = Backing::start();
    let mut config = backing.config();
    config.lease_ttl = SECOND * 60;
    let unique = JoinOptions::new().sessions_per_user(SessionsPerUser::One(Conflict::ReplaceOld));
    let front = join_with(&config, "front-1", "connector", unique.clone()).await;
    let second = join_with(&config, "front-2", "connector", unique).await;
    for at_once in [1, 100, 2000] {
        let before = backing.etcd.revision();
        log_in_and_out(&backing, &front, 2000, at_once).await;
        let revisions = backing.etcd.revision() - before;
        println!("{at_once} at once: {revisions} revisions for 2000 logins and logouts");
    }
    bytes_for_a_login(&backing, &front).await;
    let before = backing.etcd.revision();
    for round in 0..500_u64 {
        let (server, sid) = if round % 2 == 0 {
            (&front, round + 1)
        } else {
            (&second, round + 1)
        };
        server.open(sid);
        server.bind(sid, "wanders").await.unwrap();
    }
    println!(
        "{} revisions for 500 moves of one user between two frontends",
        backing.etcd.revision() - before
    );
}

/// Users log in and out again, so many at the same time, until no claim is left.
async fn log_in_and_out(backing: &Backing, front: &Server, users: u64, at_once: usize) {
    let logins = stream::iter(1..=users).map(|sid| {
        let member = front.member.clone();
        async move {
            let uid: std::sync::Arc<str> = format!("user-{sid:016}").into();
            let bound = member.bind_user(uid.clone(), raw(sid)).await;
            assert!(bound.unwrap().keep(|| true));
            member.unbind_user(&uid, raw(sid));
        }
    });
    logins.buffer_unordered(at_once).collect::<Vec<()>>().await;
    until("all are gone", || {
        backing.etcd.keys("pitaya/bindings/").is_empty()
    })
    .await;
}

/// The size of logins and logouts in etcd as long as nothing is compacted.
async fn bytes_for_a_login(backing: &Backing, front: &Server) {
    const LOGINS: u64 = 100_000;
    for at_once in [10, 1000] {
        let before = backing.etcd.in_use();
        log_in_and_out(backing, front, LOGINS, at_once).await;
        let bytes = backing.etcd.in_use() - before;
        let each = bytes / LOGINS;
        let last = 2 * 1024 * 1024 * 1024 / each;
        println!(
            "{at_once} at once: {each} bytes for a login and a logout, so 2 GiB last for {last}"
        );
    }
    let before = backing.etcd.in_use();
    let logins = stream::iter(1..=LOGINS).map(|sid| {
        let member = front.member.clone();
        async move {
            let uid: std::sync::Arc<str> = format!("user-{sid:016}").into();
            let bound = member.bind_user(uid, raw(sid)).await;
            assert!(bound.unwrap().keep(|| true));
        }
    });
    logins.buffer_unordered(1000).collect::<Vec<()>>().await;
    let login = (backing.etcd.in_use() - before) / LOGINS;
    println!("a login alone: {login} bytes");
}
