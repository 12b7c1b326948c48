//! Servers die.

use std::time::Instant;

use bytes::Bytes;
use shaddock_cluster::{
    Conflict, Context, JoinOptions, RemoteErrorKind, SessionOp, SessionsPerUser,
};

use crate::support::node::{call, request, works};
use crate::support::servers::Backing;
use crate::support::until;
use crate::support::wait::PATIENCE;
use crate::{SECOND, at_rest, clean, join, join_with, places};

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
            never.context = Context::with_timeout(SECOND * 5);
            front.member.forward(&info, never)
        })
        .collect();
    until("they run", || dies.member.status().serving == 50).await;
    let start = Instant::now();
    dies.crash();
    for reply in replies {
        let error = reply.await.unwrap_err();
        // Whichever is first: the deadline, or the end of the lease.
        let kinds = [RemoteErrorKind::Timeout, RemoteErrorKind::LinkLost];
        assert!(kinds.contains(&error.kind()), "{error}");
    }
    assert!(start.elapsed() < PATIENCE, "they end by their deadline");
    // Later callers are notified immediately, and after the lease no request is routed there.
    let error = front
        .request(&info, "chat.room.echo", "")
        .await
        .unwrap_err();
    assert_eq!(error.kind(), RemoteErrorKind::NoResponder);
    until("gone from the list", || {
        front.member.members().servers_of("chat").len() == 1
    })
    .await;
    works(&front, &lives).await;
    at_rest(&front, 0).await;
    at_rest(&lives, 0).await;
    clean(&backing, &[&front, &lives]).await;
}

/// Requests, remote calls and session operations; a server that was listed, and one that had said goodbye and served what it had.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_to_a_server_that_died_end_long_before_their_deadline() {
    let backing = Backing::start();
    let mut impatient = backing.config();
    impatient.request_timeout = SECOND * 2;
    let caller = join(&impatient, "front-1", "connector").await;
    for has_said_goodbye in [false, true] {
        let dies = join(&backing.config(), "front-2", "connector").await;
        caller.sees("front-2").await;
        let (info, hour) = (dies.info().clone(), Context::with_timeout(SECOND * 3600));
        let member = &caller.member;
        let mut never = request("connector.room.never", "");
        never.context = hour.clone();
        let mut remote = call("connector.room.never", "");
        remote.context = hour.clone();
        let op = SessionOp::Custom {
            name: "never".into(),
            argument: Bytes::new(),
        };
        let (request, remote) = (member.forward(&info, never), member.call(&info, remote));
        let operation = member.session_op(&info.id, op, hour);
        let operation = tokio::spawn(operation);
        let are_there = || dies.member.status().serving >= 2 && dies.state().stuck == 1;
        until("all three are there", are_there).await;
        if has_said_goodbye {
            dies.member.withdraw().await;
            until("not listed", || {
                member.members().server("front-2").is_none()
            })
            .await;
        }
        dies.crash();
        let all = async {
            [
                request.await.err(),
                remote.await.err(),
                operation.await.unwrap().err(),
            ]
        };
        let all = tokio::time::timeout(PATIENCE, all).await;
        for error in all.expect("an hour is too long") {
            let error = error.expect("a dead server does not answer");
            assert_eq!(error.kind(), RemoteErrorKind::LinkLost, "{error}");
        }
        assert_eq!(caller.member.status().pending_calls, 0);
    }
    clean(&backing, &[&caller]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frontend_dies_and_leaves_no_ghost() {
    let backing = Backing::start();
    let config = backing.config();
    let unique = JoinOptions::new().sessions_per_user(SessionsPerUser::One(Conflict::ReplaceOld));
    let dies = join_with(&config, "front-1", "connector", unique.clone()).await;
    let lives = join_with(&config, "front-2", "connector", unique).await;
    let back = join(&config, "chat-1", "chat").await;
    for sid in 1..=20 {
        dies.open(sid);
        dies.bind(sid, &format!("user-{sid}")).await.unwrap();
    }
    assert_eq!(backing.etcd.keys("pitaya/bindings/").len(), 20);
    assert_eq!(places(&back, "user-1").await, ["front-1"]);
    dies.crash();

    // A missing subscriber proves nothing; the end of the lease does.
    lives.open(1);
    let start = Instant::now();
    lives.bind(1, "user-1").await.unwrap();
    assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
    assert_eq!(places(&back, "user-1").await, ["front-2"]);
    assert!(places(&back, "user-2").await.is_empty());

    until("gone from the list", || {
        back.member.members().servers_of("connector").len() == 1
    })
    .await;
    until("only the new bind", || {
        backing.etcd.keys("pitaya/bindings/") == ["pitaya/bindings/connector/user-1"]
    })
    .await;
    assert_eq!(backing.etcd.keys("pitaya/servers/").len(), 2);
    at_rest(&lives, 1).await;
    at_rest(&back, 0).await;
    clean(&backing, &[&lives, &back]).await;
}
