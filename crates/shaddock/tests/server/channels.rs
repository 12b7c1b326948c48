//! Pushes to many: channels, lists of users, broadcasts; who was not reached; schedulers.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use shaddock::{
    channel::{JoinError, Joined, PushConfig, PushError, Schedule},
    prelude::*,
    wire::Dialect,
};

use crate::support::{Client, In, eventually, front, frontend, login, pass, start, uid};

fn pushes(client: &mut Client) -> Vec<Value> {
    client
        .drain()
        .into_iter()
        .map(|one| match one {
            In::Push { body, .. } => body,
            other => panic!("unexpected {other:?}"),
        })
        .collect()
}

#[tokio::test]
async fn a_push_reaches_members_on_all_frontends_once() {
    let running = start([
        frontend("connector-1"),
        frontend("connector-2"),
        App::new("chat", "chat-1"),
    ])
    .await;
    let (one, two) = (
        running.app("connector-1").unwrap(),
        running.app("connector-2").unwrap(),
    );
    let mut ann = login(one, "ann").await;
    let mut ann_too = login(one, "ann").await;
    let mut bob = login(two, "bob").await;
    let mut eve = login(two, "eve").await;
    let channels = running.app("chat-1").unwrap().channels();
    let room = channels.create("lobby").unwrap();
    for (name, place) in [("ann", "connector-1"), ("bob", "connector-2")] {
        let joined = room.add(&uid(name), &front(place)).await.unwrap();
        assert!(joined.is_new());
    }
    let gone = room.add(&uid("gone"), &front("connector-2")).await;
    assert!(matches!(gone, Err(JoinError::Closed)), "{gone:?}");
    let delivered = room.push_message("onChat", &json!({"n": 1})).await.unwrap();
    assert_eq!((delivered.queued, delivered.missing_count()), (3, 0));
    assert!(delivered.missing.is_empty() && delivered.failed.is_empty());
    let at: Vec<_> = delivered
        .frontends
        .iter()
        .map(|at| (at.frontend.as_str(), at.queued))
        .collect();
    assert_eq!(at, [("connector-1", 2), ("connector-2", 1)]);
    for client in [&mut ann, &mut ann_too, &mut bob] {
        assert_eq!(pushes(client), [json!({"n": 1})]);
    }
    assert!(pushes(&mut eve).is_empty());

    room.push_message_unconfirmed("onChat", &json!({"n": 2}))
        .unwrap();
    for client in [&mut ann, &mut ann_too, &mut bob] {
        assert_eq!(pushes(client), [json!({"n": 2})]);
    }
    let nowhere = channels.create("nowhere").unwrap();
    nowhere.push_message_unconfirmed("onChat", "x").unwrap();
    let joined = nowhere.add(&uid("ann"), &front("connector-9")).await;
    assert!(matches!(joined, Err(JoinError::Remote(_))), "{joined:?}");
    assert_eq!(nowhere.user_amount().await.unwrap(), 0);
}

/// A client that reads nothing any more is a member until it is closed; what it does not take is counted, and named if that is asked for.
#[tokio::test]
async fn members_that_missed_a_push_are_counted_and_named_on_request() {
    let mut app = frontend("connector-1");
    app.set(SessionConfig::default().outbox_bytes(4096));
    let running = start([app, App::new("chat", "chat-1")]).await;
    let connector = running.app("connector-1").unwrap();
    let (_ann, mut bob) = (login(connector, "ann").await, login(connector, "bob").await);
    let room = running
        .app("chat-1")
        .unwrap()
        .channels()
        .create("lobby")
        .unwrap();
    for name in ["ann", "bob"] {
        assert!(room.add(&uid(name), &front("connector-1")).await.is_ok());
    }
    let body = "x".repeat(3000);
    let delivered = room.push_message("onBig", &body).await.unwrap();
    assert_eq!((delivered.queued, delivered.missing_count()), (2, 0));
    assert_eq!(pushes(&mut bob).len(), 1);
    // Ann's queue is full: she has not read the first one.
    let delivered = room.push_message("onBig", &body).await.unwrap();
    assert_eq!((delivered.queued, delivered.missing_count()), (1, 1));
    assert!(delivered.missing.is_empty());
    assert_eq!(pushes(&mut bob).len(), 1);
    let delivered = room.push_message_naming("onBig", &body).await.unwrap();
    assert_eq!((delivered.queued, delivered.missing), (1, vec![uid("ann")]));
    assert_eq!(connector.stats().missing.get(), 2);
}

/// A frontend that drains has left the list, and its clients are still there for a while.
#[tokio::test]
async fn members_of_a_draining_frontend_receive_pushes_until_they_are_closed() {
    let running = start([frontend("connector-1"), App::new("chat", "chat-1")]).await;
    let connector = running.app("connector-1").unwrap();
    let mut ann = login(connector, "ann").await;
    let room = running
        .app("chat-1")
        .unwrap()
        .channels()
        .create("lobby")
        .unwrap();
    assert!(room.add(&uid("ann"), &front("connector-1")).await.is_ok());
    connector.membership().unwrap().withdraw().await;
    room.push_message("onChat", &json!({"n": 1})).await.unwrap();
    assert_eq!(pushes(&mut ann), [json!({"n": 1})]);

    let service = connector.session_service().unwrap();
    service.kick_by_session_id(ann.sid(), None);
    assert_eq!(room.user_amount().await.unwrap(), 0);
}

/// A server that drains may take long, and its channels are there until it is gone.
#[tokio::test(start_paused = true)]
async fn channels_of_a_server_that_has_left_the_list_end_when_it_is_gone() {
    let cluster = shaddock::cluster::LocalCluster::new();
    let start = async |app| {
        let servers = Servers::new().add(app).cluster(cluster.clone());
        servers.start().await.unwrap()
    };
    let connectors = start(frontend("connector-1")).await;
    let rooms = start(App::new("chat", "chat-1")).await;
    let connector = connectors.app("connector-1").unwrap();
    let mut ann = login(connector, "ann").await;
    let chat = rooms.app("chat-1").unwrap().clone();
    let room = chat.channels().create("lobby").unwrap();
    assert!(room.add(&uid("ann"), &front("connector-1")).await.is_ok());
    chat.membership().unwrap().withdraw().await;
    pass(Duration::from_secs(600)).await;
    room.push_message("onChat", &json!({"n": 1})).await.unwrap();
    assert_eq!(pushes(&mut ann), [json!({"n": 1})]);

    drop((chat, room));
    rooms.shutdown().await;
    pass(Duration::from_secs(600)).await;
    let audiences = connector.session_service().unwrap().audiences(|_| true);
    assert!(audiences.is_empty(), "{audiences:?}");
    connectors.shutdown().await;
}

#[tokio::test]
async fn pushes_of_one_sender_keep_their_order_without_being_awaited() {
    let running = start([frontend("connector-1"), App::new("chat", "chat-1")]).await;
    let mut ann = login(running.app("connector-1").unwrap(), "ann").await;
    let room = running
        .app("chat-1")
        .unwrap()
        .channels()
        .create("lobby")
        .unwrap();
    assert!(room.add(&uid("ann"), &front("connector-1")).await.is_ok());
    for n in 1..=100 {
        room.push_message("onN", &n).forget();
    }
    let expected: Vec<Value> = (1..=100).map(Value::from).collect();
    assert_eq!(pushes(&mut ann), expected);
}

#[tokio::test]
async fn members_leave_when_their_last_session_is_gone() {
    let running = start([frontend("connector-1"), App::new("chat", "chat-1")]).await;
    let app = running.app("connector-1").unwrap();
    let room = running
        .app("chat-1")
        .unwrap()
        .channels()
        .create("lobby")
        .unwrap();
    let (first, second, bob) = (
        login(app, "ann").await,
        login(app, "ann").await,
        login(app, "bob").await,
    );
    for name in ["ann", "bob"] {
        assert!(room.add(&uid(name), &front("connector-1")).await.is_ok());
    }
    let count = async || room.user_amount().await.unwrap();
    first.session.close(CloseReason::ClientClosed);
    assert_eq!(count().await, 2, "she has another session");
    second.session.close(CloseReason::ClientClosed);
    assert_eq!(count().await, 1);
    bob.session.unbind(&uid("bob")).unwrap();
    assert_eq!(count().await, 0);
    // The frontend said so: it is not sent the next push.
    room.push_message("onChat", "x").await.unwrap();
    let delivered = room.push_message("onChat", "x").await.unwrap();
    assert!(delivered.frontends.is_empty());
}

#[tokio::test]
async fn joining_through_a_view_needs_a_user_and_an_open_session() {
    let mut app = frontend("connector-1");
    app.route(
        "h.join",
        async |session: SessionView, channels: Channels| {
            let room = channels.create("lobby")?;
            let joined = room.join(&session).await;
            let again = room.join(&session).await;
            let is_new = |joined: Result<Joined, JoinError>| {
                joined.map_or_else(|e| e.to_string(), |j| format!("{j:?}"))
            };
            Ok::<_, HandlerError>(Json((
                is_new(joined),
                is_new(again),
                room.user_amount().await?,
                room.quit(&session).await?,
            )))
        },
    );
    let running = start([app]).await;
    let app = &running.apps()[0];
    let mut client = Client::connect(app);
    assert_eq!(
        client.request("connector.h.join", json!({})).await,
        json!([
            "the session is not bound to a user",
            "the session is not bound to a user",
            0,
            false
        ])
    );
    app.bind(client.sid(), uid("ann")).await.unwrap();
    assert_eq!(
        client.request("connector.h.join", json!({})).await,
        json!(["New", "Already", 1, true])
    );
    let view = app
        .backend_sessions()
        .get("connector-1", client.sid())
        .await
        .unwrap()
        .unwrap();
    client.session.close(CloseReason::ClientClosed);
    let room = app.channels().create("lobby").unwrap();
    assert_eq!(view.uid(), Some(&uid("ann")));
    // The view came over the cluster before the close, and cannot know; the frontend does.
    let joined = room.join(&view).await;
    assert!(matches!(joined, Err(JoinError::Closed)), "{joined:?}");
    assert_eq!(room.user_amount().await.unwrap(), 0);
    // Nor is a user let in on behalf of a session that is another's by now.
    let mut other = login(app, "bob").await;
    let view = app
        .backend_sessions()
        .get("connector-1", other.sid())
        .await
        .unwrap()
        .unwrap();
    other.session.unbind(&uid("bob")).unwrap();
    app.bind(other.sid(), uid("eve")).await.unwrap();
    let joined = room.join(&view).await;
    assert!(matches!(joined, Err(JoinError::NotBound)), "{joined:?}");
    assert!(pushes(&mut other).is_empty());
    room.destroy();
    let joined = room.add(&uid("eve"), &front("connector-1")).await;
    assert!(matches!(joined, Err(JoinError::Destroyed)), "{joined:?}");
}

#[tokio::test]
async fn both_dialects_read_the_same_push() {
    let running = start([frontend("connector-1")]).await;
    let app = &running.apps()[0];
    let mut pomelo = Client::connect(app);
    let mut pitaya = Client::with_dialect(app, Dialect::Pitaya);
    let delivered = app
        .channels()
        .broadcast(
            "connector",
            "onAll",
            &json!({"x": "y"}),
            BroadcastOptions::all(),
        )
        .await
        .unwrap();
    assert_eq!(delivered.queued, 2);
    assert_eq!(
        (pushes(&mut pomelo), pushes(&mut pitaya)),
        (vec![json!({"x": "y"})], vec![json!({"x": "y"})])
    );
}

#[tokio::test]
async fn broadcasts_can_be_filtered_on_the_frontends() {
    let filtered = |id| {
        let mut app = frontend(id);
        app.set(PushConfig::default().filter(Arc::new(|session, wanted| {
            session.get("team").as_ref() == Some(wanted)
        })));
        app
    };
    let running = start([
        filtered("connector-1"),
        filtered("connector-2"),
        App::new("chat", "chat-1"),
    ])
    .await;
    let mut red = Client::connect(running.app("connector-1").unwrap());
    let mut blue = Client::connect(running.app("connector-2").unwrap());
    red.session.set("team", "red").unwrap();
    blue.session.set("team", "blue").unwrap();
    let channels = running.app("chat-1").unwrap().channels();
    let options = BroadcastOptions::all().filtered("red");
    let delivered = channels
        .broadcast("connector", "onTeam", &json!(1), options)
        .await
        .unwrap();
    assert_eq!(delivered.queued, 1);
    assert_eq!((pushes(&mut red).len(), pushes(&mut blue).len()), (1, 0));
    let delivered = channels
        .broadcast("nobody", "onTeam", &json!(1), BroadcastOptions::all())
        .await
        .unwrap();
    assert_eq!(delivered.queued, 0, "no server of the type is no error");
}

#[tokio::test]
async fn users_are_found_by_the_type_of_their_frontend() {
    let running = start([
        frontend("connector-1"),
        frontend("connector-2"),
        App::new("chat", "chat-1"),
    ])
    .await;
    let mut ann = login(running.app("connector-1").unwrap(), "ann").await;
    let mut too = login(running.app("connector-2").unwrap(), "ann").await;
    let channels = running.app("chat-1").unwrap().channels();
    let delivered = channels
        .push_message_to_users("connector", "onX", &json!(1), &[uid("ann"), uid("bob")])
        .await
        .unwrap();
    assert_eq!((delivered.queued, delivered.missing), (2, vec![uid("bob")]));
    assert_eq!((pushes(&mut ann).len(), pushes(&mut too).len()), (1, 1));
}

fn buffered(id: &str) -> App {
    let mut app = frontend(id);
    app.set(
        PushConfig::default()
            .by_route(Arc::new(|route| {
                if route == "onNow" {
                    Schedule::Direct
                } else {
                    Schedule::Buffered
                }
            }))
            .flush_interval(Duration::from_millis(20)),
    );
    app
}

#[tokio::test]
async fn buffered_pushes_leave_together_and_in_order() {
    let running = start([buffered("connector-1")]).await;
    let app = &running.apps()[0];
    let mut ann = login(app, "ann").await;
    let woken = Arc::new(Woken::default());
    ann.session.outbox().begin_poll(&Arc::clone(&woken).into());
    assert!(!ann.session.outbox().end_poll(shaddock_core::Flush::Done));
    let to = [(uid("ann"), front("connector-1"))];
    let channels = app.channels();
    let send =
        async |route: &str, n: u8| channels.push_message_by_uids(route, &n, &to).await.unwrap();
    send("onLater", 1).await;
    send("onLater", 2).await;
    assert_eq!(woken.count(), 0, "nobody is disturbed before the flush");
    eventually("the flush", || woken.count() == 1).await;
    assert_eq!(pushes(&mut ann), [json!(1), json!(2)]);
    send("onLater", 3).await;
    send("onNow", 4).await;
    assert_eq!(
        pushes(&mut ann),
        [json!(3), json!(4)],
        "what is sent at once takes along what waits"
    );
}

#[derive(Default)]
struct Woken(std::sync::atomic::AtomicUsize);

impl Woken {
    fn count(&self) -> usize {
        self.0.load(std::sync::atomic::Ordering::Relaxed)
    }
}

impl std::task::Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
}

#[tokio::test]
async fn a_message_too_large_for_every_receiver_is_an_error() {
    let running = start([frontend("connector-1")]).await;
    let app = &running.apps()[0];
    let ann = login(app, "ann").await;
    let to = [(uid("ann"), front("connector-1"))];
    let error = app
        .channels()
        .push_message_by_uids("onBig", &"x".repeat(1400 * 1024), &to)
        .await
        .unwrap_err();
    assert!(matches!(error, PushError::NotSendable { .. }), "{error}");
    assert!(
        !ann.session.is_closed(),
        "one message above the bound closes nothing"
    );
    let error = app
        .channels()
        .push_message_by_uids("onX", &1, &[(uid("ann"), front("elsewhere"))])
        .await
        .unwrap_err();
    let PushError::NobodyReached(delivered) = error else {
        panic!("{error}")
    };
    assert_eq!(delivered.not_reached().collect::<Vec<_>>(), [&uid("ann")]);
}
