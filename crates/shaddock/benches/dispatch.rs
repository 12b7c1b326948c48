//! What the framework costs per request, after the decoding and before the socket: the time from `Frontend::message` to the answer in the
//! session's queue, emptied as a connection does every 16 requests. Prints nanoseconds and allocations per request.
//!
//! `cargo bench -p shaddock --bench dispatch`

mod support;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::Waker,
};

use shaddock::{
    filter::{TimeFilter, TooBusyFilter},
    prelude::*,
    wire::{Frontend, Route},
};
use shaddock_core::{Drained, Flush};
use support::{BODY, drain, echo, open, request};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: it only counts and hands everything on to the system's allocator.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

async fn nothing() {}

async fn view(session: SessionView) -> Json<bool> {
    Json(session.uid().is_some())
}

/// Nanoseconds that this thread has run, so that other work on the machine counts less.
fn cpu_time() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ')
        .next()
        .and_then(|first| first.parse().ok())
        .unwrap_or_default()
}

struct Load {
    frontend: Arc<dyn Frontend>,
    session: Arc<shaddock::session::Session>,
}

impl Load {
    fn connect(app: &AppHandle) -> Self {
        let frontend = app.connector().expect("a frontend");
        let session = open(&*frontend);
        Self { frontend, session }
    }

    fn run(&self, name: &str, route: &str, body: &'static str) {
        const ROUNDS: u64 = 20_000;
        const BATCH: u64 = 16;
        // As in the dictionary: the text is shared.
        let route = Route::new(route);
        let mut drained = Drained::default();
        let mut best = f64::MAX;
        let mut allocations = 0;
        for _ in 0..5 {
            let before = ALLOCATIONS.load(Ordering::Relaxed);
            let begin = cpu_time();
            for round in 0..ROUNDS {
                self.session.outbox().begin_poll(Waker::noop());
                for n in 0..BATCH {
                    let id = round * BATCH + n + 1;
                    request(&*self.frontend, &self.session, id, route.clone(), body);
                }
                drain(self.session.outbox(), &mut drained);
                let _ = self.session.outbox().end_poll(Flush::Done);
            }
            #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
            let each = (cpu_time() - begin) as f64 / (ROUNDS * BATCH) as f64;
            best = best.min(each);
            allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
        }
        let per = allocations / (ROUNDS * BATCH);
        println!("{name:<28} {best:7.0} ns {per:4} allocations");
    }
}

fn connector(id: &str) -> App {
    let mut app = App::new("connector", id);
    app.frontend();
    app.handle("h.echo", echo);
    app.handle("h.nothing", nothing);
    app.handle("h.view", view);
    app
}

#[tokio::main]
async fn main() -> Result<(), StartError> {
    let mut filtered = connector("connector-2");
    filtered.global_filter(TimeFilter::default());
    filtered.filter(TooBusyFilter::new(1000));
    let mut chat = App::new("chat", "chat-1");
    chat.handle("h.echo", echo);
    let running = Servers::new()
        .add(connector("connector-1"))
        .add(filtered)
        .add(chat)
        .start()
        .await?;
    let plain = Load::connect(&running.apps()[0]);
    plain.run("no arguments, no answer", "connector.h.nothing", "{}");
    plain.run("session view", "connector.h.view", "{}");
    plain.run("typed echo", "connector.h.echo", BODY);
    plain.run("typed echo, forwarded", "chat.h.echo", BODY);
    plain.run("unknown route", "connector.h.unknown", "{}");
    let load = Load::connect(&running.apps()[1]);
    load.run("typed echo, two filters", "connector.h.echo", BODY);
    running.shutdown().await;
    Ok(())
}
