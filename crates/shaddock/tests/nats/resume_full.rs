//! What happens when as much is kept for a client as may be: `session.resume.on_full`. In virtual time, and over real NATS.

use std::time::Duration;

use serde_json::json;
use shaddock::{cluster::LocalCluster, prelude::*, session::ResumeConfig, testing::TestServers};
use shaddock_core::{OnFull, Session};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};

use crate::support::{
    by_hand::{ByHand, Lost},
    uid,
};

const MAX: usize = 4;
const WAIT: Duration = Duration::from_secs(1);

fn connector(on_full: OnFull, max_wait: Duration) -> App {
    let mut app = App::new("connector", "connector-1");
    app.listen("127.0.0.1:0");
    app.set(
        SessionConfig::default().resume(
            ResumeConfig::default()
                .ack(3)
                .max_messages(MAX)
                .on_full(on_full)
                .max_wait(max_wait)
                .window(Duration::from_secs(600)),
        ),
    );
    app.route(
        "h.join",
        async |mut session: SessionView, Json(name): Json<String>| {
            session.bind(Uid::new(name)?).await?;
            Ok::<_, HandlerError>(Json(1))
        },
    );
    app
}

async fn join<S: AsyncRead + AsyncWrite + Unpin>(stream: S, name: &str) -> ByHand<S> {
    let mut client = ByHand::new(stream).await;
    client.request("connector.h.join", &json!(name)).await;
    // Nothing is kept.
    client.acknowledge().await;
    client
}

fn session(app: &AppHandle, name: &str) -> std::sync::Arc<Session> {
    app.session_service().unwrap().get_by_uid(name).remove(0)
}

async fn push(app: &AppHandle, name: &str, n: u64) {
    let users = [uid(name)];
    let sent =
        app.channels()
            .push_message_to_users("connector", "onNews", &json!({"n": n}), &users);
    assert_eq!(sent.await.unwrap().queued, 1);
}

/// A client that is away, with nothing kept for it.
async fn away(servers: &TestServers, name: &str) -> Lost {
    let (stream, _faults) = servers.connect_raw("connector-1");
    let client = join(stream, name).await;
    servers.settle().await;
    let client = client.cut();
    servers.settle().await;
    let session = session(servers.app("connector-1"), name);
    assert_eq!(
        session
            .resumable()
            .filter(|state| state.suspended.is_some())
            .unwrap()
            .kept_messages,
        0
    );
    client
}

async fn two(on_full: OnFull) -> TestServers {
    let servers = Servers::new()
        .add(connector(on_full, WAIT))
        .add(App::new("chat", "chat-1"));
    TestServers::start(servers.cluster(LocalCluster::new()))
        .await
        .unwrap()
}

/// Sent by the frontend and by another server.
const SENDERS: [&str; 2] = ["connector-1", "chat-1"];

#[tokio::test(start_paused = true)]
async fn by_default_no_sender_waits_and_there_is_a_gap() {
    for sender in SENDERS {
        let servers = two(OnFull::Gap).await;
        let lost = away(&servers, "ann").await;
        let began = Instant::now();
        for n in 0..10 {
            push(servers.app(sender), "ann", n).await;
        }
        assert!(began.elapsed() < WAIT);
        let client = lost.again(servers.connect_raw("connector-1").0).await;
        assert_eq!(client.resume["missed"], 6);
        servers.shutdown().await;
    }
}

#[tokio::test(start_paused = true)]
async fn senders_wait_for_a_time_and_as_much_again_is_kept() {
    for sender in SENDERS {
        let servers = two(OnFull::Wait).await;
        let lost = away(&servers, "ann").await;
        let app = servers.app(sender);
        for n in 0..12 {
            let began = Instant::now();
            push(app, "ann", n).await;
            let waited = began.elapsed();
            if n < 4 {
                assert_eq!(waited, Duration::ZERO, "{n}");
            } else {
                assert!(waited >= WAIT && waited < 2 * WAIT, "{n}: {waited:?}");
            }
            let kept = session(servers.app("connector-1"), "ann")
                .resumable()
                .filter(|state| state.suspended.is_some())
                .unwrap();
            assert_eq!(
                kept.kept_messages,
                usize::try_from(n + 1).unwrap().min(2 * MAX)
            );
        }
        // No sender waits for another.
        let _bob = away(&servers, "bob").await;
        let began = Instant::now();
        push(app, "bob", 1).await;
        assert_eq!(began.elapsed(), Duration::ZERO);
        let client = lost.again(servers.connect_raw("connector-1").0).await;
        assert_eq!(client.resume["missed"], 4);
        servers.shutdown().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_sender_goes_on_when_the_client_has_acknowledged_or_its_session_ends() {
    for (sender, comes_back) in [(0, true), (0, false), (1, true), (1, false)] {
        let servers = two(OnFull::Wait).await;
        let lost = away(&servers, "ann").await;
        let app = servers.app(SENDERS[sender]).clone();
        for n in 0..4 {
            push(&app, "ann", n).await;
        }
        let began = Instant::now();
        let waits = tokio::spawn(async move {
            push(&app, "ann", 4).await;
            began.elapsed()
        });
        servers.pass(WAIT / 2).await;
        assert!(!waits.is_finished());
        if comes_back {
            let mut client = lost.again(servers.connect_raw("connector-1").0).await;
            for _ in 0..5 {
                client.data().await;
            }
            client.acknowledge().await;
            let waited = waits.await.unwrap();
            assert!(waited < WAIT, "{waited:?}");
            assert_eq!(client.resume["missed"], 0);
        } else {
            session(servers.app("connector-1"), "ann").close(CloseReason::kicked("go"));
            assert!(waits.await.unwrap() < WAIT);
        }
        servers.shutdown().await;
    }
}

/// A client that is there owes an acknowledgement for every three messages: it is waited for. For two long ones it owes none, and it would not come.
#[tokio::test(start_paused = true)]
async fn with_a_connection_only_an_acknowledgement_that_is_owed_is_waited_for() {
    let servers = two(OnFull::Wait).await;
    let app = servers.app("connector-1").clone();
    let mut client = join(servers.connect_raw("connector-1").0, "ann").await;
    for n in 0..4 {
        push(&app, "ann", n).await;
    }
    let began = Instant::now();
    let waits = tokio::spawn(async move { push(&app, "ann", 4).await });
    for _ in 0..5 {
        client.data().await;
    }
    servers.pass(WAIT / 4).await;
    assert!(!waits.is_finished());
    client.acknowledge().await;
    waits.await.unwrap();
    assert!(began.elapsed() < WAIT);
    // Above `max_bytes`.
    let app = servers.app("connector-1");
    let users = [uid("ann")];
    let began = Instant::now();
    for _ in 0..2 {
        let long = json!({"x": "x".repeat(40_000)});
        let sent = app
            .channels()
            .push_message_to_users("connector", "onNews", &long, &users);
        assert_eq!(sent.await.unwrap().queued, 1);
        client.data().await;
    }
    assert!(began.elapsed() < WAIT);
    servers.shutdown().await;
}

#[cfg(feature = "nats")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_nats_a_sender_waits_and_the_others_do_not() {
    use shaddock::cluster::NatsCluster;
    use tokio::net::TcpStream;

    let backing = crate::servers::Backing::start();
    let mut config = backing.patient_config();
    config.request_timeout = Duration::from_secs(120);
    config.push_timeout = Duration::from_secs(60);
    let cluster = NatsCluster::new(config).unwrap();
    let front = connector(OnFull::Wait, Duration::from_secs(50));
    let start = |app| Servers::new().add(app).cluster(cluster.clone()).start();
    let (front, chat) = (
        start(front).await.unwrap(),
        start(App::new("chat", "chat-1")).await.unwrap(),
    );
    let address = front.address("connector-1").unwrap();
    crate::wait::until("the frontend is listed", || {
        let membership = chat.app("chat-1").unwrap().membership().unwrap();
        membership.members().frontends().len() == 1
    })
    .await;
    let connect = async || TcpStream::connect(address).await.unwrap();
    let (app, chat_app) = (
        front.app("connector-1").unwrap(),
        chat.app("chat-1").unwrap().clone(),
    );
    let lost = join(connect().await, "ann").await.cut();
    let mut bob = join(connect().await, "bob").await;
    crate::wait::until("ann is away", || {
        let ann = session(app, "ann")
            .resumable()
            .filter(|state| state.suspended.is_some());
        ann.is_some_and(|ann| ann.kept_messages == 0)
    })
    .await;
    for n in 0..4 {
        push(&chat_app, "ann", n).await;
    }
    let sender = chat_app.clone();
    let waits = tokio::spawn(async move { push(&sender, "ann", 4).await });
    crate::wait::until("the message is there", || {
        session(app, "ann")
            .resumable()
            .filter(|state| state.suspended.is_some())
            .is_some_and(|ann| ann.kept_messages == 5)
    })
    .await;
    // It came to the same frontend behind the one that waits.
    for n in 0..3 {
        push(&chat_app, "bob", n).await;
        bob.data().await;
    }
    assert!(
        !waits.is_finished(),
        "bob's messages were here before ann had room"
    );
    let mut ann = lost.again(connect().await).await;
    for _ in 0..5 {
        ann.data().await;
    }
    ann.acknowledge().await;
    waits.await.unwrap();
    front.shutdown().await;
    chat.shutdown().await;
}
