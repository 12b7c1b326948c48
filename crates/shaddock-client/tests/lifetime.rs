//! How connections live and end: heartbeats, kicks, closing, cancelled calls, full queues. The clock is paused where time matters.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, which clippy does not see as tests"
)]

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use shaddock_client::{
    Client, CloseKind, ConnectError, Dialect, NotifyError, RequestError, Violation,
};
use shaddock_protocol::{PackageError, PackageType};
use support::{Peer, pair, plain, plain_pair};
use tokio::io::AsyncWriteExt as _;
use tokio::time::{Instant, advance, sleep, timeout};

const H: Duration = Duration::from_secs(3);
const ROUTE: &str = "a.b.c";

fn beating() -> Value {
    json!({"code": 200, "sys": {"heartbeat": 3}})
}

#[tokio::test(start_paused = true)]
async fn heartbeats_are_answered_after_the_interval() {
    let (client, mut peer) = pair(&Client::builder(), beating()).await;
    for _ in 0..3 {
        let asked = Instant::now();
        peer.send(PackageType::Heartbeat, b"").await;
        peer.expect(PackageType::Heartbeat).await;
        assert_eq!(asked.elapsed().as_secs(), 3);
    }
    // From its own heartbeat on the client waits for two intervals.
    let last = Instant::now();
    assert_eq!(client.closed().await, CloseKind::HeartbeatTimeout);
    assert_eq!(last.elapsed().as_secs(), 6);
    assert!(client.close_kind().unwrap().may_reconnect());
}

#[tokio::test(start_paused = true)]
async fn any_package_is_a_sign_of_life() {
    let (client, mut peer) = pair(&Client::builder(), beating()).await;
    for _ in 0..10 {
        sleep(H + H / 2).await;
        peer.push("onTick", "1").await;
    }
    assert_eq!(client.close_kind(), None);
}

#[tokio::test(start_paused = true)]
async fn pitaya_clients_send_on_their_own() {
    let builder = Client::builder().dialect(Dialect::Pitaya);
    let (client, mut peer) = pair(&builder, beating()).await;
    let start = Instant::now();
    for n in 1..=5 {
        peer.expect(PackageType::Heartbeat).await;
        assert_eq!(start.elapsed().as_secs(), 3 * n);
    }
    assert_eq!(client.closed().await, CloseKind::HeartbeatTimeout);
    assert_eq!(start.elapsed().as_secs(), 18);
}

#[tokio::test(start_paused = true)]
async fn without_heartbeats_silence_means_nothing() {
    let (client, peer) = plain_pair().await;
    advance(Duration::from_secs(1_000_000)).await;
    tokio::task::yield_now().await;
    assert_eq!(client.close_kind(), None);
    drop(peer);
    assert_eq!(client.closed().await, CloseKind::ServerClosed(None));
}

#[tokio::test]
async fn a_kick_ends_everything_with_its_reason() {
    let (client, mut peer) = plain_pair().await;
    let mut pushes = client.subscribe("onChat");
    let server = async {
        peer.message().await;
        peer.push("onChat", "1").await;
        peer.send(PackageType::Kick, br#"{"reason":"name taken"}"#)
            .await;
        peer.push("onChat", "2").await;
    };
    let body = json!({});
    let (answer, ()) = tokio::join!(client.request::<_, Value>(ROUTE, &body), server);
    let kicked = CloseKind::Kicked {
        reason: Some("name taken".to_owned()),
    };
    assert_eq!(answer, Err(RequestError::Closed(kicked.clone())));
    assert_eq!(client.closed().await, kicked);
    assert_eq!(pushes.recv().await.unwrap().body(), "1");
    assert!(pushes.recv().await.is_none());
    assert_eq!(
        client.notify(ROUTE, &json!({})).await,
        Err(NotifyError::Closed(kicked.clone()))
    );
    assert_eq!(
        client.request_raw(ROUTE, "{}").await,
        Err(RequestError::Closed(kicked))
    );
    assert!(client.subscribe("onChat").recv().await.is_none());
    assert_eq!(client.pending_requests(), 0);
}

#[tokio::test]
async fn the_last_words_count_also_if_writing_fails() {
    // Whether the client writes or reads first is chance.
    for _ in 0..20 {
        let (client, mut peer) = plain_pair().await;
        client.notify(ROUTE, &json!({})).await.unwrap();
        peer.send(PackageType::Kick, b"").await;
        drop(peer);
        assert_eq!(client.closed().await, CloseKind::Kicked { reason: None });
    }
}

#[tokio::test]
async fn close_sends_what_was_accepted() {
    let (client, mut peer) = plain_pair().await;
    for n in 0..10 {
        client.notify(ROUTE, &n).await.unwrap();
    }
    let other = client.clone();
    let waiting = tokio::spawn(async move { other.request_raw(ROUTE, "{}").await });
    while client.pending_requests() == 0 {
        tokio::task::yield_now().await;
    }
    client.close().await;
    let closed = RequestError::Closed(CloseKind::ClosedByClient);
    assert_eq!(waiting.await.unwrap(), Err(closed));
    let mut notifies = 0;
    while let Some(package) = peer.next().await {
        notifies += i32::from(package.body.first() == Some(&2));
    }
    assert_eq!(notifies, 10);
    // Twice does no harm.
    client.close().await;
}

#[tokio::test]
async fn close_sends_what_the_task_has_not_seen_yet() {
    // Whether the task sees the queue or the wish to close first is chance.
    for _ in 0..20 {
        let (client, mut peer) = plain_pair().await;
        for n in 0..10 {
            client.notify(ROUTE, &n).await.unwrap();
        }
        client.close().await;
        for n in 0..10 {
            assert_eq!(peer.message().await.body, n.to_string());
        }
        assert!(peer.next().await.is_none());
    }
}

#[tokio::test]
async fn the_last_handle_closes() {
    let (client, mut peer) = plain_pair().await;
    let clone = client.clone();
    let subscription = client.subscribe("onChat");
    drop(client);
    clone.notify(ROUTE, &json!({})).await.unwrap();
    peer.message().await;
    drop(clone);
    assert!(peer.next().await.is_none());
    drop(subscription);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_dropped_or_late_leaves_nothing() {
    let builder = Client::builder().request_timeout(Some(Duration::from_secs(5)));
    let (client, mut peer) = pair(&builder, plain()).await;
    {
        let request = client.request_raw(ROUTE, "{}");
        tokio::pin!(request);
        assert!(timeout(Duration::from_secs(1), &mut request).await.is_err());
        assert_eq!(client.pending_requests(), 1);
    }
    assert_eq!(client.pending_requests(), 0);
    let start = Instant::now();
    let late = client.request_raw(ROUTE, "{}").await;
    assert_eq!(
        (late, start.elapsed().as_secs()),
        (Err(RequestError::Timeout), 5)
    );
    assert_eq!(client.pending_requests(), 0);

    // Answers that come now are ignored, and the next request has an id of its own.
    let server = async {
        for id in [1, 2] {
            assert_eq!(peer.message().await.id, id);
            peer.answer(id, "0").await;
        }
        let request = peer.message().await;
        assert_eq!(request.id, 3);
        peer.answer(3, "1").await;
    };
    let (answer, ()) = tokio::join!(client.request_raw(ROUTE, "{}"), server);
    assert_eq!(answer.unwrap(), "1");
    assert_eq!(client.stats().late_answers, 2);
}

#[tokio::test]
async fn too_many_requests_are_refused() {
    let builder = Client::builder().max_pending(1);
    let (client, _peer) = pair(&builder, plain()).await;
    let first = client.request_raw(ROUTE, "{}");
    let second = async {
        tokio::task::yield_now().await;
        client.request_raw(ROUTE, "{}").await
    };
    tokio::select! {
        biased;
        _ = first => panic!("nobody answers"),
        second = second => assert_eq!(second, Err(RequestError::TooManyPending)),
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_read_holds_up_callers_only() {
    let (near, far) = tokio::io::duplex(1024);
    let mut peer = Peer::new(far);
    let builder = Client::builder().command_capacity(4);
    let answer = plain();
    let (client, _) = tokio::join!(builder.connect_io(near, |_| ()), peer.handshake(&answer));
    let client = client.unwrap().0;
    let body = "x".repeat(1000);
    let mut sent = 0;
    while timeout(Duration::from_secs(1), client.notify(ROUTE, &body))
        .await
        .is_ok()
    {
        sent += 1;
        assert!(sent < 1000, "nothing is bounded");
    }
    assert!(sent >= 64, "64 KiB fit, {sent} were taken");
    // Pushes still come through, and so does the wish to close.
    let mut pushes = client.subscribe("onChat");
    peer.push("onChat", "1").await;
    assert_eq!(pushes.recv().await.unwrap().body(), "1");
    let start = Instant::now();
    client.close().await;
    assert_eq!(start.elapsed().as_secs(), 1);
}

#[tokio::test]
async fn a_slow_reader_loses_pushes_and_knows() {
    let builder = Client::builder().push_capacity(3);
    let (client, mut peer) = pair(&builder, plain()).await;
    let mut slow = client.subscribe("onChat");
    for n in 0..10 {
        peer.push("onChat", n.to_string()).await;
    }
    let mut end = client.subscribe("onEnd");
    peer.push("onEnd", "").await;
    assert_eq!(end.recv().await.unwrap().body(), "{}");
    let mut seen = Vec::new();
    while let Some(push) = slow.try_recv() {
        seen.push(push.json::<u32>().unwrap());
    }
    assert_eq!((seen, slow.missed()), (vec![0, 1, 2], 7));
}

#[tokio::test(start_paused = true)]
async fn handshakes_that_fail() {
    async fn connect(answer: &[u8], close: bool) -> ConnectError {
        let (near, far) = tokio::io::duplex(1 << 16);
        let mut peer = Peer::new(far);
        peer.io.write_all(answer).await.unwrap();
        let _open = if close {
            drop(peer);
            None
        } else {
            Some(peer)
        };
        let builder = Client::builder()
            .max_package_size(1000)
            .connect_timeout(Duration::from_millis(100));
        builder.connect_io(near, |_| ()).await.unwrap_err()
    }
    use CloseKind::{Kicked, Protocol, ServerClosed};
    use ConnectError::{Answer, Closed, Refused, Timeout};
    assert!(matches!(connect(b"", false).await, Timeout));
    assert!(matches!(
        connect(b"\x01\x00\x00\x02{", true).await,
        Closed(ServerClosed(None))
    ));
    let refused = b"\x01\x00\x00\x0c{\"code\":501}";
    assert!(matches!(
        connect(refused, true).await,
        Refused { code: 501 }
    ));
    let nonsense = b"\x01\x00\x00\x01{";
    assert!(matches!(connect(nonsense, false).await, Answer(_)));
    let long = b"\x01\x00\x04\x00";
    assert!(matches!(
        connect(long, false).await,
        Closed(Protocol(Violation::Package(PackageError::TooLarge {
            announced: 1024,
            limit: 1000
        })))
    ));
    let kick = b"\x05\x00\x00\x0e{\"reason\":\"x\"}";
    assert!(matches!(
        connect(kick, false).await,
        Closed(Kicked { reason: Some(_) })
    ));
    let http = b"HTTP/1.1 400 Bad Request\r\n\r\n";
    assert!(matches!(connect(http, false).await, Closed(Protocol(_))));
}

#[test]
fn the_end_of_the_runtime_is_an_end() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (client, _peer) = runtime.block_on(plain_pair());
    let mut pushes = client.subscribe("onChat");
    drop(runtime);
    assert_eq!(client.close_kind(), Some(CloseKind::Aborted));
    assert!(pushes.try_recv().is_none());
}
