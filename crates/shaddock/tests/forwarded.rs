//! Requests that came over the cluster in a form that no frontend of ours sends.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::num::NonZeroU64;

use serde_json::{Value, json};
use shaddock::{prelude::*, session::SessionError};
use shaddock_cluster::{Context, ForwardedRequest, ForwardedSession, RemoteError, ServerId};
use support::{frontend, start};

/// Sends a request as another server would, with `id` if an answer is wanted.
async fn forward(
    app: &AppHandle,
    route: &str,
    id: Option<u64>,
    session: ForwardedSession,
) -> Result<String, RemoteError> {
    let membership = app.membership().unwrap();
    let game = membership.members().server("game-1").unwrap();
    let request = ForwardedRequest {
        route: route.into(),
        body: "{}".into(),
        id: id.and_then(NonZeroU64::new),
        session,
        context: Context::new(),
    };
    let answer = membership.forward(&game, request).await?;
    Ok(String::from_utf8(answer.to_vec()).unwrap())
}

/// Tries everything that needs a session and tells what came of it.
async fn use_session(mut session: SessionView) -> Json<Value> {
    let text = |result: Result<(), SessionError>| match result {
        Ok(()) => "done".to_owned(),
        Err(error) => error.to_string(),
    };
    session.set("k", 1);
    Json(json!({
        "id": session.id(),
        "frontend": session.frontend_id(),
        "uid": session.uid(),
        "bind": text(session.bind(Uid::new("ann").unwrap()).await),
        "unbind": text(session.unbind().await),
        "push": text(session.push("k").await),
        "push_all": text(session.push_all().await),
        "push_message": text(session.push_message("onX", &1).await),
        "kick": text(session.kick("why").await),
        "address": text(session.client_address().await.map(drop)),
    }))
}

#[tokio::test]
async fn a_request_without_a_session_is_served_and_has_none_to_act_on() {
    let mut game = App::new("game", "game-1");
    game.route("room.use", use_session);
    let running = start([frontend("connector-1"), game]).await;
    let app = &running.apps()[0];
    let none = "session not found: the request came without one";
    let found = ForwardedSession {
        frontend: ServerId::new("connector-1").ok(),
        ..ForwardedSession::default()
    };
    for (session, at) in [
        (ForwardedSession::default(), ""),
        // A frontend alone does not say which session it is.
        (found, "connector-1"),
    ] {
        let answer = forward(app, "game.room.use", Some(1), session).await;
        let answer: Value = serde_json::from_str(&answer.unwrap()).unwrap();
        let expected = json!({
            "id": i64::MAX, "frontend": at, "uid": null,
            "bind": none, "unbind": "session has not bind with a user", "push": none, "push_all": none,
            "push_message": none, "kick": none, "address": none,
        });
        assert_eq!(answer, expected);
    }
}

#[tokio::test]
async fn a_handler_that_needs_a_session_fails_with_a_text_that_says_what_is_missing() {
    let mut game = App::new("game", "game-1");
    game.route("room.bind", async |mut session: SessionView| {
        session.bind(Uid::new("ann").unwrap()).await
    });
    let running = start([frontend("connector-1"), game]).await;
    let app = &running.apps()[0];
    let refused = forward(app, "game.room.bind", None, ForwardedSession::default()).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), "PIT-000");
    assert_eq!(
        refused.message(),
        "session not found: the request came without one"
    );
}
