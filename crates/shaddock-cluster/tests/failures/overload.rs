//! More calls than their server takes, and callers that go away at the wrong moment.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use shaddock_cluster::{Context, ForwardedRequest, RemoteErrorKind, Reply};

use crate::support::node::{Server, request};
use crate::support::servers::Backing;
use crate::support::until;
use crate::{SECOND, join};

/// A frontend that has room for one call to a backend, and so many that wait for it.
async fn narrow(backing: &Backing, waiting: usize) -> (Server, Server) {
    let mut config = backing.config();
    config.calls_per_server = 1;
    config.waiting_calls_per_server = waiting;
    config.request_timeout = SECOND * 30;
    let front = join(&config, "front-1", "connector").await;
    let back = join(&backing.config(), "chat-1", "chat").await;
    front.sees("chat-1").await;
    (front, back)
}

fn slow() -> ForwardedRequest {
    let mut message = request("chat.room.never", "");
    message.context = Context::with_timeout(SECOND * 20);
    message
}

/// The time of a refusal when so many calls wait: of many refusals the shortest one, which does not depend on what else the machine does.
async fn refusals(waiting: usize) -> Duration {
    let backing = Backing::start();
    let (front, back) = narrow(&backing, waiting).await;
    let ask = || front.member.forward(back.info(), slow());
    let mut held: Vec<Reply> = (0..=waiting).map(|_| ask()).collect();
    let mut cost = Duration::MAX;
    for _ in 0..2000 {
        let start = Instant::now();
        let refused = ask().await.unwrap_err();
        cost = cost.min(start.elapsed());
        assert_eq!(refused.kind(), RemoteErrorKind::Busy);
    }
    assert_eq!(front.member.status().rejected_calls, 2000);
    // A caller that goes away releases its place at once.
    held.truncate(waiting);
    assert_eq!(front.member.status().pending_calls, waiting);
    let taken = ask();
    assert_eq!(front.member.status().pending_calls, waiting + 1);
    drop((held, taken));
    assert_eq!(front.member.status().pending_calls, 0);
    cost
}

/// The log lines of a test.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The lines of this thread while something runs.
pub(crate) fn logged(work: impl FnOnce()) -> String {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, work);
    let log = log.0.lock().unwrap();
    String::from_utf8_lossy(&log).into_owned()
}

/// Every limit at which this server rejects its own work is counted, and its log line names the key that raises it; ten lines a minute.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_that_rejects_names_itself() {
    let backing = Backing::start();
    let mut config = backing.patient_config();
    config.calls_per_server = 2;
    config.waiting_calls_per_server = 3;
    let front = join(&config, "front-1", "connector").await;
    let mut narrow = backing.patient_config();
    narrow.max_serving = 1;
    let back = join(&narrow, "chat-1", "chat").await;
    let other = join(&backing.patient_config(), "chat-2", "chat").await;
    front.sees("chat-1").await;
    front.sees("chat-2").await;

    let mut held = Vec::new();
    let log = logged(|| {
        held.extend((0..105).map(|_| front.member.forward(other.info(), slow())));
    });
    let status = front.member.status();
    assert_eq!((status.pending_calls, status.rejected_calls), (5, 100));
    assert_eq!(log.matches("waiting_calls_per_server").count(), 10, "{log}");
    for call in held.drain(5..) {
        let error = call.await.unwrap_err();
        assert_eq!(
            (error.kind(), error.code()),
            (RemoteErrorKind::Busy, "PIT-503")
        );
        assert!(error.is_retryable());
    }

    // The other server says so itself.
    let running = front.member.forward(back.info(), slow());
    until("it runs", || back.member.status().serving == 1).await;
    let error = front.request(back.info(), "chat.room.echo", "").await;
    assert_eq!(error.unwrap_err().kind(), RemoteErrorKind::Busy);
    assert_eq!(back.member.status().refused_busy, 1);

    drop((held, running));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_costs_the_same_however_many_wait() {
    let (few, many) = (refusals(4).await, refusals(4000).await);
    assert!(
        many < few * 20 + Duration::from_micros(25),
        "{few:?} and {many:?}"
    );
}

/// The caller is dropped at the moment in which its reply arrives: its place is free for the next call, in either order.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_place_is_free_when_the_answer_meets_the_end_of_its_caller() {
    let backing = Backing::start();
    let (front, back) = narrow(&backing, 10).await;
    for round in 0..3000_u64 {
        let given_up = front
            .member
            .forward(back.info(), request("chat.room.echo", "1"));
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_micros(round % 300) {
            std::hint::spin_loop();
        }
        drop(given_up);
        // If the place is lost, this call waits until its timeout.
        let next = front.request(back.info(), "chat.room.echo", "2").await;
        assert!(next.as_deref() == Ok(b"2"), "round {round}: {next:?}");
    }
}
