//! What an idle session costs in a whole frontend: connection, session, index entries, what its client said. Counted by the allocator, in the
//! sizes that mimalloc gives, over real sockets.

// Tests panic on purpose.
#![allow(clippy::unwrap_used)]
// A counting allocator cannot be written without; it only adds and passes on.
#![allow(unsafe_code)]

mod support;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicIsize, Ordering},
};

use shaddock::prelude::*;
use support::{eventually, start};

const SESSIONS: usize = 400;
/// A connection with its place in the listener's list, a session, and their share of the indexes.
const MOST: usize = 900;

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

/// A session of Pomelo's JavaScript client that says nothing more; its answer is read to the end of the first package.
fn connect(address: SocketAddr) -> TcpStream {
    let mut socket = TcpStream::connect(address).unwrap();
    let said = br#"{"sys":{"type":"js-websocket","version":"0.0.1"},"user":{}}"#;
    socket.write_all(&package(1, said)).unwrap();
    let mut head = [0; 4];
    socket.read_exact(&mut head).unwrap();
    let length = u32::from_be_bytes([0, head[1], head[2], head[3]]);
    let mut answer = vec![0; length as usize];
    socket.read_exact(&mut answer).unwrap();
    socket.write_all(&package(2, b"")).unwrap();
    socket
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_idle_session_is_small_with_all_that_belongs_to_it() {
    let mut app = App::new("connector", "connector-1");
    app.listen("127.0.0.1:0");
    app.route("h.nothing", async || ());
    let running = start([app]).await;
    let address = running.address("connector-1").unwrap();
    let service = running.apps()[0].session_service().unwrap().clone();
    let mut sockets = Vec::with_capacity(2 * SESSIONS);
    let mut held = [0; 2];
    for (round, held) in held.iter_mut().enumerate() {
        // Clients that block, on this thread: the workers have their own.
        sockets.extend((0..SESSIONS).map(|_| connect(address)));
        let all = (round + 1) * SESSIONS;
        eventually("all have a session", || service.session_count() == all).await;
        *held = HELD.load(Ordering::Relaxed);
    }
    // Only the second round: what is made once for all is there by then, and tables have grown.
    let each = (held[1] - held[0]).cast_unsigned() / SESSIONS;
    println!("an idle session: {each} bytes");
    assert!(each <= MOST, "{each} bytes");
    drop(sockets);
    running.shutdown().await;
}
