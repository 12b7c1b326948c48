//! NATS stands still: it takes nothing, and its connections stay open.

use crate::support::node::{delivery, raw, works};
use crate::support::servers::Backing;
use crate::support::within;
use crate::{SECOND, join};
use shaddock_cluster::{Receivers, RemoteErrorKind};

const MIB: usize = 1024 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_nats_is_bounded_in_bytes_and_not_sent_when_it_is_too_old() {
    let backing = Backing::start();
    let mut patient = backing.config();
    // Nobody notices by pings.
    patient.nats_ping_interval = SECOND * 60;
    patient.nats_waiting_bytes = 8 * MIB;
    patient.lease_ttl = SECOND * 60;
    let front = join(&patient, "front-1", "connector").await;
    let back = join(&patient, "chat-1", "chat").await;
    back.sees("front-1").await;
    front.sees("chat-1").await;
    front.open(1);

    backing.nats.pause();
    // Some are taken by the kernel and by the client, so many wait, and then it says so.
    let long = "x".repeat(64 * 1024);
    let push = |body: &str| {
        let to = Receivers::Sids([raw(1)].into());
        back.member
            .deliver_unconfirmed(&front.id(), delivery(body, to))
    };
    let mut sent = 0;
    let refused = loop {
        assert!(sent < 64 * MIB, "{sent} bytes were taken");
        match push(&long) {
            Ok(()) => sent += long.len(),
            Err(error) => break error,
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(refused.kind(), RemoteErrorKind::Busy);
    assert!(back.member.status().waiting_bytes <= 8 * MIB);
    // Also short ones, and requests with a deadline: their callers are told in time.
    let late = front.request(back.info(), "chat.room.echo", "late").await;
    assert_eq!(late.unwrap_err().kind(), RemoteErrorKind::Timeout);
    within(SECOND * 5, "what waits is thrown away", || {
        back.member.status().waiting_bytes == 0
    })
    .await;
    let expired = back.member.status().expired;
    assert!(expired >= 100, "{expired}");
    let requests = back.state().requests.len();
    push("fresh").unwrap();

    backing.nats.resume();
    within(SECOND * 10, "the fresh one came", || {
        front.got(1).last().is_some_and(|body| body == "fresh")
    })
    .await;
    works(&front, &back).await;
    let came = front.got(1).len() as u64;
    assert!(came <= (sent / long.len()) as u64 + 1 - expired);
    assert!(back.state().requests.len() <= requests + 2);
    assert_eq!(back.member.status().waiting_bytes, 0);
    let answer = back.member.deliver(
        &front.id(),
        delivery("x", Receivers::All { bound_only: false }),
    );
    assert_eq!(answer.await.unwrap().queued, 1);
}
