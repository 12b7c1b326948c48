//! Outdated requests: their caller has timed out, or their user has moved. And handlers that block.

use std::sync::mpsc;
use std::time::Duration;

use futures_util::StreamExt;
use shaddock_cluster::{
    Conflict, Context, JoinOptions, RemoteErrorKind, SessionOp, SessionsPerUser,
};

use crate::peers::arrived;
use crate::support::node::{Server, call, raw, request, works};
use crate::support::servers::Backing;
use crate::support::until;
use crate::support::wait::throughout;
use crate::{SECOND, join, join_with};

fn as_user(body: &str, uid: &str) -> shaddock_cluster::ForwardedRequest {
    let mut request = request("chat.room.echo", body);
    request.session.uid = Some(uid.into());
    request
}

fn bodies(server: &Server) -> Vec<String> {
    let state = server.state();
    let bodies = state
        .requests
        .iter()
        .map(|request| String::from_utf8_lossy(&request.body).into_owned());
    bodies.collect()
}

/// A request that was on its way for long, as behind a broken network: it comes when the next owner has begun.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_of_a_user_that_has_moved_is_not_run() {
    let backing = Backing::start();
    let config = backing.patient_config();
    let options =
        || JoinOptions::new().sessions_per_user(SessionsPerUser::One(Conflict::ReplaceOld));
    let first = join_with(&config, "front-1", "connector", options()).await;
    let second = join_with(&config, "front-2", "connector", options()).await;
    let back = join(&config, "chat-1", "chat").await;
    let wire = async_nats::connect(format!("nats://{}", backing.nats.address))
        .await
        .unwrap();
    let mut sent = wire.subscribe("pitaya/servers/chat/chat-1").await.unwrap();
    arrived(&wire).await;

    first.open(1);
    first.bind(1, "u").await.unwrap();
    let echo = first
        .member
        .forward(back.info(), as_user("of the first", "u"));
    assert_eq!(echo.await.unwrap(), "of the first");
    let held_up = sent.next().await.unwrap().payload;
    second.open(2);
    second.bind(2, "u").await.unwrap();
    assert_eq!(first.closed(1).as_deref(), Some("replaced"));
    // Before the new owner has done anything there, the backend cannot know.
    let subject = "pitaya/servers/chat/chat-1";
    let early = wire.request(subject, held_up.clone()).await.unwrap();
    assert!(!String::from_utf8_lossy(&early.payload).contains("PIT-503"));
    let echo = second
        .member
        .forward(back.info(), as_user("of the second", "u"));
    assert_eq!(echo.await.unwrap(), "of the second");
    let late = wire.request(subject, held_up).await.unwrap();
    let late = String::from_utf8_lossy(&late.payload).into_owned();
    assert!(
        late.contains("PIT-503") && late.contains("another frontend owns this user now"),
        "{late}"
    );
    assert_eq!(
        bodies(&back),
        ["of the first", "of the first", "of the second"]
    );
    assert_eq!(back.member.status().outdated, 1);
    // Another user of the first one is no matter of this.
    first.open(3);
    first.bind(3, "v").await.unwrap();
    let echo = first.member.forward(back.info(), as_user("of v", "v"));
    assert_eq!(echo.await.unwrap(), "of v");
}

/// Two frontends that both believe to own a user, because etcd was modified: the one that is rejected finds out immediately.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frontend_that_is_refused_closes_the_session() {
    let backing = Backing::start();
    let options =
        || JoinOptions::new().sessions_per_user(SessionsPerUser::One(Conflict::ReplaceOld));
    let config = backing.patient_config();
    let first = join_with(&config, "front-1", "connector", options()).await;
    let second = join_with(&config, "front-2", "connector", options()).await;
    let back = join(&config, "chat-1", "chat").await;
    first.open(1);
    first.bind(1, "u").await.unwrap();
    let key = "pitaya/bindings/connector/u";
    backing.etcd.etcdctl(&["put", key, "front-2"]);
    second.open(2);
    second.bind(2, "u").await.unwrap();
    assert_eq!(first.closed(1), None, "two owners, by hand");
    let echo = second
        .member
        .forward(back.info(), as_user("of the owner", "u"));
    assert_eq!(echo.await.unwrap(), "of the owner");
    let refused = first
        .member
        .forward(back.info(), as_user("of the other", "u"));
    let error = refused.await.unwrap_err();
    assert_eq!(
        (error.kind(), error.code()),
        (RemoteErrorKind::Fenced, "PIT-503")
    );
    until("closed", || first.closed(1).as_deref() == Some("replaced")).await;
    assert_eq!(bodies(&back), ["of the owner"]);
    assert_eq!(second.uid(2).as_deref(), Some("u"));
}

fn impatient(body: &str) -> shaddock_cluster::ForwardedRequest {
    let mut request = request("chat.room.echo", body);
    request.context = Context::with_timeout(Duration::from_millis(300));
    request
}

/// A request that NATS held back for longer than its caller waited is not run when it arrives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_whose_caller_has_given_up_is_not_run() {
    let backing = Backing::start();
    let mut config = backing.config();
    config.nats_ping_interval = SECOND * 60;
    let front = join(&config, "front-1", "connector").await;
    let back = join(&config, "chat-1", "chat").await;
    back.sees("front-1").await;
    front.open(1);
    works(&front, &back).await;
    let context = || Context::with_timeout(Duration::from_millis(300));
    let get = |sid| SessionOp::Get { sid: raw(sid) };
    let asked = back.member.session_op(&front.id(), get(1), Context::new());
    asked.await.unwrap();
    backing.nats.pause();
    let late = front.member.forward(back.info(), impatient("late"));
    let mut remote = call("chat.room.echo", "late too");
    remote.context = context();
    let remote = front.member.call(back.info(), remote);
    let bind = SessionOp::Bind {
        sid: raw(1),
        uid: "late".into(),
    };
    let bind = back.member.session_op(&front.id(), bind, context());
    for error in [
        late.await.unwrap_err(),
        remote.await.unwrap_err(),
        bind.await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), RemoteErrorKind::Timeout, "{error}");
    }
    // It must be later than the sum of the caller's timeout and the possible difference of two clocks.
    tokio::time::sleep(Duration::from_millis(500)).await;
    backing.nats.resume();
    works(&front, &back).await;
    until("both are counted", || {
        back.member.status().too_late == 2 && front.member.status().too_late == 1
    })
    .await;
    assert_eq!(bodies(&back), ["on", "on"]);
    assert!(back.state().calls.is_empty());
    assert_eq!(front.uid(1), None);
}

/// Handlers block all threads of a backend but one. Everything else goes on, and what waited for a thread for longer than its caller is not run.
#[test]
fn a_handler_that_blocks_its_thread_stops_nothing_else() {
    let runtime = |threads| {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder
            .worker_threads(threads)
            .enable_all()
            .build()
            .unwrap()
    };
    let (own, others) = (runtime(2), runtime(2));
    let backing = Backing::start();
    let mut config = backing.patient_config();
    // Longer than a busy machine pauses, and short enough for threads that are blocked for longer.
    config.lease_ttl = SECOND * 5;
    config.nats_ping_interval = SECOND * 2;
    let held = SECOND * 12;
    let back = own.block_on(join(&config, "chat-1", "chat"));
    others.block_on(async {
        let front = join(&config, "front-1", "connector").await;
        back.sees("front-1").await;
        front.open(1);
        let (go_on, blocked) = mpsc::channel::<()>();
        let (began, begins) = mpsc::channel::<()>();
        *back.node.block.lock().unwrap() = Some((began, blocked));
        for _ in 0..20 {
            works(&front, &back).await;
        }
        let mut slow = request("chat.room.block", "");
        slow.context = Context::with_timeout(SECOND * 60);
        let slow = front.member.forward(back.info(), slow);
        begins.recv().unwrap();
        for _ in 0..50 {
            works(&front, &back).await;
            let answer = front.member.call(back.info(), call("chat.room.who", ""));
            assert_eq!(answer.await.unwrap(), "chat-1");
            let get = SessionOp::Get { sid: raw(1) };
            let asked = back.member.session_op(&front.id(), get, Context::new());
            asked.await.unwrap();
        }
        go_on.send(()).unwrap();
        slow.await.unwrap();

        // All threads of the application are blocked: its lease and its link are not.
        let block_all = || -> Vec<_> {
            let block = || {
                let (free, until_free) = mpsc::channel::<()>();
                let (began, begins) = mpsc::channel::<()>();
                own.spawn(async move {
                    let _ = began.send(());
                    let _ = until_free.recv();
                });
                begins.recv().unwrap();
                free
            };
            vec![block(), block()]
        };
        let mut too_late = 0;
        let blocks = loop {
            let route = format!("chat.quick-{too_late}.echo");
            for _ in 0..20 {
                let answer = front.request(back.info(), &route, "shows that it is quick");
                answer.await.unwrap();
            }
            let blocks = block_all();
            let mut quick = request(&route, "quick");
            quick.context = Context::with_timeout(SECOND * 10);
            let quick = front.member.forward(back.info(), quick);
            let mut new = request("chat.new.echo", "late");
            new.context = Context::with_timeout(Duration::from_millis(300));
            let new = front.member.forward(back.info(), new);
            assert_eq!(new.await.unwrap_err().kind(), RemoteErrorKind::Timeout);
            too_late += 1;
            // A route that is known to be quick needs none of them.
            match quick.await {
                Ok(answer) => {
                    assert_eq!(answer, "quick");
                    break blocks;
                }
                // A handler that another program has interrupted looks as if it had blocked its thread: its route has not shown that it is quick.
                Err(error) => assert_eq!(error.kind(), RemoteErrorKind::Timeout, "{error}"),
            }
            too_late += 1;
            assert!(too_late < 20, "no route is quick");
            drop(blocks);
            until("what came too late is counted", || {
                back.member.status().too_late == too_late
            })
            .await;
        };
        throughout(held, "it is there", async || {
            let status = back.member.status();
            let known = front.member.members().server("chat-1").is_some();
            status.listed && status.connected && known
        })
        .await;
        drop(blocks);
        until("what came too late is counted", || {
            back.member.status().too_late == too_late
        })
        .await;
        assert!(!bodies(&back).contains(&"late".to_owned()));
        works(&front, &back).await;
    });
}
