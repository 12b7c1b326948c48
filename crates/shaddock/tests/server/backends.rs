//! HTTP backends over real sockets: what a service is asked, what it may answer, and what becomes of everything else.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use hyper::http::Version;
use ring::hmac;
use serde_json::{Value, json};
use shaddock::{
    backend::{BackendEvent, Balance, HttpBackend, Protocol},
    cluster::LocalCluster,
    prelude::*,
    wire::{Dialect, MaybeReady},
};
use shaddock_core::{Conflict, SessionsPerUser};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::http::{
    Asked, Say, Service, ok,
    secure::{Secure, Speaks},
    status,
};
use crate::support::{
    Client, In, drive, frontend, login, start, uid,
    wait::{eventually, until},
};

const FRONT: &str = "connector-1";

async fn running(backend: HttpBackend) -> Running {
    let mut app = frontend(FRONT);
    app.http_backend("chat", backend);
    start([app]).await
}

/// A client that sees codes and texts of errors.
fn pitaya(running: &Running) -> Client {
    Client::with_dialect(&running.apps()[0], Dialect::Pitaya)
}

#[tokio::test]
async fn what_a_service_is_asked() {
    let service = Service::start(|asked| match asked.path.as_str() {
        "/shaddock/room.quiet" => Say::Bytes(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()),
        "/shaddock/room.odd%2F%3Fx" => Say::Json(json!({"body": "odd"})),
        _ => Say::Json(json!({"body": {"heard": asked.body["body"]}})),
    })
    .await;
    let running = running(service.backend()).await;
    let app = &running.apps()[0];
    let mut ann = login(app, "ann").await;
    ann.session.set("room", "lobby").unwrap();
    let body = json!({"text": "hi", "n": 9_007_199_254_740_993_u64});
    let answer = ann.request("chat.room.say", body.clone()).await;
    assert_eq!(answer, json!({"heard": body}));
    assert_eq!(ann.request("chat.room.quiet", json!({})).await, json!({}));
    assert_eq!(
        ann.request("chat.room.odd/?x", json!({})).await,
        json!("odd")
    );
    ann.notify("chat.room.say", json!(1)).await;
    assert!(ann.drain().is_empty(), "nobody is answered");

    let asked = service.asked();
    assert_eq!(asked.len(), 4);
    assert!(
        asked.iter().all(|one| one.connection == 0),
        "one connection is enough"
    );
    assert_eq!(asked[0].path, "/shaddock/room.say");
    assert_eq!(
        asked[0].body,
        json!({
            "kind": "request",
            "route": "chat.room.say",
            "body": body,
            "session": {
                "sid": ann.sid().to_string(), "frontend": FRONT, "uid": "ann", "settings": {"room": "lobby"},
                "address": "127.0.0.1:4711", "transport": "memory",
            },
            "timeout_ms": 60_000,
        })
    );
    assert_eq!(
        (&asked[3].body["kind"], &asked[3].body["body"]),
        (&json!("notify"), &json!(1))
    );
    let headers = &asked[0].headers;
    assert_eq!(headers["host"], service.address.to_string());
    assert_eq!(headers["content-type"], "application/json");
    assert!(
        !headers.contains_key("webhook-signature"),
        "there is no secret"
    );
    let trace: Vec<usize> = headers["traceparent"].split('-').map(str::len).collect();
    assert_eq!(trace, [2, 32, 16, 2], "{}", headers["traceparent"]);
    let ids: std::collections::HashSet<_> =
        asked.iter().map(|one| &one.headers["webhook-id"]).collect();
    assert_eq!(ids.len(), 4);
}

#[tokio::test]
async fn two_secrets_sign_every_request() {
    let service = Service::start(|_| Say::Json(json!({}))).await;
    let secrets = [
        "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "whsec_BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB",
    ];
    let secrets = secrets.map(shaddock::config::Secret::from);
    let running = running(service.backend().secrets(&secrets).unwrap()).await;
    let mut client = pitaya(&running);
    let before = unix_seconds();
    client.request("chat.room.say", json!({})).await;
    let headers = &service.asked()[0].headers;
    let signed: Vec<&str> = headers["webhook-signature"].split(' ').collect();
    assert!(
        signed.len() == 2
            && signed
                .iter()
                .all(|one| one.starts_with("v1,") && one.len() == 47),
        "{signed:?}"
    );
    let timestamp: u64 = headers["webhook-timestamp"].parse().unwrap();
    assert!((before..=unix_seconds()).contains(&timestamp));
    let three = [secrets[0].clone(), secrets[1].clone(), secrets[0].clone()];
    let error = service.backend().secrets(&three).unwrap_err().to_string();
    assert!(error.contains("at most two"), "{error}");
}

/// The parts of a signature that `secret` made.
fn is_signed_by(asked: &Asked, secret: &str) -> bool {
    let key = secret.strip_prefix("whsec_").unwrap();
    let key = BASE64_STANDARD.decode(key).unwrap();
    let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
    let header = |name: &str| asked.headers[name].as_str();
    let head = format!("{}.{}.", header("webhook-id"), header("webhook-timestamp"));
    let signed = [head.as_bytes(), &asked.bytes].concat();
    let made = BASE64_STANDARD.encode(hmac::sign(&key, &signed));
    let mut parts = header("webhook-signature").split(' ');
    parts.any(|part| part.strip_prefix("v1,") == Some(&made))
}

/// A rotation: the old secret, both, the new one. Requests after each step have its signatures, an event that is sent again too, and what
/// is no secret changes nothing.
#[tokio::test]
async fn secrets_are_rotated_while_it_runs() {
    let [old, new] = ["A", "B"].map(|letter| format!("whsec_{}", letter.repeat(32)));
    let secret = |text: &String| shaddock::config::Secret::from(text.as_str());
    let is_up = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let service = Service::start({
        let is_up = std::sync::Arc::clone(&is_up);
        move |_| {
            if is_up.load(Ordering::SeqCst) {
                Say::Json(json!({}))
            } else {
                Say::Bytes(status("401 Unauthorized", ""))
            }
        }
    })
    .await;
    let backend = service.backend().secrets(&[secret(&old)]).unwrap();
    let running = running(backend.events([BackendEvent::Bound])).await;
    let app = running.apps()[0].clone();
    let mut client = Client::connect(&app);
    let signers = |asked: &Asked| [&old, &new].map(|secret| is_signed_by(asked, secret));
    for (secrets, expected) in [
        (vec![], [true, false]),
        (vec![&new, &old], [true, true]),
        (vec![&new], [false, true]),
    ] {
        if !secrets.is_empty() {
            let secrets: Vec<_> = secrets.into_iter().map(secret).collect();
            assert!(app.set_backend_secrets("chat", &secrets).unwrap());
        }
        client.request("chat.room.say", json!({})).await;
        assert_eq!(signers(service.asked().last().unwrap()), expected);
    }
    let wrong = app
        .set_backend_secrets("chat", &["abc".into()])
        .unwrap_err();
    assert!(wrong.to_string().contains("whsec_"), "{wrong}");
    assert!(!app.set_backend_secrets("shop", &[secret(&old)]).unwrap());
    client.request("chat.room.say", json!({})).await;
    assert_eq!(signers(service.asked().last().unwrap()), [false, true]);
    // The service refuses the event until the secret is right.
    is_up.store(false, Ordering::SeqCst);
    let before = service.asked().len();
    let _ann = login(&app, "ann").await;
    until("the event was refused", || service.asked().len() > before).await;
    app.set_backend_secrets("chat", &[secret(&old)]).unwrap();
    until("it is signed with the other secret", || {
        signers(service.asked().last().unwrap()) == [true, false]
    })
    .await;
    is_up.store(true, Ordering::SeqCst);
}

/// A client that sends nothing, and answers without a value: the service reads `null`, and clients `{}`. Pomelo clients read it for other
/// falsy values too, as from Pomelo's servers.
#[tokio::test]
async fn bodies_that_are_empty() {
    let service = Service::start(|asked| match asked.path.as_str() {
        "/shaddock/room.null" => Say::Json(json!({"body": null})),
        "/shaddock/room.none" => Say::Json(json!({})),
        "/shaddock/room.nothing" => Say::Bytes(ok("")),
        "/shaddock/room.object" => Say::Json(json!({"body": {}})),
        "/shaddock/room.zero" => Say::Json(json!({"body": 0})),
        _ => Say::Bytes(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()),
    })
    .await;
    let running = running(service.backend()).await;
    for (dialect, zero) in [(Dialect::Pomelo, json!({})), (Dialect::Pitaya, json!(0))] {
        let mut client = Client::with_dialect(&running.apps()[0], dialect);
        let rows = ["null", "none", "nothing", "204", "object", "zero"];
        for (id, route) in (1..).zip(rows) {
            drive(client.start(Some(id), &format!("chat.room.{route}"), "")).await;
            let expected = if route == "zero" {
                zero.clone()
            } else {
                json!({})
            };
            let answer = client.wait_answer(id).await;
            assert_eq!(answer, (expected, false), "{dialect:?} {route}");
            let asked = service.asked();
            let body = &asked.last().unwrap().body;
            assert_eq!(body.get("body"), Some(&Value::Null), "{body}");
        }
    }
}

fn unix_seconds() -> u64 {
    std::time::UNIX_EPOCH.elapsed().unwrap().as_secs()
}

/// Answers on the level of HTTP and JSON that are none.
fn no_answers() -> Vec<(&'static str, Say)> {
    let bytes = |line: &str, body: &str| Say::Bytes(status(line, body));
    let last = |bytes: &[u8]| Say::Last(bytes.to_vec());
    let endless = |head: &str| Say::Endless(head.into());
    let to =
        "HTTP/1.1 307 Temporary Redirect\r\nlocation: /shaddock/other\r\ncontent-length: 0\r\n\r\n";
    let latin = b"HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n{\"body\":\"\xff\"}";
    vec![
        ("500", bytes("500 Oops", r#"{"body":1}"#)),
        ("404", bytes("404 Not Found", "")),
        ("201", bytes("201 Created", r#"{"body":1}"#)),
        ("a redirect", Say::Bytes(to.into())),
        ("HTML", bytes("200 OK", "<html>hello</html>")),
        ("other JSON", bytes("200 OK", "[]")),
        ("no UTF-8", Say::Bytes(latin.to_vec())),
        (
            "100 MB, announced",
            endless("HTTP/1.1 200 OK\r\ncontent-length: 104857600\r\n\r\n"),
        ),
        (
            "100 MB, in one chunk",
            endless("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n7ffffff\r\n"),
        ),
        ("an endless head", endless("HTTP/1.1 200 OK\r\nx: ")),
        (
            "half a body",
            last(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"body\":"),
        ),
        ("half a head", last(b"HTTP/1.1 200 OK\r\nconte")),
        ("nothing", last(b"")),
        ("no HTTP", last(b"SSH-2.0-OpenSSH_9\r\n\r\n")),
        (
            "an unknown member",
            bytes("200 OK", r#"{"body":1,"action":[]}"#),
        ),
    ]
}

/// Actions that cannot be carried out, behind one that can.
fn no_actions() -> Vec<(&'static str, Say)> {
    let long = json!({"push": {"route": "x".repeat(256), "body": 1}});
    let rows = [
        ("an unknown action", json!([{"fly": 1}])),
        ("an invalid user", json!([{"bind": ""}])),
        ("two binds", json!([{"bind": "ann"}, {"bind": "ann"}])),
        ("no user to unbind", json!(["unbind"])),
        (
            "a push without value",
            json!([{"push": {"route": "a", "body": null}}]),
        ),
        ("a push without route", json!([{"push": {"body": 1}}])),
        ("a push to a route too long", json!([long])),
        (
            "a push to a user that cannot be",
            json!([{"push": {"route": "a", "body": 1, "users": ["ann", ""]}}]),
        ),
        ("a join without a user", json!([{"join": "lobby"}])),
        (
            "a join of a topic without a name",
            json!([{"bind": "ann"}, {"join": ""}]),
        ),
        (
            "a push to users and a topic",
            json!([{"push": {"route": "a", "body": 1, "users": ["ann"], "topic": "t"}}]),
        ),
        (
            "a push to a topic that cannot be",
            json!([{"push": {"route": "a", "body": 1, "topic": "x".repeat(257)}}]),
        ),
        (
            "an exception without a topic",
            json!([{"push": {"route": "a", "body": 1, "except": "ann"}}]),
        ),
        (
            "a key of no length",
            json!([{"push": {"route": "a", "body": 1, "latest": ""}}]),
        ),
        (
            "a key that is too long",
            json!([{"push": {"route": "a", "body": 1, "latest": "x".repeat(129)}}]),
        ),
        (
            "too many actions",
            json!(vec![json!({"set": {"k": 2}}); 1001]),
        ),
        (
            "a kick of too many",
            json!([{"kick": {"reason": "r", "users": vec!["eve"; 1001]}}]),
        ),
        (
            "a kick of a user that cannot be",
            json!([{"kick": {"reason": "r", "users": [""]}}]),
        ),
    ];
    let behind = |(name, rest): (&'static str, Value)| {
        let all: Vec<Value> = [json!({"set": {"k": 1}})]
            .into_iter()
            .chain(rest.as_array().unwrap().clone())
            .collect();
        (name, actions(&json!(all)))
    };
    rows.map(behind).into()
}

/// Whatever is no answer: the client gets an error of one kind, nothing was done, nothing is sent twice, and the next request works.
#[tokio::test]
async fn answers_that_are_none() {
    for (name, say) in no_answers().into_iter().chain(no_actions()) {
        let service = Service::start(move |asked: &Asked| {
            if asked.path.ends_with("bad") {
                say.clone()
            } else {
                Say::Json(json!({"body": "fine"}))
            }
        })
        .await;
        let running = running(service.backend()).await;
        let mut client = pitaya(&running);
        let (answer, is_error) = client.answer("chat.room.bad", json!({})).await;
        assert!(is_error, "{name}: {answer}");
        let failed = json!({"code": "PIT-500", "msg": "the backend failed"});
        assert_eq!(answer, failed, "{name}");
        // What the kernel holds for both sides is some megabytes.
        assert!(service.zeros() < 50 << 20, "{name}: it was read");
        let settings = client.session.settings();
        assert_eq!(settings.len(), 0, "{name}: something was done");
        assert!(
            client.session.uid().is_none() && client.drain().is_empty(),
            "{name}"
        );
        let next = client.answer("chat.room.good", json!({})).await;
        assert_eq!(next, (json!("fine"), false), "{name}");
        let asked = service.asked();
        let paths: Vec<&str> = asked.iter().map(|one| one.path.as_str()).collect();
        let once = ["/shaddock/room.bad", "/shaddock/room.good"];
        assert_eq!(paths, once, "{name}: sent twice");
    }
}

#[tokio::test]
async fn errors_of_the_service_go_to_the_client() {
    let service = Service::start(|asked| {
        Say::Json(match asked.path.as_str() {
            "/shaddock/room.plain" => {
                json!({"error": {"code": "ROOM-404", "message": "no such room"}})
            }
            _ => json!({"error": {"code": "ROOM-404", "body": {"code": 404}}}),
        })
    })
    .await;
    let running = running(service.backend()).await;
    let (answer, is_error) = pitaya(&running).answer("chat.room.plain", json!({})).await;
    assert!(is_error);
    assert_eq!(answer, json!({"code": "ROOM-404", "msg": "no such room"}));
    let mut pomelo = Client::connect(&running.apps()[0]);
    assert_eq!(
        pomelo.request("chat.room.plain", json!({})).await,
        json!({"code": 500})
    );
    assert_eq!(
        pomelo.request("chat.room.body", json!({})).await,
        json!({"code": 404})
    );
    // Bodies that are no JSON are not sent at all.
    drive(pomelo.start(Some(9), "chat.room.plain", "{")).await;
    assert_eq!(pomelo.wait_answer(9).await.0, json!({"code": 500}));
    assert_eq!(service.asked().len(), 3);
}

#[tokio::test]
async fn a_service_that_is_down() {
    let service = Service::start(|_| Say::Json(json!({"body": 1}))).await;
    // Bound but not listening, so no other process gets the port.
    let down = tokio::net::TcpSocket::new_v4().unwrap();
    down.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let nowhere = format!("http://{}", down.local_addr().unwrap());
    let mut alone = HttpBackend::new([&nowhere]).unwrap();
    alone.timeout = Duration::from_secs(60);
    alone.connect_timeout = alone.timeout;
    let running_alone = running(alone).await;
    let (answer, is_error) = pitaya(&running_alone)
        .answer("chat.room.say", json!({}))
        .await;
    assert!(is_error);
    assert_eq!(answer["code"], "PIT-503", "{answer}");
    // With another URL there is always an answer: nothing was sent to the first.
    for balance in [Balance::RoundRobin, Balance::UserHash] {
        let mut both = HttpBackend::new([nowhere.clone(), service.url()]).unwrap();
        both.timeout = Duration::from_secs(60);
        both.connect_timeout = both.timeout;
        both.balance = balance;
        let running_both = running(both).await;
        let mut client = pitaya(&running_both);
        for _ in 0..4 {
            assert_eq!(
                client.answer("chat.room.say", json!({})).await,
                (json!(1), false)
            );
        }
    }
    assert_eq!(service.asked().len(), 8);
}

/// A host that is gone: nothing says no. The other URL gets the request, and from then on is asked first.
#[tokio::test]
async fn a_silent_host() {
    let service = Service::start(|_| Say::Json(json!({"body": 1}))).await;
    // The kernel answers no more connections than its queue holds.
    let full = tokio::net::TcpSocket::new_v4().unwrap();
    full.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let full = full.listen(1).unwrap();
    let address = full.local_addr().unwrap();
    let mut held = Vec::new();
    loop {
        let connecting = tokio::net::TcpStream::connect(address);
        match tokio::time::timeout(Duration::from_millis(200), connecting).await {
            Ok(stream) => held.push(stream.unwrap()),
            Err(_) => break,
        }
    }
    let mut both = HttpBackend::new([format!("http://{address}"), service.url()]).unwrap();
    both.timeout = Duration::from_secs(60);
    both.connect_timeout = Duration::from_millis(300);
    let running = running(both).await;
    let mut client = pitaya(&running);
    let deadline = Instant::now() + Duration::from_secs(30);
    // On a busy machine the good one may be slow to connect to, too.
    while client.answer("chat.room.say", json!({})).await != (json!(1), false) {
        assert!(Instant::now() < deadline, "the other URL is not asked");
    }
}

#[tokio::test]
async fn balancing() {
    let services = [(); 3].map(|()| Service::start(|_| Say::Json(json!({}))));
    let [one, two, three] = services;
    let services = [one.await, two.await, three.await];
    let counts = |services: &[Service; 3]| services.each_ref().map(|one| one.asked().len());
    for balance in [Balance::RoundRobin, Balance::UserHash] {
        let before = counts(&services);
        let mut backend = HttpBackend::new(services.iter().map(Service::url)).unwrap();
        backend.timeout = Duration::from_secs(60);
        backend.connect_timeout = backend.timeout;
        backend.balance = balance;
        let running = running(backend).await;
        let mut ann = login(&running.apps()[0], "ann").await;
        for _ in 0..6 {
            ann.request("chat.room.say", json!({})).await;
        }
        let after = counts(&services);
        let mut shares = [0, 1, 2].map(|n| after[n] - before[n]);
        shares.sort_unstable();
        let expected = if balance == Balance::RoundRobin {
            [2, 2, 2]
        } else {
            [0, 0, 6]
        };
        assert_eq!(shares, expected);
    }
}

/// A late response is dropped: its connection is closed.
#[tokio::test]
async fn a_service_that_is_slow() {
    let service = Service::start(|_| Say::Nothing).await;
    let mut backend = service.backend();
    backend.timeout = Duration::from_millis(100);
    let running = running(backend).await;
    let mut client = pitaya(&running);
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut sent = 0;
    // On a busy machine the time may be over before there is a connection.
    while service.asked().len() < 2 {
        assert!(Instant::now() < deadline, "it is not asked");
        let (answer, is_error) = client.answer("chat.room.say", json!({})).await;
        assert!(is_error);
        assert_eq!(
            answer,
            json!({"code": "PIT-408", "msg": "the backend did not respond in time"})
        );
        sent += 1;
    }
    let mut connections: Vec<usize> = service.asked().iter().map(|one| one.connection).collect();
    connections.dedup();
    assert_eq!(
        connections.len(),
        service.asked().len(),
        "one is used again"
    );
    until("they are closed", || {
        service.given_up() == service.asked().len()
    })
    .await;
    assert_eq!(running.apps()[0].stats().timeouts.get(), sent);
}

/// What stands behind an answer is not the answer to the next request, which may be another user's.
#[tokio::test]
async fn bytes_behind_an_answer_are_nobodys() {
    let stray = [ok(r#"{"body":"asked"}"#), ok(r#"{"body":"stray"}"#)].concat();
    let service = Service::start(move |asked| match asked.path.as_str() {
        "/shaddock/room.stray" => Say::Bytes(stray.clone()),
        _ => Say::Json(json!({"body": "fine"})),
    })
    .await;
    let running = running(service.backend()).await;
    let (mut ann, mut bob) = (pitaya(&running), pitaya(&running));
    for _ in 0..3 {
        let asked = ann.answer("chat.room.stray", json!({})).await;
        assert_eq!(asked, (json!("asked"), false));
        let next = bob.answer("chat.room.say", json!({})).await;
        assert_eq!(next, (json!("fine"), false));
    }
    assert_eq!(service.asked().len(), 6, "nothing is sent twice");
}

/// A URL with a full queue got nothing, so another one may.
#[tokio::test]
async fn a_full_queue_goes_round() {
    let (free, held) = tokio::sync::watch::channel(false);
    let busy = Service::start(move |_| Say::Held(held.clone(), json!({"body": "late"}))).await;
    let other = Service::start(|_| Say::Json(json!({"body": "other"}))).await;
    let mut backend = HttpBackend::new([busy.url(), other.url()]).unwrap();
    (backend.max_connections, backend.queue) = (1, 0);
    backend.timeout = Duration::from_secs(60);
    backend.connect_timeout = backend.timeout;
    let running = running(backend).await;
    let mut first = pitaya(&running);
    let asked = tokio::spawn(drive(first.start(Some(1), "chat.room.say", "{}")));
    until("the first is at work", || busy.asked().len() == 1).await;
    let mut second = pitaya(&running);
    for _ in 0..4 {
        let answer = second.answer("chat.room.say", json!({})).await;
        assert_eq!(answer, (json!("other"), false));
    }
    free.send(true).unwrap();
    asked.await.unwrap();
    assert_eq!(first.wait_answer(1).await, (json!("late"), false));
    assert_eq!((busy.asked().len(), other.asked().len()), (1, 4));
}

/// One connection and a queue for one: the third request is refused at once, and the others are answered.
#[tokio::test]
async fn connections_and_queue_have_bounds() {
    let (free, held) = tokio::sync::watch::channel(false);
    let service = Service::start(move |_| Say::Held(held.clone(), json!({"body": 1}))).await;
    let mut backend = service.backend();
    (backend.max_connections, backend.queue) = (1, 1);
    let running = running(backend).await;
    let clients = [(); 3].map(|()| pitaya(&running));
    let [mut first, mut second, mut third] = clients;
    let asked = first.start(Some(1), "chat.room.say", "{}");
    let asked = tokio::spawn(drive(asked));
    until("the first is at work", || service.asked().len() == 1).await;
    // Polled once, it waits in the queue.
    let mut waiting = Box::pin(drive(second.start(Some(1), "chat.room.say", "{}")));
    let waits = std::future::poll_fn(|task| {
        std::task::Poll::Ready(waiting.as_mut().poll(task).is_pending())
    });
    assert!(waits.await);
    let (answer, is_error) = third.answer("chat.room.say", json!({})).await;
    assert!(is_error);
    assert_eq!(answer["code"], "PIT-429", "{answer}");
    free.send(true).unwrap();
    asked.await.unwrap();
    waiting.await;
    for client in [&mut first, &mut second] {
        assert_eq!(client.wait_answer(1).await, (json!(1), false));
    }
    assert_eq!(service.asked().len(), 2);
    assert!(service.asked().iter().all(|one| one.connection == 0));
}

/// A session waits for its own requests, unless the route says otherwise.
#[tokio::test]
async fn order_of_one_session() {
    let service = Service::start(|_| Say::Json(json!({}))).await;
    let running = running(service.backend().concurrent(["room.look"])).await;
    let mut client = pitaya(&running);
    let MaybeReady::Later(work) = client.start(Some(1), "chat.room.say", "{}") else {
        panic!("the next request would overtake it");
    };
    assert!(matches!(
        client.start(Some(2), "chat.room.look", "{}"),
        MaybeReady::Now(())
    ));
    let has_answered = |client: &mut Client| {
        let all = client.drain();
        all.iter()
            .any(|one| matches!(one, In::Answer { id: 2, .. }))
    };
    until("it is answered", || has_answered(&mut client)).await;
    work.await;
    client.wait_answer(1).await;
}

fn actions(list: &Value) -> Say {
    Say::Json(json!({"body": "done", "actions": list}))
}

#[tokio::test]
async fn actions_are_carried_out_before_the_answer() {
    let service = Service::start(|asked| {
        actions(&match asked.path.as_str() {
            "/shaddock/room.enter" => json!([
                {"push": {"route": "onUser", "body": {"n": 1}, "users": ["ann", "bob", "nobody"]}},
                {"push": {"route": "onSelf", "body": [2]}},
                {"remove": ["old", "new"]},
                {"bind": "ann"},
                {"set": {"room": "lobby", "new": 1}},
            ]),
            "/shaddock/room.leave" => json!(["unbind", {"remove": ["room"]}]),
            "/shaddock/room.throw" => json!([{"kick": {"reason": "rude", "users": ["bob"]}}]),
            _ => json!([{"kick": {"reason": "bye"}}]),
        })
    })
    .await;
    let running = running(service.backend()).await;
    let app = &running.apps()[0];
    let mut bob = login(app, "bob").await;
    let mut ann = Client::connect(app);
    ann.session.set("old", 1).unwrap();
    drive(ann.start(Some(1), "chat.room.enter", "{}")).await;
    let push = |route: &str, body| In::Push {
        route: route.to_owned(),
        body,
    };
    let answer = In::Answer {
        id: 1,
        body: json!("done"),
        error: false,
    };
    assert_eq!(
        ann.drain(),
        [
            push("onUser", json!({"n": 1})),
            push("onSelf", json!([2])),
            answer
        ]
    );
    assert_eq!(bob.drain(), [push("onUser", json!({"n": 1}))]);
    assert_eq!(ann.session.uid(), Some(uid("ann")));
    let settings = serde_json::to_value(ann.session.settings()).unwrap();
    assert_eq!(settings, json!({"room": "lobby", "new": 1}));

    ann.request("chat.room.leave", json!({})).await;
    assert!(ann.session.uid().is_none());
    assert_eq!(ann.session.settings().get("room"), None);
    ann.request("chat.room.throw", json!({})).await;
    assert_eq!(bob.wait_kick().await, "rude");
    assert!(!ann.session.is_closed());
    drive(ann.start(Some(7), "chat.room.end", "{}")).await;
    assert_eq!(ann.wait_kick().await, "bye");
}

/// For a client whose socket is full.
#[tokio::test]
async fn pushes_of_which_the_newest_is_enough() {
    let service = Service::start(|_| {
        let push = |n, to: Value| {
            let mut push = json!({"route": "onMove", "body": n, "latest": "place"});
            push.as_object_mut()
                .unwrap()
                .extend(to.as_object().unwrap().clone());
            json!({"push": push})
        };
        actions(&json!([
            {"push": {"route": "onMove", "body": 1}},
            push(2, json!({})),
            push(3, json!({"users": ["ann"]})),
            push(4, json!({"topic": "room"})),
            {"push": {"route": "onMove", "body": 5}},
            push(6, json!({"users": ["ann"]})),
        ]))
    })
    .await;
    let running = running(service.backend()).await;
    let app = &running.apps()[0];
    let mut ann = login(app, "ann").await;
    app.topic("room")
        .add(&uid("ann"), &crate::support::front(FRONT))
        .await
        .unwrap();
    let outbox = ann.session.outbox();
    outbox.begin_poll(std::task::Waker::noop());
    assert!(!outbox.end_poll(shaddock_core::Flush::Blocked));
    drive(ann.start(None, "chat.room.move", "{}")).await;
    let push = |body| In::Push {
        route: "onMove".to_owned(),
        body,
    };
    assert_eq!(ann.drain(), [json!(1), json!(5), json!(6)].map(push));
}

/// A bind that is refused only when it is tried: what stood before it is undone, and what stood behind it is not done.
#[tokio::test]
async fn a_bind_that_is_refused_undoes_the_rest() {
    let service = Service::start(|_| {
        actions(&json!([
            {"push": {"route": "onUser", "body": 1, "users": ["ann", "eve"]}},
            {"set": {"level": 9, "new": 1}},
            {"remove": ["old"]},
            {"bind": "ann"},
            {"kick": {"reason": "r", "users": ["eve"]}},
        ]))
    })
    .await;
    let mut app = frontend(FRONT);
    app.set(SessionConfig::default().sessions_per_user(SessionsPerUser::One(Conflict::RejectNew)));
    app.http_backend("chat", service.backend());
    let running = start([app]).await;
    let app = &running.apps()[0];
    let (mut first, mut eve) = (login(app, "ann").await, login(app, "eve").await);
    let mut second = Client::with_dialect(app, Dialect::Pitaya);
    second.session.set("level", 1).unwrap();
    second.session.set("old", true).unwrap();
    let (answer, is_error) = second.answer("chat.room.enter", json!({})).await;
    assert!(is_error, "{answer}");
    assert!(answer["msg"].as_str().unwrap().contains("ann"), "{answer}");
    assert!(second.session.uid().is_none());
    let settings = serde_json::to_value(second.session.settings()).unwrap();
    assert_eq!(settings, json!({"level": 1, "old": true}));
    assert!(first.drain().is_empty() && eve.drain().is_empty());
    assert!(!eve.session.is_closed() && !first.session.is_closed());
}

#[tokio::test]
async fn too_many_settings_fail_the_bind() {
    let service =
        Service::start(|_| actions(&json!([{"bind": "ann"}, {"set": {"a": 1, "b": 2}}]))).await;
    let mut app = frontend(FRONT);
    app.set(SessionConfig::default().max_settings(1));
    app.http_backend("chat", service.backend());
    let running = start([app]).await;
    let mut client = pitaya(&running);
    assert!(client.answer("chat.room.enter", json!({})).await.1);
    assert!(client.session.uid().is_none() && client.session.settings().is_empty());
}

/// A topic has members on two frontends. A session that the same answer binds and lets in gets its push.
#[tokio::test]
async fn topics() {
    let service = Service::start(|asked| {
        actions(&match asked.path.as_str() {
            "/shaddock/room.enter" => json!([
                {"push": {"route": "onJoin", "body": 1, "topic": "lobby"}},
                {"join": "lobby"},
                {"bind": asked.body["body"]},
            ]),
            "/shaddock/room.say" => {
                json!([{"push": {"route": "onChat", "body": "hi", "topic": "lobby", "except": "ann"}}])
            }
            _ => json!([{"leave": "lobby"}]),
        })
    })
    .await;
    let mut servers = Servers::new();
    for name in [FRONT, "connector-2"] {
        let mut app = frontend(name);
        app.http_backend("chat", service.backend());
        servers = servers.add(app);
    }
    let running = servers.cluster(LocalCluster::new()).start().await.unwrap();
    let mut ann = Client::connect(&running.apps()[0]);
    let mut bob = Client::connect(&running.apps()[1]);
    ann.request("chat.room.enter", json!("ann")).await;
    assert_eq!(ann.wait_push("onJoin").await, json!(1));
    bob.request("chat.room.enter", json!("bob")).await;
    for client in [&mut ann, &mut bob] {
        assert_eq!(client.wait_push("onJoin").await, json!(1));
    }
    ann.request("chat.room.say", json!({})).await;
    assert_eq!(bob.wait_push("onChat").await, json!("hi"));
    assert!(ann.drain().is_empty(), "who is left out");
    bob.request("chat.room.leave", json!({})).await;
    let topic = running.apps()[0].topic("lobby");
    assert_eq!(topic.members().await.unwrap().uids(), [uid("ann")]);
}

/// A join that is refused only when it is tried: nothing of the answer was done.
#[tokio::test]
async fn a_join_that_is_refused_undoes_the_rest() {
    let service = Service::start(|asked| {
        actions(&match asked.path.as_str() {
            "/shaddock/room.first" => json!([{"bind": "ann"}, {"join": "old"}, {"join": "older"}]),
            "/shaddock/room.more" => json!([
                {"set": {"level": 9}},
                {"push": {"route": "onUser", "body": 1}},
                {"leave": "old"},
                {"join": "one"},
                {"join": "two"},
            ]),
            "/shaddock/room.keep" => json!([{"join": "kept"}]),
            _ => json!([{"bind": "bob"}, {"join": "one"}, {"join": "two"}]),
        })
    })
    .await;
    let mut app = frontend(FRONT);
    app.set(SessionConfig::default().max_memberships(2));
    app.http_backend("chat", service.backend());
    let running = start([app]).await;
    let app = &running.apps()[0];
    let members = async |topic: &str| app.topic(topic).members().await.unwrap().uids();
    let mut ann = pitaya(&running);
    assert!(!ann.answer("chat.room.first", json!({})).await.1);
    let (answer, is_error) = ann.answer("chat.room.more", json!({})).await;
    assert!(
        is_error && answer["msg"].as_str().unwrap().contains("at most 2"),
        "{answer}"
    );
    assert_eq!(members("old").await, [uid("ann")], "back again");
    for topic in ["one", "two"] {
        assert!(members(topic).await.is_empty(), "{topic}");
    }
    assert_eq!(ann.session.settings().len(), 0);
    assert_eq!(ann.session.uid(), Some(uid("ann")), "as before");
    assert!(ann.drain().is_empty());

    let mut other = login(app, "bob").await;
    other.request("chat.room.keep", json!({})).await;
    assert_eq!(members("kept").await, [uid("bob")]);
    let mut bob = pitaya(&running);
    assert!(bob.answer("chat.room.enter", json!({})).await.1);
    assert!(bob.session.uid().is_none(), "the bind is undone too");
    assert!(!other.session.is_closed());
    assert!(members("one").await.is_empty());
}

/// A bind that takes the place of another session cannot be undone, so it is not tried if it is known that more will be refused.
#[tokio::test]
async fn more_topics_than_there_may_be_cost_no_session() {
    let service = Service::start(|asked| {
        actions(&match asked.path.as_str() {
            "/shaddock/room.many" => json!([{"bind": "ann"}, {"join": "a"}, {"join": "b"}, {"join": "c"}]),
            _ => json!([{"bind": "ann"}, {"join": "a"}, {"leave": "a"}, {"join": "b"}, {"join": "c"}, {"join": "c"}]),
        })
    })
    .await;
    let mut app = frontend(FRONT);
    app.set(
        SessionConfig::default()
            .max_memberships(2)
            .sessions_per_user(SessionsPerUser::One(Conflict::ReplaceOld)),
    );
    app.http_backend("chat", service.backend());
    let running = start([app]).await;
    let old = login(&running.apps()[0], "ann").await;
    let mut ann = pitaya(&running);
    let (answer, is_error) = ann.answer("chat.room.many", json!({})).await;
    assert!(
        is_error && answer["msg"].as_str().unwrap().contains("limit of 2"),
        "{answer}"
    );
    assert!(!old.session.is_closed() && ann.session.uid().is_none());
    let (answer, is_error) = ann.answer("chat.room.few", json!({})).await;
    assert!(!is_error, "{answer}");
    assert!(old.session.is_closed() && ann.session.uid() == Some(uid("ann")));
}

/// The user's other session stays, and so would they in the topic.
#[tokio::test]
async fn a_session_leaves_before_it_is_unbound() {
    let service = Service::start(|asked| {
        actions(&match asked.path.as_str() {
            "/shaddock/room.enter" => json!([{"join": "lobby"}, {"join": "attic"}]),
            _ => json!(["unbind", {"leave": "lobby"}]),
        })
    })
    .await;
    let running = running(service.backend()).await;
    let app = &running.apps()[0];
    let members = async |topic: &str| app.topic(topic).members().await.unwrap().uids();
    let (mut ann, _other) = (login(app, "ann").await, login(app, "ann").await);
    ann.request("chat.room.enter", json!({})).await;
    assert_eq!(members("lobby").await, [uid("ann")]);
    ann.request("chat.room.quit", json!({})).await;
    assert!(ann.session.uid().is_none());
    assert!(members("lobby").await.is_empty());
    assert_eq!(members("attic").await, [uid("ann")]);
}

/// The user sits on another frontend of the cluster: pushes and kicks find them.
#[tokio::test]
async fn users_on_other_frontends() {
    let service = Service::start(|asked| {
        actions(&match asked.path.as_str() {
            "/shaddock/room.say" => {
                json!([{"push": {"route": "onChat", "body": "hi", "users": ["bob"]}}])
            }
            _ => json!([{"kick": {"reason": "rude", "users": ["bob"]}}]),
        })
    })
    .await;
    let mut front = frontend(FRONT);
    front.http_backend("chat", service.backend());
    let servers = Servers::new()
        .add(front)
        .add(frontend("connector-2"))
        .cluster(LocalCluster::new());
    let running = servers.start().await.unwrap();
    let mut bob = login(&running.apps()[1], "bob").await;
    let mut ann = Client::connect(&running.apps()[0]);
    ann.request("chat.room.say", json!({})).await;
    assert_eq!(bob.wait_push("onChat").await, json!("hi"));
    ann.request("chat.room.throw", json!({})).await;
    assert_eq!(bob.wait_kick().await, "rude");
}

/// Told again until the service has heard it, under one id, in order, with the session as it was.
#[tokio::test]
async fn events_are_sent_until_they_are_accepted() {
    let failures = AtomicUsize::new(0);
    let service = Service::start(move |_| match failures.fetch_add(1, Ordering::Relaxed) {
        0 | 1 => Say::Bytes(status("500 Oops", "")),
        _ => Say::Bytes(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()),
    })
    .await;
    let running = running(
        service
            .backend()
            .events([BackendEvent::Bound, BackendEvent::Closed]),
    )
    .await;
    let ann = login(&running.apps()[0], "ann").await;
    ann.session.close(CloseReason::kicked("bye"));
    until("all was told", || service.asked().len() == 4).await;
    let asked = service.asked();
    let paths: Vec<&str> = asked.iter().map(|one| one.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "/shaddock/bound",
            "/shaddock/bound",
            "/shaddock/bound",
            "/shaddock/closed"
        ]
    );
    let id = |n: usize| &asked[n].headers["webhook-id"];
    assert!(id(0) == id(1) && id(1) == id(2) && id(2) != id(3));
    let body = &asked[3].body;
    let told = ["kind", "event", "uid", "reason"].map(|key| body[key].as_str().unwrap());
    assert_eq!(told, ["event", "closed", "ann", "kicked"]);
    assert_eq!(body["session"]["sid"], ann.sid().to_string());
    assert_eq!(running.apps()[0].stats().lost_events.get(), 0);
}

/// One package out; and the next one in.
async fn exchange(stream: &mut tokio::net::TcpStream, kind: u8, body: &Value) -> Value {
    send(stream, kind, body).await;
    let mut head = [0; 4];
    stream.read_exact(&mut head).await.unwrap();
    let mut body = vec![0; usize::from(head[2]) * 256 + usize::from(head[3])];
    stream.read_exact(&mut body).await.unwrap();
    serde_json::from_slice(&body).unwrap()
}

async fn send(stream: &mut tokio::net::TcpStream, kind: u8, body: &Value) {
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let [high, low] = u16::try_from(body.len()).unwrap().to_be_bytes();
    let package = [&[kind, 0, high, low], body.as_bytes()].concat();
    stream.write_all(&package).await.unwrap();
}

/// A session whose client is lost, comes back and says goodbye: three events, in order.
#[tokio::test]
async fn a_session_that_outlives_its_connection() {
    let service = Service::start(|_| Say::Json(json!({}))).await;
    let mut app = App::new("connector", FRONT);
    app.listen("127.0.0.1:0");
    app.http_backend("chat", service.backend().events(BackendEvent::ALL));
    let running = start([app]).await;
    let address = running.address(FRONT).unwrap();
    let hello = |resume: Value| json!({"sys": {"type": "t", "version": "1", "resume": resume}});
    let told = |event: &str| {
        let asked = service.asked();
        asked
            .iter()
            .filter(|one| one.body["event"] == event)
            .count()
    };
    let mut first = tokio::net::TcpStream::connect(address).await.unwrap();
    let answer = exchange(&mut first, 1, &hello(json!({"v": 1}))).await;
    send(&mut first, 2, &Value::Null).await;
    let token = &answer["sys"]["resume"]["token"];
    assert!(token.is_string(), "{answer}");
    until("the session is there", || {
        running.apps()[0].session_service().unwrap().session_count() == 1
    })
    .await;
    drop(first);
    until("suspended", || told("suspended") == 1).await;
    let mut again = tokio::net::TcpStream::connect(address).await.unwrap();
    let back = hello(json!({"v": 1, "token": token, "received": 0, "sent": 0}));
    let answer = exchange(&mut again, 1, &back).await;
    assert_eq!(answer["sys"]["resume"]["resumed"], true, "{answer}");
    send(&mut again, 2, &Value::Null).await;
    until("resumed", || told("resumed") == 1).await;
    send(&mut again, 5, &Value::Null).await;
    until("closed", || told("closed") == 1).await;
    let asked = service.asked();
    let names: Vec<&str> = asked
        .iter()
        .filter_map(|one| one.body["event"].as_str())
        .collect();
    assert_eq!(
        names,
        ["handshake", "suspended", "handshake", "resumed", "closed"]
    );
    let sid = &asked[1].body["session"]["sid"];
    assert!(
        sid.is_string()
            && asked[3].body["session"]["sid"] == *sid
            && asked[4].body["session"]["sid"] == *sid
    );
}

/// Who stops tells of the sessions that it closed, also a service that does not listen at once.
#[tokio::test]
async fn a_shutdown_notifies_the_service() {
    let count = AtomicUsize::new(0);
    let service = Service::start(move |_| match count.fetch_add(1, Ordering::Relaxed) {
        0 => Say::Last(Vec::new()),
        _ => Say::Json(json!({})),
    })
    .await;
    let mut app = frontend(FRONT);
    app.set(
        AppConfig::default()
            .stop_timeout(Duration::from_secs(60))
            .event_timeout(Duration::from_secs(60)),
    );
    app.http_backend("chat", service.backend().events([BackendEvent::Closed]));
    let running = start([app]).await;
    let names = ["ann", "bob"];
    for name in names {
        login(&running.apps()[0], name).await;
    }
    running.shutdown().await;
    let asked = service.asked();
    let mut told: Vec<&str> = asked
        .iter()
        .filter_map(|one| one.body["uid"].as_str())
        .collect();
    told.sort_unstable();
    told.dedup();
    assert_eq!((told.as_slice(), asked.len()), (names.as_slice(), 3));
    assert!(asked.iter().all(|one| one.path == "/shaddock/closed"));
}

/// A handshake is checked by the service; if the service does not respond, clients are rejected.
#[tokio::test]
async fn handshakes() {
    let service = Service::start(|asked| match asked.body["body"]["token"].as_str() {
        Some("good") => Say::Json(json!({"body": {"motd": "hello"}})),
        Some("login") => Say::Json(json!({"actions": [{"bind": "ann"}, {"set": {"level": 7}}]})),
        Some("silent") => Say::Bytes(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()),
        Some("broken") => Say::Bytes(ok("<html>")),
        Some("acts") => Say::Json(json!({"actions": [{"kick": {"reason": "r"}}]})),
        Some("twice") => Say::Json(json!({"actions": [{"bind": "ann"}, {"bind": "bob"}]})),
        Some("nobody") => Say::Json(json!({"actions": [{"bind": ""}]})),
        _ if asked.body["kind"] == "request" => Say::Json(json!({"body": asked.body["session"]})),
        _ => Say::Json(json!({"error": {"code": "AUTH-401", "message": "no token"}})),
    })
    .await;
    let mut app = App::new("connector", FRONT);
    app.listen("127.0.0.1:0");
    app.set(AppConfig::default().handshake_timeout(Duration::from_secs(60)));
    app.http_backend("chat", service.backend().events([BackendEvent::Handshake]));
    let running = start([app]).await;
    let address = format!("tcp://{}", running.address(FRONT).unwrap());
    let long = Duration::from_secs(60);
    for (user, motd) in [
        (json!({"token": "good"}), Some(json!("hello"))),
        (json!({"token": "silent"}), Some(Value::Null)),
        (json!({"token": "login"}), Some(Value::Null)),
        (json!({"token": "broken"}), None),
        (json!({"token": "acts"}), None),
        (json!({"token": "twice"}), None),
        (json!({"token": "nobody"}), None),
        (json!({}), None),
        (Value::Null, None),
    ] {
        let builder = shaddock_client::Client::builder();
        let builder = builder
            .user(user.clone())
            .connect_timeout(long)
            .request_timeout(Some(long));
        let connected = builder.connect(&address).await.ok();
        let heard = connected.as_ref().map(|client| {
            let user = client.handshake_user();
            user.map_or(Value::Null, |user| user["motd"].clone())
        });
        assert_eq!(heard, motd, "{user}");
        if let (Some(client), true) = (connected, user["token"] == "login") {
            let session: Value = client.request("chat.room.me", &json!({})).await.unwrap();
            assert_eq!(
                (&session["uid"], &session["settings"]),
                (&json!("ann"), &json!({"level": 7}))
            );
        }
    }
    let asked = service.asked();
    assert_eq!(asked.len(), 10);
    assert_eq!(asked[0].path, "/shaddock/handshake");
    assert_eq!(asked[0].body["client"]["transport"], "tcp");
    assert!(asked[0].body.get("session").is_none());
}

#[tokio::test]
#[should_panic(expected = "type of this server itself")]
async fn the_own_type_is_no_backend() {
    frontend(FRONT).http_backend("connector", HttpBackend::new(["http://127.0.0.1"]).unwrap());
}

const TWO: &[u8] = b"h2";
const ONE: &[u8] = b"http/1.1";

/// Requests that are at work at the same time have one connection, over TLS and without it.
#[tokio::test]
async fn http2_shares_a_connection() {
    const CLIENTS: usize = 8;
    for speaks in [Speaks::Tls(&[TWO, ONE]), Speaks::PlainTwo] {
        let service = Secure::start(speaks, CLIENTS).await;
        let mut backend = service.backend(&service.pem);
        if speaks == Speaks::PlainTwo {
            backend.protocol = Protocol::Http2;
        }
        let running = running(backend).await;
        let mut clients: Vec<Client> = (0..CLIENTS).map(|_| pitaya(&running)).collect();
        let asked = clients.iter_mut().map(|client| {
            let asked = client.start(Some(1), "chat.room.together", "{}");
            tokio::spawn(drive(asked))
        });
        for one in asked.collect::<Vec<_>>() {
            one.await.unwrap();
        }
        let host = format!("localhost:{}", service.address.port());
        for client in &mut clients {
            let answer = client.wait_answer(1).await;
            assert_eq!(answer, (json!(host), false), "{speaks:?}");
        }
        assert_eq!(service.connections(), 1, "{speaks:?}");
        assert_eq!(service.versions(), [Version::HTTP_2; CLIENTS]);
    }
}

/// What TLS agrees on is spoken, and a connection is used again.
#[tokio::test]
async fn https_speaks_what_there_is() {
    let rows: [(&[&[u8]], Protocol, Version); 4] = [
        (&[ONE], Protocol::Auto, Version::HTTP_11),
        (&[], Protocol::Auto, Version::HTTP_11),
        (&[TWO, ONE], Protocol::Http1, Version::HTTP_11),
        (&[TWO, ONE], Protocol::Http2, Version::HTTP_2),
    ];
    for (offered, protocol, version) in rows {
        let service = Secure::start(Speaks::Tls(offered), 1).await;
        let mut backend = service.backend(&service.pem);
        backend.protocol = protocol;
        backend.max_idle = Duration::from_secs(60);
        let running = running(backend).await;
        let mut client = pitaya(&running);
        for _ in 0..2 {
            let (answer, is_error) = client.answer("chat.room.say", json!({})).await;
            assert!(!is_error, "{protocol:?}: {answer}");
        }
        assert_eq!(service.versions(), [version; 2], "{protocol:?}");
        assert_eq!(service.connections(), 1, "{protocol:?}");
    }
}

/// A service that cannot prove who it is gets nothing; nor does one that does not speak what it must.
#[tokio::test]
async fn https_that_is_not_what_it_should_be() {
    let stranger = Secure::start(Speaks::Tls(&[ONE]), 1).await;
    let service = Secure::start(Speaks::Tls(&[ONE]), 1).await;
    let mut only_two = service.backend(&service.pem);
    only_two.protocol = Protocol::Http2;
    for (name, backend) in [
        ("another certificate", service.backend(&stranger.pem)),
        ("no HTTP/2", only_two),
    ] {
        let running = running(backend).await;
        let (answer, is_error) = pitaya(&running).answer("chat.room.say", json!({})).await;
        assert!(is_error && answer["code"] == "PIT-503", "{name}: {answer}");
        assert_eq!(service.versions(), [], "{name}");
    }
}

/// A request that takes too long ends, and its connection serves the others.
#[tokio::test]
async fn a_slow_request_over_http2_ends_alone() {
    let service = Secure::start(Speaks::Tls(&[TWO]), 1).await;
    let mut backend = service.backend(&service.pem);
    backend.timeout = Duration::from_millis(300);
    let running = running(backend).await;
    let mut client = pitaya(&running);
    let deadline = Instant::now() + Duration::from_secs(30);
    // On a busy machine the time may be over before there is a connection.
    while service.gone() == 0 {
        assert!(Instant::now() < deadline, "it is not given up");
        let (answer, is_error) = client.answer("chat.room.never", json!({})).await;
        assert!(is_error && answer["code"] == "PIT-408", "{answer}");
    }
    while client.answer("chat.room.say", json!({})).await.1 {
        assert!(Instant::now() < deadline, "the next one is not answered");
    }
}

/// A URL whose health check fails gets nothing as long as there is another one; alone it is asked all the same.
#[tokio::test]
async fn health_checks() {
    let (well, is_well) = tokio::sync::watch::channel(false);
    let sick = Service::start(move |asked| match asked.method.as_str() {
        "GET" if *is_well.borrow() => Say::Bytes(ok("fine")),
        "GET" => Say::Bytes(status("503 Service Unavailable", "")),
        _ => Say::Json(json!({"body": "sick"})),
    })
    .await;
    let other = Service::start(|asked| match asked.method.as_str() {
        "GET" => Say::Bytes(ok("fine")),
        _ => Say::Json(json!({"body": "well"})),
    })
    .await;
    let checked = |service: &Service| {
        let asked = service.asked();
        let checks = asked.iter().filter(|one| one.path == "/healthz");
        checks
            .inspect(|one| assert!(!one.headers.contains_key("webhook-id")))
            .count()
    };
    let with_checks = |urls: &[String]| {
        let mut backend = HttpBackend::new(urls).unwrap().health("/healthz").unwrap();
        backend.timeout = Duration::from_secs(60);
        backend.connect_timeout = backend.timeout;
        backend.health_interval = Duration::from_millis(5);
        backend
    };
    let both = running(with_checks(&[sick.url(), other.url()])).await;
    // The second check begins when the first one has been heard.
    until("it is checked", || checked(&sick) >= 2).await;
    let mut client = pitaya(&both);
    for _ in 0..4 {
        assert_eq!(
            client.answer("chat.room.say", json!({})).await,
            (json!("well"), false)
        );
    }
    well.send(true).unwrap();
    eventually("it is asked again", async || {
        client.answer("chat.room.say", json!({})).await == (json!("sick"), false)
    })
    .await;
    both.shutdown().await;

    well.send(false).unwrap();
    let before = checked(&sick);
    let alone = running(with_checks(&[sick.url()])).await;
    until("it is checked", || checked(&sick) >= before + 2).await;
    let answer = pitaya(&alone).answer("chat.room.say", json!({})).await;
    assert_eq!(answer, (json!("sick"), false));
    alone.shutdown().await;
    for path in ["healthz", "", "/a b", "/a#b", "http://b/healthz"] {
        let error = service_error(HttpBackend::new([sick.url()]).unwrap().health(path));
        assert!(error.contains("from the root"), "{path}: {error}");
    }
}

fn service_error(result: Result<HttpBackend, shaddock::backend::BackendError>) -> String {
    result.unwrap_err().to_string()
}

/// How long services take, and how they fail, is among the metrics.
#[tokio::test]
async fn requests_to_services_are_counted() {
    let service = Service::start(|asked| match asked.path.as_str() {
        "/shaddock/room.broken" => Say::Bytes(status("500 Oh", "")),
        "/healthz" => Say::Bytes(status("503 No", "")),
        _ => Say::Json(json!({"body": 1})),
    })
    .await;
    // Bound but not listening, so no other process gets the port.
    let down = tokio::net::TcpSocket::new_v4().unwrap();
    down.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let nowhere = format!("http://{}", down.local_addr().unwrap());
    let mut app = frontend(FRONT);
    let mut sick = service.backend().health("/healthz").unwrap();
    sick.health_interval = Duration::from_millis(10);
    app.http_backend("chat", sick);
    let mut gone = HttpBackend::new([&nowhere]).unwrap();
    gone.timeout = Duration::from_secs(60);
    gone.connect_timeout = gone.timeout;
    app.http_backend("gone", gone);
    let running = start([app]).await;
    let operations = shaddock::operations::Operations::new();
    operations.running(running.apps());
    let mut client = pitaya(&running);
    for route in [
        "chat.room.say",
        "chat.room.say",
        "chat.room.broken",
        "gone.room.say",
    ] {
        client.answer(route, json!({})).await;
    }
    let has = |name: &str, labels: &str, value: &str| {
        let line = format!(
            "shaddock_backend_{name}{{server=\"{FRONT}\",server_type=\"connector\",{labels}}} {value}"
        );
        let text = shaddock::metrics::render(&operations);
        text.lines().any(|one| one == line)
    };
    for (name, labels, value) in [
        ("seconds_count", "backend=\"chat\"", "3"),
        ("seconds_count", "backend=\"gone\"", "1"),
        ("errors_total", "backend=\"chat\",reason=\"broken\"", "1"),
        ("errors_total", "backend=\"chat\",reason=\"down\"", "0"),
        ("errors_total", "backend=\"gone\",reason=\"down\"", "1"),
        ("errors_total", "backend=\"gone\",reason=\"timeout\"", "0"),
        ("waiting", "backend=\"chat\"", "0"),
        ("urls", "backend=\"chat\"", "1"),
    ] {
        assert!(has(name, labels, value), "{name} {labels} {value}");
    }
    until("it is found to be sick", || {
        has("urls_aside", "backend=\"chat\"", "1")
    })
    .await;
}
