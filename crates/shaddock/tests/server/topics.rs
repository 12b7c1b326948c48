//! Topics, and listeners that are notified of members: in one process.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::{Value, json};
use shaddock::{
    channel::{ChannelConfig, ChannelStore, JoinError, MemoryStore},
    cluster::{Interest, LocalCluster, owner_of},
    prelude::*,
    session::ClusterSessionEvent,
};
use shaddock_cluster::{Context, SessionAnswer, SessionOp};

use crate::support::{Client, In, eventually, front, frontend, login, start, uid};

fn pushes(client: &mut Client) -> Vec<Value> {
    let all = client.drain().into_iter();
    all.map(|one| match one {
        In::Push { body, .. } => body,
        other => panic!("unexpected {other:?}"),
    })
    .collect()
}

#[tokio::test]
async fn any_server_lets_users_in_and_pushes() {
    let mut chat = App::new("chat", "chat-1");
    chat.route("room.enter", async |Ctx(app): Ctx, session: SessionView| {
        let joined = app.topic("room:7").join(&session).await?;
        Ok::<_, HandlerError>(Json(joined.is_new()))
    });
    let running = start([
        frontend("connector-1"),
        frontend("connector-2"),
        chat,
        App::new("chat", "chat-2"),
        App::new("game", "game-1"),
    ])
    .await;
    let app = |id| running.app(id).unwrap();
    let mut ann = login(app("connector-1"), "ann").await;
    let mut ann_too = login(app("connector-1"), "ann").await;
    let mut bob = login(app("connector-2"), "bob").await;
    let mut eve = login(app("connector-2"), "eve").await;
    let game = app("game-1").topic("room:7");
    assert!(game.is_empty().await.unwrap());
    game.push("onText", "nobody").await.unwrap();
    // Through chat servers, whichever they are: `chat-2` has no such route.
    let mut entered = 0;
    while entered < 2 {
        let client = if entered == 0 { &mut ann } else { &mut bob };
        let answer = client.request("chat.room.enter", json!({})).await;
        entered += usize::from(answer == json!(true));
    }
    assert_eq!(game.len().await.unwrap(), 2);
    let mut members = game.members().await.unwrap().list;
    members.sort();
    assert_eq!(
        members,
        [
            (uid("ann"), front("connector-1")),
            (uid("bob"), front("connector-2"))
        ]
    );
    assert_eq!(
        game.frontends_of("bob").await.unwrap(),
        [front("connector-2")]
    );
    assert!(game.frontends_of("eve").await.unwrap().is_empty());

    for (n, sender) in [(1, "game-1"), (2, "chat-2"), (3, "connector-1")] {
        app(sender)
            .topic("room:7")
            .push("onText", &n)
            .await
            .unwrap();
        for client in [&mut ann, &mut ann_too, &mut bob] {
            assert_eq!(pushes(client), [json!(n)]);
        }
    }
    game.push_except("ann", "onText", "others").await.unwrap();
    assert_eq!(pushes(&mut bob), [json!("others")]);
    for client in [&mut ann, &mut ann_too, &mut eve] {
        assert!(pushes(client).is_empty());
    }
    app("chat-1")
        .topic("room:8")
        .push("onText", "another")
        .await
        .unwrap();

    ann.session.close(CloseReason::ClientClosed);
    assert_eq!(game.len().await.unwrap(), 2, "she has another session");
    assert!(game.leave("ann", "connector-1").await.unwrap());
    assert!(!game.leave("ann", "connector-1").await.unwrap());
    bob.session.unbind(&uid("bob")).unwrap();
    assert!(game.is_empty().await.unwrap());
    game.push("onText", "nobody").await.unwrap();
    assert!(pushes(&mut ann_too).is_empty() && pushes(&mut bob).is_empty());
}

#[tokio::test]
async fn joins_that_cannot_succeed_report_the_reason() {
    let running = start([frontend("connector-1"), App::new("chat", "chat-1")]).await;
    let (connector, chat) = (
        running.app("connector-1").unwrap(),
        running.app("chat-1").unwrap(),
    );
    let ann = login(connector, "ann").await;
    let sessions = chat.backend_sessions();
    let view = sessions
        .get("connector-1", ann.sid())
        .await
        .unwrap()
        .unwrap();
    let longest = "x".repeat(256);
    for name in ["a.b", "*", ">", " ", "\u{5927}\u{5385}", &*longest] {
        let topic = chat.topic(name);
        assert!(topic.join(&view).await.unwrap().is_new(), "{name}");
        assert!(!topic.join(&view).await.unwrap().is_new());
        assert!(topic.quit(&view).await.unwrap() && !topic.quit(&view).await.unwrap());
    }
    for name in ["", &*"x".repeat(257)] {
        let topic = chat.topic(name);
        assert!(matches!(
            topic.join(&view).await,
            Err(JoinError::Refused(_))
        ));
        assert!(topic.push("onText", "x").await.is_err());
        assert_eq!(topic.len().await.unwrap(), 0);
    }
    let topic = chat.topic("lobby");
    let nowhere = topic.add(&uid("ann"), &front("connector-9")).await;
    assert!(matches!(nowhere, Err(JoinError::Remote(_))));
    let guest = Client::connect(connector);
    let guest = sessions
        .get("connector-1", guest.sid())
        .await
        .unwrap()
        .unwrap();
    assert!(matches!(topic.join(&guest).await, Err(JoinError::NotBound)));
    ann.session.close(CloseReason::ClientClosed);
    assert!(matches!(topic.join(&view).await, Err(JoinError::Closed)));
    assert!(topic.is_empty().await.unwrap());
}

#[tokio::test]
async fn a_user_is_in_no_more_rooms_than_is_allowed() {
    let mut connector = frontend("connector-1");
    connector.set(SessionConfig::default().max_memberships(2));
    let running = start([connector]).await;
    let app = &running.apps()[0];
    let _ann = login(app, "ann").await;
    let room = app.channels().create("room").unwrap();
    assert!(room.add(&uid("ann"), &front("connector-1")).await.is_ok());
    assert!(
        app.topic("one")
            .add(&uid("ann"), &front("connector-1"))
            .await
            .is_ok()
    );
    let refused = app
        .topic("two")
        .add(&uid("ann"), &front("connector-1"))
        .await;
    assert!(matches!(refused, Err(JoinError::Refused(_))), "{refused:?}");
    assert_eq!(
        app.channels()
            .leave_all("ann", "connector-1")
            .await
            .unwrap(),
        1
    );
    assert!(
        app.topic("two")
            .add(&uid("ann"), &front("connector-1"))
            .await
            .is_ok()
    );
    assert_eq!(
        app.topic("one").len().await.unwrap(),
        1,
        "topics are no channels of this app"
    );
}

#[tokio::test]
async fn what_was_counted_a_moment_ago_is_enough_for_some() {
    let running = start([frontend("connector-1")]).await;
    let app = &running.apps()[0];
    let _ann = login(app, "ann").await;
    let topic = app.topic("lobby");
    let hour = Duration::from_secs(3600);
    assert_eq!(topic.len_within(hour).await.unwrap(), 0);
    assert!(topic.add(&uid("ann"), &front("connector-1")).await.is_ok());
    assert_eq!(topic.len_within(hour).await.unwrap(), 0);
    assert_eq!(topic.len().await.unwrap(), 1);
    assert_eq!(topic.len_within(Duration::ZERO).await.unwrap(), 1);
    assert_eq!(topic.len_within(hour).await.unwrap(), 1);
}

/// Waits until the frontend tells this server who comes and goes.
async fn is_watched_by(frontend: &AppHandle, watcher: &str) {
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    loop {
        let op = SessionOp::NextNotice {
            watcher: watcher.try_into().unwrap(),
        };
        let (membership, id) = (frontend.membership().unwrap(), &frontend.info().id);
        let answer = membership.session_op(id, op, Context::new()).await.unwrap();
        if matches!(answer, SessionAnswer::Count(next) if next > 0) {
            return;
        }
        assert!(
            std::time::Instant::now() < deadline,
            "{watcher} does not ask"
        );
        tokio::task::yield_now().await;
    }
}

/// What listeners heard, by server.
type Heard = Arc<Mutex<Vec<String>>>;

fn listening(id: &str, heard: &Heard) -> App {
    let mut app = App::new("chat", id);
    let heard = Arc::clone(heard);
    app.on_topic("room:", move |app, event| {
        let how = event
            .departure()
            .map_or("joined".to_owned(), |why| format!("{why:?}"));
        let line = format!("{} {} {} {how}", app.id(), event.name(), event.uid());
        heard.lock().unwrap().push(line);
        async {}
    });
    app
}

#[tokio::test]
async fn one_server_of_a_type_receives_joins_and_leaves() {
    let heard = Heard::default();
    let cluster = LocalCluster::new();
    let start = |app| Servers::new().add(app).cluster(cluster.clone()).start();
    let chats = [
        start(listening("chat-1", &heard)).await.unwrap(),
        start(listening("chat-2", &heard)).await.unwrap(),
    ];
    let connector = start(frontend("connector-1")).await.unwrap();
    let app = connector.app("connector-1").unwrap();
    let servers = app.membership().unwrap().members().servers_of("chat");
    let of = |topic: &str| owner_of(topic.as_bytes(), &servers).unwrap().id.to_string();
    is_watched_by(app, "chat-1").await;
    is_watched_by(app, "chat-2").await;
    let (ann, bob) = (login(app, "ann").await, login(app, "bob").await);
    let place = front("connector-1");
    for topic in ["room:1", "room:2", "hall:1"] {
        assert!(
            app.topic(topic)
                .add(&uid("ann"), &place)
                .await
                .unwrap()
                .is_new()
        );
    }
    assert!(app.topic("room:1").add(&uid("bob"), &place).await.is_ok());
    app.topic("room:2")
        .leave("ann", "connector-1")
        .await
        .unwrap();
    ann.session.close(CloseReason::ClientClosed);
    bob.session.unbind(&uid("bob")).unwrap();
    let (one, two) = (of("room:1"), of("room:2"));
    let mut expected = vec![
        format!("{one} room:1 ann joined"),
        format!("{two} room:2 ann joined"),
        format!("{one} room:1 bob joined"),
        format!("{two} room:2 ann Left"),
        format!("{one} room:1 ann Closed"),
        format!("{one} room:1 bob Unbound"),
    ];
    eventually("all of it", || {
        heard.lock().unwrap().len() == expected.len()
    })
    .await;
    // In order for each topic; the two servers do not wait for each other.
    let of_topic = |lines: &[String], topic: &str| -> Vec<String> {
        lines
            .iter()
            .filter(|line| line.contains(topic))
            .cloned()
            .collect()
    };
    let found = std::mem::take(&mut *heard.lock().unwrap());
    for topic in ["room:1", "room:2"] {
        assert_eq!(of_topic(&found, topic), of_topic(&expected, topic));
    }
    expected.clear();

    // Who was in before a server came is no news to it; who leaves then is.
    let carl = login(app, "carl").await;
    assert!(app.topic("room:9").add(&uid("carl"), &place).await.is_ok());
    eventually("carl", || !heard.lock().unwrap().is_empty()).await;
    let owner = of("room:9");
    let [first, second] = chats;
    first.shutdown().await;
    second.shutdown().await;
    heard.lock().unwrap().clear();
    let again = start(listening(&owner, &heard)).await.unwrap();
    is_watched_by(app, &owner).await;
    carl.session.close(CloseReason::ClientClosed);
    let line = format!("{owner} room:9 carl Closed");
    eventually("carl has left", || heard.lock().unwrap().contains(&line)).await;
    assert_eq!(*heard.lock().unwrap(), [line]);
    drop(again);
}

#[tokio::test]
async fn the_server_of_a_channel_is_notified_and_its_store_updated() {
    let store = Arc::new(MemoryStore::default());
    let stored = |store: &MemoryStore| {
        let mut members = store.load("pomelo:channel:chat-1:lobby").unwrap();
        members.sort();
        members
    };
    let cluster = LocalCluster::new();
    let start = |app| Servers::new().add(app).cluster(cluster.clone()).start();
    let connector = start(frontend("connector-1")).await.unwrap();
    let app = connector.app("connector-1").unwrap();
    let chat = |heard: &Heard, restores: bool| {
        let mut chat = App::new("chat", "chat-1");
        chat.set(ChannelConfig::default().store(store.clone()));
        let heard = Arc::clone(heard);
        chat.on_channel("lob", move |_, event| {
            let how = event.departure().is_some();
            heard
                .lock()
                .unwrap()
                .push(format!("{} {} {how}", event.name(), event.uid()));
            async {}
        });
        if restores {
            chat.component(Restores);
        }
        chat
    };
    let heard = Heard::default();
    let first = start(chat(&heard, false)).await.unwrap();
    is_watched_by(app, "chat-1").await;
    let room = first.apps()[0].channels().create("lobby").unwrap();
    let (ann, bob, mut eve) = (
        login(app, "ann").await,
        login(app, "bob").await,
        login(app, "eve").await,
    );
    for name in ["ann", "bob", "eve"] {
        assert!(room.add(&uid(name), &front("connector-1")).await.is_ok());
    }
    assert_eq!(stored(&store).len(), 3);
    ann.session.close(CloseReason::ClientClosed);
    eventually("ann has left the store too", || stored(&store).len() == 2).await;
    let line = "lobby ann true".to_owned();
    eventually("and it was told", || {
        heard.lock().unwrap().last() == Some(&line)
    })
    .await;
    first.shutdown().await;

    // While no watcher is running, bob leaves. The next run of the server queries the members.
    bob.session.close(CloseReason::ClientClosed);
    assert_eq!(stored(&store), ["connector-1:bob", "connector-1:eve"]);
    let second = start(chat(&heard, true)).await.unwrap();
    eventually("nobody is remembered who has gone", || {
        stored(&store) == ["connector-1:eve"]
    })
    .await;
    let room = second.apps()[0].channels().get("lobby").unwrap();
    assert_eq!(room.members().await.unwrap().uids(), [uid("eve")]);
    let delivered = room.push_message("onText", "x").await.unwrap();
    assert_eq!(delivered.queued, 1);
    assert_eq!(pushes(&mut eve), [json!("x")]);
}

struct Restores;

impl Component for Restores {
    fn name(&self) -> &'static str {
        "restores channels"
    }

    async fn start(&self, app: &AppHandle) -> Result<(), shaddock::app::BoxError> {
        app.channels().restore()?;
        Ok(())
    }
}

#[tokio::test]
async fn listeners_receive_the_events_they_subscribed_to_also_of_dead_frontends() {
    let heard = Heard::default();
    let mut watcher = App::new("audit", "audit-1");
    for (name, interest) in [
        ("gates", Interest::of_type("gate")),
        ("connectors", Interest::of_type("connector")),
        ("bots", Interest::of_users("bot-")),
    ] {
        let heard = Arc::clone(&heard);
        watcher.on_cluster_session(interest, move |_, event: ClusterSessionEvent| {
            let line = format!("{name}: {} {:?}", event.frontend_type(), event.kind());
            heard.lock().unwrap().push(line);
            async {}
        });
    }
    let cluster = LocalCluster::new();
    let audit = Servers::new().add(watcher).cluster(cluster.clone());
    let audit = audit.start().await.unwrap();
    let serves = Servers::new().add(frontend("connector-1")).cluster(cluster);
    let serves = serves.start().await.unwrap();
    let ann = login(serves.app("connector-1").unwrap(), "ann").await;
    // It ends without a word, before the events of its sessions are read.
    drop((ann, serves));
    let of_all = [
        "bots: connector FrontendLost",
        "connectors: connector FrontendLost",
    ];
    eventually("all of it", || {
        let heard = heard.lock().unwrap();
        of_all
            .iter()
            .all(|line| heard.iter().any(|other| other == line))
    })
    .await;
    let heard = heard.lock().unwrap();
    assert!(
        !heard.iter().any(|line| line.starts_with("gates")),
        "{heard:?}"
    );
    let bots = heard.iter().filter(|line| line.starts_with("bots"));
    assert_eq!(bots.count(), 1, "{heard:?}");
    drop(audit);
}

#[tokio::test]
async fn events_of_sessions_reach_servers_that_ask_for_them() {
    let heard = Heard::default();
    let mut watcher = App::new("audit", "audit-1");
    let of_bots = Arc::clone(&heard);
    watcher.on_cluster_session(
        Interest::of_users("bot-"),
        move |_, event: ClusterSessionEvent| {
            let uid = event.uid().map_or("", Uid::as_str);
            let line = format!("{} {uid} {:?}", event.frontend(), event.kind());
            of_bots.lock().unwrap().push(line);
            async {}
        },
    );
    let running = start([frontend("connector-1"), watcher]).await;
    let app = running.app("connector-1").unwrap();
    let (bot, ann) = (login(app, "bot-7").await, login(app, "ann").await);
    bot.session.unbind(&uid("bot-7")).unwrap();
    app.bind(bot.sid(), uid("bot-8")).await.unwrap();
    ann.session.close(CloseReason::ClientClosed);
    bot.session.close(CloseReason::ClientClosed);
    let expected = [
        "connector-1 bot-7 Bound",
        "connector-1 bot-7 Unbound",
        "connector-1 bot-8 Bound",
        "connector-1 bot-8 Closed(\"client_closed\")",
    ];
    eventually("all of it", || {
        heard.lock().unwrap().len() == expected.len()
    })
    .await;
    assert_eq!(*heard.lock().unwrap(), expected);
}
