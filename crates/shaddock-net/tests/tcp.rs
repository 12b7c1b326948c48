//! The connector on real TCP sockets, with good and bad clients.

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    io::Write,
    net::{Shutdown, TcpStream},
    sync::atomic::Ordering,
    time::Duration,
};

use shaddock_core::{CloseReason, SendError};
use shaddock_net::{ConnectionLimits, UpgradePolicy};
use shaddock_protocol::{Limits, PackageType};
use support::{HANDSHAKE, connect, joined, package, request, start, start_with, wait::found};

#[test]
fn requests_are_answered_in_order_and_everything_is_given_back() {
    let server = start();
    let mut client = joined(&server);
    assert_eq!(client.request(1, "a.b.echo", r#"{"x":1}"#), r#"{"x":1}"#);
    let many: Vec<u8> = (2..100)
        .flat_map(|id| request(id, "a.b.echo", "{}"))
        .collect();
    client.stream.write_all(&many).unwrap();
    for id in 2..100 {
        assert_eq!(client.answer(id), "{}");
    }
    let stats = server.stats();
    assert_eq!((stats.accepted, stats.opened, stats.requests), (1, 1, 99));
    drop(client);
    server.until("session closed", |s| {
        *s.echo.closed.lock().unwrap() == [CloseReason::ClientClosed]
    });
    server.finish();
}

#[test]
fn one_byte_at_a_time() {
    let server = start();
    let mut client = connect(&server);
    let bytes = [
        package(PackageType::Handshake, HANDSHAKE),
        package(PackageType::HandshakeAck, b""),
        request(7, "a.b.echo", r#"{"slow":"bytes"}"#),
    ]
    .concat();
    server.trickle(&mut client.stream, &bytes);
    assert_eq!(client.next().unwrap().unwrap().kind, PackageType::Handshake);
    assert_eq!(client.answer(7), r#"{"slow":"bytes"}"#);
    drop(client);
    server.finish();
}

/// A handshake that is judged for a while: what came behind it, also in the same packet, waits and is served.
#[test]
fn everything_in_one_write_waits_for_a_late_verdict() {
    let server = start();
    let mut client = connect(&server);
    let bytes = [
        package(
            PackageType::Handshake,
            br#"{"sys":{"type":"test","version":"late"}}"#,
        ),
        package(PackageType::HandshakeAck, b""),
        request(1, "a.b.echo", "{}"),
    ]
    .concat();
    client.stream.write_all(&bytes).unwrap();
    assert_eq!(client.next().unwrap().unwrap().kind, PackageType::Handshake);
    assert_eq!(client.answer(1), "{}");
    drop(client);
    server.finish();
}

#[test]
fn a_slow_handler_holds_up_its_own_session_only_and_keeps_the_order() {
    let server = start();
    let mut slow = joined(&server);
    let mut other = joined(&server);
    let bytes = [
        request(1, "a.b.slow", "{}"),
        request(2, "a.b.echo", "{}"),
        request(3, "a.b.slow", "{}"),
        request(4, "a.b.echo", "{}"),
    ]
    .concat();
    slow.stream.write_all(&bytes).unwrap();
    for (running, ids) in [(1, [1, 2]), (2, [3, 4])] {
        server.until_running(running);
        assert_eq!(other.request(1, "a.b.echo", "{}"), "{}");
        // Nothing of this session goes on before its handler does.
        assert_eq!(server.echo.running.load(Ordering::SeqCst), running);
        server.echo.gate.add_permits(1);
        for id in ids {
            slow.answer(id);
        }
    }
    assert_eq!(server.stats().requests, 6);
    drop((slow, other));
    server.finish();
}

/// Messages beyond the bound stay in the socket; none is lost, and the connection does not time out meanwhile.
#[test]
fn more_messages_than_may_wait() {
    let server = start_with(
        |config| config.limits.waiting_messages = 3,
        support::limits(),
        |_| {},
    );
    let mut client = joined(&server);
    let bytes: Vec<u8> = (1..=20)
        .flat_map(|id| request(id, if id == 1 { "a.b.slow" } else { "a.b.echo" }, "{}"))
        .collect();
    client.stream.write_all(&bytes).unwrap();
    server.until_running(1);
    server.echo.gate.add_permits(1);
    for id in 1..=20 {
        client.answer(id);
    }
    drop(client);
    server.finish();
}

#[test]
fn a_handler_runs_to_its_end_when_the_client_leaves() {
    let server = start();
    let mut client = joined(&server);
    client
        .stream
        .write_all(&request(1, "a.b.slow", "{}"))
        .unwrap();
    server.until_running(1);
    drop(client);
    server.until("session closed", |s| {
        !s.echo.closed.lock().unwrap().is_empty()
    });
    assert_eq!(server.echo.finished.load(Ordering::SeqCst), 0);
    server.echo.gate.add_permits(1);
    server.until("handler ended", |s| {
        s.echo.finished.load(Ordering::SeqCst) == 1
    });
    server.finish();
}

#[test]
fn a_kick_comes_after_what_was_queued_and_before_the_end() {
    let server = start();
    let mut client = joined(&server);
    let bytes = [
        request(1, "a.b.echo", "{}"),
        request(2, "a.b.kick", "{}"),
        request(3, "a.b.echo", "{}"),
    ]
    .concat();
    client.stream.write_all(&bytes).unwrap();
    client.answer(1);
    let rest = client.rest();
    assert_eq!(rest.len(), 1, "{rest:?}");
    assert_eq!(rest[0].kind, PackageType::Kick);
    assert_eq!(&rest[0].body[..], br#"{"reason":"told to","code":3500}"#);
    server.finish();
}

/// A server that goes down while a client joins tells it so, although there is no session.
#[test]
fn a_client_without_a_session_receives_the_reason() {
    let server = start();
    let mut client = connect(&server);
    client.send(
        PackageType::Handshake,
        br#"{"sys":{"type":"test","version":"refused"}}"#,
    );
    client.send(PackageType::HandshakeAck, b"");
    let rest = client.rest();
    let kick = rest.last().unwrap();
    assert_eq!(kick.kind, PackageType::Kick);
    assert_eq!(&kick.body[..], br#"{"reason":"draining","code":3001}"#);
    server.finish();
}

#[test]
fn bad_bytes_close_that_connection_with_a_counted_reason() {
    let server = start();
    let mut good = joined(&server);
    let huge_length = [PackageType::Handshake as u8, 0xff, 0xff, 0xff];
    let cases: [(&str, &[u8], bool); 6] = [
        ("unknown_first_byte", b"\x00\x00\x00\x00", false),
        ("unknown_first_byte", b"\xffabc", false),
        ("package_too_large", &huge_length, false),
        ("bad_handshake", b"\x01\x00\x00\x01x", false),
        ("unknown_package_type", b"\x09\x00\x00\x00", true),
        ("kick_from_client", b"\x05\x00\x00\x00", true),
    ];
    for (reason, bytes, after_join) in cases {
        let before = server.stats().closed.get(reason).copied().unwrap_or(0);
        let mut client = if after_join {
            joined(&server)
        } else {
            connect(&server)
        };
        client.stream.write_all(bytes).unwrap();
        let rest = client.rest();
        assert!(
            rest.iter().all(|p| p.kind == PackageType::Handshake),
            "{reason}: {rest:?}"
        );
        assert_eq!(
            server.stats().closed.get(reason),
            Some(&(before + 1)),
            "{reason}"
        );
    }
    assert_eq!(
        good.request(1, "a.b.echo", "{}"),
        "{}",
        "nobody else is harmed"
    );
    drop(good);
    server.finish();
}

#[test]
fn what_comes_too_early_is_dropped_and_counted() {
    let server = start();
    let mut client = connect(&server);
    let early = [
        package(PackageType::HandshakeAck, b""),
        package(PackageType::Heartbeat, b""),
        request(9, "a.b.echo", "{}"),
    ]
    .concat();
    client.stream.write_all(&early).unwrap();
    client.join();
    client.send(PackageType::Handshake, HANDSHAKE);
    assert_eq!(client.request(1, "a.b.echo", "{}"), "{}");
    let dropped = server.stats().dropped;
    for reason in [
        "data_before_ack",
        "second_handshake",
        "unexpected_ack",
        "early_heartbeat",
    ] {
        assert_eq!(dropped.get(reason), Some(&1), "{reason}: {dropped:?}");
    }
    drop(client);
    server.finish();
}

#[test]
fn requests_that_cannot_be_served_get_an_answer_and_the_connection_lives() {
    let server = start();
    let mut client = joined(&server);
    assert_eq!(client.request(1, "no-dots", "{}"), r#"{"code":500}"#);
    let unknown_code = package(PackageType::Data, &[0x01, 5, 0x30, 0x39, b'{', b'}']);
    client.stream.write_all(&unknown_code).unwrap();
    assert_eq!(client.answer(5), r#"{"code":500}"#);
    assert_eq!(client.request(2, "a.b.echo", "{}"), "{}");
    drop(client);
    server.finish();
}

#[test]
fn defect_26_silent_connections_are_closed_at_the_deadline() {
    let limits = Limits::default()
        // Long enough for a client that does shake hands, behind all the others.
        .handshake_timeout(Duration::from_secs(3));
    let server = start_with(|_| {}, limits, |_| {});
    let silent: Vec<TcpStream> = (0..500)
        .map(|_| TcpStream::connect(server.address).unwrap())
        .collect();
    let mut client = joined(&server);
    server.until("the silent ones are closed", |s| {
        s.stats().closed.get("handshake_timeout") == Some(&500)
    });
    assert_eq!(client.request(1, "a.b.echo", "{}"), "{}");
    drop((silent, client));
    server.finish();
}

/// The original made a session when it accepted a connection.
#[test]
fn defect_17_a_session_begins_with_the_acknowledgement() {
    let server = start();
    let silent = connect(&server);
    let mut halfway = connect(&server);
    halfway.send(PackageType::Handshake, HANDSHAKE);
    halfway.next().unwrap();
    server.until("both are accepted", |s| s.open_connections() == 2);
    assert_eq!(server.echo.sessions.session_count(), 0);
    halfway.send(PackageType::HandshakeAck, b"");
    server.until("it has a session", |s| s.echo.sessions.session_count() == 1);
    drop((silent, halfway));
    server.finish();
}

#[test]
fn a_client_that_never_reads_is_disconnected_and_counted() {
    let server = start_with(|_| {}, support::limits(), |s| s.outbox_bytes = 64 * 1024);
    let client = joined(&server);
    server.until("it is there", |s| s.echo.sessions.session_count() == 1);
    let push = package(PackageType::Data, &vec![b'x'; 16 * 1024]);
    let mut slow = None;
    server.echo.sessions.for_each_session(|session| {
        slow.get_or_insert_with(|| session.clone());
    });
    let slow = slow.unwrap();
    let mut other = joined(&server);
    // `Busy` is no verdict on the client: this thread was faster than the worker.
    found("it became slow", || {
        let sent = slow.send(push.clone());
        matches!(sent, Err(SendError::SlowClient | SendError::Closed)).then_some(())
    });
    server.until("it is closed", |s| {
        s.stats().closed.get("slow_client") == Some(&1)
    });
    assert_eq!(
        *server.echo.closed.lock().unwrap(),
        [CloseReason::SlowClient]
    );
    assert_eq!(other.request(1, "a.b.echo", "{}"), "{}");
    drop((client, other));
    server.finish();
}

#[test]
fn half_a_close_is_a_close_after_what_was_asked_is_answered() {
    let server = start();
    let mut client = joined(&server);
    client
        .stream
        .write_all(&request(1, "a.b.echo", "{}"))
        .unwrap();
    client.stream.shutdown(Shutdown::Write).unwrap();
    client.answer(1);
    assert!(client.rest().is_empty());
    server.finish();
}

#[test]
fn a_handler_that_never_returns_affects_no_other_session_and_keeps_no_connection() {
    let server = start();
    let mut client = joined(&server);
    client
        .stream
        .write_all(&request(1, "a.b.never", "{}"))
        .unwrap();
    let mut other = joined(&server);
    assert_eq!(other.request(1, "a.b.echo", "{}"), "{}");
    drop((client, other));
    server.until("connections are gone", |s| s.open_connections() == 0);
    assert_eq!(server.echo.sessions.session_count(), 0);
}

#[test]
fn too_many_messages_a_second() {
    let server = start_with(
        |config| {
            config.limits.messages_per_second = 1;
            config.limits.burst = 20;
        },
        support::limits(),
        |_| {},
    );
    let mut client = joined(&server);
    let flood: Vec<u8> = (1..=60)
        .flat_map(|id| request(id, "a.b.echo", "{}"))
        .collect();
    client.stream.write_all(&flood).unwrap();
    let rest = client.rest();
    let (kick, answers) = rest.split_last().unwrap();
    assert_eq!(kick.kind, PackageType::Kick);
    assert_eq!(answers.len(), 20);

    // New limits hold for connections that come after them.
    let relaxed = ConnectionLimits::default();
    let listener = server.listener.as_ref().unwrap();
    listener.set_limits(relaxed, UpgradePolicy::default());
    let mut client = joined(&server);
    client.stream.write_all(&flood).unwrap();
    for id in 1..=60 {
        client.answer(id);
    }
    drop(client);
    server.finish();
}

#[test]
fn connection_limits_and_lists() {
    let server = start_with(
        |config| {
            config.access.max_connections = 3;
            config.access.max_connections_per_address = 2;
        },
        support::limits(),
        |_| {},
    );
    let (first, second) = (joined(&server), joined(&server));
    let mut third = connect(&server);
    assert!(third.rest().is_empty(), "refused without a word");
    assert_eq!(server.stats().refused["too_many_from_address"], 1);
    drop(first);
    server.until("one is gone", |s| s.open_connections() == 1);
    let again = joined(&server);
    let mut policy = shaddock_net::AccessPolicy::default();
    policy.deny.push("127.0.0.0/8".parse().unwrap());
    server.listener.as_ref().unwrap().set_access(policy);
    assert!(connect(&server).rest().is_empty());
    assert_eq!(server.stats().refused["denied"], 1);
    drop((second, again));
    server.finish();
}

#[test]
fn proxy_heads_count_from_trusted_addresses_only() {
    let server = start_with(
        |config| {
            config.proxy_protocol = true;
            config
                .access
                .trusted_proxies
                .push("127.0.0.1/32".parse().unwrap());
            config.access.deny.push("192.0.2.66/32".parse().unwrap());
        },
        support::limits(),
        |_| {},
    );
    let mut client = connect(&server);
    client
        .stream
        .write_all(b"PROXY TCP4 192.0.2.1 198.51.100.7 4000 443\r\n")
        .unwrap();
    client.join();
    client.request(1, "a.b.echo", "{}");
    let mut address = None;
    server
        .echo
        .sessions
        .for_each_session(|s| address = s.client().address);
    assert_eq!(address, Some("192.0.2.1:4000".parse().unwrap()));

    let mut denied = connect(&server);
    denied
        .stream
        .write_all(b"PROXY TCP4 192.0.2.66 198.51.100.7 4000 443\r\n")
        .unwrap();
    assert!(denied.rest().is_empty());
    let mut without = connect(&server);
    without
        .stream
        .write_all(&package(PackageType::Handshake, HANDSHAKE))
        .unwrap();
    assert!(without.rest().is_empty());
    let refused = server.stats().refused;
    assert_eq!((refused["denied"], refused["bad_proxy_head"]), (1, 1));
    drop(client);
    server.finish();
}

#[test]
fn a_port_in_use_is_an_error_although_workers_share_it() {
    let server = start();
    let workers = shaddock_net::Workers::start(1).unwrap();
    let config = shaddock_net::ListenConfig::new(server.address);
    let second = shaddock_net::Listener::start(&workers, config, server.echo.clone());
    let error = second.err().expect("the port is in use");
    assert_eq!(error.source.kind(), std::io::ErrorKind::AddrInUse);
    server.finish();
}

/// A client that connects while open connections continue is refused by the system, and does not wait for an accept that never happens.
#[test]
fn a_closed_listener_admits_no_new_connection_while_others_continue() {
    let server = start();
    let mut client = joined(&server);
    server.listener.as_ref().unwrap().stop_accepting();
    server.until("the sockets are closed", |server| {
        TcpStream::connect(server.address).is_err()
    });
    assert_eq!(client.request(1, "a.b.echo", "{}"), "{}");
    drop(client);
    server.finish();
}
