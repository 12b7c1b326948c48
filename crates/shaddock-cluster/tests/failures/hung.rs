//! NATS stands still: it takes nothing, and its connections stay open.

use crate::overload::logged;
use crate::support::node::{delivery, raw, request};
use crate::support::servers::Backing;
use crate::support::until;
use crate::{SECOND, join};
use shaddock_cluster::{Context, Receivers, RemoteErrorKind};

const MIB: usize = 1024 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_nats_is_bounded_in_bytes_and_not_sent_when_it_is_too_old() {
    let backing = Backing::start();
    let mut patient = backing.config();
    // Pings do not detect it.
    patient.nats_ping_interval = SECOND * 60;
    patient.nats_waiting_bytes = 8 * MIB;
    // Messages that wait for longer than that are dropped.
    patient.request_timeout = SECOND * 2;
    patient.lease_ttl = SECOND * 60;
    let front = join(&patient, "front-1", "connector").await;
    let back = join(&patient, "chat-1", "chat").await;
    back.sees("front-1").await;
    front.sees("chat-1").await;
    front.open(1);

    backing.nats.pause();
    // The client and the kernel take some, as many as they like and whenever they like; the others wait, and then that is said.
    let long = "x".repeat(64 * 1024);
    let push = |body: &str| {
        let to = Receivers::Sids([raw(1)].into());
        back.member
            .deliver_unconfirmed(&front.id(), delivery(body, to))
    };
    let (mut sent, mut rejected, mut lines) = (0, 0, String::new());
    until("some wait for so long that they are thrown away", || {
        lines += &logged(|| {
            let refused = loop {
                assert!(sent * long.len() < 256 * MIB, "{sent} were taken");
                match push(&long) {
                    Ok(()) => sent += 1,
                    Err(error) => break error,
                }
            };
            assert_eq!(refused.kind(), RemoteErrorKind::Busy);
            rejected += 1;
        });
        let status = back.member.status();
        assert!(status.waiting_bytes <= 8 * MIB, "{status:?}");
        status.expired > 0
    })
    .await;
    assert_eq!(back.member.status().rejected_sends, rejected);
    assert!(
        lines.contains("nats_waiting_bytes of [cluster] is too low"),
        "{lines}"
    );
    // Requests with a deadline, too: their callers are told.
    let late = front.request(back.info(), "chat.room.echo", "late").await;
    assert_eq!(late.unwrap_err().kind(), RemoteErrorKind::Timeout);
    until("all that waits is thrown away", || {
        back.member.status().waiting_bytes == 0
    })
    .await;
    let expired = back.member.status().expired;
    let requests = back.state().requests.len();
    push("fresh").unwrap();

    backing.nats.resume();
    until("the fresh one came", || {
        front.got(1).last().is_some_and(|body| body == "fresh")
    })
    .await;
    let mut on = request("chat.room.echo", "on");
    on.context = Context::with_timeout(SECOND * 20);
    assert_eq!(front.member.forward(back.info(), on).await.unwrap(), "on");
    // Each was delivered or thrown away, and not both.
    let came = front.got(1).len() as u64;
    assert_eq!(came - 1 + expired, sent as u64, "{came} came");
    assert!(back.state().requests.len() <= requests + 2);
    assert_eq!(back.member.status().waiting_bytes, 0);
    let answer = back.member.deliver(
        &front.id(),
        delivery("x", Receivers::All { bound_only: false }),
    );
    assert_eq!(answer.await.unwrap().queued, 1);
}
