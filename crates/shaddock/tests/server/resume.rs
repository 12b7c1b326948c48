//! Resumable sessions, over real sockets and with a real app: events, hooks, policies. What happens at each byte is tested in
//! the simulated world of `shaddock-net`.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::{Value, json};
use shaddock::{prelude::*, wire::CodecConfig};
use shaddock_core::{Conflict, ResumeConfig, SessionState, SessionsPerUser};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::support::{start, wait::breathe};

const PATIENCE: Duration = Duration::from_secs(30);

type Events = Arc<Mutex<Vec<String>>>;

fn connector(config: SessionConfig) -> (App, Events) {
    let events = Events::default();
    let mut app = App::new("connector", "connector-1");
    app.listen("127.0.0.1:0");
    app.set(config).set(CodecConfig::default());
    let note = |name: &'static str| {
        let events = Arc::clone(&events);
        move |_: AppHandle, event: SessionEvent| {
            let uid = event.uid().map_or("nobody", Uid::as_str).to_owned();
            let suspended = event.session().is_suspended();
            events
                .lock()
                .unwrap()
                .push(format!("{name} {uid} {suspended}"));
            std::future::ready(())
        }
    };
    app.on_session_bound(note("bound"))
        .on_session_suspended(note("suspended"))
        .on_session_resumed(note("resumed"))
        .on_session_closed(note("closed"));
    app.route(
        "h.join",
        async |mut session: SessionView, Json(name): Json<String>| {
            session.bind(Uid::new(name)?).await?;
            Ok::<_, HandlerError>(Json(1))
        },
    );
    app.route("h.echo", async |Json(body): Json<Value>| Json(body));
    (app, events)
}

/// A client by hand: packages in and out.
struct Client {
    stream: TcpStream,
    /// What the server says of resumption.
    resume: Value,
}

impl Client {
    async fn come(address: SocketAddr, resume: Value, version: &str) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let hello = json!({"sys": {"type": "t", "version": version, "resume": resume}}).to_string();
        send(&mut stream, 1, hello.as_bytes()).await;
        let (kind, body) = next(&mut stream).await.unwrap();
        assert_eq!(kind, 1);
        let answer: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(answer["code"], 200);
        send(&mut stream, 2, b"").await;
        Self {
            stream,
            resume: answer["sys"]["resume"].clone(),
        }
    }

    async fn new(address: SocketAddr) -> Self {
        Self::come(address, json!({"v": 1}), "1").await
    }

    fn token(&self) -> String {
        self.resume["token"].as_str().unwrap().to_owned()
    }

    async fn ask(&mut self, id: u8, method: &str, body: &Value) {
        let route = format!("connector.h.{method}");
        let mut message = vec![0, id, u8::try_from(route.len()).unwrap()];
        message.extend(route.bytes());
        message.extend(body.to_string().bytes());
        send(&mut self.stream, 4, &message).await;
    }

    /// The next DATA.
    async fn data(&mut self) -> Vec<u8> {
        loop {
            let (kind, body) = next(&mut self.stream).await.expect("DATA");
            if kind == 4 {
                return body;
            }
        }
    }

    async fn join(&mut self, name: &str) -> Vec<u8> {
        self.ask(1, "join", &json!(name)).await;
        self.data().await
    }
}

async fn send(stream: &mut TcpStream, kind: u8, body: &[u8]) {
    let [_, high, middle, low] = u32::try_from(body.len()).unwrap().to_be_bytes();
    let package = [&[kind, high, middle, low], body].concat();
    stream.write_all(&package).await.unwrap();
}

async fn next(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let read = async {
        let mut head = [0; 4];
        stream.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[1], head[2], head[3]]);
        let mut body = vec![0; usize::try_from(length).unwrap()];
        stream.read_exact(&mut body).await.ok()?;
        Some((head[0], body))
    };
    timeout(PATIENCE, read).await.expect("an answer in time")
}

/// Waits until something is so.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let wait = async {
        while !is_so() {
            breathe().await;
        }
    };
    assert!(timeout(PATIENCE, wait).await.is_ok(), "{what}");
}

fn back(client: &Client, received: u64, sent: u64) -> Value {
    json!({"v": 1, "token": client.token(), "received": received, "sent": sent})
}

fn states(running: &Running) -> Vec<SessionState> {
    let service = running
        .app("connector-1")
        .unwrap()
        .session_service()
        .unwrap()
        .clone();
    let mut states = Vec::new();
    service.for_each_session(|session| states.push(session.state()));
    states
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_comes_back_with_its_user_and_what_it_was_sent() {
    let (app, events) = connector(SessionConfig::default());
    let running = start([app]).await;
    let address = running.address("connector-1").unwrap();
    let mut client = Client::new(address).await;
    assert_eq!(
        (&client.resume["window"], &client.resume["ack"]),
        (&json!(60), &json!(32))
    );
    client.join("ann").await;
    let old = back(&client, 1, 1);
    drop(client);
    until("it waits", || states(&running) == [SessionState::Suspended]).await;
    let app = running.app("connector-1").unwrap();
    let uids = [(
        Uid::new("ann").unwrap(),
        FrontendId::new("connector-1").unwrap(),
    )];
    let pushed = app
        .channels()
        .push_message_by_uids("onNews", &json!({"n": 1}), &uids)
        .await;
    assert_eq!(pushed.unwrap().queued, 1);
    let mut again = Client::come(address, old, "1").await;
    let told = [
        ("resumed", json!(true)),
        ("received", json!(1)),
        ("position", json!(1)),
        ("missed", json!(0)),
    ];
    for (name, value) in told {
        assert_eq!(again.resume[name], value, "{name}");
    }
    let news = again.data().await;
    assert!(
        String::from_utf8_lossy(&news).ends_with(r#"{"n":1}"#),
        "{news:?}"
    );
    again.ask(2, "echo", &json!({"m": "hi"})).await;
    assert!(again.data().await.ends_with(br#"{"m":"hi"}"#));
    assert_eq!(states(&running), [SessionState::Open]);
    // A goodbye ends it.
    send(&mut again.stream, 5, b"").await;
    let expected = [
        "bound ann",
        "suspended ann",
        "resumed ann",
        "closed ann false",
    ];
    until("all events", || events.lock().unwrap().len() == 4).await;
    for (event, expected) in events.lock().unwrap().iter().zip(expected) {
        // Listeners look a moment later: the state is that of then.
        assert!(event.starts_with(expected), "{event}, not {expected}");
    }
    until("it is gone", || states(&running).is_empty()).await;
    running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_application_may_refuse() {
    let (mut app, _) = connector(SessionConfig::default());
    app.before_resume(async |_, session: FrontendSession, info: HandshakeInfo| {
        assert!(session.is_suspended());
        match info.request().version.as_deref() {
            Some("old") => Err(HandshakeReject::new("too old")),
            Some("panic") => panic!("expected in this test"),
            _ => Ok(()),
        }
    });
    let running = start([app]).await;
    let address = running.address("connector-1").unwrap();
    for version in ["old", "panic"] {
        let client = Client::new(address).await;
        let old = back(&client, 0, 0);
        let before = states(&running).len();
        drop(client);
        until("it waits", || {
            states(&running)
                .iter()
                .filter(|state| **state == SessionState::Suspended)
                .count()
                == before
        })
        .await;
        let refused = Client::come(address, old.clone(), version).await;
        assert_eq!(
            (&refused.resume["resumed"], &refused.resume["why"]),
            (&json!(false), &json!("denied"))
        );
        assert_ne!(refused.resume["token"], old["token"]);
        // The one that was refused may try again.
        let again = Client::come(address, old, "1").await;
        assert_eq!(again.resume["resumed"], true);
        drop((refused, again));
        until("both wait", || {
            states(&running)
                .iter()
                .all(|state| *state == SessionState::Suspended)
        })
        .await;
    }
    running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspended_session_blocks_no_login() {
    for on_conflict in [Conflict::RejectNew, Conflict::ReplaceOld] {
        let (app, events) = connector(
            SessionConfig::default().sessions_per_user(SessionsPerUser::One(on_conflict)),
        );
        let running = start([app]).await;
        let address = running.address("connector-1").unwrap();
        let mut first = Client::new(address).await;
        first.join("ann").await;
        if on_conflict == Conflict::RejectNew {
            let mut second = Client::new(address).await;
            let refused = second.join("ann").await;
            assert!(refused.ends_with(br#"{"code":500}"#), "{refused:?}");
            send(&mut second.stream, 5, b"").await;
            until("the second is gone", || states(&running).len() == 1).await;
        }
        let old = back(&first, 1, 1);
        drop(first);
        until("it waits", || states(&running) == [SessionState::Suspended]).await;
        let mut second = Client::new(address).await;
        assert!(second.join("ann").await.ends_with(b"1"));
        until("the first is closed", || {
            events
                .lock()
                .unwrap()
                .iter()
                .any(|event| event.starts_with("closed ann"))
        })
        .await;
        let late = Client::come(address, old, "1").await;
        assert_eq!(late.resume["why"], "unknown");
        running.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_tokens_are_limited_per_address() {
    let (mut app, _) = connector(SessionConfig::default());
    app.set(ResumePolicy::default().max_refused(3));
    let running = start([app]).await;
    let address = running.address("connector-1").unwrap();
    let owner = Client::new(address).await;
    let token = owner.token();
    let tokens = [
        json!(""),
        json!("0".repeat(500)),
        json!(format!("{}{}", &token[..16], "0".repeat(32))),
    ];
    for token in tokens {
        let asked = json!({"v": 1, "token": token, "received": 0, "sent": 0});
        let forger = Client::come(address, asked, "1").await;
        assert_eq!(forger.resume["why"], "unknown");
    }
    let asked = json!({"v": 1, "token": token, "received": 0, "sent": 0});
    let busy = Client::come(address, asked, "1").await;
    assert_eq!(busy.resume["why"], "busy");
    // Of a wrong type: as if it were absent.
    for resume in [
        json!(7),
        json!({"v": 1, "token": 7}),
        json!([]),
        Value::Null,
        json!({"v": 2}),
    ] {
        let none = Client::come(address, resume.clone(), "1").await;
        assert_eq!(none.resume, Value::Null, "{resume}");
    }
    assert!(states(&running).contains(&SessionState::Open));
    let service = running
        .app("connector-1")
        .unwrap()
        .session_service()
        .unwrap()
        .clone();
    let statistics = service.resume_statistics();
    assert!(
        statistics.refused.contains(&("unknown", 3)) && statistics.refused.contains(&("busy", 1))
    );
    running.shutdown().await;
}

/// Each time with its own token, and each time it gets its session.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_comes_back_in_a_loop_is_limited() {
    let (mut app, _) = connector(SessionConfig::default());
    app.set(ResumePolicy::default().max_returns(5));
    let running = start([app]).await;
    let address = running.address("connector-1").unwrap();
    let mut client = Client::new(address).await;
    for n in 1..=5 {
        let again = back(&client, 0, 0);
        client = Client::come(address, again, "1").await;
        assert_eq!(client.resume["resumed"], true, "{n}");
    }
    let again = back(&client, 0, 0);
    let client = Client::come(address, again, "1").await;
    assert_eq!(
        (&client.resume["resumed"], &client.resume["why"]),
        (&json!(false), &json!("busy"))
    );
    running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_can_be_off_and_it_can_ask_for_tls() {
    let off = ResumePolicy::default().enabled(false);
    let tls = ResumePolicy::default().require_tls(true);
    for policy in [off, tls] {
        let (mut app, _) = connector(SessionConfig::default());
        app.set(policy);
        let running = start([app]).await;
        let address = running.address("connector-1").unwrap();
        let client = Client::new(address).await;
        assert_eq!(client.resume, Value::Null);
        drop(client);
        until("it is closed", || states(&running).is_empty()).await;
        running.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_window_ends_a_session_and_a_shutdown_waits_for_none() {
    let config =
        SessionConfig::default().resume(ResumeConfig::default().window(Duration::from_millis(300)));
    let (app, events) = connector(config);
    let running = start([app]).await;
    let address = running.address("connector-1").unwrap();
    drop(Client::new(address).await);
    until("it expires", || {
        events
            .lock()
            .unwrap()
            .iter()
            .any(|event| event.starts_with("closed"))
    })
    .await;
    running.shutdown().await;

    let (app, _) = connector(SessionConfig::default());
    let running = start([app]).await;
    let address = running.address("connector-1").unwrap();
    drop(Client::new(address).await);
    until("it waits", || states(&running) == [SessionState::Suspended]).await;
    timeout(PATIENCE, running.shutdown())
        .await
        .expect("suspended sessions end with the server");
}
