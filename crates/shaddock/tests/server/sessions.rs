//! Views on frontends and backends, binding with its hook and across frontends, events of sessions.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use shaddock::{
    prelude::*,
    session::{Conflict, ConnectionStats, SessionError, SessionService, SessionsPerUser},
};

use crate::support::{Client, eventually, frontend, start, uid};

/// The operations on a session that both kinds of servers execute for the client.
async fn act(
    mut session: SessionView,
    Json(ask): Json<Value>,
) -> Result<Json<Value>, HandlerError> {
    let text = |key: &str| ask[key].as_str().unwrap_or_default().to_owned();
    let done = |result: Result<(), SessionError>| {
        Json(json!(
            result
                .err()
                .map_or("ok".to_owned(), |error| error.to_string())
        ))
    };
    Ok(match text("do").as_str() {
        "bind" => done(session.bind(Uid::new(text("uid"))?).await),
        "unbind" => done(session.unbind().await),
        "set" => {
            session.set(text("key"), ask["value"].clone());
            Json(session.get(&text("key")).cloned().unwrap_or_default())
        }
        "push" => {
            session.set(text("key"), ask["value"].clone());
            done(session.push(&text("key")).await)
        }
        "push nothing" => done(session.push(&text("key")).await),
        "push all" => {
            session.set_all([
                ("a".to_owned(), json!(1)),
                ("b".to_owned(), json!({"c": 2})),
            ]);
            done(session.push_all().await)
        }
        "remove" => {
            session.remove(&text("key"));
            done(session.push(&text("key")).await)
        }
        "say" => done(session.push_message("onSay", &json!({"text": "hi"})).await),
        "kick" => done(session.kick("cheat").await),
        "address" => Json(json!(
            session
                .client_address()
                .await?
                .map(|address| address.to_string())
        )),
        _ => Json(
            json!({"uid": session.uid().map(ToString::to_string), "settings": session.settings(), "frontend": session.frontend_id()}),
        ),
    })
}

fn backend(id: &str) -> App {
    let mut app = App::new("game", id);
    app.route("h.act", act);
    app.route("h.kind", async |_session: BackendSession| ());
    app
}

fn connector(id: &str) -> App {
    let mut app = frontend(id);
    app.route("h.act", act);
    app.route("h.kind", async |session: FrontendSession| {
        Json(session.record().id().get() > 0)
    });
    app
}

#[tokio::test]
async fn views_behave_alike_on_frontends_and_backends() {
    let running = start([connector("connector-1"), backend("game-1")]).await;
    for route in ["connector.h.act", "game.h.act"] {
        let mut client = Client::connect(running.app("connector-1").unwrap());
        let act = &mut async |ask: Value| client.request(route, ask).await;
        let look = json!({"do": "look"});
        assert_eq!(
            act(look.clone()).await,
            json!({"uid": null, "settings": {}, "frontend": "connector-1"})
        );
        assert_eq!(
            act(json!({"do": "unbind"})).await,
            "session has not bind with a user"
        );
        let name = if route.starts_with("game") {
            "gus"
        } else {
            "fay"
        };
        assert_eq!(act(json!({"do": "bind", "uid": name})).await, "ok");
        assert_eq!(
            act(json!({"do": "bind", "uid": name})).await,
            "ok",
            "again is no error"
        );
        assert_eq!(
            act(json!({"do": "bind", "uid": "other"})).await,
            format!("session has already bind with {name}")
        );
        assert_eq!(
            act(json!({"do": "set", "key": "k", "value": 1})).await,
            1,
            "the view knows it"
        );
        assert_eq!(
            act(look.clone()).await["settings"],
            json!({}),
            "and nobody else"
        );
        assert_eq!(
            act(json!({"do": "push", "key": "k", "value": {"deep": [1]}})).await,
            "ok"
        );
        assert_eq!(
            act(look.clone()).await["settings"],
            json!({"k": {"deep": [1]}})
        );
        assert_eq!(act(json!({"do": "push all"})).await, "ok");
        assert_eq!(
            act(look.clone()).await["settings"],
            json!({"k": {"deep": [1]}, "a": 1, "b": {"c": 2}})
        );
        assert_eq!(act(json!({"do": "remove", "key": "k"})).await, "ok");
        assert_eq!(
            act(look.clone()).await,
            json!({"uid": name, "settings": {"a": 1, "b": {"c": 2}}, "frontend": "connector-1"})
        );
        assert_eq!(
            act(json!({"do": "push nothing", "key": "zz"})).await,
            "view has no setting zz"
        );
        assert_eq!(act(json!({"do": "address"})).await, "127.0.0.1:4711");
        assert_eq!(act(json!({"do": "unbind"})).await, "ok");
        assert_eq!(act(look.clone()).await["uid"], Value::Null);
        assert_eq!(act(json!({"do": "say"})).await, "ok");
        assert_eq!(client.wait_push("onSay").await, json!({"text": "hi"}));
        client.notify(route, json!({"do": "kick"})).await;
        assert_eq!(client.wait_kick().await, "cheat");
        assert!(client.closed && client.session.is_closed());
    }
}

#[tokio::test]
async fn the_kinds_of_views_are_checked() {
    let running = start([connector("connector-1"), backend("game-1")]).await;
    let mut client = Client::connect(running.app("connector-1").unwrap());
    assert_eq!(
        client.request("connector.h.kind", json!({})).await,
        json!(true)
    );
    assert_eq!(client.request("game.h.kind", json!({})).await, json!({}));
}

#[tokio::test]
async fn after_a_close_views_can_be_read_and_not_used() {
    let running = start([connector("connector-1")]).await;
    let app = &running.apps()[0];
    let client = Client::connect(app);
    app.bind(client.sid(), uid("ann")).await.unwrap();
    let service = app.session_service().unwrap();
    let views = app
        .backend_sessions()
        .get_by_uid("connector-1", "ann")
        .await
        .unwrap();
    let [mut view] = <[SessionView; 1]>::try_from(views).unwrap();
    client.session.close(CloseReason::ClientClosed);
    assert_eq!(view.uid().map(Uid::as_str), Some("ann"));
    let text = format!("session does not exist, sid: {}", client.sid());
    view.set("k", 1);
    assert_eq!(view.push("k").await.unwrap_err().to_string(), text);
    assert_eq!(view.push_all().await.unwrap_err().to_string(), text);
    assert_eq!(view.unbind().await.unwrap_err().to_string(), text);
    assert_eq!(view.bind(uid("bob")).await.unwrap_err().to_string(), text);
    assert!(matches!(
        view.push_message("onX", &1).await.unwrap_err(),
        SessionError::Send(_)
    ));
    view.kick("again").await.unwrap();
    assert_eq!(service.session_count(), 0);
}

#[tokio::test]
async fn the_context_has_the_services() {
    let running = start([connector("connector-1"), backend("game-1")]).await;
    let (front, back) = (
        running.app("connector-1").unwrap(),
        running.app("game-1").unwrap(),
    );
    assert!(front.get::<SessionService>().is_some() && front.get::<ConnectionStats>().is_some());
    assert!(front.get::<Channels>().is_some() && back.get::<BackendSessions>().is_some());
    assert!(
        back.session_service().is_none()
            && back.get::<SessionService>().is_none()
            && back.connector().is_none()
    );
    let client = Client::connect(front);
    front.bind(client.sid(), uid("ann")).await.unwrap();
    let info = front.connection_statistics().unwrap();
    assert_eq!((info.logins, info.list[0].uid.as_str()), (1, "ann"));
    client.session.close(CloseReason::ClientClosed);
    assert_eq!(front.connection_statistics().unwrap().logins, 0);
}

#[tokio::test]
async fn sessions_are_found_and_kicked_on_every_frontend() {
    let running = start([
        connector("connector-1"),
        connector("connector-2"),
        backend("game-1"),
    ])
    .await;
    let sessions = running.app("game-1").unwrap().backend_sessions();
    let mut clients = Vec::new();
    for id in ["connector-1", "connector-1", "connector-2"] {
        let client = Client::connect(running.app(id).unwrap());
        sessions.bind(id, client.sid(), &uid("ann")).await.unwrap();
        sessions.push(id, client.sid(), "n", 1).await.unwrap();
        clients.push(client);
    }
    assert_eq!(
        sessions
            .get_by_uid("connector-1", "ann")
            .await
            .unwrap()
            .len(),
        2
    );
    let one = sessions
        .get("connector-2", clients[2].sid())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (one.uid().map(Uid::as_str), one.get_as::<u8>("n")),
        (Some("ann"), Some(1))
    );
    assert!(
        sessions
            .get("connector-1", clients[2].sid())
            .await
            .unwrap()
            .is_none()
    );
    assert_eq!(sessions.locate("ann").await.unwrap().len(), 2);
    assert!(
        sessions
            .kick_by_sid("connector-1", clients[0].sid(), "one")
            .await
            .unwrap()
    );
    assert!(
        !sessions
            .kick_by_sid("connector-1", clients[0].sid(), "one")
            .await
            .unwrap()
    );
    assert_eq!(clients[0].wait_kick().await, "one");
    assert_eq!(sessions.kick_everywhere("ann", "all").await.unwrap(), 2);
    assert_eq!(clients[1].wait_kick().await, "all");
    assert_eq!(clients[2].wait_kick().await, "all");
    assert_eq!(sessions.kick_everywhere("ann", "all").await.unwrap(), 0);
    assert!(sessions.get("nowhere", clients[0].sid()).await.is_err());
}

#[tokio::test]
async fn a_single_session_is_single_across_frontends() {
    for on_conflict in [Conflict::RejectNew, Conflict::ReplaceOld] {
        let single = |mut app: App| {
            app.set(SessionConfig::default().sessions_per_user(SessionsPerUser::One(on_conflict)));
            app
        };
        let running = start([
            single(connector("connector-1")),
            single(connector("connector-2")),
        ])
        .await;
        let mut first = Client::connect(running.app("connector-1").unwrap());
        let mut same = Client::connect(running.app("connector-1").unwrap());
        let mut other = Client::connect(running.app("connector-2").unwrap());
        let bind = json!({"do": "bind", "uid": "ann"});
        assert_eq!(first.request("connector.h.act", bind.clone()).await, "ok");
        for second in [&mut same, &mut other] {
            let answer = second.request("connector.h.act", bind.clone()).await;
            if on_conflict == Conflict::RejectNew {
                assert_eq!(
                    answer,
                    "singleSession is enabled, and session has already bind with uid: ann"
                );
            } else {
                assert_eq!(answer, "ok");
            }
        }
        if on_conflict == Conflict::RejectNew {
            assert!(!first.session.is_closed());
            first.session.close(CloseReason::ClientClosed);
            assert_eq!(
                other.request("connector.h.act", bind).await,
                "ok",
                "the user is free again"
            );
        } else {
            assert_eq!(
                (first.wait_kick().await, same.wait_kick().await),
                ("replaced".into(), "replaced".into())
            );
            assert!(!other.session.is_closed());
        }
    }
}

#[tokio::test]
async fn the_hook_may_refuse_a_bind() {
    let mut app = connector("connector-1");
    app.before_bind(
        async |_app: AppHandle, session: FrontendSession, uid: Uid| match uid.as_str() {
            "banned" => Err(HandlerError::new("B-1", "banned").with_body(&json!({"code": 401}))),
            "panic" => panic!("expected in this test, of {}", session.id()),
            _ => Ok(()),
        },
    );
    app.route(
        "h.enter",
        async |mut session: SessionView, Json(name): Json<String>| {
            session
                .bind(Uid::new(name)?)
                .await
                .map_err(HandlerError::from)
        },
    );
    let running = start([app, backend("game-1")]).await;
    let app = running.app("connector-1").unwrap();
    let mut client = Client::connect(app);
    assert_eq!(
        client.request("connector.h.enter", json!("banned")).await,
        json!({"code": 401}),
        "`?` answers with the hook's error"
    );
    assert_eq!(
        client.request("connector.h.enter", json!("panic")).await,
        json!({"code": 500})
    );
    assert_eq!(
        client
            .request("game.h.act", json!({"do": "bind", "uid": "banned"}))
            .await,
        "banned"
    );
    assert!(client.session.uid().is_none());
    assert!(
        app.backend_sessions()
            .locate("banned")
            .await
            .unwrap()
            .is_empty(),
        "nothing has changed"
    );
    assert_eq!(
        client.request("connector.h.enter", json!("ann")).await,
        json!({})
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn events_come_in_order_and_a_bad_listener_harms_only_its_session() {
    let log: Arc<Mutex<Vec<String>>> = Arc::default();
    let (go_on, stuck) = std::sync::mpsc::channel::<()>();
    let (tell_all, all_told) = tokio::sync::watch::channel(false);
    let mut app = connector("connector-1");
    let noted = Arc::clone(&log);
    app.on_session_bound(move |_, event| {
        let noted = Arc::clone(&noted);
        let mut all_told = all_told.clone();
        async move {
            // Later events must not overtake: they are there before this one is done with.
            let _ = all_told.wait_for(|told| *told).await;
            noted
                .lock()
                .unwrap()
                .push(format!("bound {}", event.uid().unwrap()));
        }
    });
    let noted = Arc::clone(&log);
    app.on_session_unbound(move |_, event| {
        noted
            .lock()
            .unwrap()
            .push(format!("unbound {}", event.uid().unwrap()));
        async {}
    });
    let (noted, waits) = (Arc::clone(&log), Arc::new(Mutex::new(stuck)));
    app.on_session_closed(move |app: AppHandle, event: SessionEvent| {
        let (noted, waits) = (Arc::clone(&noted), Arc::clone(&waits));
        async move {
            match event.uid().map(Uid::as_str) {
                Some("panics") => panic!("expected in this test"),
                Some("blocks") => {
                    // It blocks the thread, as no listener should.
                    let _ = waits.lock().unwrap().recv();
                }
                _ => {}
            }
            let settings = serde_json::to_string(event.session().settings()).unwrap();
            noted.lock().unwrap().push(format!(
                "closed {} {settings} on {}",
                event.reason().unwrap().name(),
                app.id()
            ));
        }
    });
    let running = start([app]).await;
    let app = &running.apps()[0];
    for name in ["blocks", "panics"] {
        let client = Client::connect(app);
        app.bind(client.sid(), uid(name)).await.unwrap();
        client.session.close(CloseReason::ClientClosed);
    }
    let client = Client::connect(app);
    for round in 0..2 {
        app.bind(client.sid(), uid(&format!("ann{round}")))
            .await
            .unwrap();
        client.session.unbind(&uid(&format!("ann{round}"))).unwrap();
    }
    app.bind(client.sid(), uid("bob")).await.unwrap();
    client.session.set("k", 1).unwrap();
    client.session.close(CloseReason::kicked("x"));
    tell_all.send_replace(true);
    let expected = "bound ann0, unbound ann0, bound ann1, unbound ann1, bound bob, closed kicked {\"k\":1} on connector-1";
    let mine = || {
        let log = log.lock().unwrap();
        log.iter()
            .filter(|one| !one.contains("blocks") && !one.contains("panics"))
            .cloned()
            .collect::<Vec<_>>()
            .join(", ")
    };
    eventually("all events of one session, in order", || mine() == expected).await;
    drop(go_on);
    eventually("the one that waited", || {
        mine().ends_with("closed client_closed {} on connector-1")
    })
    .await;
}

/// Settings that are pushed with removals, and by every operation of other servers, up to the bound and beyond it.
#[tokio::test]
async fn a_write_of_settings_happens_as_a_whole_or_not_at_all() {
    let mut front = frontend("connector-1");
    front.set(SessionConfig::default().max_settings(2));
    let write = async |mut session: SessionView, Json(ask): Json<Value>| {
        for key in ask["remove"].as_array().into_iter().flatten() {
            session.remove(key.as_str().unwrap());
        }
        session.set_all(ask["set"].as_object().cloned().unwrap_or_default());
        match session.push_all().await {
            Ok(()) => "ok".to_owned(),
            Err(error) => error.to_string(),
        }
    };
    front.route("h.write", write);
    let mut game = App::new("game", "game-1");
    game.route("h.write", write);
    let running = start([front, game]).await;
    let (front, game) = (
        running.app("connector-1").unwrap(),
        running.app("game-1").unwrap(),
    );
    for server in ["connector", "game"] {
        let mut client = Client::connect(front);
        let session = Arc::clone(&client.session);
        let route = format!("{server}.h.write");
        let mut write = async |remove: Value, set: Value| {
            client
                .request(&route, json!({"remove": remove, "set": set}))
                .await
        };
        let settings = || Value::Object(session.settings().to_map());
        assert_eq!(write(json!([]), json!({"a": 1, "b": 1})).await, "ok");
        assert_ne!(write(json!(["a"]), json!({"c": 2, "d": 2})).await, "ok");
        assert_eq!(settings(), json!({"a": 1, "b": 1}), "{server}");
        // The bound counts what comes of it.
        assert_eq!(write(json!(["a"]), json!({"c": 3})).await, "ok");
        assert_eq!(settings(), json!({"b": 1, "c": 3}), "{server}");

        let membership = game.membership().unwrap();
        let replace = async |data: Value| {
            let op = shaddock_cluster::SessionOp::Replace {
                sid: shaddock_cluster::RawSid::new(session.id().get()).unwrap(),
                data: shaddock_cluster::SessionData::from_json(data.to_string().into()),
            };
            let context = shaddock_cluster::Context::new();
            let done = membership.session_op(&front.info().id, op, context).await;
            done.is_ok()
        };
        assert!(!replace(json!({"x": 1, "y": 1, "z": 1})).await);
        assert_eq!(settings(), json!({"b": 1, "c": 3}), "{server}");
        assert!(replace(json!({"x": 1, "b": 2})).await);
        assert_eq!(settings(), json!({"b": 2, "x": 1}), "{server}");
        assert!(replace(json!({})).await);
        assert_eq!(settings(), json!({}), "{server}");
    }
}
