//! Sessions between two connections, at each step from one to the next, and handshakes that request features that the server does not have.

use std::{future::poll_fn, sync::Arc, task::Poll, time::Duration};

use serde_json::{Value, json};
use shaddock_core::{CloseReason, SessionState};
use shaddock_protocol::{Dialect, PackageType};

use crate::{
    client::{package, request},
    resume::{address, arrive, arrived, arrived_in, bounds, depart, push, state},
    traveller::Traveller,
    world::{Script, Then, World, pass, run, settle},
};

/// More turns than anything takes that happens without time.
const TURNS: usize = 40;

/// Does something when other tasks have had so many turns: in the middle of what they do together, which `settle` waits for.
fn after_turns(n: usize, then: impl FnOnce() + Send + 'static) {
    tokio::spawn(async move {
        for _ in 0..n {
            let mut is_polled = false;
            // Not `yield_now`, which lets all others run until they rest.
            poll_fn(|cx| {
                if std::mem::replace(&mut is_polled, true) {
                    return Poll::Ready(());
                }
                cx.waker().wake_by_ref();
                Poll::Pending
            })
            .await;
        }
        then();
    });
}

fn stats_of(world: &World, group: &str, name: &str) -> u64 {
    let listener = world.listener.lock().unwrap();
    let stats = listener.as_ref().unwrap().stats();
    match group {
        "dropped" => stats.dropped.get(name).copied().unwrap_or(0),
        "closed" => stats.closed.get(name).copied().unwrap_or(0),
        _ => stats.opened,
    }
}

/// A client whose request waits for the test, and whose connection is lost then.
async fn lost_while_it_waits() -> (World, Traveller) {
    let (world, mut traveller) = arrived(bounds(), false).await;
    traveller.ask("wait");
    settle().await;
    traveller.link.as_ref().unwrap().faults.reset();
    settle().await;
    assert_eq!(state(&world), [SessionState::Suspended]);
    traveller.link = None;
    traveller.working = false;
    (world, traveller)
}

#[test]
fn what_is_no_request_for_resumption_is_as_if_it_were_absent_and_counted() {
    let wrong = [
        json!("x"),
        json!(1),
        json!(null),
        json!(true),
        json!([1, "t", 0, 0]),
        json!({}),
        json!({"v": "1"}),
        json!({"v": 1, "token": 7, "received": 0, "sent": 0}),
        json!({"v": 1, "token": "t"}),
        json!({"v": 1, "token": "t", "received": -1, "sent": 0}),
        json!({"v": 1, "token": "t", "received": 0, "sent": 1e99}),
        json!({"v": 1, "token": "t", "received": 0, "sent": 0.5}),
        json!({"v": 1, "token": ["t"], "received": 0, "sent": 0}),
    ];
    for dialect in [Dialect::Pomelo, Dialect::Pitaya] {
        let wrong = wrong.clone();
        run(async move || {
            let world = World::resumable(bounds(), Some(Duration::from_secs(3)));
            let count = wrong.len() as u64;
            for lie in wrong {
                let mut client = Traveller::new(address(), false, dialect);
                client.lie = Some(lie.clone());
                client.connect(&world);
                settle().await;
                client.read();
                settle().await;
                assert!(client.working && client.token.is_none(), "{lie}");
                client.ask("echo");
                settle().await;
                client.read();
                assert_eq!(client.seen.len(), 1, "{lie}");
                // And the session ends with its socket.
                client.link.as_ref().unwrap().faults.reset();
                settle().await;
                assert_eq!(state(&world), [], "{lie}");
            }
            assert_eq!(stats_of(&world, "dropped", "malformed_resume"), count);
            let granted = world.script.sessions.resume_statistics().granted;
            assert_eq!(granted, 0);
            world.finish(Vec::new()).await.unwrap();
        });
    }
}

/// The name of a client in its handshake has no influence on what it is granted and on its return.
#[test]
fn the_type_of_a_client_changes_nothing() {
    let kinds = [
        None,
        Some(json!("")),
        Some(json!("no such type")),
        Some(json!(5)),
        Some(json!(null)),
        Some(json!(["js-websocket"])),
        Some(json!("x".repeat(2000))),
    ];
    for (first, second) in kinds.iter().zip(kinds.iter().cycle().skip(1)) {
        let (first, second) = (first.clone(), second.clone());
        run(async move || {
            let mut world = World::resumable(bounds(), None);
            let mut token = json!(null);
            for (kind, resumed) in [(first, false), (second, true)] {
                let resume = match &token {
                    Value::Null => json!({"v": 1}),
                    token => json!({"v": 1, "token": token, "received": 0, "sent": 0}),
                };
                let mut sys = json!({"resume": resume});
                if let Some(kind) = &kind {
                    sys["type"] = kind.clone();
                }
                let mut client = world.connect(false);
                let body = json!({"sys": sys}).to_string();
                client.send(&package(PackageType::Handshake, body.as_bytes()));
                settle().await;
                client.read();
                settle().await;
                let answer: Value = serde_json::from_slice(&client.packages[0].body).unwrap();
                let granted = &answer["sys"]["resume"];
                assert_eq!(granted["resumed"] == true, resumed, "{kind:?}: {answer}");
                token = granted["token"].clone();
                assert!(token.is_string());
                assert_eq!(state(&world), [SessionState::Open]);
                client.faults.reset();
                settle().await;
                assert_eq!(state(&world), [SessionState::Suspended]);
            }
            world.finish(Vec::new()).await.unwrap();
        });
    }
}

/// Another version is not a fault: it is absent, and not counted.
#[test]
fn another_version_of_resumption_is_not_granted() {
    run(async || {
        let world = World::resumable(bounds(), None);
        let mut client = Traveller::new(address(), false, Dialect::Pomelo);
        client.lie = Some(json!({"v": 2, "token": "t", "received": 0, "sent": 0}));
        client.connect(&world);
        settle().await;
        client.read();
        assert!(client.working && client.token.is_none());
        assert_eq!(stats_of(&world, "dropped", "malformed_resume"), 0);
        drop(client);
        world.finish(Vec::new()).await.unwrap();
    });
}

/// Tokens that are cut, forged, of another session; counts that cannot be. Each gets a new session, and the one with the token is as it was.
#[test]
fn what_a_thief_shows_harms_no_session() {
    for websocket in [false, true] {
        run(async move || {
            let (world, mut traveller) = arrived(bounds(), websocket).await;
            push(&world, &traveller, "1");
            settle().await;
            traveller.read();
            let token = traveller.token.clone().unwrap();
            let (sid, secret) = token.split_at(16);
            let mut lies: Vec<(String, u64, u64)> = (0..token.len())
                .map(|length| (token[..length].to_owned(), 1, 0))
                .collect();
            let forged = secret.replace(|c| c == secret.chars().next().unwrap(), "0");
            lies.push((format!("{sid}{forged}x"), 1, 0));
            lies.push((token.clone() + "0", 1, 0));
            lies.push(("0".repeat(16) + secret, 1, 0));
            lies.push((format!("{}{secret}", "f".repeat(16)), 1, 0));
            lies.push(("é".repeat(200), 1, 0));
            // More than was sent to it.
            lies.push((token.clone(), 2, 0));
            lies.push((token.clone(), u64::MAX, 0));
            for (token, received, sent) in lies {
                let mut thief = Traveller::new(address(), websocket, Dialect::Pomelo);
                let lie = json!({"v": 1, "token": token, "received": received, "sent": sent});
                thief.lie = Some(lie);
                thief.token = Some(token.clone());
                thief.connect(&world);
                settle().await;
                thief.read();
                assert_eq!(thief.restarted, ["unknown"], "{token} {received} {sent}");
                settle().await;
                thief.goodbye();
                settle().await;
                assert_eq!(state(&world), [SessionState::Open], "{token}");
            }
            push(&world, &traveller, "2");
            settle().await;
            traveller.read();
            assert_eq!((traveller.seen.len(), traveller.connections), (2, 1));
            depart(world, traveller).await.unwrap();
        });
    }
}

#[test]
fn each_heartbeat_of_a_client_is_answered_and_tells_how_much_was_taken() {
    run(async || {
        let (world, mut traveller) = arrived(bounds(), false).await;
        traveller.ask("echo");
        traveller.ask("echo");
        settle().await;
        for _ in 0..3 {
            traveller.heartbeat();
            settle().await;
        }
        let link = traveller.link.as_mut().unwrap();
        link.read();
        // The first one is the server's own. The number comes once, because it is no news after that.
        let beats: Vec<_> = link.beats.iter().map(|beat| &beat[..]).collect();
        assert_eq!(beats, [&[][..], &[2], &[], &[]]);
        depart(world, traveller).await.unwrap();
    });
    // Without heartbeats none is answered.
    run(async || {
        let world = World::resumable(bounds(), None);
        let (world, mut traveller) = arrived_in(world, false).await;
        traveller.heartbeat();
        settle().await;
        let link = traveller.link.as_mut().unwrap();
        link.read();
        assert!(link.beats.is_empty());
        depart(world, traveller).await.unwrap();
    });
}

#[test]
fn a_session_is_opened_once_and_counts_all_its_bytes() {
    run(async || {
        let (world, mut traveller) = arrived(bounds(), false).await;
        let received = |world: &World| {
            let mut received = 0;
            let sessions = &world.script.sessions;
            sessions.visit_sessions(|session| received += session.received_bytes());
            received
        };
        let mut wrote = traveller.wrote as u64;
        assert_eq!(received(&world), wrote);
        for _ in 0..2 {
            traveller.link.as_ref().unwrap().faults.reset();
            settle().await;
            traveller.link = None;
            traveller.connect(&world);
            settle().await;
            traveller.read();
            settle().await;
            wrote += traveller.wrote as u64;
            assert_eq!(received(&world), wrote);
        }
        assert_eq!(stats_of(&world, "opened", ""), 1);
        assert_eq!(stats_of(&world, "closed", "transport"), 2);
        depart(world, traveller).await.unwrap();
    });
}

/// A kick at each step of the way from one connection to the next: what runs comes to its end, in the hands of either driver.
#[test]
fn a_close_at_each_step_of_a_hand_over() {
    for turn in 0..TURNS {
        for late in [false, true] {
            run(async move || {
                let (world, mut traveller) = lost_while_it_waits().await;
                let first = world.script.log().sessions[0].upgrade().unwrap();
                traveller.version = if late { "late" } else { "1" };
                traveller.connect(&world);
                if late {
                    pass(50).await;
                }
                let session = Arc::clone(&first);
                after_turns(turn, move || {
                    session.close(CloseReason::kicked("told to"));
                });
                settle().await;
                assert!(first.is_closed());
                assert!(world.release(0, Then::Answer));
                settle().await;
                let finished = world.script.log().finished;
                assert_eq!(finished, 1, "the handler is lost after {turn} turns");
                drop((traveller, first));
                world.finish(Vec::new()).await.unwrap();
            });
        }
    }
}

/// The connection that comes back is lost, at each step: the next one finds all that there was.
#[test]
fn a_loss_at_each_step_of_a_hand_over() {
    for turn in 0..TURNS {
        for late in [false, true] {
            run(async move || {
                let (world, mut traveller) = lost_while_it_waits().await;
                traveller.version = if late { "late" } else { "1" };
                traveller.connect(&world);
                if late {
                    pass(50).await;
                }
                let faults = traveller.link.as_ref().unwrap().faults.clone();
                after_turns(turn, move || faults.reset());
                settle().await;
                traveller.link = None;
                assert_eq!(state(&world), [SessionState::Suspended], "{turn}");
                let suspended = world.script.sessions.resume_statistics().suspended;
                assert_eq!(suspended, 1);
                assert!(world.release(0, Then::Answer));
                settle().await;
                traveller.version = "1";
                traveller.connect(&world);
                settle().await;
                traveller.read();
                settle().await;
                traveller.read();
                assert_eq!(
                    (traveller.resumed, traveller.seen.len()),
                    (1, 1),
                    "after {turn} turns"
                );
                depart(world, traveller).await.unwrap();
            });
        }
    }
}

/// More than may wait was sent, so the rest was not taken: it runs once, when the client has sent it again.
#[test]
fn what_was_read_and_not_taken_runs_once() {
    for websocket in [false, true] {
        run(async move || {
            let (world, mut traveller) = arrived(bounds(), websocket).await;
            traveller.ask("wait");
            for _ in 0..12 {
                traveller.ask("echo");
            }
            // And a part of one more, which must not come before what the next connection says.
            let link = traveller.link.as_ref().unwrap();
            link.send_raw(&link.framed(&request(99, "a.b.echo", "{}"))[..9]);
            settle().await;
            traveller.link.as_ref().unwrap().faults.reset();
            // The socket is not read, so it takes a while until its end is seen.
            pass(2000).await;
            traveller.link = None;
            traveller.working = false;
            assert_eq!(state(&world), [SessionState::Suspended]);
            traveller.connect(&world);
            arrive(&world, &mut traveller).await.unwrap();
            assert_eq!(traveller.seen.len(), 13);
            depart(world, traveller).await.unwrap();
        });
    }
}

/// Losses do not put the end of the window off, unless the client has acknowledged a handshake in between.
#[test]
fn the_window_counts_from_the_last_time_that_the_client_was_there() {
    run(async || {
        let (world, mut traveller) = arrived(bounds(), false).await;
        for at in 0..4 {
            traveller.link.as_ref().unwrap().faults.reset();
            pass(4_500).await;
            assert_eq!(state(&world), [SessionState::Suspended], "{at}");
            traveller.link = None;
            traveller.connect(&world);
            settle().await;
            // It never reads the answer.
        }
        traveller.link.as_ref().unwrap().faults.reset();
        pass(2_500).await;
        assert_eq!(state(&world), [], "20 seconds after the first loss");
        drop(traveller);
        world.finish(Vec::new()).await.unwrap();
    });
}

/// Silence of every kind is a loss: without heartbeats, with them, and before the acknowledgement of a handshake.
#[test]
fn a_client_that_is_silent_loses_its_socket_and_not_its_session() {
    for (kind, ms) in [
        ("heartbeat_timeout", 9_000),
        ("idle", 91_000),
        ("handshake_timeout", 16_000),
    ] {
        run(async move || {
            let bounds = bounds().window(Duration::from_secs(200));
            let beat = (kind == "heartbeat_timeout").then_some(Duration::from_secs(3));
            let world = World::resumable(bounds, beat);
            let (world, mut traveller) = arrived_in(world, false).await;
            if kind == "handshake_timeout" {
                traveller.forget_link();
                traveller.connect(&world);
                traveller.old.clear();
            }
            pass(ms).await;
            assert_eq!(state(&world), [SessionState::Suspended], "{kind}");
            assert_eq!(stats_of(&world, "closed", kind), 1, "{kind}");
            traveller.forget_link();
            traveller.connect(&world);
            settle().await;
            traveller.read();
            assert_eq!((traveller.working, traveller.resumed), (true, 1), "{kind}");
            depart(world, traveller).await.unwrap();
        });
    }
}

/// The worker stops: no session without a connection is left open behind it, parked or not.
#[test]
fn a_worker_that_stops_closes_the_sessions_that_wait() {
    for waits in [false, true] {
        let left: Arc<Script> = run(async move || {
            let (world, mut traveller) = arrived(bounds(), false).await;
            if waits {
                traveller.ask("wait");
                settle().await;
            }
            traveller.link.as_ref().unwrap().faults.reset();
            settle().await;
            assert_eq!(state(&world), [SessionState::Suspended]);
            Arc::clone(&world.script)
        });
        assert_eq!(left.sessions.session_count(), 0, "a handler waits: {waits}");
        let closed = left.log().closed[&address()].clone();
        assert_eq!(closed, [CloseReason::Internal]);
        let kept = left.sessions.resume_statistics();
        assert_eq!((kept.suspended, kept.kept_bytes), (0, 0));
    }
}

/// A client that does not ask pays nothing: no count, no number in its heartbeats.
#[test]
fn a_client_that_asks_for_nothing_is_told_nothing() {
    run(async || {
        let mut world = World::resumable(bounds(), Some(Duration::from_secs(3)));
        let mut client = world.joined(false).await;
        client.ask("echo");
        client.heartbeat();
        settle().await;
        pass(3100).await;
        client.read();
        assert!(!client.beats.is_empty());
        assert!(client.beats.iter().all(bytes::Bytes::is_empty));
        let answer: Value = serde_json::from_slice(&client.packages[0].body).unwrap();
        assert_eq!(answer["sys"].get("resume"), None);
        client.faults.reset();
        settle().await;
        assert_eq!(state(&world), []);
        world.finish(vec![client]).await.unwrap();
    });
}

/// The application judges the first of two connections last. The later one has the session by then, and keeps it.
#[test]
fn the_later_connection_keeps_the_session_that_an_earlier_one_is_judged_for() {
    run(async || {
        let (world, mut traveller) = arrived(bounds(), false).await;
        traveller.forget_link();
        traveller.version = "late";
        traveller.connect(&world);
        settle().await;
        let first = traveller.link.take().unwrap();
        traveller.version = "1";
        traveller.connect(&world);
        // It has its answer, and has not acknowledged it: both tokens are good.
        pass(100).await;
        assert_eq!(first.socket.as_ref().unwrap().receive(), None);
        traveller.read();
        assert_eq!((traveller.working, traveller.resumed), (true, 1));
        traveller.ask("echo");
        settle().await;
        traveller.read();
        assert_eq!((traveller.seen.len(), traveller.connections), (1, 3));
        depart(world, traveller).await.unwrap();
    });
}

/// The frontend with the session says no: its reason comes through the one with the socket, which opens a session of its own. There is none besides.
#[test]
fn a_refusal_comes_through_a_relay() {
    for why in ["denied", "unknown"] {
        run(async move || {
            let (world, mut traveller) = arrived(bounds(), false).await;
            let world = world.with_door();
            traveller.link.as_ref().unwrap().faults.reset();
            settle().await;
            let token = traveller.token.clone().unwrap();
            if why == "denied" {
                traveller.version = "banned";
            } else {
                traveller.token = Some(token[..16].to_owned() + &"A".repeat(token.len() - 16));
            }
            traveller.link = None;
            traveller.connect(&world);
            settle().await;
            traveller.read();
            settle().await;
            assert_eq!(traveller.restarted, [why]);
            assert!(traveller.working);
            assert_eq!(state(&world), [SessionState::Suspended]);
            assert_eq!(world.script.log().sessions.len(), 1);
            traveller.goodbye();
            settle().await;
            world.finish(Vec::new()).await.unwrap();
        });
    }
}
