//! Requests that came over the cluster in a form that no frontend of ours sends.

use std::{
    num::NonZeroU64,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use serde_json::{Value, json};
use shaddock::{filter::RateLimitFilter, prelude::*, session::SessionError};
use shaddock_cluster::{Context, ForwardedRequest, ForwardedSession, RemoteError, ServerId};

use crate::support::{Client, frontend, start};

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
    let none = "session not found: the request has none";
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
            "id": null, "frontend": at, "uid": null,
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
    assert_eq!(refused.message(), "session not found: the request has none");
}

/// As a Pitaya frontend sends it: its sessions are counted from 1.
fn of_pitaya() -> ForwardedSession {
    ForwardedSession {
        frontend: ServerId::new("go-1").ok(),
        sid: NonZeroU64::new(7),
        ..ForwardedSession::default()
    }
}

#[tokio::test]
async fn a_pitaya_frontend_receives_an_error_for_a_handler_without_value() {
    let runs = Arc::new(AtomicUsize::new(0));
    let mut game = App::new("game", "game-1");
    let counted = Arc::clone(&runs);
    game.route("room.tell", move || {
        counted.fetch_add(1, Ordering::Relaxed);
        std::future::ready(())
    });
    let counted = Arc::clone(&runs);
    game.route("room.try", move || {
        counted.fetch_add(1, Ordering::Relaxed);
        std::future::ready(Ok::<_, HandlerError>(()))
    });
    game.route("room.find", async || None::<Json<u32>>);
    game.route("room.bare", async || Reply::raw(""));
    game.route("room.fail", async || {
        Err::<Json<u32>, _>(HandlerError::new("X-1", "no"))
    });
    let running = start([frontend("connector-1"), game]).await;
    let app = &running.apps()[0];

    let ask = async |route: &str, id, session| match forward(app, route, id, session).await {
        Ok(text) => text,
        Err(error) => format!("{} {}", error.code(), error.message()),
    };
    for session in [of_pitaya(), ForwardedSession::default()] {
        for (route, answer) in [
            ("game.room.tell", "PIT-400 tried to request a notify route"),
            // It could have told an error, so it runs.
            ("game.room.try", "PIT-000 reply must not be null"),
            ("game.room.find", "PIT-000 reply must not be null"),
            // A value without bytes, as a protobuf message may be.
            ("game.room.bare", ""),
            ("game.room.fail", "X-1 no"),
        ] {
            assert_eq!(
                ask(route, Some(3), session.clone()).await,
                answer,
                "{route}"
            );
        }
        assert_eq!(runs.swap(0, Ordering::Relaxed), 1, "one did not run");
        // The value of a notify is dropped.
        for route in ["game.room.tell", "game.room.try", "game.room.find"] {
            assert_eq!(ask(route, None, session.clone()).await, "", "{route}");
        }
        assert_eq!(runs.swap(0, Ordering::Relaxed), 2);
    }

    // Clients of our own frontends read `{}`, wherever the handler runs.
    let mut client = Client::connect(app);
    for route in ["game.room.tell", "game.room.try", "game.room.find"] {
        assert_eq!(client.request(route, json!({})).await, json!({}), "{route}");
    }
    assert_eq!(runs.load(Ordering::Relaxed), 2);
}

/// Numbers of sessions begin at 1 on each Pitaya frontend.
#[tokio::test]
async fn sessions_of_two_frontends_have_their_own_rate() {
    let mut game = App::new("game", "game-1");
    game.filter(RateLimitFilter::new(0, 2));
    game.route("room.enter", async || "in");
    let running = start([frontend("connector-1"), game]).await;
    let app = &running.apps()[0];
    for frontend in ["go-1", "go-2"] {
        for n in 0..3 {
            let session = ForwardedSession {
                frontend: ServerId::new(frontend).ok(),
                sid: shaddock_cluster::RawSid::new(1),
                ..ForwardedSession::default()
            };
            let answer = forward(app, "game.room.enter", Some(1), session).await;
            assert_eq!(answer.is_ok(), n < 2, "{frontend}: {answer:?}");
        }
    }
}

/// A task of its own is no reason to forget what came with the request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_offloaded_handler_knows_what_came_with_its_request() {
    let mut game = App::new("game", "game-1");
    let trace = async || Json(shaddock::remote::received_value("trace"));
    game.route("room.plain", trace);
    game.route("room.apart", trace).offload();
    let running = start([frontend("connector-1"), game]).await;
    let membership = running.apps()[0].membership().unwrap();
    let server = membership.members().server("game-1").unwrap();
    for route in ["game.room.plain", "game.room.apart"] {
        let mut context = Context::new();
        context.set("trace", json!("t-1"));
        let request = ForwardedRequest {
            route: route.into(),
            body: "{}".into(),
            id: NonZeroU64::new(1),
            session: ForwardedSession::default(),
            context,
        };
        let answer = membership.forward(&server, request).await.unwrap();
        assert_eq!(&answer[..], b"\"t-1\"", "{route}");
    }
}
