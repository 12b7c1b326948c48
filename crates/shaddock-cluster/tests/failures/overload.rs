//! More calls than their server takes, and callers that go away at the wrong moment.

use std::time::{Duration, Instant};

use shaddock_cluster::{Context, ForwardedRequest, RemoteErrorKind, Reply};

use crate::support::node::{Server, request};
use crate::support::servers::Backing;
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
    // Who goes away makes room at once.
    held.truncate(waiting);
    assert_eq!(front.member.status().pending_calls, waiting);
    let taken = ask();
    assert_eq!(front.member.status().pending_calls, waiting + 1);
    drop((held, taken));
    assert_eq!(front.member.status().pending_calls, 0);
    cost
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
