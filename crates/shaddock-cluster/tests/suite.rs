//! What every implementation of the cluster does, in process and on NATS and etcd: the same tests for both.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Map, Value, json};
use shaddock_cluster::{
    Cluster, ClusterError, Context, Delivered, ForwardedSession, JoinOptions, Receivers,
    RemoteErrorKind, ServerInfo, SessionAnswer, SessionData, SessionEvent, SessionOp, Unique,
};
use support::node::{Server, TestNode, call, delivery, raw, request, uids};
use support::{until, within};

/// A cluster to test, with what it runs on.
struct World {
    cluster: Arc<dyn Cluster>,
    #[cfg(feature = "nats")]
    _backing: Option<support::servers::Backing>,
}

impl World {
    fn local() -> Self {
        Self {
            cluster: Arc::new(shaddock_cluster::LocalCluster::with_request_timeout(
                Duration::from_secs(2),
            )),
            #[cfg(feature = "nats")]
            _backing: None,
        }
    }

    #[cfg(feature = "nats")]
    fn nats() -> Self {
        let backing = support::servers::Backing::start();
        Self {
            cluster: Arc::new(backing.cluster()),
            _backing: Some(backing),
        }
    }

    async fn join(&self, id: &str, server_type: &str) -> Server {
        self.join_with(id, server_type, JoinOptions::new()).await
    }

    async fn join_with(&self, id: &str, server_type: &str, options: JoinOptions) -> Server {
        Server::join(&*self.cluster, id, server_type, options).await
    }

    /// A frontend and a backend that know each other.
    async fn pair(&self) -> (Server, Server) {
        let front = self.join("front-1", "connector").await;
        let back = self.join("back-1", "chat").await;
        front.sees("back-1").await;
        back.sees("front-1").await;
        (front, back)
    }
}

macro_rules! for_both {
    ($($name:ident)*) => {
        mod local {
            $(#[tokio::test] async fn $name() { super::$name(super::World::local()).await; })*
        }
        #[cfg(feature = "nats")]
        mod nats {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(super::World::nats()).await; })*
        }
    };
}

for_both! {
    servers_come_and_go
    an_id_is_taken_once
    each_start_of_a_frontend_has_a_number
    a_client_message_reaches_the_handler_and_its_answer_comes_back
    errors_keep_their_code_and_metadata
    a_panic_is_an_answer
    deadlines_are_kept_and_travel
    a_caller_that_goes_away_leaves_nothing_behind
    calls_carry_the_context
    session_operations
    a_frontend_is_asked_while_its_request_is_pending
    one_delivery_reaches_many_and_says_who_is_missing
    deliveries_keep_their_order
    a_user_is_found_and_kicked_everywhere
    users_may_have_many_sessions
    a_second_bind_is_refused_everywhere
    a_second_bind_replaces_the_first_everywhere
    binds_that_race_leave_one
    sessions_tell_what_happens_to_them
    a_server_that_leaves_finishes_what_it_has
    a_frontend_that_drains_still_serves_its_clients
    who_departs_is_known_until_it_is_gone
    a_hidden_server_is_not_listed
}

async fn servers_come_and_go(world: World) {
    let first = world.join("chat-1", "chat").await;
    assert!(
        first.member.members().server("chat-1").is_some(),
        "one finds oneself"
    );
    let second = world.join("chat-2", "chat").await;
    assert!(
        second.member.members().server("chat-1").is_some(),
        "known when the join is done"
    );
    first.sees("chat-2").await;
    until("told of it", || first.state().joined == ["chat-2"]).await;
    let ids: Vec<_> = first
        .member
        .members()
        .servers_of("chat")
        .iter()
        .map(|s| s.id.to_string())
        .collect();
    assert_eq!(ids, ["chat-1", "chat-2"]);

    second.member.leave().await;
    within(Duration::from_secs(1), "gone", || {
        first.member.members().server("chat-2").is_none()
    })
    .await;
    until("told of it", || first.state().left == ["chat-2"]).await;
    assert!(!second.member.status().listed && first.member.status().listed);
}

async fn an_id_is_taken_once(world: World) {
    let first = world.join("chat-1", "chat").await;
    let info = ServerInfo::new("chat-1", "chat", false).unwrap();
    let again = world
        .cluster
        .join(info, JoinOptions::new(), Arc::new(TestNode::default()))
        .await;
    assert!(matches!(again.err(), Some(ClusterError::IdTaken(id)) if id == *"chat-1"));
    first.member.leave().await;
    world.join("chat-1", "chat").await;
}

async fn each_start_of_a_frontend_has_a_number(world: World) {
    let mut numbers = Vec::new();
    for _ in 0..2 {
        // The same servers, started again.
        let ids = ["front-1", "front-2", "front-3"];
        let starts = ids.map(|id| world.join(id, "connector"));
        let servers = futures_util::future::join_all(starts).await;
        let back = world.join("back-1", "chat").await;
        assert_eq!(back.member.start_number(), 0);
        for server in &servers {
            numbers.push(server.member.start_number());
            server.member.leave().await;
        }
        back.member.leave().await;
    }
    numbers.sort_unstable();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6]);
}

async fn a_client_message_reaches_the_handler_and_its_answer_comes_back(world: World) {
    let (front, back) = world.pair().await;
    let mut message = request("chat.room.echo", r#"{"text":"hé"}"#);
    let settings: Map<String, Value> =
        serde_json::from_value(json!({"rid": "r1", "n": 9_007_199_254_740_993_u64})).unwrap();
    message.session = ForwardedSession {
        frontend: Some(front.id()),
        sid: Some(raw(7)),
        uid: Some("u42".into()),
        data: SessionData::from(Arc::new(settings.clone())),
    };
    let answer = front.member.forward(back.info(), message).await.unwrap();
    assert_eq!(answer, r#"{"text":"hé"}"#);
    let got = back.state().requests.pop().unwrap();
    assert_eq!(
        (&*got.route, got.id.map(u64::from)),
        ("chat.room.echo", Some(3))
    );
    assert_eq!(got.session.frontend, Some(front.id()));
    assert_eq!(
        (got.session.sid, got.session.uid.as_deref()),
        (Some(raw(7)), Some("u42"))
    );
    assert_eq!(*got.session.data.to_map().unwrap(), settings);

    let mut notify = request("chat.room.echo", "x");
    notify.id = None;
    front.member.forward(back.info(), notify).await.unwrap();
    assert_eq!(back.state().requests.pop().unwrap().id, None);
    assert!(
        front
            .request(back.info(), "chat.room.echo", "")
            .await
            .unwrap()
            .is_empty()
    );
}

async fn errors_keep_their_code_and_metadata(world: World) {
    let (front, back) = world.pair().await;
    let error = front
        .request(back.info(), "chat.room.fail", "")
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.code(), error.message()),
        (RemoteErrorKind::Remote, "E-7", "as asked")
    );
    assert_eq!(error.metadata().len(), 2);
    let error = front
        .request(back.info(), "chat.room.jion", "")
        .await
        .unwrap_err();
    assert_eq!(
        (error.code(), error.message()),
        ("PIT-404", "pitaya/handler: chat.room.jion not found")
    );
    back.member.leave().await;
    let error = front
        .request(back.info(), "chat.room.echo", "")
        .await
        .unwrap_err();
    assert_eq!(error.kind(), RemoteErrorKind::NoResponder);
    assert!(error.is_retryable());
}

async fn a_panic_is_an_answer(world: World) {
    let (front, back) = world.pair().await;
    for _ in 0..3 {
        assert_eq!(
            front
                .request(back.info(), "chat.room.panic", "")
                .await
                .unwrap_err()
                .code(),
            "PIT-000"
        );
    }
    let error = front
        .member
        .call(back.info(), call("chat.room.panic", ""))
        .await
        .unwrap_err();
    assert_eq!(error.code(), "PIT-000");
    assert_eq!(
        front
            .request(back.info(), "chat.room.echo", "on")
            .await
            .unwrap(),
        "on"
    );
}

async fn deadlines_are_kept_and_travel(world: World) {
    let (front, back) = world.pair().await;
    let mut late = request("chat.room.never", "");
    late.context = Context::with_timeout(Duration::from_millis(200));
    let start = Instant::now();
    let error = front.member.forward(back.info(), late).await.unwrap_err();
    assert!(
        start.elapsed() >= Duration::from_millis(190) && start.elapsed() < Duration::from_secs(1)
    );
    // Over a network either side may say it first.
    assert!(matches!(error.code(), "PIT-408" | "PIT-500"), "{error}");
    assert_eq!(error.message(), "rpc client: request timeout");

    let mut asked = call("chat.room.timeout", "");
    asked.context = Context::with_timeout(Duration::from_millis(1500));
    assert_eq!(
        front.member.call(back.info(), asked).await.unwrap(),
        "Some(1.5s)"
    );
    until("nothing runs on", || back.member.status().serving == 0).await;
}

async fn a_caller_that_goes_away_leaves_nothing_behind(world: World) {
    let (front, back) = world.pair().await;
    for _ in 0..100 {
        let reply = front
            .member
            .forward(back.info(), request("chat.room.never", ""));
        assert!(
            tokio::time::timeout(Duration::from_millis(1), reply)
                .await
                .is_err()
        );
        drop(front.member.call(back.info(), call("chat.room.never", "")));
    }
    assert_eq!(front.member.status().pending_calls, 0);
    assert_eq!(
        front
            .request(back.info(), "chat.room.echo", "on")
            .await
            .unwrap(),
        "on"
    );
}

async fn calls_carry_the_context(world: World) {
    let (front, back) = world.pair().await;
    let mut first = call("chat.room.context", "mine");
    first.context.set("mine", json!({"a": [1, 2]}));
    assert_eq!(
        front.member.call(back.info(), first).await.unwrap(),
        r#"{"a":[1,2]}"#
    );
    let received = back.state().calls.pop().unwrap();
    assert_eq!(received.from, Some(front.id()));
    // Passed on as it came.
    let mut second = call("connector.room.context", "mine");
    second.context = received.context;
    assert_eq!(
        back.member.call(front.info(), second).await.unwrap(),
        r#"{"a":[1,2]}"#
    );
    assert_eq!(front.state().calls.pop().unwrap().from, Some(back.id()));
}

async fn session_operations(world: World) {
    let (front, back) = world.pair().await;
    front.open(7);
    let op = |op| back.member.session_op(&front.id(), op, Context::new());
    op(SessionOp::Bind {
        sid: raw(7),
        uid: "u42".into(),
    })
    .await
    .unwrap();
    assert_eq!(front.uid(7).as_deref(), Some("u42"));
    let again = op(SessionOp::Bind {
        sid: raw(7),
        uid: "u42".into(),
    })
    .await
    .unwrap_err();
    assert_eq!(
        (again.code(), again.message()),
        ("PIT-000", "session is already bound to an uid")
    );
    let unknown = op(SessionOp::Bind {
        sid: raw(8),
        uid: "u42".into(),
    })
    .await
    .unwrap_err();
    assert_eq!(unknown.message(), "session not found");

    let map = |value: Value| Arc::new(serde_json::from_value::<Map<_, _>>(value).unwrap());
    let merge = |value: Value| SessionOp::Merge {
        sid: raw(7),
        changes: map(value),
        view: SessionData::empty(),
    };
    op(merge(json!({"a": 1}))).await.unwrap();
    op(merge(json!({"b": "2"}))).await.unwrap();
    let SessionAnswer::Sessions(found) = op(SessionOp::Get { sid: raw(7) }).await.unwrap() else {
        panic!()
    };
    assert_eq!(
        Value::Object(Map::clone(&found[0].data.to_map().unwrap())),
        json!({"a": 1, "b": "2"})
    );
    assert_eq!(found[0].frontend, Some(front.id()));
    op(SessionOp::Replace {
        sid: raw(7),
        data: SessionData::from(map(json!({"c": 3}))),
    })
    .await
    .unwrap();
    let SessionAnswer::Sessions(found) =
        op(SessionOp::GetByUid { uid: "u42".into() }).await.unwrap()
    else {
        panic!()
    };
    assert_eq!(found[0].data.to_map().unwrap().len(), 1);
    let SessionAnswer::Sessions(none) = op(SessionOp::GetByUid {
        uid: "nobody".into(),
    })
    .await
    .unwrap() else {
        panic!()
    };
    assert!(none.is_empty());

    session_operations_without_a_user(&front, &back).await;
    let elsewhere = shaddock_cluster::ServerId::new("no-such").unwrap();
    let get = SessionOp::Get { sid: raw(7) };
    let error = back
        .member
        .session_op(&elsewhere, get, Context::new())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), RemoteErrorKind::NoServer);
}

async fn session_operations_without_a_user(front: &Server, back: &Server) {
    let op = |op| {
        back.member
            .session_op(&front.member.info().id, op, Context::new())
    };
    let SessionAnswer::Address(address) =
        op(SessionOp::ClientAddress { sid: raw(7) }).await.unwrap()
    else {
        panic!()
    };
    assert_eq!(address.unwrap().port(), 4000);
    let custom = SessionOp::Custom {
        name: "mirror".into(),
        argument: Bytes::from_static(b"[1]"),
    };
    let SessionAnswer::Custom(mirrored) = op(custom).await.unwrap() else {
        panic!()
    };
    assert_eq!(mirrored, "[1]");

    op(SessionOp::Unbind {
        sid: raw(7),
        uid: "u42".into(),
    })
    .await
    .unwrap();
    assert_eq!(front.uid(7), None);
    until("no longer bound", || front.member.status().bound_users == 0).await;
    let kick = SessionOp::Kick {
        sid: raw(7),
        uid: None,
        reason: Some("cheater".into()),
    };
    let SessionAnswer::Kicked(1) = op(kick).await.unwrap() else {
        panic!()
    };
    assert_eq!(front.closed(7).as_deref(), Some("cheater"));
}

/// A handler binds and delivers while the frontend still waits for its answer.
async fn a_frontend_is_asked_while_its_request_is_pending(world: World) {
    let (front, back) = world.pair().await;
    front.open(7);
    let pending = front
        .member
        .forward(back.info(), request("chat.room.slow", "300"));
    let bind = SessionOp::Bind {
        sid: raw(7),
        uid: "u".into(),
    };
    let done = async {
        back.member
            .session_op(&front.id(), bind, Context::new())
            .await
            .unwrap();
        back.member
            .deliver(&front.id(), delivery("early", uids(&["u"])))
            .await
            .unwrap();
        assert_eq!(front.got(7), ["early"]);
        Instant::now()
    };
    let answered = async {
        pending.await.unwrap();
        Instant::now()
    };
    let (done, answered) = tokio::join!(done, answered);
    assert!(done < answered);
}

async fn one_delivery_reaches_many_and_says_who_is_missing(world: World) {
    let (front, back) = world.pair().await;
    for sid in 1..=4 {
        front.open(sid);
    }
    for (sid, uid) in [(1, "a"), (2, "b"), (3, "c")] {
        front.bind(sid, uid).await.unwrap();
    }
    let deliver = |body: &str, to| back.member.deliver(&front.id(), delivery(body, to));
    let delivered = deliver("1", uids(&["a", "x", "c", "y"])).await.unwrap();
    let missing = vec![Arc::from("x"), Arc::from("y")];
    assert_eq!(
        delivered,
        Delivered {
            queued: 2,
            missing_uids: missing,
            ..Delivered::default()
        }
    );
    let delivered = deliver("2", Receivers::Sids([raw(4), raw(9)].into()))
        .await
        .unwrap();
    assert_eq!(
        delivered,
        Delivered {
            queued: 1,
            missing_sids: vec![raw(9)],
            ..Delivered::default()
        }
    );
    assert_eq!(
        deliver("3", Receivers::All { bound_only: true })
            .await
            .unwrap()
            .queued,
        3
    );
    assert_eq!(
        deliver("4", Receivers::All { bound_only: false })
            .await
            .unwrap()
            .queued,
        4
    );
    assert_eq!(front.got(1), ["1", "3", "4"]);
    assert_eq!(front.got(4), ["2", "4"]);
    back.member
        .deliver_unconfirmed(&front.id(), delivery("5", uids(&["b"])))
        .unwrap();
    until("it came", || front.got(2) == ["3", "4", "5"]).await;

    let by_type = back.member.deliver_to_users(
        "connector",
        "onChat".into(),
        "6".into(),
        [Arc::from("a"), Arc::from("x")].into(),
    );
    let delivered = by_type.await.unwrap();
    assert_eq!(
        (delivered.queued, delivered.missing_uids),
        (1, vec![Arc::from("x")])
    );
    let nowhere = back.member.deliver_to_users(
        "connector",
        "onChat".into(),
        "7".into(),
        [Arc::from("x")].into(),
    );
    assert_eq!(nowhere.await.unwrap().missing_uids, [Arc::from("x")]);
}

async fn deliveries_keep_their_order(world: World) {
    let (front, back) = world.pair().await;
    front.open(1);
    front.bind(1, "u").await.unwrap();
    let mut waiting = Vec::new();
    for n in 0..3000 {
        match n % 3 {
            0 => back
                .member
                .deliver_unconfirmed(&front.id(), delivery(&n.to_string(), uids(&["u"])))
                .unwrap(),
            1 => waiting.push(
                back.member
                    .deliver(&front.id(), delivery(&n.to_string(), uids(&["u"]))),
            ),
            _ => waiting.push(back.member.deliver(
                &front.id(),
                delivery(&n.to_string(), Receivers::Sids([raw(1)].into())),
            )),
        }
    }
    // Not awaited in order, or not at all.
    waiting.reverse();
    waiting.truncate(100);
    futures_util::future::try_join_all(waiting).await.unwrap();
    until("all came", || front.got(1).len() == 3000).await;
    assert!(
        front
            .got(1)
            .iter()
            .enumerate()
            .all(|(n, body)| *body == n.to_string())
    );
}

async fn a_user_is_found_and_kicked_everywhere(world: World) {
    let (first, back) = world.pair().await;
    let second = world.join("front-2", "connector").await;
    let gate = world.join("gate-1", "connector-gate").await;
    back.sees("front-2").await;
    back.sees("gate-1").await;
    for (server, sid) in [(&first, 1), (&first, 2), (&second, 3), (&gate, 4)] {
        server.open(sid);
        server.bind(sid, "u").await.unwrap();
    }
    second.open(5);
    second.bind(5, "other").await.unwrap();
    let mut places = back.member.where_is("u".into()).await.unwrap();
    places.sort_by(|a, b| a.frontend.cmp(&b.frontend));
    let short: Vec<_> = places
        .iter()
        .map(|p| (p.frontend.as_str(), &*p.server_type, p.sids.len()))
        .collect();
    assert_eq!(
        short,
        [
            ("front-1", "connector", 2),
            ("front-2", "connector", 1),
            ("gate-1", "connector-gate", 1)
        ]
    );

    assert_eq!(
        back.member
            .kick_user("u".into(), Some("bye".into()))
            .await
            .unwrap(),
        4
    );
    assert_eq!(first.closed(2).as_deref(), Some("bye"));
    assert!(back.member.where_is("u".into()).await.unwrap().is_empty());
    assert_eq!(back.member.where_is("other".into()).await.unwrap().len(), 1);
    assert_eq!(
        back.member.kick_user("nobody".into(), None).await.unwrap(),
        0
    );
}

async fn users_may_have_many_sessions(world: World) {
    let (front, back) = world.pair().await;
    let other = world.join("front-2", "connector").await;
    front.open(1);
    front.open(2);
    other.open(3);
    for (server, sid) in [(&front, 1), (&front, 2), (&other, 3)] {
        server.bind(sid, "u").await.unwrap();
    }
    back.sees("front-2").await;
    let push = || {
        back.member.deliver_to_users(
            "connector",
            "onChat".into(),
            "x".into(),
            vec![Arc::from("u"); 1].into(),
        )
    };
    push().await.unwrap();
    until("all three", || {
        front.got(1) == ["x"] && front.got(2) == ["x"] && other.got(3) == ["x"]
    })
    .await;
    front.close(1);
    push().await.unwrap();
    until("the other two", || {
        front.got(2).len() == 2 && other.got(3).len() == 2
    })
    .await;
    front.close(2);
    other.close(3);
    until("nobody", || {
        front.member.status().bound_users + other.member.status().bound_users == 0
    })
    .await;
}

async fn two_unique(world: &World, unique: Unique) -> (Server, Server) {
    let options = JoinOptions::new().unique(unique);
    let first = world.join_with("front-1", "connector", options).await;
    let second = world.join_with("front-2", "connector", options).await;
    first.sees("front-2").await;
    (first, second)
}

async fn a_second_bind_is_refused_everywhere(world: World) {
    let (first, second) = two_unique(&world, Unique::RejectNew).await;
    first.open(1);
    first.open(2);
    second.open(3);
    first.bind(1, "u").await.unwrap();
    assert!(
        first
            .bind(2, "u")
            .await
            .unwrap_err()
            .message()
            .contains("already bound at front-1")
    );
    assert!(
        second
            .bind(3, "u")
            .await
            .unwrap_err()
            .message()
            .contains("already bound at front-1")
    );
    second.bind(3, "v").await.unwrap();
    assert_eq!(first.uid(1).as_deref(), Some("u"), "the old one stays");
    first.close(1);
    second.close(3);
    second.open(4);
    let mut result = second.bind(4, "u").await;
    for _ in 0..50 {
        if result.is_ok() {
            break;
        }
        result = second.bind(4, "u").await;
    }
    result.unwrap();
}

async fn a_second_bind_replaces_the_first_everywhere(world: World) {
    let (first, second) = two_unique(&world, Unique::ReplaceOld).await;
    first.open(1);
    second.open(2);
    first.bind(1, "u").await.unwrap();
    second.bind(2, "u").await.unwrap();
    until("replaced", || {
        first.closed(1).as_deref() == Some("replaced")
    })
    .await;
    assert!(second.member.is_bound("u", raw(2)) && !first.member.is_bound("u", raw(1)));
    assert_eq!(first.state().lost, ["u"]);
    first.open(3);
    first.bind(3, "u").await.unwrap();
    until("and back", || {
        second.closed(2).as_deref() == Some("replaced")
    })
    .await;
    assert_eq!(first.uid(3).as_deref(), Some("u"));
}

async fn binds_that_race_leave_one(world: World) {
    for (round, unique) in [Unique::RejectNew, Unique::ReplaceOld]
        .into_iter()
        .enumerate()
    {
        let world_type = format!("connector-{round}");
        let mut fronts = Vec::new();
        for n in 0..3 {
            let options = JoinOptions::new().unique(unique);
            fronts.push(
                world
                    .join_with(&format!("front-{round}-{n}"), &world_type, options)
                    .await,
            );
        }
        for turn in 0..10 {
            let uid = format!("user-{turn}");
            for front in &fronts {
                front.open(turn + 1);
            }
            let binds = fronts.iter().map(|front| front.bind(turn + 1, &uid));
            futures_util::future::join_all(binds).await;
            until("at most one has him", || {
                fronts
                    .iter()
                    .filter(|front| front.uid(turn + 1).as_deref() == Some(&*uid))
                    .count()
                    <= 1
            })
            .await;
            tokio::time::sleep(Duration::from_millis(20)).await;
            let bound = fronts.iter().filter(|f| f.uid(turn + 1).is_some()).count();
            // The last one to take him keeps him; who took him from others is never turned away.
            assert_eq!(bound, 1, "{unique:?} turn {turn}");
            let believes = fronts
                .iter()
                .filter(|f| f.member.is_bound(&uid, raw(turn + 1)))
                .count();
            assert_eq!(believes, 1);
        }
        for front in fronts {
            front.member.leave().await;
        }
    }
}

async fn sessions_tell_what_happens_to_them(world: World) {
    let front = world.join("front-1", "connector").await;
    let asks = world
        .join_with("chat-1", "chat", JoinOptions::new().with_session_events())
        .await;
    let silent = world.join("chat-2", "chat").await;
    let session = ForwardedSession {
        frontend: Some(front.id()),
        sid: Some(raw(7)),
        uid: Some("u".into()),
        data: SessionData::from_json(Bytes::from_static(b"{\"a\":1}")),
    };
    front
        .member
        .publish_event(SessionEvent::Bound(session.clone()));
    front.member.publish_event(SessionEvent::Unbound {
        session: session.clone(),
        uid: "u".into(),
    });
    front.member.publish_event(SessionEvent::Closed {
        session,
        reason: "kicked".into(),
    });
    until("all three", || asks.state().events.len() == 3).await;
    let events = std::mem::take(&mut asks.state().events);
    let SessionEvent::Bound(bound) = &events[0] else {
        panic!()
    };
    assert_eq!(
        (bound.frontend.as_ref(), bound.uid.as_deref()),
        (Some(&front.id()), Some("u"))
    );
    assert!(matches!(&events[1], SessionEvent::Unbound { uid, .. } if &**uid == "u"));
    assert!(matches!(&events[2], SessionEvent::Closed { reason, .. } if &**reason == "kicked"));
    assert!(silent.state().events.is_empty());

    asks.sees("front-1").await;
    front.crash();
    let lost = || matches!(asks.state().events.first(), Some(SessionEvent::FrontendLost(id)) if *id == *"front-1");
    until("told of the loss", lost).await;
}

async fn a_server_that_leaves_finishes_what_it_has(world: World) {
    let (front, back) = world.pair().await;
    let slow: Vec<_> = (0..20)
        .map(|_| {
            front
                .member
                .forward(back.info(), request("chat.room.slow", "300"))
        })
        .collect();
    let answers = futures_util::future::join_all(slow);
    let leaves = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        back.member.leave().await;
    };
    let (answers, ()) = tokio::join!(answers, leaves);
    for answer in answers {
        assert_eq!(answer.unwrap(), "300");
    }
    assert_eq!(back.member.status().serving, 0);
}

async fn a_frontend_that_drains_still_serves_its_clients(world: World) {
    let (front, back) = world.pair().await;
    front.open(1);
    front.bind(1, "u").await.unwrap();
    front.member.withdraw().await;
    within(Duration::from_secs(1), "not routed to", || {
        !back.member.members().has_type("connector")
    })
    .await;
    back.member
        .deliver(&front.id(), delivery("still", uids(&["u"])))
        .await
        .unwrap();
    assert_eq!(front.got(1), ["still"]);
    assert_eq!(
        front
            .request(back.info(), "chat.room.echo", "on")
            .await
            .unwrap(),
        "on"
    );
    let SessionAnswer::Kicked(1) = back
        .member
        .session_op(
            &front.id(),
            SessionOp::KickUser {
                uid: "u".into(),
                reason: None,
            },
            Context::new(),
        )
        .await
        .unwrap()
    else {
        panic!()
    };
    front.member.leave().await;
    until("gone", || {
        let gone = back
            .member
            .deliver_unconfirmed(&front.id(), delivery("late", uids(&["u"])));
        gone.is_err_and(|error| error.kind() == RemoteErrorKind::NoServer)
    })
    .await;
}

async fn who_departs_is_known_until_it_is_gone(world: World) {
    let (front, back) = world.pair().await;
    let tool = world
        .join_with("tool-1", "tool", JoinOptions::new().hidden())
        .await;
    tool.sees("front-1").await;
    tool.sees("back-1").await;
    let departing = || -> Vec<String> {
        let all = tool.member.departing();
        all.iter().map(|info| info.id.to_string()).collect()
    };
    assert!(departing().is_empty(), "a hidden server has not left");
    for (server, route) in [(&back, "chat.room.echo"), (&front, "connector.room.echo")] {
        server.member.withdraw().await;
        until("departing", || departing() == [server.id().to_string()]).await;
        let info = tool.member.departing().pop().unwrap();
        let answer = tool.member.call(&info, call(route, "on")).await.unwrap();
        assert_eq!(answer, "on");
        server.member.leave().await;
        until("gone", || departing().is_empty()).await;
    }
}

async fn a_hidden_server_is_not_listed(world: World) {
    let (front, _back) = world.pair().await;
    let tool = world
        .join_with("tool-1", "tool", JoinOptions::new().hidden())
        .await;
    tool.sees("front-1").await;
    front.open(1);
    let custom = SessionOp::Custom {
        name: "mirror".into(),
        argument: Bytes::from_static(b"1"),
    };
    tool.member
        .session_op(&front.id(), custom, Context::new())
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(front.member.members().server("tool-1").is_none() && !tool.member.status().listed);
}
