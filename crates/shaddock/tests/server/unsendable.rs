//! A push that cannot be encoded for clients is an error of every kind of call, for receivers on any server; no receiver is reported as
//! missing.

use std::sync::Arc;

use serde_json::{Value, json};
use shaddock::{
    channel::{Delivered, PushConfig, PushError, Schedule},
    prelude::*,
    session::SessionError,
    wire::{CodecConfig, Protos, Schema},
};

use crate::support::{Client, front, frontend, login, start, uid};

const LIMIT: usize = 8 * 1024;

fn connector(id: &str, schedule: Schedule) -> App {
    let schema = Schema::parse(r#"{"onTyped": {"required uInt32 n": 1}}"#).unwrap();
    let protos = Protos::new(schema, Schema::parse("{}").unwrap());
    let mut app = frontend(id);
    app.set(CodecConfig::default().protos(Arc::new(protos)));
    app.set(SessionConfig::default().outbox_bytes(LIMIT));
    app.set(PushConfig::default().schedule(schedule));
    app
}

/// Messages that cannot be written, with a word of the reason.
fn unsendable() -> [(String, Value, &'static str); 3] {
    [
        ("r".repeat(256), json!({"n": 1}), "255"),
        ("onTyped".to_owned(), json!({"n": "text"}), "n"),
        ("onLong".to_owned(), json!("x".repeat(LIMIT)), "bytes"),
    ]
}

fn check(case: &str, word: &str, result: Result<Delivered, PushError>) {
    match result {
        Err(PushError::NotSendable { reason, delivered }) => {
            assert!(reason.contains(word), "{case}: {reason}");
            assert!(delivered.missing.is_empty(), "{case}: {delivered:?}");
            assert_eq!(delivered.queued, 0, "{case}");
        }
        other => panic!("{case}: {other:?}"),
    }
}

#[tokio::test]
async fn a_push_that_cannot_be_written_is_an_error_of_the_call() {
    for schedule in [Schedule::Direct, Schedule::Buffered] {
        let running = start([
            connector("connector-1", schedule),
            connector("connector-2", schedule),
            App::new("chat", "chat-1"),
        ])
        .await;
        let one = running.app("connector-1").unwrap();
        let mut ann = login(one, "ann").await;
        let _bob = login(running.app("connector-2").unwrap(), "bob").await;
        // From the frontend itself, where ann alone is local, and from a backend.
        for sender in [one, running.app("chat-1").unwrap()] {
            every_call(sender, &mut ann).await;
        }
    }
}

async fn every_call(sender: &AppHandle, ann: &mut Client) {
    let channels = sender.channels();
    let alone = [(uid("ann"), front("connector-1"))];
    let both = [alone[0].clone(), (uid("bob"), front("connector-2"))];
    let users = [uid("ann"), uid("bob")];
    let room = channels.create("room").unwrap();
    for (user, frontend) in &both {
        assert!(room.add(user, frontend).await.is_ok());
    }
    let views = sender
        .backend_sessions()
        .get_by_uid("connector-1", "ann")
        .await;
    let view = views.unwrap().pop().unwrap();
    for (route, value, word) in unsendable() {
        let case = |call: &str| format!("{} {call} {:.8}", sender.id(), route);
        let one = channels.push_message_by_uids(&route, &value, &alone).await;
        check(&case("one"), word, one);
        let two = channels.push_message_by_uids(&route, &value, &both).await;
        check(&case("two"), word, two);
        let named = channels
            .push_message_to_users("connector", &route, &value, &users)
            .await;
        check(&case("users"), word, named);
        check(&case("room"), word, room.push_message(&route, &value).await);
        for options in [
            BroadcastOptions::all(),
            BroadcastOptions::bound(),
            BroadcastOptions::all().filtered(1),
        ] {
            let all = channels
                .broadcast("connector", &route, &value, options)
                .await;
            check(&case("broadcast"), word, all);
        }
        let error = view.push_message(&route, &value).await.unwrap_err();
        assert!(
            matches!(error, SessionError::Encode(_)),
            "{}: {error}",
            case("view")
        );
        assert!(
            error.to_string().contains(word),
            "{}: {error}",
            case("view")
        );
        assert!(ann.drain().is_empty() && !ann.session.is_closed());
    }
    // Who is not there is missing all the same.
    let nobody = [(uid("nobody"), front("connector-1"))];
    let (route, value, _) = &unsendable()[0];
    let delivered = channels
        .push_message_by_uids(route, value, &nobody)
        .await
        .unwrap();
    assert_eq!(delivered.missing, [uid("nobody")]);
}

#[tokio::test]
async fn a_push_longer_than_a_package() {
    let mut app = connector("connector-1", Schedule::Direct);
    app.set(SessionConfig::default());
    let running = start([app]).await;
    let app = &running.apps()[0];
    let _ann = login(app, "ann").await;
    let to = [(uid("ann"), front("connector-1"))];
    let huge = "x".repeat(17 << 20);
    let pushed = app
        .channels()
        .push_message_by_uids("onHuge", &huge, &to)
        .await;
    check("huge", "16777215", pushed);
}

#[tokio::test]
async fn clients_of_the_other_dialect_get_what_can_be_written_for_them() {
    let running = start([connector("connector-1", Schedule::Direct)]).await;
    let app = &running.apps()[0];
    let _ann = login(app, "ann").await;
    // Schemas are for Pomelo's clients.
    let mut gus = Client::with_dialect(app, shaddock::wire::Dialect::Pitaya);
    app.bind(gus.sid(), uid("gus")).await.unwrap();
    let value = json!({"n": "text"});
    let users = [uid("ann"), uid("gus"), uid("nobody")];
    let pushed = app
        .channels()
        .push_message_to_users("connector", "onTyped", &value, &users)
        .await;
    let Err(PushError::NotSendable { delivered, .. }) = pushed else {
        panic!("{pushed:?}")
    };
    assert_eq!(
        (delivered.queued, delivered.missing),
        (1, vec![uid("nobody")])
    );
    assert_eq!(gus.wait_push("onTyped").await, value);
}
