//! Operations of other servers on sessions, and their events for other servers.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Map, Value, json};
use shaddock_cluster::{
    Context, ForwardedSession, Interest, JoinOptions, RemoteErrorKind, SessionAnswer, SessionData,
    SessionEvent, SessionOp,
};

use crate::World;
use crate::support::node::{Server, delivery, raw, request, uids};
use crate::support::until;

for_both! {
    session_operations
    a_frontend_is_asked_while_its_request_is_pending
    a_user_is_found_and_kicked_everywhere
    sessions_emit_events
    servers_receive_the_events_they_subscribed_to
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
        removed: vec!["gone".to_owned()],
        view: SessionData::empty(),
    };
    op(merge(json!({"gone": 1}))).await.unwrap();
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
        .forward(back.info(), request("chat.room.gate", ""));
    let bind = SessionOp::Bind {
        sid: raw(7),
        uid: "u".into(),
    };
    back.member
        .session_op(&front.id(), bind, Context::new())
        .await
        .unwrap();
    back.member
        .deliver(&front.id(), delivery("early", uids(&["u"])))
        .await
        .unwrap();
    assert_eq!(front.got(7), ["early"]);
    assert_eq!(back.member.status().serving, 1);
    back.open_gate();
    pending.await.unwrap();
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

async fn sessions_emit_events(world: World) {
    let front = world.join_mortal("front-1", "connector").await;
    let asks = world
        .join_with(
            "chat-1",
            "chat",
            JoinOptions::new().with_events_of(Interest::all()),
        )
        .await;
    let silent = world.join("chat-2", "chat").await;
    front.is_told_of("chat-1").await;
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
    let lost = || matches!(asks.state().events.first(), Some(SessionEvent::FrontendLost(info)) if info.id == *"front-1");
    until("told of the loss", lost).await;
}

/// Events of sessions of two types of frontends and several users, for servers with every kind of interest: each receives exactly the
/// events it subscribed to, once; a frontend that subscribes receives its own events, too.
async fn servers_receive_the_events_they_subscribed_to(world: World) {
    let interests = [
        ("none", Interest::none()),
        ("all", Interest::all()),
        ("type", Interest::of_type("connector")),
        ("users", Interest::of_users("bot-")),
        ("both", Interest::of_users_at("connector-gate", "bot-")),
        (
            "either",
            Interest::of_users("ann").or(Interest::of_type("connector-gate")),
        ),
    ];
    let own = JoinOptions::new().with_events_of(Interest::of_users("bot-"));
    let fronts = [
        world.join_with("front-1", "connector", own).await,
        world.join("gate-1", "connector-gate").await,
    ];
    let mut askers = Vec::new();
    for (id, interest) in interests {
        let options = JoinOptions::new().with_events_of(interest.clone());
        askers.push((world.join_with(id, "chat", options).await, interest));
    }
    // Two with the same interest.
    let options = JoinOptions::new().with_events_of(Interest::all());
    let twin = world.join_with("twin", "chat", options).await;
    askers.push((twin, Interest::all()));
    let mut told = Vec::new();
    for front in &fronts {
        for (asker, _) in &askers {
            front.is_told_of(asker.id().as_str()).await;
        }
        for (sid, uid) in [(1, None), (2, Some("ann")), (3, Some("bot-1"))] {
            let session = || ForwardedSession {
                frontend: Some(front.id()),
                sid: Some(raw(sid)),
                uid: uid.map(Arc::from),
                data: SessionData::default(),
            };
            if uid.is_some() {
                front.member.publish_event(SessionEvent::Bound(session()));
            }
            front.member.publish_event(SessionEvent::Closed {
                session: session(),
                reason: "closed".into(),
            });
            told.push((Arc::clone(&front.info().server_type), uid));
        }
    }
    let count = |interest: &Interest| {
        let matching = told
            .iter()
            .filter(|(frontend_type, uid)| interest.wants(frontend_type, *uid));
        matching
            .map(|(_, uid)| 1 + usize::from(uid.is_some()))
            .sum()
    };
    for (asker, interest) in &askers {
        let expected: usize = count(interest);
        until(&format!("{expected} events for {}", asker.id()), || {
            asker.state().events.len() >= expected
        })
        .await;
    }
    let own = || fronts[0].state().events.len();
    let expected: usize = count(&Interest::of_users("bot-"));
    until("its own and the other's", || own() >= expected).await;
    // Whatever came too much has come by the time of an answer to a later question.
    for (asker, interest) in &askers {
        for front in &fronts {
            asker.sees(front.id().as_str()).await;
            let get = SessionOp::Get { sid: raw(9) };
            let asked = asker.member.session_op(&front.id(), get, Context::new());
            asked.await.unwrap();
        }
        let state = asker.state();
        assert_eq!(state.events.len(), count(interest), "{interest:?}");
        for (event, of_type) in state.events.iter().zip(&state.event_types) {
            let (SessionEvent::Bound(session) | SessionEvent::Closed { session, .. }) = event
            else {
                panic!("{event:?}")
            };
            let front = fronts.iter().find(|one| Some(one.id()) == session.frontend);
            assert_eq!(of_type, &*front.unwrap().info().server_type);
        }
    }
    assert_eq!(own(), expected);
}
