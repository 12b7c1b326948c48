//! Regression tests for the defects of Pomelo that are listed in section 11 of `session.md` and concern connector, delivery and handlers. The
//! number is the one in that list.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use shaddock::{
    channel::{PushConfig, PushError, Schedule},
    prelude::*,
};

use crate::support::{Client, In, front, frontend, login, start, uid};

/// A kick that names no reason still tells the client, also when another server asks for it.
#[tokio::test]
async fn defect_08_a_kick_without_a_reason_notifies_the_client() {
    let running = start([frontend("connector-1")]).await;
    let app = &running.apps()[0];
    let mut client = login(app, "ann").await;
    let membership = app.membership().unwrap();
    assert_eq!(membership.kick_user("ann".into(), None).await.unwrap(), 1);
    assert_eq!(client.wait_kick().await, "kick");
}

/// An empty message is refused and nothing is sent; a broadcast with one does not crash.
#[tokio::test]
async fn defect_23_an_empty_message_is_not_sent() {
    let running = start([frontend("connector-1")]).await;
    let app = &running.apps()[0];
    let mut client = login(app, "ann").await;
    let to = [(uid("ann"), front("connector-1"))];
    for empty in [Value::Null, json!(""), json!(0), json!(false)] {
        let error = app
            .channels()
            .push_message_by_uids("onX", &empty, &to)
            .await
            .unwrap_err();
        assert_eq!(error.to_string(), "can not send empty message.");
        let broadcast =
            app.channels()
                .broadcast("connector", "onX", &empty, BroadcastOptions::all());
        assert!(matches!(broadcast.await, Err(PushError::Empty)));
    }
    assert!(client.drain().is_empty());
}

/// An exception in a handler is answered, once, and the next request is served.
#[tokio::test]
async fn defect_24_a_panic_is_caught_and_answered() {
    let mut app = frontend("connector-1");
    app.route("h.panic", async |Json(_): Json<Value>| -> () {
        panic!("expected in this test")
    });
    app.route("h.fine", async || "fine");
    let running = start([app]).await;
    let mut client = Client::connect(&running.apps()[0]);
    assert_eq!(
        client.request("connector.h.panic", json!({})).await,
        json!({"code": 500})
    );
    assert_eq!(
        client.request("connector.h.fine", json!({})).await,
        json!("fine")
    );
    assert!(client.drain().is_empty());
}

/// Names of `Object.prototype` are routes like any other: there is no such handler.
#[tokio::test]
async fn defect_25_inherited_names_are_no_handlers() {
    let mut app = frontend("connector-1");
    app.route("entryHandler.enter", async || ());
    let running = start([app]).await;
    let mut client = Client::connect(&running.apps()[0]);
    for route in [
        "connector.entryHandler.toString",
        "connector.constructor.keys",
        "connector.entryHandler.__defineGetter__",
        "connector.__proto__.toString",
        "constructor.entryHandler.enter",
        "__proto__.a.b",
    ] {
        assert_eq!(
            client.request(route, json!({})).await,
            json!({"code": 500}),
            "{route}"
        );
    }
    assert!(!client.session.is_closed());
}

/// A push on a destroyed channel fails, and the caller hears of it.
#[tokio::test]
async fn defect_31_a_push_on_a_destroyed_channel_fails() {
    let running = start([frontend("connector-1")]).await;
    let app = &running.apps()[0];
    let mut client = login(app, "ann").await;
    let room = app.channels().create("lobby").unwrap();
    assert!(room.add(&uid("ann"), &front("connector-1")).await.is_ok());
    assert!(room.destroy());
    let error = room.push_message("onX", &1).await.unwrap_err();
    assert_eq!(error.to_string(), "channel is not running now");
    assert!(client.drain().is_empty());
    assert!(app.channels().get("lobby").is_none());
}

/// Users of a frontend that cannot be reached are named; a push that reaches no user is an error; a push to an empty channel is not.
#[tokio::test]
async fn defect_34_uids_of_an_unreachable_frontend_are_named() {
    let running = start([frontend("connector-1")]).await;
    let app = &running.apps()[0];
    let mut client = login(app, "ann").await;
    let room = app.channels().create("lobby").unwrap();
    let delivered = room.push_message("onX", &1).await.unwrap();
    assert_eq!(delivered.queued, 0);
    let to = [
        ("ann", "connector-1"),
        ("bob", "gone-1"),
        ("cid", "gone-1"),
        ("dan", "connector-1"),
    ];
    let to = to.map(|(name, place)| (uid(name), front(place)));
    let channels = app.channels();
    let delivered = channels.push_message_by_uids("onX", &1, &to).await.unwrap();
    assert_eq!(delivered.queued, 1);
    let failed: Vec<&str> = delivered.not_reached().map(Uid::as_str).collect();
    assert_eq!(failed, ["dan", "bob", "cid"]);
    assert_eq!(delivered.failed[0].frontend, front("gone-1"));
    assert_eq!(client.drain().len(), 1);
    let error = channels
        .push_message_by_uids("onX", &1, &to[1..3])
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "all uids push message fail");
    // A frontend that does not exist has no members.
    assert!(room.add(&uid("bob"), &front("gone-1")).await.is_err());
    let none = app
        .channels()
        .push_message_by_uids("onX", &1, &[])
        .await
        .unwrap_err();
    assert_eq!(none.to_string(), "uids should not be empty");
}

/// A broadcast to bound sessions sends n messages to a user with n sessions, not n².
#[tokio::test]
async fn defect_35_a_bound_broadcast_reaches_each_session_once() {
    let running = start([frontend("connector-1")]).await;
    let app = &running.apps()[0];
    let mut sessions = vec![
        login(app, "ann").await,
        login(app, "ann").await,
        login(app, "ann").await,
    ];
    let mut unbound = Client::connect(app);
    let delivered = app
        .channels()
        .broadcast("connector", "onX", &1, BroadcastOptions::bound())
        .await
        .unwrap();
    assert_eq!(delivered.queued, 3);
    for client in &mut sessions {
        assert_eq!(client.drain().len(), 1);
    }
    assert!(unbound.drain().is_empty());
}

/// A user who is listed twice gets the message once per session.
#[tokio::test]
async fn defect_37_a_uid_listed_twice_gets_it_once() {
    let running = start([frontend("connector-1")]).await;
    let app = &running.apps()[0];
    let mut client = login(app, "ann").await;
    let one = (uid("ann"), front("connector-1"));
    let delivered = app
        .channels()
        .push_message_by_uids("onX", &1, &[one.clone(), one])
        .await
        .unwrap();
    assert_eq!((delivered.queued, client.drain().len()), (1, 1));
}

fn buffered(id: &str) -> App {
    let mut app = frontend(id);
    // An hour: only a flush of its own makes these pushes leave.
    app.set(
        PushConfig::default()
            .schedule(Schedule::Buffered)
            .flush_interval(Duration::from_secs(3600)),
    );
    app
}

/// What is buffered comes before the KICK, and is not lost by a close.
#[tokio::test]
async fn defect_38_a_kick_comes_after_what_is_buffered() {
    let running = start([buffered("connector-1")]).await;
    let app = &running.apps()[0];
    let mut client = login(app, "ann").await;
    let to = [(uid("ann"), front("connector-1"))];
    for n in 1..=2 {
        app.channels()
            .push_message_by_uids("onX", &n, &to)
            .await
            .unwrap();
    }
    app.session_service().unwrap().kick("ann", Some("bye"));
    let push = |n: i32| In::Push {
        route: "onX".into(),
        body: n.into(),
    };
    assert_eq!(
        client.drain(),
        [
            push(1),
            push(2),
            In::Kick {
                reason: "bye".into()
            }
        ]
    );
}

/// A shutdown with buffered pushes ends, and they are sent first.
#[tokio::test]
async fn defect_39_a_shutdown_flushes_and_ends() {
    let running = start([buffered("connector-1")]).await;
    let app = running.apps()[0].clone();
    let mut client = login(&app, "ann").await;
    app.channels()
        .push_message_by_uids("onX", &1, &[(uid("ann"), front("connector-1"))])
        .await
        .unwrap();
    tokio::time::timeout(crate::support::wait::PATIENCE, running.shutdown())
        .await
        .expect("it ends");
    let read = client.drain();
    assert_eq!(
        read,
        [
            In::Push {
                route: "onX".into(),
                body: json!(1)
            },
            In::Kick {
                reason: "draining".into()
            }
        ]
    );
}

/// A selector that panics, and broadcasts without options, do no harm.
#[tokio::test]
async fn defect_40_a_bad_selector_falls_back_to_the_default() {
    let mut app = frontend("connector-1");
    app.set(
        PushConfig::default().by_route(Arc::new(|route| panic!("expected in this test: {route}"))),
    );
    let running = start([app]).await;
    let app = &running.apps()[0];
    let mut client = login(app, "ann").await;
    let delivered = app
        .channels()
        .broadcast("connector", "onX", &1, BroadcastOptions::default())
        .await
        .unwrap();
    assert_eq!((delivered.queued, client.drain().len()), (1, 1));
}
