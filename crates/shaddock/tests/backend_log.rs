//! What the log says about a backend that fails: the cause, and what to do about it. The clients of the same failures are in `backends.rs`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "shared with other tests")]
mod http;
mod support;

use std::{
    io::{self, Write},
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use http::{
    Asked, Say, Service,
    secure::{Secure, Speaks},
    status,
};
use serde_json::{Value, json};
use shaddock::{
    backend::{BackendEvent, HttpBackend},
    wire::Dialect,
};
use socket2::{Domain, Socket, Type};
use support::{Client, frontend, login, start, wait::until};

/// All lines of this process.
static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Log;

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut log = LOG.lock().unwrap_or_else(PoisonError::into_inner);
        log.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The lines about this backend with this message. Each test has backends of its own.
fn lines(backend: &str, message: &str) -> Vec<Value> {
    let log = LOG.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let lines = String::from_utf8(log).unwrap();
    let lines = lines.lines().map(serde_json::from_str);
    let fields = lines.map(|line: Result<Value, _>| line.unwrap()["fields"].clone());
    fields
        .filter(|fields| fields["backend"] == backend && fields["message"] == message)
        .collect()
}

fn collect() {
    let log = tracing_subscriber::fmt()
        .json()
        .with_writer(|| Log)
        .with_max_level(tracing::Level::INFO);
    // Another test of this process was first.
    let _ = log.try_init();
}

fn say(line: &str, body: &str) -> Say {
    Say::Bytes(status(line, body))
}

/// Each failure, a part of its line, and a part of the advice.
fn failures() -> Vec<(Say, &'static str, &'static str)> {
    let json = |body: &str| say("200 OK", body);
    let to = "HTTP/1.1 301 Moved\r\nlocation: https://chat.example/shaddock/\r\ncontent-length: 0\r\n\r\n";
    let half = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"body\":".to_vec();
    let long = b"HTTP/1.1 200 OK\r\ncontent-length: 104857600\r\n\r\n".to_vec();
    vec![
        (
            say("500 Oops", "<html>"),
            "responded with 500",
            "look for the `webhook-id` in the log of the service",
        ),
        (
            say("503 Busy", ""),
            "responded with 503",
            "a proxy in front of it",
        ),
        (
            say("401 No", ""),
            "responded with 401",
            "compare its key with `secret`",
        ),
        (
            say("404 Not Found", ""),
            "responded with 404",
            "compare the path of `url`",
        ),
        (
            say("201 Created", ""),
            "responded with 201",
            "respond with 200 and a JSON object",
        ),
        (
            Say::Bytes(to.into()),
            "responded with 301 Moved Permanently to \"https://chat.example/shaddock/\"",
            "set `url` to the address that the service redirects to",
        ),
        (
            json("<!DOCTYPE html><title>Log in</title>"),
            "is HTML or XML, not JSON; it begins with \"<!DOCTYPE html><title>Log in</title>\"",
            "check that `url` is not that of a web page",
        ),
        (
            json("Warning: x in chat.php\n{}"),
            "is text, not JSON; it begins with \"Warning: x in",
            "writes its warnings to a log",
        ),
        (
            json("{\"body\":}"),
            "its response is invalid: expected value at line 1 column 9",
            "docs/http-backends.md",
        ),
        (
            json("{\"bdy\":1}"),
            "unknown field `bdy`",
            "docs/http-backends.md",
        ),
        (
            json("{\"actions\":[{\"fly\":1}]}"),
            "unknown variant `fly`, expected one of `bind`",
            "docs/http-backends.md",
        ),
        (
            json("{\"actions\":[{\"set\":{\"a\":1}},{\"join\":\"\"}]}"),
            "its action 2",
            "correct the action",
        ),
        (Say::Last(half), "is incomplete", "look for a crash"),
        (
            Say::Last(Vec::new()),
            "sent no response",
            "its keep-alive time must be longer than `max_idle`",
        ),
        (
            Say::Endless(long),
            "is longer than 1048576 bytes",
            "raise `max_body`",
        ),
    ]
}

#[tokio::test]
async fn a_failure_is_told_with_what_to_do() {
    collect();
    for (number, (say, cause, advice)) in failures().into_iter().enumerate() {
        let name = format!("chat{number}");
        let service = Service::start(move |_: &Asked| say.clone()).await;
        let mut app = frontend("connector-1");
        app.http_backend(&name, service.backend());
        let running = start([app]).await;
        let mut client = Client::with_dialect(&running.apps()[0], Dialect::Pitaya);
        let began = Instant::now();
        for _ in 0..3 {
            let (answer, is_error) = client.answer(&format!("{name}.room.say"), json!({})).await;
            assert!(is_error, "{cause}: {answer}");
        }
        let lines = lines(&name, "a backend failed");
        assert!(!lines.is_empty(), "{cause}");
        if began.elapsed() < Duration::from_secs(60) {
            assert_eq!(lines.len(), 1, "{cause}: once a minute");
        }
        let line = &lines[0];
        let text = |key: &str| line[key].as_str().unwrap();
        assert!(text("failure").contains(cause), "{line}");
        assert!(text("advice").contains(advice), "{line}");
        assert_eq!(text("route"), format!("{name}.room.say"));
        assert_eq!(text("id"), service.asked()[0].headers["webhook-id"]);
    }
}

/// Services that do not respond at all.
#[tokio::test]
async fn a_service_that_is_down_or_slow_is_told() {
    collect();
    let silent = Service::start(|_| Say::Nothing).await;
    let mut slow = silent.backend();
    slow.timeout = Duration::from_millis(20);
    // A port that is taken, and on which nothing listens.
    let taken = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    taken.bind(&any.into()).unwrap();
    let address = taken.local_addr().unwrap().as_socket().unwrap();
    let nowhere = format!("http://{address}");
    let mut down = HttpBackend::new([&nowhere]).unwrap();
    down.timeout = Duration::from_secs(60);
    down.connect_timeout = down.timeout;
    let mut app = frontend("connector-1");
    app.http_backend("slow", slow).http_backend("down", down);
    let running = start([app]).await;
    let mut client = Client::connect(&running.apps()[0]);
    for (name, cause, advice) in [
        (
            "slow",
            "no complete response within 20ms (`timeout`)",
            "raise `timeout`",
        ),
        ("down", "cannot be reached", "check that the service runs"),
    ] {
        client.answer(&format!("{name}.room.say"), json!({})).await;
        let lines = lines(name, "a backend failed");
        assert_eq!(lines.len(), 1, "{lines:?}");
        let text = |key: &str| lines[0][key].as_str().unwrap();
        assert!(text("failure").contains(cause), "{lines:?}");
        assert!(text("advice").contains(advice), "{lines:?}");
    }
}

/// Requests that wait for a connection over TLS fail with the cause too, whichever is told first.
#[tokio::test]
async fn a_certificate_that_is_not_trusted_is_told() {
    collect();
    let stranger = Secure::start(Speaks::Tls(&[b"h2"]), 1).await;
    let authority = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    for (name, is_ca, pem, cause) in [
        (
            "stranger",
            rcgen::IsCa::NoCa,
            Some(&stranger.pem),
            "set `ca` to a file",
        ),
        (
            "authority",
            authority,
            None,
            "basicConstraints=critical,CA:FALSE",
        ),
    ] {
        let service = Secure::with_certificate(Speaks::Tls(&[b"h2"]), 1, is_ca).await;
        let mut app = frontend("connector-1");
        app.http_backend(name, service.backend(pem.unwrap_or(&service.pem)));
        let running = start([app]).await;
        let route = format!("{name}.room.say");
        let ask = async || {
            let mut client = Client::with_dialect(&running.apps()[0], Dialect::Pitaya);
            client.answer(&route, json!({})).await
        };
        for (answer, is_error) in futures_util::future::join_all((0..8).map(|_| ask())).await {
            assert!(is_error && answer["code"] == "PIT-503", "{name}: {answer}");
        }
        let lines = lines(name, "a backend failed");
        assert!(!lines.is_empty(), "{name}");
        let failure = lines[0]["failure"].as_str().unwrap();
        assert!(failure.contains(cause), "{failure}");
    }
}

/// An event that is sent again and again is told at its first failure, not when it is given up. Another kind of failure has its own line.
#[tokio::test]
async fn an_event_that_fails_is_told_at_once() {
    collect();
    let answers = Mutex::new(0);
    let service = Service::start(move |_| {
        let mut count = answers.lock().unwrap();
        *count += 1;
        match *count {
            1 | 2 => say("500 Oops", ""),
            3 => say("200 OK", "<html>"),
            _ => Say::Json(json!({"body": 1})),
        }
    })
    .await;
    let mut app = frontend("connector-1");
    app.http_backend("told", service.backend().events([BackendEvent::Bound]));
    let running = start([app]).await;
    let _ann = login(&running.apps()[0], "ann").await;
    until("the event was heard", || service.asked().len() == 3).await;
    until("its answer was judged", || {
        lines("told", "the response of a backend to an event").len() == 1
    })
    .await;
    let failed = lines("told", "a backend failed");
    assert!(!failed.is_empty());
    assert_eq!(failed[0]["route"], "bound");
    let unread = lines("told", "the response of a backend to an event");
    let reason = unread[0]["reason"].as_str().unwrap();
    assert!(
        reason.contains("HTML") && reason.contains("respond with a JSON object"),
        "{reason}"
    );
}
