//! Every interleaving of the calls that may meet: two threads each without bound, three with up to two preemptions.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p shaddock-core --test loom --release`

// Tests panic on purpose.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]
#![cfg(loom)]

use bytes::{Buf, Bytes};
use loom::{model, thread};
use shaddock_core::{
    ChannelConfig, ChannelService, Claimed, ClientInfo, CloseReason, Conflict, Credentials,
    Drained, Flush, FrontendId, Millis, Next, Outbox, Parking, ResumeRefusal, ResumeSecret,
    ReturningClient, SendError, Session, SessionConfig, SessionEvents, SessionService,
    SessionState, SessionsPerUser, SidAllocator, Uid, kick_package,
};
use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

/// For more than two threads: all interleavings would take hours.
fn bounded_model(f: impl Fn() + Sync + Send + 'static) {
    let mut builder = model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(f);
}

/// The events of the hook: sid and a word. Never locked over a lock of the crate, so std's lock does for loom.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<(u64, String)>>>);

impl Heard {
    fn note(&self, session: &Session, what: String) {
        self.0.lock().unwrap().push((session.id().get(), what));
    }

    fn of(&self, session: &Session) -> Vec<String> {
        let all = self.0.lock().unwrap();
        let its = all.iter().filter(|(sid, _)| *sid == session.id().get());
        its.map(|(_, what)| what.clone()).collect()
    }
}

impl SessionEvents for Heard {
    fn bound(&self, session: &Arc<Session>, uid: &Uid) {
        self.note(session, format!("bind {uid}"));
    }

    fn unbound(&self, session: &Arc<Session>, uid: &Uid) {
        self.note(session, format!("unbind {uid}"));
    }

    fn suspended(&self, session: &Arc<Session>) {
        self.note(session, "suspended".into());
    }

    fn resumed(&self, session: &Arc<Session>) {
        self.note(session, "resumed".into());
    }

    fn closed(&self, session: &Arc<Session>, reason: &CloseReason) {
        self.note(session, format!("closed {}", reason.name()));
    }
}

fn service(single: Option<Conflict>) -> (SessionService, Heard) {
    let config = SessionConfig::default()
        .sessions_per_user(single.map_or(SessionsPerUser::Any, SessionsPerUser::One));
    let frontend = FrontendId::new("f").unwrap();
    let service = SessionService::new(frontend, SidAllocator::new(1, 1), config);
    let heard = Heard::default();
    assert!(service.set_events(Arc::new(heard.clone())));
    (service, heard)
}

fn create(service: &SessionService) -> Arc<Session> {
    service.create(ClientInfo::default())
}

fn ann() -> Uid {
    Uid::new("ann").unwrap()
}

/// At rest the uid index holds exactly the open sessions that are bound.
fn check_index(service: &SessionService, sessions: &[&Arc<Session>]) {
    for session in sessions {
        let open = session.state() != SessionState::Closed;
        assert_eq!(service.get(session.id()).is_some(), open);
        let uid = session.uid();
        let indexed = service
            .get_by_uid("ann")
            .iter()
            .any(|known| Arc::ptr_eq(known, session));
        assert_eq!(indexed, open && uid.is_some_and(|uid| uid == "ann"));
    }
}

fn drain(outbox: &Outbox) -> (Bytes, Next) {
    let mut drained = Drained::default();
    let next = outbox.take(&mut drained);
    (drained.copy_to_bytes(drained.remaining()), next)
}

#[test]
fn bind_against_close() {
    model(|| {
        let (service, heard) = service(None);
        let session = create(&service);
        let binder = {
            let session = Arc::clone(&session);
            thread::spawn(move || session.bind(ann()).is_ok())
        };
        assert!(session.close(CloseReason::ClientClosed));
        let bound = binder.join().unwrap();

        check_index(&service, &[&session]);
        let expected: &[&str] = if bound {
            &["bind ann", "closed client_closed"]
        } else {
            &["closed client_closed"]
        };
        assert_eq!(heard.of(&session), expected);
    });
}

#[test]
fn kick_against_bind() {
    model(|| {
        let (service, heard) = service(None);
        let session = create(&service);
        let binder = {
            let session = Arc::clone(&session);
            thread::spawn(move || session.bind(ann()))
        };
        let kicked = service.kick("ann", None);
        binder.join().unwrap().unwrap();

        check_index(&service, &[&session]);
        assert_eq!(session.is_closed(), kicked == 1);
        let expected: &[&str] = if kicked == 1 {
            &["bind ann", "closed kicked"]
        } else {
            &["bind ann"]
        };
        assert_eq!(heard.of(&session), expected);
    });
}

#[test]
fn two_closes_are_one() {
    model(|| {
        let (service, heard) = service(None);
        let session = create(&service);
        session.bind(ann()).unwrap();
        let other = {
            let session = Arc::clone(&session);
            thread::spawn(move || session.close(CloseReason::ClientClosed))
        };
        let kicked = service.kick("ann", None) == 1;
        assert!(kicked ^ other.join().unwrap());
        check_index(&service, &[&session]);
        let closed = if kicked {
            "closed kicked"
        } else {
            "closed client_closed"
        };
        assert_eq!(heard.of(&session), ["bind ann", closed]);
    });
}

#[test]
fn events_come_in_the_order_of_the_changes() {
    model(|| {
        let (service, heard) = service(None);
        let session = create(&service);
        session.bind(ann()).unwrap();
        let other = {
            let session = Arc::clone(&session);
            thread::spawn(move || session.unbind(&ann()).is_ok())
        };
        let rebound = session.bind(Uid::new("bob").unwrap()).is_ok();
        assert!(other.join().unwrap());
        check_index(&service, &[&session]);
        let expected: &[&str] = if rebound {
            &["bind ann", "unbind ann", "bind bob"]
        } else {
            &["bind ann", "unbind ann"]
        };
        assert_eq!(heard.of(&session), expected);
    });
}

#[test]
fn push_against_close() {
    model(|| {
        let (service, _) = service(None);
        let session = create(&service);
        let sender = {
            let session = Arc::clone(&session);
            thread::spawn(move || {
                let first = session.send(Bytes::from_static(b"1")).is_ok();
                let write = |buf: &mut bytes::BytesMut| {
                    buf.extend_from_slice(b"2");
                    Ok::<_, ()>(())
                };
                (first, session.send_with(write).is_ok())
            })
        };
        service.kick_by_session_id(session.id(), None);
        let (first, second) = sender.join().unwrap();

        // All that was accepted, in order, then the kick.
        let mut expected = Vec::new();
        if first {
            expected.extend_from_slice(b"1");
        }
        if second {
            expected.extend_from_slice(b"2");
        }
        expected.extend_from_slice(&kick_package("kick", 3500));
        assert_eq!(
            drain(session.outbox()),
            (expected.into(), Next::CloseAfterFlush)
        );
    });
}

#[test]
fn two_binds_where_the_newcomer_is_refused() {
    model(|| {
        let (service, heard) = service(Some(Conflict::RejectNew));
        let (first, second) = (create(&service), create(&service));
        let other = {
            let second = Arc::clone(&second);
            thread::spawn(move || second.bind(ann()).is_ok())
        };
        let won = first.bind(ann()).is_ok();
        assert!(won ^ other.join().unwrap());

        check_index(&service, &[&first, &second]);
        assert_eq!(service.get_by_uid("ann").len(), 1);
        let (winner, loser) = if won {
            (&first, &second)
        } else {
            (&second, &first)
        };
        assert_eq!(heard.of(winner), ["bind ann"]);
        assert!(heard.of(loser).is_empty() && !loser.is_closed());
    });
}

#[test]
fn two_binds_where_the_old_one_is_replaced() {
    model(|| {
        let (service, heard) = service(Some(Conflict::ReplaceOld));
        let (first, second) = (create(&service), create(&service));
        let other = {
            let second = Arc::clone(&second);
            thread::spawn(move || second.bind(ann()))
        };
        first.bind(ann()).unwrap();
        other.join().unwrap().unwrap();

        check_index(&service, &[&first, &second]);
        assert_eq!(service.get_by_uid("ann").len(), 1);
        let (winner, loser) = if first.is_closed() {
            (&second, &first)
        } else {
            (&first, &second)
        };
        assert_eq!(heard.of(winner), ["bind ann"]);
        assert_eq!(heard.of(loser), ["bind ann", "closed replaced"]);
        let kick = (kick_package("replaced", 3501), Next::CloseAfterFlush);
        assert_eq!(drain(loser.outbox()), kick);
    });
}

#[test]
fn a_bind_meets_the_close_of_the_rival() {
    model(|| {
        let (service, heard) = service(Some(Conflict::RejectNew));
        let (old, new) = (create(&service), create(&service));
        old.bind(ann()).unwrap();
        let other = {
            let old = Arc::clone(&old);
            thread::spawn(move || old.close(CloseReason::ClientClosed))
        };
        let bound = new.bind(ann()).is_ok();
        assert!(other.join().unwrap());

        check_index(&service, &[&old, &new]);
        assert_eq!(service.get_by_uid("ann").len(), usize::from(bound));
        assert_eq!(heard.of(&old), ["bind ann", "closed client_closed"]);
    });
}

#[test]
fn a_replaced_session_that_closes_by_itself() {
    model(|| {
        let (service, heard) = service(Some(Conflict::ReplaceOld));
        let (old, new) = (create(&service), create(&service));
        old.bind(ann()).unwrap();
        let other = {
            let old = Arc::clone(&old);
            thread::spawn(move || old.close(CloseReason::ClientClosed))
        };
        new.bind(ann()).unwrap();
        let by_itself = other.join().unwrap();

        check_index(&service, &[&old, &new]);
        assert_eq!(service.get_by_uid("ann").len(), 1);
        let closed = if by_itself {
            "closed client_closed"
        } else {
            "closed replaced"
        };
        assert_eq!(heard.of(&old), ["bind ann", closed]);
        let statistics = service.statistics();
        assert_eq!(statistics.closed.iter().map(|(_, n)| n).sum::<u64>(), 1);
    });
}

#[test]
fn two_binds_and_a_kick() {
    bounded_model(|| {
        let (service, heard) = service(Some(Conflict::ReplaceOld));
        let (first, second) = (create(&service), create(&service));
        let others = [&first, &second].map(|session| {
            let session = Arc::clone(session);
            thread::spawn(move || session.bind(ann()))
        });
        let kicked = service.kick("ann", None);
        for other in others {
            other.join().unwrap().unwrap();
        }

        check_index(&service, &[&first, &second]);
        assert!(kicked <= 1, "two open sessions held one uid");
        for session in [&first, &second] {
            let events = heard.of(session);
            assert_eq!(
                events.len(),
                1 + usize::from(session.is_closed()),
                "{events:?}"
            );
        }
    });
}

/// Polls as a connection does, until the outbox says that it is over.
async fn drive(outbox: Arc<Outbox>) -> Vec<u8> {
    let mut written = Vec::new();
    let mut drained = Drained::default();
    poll_fn(|cx| {
        outbox.begin_poll(cx.waker());
        loop {
            let next = outbox.take(&mut drained);
            let n = drained.remaining();
            written.extend_from_slice(&drained.copy_to_bytes(n));
            outbox.written(n);
            if next != Next::Continue {
                return Poll::Ready(());
            }
            if !outbox.end_poll(Flush::Done) {
                return Poll::Pending;
            }
        }
    })
    .await;
    written
}

#[test]
fn no_wake_is_lost() {
    // A lost wake is a deadlock, which loom reports.
    model(|| {
        let outbox = Arc::new(Outbox::new(1024));
        let sender = {
            let outbox = Arc::clone(&outbox);
            thread::spawn(move || {
                outbox.push(Bytes::from_static(b"1")).unwrap();
                outbox.push(Bytes::from_static(b"2")).unwrap();
                outbox.close_after(Some(Bytes::from_static(b"3")));
            })
        };
        let written = loom::future::block_on(drive(Arc::clone(&outbox)));
        assert_eq!(written, b"123");
        sender.join().unwrap();
    });
}

#[test]
fn a_full_socket_does_not_hide_the_end() {
    model(|| {
        let outbox = Arc::new(Outbox::new(1));
        let sender = {
            let outbox = Arc::clone(&outbox);
            thread::spawn(move || {
                outbox.push(Bytes::from_static(b"1")).unwrap();
                // The driver never gets rid of the first one: this passes the bound, or the driver has not tried yet.
                match outbox.push(Bytes::from_static(b"2")) {
                    Err(SendError::SlowClient) => {}
                    Ok(_) | Err(SendError::Busy) => outbox.abort(),
                    Err(other) => unreachable!("{other}"),
                }
            })
        };
        let (mut drained, mut is_full) = (Drained::default(), false);
        loom::future::block_on(poll_fn(|cx| {
            outbox.begin_poll(cx.waker());
            loop {
                match outbox.take(&mut drained) {
                    Next::Continue => {}
                    Next::CloseAfterFlush | Next::Release => unreachable!("it was aborted"),
                    Next::CloseNow => return Poll::Ready(()),
                }
                is_full |= !drained.is_empty();
                let flush = if is_full { Flush::Blocked } else { Flush::Done };
                if !outbox.end_poll(flush) {
                    return Poll::Pending;
                }
            }
        }));
        sender.join().unwrap();
    });
}

#[test]
fn an_audience_is_joined_while_the_session_closes() {
    model(|| {
        let (service, _) = service(None);
        let session = create(&service);
        session.bind(ann()).unwrap();
        let joiner = {
            let (service, sid) = (service.clone(), session.id());
            thread::spawn(move || {
                let _ = service.join("lobby", &ann(), Some(sid), None);
            })
        };
        session.close(CloseReason::ClientClosed);
        joiner.join().unwrap();
        assert!(service.audience("lobby").is_empty());
        assert!(service.audiences(|_| true).is_empty());
    });
}

#[test]
fn the_last_member_of_an_audience_leaves_while_another_joins() {
    model(|| {
        let (service, _) = service(None);
        let (old, new) = (create(&service), create(&service));
        let bob = Uid::new("bob").unwrap();
        old.bind(ann()).unwrap();
        new.bind(bob.clone()).unwrap();
        service.join("lobby", &ann(), None, None).unwrap();
        let comer = {
            let (service, bob) = (service.clone(), bob.clone());
            thread::spawn(move || assert_eq!(service.join("lobby", &bob, None, None), Ok(true)))
        };
        old.close(CloseReason::ClientClosed);
        comer.join().unwrap();
        assert_eq!(service.audience("lobby"), [bob]);
        assert_eq!(service.audience_len("lobby"), 1);
    });
}

#[test]
fn a_channel_is_created_while_its_namesake_is_destroyed() {
    model(|| {
        let channels = ChannelService::new("chat-1", ChannelConfig::default());
        let old = channels.create_channel("lobby").unwrap();
        let destroyer = {
            let old = Arc::clone(&old);
            thread::spawn(move || assert!(old.destroy()))
        };
        let got = channels.create_channel("lobby").unwrap();
        destroyer.join().unwrap();
        match channels.channel("lobby") {
            Some(known) => assert!(Arc::ptr_eq(&known, &got) && !Arc::ptr_eq(&known, &old)),
            None => assert!(Arc::ptr_eq(&got, &old)),
        }
        assert_eq!(channels.channel_count(), channels.names().len());
    });
}

#[test]
fn a_user_comes_back_while_the_old_session_leaves() {
    model(|| {
        let (service, _) = service(None);
        let (old, new) = (create(&service), create(&service));
        old.bind(ann()).unwrap();
        service.join("lobby", &ann(), None, None).unwrap();
        let comer = {
            let (service, new) = (service.clone(), Arc::clone(&new));
            thread::spawn(move || {
                new.bind(ann()).unwrap();
                let _ = service.join("lobby", &ann(), Some(new.id()), None);
            })
        };
        old.close(CloseReason::ClientClosed);
        comer.join().unwrap();
        assert_eq!(service.audience("lobby"), [ann()]);
        let mut heard = Vec::new();
        service.visit_audience("lobby", |session| heard.push(session.id()));
        assert_eq!(heard, [new.id()]);
    });
}

// ---- sessions that outlive their sockets

const SECRET: ResumeSecret = ResumeSecret([7; 16]);

/// A session that can be resumed, and what its client shows.
fn resumable(service: &SessionService) -> (Arc<Session>, Credentials) {
    let session = service.create_resumable(ClientInfo::default(), &SECRET);
    let back = Credentials::from(&ReturningClient {
        token: SECRET.token(session.id()),
        received: 0,
        sent: 0,
        early: false,
    });
    (session, back)
}

fn lost() -> CloseReason {
    CloseReason::HeartbeatTimeout
}

/// The connection is lost, and the session is handed over to another one of its client. The response is sent and not acknowledged.
fn come_back(session: &Arc<Session>, back: &Credentials) {
    assert!(session.suspend(&lost(), Millis(1)));
    session.claim(1, back, Waker::noop()).unwrap();
    session.hand_over(Box::new(7)).unwrap();
    let claimed = session.poll_claim(1, Waker::noop());
    assert!(matches!(claimed, Claimed::Yours(_)), "no other claim");
    let next = ResumeSecret([8; 16]);
    session.resume_from(back, &next).unwrap();
}

/// A whole package of DATA.
fn data(text: &'static str) -> Bytes {
    let length = u8::try_from(text.len()).unwrap();
    Bytes::from([&[4, 0, 0, length], text.as_bytes()].concat())
}

/// Nothing is kept or waited for.
fn check_nothing_is_left(service: &SessionService) {
    let kept = service.resume_statistics();
    assert_eq!((kept.suspended, kept.kept_bytes), (0, 0));
}

#[test]
fn a_loss_against_a_close() {
    model(|| {
        let (service, heard) = service(None);
        let (session, _) = resumable(&service);
        session.go_live(&ClientInfo::default());
        session.send(data("x")).unwrap();
        let driver = {
            let session = Arc::clone(&session);
            thread::spawn(move || session.suspend(&lost(), Millis(1)))
        };
        assert!(session.close(CloseReason::kicked("x")));
        let suspended = driver.join().unwrap();
        let expected: &[&str] = match heard.of(&session).len() {
            1 => &["closed kicked"],
            _ => &["suspended", "closed kicked"],
        };
        assert_eq!(heard.of(&session), expected);
        assert!(suspended || expected.len() == 1);
        check_index(&service, &[&session]);
        check_nothing_is_left(&service);
    });
}

/// A hand-over has exactly one owner, however the session is closed: the giver, or the claimant.
#[test]
fn a_hand_over_against_a_close() {
    bounded_model(|| {
        let (service, _) = service(None);
        let (session, back) = resumable(&service);
        assert!(session.suspend(&lost(), Millis(1)));
        let claimant = {
            let (session, back) = (Arc::clone(&session), back);
            thread::spawn(move || session.claim(1, &back, Waker::noop()).is_ok())
        };
        let closer = {
            let session = Arc::clone(&session);
            thread::spawn(move || session.close(CloseReason::kicked("x")))
        };
        let is_given = session.hand_over(Box::new(7)).is_ok();
        let is_claimed = claimant.join().unwrap();
        assert!(closer.join().unwrap());
        let found = session.poll_claim(1, Waker::noop());
        match (is_given, is_claimed) {
            (true, _) => assert!(matches!(found, Claimed::Closed(Some(_)))),
            (false, true) => assert!(matches!(found, Claimed::Closed(None))),
            (false, false) => assert!(matches!(found, Claimed::Superseded)),
        }
        check_nothing_is_left(&service);
    });
}

/// Of two connections that come back the later one gets the session, whichever is heard first.
#[test]
fn two_claims_and_a_hand_over() {
    bounded_model(|| {
        let (service, _) = service(None);
        let (session, back) = resumable(&service);
        assert!(session.suspend(&lost(), Millis(1)));
        let claimants = [1, 2].map(|number| {
            let (session, back) = (Arc::clone(&session), back);
            thread::spawn(move || session.claim(number, &back, Waker::noop()))
        });
        let mut left: Result<(), shaddock_core::Handover> = session.hand_over(Box::new(7));
        for claimant in claimants {
            claimant.join().unwrap().unwrap();
        }
        if let Err(handover) = left {
            left = session.hand_over(handover);
        }
        assert!(left.is_ok());
        let found = [1, 2].map(|number| session.poll_claim(number, Waker::noop()));
        assert!(matches!(found, [Claimed::Superseded, Claimed::Yours(_)]));
    });
}

/// The window ends while the client acknowledges: it has its session, or it has none.
#[test]
fn the_end_of_the_window_against_a_client_that_is_back() {
    model(|| {
        let (service, heard) = service(None);
        let (session, back) = resumable(&service);
        session.go_live(&ClientInfo::default());
        come_back(&session, &back);
        let expiry = {
            let session = Arc::clone(&session);
            thread::spawn(move || session.expire())
        };
        let is_back = session.go_live(&ClientInfo::default());
        assert!(is_back ^ expiry.join().unwrap());
        let last = if is_back {
            "resumed"
        } else {
            "closed heartbeat_timeout"
        };
        assert_eq!(heard.of(&session), ["suspended", last]);
        assert_eq!(session.is_closed(), !is_back);
        check_index(&service, &[&session]);
        check_nothing_is_left(&service);
    });
}

/// Packages sent with the response, and a push meanwhile, arrive once and in order, before and after the client's acknowledgement.
#[test]
fn a_push_against_an_early_return() {
    model(|| {
        let (service, heard) = service(None);
        let (session, back) = resumable(&service);
        session.go_live(&ClientInfo::default());
        session.send(data("x")).unwrap();
        come_back(&session, &back);
        session.send_early();
        let pusher = {
            let session = Arc::clone(&session);
            thread::spawn(move || session.send(data("y")).unwrap())
        };
        let early = drain(session.outbox()).0;
        assert!(early.starts_with(&data("x")));
        assert!(session.go_live(&ClientInfo::default()));
        pusher.join().unwrap();
        let all = [&early[..], &drain(session.outbox()).0[..]].concat();
        assert_eq!(all, [data("x"), data("y")].concat());
        assert_eq!(heard.of(&session), ["suspended", "resumed"]);
    });
}

/// A push while another connection takes over is sent there, once, whatever the first one has sent.
#[test]
fn a_push_against_a_take_over() {
    bounded_model(|| {
        let (service, heard) = service(None);
        let (session, back) = resumable(&service);
        let acknowledged = {
            let session = Arc::clone(&session);
            thread::spawn(move || session.go_live(&ClientInfo::default()))
        };
        let pusher = {
            let session = Arc::clone(&session);
            thread::spawn(move || session.send(data("x")).unwrap())
        };
        session.claim(1, &back, Waker::noop()).unwrap();
        acknowledged.join().unwrap();
        pusher.join().unwrap();
        // The first connection is told, and lets go.
        assert_eq!(drain(session.outbox()).1, Next::Release);
        assert!(session.suspend(&lost(), Millis(1)));
        session.hand_over(Box::new(7)).unwrap();
        assert!(matches!(
            session.poll_claim(1, Waker::noop()),
            Claimed::Yours(_)
        ));
        let next = ResumeSecret([8; 16]);
        let told = session.resume_from(&back, &next).unwrap();
        assert_eq!((told.position, told.missed), (0, 0));
        assert!(session.go_live(&ClientInfo::default()));
        assert_eq!(drain(session.outbox()), (data("x"), Next::Continue));
        assert_eq!(heard.of(&session), ["suspended", "resumed"]);
    });
}

// ---- a suspended session that is parked: nothing runs for it, and its hand-over is left with it (`shaddock-net/src/driver/parked.rs`)

/// A hand-over that is dropped exactly once by its last owner: `Arc::strong_count` of the other half says whether it is there.
fn work() -> (Arc<()>, shaddock_core::Handover) {
    let one = Arc::new(());
    let other = Arc::clone(&one);
    (one, Box::new(other))
}

/// Waits as a parked session does, until it has another owner, or is closed. A wake that is lost is a deadlock, which loom reports.
fn wait_parked(session: &Session, handover: shaddock_core::Handover) {
    let (mut held, mut number) = (Some(handover), None);
    loom::future::block_on(poll_fn(|cx| {
        let taken = held
            .take()
            .or_else(|| number.and_then(|number| session.unpark(number)));
        let Some(handover) = taken else {
            return Poll::Ready(());
        };
        match session.park(handover, cx.waker()) {
            Parking::Parked(left) => number = Some(left),
            Parking::HandedOver | Parking::Ended(_) => return Poll::Ready(()),
        }
        Poll::Pending
    }));
}

/// Claims the session, and wakes the task that had parked it.
fn claim(session: &Session, number: u64, back: &Credentials) -> Result<(), ResumeRefusal> {
    if let Some(parked) = session.claim(number, back, Waker::noop())? {
        parked.wake();
    }
    Ok(())
}

/// Claims the session on a thread of its own and waits for the result. `None`: it is closed already.
fn claim_apart(
    session: &Arc<Session>,
    back: &Credentials,
    number: u64,
) -> thread::JoinHandle<Option<Claimed>> {
    let (session, back) = (Arc::clone(session), *back);
    thread::spawn(move || {
        claim(&session, number, &back).ok()?;
        let poll = |cx: &mut Context<'_>| match session.poll_claim(number, cx.waker()) {
            Claimed::Pending => Poll::Pending,
            claimed => Poll::Ready(claimed),
        };
        Some(loom::future::block_on(poll_fn(poll)))
    })
}

/// A session that parks while a message is sent to it and its client comes back: the client gets the session, and the message is kept for it.
#[test]
fn a_session_parks_while_it_is_claimed_and_written_to() {
    bounded_model(|| {
        let (service, _) = service(None);
        let (session, back) = resumable(&service);
        assert!(session.suspend(&lost(), Millis(1)));
        let (own, handover) = work();
        let claimant = claim_apart(&session, &back, 1);
        let pusher = {
            let session = Arc::clone(&session);
            thread::spawn(move || session.send(data("x")).unwrap())
        };
        wait_parked(&session, handover);
        pusher.join().unwrap();
        let found = claimant.join().unwrap();
        assert!(matches!(found, Some(Claimed::Yours(_))));
        assert_eq!(Arc::strong_count(&own), 2, "the claimant has all of it");
        assert_eq!(
            session.resumable().map(|state| state.kept_messages),
            Some(1)
        );
    });
}

#[test]
fn a_session_parks_while_it_is_closed() {
    model(|| {
        let (service, heard) = service(None);
        let (session, _) = resumable(&service);
        assert!(session.suspend(&lost(), Millis(1)));
        let (own, handover) = work();
        let closer = {
            let session = Arc::clone(&session);
            thread::spawn(move || session.close(CloseReason::kicked("x")))
        };
        wait_parked(&session, handover);
        assert!(closer.join().unwrap());
        assert_eq!(Arc::strong_count(&own), 1, "it was dropped");
        assert_eq!(heard.of(&session), ["suspended", "closed kicked"]);
        check_nothing_is_left(&service);
    });
}

/// Whatever comes first: the hand-over is the claimant's, or it is dropped.
#[test]
fn a_parked_session_is_claimed_and_closed() {
    bounded_model(|| {
        let (service, _) = service(None);
        let (session, back) = resumable(&service);
        assert!(session.suspend(&lost(), Millis(1)));
        let (own, handover) = work();
        let claimant = claim_apart(&session, &back, 1);
        let closer = {
            let session = Arc::clone(&session);
            thread::spawn(move || session.close(CloseReason::kicked("x")))
        };
        wait_parked(&session, handover);
        assert!(closer.join().unwrap());
        let found = claimant.join().unwrap();
        let has_it = match &found {
            Some(Claimed::Yours(_) | Claimed::Closed(Some(_))) => true,
            Some(Claimed::Closed(None) | Claimed::Superseded) | None => false,
            Some(Claimed::Pending) => unreachable!("it waits for the result"),
        };
        assert_eq!(Arc::strong_count(&own), 1 + usize::from(has_it));
        check_nothing_is_left(&service);
    });
}

/// Of two connections that come back to a parked session the later one gets it, whichever is heard first.
#[test]
fn a_parked_session_is_claimed_twice() {
    bounded_model(|| {
        let (service, _) = service(None);
        let (session, back) = resumable(&service);
        assert!(session.suspend(&lost(), Millis(1)));
        let claims = [1, 2].map(|number| {
            let (session, back) = (Arc::clone(&session), back);
            thread::spawn(move || claim(&session, number, &back))
        });
        wait_parked(&session, Box::new(7));
        for claim in claims {
            claim.join().unwrap().unwrap();
        }
        let found = [1, 2].map(|number| session.poll_claim(number, Waker::noop()));
        assert!(matches!(found, [Claimed::Superseded, Claimed::Yours(_)]));
    });
}

/// The window ends while the client comes back: one of them gets the session, and the other one hears of it.
#[test]
fn the_end_of_the_window_of_a_parked_session_against_a_claim() {
    model(|| {
        let (service, _) = service(None);
        let (session, back) = resumable(&service);
        assert!(session.suspend(&lost(), Millis(1)));
        let Parking::Parked(number) = session.park(Box::new(7), Waker::noop()) else {
            unreachable!("there is no claim")
        };
        let claimant = claim_apart(&session, &back, 1);
        // As its task decides: the owner of the hand-over acts, and a claim comes first.
        let has_ended = match session.unpark(number) {
            None => false,
            Some(handover) if session.resumable().is_some_and(|state| state.is_claimed) => {
                let parking = session.park(handover, Waker::noop());
                assert!(matches!(parking, Parking::HandedOver));
                false
            }
            Some(_) => {
                assert!(session.expire(), "it is ours");
                true
            }
        };
        match claimant.join().unwrap() {
            Some(Claimed::Yours(_)) => assert!(!has_ended),
            Some(Claimed::Closed(None)) | None => assert!(has_ended),
            _ => unreachable!("there is no other claim"),
        }
        assert_eq!(session.is_closed(), has_ended);
    });
}

/// The task that has parked a session wakes late: by then the session was away once more, and is parked by another one.
#[test]
fn a_task_that_is_late_takes_nothing_from_the_next_one() {
    model(|| {
        let (service, _) = service(None);
        let (session, back) = resumable(&service);
        session.go_live(&ClientInfo::default());
        assert!(session.suspend(&lost(), Millis(1)));
        let Parking::Parked(first) = session.park(Box::new("first"), Waker::noop()) else {
            unreachable!("there is no claim")
        };
        let late = {
            let session = Arc::clone(&session);
            thread::spawn(move || {
                let handover = session.unpark(first)?;
                assert!(handover.downcast_ref() == Some(&"first"), "its own");
                Some(session.park(handover, Waker::noop()))
            })
        };
        let claimed = claim_apart(&session, &back, 1).join().unwrap();
        let Some(Claimed::Yours(_)) = claimed else {
            unreachable!("nothing ends the session")
        };
        session.resume_from(&back, &ResumeSecret([8; 16])).unwrap();
        assert!(session.go_live(&ClientInfo::default()));
        assert!(session.suspend(&lost(), Millis(2)));
        let Parking::Parked(second) = session.park(Box::new("second"), Waker::noop()) else {
            unreachable!("there is no claim")
        };
        late.join().unwrap();
        let handover = session.unpark(second).expect("it has no other owner");
        assert!(handover.downcast_ref() == Some(&"second"));
    });
}
