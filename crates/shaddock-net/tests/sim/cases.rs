//! One case for each fault that was seen, and a table of all phases and faults.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::Duration,
};

use crate::{
    client::{Client, package},
    tls::certificate,
    world::{Front, Then, World, pass, run, settle},
};
use shaddock_core::{CloseReason, Session, SessionEvents, Uid};
use shaddock_net::{
    Frontend, ListenConfig, Listener, MaybeReady, Opened, Peer, Verdict, Workers, clock::hold_up,
};
use shaddock_protocol::{Codec, HandshakeRequest, Inbound, PackageType, RefuseReason, Route};

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// How far a client has come when something goes wrong.
const PHASES: [&str; 8] = [
    "connected",
    "half a handshake",
    "a late verdict",
    "before the acknowledgement",
    "idle",
    "a handler waits",
    "messages wait",
    "closing",
];

const FAULTS: [&str; 8] = [
    "reset",
    "reset at the next write",
    "reset in the middle of a write",
    "half a close",
    "close",
    "garbage",
    "does not read",
    "a handler panics",
];

async fn bring(world: &mut World, phase: &str, websocket: bool) -> Client {
    let mut client = match phase {
        "connected" | "half a handshake" | "a late verdict" | "before the acknowledgement" => {
            world.connect(websocket)
        }
        _ => world.joined(websocket).await,
    };
    match phase {
        "half a handshake" => client.send_raw(b"\x01\x00\x00"),
        "a late verdict" => client.join("late"),
        "before the acknowledgement" => client.join("1"),
        "a handler waits" => {
            client.ask("pushes");
        }
        "messages wait" => {
            for _ in 0..20 {
                client.ask("wait");
            }
        }
        "closing" => {
            client.ask("wait");
            settle().await;
            let session = world.session(&client).unwrap();
            session.close(CloseReason::kicked("go"));
        }
        _ => {}
    }
    settle().await;
    client
}

async fn harm(world: &World, client: &mut Client, fault: &str) {
    match fault {
        "reset" => client.faults.reset(),
        "reset at the next write" => client.faults.reset_after(0),
        "reset in the middle of a write" => client.faults.reset_after(3),
        "half a close" => client.socket.as_ref().unwrap().finish(),
        "close" => client.socket = None,
        "garbage" => client.send_raw(b"\xff\xff\xff\xff\xff"),
        "does not read" => client.faults.set_window(0),
        _ => {
            world.release(0, Then::Panic);
        }
    }
    // Data to write for all clients.
    let mut sessions = Vec::new();
    world
        .script
        .sessions
        .for_each_session(|s| sessions.push(s.clone()));
    for session in sessions {
        let _ = world.script.push(&session, &"x".repeat(300));
    }
    settle().await;
}

#[test]
fn every_fault_in_every_phase_harms_one_connection_and_leaves_nothing() {
    for websocket in [false, true] {
        for phase in PHASES {
            for fault in FAULTS {
                let case = format!("{phase}, {fault}, websocket: {websocket}");
                let result = run(async move || {
                    let mut world = World::new(|config, _| config.limits.waiting_messages = 5);
                    let mut other = world.joined(!websocket).await;
                    let mut victim = bring(&mut world, phase, websocket).await;
                    harm(&world, &mut victim, fault).await;
                    other.ask("echo");
                    for _ in 0..70 {
                        pass(100).await;
                        other.heartbeat();
                        other.read();
                        if victim.socket.is_some() && fault != "does not read" {
                            victim.read();
                        }
                        while world.release(0, Then::Answer) {}
                    }
                    world.check(&mut other)?;
                    world.check(&mut victim)?;
                    if other.answers() != other.asked || !world.closed(&other).is_empty() {
                        return Err("the other client is harmed".to_owned());
                    }
                    world.finish(vec![other, victim]).await
                });
                assert_eq!(result, Ok(()), "{case}");
            }
        }
    }
}

#[test]
fn nothing_is_served_after_a_kick() {
    run(async || {
        let mut world = World::plain();
        for websocket in [false, true] {
            let mut client = world.joined(websocket).await;
            let bytes: Vec<u8> = ["echo", "kick", "echo", "wait", "echo"]
                .iter()
                .flat_map(|method| client.request(method))
                .collect();
            client.send(&bytes);
            settle().await;
            client.read();
            assert_eq!(world.dispatched(&client).len(), 2, "the first and the kick");
            assert_eq!(
                client.kick().unwrap(),
                r#"{"reason":"told to","code":3500}"#
            );
            // The same if another thread kicks while the messages wait.
            let mut client = world.joined(websocket).await;
            for method in ["wait", "echo", "echo"] {
                client.ask(method);
            }
            settle().await;
            let session = world.session(&client).unwrap();
            assert!(session.close(CloseReason::kicked("go")));
            world.release(0, Then::Answer);
            settle().await;
            client.read();
            assert_eq!(world.dispatched(&client).len(), 1);
            assert_eq!(client.data().count(), 0, "no answer after the kick");
            assert_eq!(client.kick().unwrap(), r#"{"reason":"go","code":3500}"#);
        }
    });
}

/// Running work continues while the socket closes, also if the client does not close its side.
#[test]
fn a_handler_does_not_wait_for_the_linger() {
    run(async || {
        let mut world = World::plain();
        let mut client = world.joined(false).await;
        client.ask("wait");
        settle().await;
        world.session(&client).unwrap().close(CloseReason::Draining);
        settle().await;
        assert_eq!(world.open_connections(), 1, "it lingers");
        world.release(0, Then::Answer);
        settle().await;
        assert_eq!(world.script.log().finished, 1);
    });
}

#[test]
fn handlers_of_clients_that_have_left_count_for_the_limits() {
    run(async || {
        let mut world = World::new(|config, _| config.access.max_connections = 2);
        let mut left = world.joined(false).await;
        left.ask("wait");
        settle().await;
        drop(left);
        settle().await;
        assert_eq!(world.open_connections(), 0, "its socket is gone");
        let _one = world.joined(false).await;
        let mut refused = world.connect(false);
        settle().await;
        refused.read();
        assert!(refused.ended);
        world.release(0, Then::Answer);
        settle().await;
        let _two = world.joined(false).await;
        assert_eq!(world.open_connections(), 2);
    });
}

/// A client whose input waits in the socket: its end is seen, and so is its silence; its signs of life are, too.
#[test]
fn the_end_of_a_client_is_seen_whatever_waits() {
    for how in ["close", "reset", "silent", "alive"] {
        run(async move || {
            let mut world = World::new(|config, _| config.limits.waiting_messages = 2);
            let mut client = world.joined(false).await;
            for _ in 0..5 {
                client.ask("wait");
            }
            settle().await;
            match how {
                "close" => client.socket = None,
                "reset" => client.faults.reset(),
                _ => {}
            }
            for _ in 0..4 {
                pass(2000).await;
                if how == "alive" {
                    client.heartbeat();
                }
            }
            let expected: &[&str] = match how {
                "alive" => &[],
                "silent" => &["heartbeat_timeout"],
                _ => &["client_closed"],
            };
            let closed = world.closed(&client);
            let closed: Vec<_> = closed.iter().map(CloseReason::name).collect();
            assert_eq!(closed, expected, "{how}");
            if how == "alive" {
                while world.release(0, Then::Answer) {
                    settle().await;
                }
                client.read();
                assert_eq!(client.answers(), client.asked);
            }
        });
    }
}

/// Messages that wait keep their own bytes, not the chunk that they were read with.
#[test]
fn messages_that_wait_do_not_pin_chunks() {
    run(async || {
        let mut world = World::plain();
        let mut client = world.joined(false).await;
        client.ask("wait");
        settle().await;
        // Each is read with 8 KB before and behind it, which are done with at once.
        for _ in 0..100 {
            let other = package(PackageType::Heartbeat, &[0; 8192]);
            let bytes = [other.clone(), client.request("echo"), other].concat();
            client.send(&bytes);
            settle().await;
        }
        world.release(0, Then::Answer);
        settle().await;
        let pinned = world.script.log().pinned;
        assert!(pinned < 100 * 64, "{pinned} bytes");
    });
}

/// Reports that a bind is being dispatched, and waits.
struct HeldBind(mpsc::Sender<()>, std::sync::Mutex<mpsc::Receiver<()>>);

impl SessionEvents for HeldBind {
    fn bound(&self, _: &Arc<Session>, _: &Uid) {
        self.0.send(()).unwrap();
        self.1.lock().unwrap().recv().unwrap();
    }
}

/// The driver ends a session whose events another thread is dispatching: the KICK comes when that thread is done, and must not be lost.
#[test]
fn a_kick_waits_for_listeners_on_another_thread() {
    run(async || {
        let mut world = World::new(|config, _| {
            config.limits.messages_per_second = 1;
            config.limits.burst = 1;
        });
        let mut client = world.joined(false).await;
        let session = world.session(&client).unwrap();
        let (at_work, is_at_work) = mpsc::channel();
        let (go_on, wait) = mpsc::channel::<()>();
        let held = HeldBind(at_work, std::sync::Mutex::new(wait));
        assert!(world.script.sessions.set_events(Arc::new(held)));
        let thread = std::thread::spawn(move || session.bind(Uid::new("ann").unwrap()));
        is_at_work.recv().unwrap();
        for _ in 0..5 {
            client.ask("echo");
        }
        for _ in 0..5 {
            settle().await;
            client.read();
        }
        assert!(!client.ended && client.kick().is_none());
        go_on.send(()).unwrap();
        thread.join().unwrap().unwrap();
        settle().await;
        client.read();
        assert_eq!(
            client.kick().unwrap(),
            r#"{"reason":"rate limited","code":3503}"#
        );
    });
}

#[test]
fn a_client_that_reads_gets_all_its_answers_however_many() {
    for (websocket, window) in [(false, 64), (true, 64), (false, 100_000), (true, 100_000)] {
        run(async move || {
            let mut world = World::plain();
            let mut client = world.joined(websocket).await;
            client.faults.set_window(window * 1024);
            // A megabyte of answers; a quarter of that may wait.
            let mut bytes = Vec::new();
            for _ in 0..66 {
                let request = client.request("big");
                client.asked.push(u64::from(client.next_id));
                bytes.extend(client.framed(&request));
            }
            client.send_raw(&bytes);
            for _ in 0..100 {
                settle().await;
                client.read();
                world.check(&mut client).unwrap();
            }
            assert_eq!(client.answers(), client.asked);
            assert_eq!(world.closed(&client), []);
        });
    }
}

/// A client that asks and does not read holds a quarter of its bound: its further requests wait in its socket, and are served when it reads.
#[test]
fn requests_of_a_client_that_does_not_read_wait() {
    for websocket in [false, true] {
        run(async move || {
            let mut world = World::plain();
            let mut client = world.joined(websocket).await;
            client.faults.set_window(1024);
            for _ in 0..66 {
                client.ask("big");
            }
            settle().await;
            let stats = world.session(&client).unwrap().outbox().stats();
            let waiting = stats.queued_bytes + stats.in_flight_bytes;
            // A quarter of 256 KiB, and the response that passed it.
            assert!(waiting > 0 && waiting < 84 * 1024, "{waiting} bytes wait");
            assert!(world.dispatched(&client).len() < 8);
            client.faults.set_window(usize::MAX);
            for _ in 0..100 {
                settle().await;
                client.read();
                world.check(&mut client).unwrap();
            }
            assert_eq!(client.answers(), client.asked);
            assert_eq!(world.closed(&client), []);
        });
    }
}

#[test]
fn a_client_is_slow_when_its_socket_takes_nothing_for_a_while() {
    run(async || {
        let mut world = World::plain();
        let (mut stalled, mut trickles) = (world.joined(false).await, world.joined(true).await);
        for client in [&stalled, &trickles] {
            client.faults.set_window(1);
            let session = world.session(client).unwrap();
            world.script.push(&session, &"x".repeat(1000)).unwrap();
        }
        for tick in 0..70 {
            pass(100).await;
            stalled.heartbeat();
            trickles.heartbeat();
            if tick % 10 == 0 {
                trickles.read();
            }
            let closed = world.closed(&stalled);
            if tick < 48 {
                assert_eq!(closed, [], "after {tick} tenths of a second");
            } else if tick > 53 {
                assert_eq!(closed, [CloseReason::SlowClient], "after {tick}");
            }
        }
        assert_eq!(world.closed(&trickles), []);
        stalled.read();
        trickles.faults.set_window(100_000);
        settle().await;
        trickles.read();
        assert_eq!(trickles.data().count(), 1);
    });
}

/// Without heartbeats a connection idles only while no byte goes in either direction.
#[test]
fn a_client_that_only_listens_is_not_idle() {
    run(async || {
        let mut world = World::new(|_, codec| {
            codec.heartbeat = None;
            codec.limits.idle_timeout = ms(400);
        });
        let mut listens = world.joined(false).await;
        let session = world.session(&listens).unwrap();
        for _ in 0..12 {
            pass(300).await;
            world.script.push(&session, "x").unwrap();
        }
        pass(300).await;
        assert_eq!(world.closed(&listens), []);
        pass(300).await;
        let closed = world.closed(&listens);
        let closed: Vec<_> = closed.iter().map(CloseReason::name).collect();
        assert_eq!(closed, ["idle"], "when the pushes end");
        listens.read();
        assert_eq!(listens.data().count(), 12);
    });
}

/// Messages that arrived while the worker was held up count as spread over that time, although they are read at once.
#[test]
fn a_delayed_worker_closes_no_connection() {
    for held in [0, 3000] {
        run(async move || {
            let mut world = World::new(|config, _| {
                config.limits.messages_per_second = 10;
                config.limits.burst = 10;
                config.limits.pings_per_second = 10;
            });
            let (mut asks, pings) = (world.joined(false).await, world.joined(true).await);
            for _ in 0..3 {
                pass(100).await;
            }
            hold_up(ms(held));
            for _ in 0..35 {
                asks.ask("echo");
                pings.send_raw(&[0x89, 0x80, 0, 0, 0, 0]);
            }
            settle().await;
            asks.read();
            let expected = if held == 0 {
                vec![CloseReason::RateLimited]
            } else {
                vec![]
            };
            assert_eq!(world.closed(&asks), expected, "held up for {held} ms");
            assert_eq!(world.closed(&pings), expected, "held up for {held} ms");
        });
    }
}

#[test]
fn a_long_answer_to_a_handshake_goes_out() {
    for websocket in [false, true] {
        run(async move || {
            let mut world = World::plain();
            let mut client = world.connect(websocket);
            client.faults.set_step(1000);
            client.join("long");
            for _ in 0..20 {
                settle().await;
                client.read();
            }
            assert!(client.packages[0].body.len() > 200_000);
            assert!(world.session(&client).is_some());
        });
    }
}

/// It costs exactly the handshake timeout: there is no session for a goodbye.
#[test]
fn a_silent_tls_connection_does_not_linger() {
    run(async || {
        let mut world = World::new(|config, codec| {
            config.tls = Some(certificate());
            codec.limits.handshake_timeout = Duration::from_secs(3);
        });
        let silent = world.connect(false);
        pass(2900).await;
        assert_eq!(world.open_connections(), 1);
        pass(300).await;
        assert_eq!(world.open_connections(), 0);
        drop(silent);
    });
}

/// Whatever a client has said before, and however it says nothing now: it costs the handshake timeout and no linger.
#[test]
fn a_silent_client_does_not_linger() {
    let cases: [(bool, &[u8]); 4] = [
        (false, b""),
        (false, b"\x01\0\0\x40{\"sys\""),
        (false, b"GET / HT"),
        (true, b""),
    ];
    for (websocket, said) in cases {
        run(async move || {
            let mut world = World::new(|_, codec| {
                codec.limits.handshake_timeout = Duration::from_secs(3);
            });
            let silent = world.connect(websocket);
            silent.send_raw(said);
            pass(2900).await;
            assert_eq!(world.open_connections(), 1, "{said:?}");
            pass(500).await;
            assert_eq!(world.open_connections(), 0, "{said:?}");
            drop(silent);
        });
    }
}

/// A stop waits for sessions, and for nothing that strangers do or do not do.
#[test]
fn a_stop_waits_for_no_client_without_a_session() {
    run(async || {
        let mut world = World::plain();
        let strangers = [
            world.connect(false),
            world.connect(true),
            world.connect(false),
        ];
        strangers[2].send_raw(b"\x01\0\0\x40{\"sys\"");
        let client = world.joined(false).await;
        let listener = world.listener.lock().unwrap().take().unwrap();
        let mut stopped = std::pin::pin!(listener.closed());
        let wait = Duration::from_secs(5);
        let early = tokio::time::timeout(wait, stopped.as_mut()).await;
        assert!(early.is_err(), "there is a session");
        world.session(&client).unwrap().close(CloseReason::Draining);
        drop(client);
        let ended = tokio::time::timeout(Duration::from_secs(1), stopped).await;
        assert!(ended.is_ok(), "strangers are left, and nobody else");
        drop(strangers);
    });
}

/// A frontend that panics once at an unexpected place.
struct Fragile {
    front: Front,
    breaks: AtomicBool,
}

impl Frontend for Fragile {
    fn codec(&self) -> Arc<Codec> {
        assert!(
            !self.breaks.swap(false, Ordering::Relaxed),
            "expected: a fault of the server"
        );
        self.front.codec()
    }

    fn handshake(&self, peer: &Peer, request: &Arc<HandshakeRequest>) -> MaybeReady<Verdict> {
        self.front.handshake(peer, request)
    }

    fn open(&self, opened: Opened) -> Result<Arc<Session>, CloseReason> {
        self.front.open(opened)
    }

    fn message(&self, session: &Arc<Session>, message: Inbound) -> MaybeReady<()> {
        self.front.message(session, message)
    }

    fn refused(
        &self,
        session: &Arc<Session>,
        id: std::num::NonZeroU64,
        route: Option<Route>,
        reason: RefuseReason,
    ) {
        self.front.refused(session, id, route, reason);
    }
}

#[test]
fn a_listener_that_panics_restarts_and_logs_it() {
    run(async || {
        let script = World::plain().script;
        let fragile = Arc::new(Fragile {
            front: Front(script.clone()),
            breaks: AtomicBool::new(false),
        });
        let workers = Workers::on_this_thread(1);
        let config = ListenConfig::new("127.0.0.1:3010".parse().unwrap());
        let (listener, connector) = Listener::in_memory(&workers, config, fragile.clone()).unwrap();
        let connect = |n: u8| {
            let address = ([10, 1, 1, n], 1).into();
            let (socket, faults) = connector.connect(0, address);
            Client::new(address, socket, faults, false)
        };
        let mut before = connect(1);
        before.join("1");
        settle().await;
        before.read();
        settle().await;
        assert!(listener.is_serving());
        assert_eq!(script.sessions.session_count(), 1);
        fragile.breaks.store(true, Ordering::Relaxed);
        let _lost = connect(2);
        settle().await;
        assert!(!listener.is_serving());
        assert_eq!(
            script.sessions.session_count(),
            0,
            "its sessions are closed"
        );
        before.read();
        before.read();
        assert!(before.ended);
        pass(150).await;
        assert!(listener.is_serving());
        let mut after = connect(3);
        after.join("1");
        settle().await;
        after.read();
        settle().await;
        assert_eq!(script.sessions.session_count(), 1);
    });
}
