//! The memory of a bound user in a frontend, with the real NATS and etcd: the resident memory of this process, which holds nothing else.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use shaddock_cluster::{
    BoxFuture, Cluster, Conflict, ForwardedRequest, JoinOptions, Membership, Node, RemoteCall,
    RemoteError, ServerInfo, SessionsPerUser,
};
use support::node::raw;
use support::servers::Backing;

/// Holds nothing of its users.
struct Nothing;

impl Node for Nothing {
    fn serve_request(
        self: Arc<Self>,
        _request: ForwardedRequest,
    ) -> BoxFuture<'static, Result<Bytes, RemoteError>> {
        Box::pin(async { Ok(Bytes::new()) })
    }

    fn serve_call(
        self: Arc<Self>,
        _call: RemoteCall,
    ) -> BoxFuture<'static, Result<Bytes, RemoteError>> {
        Box::pin(async { Ok(Bytes::new()) })
    }
}

/// Resident memory of this process, in bytes.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

async fn bind(member: &Arc<dyn Membership>, users: std::ops::Range<u64>) {
    let binds = users.map(|n| async move {
        let uid = format!("user-{n:0>16}").into();
        let bound = member.bind_user(uid, raw(n + 1)).await.unwrap();
        assert!(bound.keep(|| true));
    });
    stream::iter(binds)
        .buffer_unordered(64)
        .collect::<()>()
        .await;
}

/// 151 to 197 bytes were measured (x86-64, glibc), most often 188, with a claim at etcd for each. Twice of that is too much.
const MOST: u64 = 360;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bound_user_costs_a_frontend_little() {
    const FIRST: u64 = 4096;
    const USERS: u64 = 24_576;
    let backing = Backing::start();
    let info = ServerInfo::new("front-1", "connector", true).unwrap();
    let options = JoinOptions::new().sessions_per_user(SessionsPerUser::One(Conflict::ReplaceOld));
    let cluster = backing.cluster();
    let member = cluster
        .join(info, options, Arc::new(Nothing))
        .await
        .unwrap();
    // Memory that is needed once: buffers, threads, the tables' first size.
    bind(&member, 0..FIRST).await;
    let before = resident();
    bind(&member, FIRST..FIRST + USERS).await;
    let each = resident().saturating_sub(before) / USERS;
    println!("{each} bytes for a bound user");
    let status = member.status();
    assert_eq!(status.bound_users as u64, FIRST + USERS);
    assert_eq!(status.subscriptions, 4, "users have none");
    assert!(each < MOST, "{each} bytes for a bound user");
}
