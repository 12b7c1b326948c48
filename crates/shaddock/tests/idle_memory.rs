//! What a session costs in a whole frontend, idle or suspended: connection, session, index entries, what its client said. Counted by the
//! allocator, in the sizes that mimalloc gives, over real sockets.

// Tests panic on purpose.
#![allow(clippy::unwrap_used)]
// A counting allocator cannot be written without; it only adds and passes on.
#![allow(unsafe_code)]

mod support;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicIsize, AtomicUsize, Ordering},
};

use shaddock::{app::Running, prelude::*, session::SessionService};
use support::{eventually, start};

const SESSIONS: usize = 400;
/// A connection with its place in the listener's list, a session, and their share of the indexes.
const MOST: usize = 900;
/// So much more if it is resumable, and its client has acknowledged everything (`docs/performance.md`; 160 are allowed).
const MOST_MORE: usize = 128;
/// A suspended session: no socket, no buffers, and no driver. 1,024 are allowed.
const MOST_SUSPENDED: usize = 850;

/// Both tests count what the whole process holds.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Clients that have said something.
static HERE: AtomicUsize = AtomicUsize::new(0);

struct Counting;

static HELD: AtomicIsize = AtomicIsize::new(0);

/// The size that mimalloc gives for it: four steps between powers of two.
fn given(size: usize) -> isize {
    let step = (size.next_power_of_two() / 8).max(8);
    size.next_multiple_of(step).cast_signed()
}

// SAFETY: every call is passed on to the system's allocator with the same arguments.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(given(layout.size()), Ordering::Relaxed);
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        HELD.fetch_sub(given(layout.size()), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn package(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[kind], &length[1..], body].concat()
}

/// A session of Pomelo's JavaScript client that says nothing more; its answer is read to the end of the first package. `resume` follows in `sys`.
fn connect(address: SocketAddr, resume: &str) -> TcpStream {
    let mut socket = TcpStream::connect(address).unwrap();
    let said =
        format!(r#"{{"sys":{{"type":"js-websocket","version":"0.0.1"{resume}}},"user":{{}}}}"#);
    socket.write_all(&package(1, said.as_bytes())).unwrap();
    let mut head = [0; 4];
    socket.read_exact(&mut head).unwrap();
    let length = u32::from_be_bytes([0, head[1], head[2], head[3]]);
    let mut answer = vec![0; length as usize];
    socket.read_exact(&mut answer).unwrap();
    let answer = String::from_utf8(answer).unwrap();
    assert_eq!(answer.contains("token"), !resume.is_empty(), "{answer}");
    let said = package(4, b"\x02\x10connector.h.here");
    socket.write_all(&[package(2, b""), said].concat()).unwrap();
    socket
}

/// Two rounds of sessions, and what each of the second costs: what is made once for all is there by then, and tables have grown. With what was held
/// before them, and their sockets.
async fn come(resume: &str) -> (Running, SessionService, isize, usize, [Vec<TcpStream>; 2]) {
    let mut app = App::new("connector", "connector-1");
    app.listen("127.0.0.1:0");
    HERE.store(0, Ordering::Relaxed);
    app.route("h.here", async || {
        HERE.fetch_add(1, Ordering::Relaxed);
    });
    let running = start([app]).await;
    let address = running.address("connector-1").unwrap();
    let service = running.apps()[0].session_service().unwrap().clone();
    let mut sockets = [Vec::new(), Vec::new()];
    let mut held = [0; 2];
    for round in 0..2 {
        // Clients that block, on this thread: the workers have their own.
        sockets[round].extend((0..SESSIONS).map(|_| connect(address, resume)));
        // They have said something: the acknowledgement before it was read, and what was known before the session began is gone.
        let all = (round + 1) * SESSIONS;
        eventually("all are here", || HERE.load(Ordering::Relaxed) == all).await;
        held[round] = HELD.load(Ordering::Relaxed);
    }
    let each = (held[1] - held[0]).cast_unsigned() / SESSIONS;
    (running, service, held[0], each, sockets)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_idle_session_is_small_with_all_that_belongs_to_it() {
    let _turn = TURN.lock().await;
    let (running, _, _, each, sockets) = come("").await;
    println!("an idle session: {each} bytes");
    assert!(each <= MOST, "{each} bytes");
    drop(sockets);
    running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_resumable_session_is_small_and_a_suspended_one_smaller() {
    let _turn = TURN.lock().await;
    let (running, service, before, each, [first, second]) = come(r#","resume":{"v":1}"#).await;
    println!("an idle resumable session: {each} bytes");
    assert!(each <= MOST + MOST_MORE, "{each} bytes");
    drop(second);
    let suspended = || service.resume_statistics().suspended;
    eventually("all wait", || suspended() == SESSIONS).await;
    // What belonged to the sockets is freed some time later, by the runtime.
    let each = || (HELD.load(Ordering::Relaxed) - before).cast_unsigned() / SESSIONS;
    eventually("they are small", || each() <= MOST_SUSPENDED).await;
    println!("a suspended session: {} bytes", each());
    drop(first);
    running.shutdown().await;
}
