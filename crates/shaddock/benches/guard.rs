//! The five hottest paths, made to be counted: `scripts/guard` runs this under callgrind and compares instructions per operation with
//! `bench/instructions.toml`.
//!
//! `guard PATH ROUNDS` does a round of one path again and again and prints how many operations a round has. Only what happens inside
//! [`guard_collect`] is counted, so what a round needs beforehand costs nothing. Without arguments every path runs a few rounds, which
//! shows that they work.
//!
//! Nothing here depends on time, on random numbers or on the network. Allocations are the system allocator's.

mod support;

use std::{
    convert::Infallible,
    hint::black_box,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::{Bytes, BytesMut};
use shaddock::{
    prelude::*,
    session::{Session, SessionService},
    wire::{Codec, CodecConfig, Frontend, Route},
};
use shaddock_core::{ClientInfo, Drained, Flush, Outbox, SidAllocator};
use shaddock_protocol::{Conn, Dictionary, Event, Millis, PackageType, encode_package};
use support::{BODY, drain, echo, open, request};

/// Messages that come in one read, and leave with one write.
const BATCH: usize = 16;
/// Sessions that get a push, and among which one is bound.
const SESSIONS: usize = 1_000;
/// Rounds before anything is counted: tables have grown, buffers have their size.
const WARM_UP: usize = 20;

/// One hot path.
trait HotPath {
    /// Operations of a round.
    fn operations(&self) -> usize;
    /// What a round needs and what is not counted.
    fn prepare(&mut self) {}
    /// The round.
    fn round(&mut self);
}

/// All that is counted: callgrind collects from the entry of this function to its return.
#[inline(never)]
fn guard_collect(path: &mut dyn HotPath) {
    path.round();
}

const TEXT: &str = "connector.h.echo";

/// A read with as many DATA packages as a batch has becomes events; every other route is a code of the dictionary.
struct Decode {
    conn: Conn,
    chunk: Bytes,
    out: BytesMut,
}

impl Decode {
    fn new() -> Self {
        let dictionary = Dictionary::build([TEXT], ["onChat"]).expect("a dictionary");
        let codec = Codec::new(CodecConfig::default().dictionary(Arc::new(dictionary)));
        let mut conn = Conn::new(Arc::new(codec), Millis(0));
        let mut out = BytesMut::new();
        let mut hello = Bytes::from_static(b"\x01\x00\x00\x0a{\"sys\":{}}\x02\x00\x00\x00");
        conn.poll_event(Millis(0), &mut hello, &mut out)
            .expect("a handshake");
        conn.accept(Millis(0), None, &mut out)
            .expect("an answer to it");
        conn.poll_event(Millis(0), &mut hello, &mut out)
            .expect("an ack");
        let length = u8::try_from(TEXT.len()).expect("a short route");
        let by_text = [&[0, 1, length], TEXT.as_bytes(), BODY.as_bytes()].concat();
        let by_code = [&[1, 1, 0, 1], BODY.as_bytes()].concat();
        let pair = [by_text, by_code]
            .map(|message| encode_package(PackageType::Data, &message).expect("a package"))
            .concat();
        Self {
            conn,
            chunk: Bytes::from(pair.repeat(BATCH / 2)),
            out,
        }
    }
}

impl HotPath for Decode {
    fn operations(&self) -> usize {
        BATCH
    }

    fn round(&mut self) {
        let mut input = black_box(&self.chunk).clone();
        let polled = || {
            self.conn
                .poll_event(Millis(1), &mut input, &mut self.out)
                .expect("the protocol")
        };
        let events = std::iter::from_fn(polled).map(|event| {
            assert!(matches!(event, Event::Message(_)));
            black_box(event);
        });
        assert_eq!(events.count(), BATCH);
    }
}

/// Requests to a typed handler: the frontend's dispatch, the body read into a struct, the answer written into the outbox.
struct Dispatch {
    frontend: Arc<dyn Frontend>,
    session: Arc<Session>,
    route: Route,
    drained: Drained,
}

impl Dispatch {
    fn new(app: &AppHandle) -> Self {
        let frontend = app.connector().expect("a frontend");
        let session = open(&*frontend);
        Self {
            frontend,
            session,
            route: Route::new(TEXT),
            drained: Drained::default(),
        }
    }
}

impl HotPath for Dispatch {
    fn operations(&self) -> usize {
        BATCH
    }

    fn prepare(&mut self) {
        drain(self.session.outbox(), &mut self.drained);
        let _ = self.session.outbox().end_poll(Flush::Done);
        self.session.outbox().begin_poll(Waker::noop());
    }

    fn round(&mut self) {
        for id in 1..=BATCH as u64 {
            let body = black_box(BODY);
            request(&*self.frontend, &self.session, id, self.route.clone(), body);
        }
    }
}

/// Answers of a session's own, and every fourth package one that others get too; then one drain.
struct Queue {
    outbox: Outbox,
    drained: Drained,
    package: Bytes,
}

impl Queue {
    fn new() -> Self {
        Self {
            outbox: Outbox::new(256 * 1024),
            drained: Drained::default(),
            package: Bytes::from(vec![b'x'; 100]),
        }
    }
}

impl HotPath for Queue {
    fn operations(&self) -> usize {
        BATCH
    }

    fn round(&mut self) {
        self.outbox.begin_poll(Waker::noop());
        for number in 0..BATCH {
            if number % 4 == 3 {
                let shared = black_box(&self.package).clone();
                self.outbox.push(shared).expect("there is room");
            } else {
                let encode = |buf: &mut BytesMut| {
                    buf.extend_from_slice(black_box(&self.package));
                    Ok::<_, Infallible>(())
                };
                self.outbox.push_with(encode).expect("there is room");
            }
        }
        drain(&self.outbox, &mut self.drained);
        assert!(!self.outbox.end_poll(Flush::Done));
    }
}

/// One broadcast to all bound sessions of an app. An operation is a delivery.
struct FanOut {
    channels: Channels,
    sessions: Vec<Arc<Session>>,
    drained: Drained,
}

impl FanOut {
    fn new(app: &AppHandle) -> Self {
        let frontend = app.connector().expect("a frontend");
        let sessions: Vec<_> = (0..SESSIONS).map(|_| open(&*frontend)).collect();
        for (number, session) in sessions.iter().enumerate() {
            session.bind(uid(number)).expect("a new user");
        }
        Self {
            channels: app.channels(),
            sessions,
            drained: Drained::default(),
        }
    }
}

impl HotPath for FanOut {
    fn operations(&self) -> usize {
        SESSIONS
    }

    fn prepare(&mut self) {
        for session in &self.sessions {
            drain(session.outbox(), &mut self.drained);
        }
    }

    fn round(&mut self) {
        let push = self
            .channels
            .broadcast("connector", "onChat", BODY, BroadcastOptions::bound());
        let mut push = std::pin::pin!(push);
        let polled = push.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        let reached = matches!(polled, Poll::Ready(Ok(delivered)) if delivered.queued == SESSIONS);
        assert!(reached, "all sessions are here");
    }
}

/// Sessions are bound to users and unbound, while as many others stay bound.
struct Bind {
    service: SessionService,
    sessions: Vec<Arc<Session>>,
    uids: Vec<Uid>,
    /// A service does not keep its sessions alive for long without this.
    _bound: Vec<Arc<Session>>,
}

impl Bind {
    fn new() -> Self {
        let frontend = FrontendId::new("connector-1").expect("an id");
        let service =
            SessionService::new(frontend, SidAllocator::new(1, 1), SessionConfig::default());
        let create = || {
            (0..SESSIONS)
                .map(|_| service.create(ClientInfo::default()))
                .collect::<Vec<_>>()
        };
        let (sessions, bound) = (create(), create());
        for (number, session) in bound.iter().enumerate() {
            session.bind(uid(SESSIONS + number)).expect("a new user");
        }
        Self {
            sessions,
            uids: (0..SESSIONS).map(uid).collect(),
            _bound: bound,
            service,
        }
    }
}

impl HotPath for Bind {
    fn operations(&self) -> usize {
        SESSIONS
    }

    fn round(&mut self) {
        for (session, uid) in self.sessions.iter().zip(&self.uids) {
            self.service
                .bind(session.id(), uid.clone())
                .expect("a new user");
            self.service
                .unbind(session.id(), uid)
                .expect("the user's session");
        }
    }
}

fn uid(number: usize) -> Uid {
    Uid::new(format!("player-{number}")).expect("an id")
}

const NAMES: [&str; 5] = ["decode", "dispatch", "outbox", "fan-out", "bind"];

fn path(name: &str, app: &AppHandle) -> Option<Box<dyn HotPath>> {
    Some(match name {
        "decode" => Box::new(Decode::new()),
        "dispatch" => Box::new(Dispatch::new(app)),
        "outbox" => Box::new(Queue::new()),
        "fan-out" => Box::new(FanOut::new(app)),
        "bind" => Box::new(Bind::new()),
        _ => return None,
    })
}

/// Prints how many operations were counted.
fn run(name: &str, rounds: usize, app: &AppHandle) -> Result<(), String> {
    let mut path =
        path(name, app).ok_or_else(|| format!("no path `{name}`, there are {NAMES:?}"))?;
    for _ in 0..WARM_UP {
        path.prepare();
        path.round();
    }
    for _ in 0..rounds {
        path.prepare();
        guard_collect(&mut *path);
    }
    println!("{name} {}", rounds * path.operations());
    Ok(())
}

#[tokio::main(worker_threads = 1)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut app = App::new("connector", "connector-1");
    app.frontend();
    app.handle("h.echo", echo);
    let running = Servers::new().workers(1).add(app).start().await?;
    let app = &running.apps()[0];
    // Cargo says `--bench` when it runs this itself.
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with("--"))
        .collect();
    match &words[..] {
        [] => NAMES.iter().try_for_each(|name| run(name, 3, app))?,
        [name, rounds] => run(name, rounds.parse()?, app)?,
        _ => return Err("guard PATH ROUNDS".into()),
    }
    running.shutdown().await;
    Ok(())
}
