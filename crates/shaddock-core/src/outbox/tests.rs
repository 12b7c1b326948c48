//! The outbox from both sides: what is accepted, in which order it leaves, and who is woken when.

// Tests panic on purpose.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

use crate::{Drained, Flush, Next, Offer, Outbox, PushError, SendError};
use bytes::{Buf, Bytes, BytesMut};
use proptest::prelude::*;
use std::convert::Infallible;
use std::io::IoSlice;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};

/// Enqueued without a wake-up.
const BUFFERED: Offer<'_> = Offer {
    latest: None,
    is_buffered: true,
};

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Wakes {
    fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

fn wakes() -> (Arc<Wakes>, Waker) {
    let wakes = Arc::new(Wakes::default());
    (Arc::clone(&wakes), Waker::from(wakes))
}

fn append(bytes: &[u8]) -> impl FnOnce(&mut BytesMut) -> Result<(), Infallible> {
    move |buf| {
        buf.extend_from_slice(bytes);
        Ok(())
    }
}

fn take_all(outbox: &Outbox) -> (Bytes, Next) {
    let mut drained = Drained::default();
    let next = outbox.take(&mut drained);
    let bytes = drained.copy_to_bytes(drained.remaining());
    outbox.written(bytes.len());
    (bytes, next)
}

/// A poll that writes everything and parks.
fn poll(outbox: &Outbox, waker: &Waker) -> Bytes {
    outbox.begin_poll(waker);
    let (bytes, _) = take_all(outbox);
    assert!(!outbox.end_poll(Flush::Done));
    bytes
}

#[test]
fn the_first_push_wakes_the_driver_and_the_next_ones_do_not() {
    let outbox = Outbox::new(1000);
    let (woken, waker) = wakes();
    poll(&outbox, &waker);
    outbox.push(Bytes::from_static(b"a")).unwrap();
    outbox.push(Bytes::from_static(b"b")).unwrap();
    outbox.push_with(append(b"c")).unwrap();
    assert_eq!(woken.count(), 1);
    assert_eq!(poll(&outbox, &waker), "abc");
    outbox.push_with(append(b"d")).unwrap();
    assert_eq!(woken.count(), 2);
}

#[test]
fn pushes_during_a_poll_do_not_wake() {
    let outbox = Outbox::new(1000);
    let (woken, waker) = wakes();
    outbox.begin_poll(&waker);
    outbox.push(Bytes::from_static(b"a")).unwrap();
    assert_eq!(take_all(&outbox).0, "a");
    // This one came after the take: the driver must not park.
    outbox.push(Bytes::from_static(b"b")).unwrap();
    assert!(outbox.end_poll(Flush::Done));
    assert_eq!(take_all(&outbox).0, "b");
    assert!(!outbox.end_poll(Flush::Done));
    assert_eq!(woken.count(), 0);
}

#[test]
fn a_full_socket_is_woken_by_the_end_only() {
    let outbox = Outbox::new(1000);
    let (woken, waker) = wakes();
    outbox.push(Bytes::from_static(b"a")).unwrap();
    outbox.begin_poll(&waker);
    let mut unsent = Drained::default();
    assert_eq!(outbox.take(&mut unsent), Next::Continue);
    assert!(!outbox.end_poll(Flush::Blocked));
    outbox.push(Bytes::from_static(b"b")).unwrap();
    assert_eq!(woken.count(), 0);
    outbox.close_after(Some(Bytes::from_static(b"kick")));
    assert_eq!(woken.count(), 1);
    outbox.begin_poll(&waker);
    assert_eq!(unsent.copy_to_bytes(unsent.remaining()), "a");
    assert_eq!(outbox.take(&mut unsent), Next::CloseAfterFlush);
    // It knows by now.
    assert!(!outbox.end_poll(Flush::Blocked));
    assert_eq!(unsent.copy_to_bytes(unsent.remaining()), "bkick");
}

#[test]
fn a_driver_that_parks_during_a_close_is_woken() {
    for flush in [Flush::Done, Flush::Blocked] {
        let outbox = Outbox::new(1000);
        outbox.begin_poll(Waker::noop());
        assert_eq!(take_all(&outbox).1, Next::Continue);
        outbox.close_after(None);
        assert!(outbox.end_poll(flush));
        assert_eq!(take_all(&outbox).1, Next::CloseAfterFlush);
        outbox.abort();
        assert!(outbox.end_poll(flush));
        assert_eq!(take_all(&outbox).1, Next::CloseNow);
        assert!(!outbox.end_poll(flush));
    }
}

#[test]
fn buffered_messages_wait_for_a_flush() {
    let outbox = Outbox::new(1000);
    let (woken, waker) = wakes();
    poll(&outbox, &waker);
    outbox.offer(Bytes::from_static(b"a"), BUFFERED).unwrap();
    outbox.offer(Bytes::from_static(b"b"), BUFFERED).unwrap();
    assert_eq!(woken.count(), 0);
    outbox.flush();
    outbox.flush();
    assert_eq!(woken.count(), 1);
    assert_eq!(poll(&outbox, &waker), "ab");
    outbox.flush();
    assert_eq!(woken.count(), 1);
}

#[test]
fn the_bound_counts_what_was_taken_and_not_written() {
    let outbox = Outbox::new(10);
    outbox.push(Bytes::from_static(b"123456")).unwrap();
    let mut unsent = Drained::default();
    let _ = outbox.take(&mut unsent);
    outbox.push(Bytes::from_static(b"789")).unwrap();
    outbox.written(2);
    outbox.push_with(append(b"012")).unwrap();
    assert_eq!(
        (outbox.stats().queued_bytes, outbox.stats().in_flight_bytes),
        (6, 4)
    );
    let (woken, waker) = wakes();
    outbox.begin_poll(&waker);
    assert!(outbox.end_poll(Flush::Done));
    assert!(!outbox.end_poll(Flush::Blocked), "the socket is full");
    assert_eq!(
        outbox.push(Bytes::from_static(b"3")),
        Err(SendError::SlowClient)
    );
    assert_eq!(woken.count(), 1);
    // The verdict is given once, the queue is gone, and the driver closes at once.
    assert_eq!(
        outbox.push(Bytes::from_static(b"3")),
        Err(SendError::Closed)
    );
    assert_eq!(outbox.stats().queued_bytes, 0);
    assert_eq!(take_all(&outbox), (Bytes::new(), Next::CloseNow));
    outbox.close_after(Some(Bytes::from_static(b"kick")));
    assert_eq!(take_all(&outbox), (Bytes::new(), Next::CloseNow));
}

/// Bytes that one session's driver left behind when it failed never reach the next session's client.
#[test]
fn a_take_begins_with_nothing() {
    let (first, second) = (Outbox::new(1000), Outbox::new(1000));
    let mut drained = Drained::default();
    first.push(Bytes::from_static(b"for the first")).unwrap();
    first.push_with(append(b" client")).unwrap();
    let _ = first.take(&mut drained);
    drained.advance(3);
    second.push(Bytes::from_static(b"for the second")).unwrap();
    let _ = second.take(&mut drained);
    assert_eq!(drained.copy_to_bytes(drained.remaining()), "for the second");
    let _ = first.take(&mut drained);
    assert!(drained.is_empty());
}

/// A client is slow only if its socket did not take what it was offered.
#[test]
fn data_that_was_not_offered_to_the_socket_makes_no_client_slow() {
    let outbox = Outbox::new(100);
    let part = || Bytes::from(vec![b'x'; 25]);
    outbox.push(part()).unwrap();
    assert!(!outbox.is_pressed());
    outbox.push(part()).unwrap();
    assert!(outbox.is_pressed());
    for _ in 2..4 {
        outbox.push(part()).unwrap();
    }
    assert_eq!(outbox.push(part()), Err(SendError::Busy));
    assert_eq!(outbox.offer(part(), BUFFERED), Err(SendError::Busy));
    outbox
        .push_with(append(b"an answer is not refused"))
        .unwrap();
    // The socket takes everything: all is well.
    outbox.begin_poll(Waker::noop());
    assert_eq!(take_all(&outbox).0.len(), 124);
    assert!(!outbox.end_poll(Flush::Done));
    assert!(!outbox.is_pressed());
    outbox.push(part()).unwrap();
    // The socket takes nothing: up to the bound, no further, and senders do not wait for the client.
    outbox.begin_poll(Waker::noop());
    let mut unsent = Drained::default();
    let _ = outbox.take(&mut unsent);
    assert!(!outbox.end_poll(Flush::Blocked));
    for _ in 1..4 {
        outbox.push(part()).unwrap();
    }
    assert!(outbox.is_above_mark() && !outbox.is_pressed());
    assert_eq!(outbox.push(part()), Err(SendError::SlowClient));
}

#[test]
fn a_message_longer_than_the_bound_is_refused_alone() {
    let outbox = Outbox::new(4);
    let too_large = SendError::TooLarge { len: 5, limit: 4 };
    outbox.push(Bytes::from_static(b"1")).unwrap();
    assert_eq!(outbox.push(Bytes::from_static(b"12345")), Err(too_large));
    assert_eq!(
        outbox.push_with(append(b"12345")),
        Err(PushError::Send(too_large))
    );
    outbox.push_with(append(b"234")).unwrap();
    assert_eq!(
        take_all(&outbox),
        (Bytes::from_static(b"1234"), Next::Continue)
    );
}

#[test]
fn an_encoder_that_fails_or_panics_leaves_nothing() {
    let outbox = Outbox::new(1000);
    outbox.push_with(append(b"before ")).unwrap();
    let failed = outbox.push_with(|buf| {
        buf.extend_from_slice(b"half a");
        Err("no")
    });
    assert_eq!(failed, Err(PushError::Encode("no")));
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        outbox.push_with(|buf| -> Result<(), ()> {
            buf.extend_from_slice(b"half a");
            panic!("encoder")
        })
    }));
    assert!(panicked.is_err());
    outbox.push_with(append(b"after")).unwrap();
    assert_eq!(outbox.stats().messages, 2);
    assert_eq!(take_all(&outbox).0, "before after");
}

#[test]
fn nothing_is_accepted_after_the_seal_but_the_kick() {
    let outbox = Outbox::new(5);
    outbox.push(Bytes::from_static(b"12345")).unwrap();
    outbox.seal();
    assert_eq!(
        outbox.push(Bytes::from_static(b"6")),
        Err(SendError::Closed)
    );
    assert_eq!(
        outbox.push_with(append(b"6")),
        Err(PushError::Send(SendError::Closed))
    );
    assert_eq!(
        outbox.offer(Bytes::from_static(b"6"), BUFFERED),
        Err(SendError::Closed)
    );
    // A full queue is no reason not to say why.
    outbox.close_after(Some(Bytes::from_static(b"kick")));
    outbox.close_after(Some(Bytes::from_static(b"again")));
    assert_eq!(
        take_all(&outbox),
        (Bytes::from_static(b"12345kick"), Next::CloseAfterFlush)
    );
}

#[test]
fn another_driver_takes_over_what_is_queued() {
    let outbox = Outbox::new(10);
    let (first, waker) = wakes();
    outbox.push(Bytes::from_static(b"lost")).unwrap();
    outbox.begin_poll(&waker);
    let mut unsent = Drained::default();
    let _ = outbox.take(&mut unsent);
    assert!(!outbox.end_poll(Flush::Blocked));
    outbox.release();
    drop((unsent, waker));
    assert_eq!(Arc::strong_count(&first), 1, "no waker is kept");
    outbox.push(Bytes::from_static(b"0123456789")).unwrap();
    let (second, waker) = wakes();
    assert_eq!(poll(&outbox, &waker), "0123456789");
    outbox.push(Bytes::from_static(b"x")).unwrap();
    assert_eq!((first.count(), second.count()), (0, 1));
}

#[test]
fn counts_go_up() {
    let outbox = Outbox::new(100);
    for text in ["a", "", "bc"] {
        outbox.push(Bytes::from(text)).unwrap();
    }
    outbox.push_with(append(b"")).unwrap();
    outbox.push_with(append(b"d")).unwrap();
    take_all(&outbox);
    let stats = outbox.stats();
    assert_eq!((stats.messages, stats.written_bytes), (3, 4));
    assert_eq!((stats.queued_bytes, stats.in_flight_bytes), (0, 0));
}

#[derive(Clone, Debug)]
enum Op {
    Push(usize),
    Encode(usize),
    Buffer(Vec<usize>),
    Take,
    Write(usize),
    WriteVectored(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let len = || prop_oneof![0..4_usize, 60..70_usize, 500..600_usize];
    prop_oneof![
        3 => len().prop_map(Op::Push),
        3 => len().prop_map(Op::Encode),
        1 => prop::collection::vec(len(), 0..4).prop_map(Op::Buffer),
        3 => Just(Op::Take),
        2 => (0..900_usize).prop_map(Op::Write),
        2 => (1..6_usize).prop_map(Op::WriteVectored),
    ]
}

proptest! {
    /// Whatever is pushed and however it is written, the stream is the messages one after the other.
    #[test]
    fn the_stream_is_what_was_accepted_in_order(ops in prop::collection::vec(op(), 0..60)) {
        let outbox = Outbox::new(usize::MAX);
        let mut drained = Drained::default();
        let (mut accepted, mut written) = (Vec::new(), Vec::new());
        let mut next = 0_u8;
        let mut message = |len| {
            next = next.wrapping_add(1);
            accepted.extend(std::iter::repeat_n(next, len));
            Bytes::from(vec![next; len])
        };
        for op in ops {
            match op {
                Op::Push(len) => _ = outbox.push(message(len)).unwrap(),
                Op::Encode(len) => _ = outbox.push_with(append(&message(len))).unwrap(),
                Op::Buffer(lens) => {
                    for len in lens {
                        outbox.offer(message(len), BUFFERED).unwrap();
                    }
                }
                Op::Take => {
                    // A driver writes what it took, or keeps it, before it takes again.
                    written.extend_from_slice(&drained.copy_to_bytes(drained.remaining()));
                    let _ = outbox.take(&mut drained);
                }
                Op::Write(n) => {
                    let n = n.min(drained.remaining());
                    written.extend_from_slice(&drained.copy_to_bytes(n));
                }
                Op::WriteVectored(n) => {
                    let mut slices = [IoSlice::new(&[]); 8];
                    let filled = drained.chunks_vectored(&mut slices[..n]);
                    let bytes: Vec<u8> =
                        slices[..filled].iter().flat_map(|slice| slice.to_vec()).collect();
                    prop_assert_eq!(bytes.is_empty(), drained.is_empty());
                    drained.advance(bytes.len());
                    written.extend(bytes);
                }
            }
        }
        for _ in 0..2 {
            written.extend_from_slice(&drained.copy_to_bytes(drained.remaining()));
            let _ = outbox.take(&mut drained);
        }
        prop_assert_eq!(written, accepted);
        prop_assert!(drained.is_empty() && !drained.has_remaining());
    }
}

/// Memory of the application whose end looks at the outbox.
struct Owner(Arc<Outbox>, Vec<u8>);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.1
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let _ = self.0.stats();
    }
}

#[test]
#[allow(clippy::disallowed_methods, reason = "a deadlock is seen from outside")]
fn memory_of_the_application_ends_without_the_lock() {
    let (done, finished) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let outbox = Arc::new(Outbox::new(1000));
        let owned = |len: usize| Bytes::from_owner(Owner(Arc::clone(&outbox), vec![b'x'; len]));
        // Kept, copied, too long, empty.
        for len in [600, 3, 2000, 0] {
            let _ = outbox.push(owned(len));
            let _ = outbox.offer(owned(len), BUFFERED);
        }
        // The socket is full, and everything that waits is dropped.
        outbox.begin_poll(Waker::noop());
        assert!(!outbox.end_poll(Flush::Blocked));
        assert_eq!(outbox.push(owned(999)), Err(SendError::SlowClient));
        assert_eq!(outbox.push(owned(3)), Err(SendError::Closed));
        assert_eq!(outbox.offer(owned(3), BUFFERED), Err(SendError::Closed));
        let _ = done.send(());
    });
    let ended = finished.recv_timeout(std::time::Duration::from_secs(60));
    assert!(ended.is_ok(), "a deadlock, or a panic");
}
