//! A session that outlives its socket, against a server that follows a script. The same things are asked of every client by
//! `clients/conformance`.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, which clippy does not see as tests"
)]

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use shaddock_client::{
    Client, CloseKind, Events, Reconnect, RequestError, SessionEvent, Subscription, Violation,
};
use shaddock_protocol::PackageType;
use support::Peer;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

const ROUTE: &str = "a.b.c";
const PATIENCE: Duration = Duration::from_secs(30);

type Connection = Peer<TcpStream>;

struct Server {
    listener: TcpListener,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self { listener }
    }

    fn address(&self) -> String {
        format!("tcp://{}", self.listener.local_addr().unwrap())
    }

    async fn accept(&self) -> Connection {
        let socket = timeout(PATIENCE, self.listener.accept()).await.unwrap();
        Peer::new(socket.unwrap().0)
    }

    /// The next connection, answered with this. Gives back what the client said of resumption.
    async fn greet(&self, resume: Value) -> (Connection, Value) {
        let mut peer = self.accept().await;
        let said = peer
            .handshake(&json!({"code": 200, "sys": {"resume": resume}}))
            .await;
        (peer, said["sys"]["resume"].clone())
    }
}

fn grant(token: &str) -> Value {
    json!({"v": 1, "token": token, "window": 60, "ack": 3})
}

fn resumed(token: &str, received: u64, position: u64, missed: u64) -> Value {
    json!({"v": 1, "token": token, "window": 60, "ack": 3, "resumed": true, "received": received, "position": position, "missed": missed})
}

fn reconnect() -> Reconnect {
    Reconnect::new().waits(Duration::from_millis(1), Duration::from_millis(10))
}

/// A client with a granted session, its events, and the pushes on `onN`.
async fn begin(server: &Server) -> (Client, Events, Subscription, Connection) {
    let builder = Client::builder().resume(reconnect());
    let address = server.address();
    let connect = builder.connect_with(&address, |client| {
        (client.events(), client.subscribe("onN"))
    });
    let (connected, (peer, said)) = tokio::join!(connect, server.greet(grant("t1")));
    let (client, (events, pushes)) = connected.unwrap();
    assert_eq!(said, json!({"v": 1}));
    assert!(client.is_resumable() && !client.is_suspended());
    (client, events, pushes, peer)
}

async fn next(events: &mut Events) -> Option<SessionEvent> {
    timeout(PATIENCE, events.recv()).await.unwrap()
}

async fn suspended(events: &mut Events) {
    let event = next(events).await;
    assert!(
        matches!(event, Some(SessionEvent::Suspended(_))),
        "{event:?}"
    );
}

async fn numbers(peer: &mut Connection, count: usize) -> Vec<String> {
    let mut found = Vec::new();
    while found.len() < count {
        let message = timeout(PATIENCE, peer.message()).await.unwrap();
        found.push(String::from_utf8(message.body.to_vec()).unwrap());
    }
    found
}

#[tokio::test]
async fn what_was_not_acknowledged_is_sent_again_in_order() {
    let server = Server::start().await;
    let (client, mut events, mut pushes, mut peer) = begin(&server).await;
    for n in 1..=4 {
        client.notify(ROUTE, &n).await.unwrap();
    }
    assert_eq!(numbers(&mut peer, 4).await, ["1", "2", "3", "4"]);
    peer.push("onN", "1").await;
    peer.push("onN", "2").await;
    assert_eq!(pushes.recv().await.unwrap().body(), "1");
    assert_eq!(pushes.recv().await.unwrap().body(), "2");
    // The server has taken one; a heartbeat says so, and a later connection that it has taken two.
    peer.send(PackageType::Heartbeat, b"\x01").await;
    peer.push("onN", "3").await;
    pushes.recv().await.unwrap();
    assert_eq!(&peer.expect(PackageType::Heartbeat).await[..], b"\x03");
    drop(peer);
    suspended(&mut events).await;
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.request_raw(ROUTE, "5").await }
    });
    let (mut peer, said) = server.greet(resumed("t2", 2, 3, 0)).await;
    assert_eq!(
        said,
        json!({"v": 1, "token": "t1", "received": 3, "sent": 4, "early": true})
    );
    assert_eq!(
        next(&mut events).await,
        Some(SessionEvent::Resumed { missed: 0 })
    );
    assert_eq!(numbers(&mut peer, 2).await, ["3", "4"]);
    let request = peer.message().await;
    assert_eq!(request.body, "5");
    peer.answer(request.id, "6").await;
    assert_eq!(waiting.await.unwrap().unwrap(), "6");
    assert!(client.is_resumable() && !client.is_suspended());
}

#[tokio::test]
async fn a_gap_is_reported_and_counting_continues_after_it() {
    let server = Server::start().await;
    let (_client, mut events, _pushes, peer) = begin(&server).await;
    drop(peer);
    suspended(&mut events).await;
    let (peer, _) = server.greet(resumed("t2", 0, 7, 7)).await;
    assert_eq!(
        next(&mut events).await,
        Some(SessionEvent::Resumed { missed: 7 })
    );
    drop(peer);
    suspended(&mut events).await;
    let (_peer, said) = server.greet(resumed("t3", 0, 7, 0)).await;
    assert_eq!(
        said,
        json!({"v": 1, "token": "t2", "received": 7, "sent": 0, "early": true})
    );
}

#[tokio::test]
async fn attempts_that_fail_change_nothing() {
    let server = Server::start().await;
    let (client, mut events, _pushes, peer) = begin(&server).await;
    client.notify(ROUTE, &1).await.unwrap();
    drop(peer);
    suspended(&mut events).await;
    // Nothing, half an answer, a refusal that may pass.
    drop(server.accept().await);
    let mut half = server.accept().await;
    half.expect(PackageType::Handshake).await;
    tokio::io::AsyncWriteExt::write_all(&mut half.io, b"\x01\x00\x00\x09{")
        .await
        .unwrap();
    drop(half);
    let mut refused = server.accept().await;
    refused.expect(PackageType::Handshake).await;
    refused
        .send(PackageType::Handshake, br#"{"code":500}"#)
        .await;
    let (mut peer, said) = server.greet(resumed("t2", 0, 0, 0)).await;
    assert_eq!(said["token"], "t1");
    assert_eq!(numbers(&mut peer, 1).await, ["1"]);
    assert_eq!(
        next(&mut events).await,
        Some(SessionEvent::Resumed { missed: 0 })
    );
}

#[tokio::test]
async fn the_token_of_an_answer_counts_also_if_the_ack_is_lost() {
    let server = Server::start().await;
    let (_client, mut events, _pushes, peer) = begin(&server).await;
    drop(peer);
    suspended(&mut events).await;
    // The ACK may arrive or not: the connection ends behind the answer.
    let mut peer = server.accept().await;
    peer.expect(PackageType::Handshake).await;
    let answer = json!({"code": 200, "sys": {"resume": resumed("t2", 0, 5, 5)}});
    peer.send(PackageType::Handshake, answer.to_string().as_bytes())
        .await;
    drop(peer);
    let (_peer, said) = server.greet(resumed("t3", 0, 5, 0)).await;
    assert_eq!(
        said,
        json!({"v": 1, "token": "t2", "received": 5, "sent": 0, "early": true})
    );
}

#[tokio::test]
async fn a_new_session_ends_the_requests_of_the_old_one_and_the_client_goes_on() {
    let server = Server::start().await;
    let (client, mut events, mut pushes, mut peer) = begin(&server).await;
    client.notify(ROUTE, &1).await.unwrap();
    peer.message().await;
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.request_raw(ROUTE, "2").await }
    });
    peer.message().await;
    drop(peer);
    suspended(&mut events).await;
    // Written for the old session, not sent yet.
    client.notify(ROUTE, &3).await.unwrap();
    let mut answer = grant("u1");
    answer["resumed"] = json!(false);
    answer["why"] = json!("unknown");
    let (mut peer, _) = server.greet(answer).await;
    assert_eq!(
        next(&mut events).await,
        Some(SessionEvent::Restarted {
            why: "unknown".to_owned(),
            lost: 2
        })
    );
    assert_eq!(waiting.await.unwrap(), Err(RequestError::Lost));
    assert_eq!(client.pending_requests(), 0);
    client.notify(ROUTE, &4).await.unwrap();
    assert_eq!(numbers(&mut peer, 1).await, ["4"]);
    peer.push("onN", "9").await;
    assert_eq!(pushes.recv().await.unwrap().body(), "9");
    // The counts are those of the new session.
    drop(peer);
    suspended(&mut events).await;
    let (_peer, said) = server.greet(resumed("u2", 1, 1, 0)).await;
    assert_eq!(
        said,
        json!({"v": 1, "token": "u1", "received": 1, "sent": 1, "early": true})
    );
}

#[tokio::test]
async fn a_server_that_offers_no_resumption_any_more_is_a_new_session_without() {
    let server = Server::start().await;
    let (client, mut events, _pushes, peer) = begin(&server).await;
    drop(peer);
    suspended(&mut events).await;
    let (peer, _) = server.greet(Value::Null).await;
    assert_eq!(
        next(&mut events).await,
        Some(SessionEvent::Restarted {
            why: String::new(),
            lost: 0
        })
    );
    assert!(!client.is_resumable());
    drop(peer);
    assert!(matches!(
        client.closed().await,
        CloseKind::ServerClosed(None) | CloseKind::Io { .. }
    ));
    assert_eq!(next(&mut events).await, None);
}

#[tokio::test]
async fn callers_wait_when_too_much_is_not_acknowledged() {
    let server = Server::start().await;
    let (client, _events, _pushes, mut peer) = begin(&server).await;
    let sender = tokio::spawn({
        let client = client.clone();
        async move {
            for n in 0..1000 {
                client.notify(ROUTE, &n).await.unwrap();
            }
        }
    });
    // 256 are kept; 64 more wait in the queue, and one in the hands of its caller.
    let first = numbers(&mut peer, 256).await;
    assert_eq!(first[255], "255");
    let more = timeout(Duration::from_millis(200), peer.message()).await;
    assert!(more.is_err() && !sender.is_finished());
    peer.send(PackageType::Heartbeat, b"\x80\x02").await;
    assert_eq!(numbers(&mut peer, 256).await[255], "511");
    peer.send(PackageType::Heartbeat, b"\x80\x04").await;
    assert_eq!(numbers(&mut peer, 256).await[255], "767");
    peer.send(PackageType::Heartbeat, b"\x80\x06").await;
    assert_eq!(numbers(&mut peer, 232).await[231], "999");
    sender.await.unwrap();
}

#[tokio::test]
async fn a_goodbye_ends_the_session() {
    let server = Server::start().await;
    let (client, mut events, _pushes, mut peer) = begin(&server).await;
    client.notify(ROUTE, &1).await.unwrap();
    client.close().await;
    assert_eq!(numbers(&mut peer, 1).await, ["1"]);
    assert_eq!(&peer.expect(PackageType::Kick).await[..], b"");
    assert!(peer.next().await.is_none());
    assert_eq!(next(&mut events).await, None);
    assert!(!client.is_resumable());
}

#[tokio::test]
async fn a_client_that_is_suspended_can_be_closed() {
    let server = Server::start().await;
    let (client, mut events, _pushes, peer) = begin(&server).await;
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.request_raw(ROUTE, "2").await }
    });
    drop(peer);
    suspended(&mut events).await;
    timeout(PATIENCE, client.close()).await.unwrap();
    let closed = Err(RequestError::Closed(CloseKind::ClosedByClient));
    assert_eq!(waiting.await.unwrap(), closed);
    assert_eq!(next(&mut events).await, None);
}

#[tokio::test]
async fn a_kick_and_a_refusal_for_good_are_the_end() {
    for (kind, body, end) in [
        (
            PackageType::Kick,
            &br#"{"reason":"out"}"#[..],
            CloseKind::Kicked {
                reason: Some("out".to_owned()),
            },
        ),
        (
            PackageType::Handshake,
            br#"{"code":501}"#,
            CloseKind::Refused { code: 501 },
        ),
        (
            PackageType::Handshake,
            br#"{"code":200,"sys":{"resume":{"v":1,"token":"t2","ack":3,"resumed":true}}}"#,
            CloseKind::Protocol(Violation::ResumeCounts),
        ),
        (
            PackageType::Handshake,
            br#"{"code":200,"sys":{"resume":{"v":1,"token":"t2","ack":3,"resumed":true,"received":1,"position":0}}}"#,
            CloseKind::Protocol(Violation::Acknowledgement),
        ),
    ] {
        let server = Server::start().await;
        let (client, mut events, _pushes, peer) = begin(&server).await;
        drop(peer);
        suspended(&mut events).await;
        let mut peer = server.accept().await;
        peer.expect(PackageType::Handshake).await;
        peer.send(kind, body).await;
        let closed = timeout(PATIENCE, client.closed()).await.unwrap();
        assert_eq!(closed, end);
        assert!(!closed.may_reconnect());
    }
}

#[tokio::test]
async fn wrong_acknowledgements_are_the_end() {
    for wrong in [&b"\x01"[..], b"\x80"] {
        let server = Server::start().await;
        let (client, _events, _pushes, mut peer) = begin(&server).await;
        peer.send(PackageType::Heartbeat, wrong).await;
        assert_eq!(
            timeout(PATIENCE, client.closed()).await.unwrap(),
            CloseKind::Protocol(Violation::Acknowledgement)
        );
    }
}

#[tokio::test]
async fn enough_attempts_are_enough() {
    let server = Server::start().await;
    let builder = Client::builder().resume(reconnect().attempts(3));
    let address = server.address();
    let (client, (peer, _)) = tokio::join!(builder.connect(&address), server.greet(grant("t1")));
    let client = client.unwrap();
    drop((peer, server));
    let closed = timeout(PATIENCE, client.closed()).await.unwrap();
    assert!(closed.may_reconnect(), "{closed}");
}

#[tokio::test]
async fn the_servers_own_address_comes_first_then_the_other_in_turn() {
    let (server, home) = (Server::start().await, Server::start().await);
    let builder = Client::builder().resume(reconnect());
    let address = server.address();
    let mut answer = grant("t1");
    answer["address"] = json!(home.address());
    let (client, (peer, _)) = tokio::join!(builder.connect(&address), server.greet(answer));
    let _client = client.unwrap();
    drop(peer);
    drop(home.accept().await);
    drop(server.accept().await);
    let (_peer, said) = home.greet(resumed("t2", 0, 0, 0)).await;
    assert_eq!(said["token"], "t1");
}

#[tokio::test]
async fn clients_that_do_not_ask_for_resume_get_a_plain_session() {
    let server = Server::start().await;
    let address = server.address();
    let connect = Client::connect(&address);
    let (client, (mut peer, said)) = tokio::join!(connect, server.greet(grant("t1")));
    let client = client.unwrap();
    assert_eq!(said, Value::Null);
    assert!(!client.is_resumable());
    // A number in a heartbeat means nothing then.
    peer.send(PackageType::Heartbeat, b"\x09").await;
    peer.push("onN", "1").await;
    client.interrupt();
    assert_eq!(client.closed().await, CloseKind::ServerClosed(None));
    assert_eq!(client.events().recv().await, None);
}

#[tokio::test]
async fn what_its_caller_gave_up_before_it_was_sent_is_never_sent() {
    let server = Server::start().await;
    let (client, mut events, _pushes, peer) = begin(&server).await;
    drop(peer);
    suspended(&mut events).await;
    let given_up = tokio::spawn({
        let client = client.clone();
        async move { client.request_raw(ROUTE, "1").await }
    });
    while client.pending_requests() == 0 {
        tokio::task::yield_now().await;
    }
    // Behind it in the queue: it is there as well when this is.
    client.notify(ROUTE, &2).await.unwrap();
    given_up.abort();
    assert!(given_up.await.is_err());
    let (mut peer, _) = server.greet(resumed("t2", 0, 0, 0)).await;
    assert_eq!(numbers(&mut peer, 1).await, ["2"]);
}
