//! The heap memory of a session, counted by the allocator.

// Tests panic on purpose.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]
// A counting allocator cannot be written without; it only adds and passes on.
#![allow(unsafe_code)]

use bytes::{Buf, Bytes, BytesMut};
use shaddock_core::{
    ClientInfo, CloseReason, ConnectionStats, Drained, Flush, FrontendId, LoginRecord, Session,
    SessionConfig, SessionService, Sid, SidAllocator, Uid,
};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::convert::Infallible;
use std::sync::Arc;
use std::task::Waker;

const SESSIONS: usize = 10_000;
/// The bound for one idle unbound session: record, outbox and index entry together.
const MAX_IDLE: usize = 275;

struct Counting;

thread_local! {
    // Per thread, so that tests beside this one do not disturb it.
    static HELD: Cell<isize> = const { Cell::new(0) };
    static CALLS: Cell<usize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    let _ = HELD.try_with(|held| held.set(held.get() + bytes));
    let _ = CALLS.try_with(|calls| calls.set(calls.get() + usize::from(bytes > 0)));
}

// SAFETY: every call is passed on to the system's allocator with the same arguments.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size().cast_signed());
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        count(-layout.size().cast_signed());
        // SAFETY: as above.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn held() -> isize {
    HELD.with(Cell::get)
}

fn calls() -> usize {
    CALLS.with(Cell::get)
}

fn service() -> SessionService {
    let frontend = FrontendId::new("connector-1").unwrap();
    SessionService::new(frontend, SidAllocator::new(1, 1), SessionConfig::default())
}

fn fill(service: &SessionService) -> Vec<Arc<Session>> {
    (0..SESSIONS)
        .map(|_| service.create(ClientInfo::default()))
        .collect()
}

// The shape that an encoder has.
#[allow(clippy::unnecessary_wraps)]
fn append(buf: &mut BytesMut, bytes: &[u8]) -> Result<(), Infallible> {
    buf.extend_from_slice(bytes);
    Ok(())
}

/// The work of a connection's driver in one poll.
fn poll(session: &Session, drained: &mut Drained) -> usize {
    session.outbox().begin_poll(Waker::noop());
    let _ = session.outbox().take(drained);
    let written = drained.remaining();
    drained.advance(written);
    session.outbox().written(written);
    assert!(!session.outbox().end_poll(Flush::Done));
    written
}

#[test]
fn an_idle_session_is_small() {
    let service = service();
    let before = held();
    let sessions = fill(&service);
    let list = SESSIONS * size_of::<Arc<Session>>();
    let each = (held() - before).cast_unsigned() - list;
    println!(
        "Session: {} bytes; with Arc and index entry {} bytes of heap",
        size_of::<Session>(),
        each / SESSIONS
    );
    // With the two counts of an `Arc` it fits into 256 bytes, which is a size that allocators have; the next one of mimalloc is 320.
    assert!(size_of::<Session>() <= 240);
    assert!(each / SESSIONS <= MAX_IDLE, "{} bytes", each / SESSIONS);
    drop(sessions);
}

#[test]
fn a_bound_session_costs_its_uid_and_an_entry() {
    let service = service();
    let sessions = fill(&service);
    let before = held();
    for (n, session) in sessions.iter().enumerate() {
        session
            .bind(Uid::new(format!("user-{n:05}")).unwrap())
            .unwrap();
    }
    let each = (held() - before).cast_unsigned() / SESSIONS;
    println!("bound: {each} bytes more");
    assert!(each <= 115, "{each} bytes");
}

#[test]
fn a_login_costs_an_entry() {
    let stats = ConnectionStats::new(FrontendId::new("connector-1").unwrap());
    let users: Vec<Uid> = (0..SESSIONS)
        .map(|n| Uid::new(format!("user-{n:05}")).unwrap())
        .collect();
    let before = held();
    for (n, uid) in (1..).zip(&users) {
        stats.add_login(LoginRecord {
            uid: uid.clone(),
            sid: Sid::new(n).unwrap(),
            login_time: 1_764_000_000_000,
            address: Some("192.0.2.1:4000".parse().unwrap()),
        });
    }
    let each = (held() - before).cast_unsigned() / SESSIONS;
    println!("login: {each} bytes");
    assert!(each <= 125, "{each} bytes");
}

#[test]
fn a_session_that_was_written_to_is_small_again() {
    let service = service();
    let sessions = fill(&service);
    let mut drained = Drained::default();
    let package = Bytes::from(vec![7; 200]);
    let talk = |drained: &mut Drained| {
        for session in &sessions {
            session.send(package.clone()).unwrap();
            session.send(package.clone()).unwrap();
            session.send_with(|buf| append(buf, &package)).unwrap();
            assert_eq!(poll(session, drained), 600);
        }
    };
    // The first round fills the pool of this thread.
    talk(&mut drained);
    let before = held();
    talk(&mut drained);
    assert_eq!(held(), before);
}

#[test]
fn an_answered_request_allocates_nothing() {
    let service = service();
    let session = service.create(ClientInfo::default());
    let mut drained = Drained::default();
    let echo = |drained: &mut Drained| {
        session.outbox().begin_poll(Waker::noop());
        for _ in 0..16 {
            session.send_with(|buf| append(buf, &[7; 80])).unwrap();
        }
        poll(&session, drained)
    };
    // Twice: two buffers go round between the outbox and the worker.
    echo(&mut drained);
    echo(&mut drained);
    let before = calls();
    assert_eq!(echo(&mut drained), 1280);
    assert_eq!(calls(), before);
}

#[test]
fn a_broadcast_to_idle_sessions_allocates_nothing() {
    let service = service();
    let sessions = fill(&service);
    let mut drained = Drained::default();
    // The pointer to a shared package is made on the first clone, and the list of the drained ones on the first use.
    let package = Bytes::from_static(b"somebody said something");
    sessions[0].send(package.clone()).unwrap();
    poll(&sessions[0], &mut drained);
    let before = calls();
    for session in &sessions {
        session.send(package.clone()).unwrap();
    }
    for session in &sessions {
        poll(session, &mut drained);
    }
    assert_eq!(calls(), before);
}

#[test]
fn memory_comes_back_when_sessions_go() {
    let service = service();
    let round = || {
        for session in fill(&service) {
            session
                .bind(Uid::new(format!("user-{}", session.id())).unwrap())
                .unwrap();
            session.set("room", "lobby").unwrap();
            session.on_closed(|_, _| ()).unwrap();
            session.send(Bytes::from_static(b"hello")).unwrap();
        }
        assert_eq!(service.close_all(&CloseReason::Draining), SESSIONS);
    };
    round();
    let before = held();
    round();
    round();
    assert_eq!(held(), before);
}

/// A membership takes its places in two lists: the names, of users and of what they are in, are there once.
#[test]
fn a_membership_is_small() {
    let service = service();
    let sessions = fill(&service);
    let uids: Vec<Uid> = (0..SESSIONS)
        .map(|n| Uid::new(format!("user-{n:05}")).unwrap())
        .collect();
    for (session, uid) in sessions.iter().zip(&uids) {
        session.bind(uid.clone()).unwrap();
    }
    for rooms in [1, 2, 3, 5, 8] {
        let names: Vec<Arc<str>> = (0..rooms).map(|n| Arc::from(format!("room {n}"))).collect();
        let before = held();
        for uid in &uids {
            for name in &names {
                assert!(service.join(Arc::clone(name), uid, None, None).unwrap());
            }
        }
        let each = (held() - before).cast_unsigned() / (SESSIONS * rooms);
        println!("in {rooms}: {each} bytes for each membership");
        assert!(each <= 64, "{each} bytes, in {rooms} at once");
        for uid in &uids {
            let names = service.audiences_of(uid.as_str());
            assert!(names.iter().all(|name| service.leave(name, uid)));
            assert_eq!(names.len(), rooms);
        }
        let left = held() - before;
        assert!(left < 2048, "{left} bytes are left in {rooms}");
    }
}
