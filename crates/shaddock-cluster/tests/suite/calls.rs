//! Forwarded messages and calls of remotes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use shaddock_cluster::{Context, ForwardedSession, RemoteErrorKind, SessionData};

use crate::World;
use crate::support::node::{call, raw, request, works};
use crate::support::until;

for_both! {
    a_client_message_reaches_the_handler_and_its_answer_comes_back
    errors_keep_their_code_and_metadata
    a_panic_is_an_answer
    deadlines_are_kept_and_travel
    a_caller_that_goes_away_leaves_nothing_behind
    calls_carry_the_context
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
    works(&front, &back).await;
}

async fn deadlines_are_kept_and_travel(world: World) {
    let (front, back) = world.pair().await;
    let mut late = request("chat.room.never", "");
    late.context = Context::with_timeout(Duration::from_millis(200));
    let start = Instant::now();
    let error = front.member.forward(back.info(), late).await.unwrap_err();
    // Requests have 20 seconds and more unless they say otherwise.
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(190) && took < Duration::from_secs(20));
    // Over a network either side may say it first.
    assert!(matches!(error.code(), "PIT-408" | "PIT-500"), "{error}");
    assert_eq!(error.message(), "rpc client: request timeout");

    let mut asked = call("chat.room.timeout", "");
    asked.context = Context::with_timeout(Duration::from_millis(61_500));
    assert_eq!(
        front.member.call(back.info(), asked).await.unwrap(),
        "Some(61.5s)"
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
    works(&front, &back).await;
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
