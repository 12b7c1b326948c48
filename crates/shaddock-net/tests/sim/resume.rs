//! Sessions that outlive their sockets: cut at every byte, and a client application that notices nothing.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use shaddock_core::{CloseReason, ResumeConfig, SessionState, Sid};
use shaddock_protocol::{Dialect, PackageType};

use crate::{
    client::{package, request},
    tls::certificate,
    traveller::{Cut, Traveller},
    world::{Then, World, pass, run, settle},
};

pub fn bounds() -> ResumeConfig {
    ResumeConfig::default()
        .window(Duration::from_secs(20))
        .ack(3)
}

pub fn address() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 4000))
}

/// A push for the session whose token the client has. A session whose response never arrived receives none, because no client would see it.
pub fn push(world: &World, traveller: &Traveller, body: &str) {
    let Some(token) = &traveller.token else {
        return;
    };
    let sid = u64::from_str_radix(&token[..16], 16).unwrap();
    if let Some(session) = world.script.sessions.get(Sid::new(sid).unwrap()) {
        let _ = world.script.push(&session, body);
    }
}

/// Where the first connection is cut.
#[derive(Debug, Clone, Copy)]
enum Where {
    Nowhere,
    /// When the server has written so many bytes.
    FromServer(usize),
    /// When the client has.
    FromClient(usize, Cut),
}

/// How a client comes to its session.
#[derive(Debug, Clone, Copy)]
#[allow(clippy::struct_excessive_bools)]
struct Way {
    websocket: bool,
    tls: bool,
    dialect: Dialect,
    relayed: bool,
    early: bool,
}

impl Way {
    fn tcp(dialect: Dialect) -> Self {
        Self {
            websocket: false,
            tls: false,
            dialect,
            relayed: false,
            early: false,
        }
    }

    fn ws(dialect: Dialect) -> Self {
        let websocket = true;
        Self {
            websocket,
            ..Self::tcp(dialect)
        }
    }

    fn over_tls(self) -> Self {
        Self { tls: true, ..self }
    }

    fn relayed(self) -> Self {
        let relayed = true;
        Self { relayed, ..self }
    }

    fn early(self) -> Self {
        let early = true;
        Self { early, ..self }
    }
}

/// Comes back when the connection is lost.
fn go_on(traveller: &mut Traveller, world: &World) {
    traveller.read();
    if traveller.link.is_none() {
        traveller.connect(world);
    }
}

/// The client has received the messages that were accepted for it, in order, and each request has run once.
fn check(world: &World, traveller: &Traveller) -> Result<(), String> {
    let log = world.script.log();
    let accepted = log.accepted.get(&traveller.address);
    let accepted = accepted.map_or(&[][..], Vec::as_slice);
    if traveller.seen != accepted {
        let same = traveller.seen.iter().zip(accepted);
        let same = same.take_while(|(seen, sent)| seen == sent).count();
        let (seen, sent) = (traveller.seen.len(), accepted.len());
        let Traveller {
            restarted,
            working,
            connections,
            resumed,
            ..
        } = traveller;
        return Err(format!(
            "{seen} messages were seen, {sent} were sent, {same} are the same; {connections} connections, {resumed} resumed, \
             restarted: {restarted:?}, working: {working}, has a connection: {}, closed: {:?}",
            traveller.link.is_some(),
            log.closed,
        ));
    }
    let ran = log.dispatched.get(&traveller.address).cloned();
    if ran.unwrap_or_default() != (1..=traveller.sent).collect::<Vec<_>>() {
        return Err(format!("{:?} ran of {}", log.dispatched, traveller.sent));
    }
    if !traveller.restarted.is_empty() || traveller.missed > 0 {
        let (restarted, missed) = (&traveller.restarted, traveller.missed);
        return Err(format!("restarted: {restarted:?}, missed: {missed}"));
    }
    match log.violations.first() {
        Some(line) => Err(line.clone()),
        None => Ok(()),
    }
}

/// Waits until the client has seen all and the server has all.
pub async fn arrive(world: &World, traveller: &mut Traveller) -> Result<(), String> {
    let mut result = Ok(());
    for _ in 0..60 {
        settle().await;
        go_on(traveller, world);
        while world.release(0, Then::Answer) {}
        settle().await;
        go_on(traveller, world);
        traveller.heartbeat();
        result = check(world, traveller);
        let is_quiet = world.script.log().gates.is_empty();
        if result.is_ok() && traveller.working && is_quiet {
            break;
        }
        pass(200).await;
    }
    result
}

/// The client says goodbye: nothing is left.
pub async fn depart(world: World, mut traveller: Traveller) -> Result<(), String> {
    traveller.goodbye();
    settle().await;
    let left = world.script.sessions.session_count();
    if left != 0 {
        let link = traveller
            .link
            .as_ref()
            .map(|link| (link.ended, link.faults.unread_by_server()));
        let sessions = state(&world);
        return Err(format!(
            "{left} sessions outlive the goodbye: {sessions:?}, {link:?}, working: {}, gates: {}",
            traveller.working,
            world.script.log().gates.len()
        ));
    }
    let kept = world.script.sessions.resume_statistics();
    if (kept.kept_bytes, kept.suspended) != (0, 0) {
        return Err(format!("something is kept for nobody: {kept:?}"));
    }
    drop(traveller);
    world.finish(Vec::new()).await
}

/// One conversation with a cut. Gives back what the first connection wrote in both directions.
async fn journey(at: Where, way: Way) -> Result<(usize, usize), String> {
    let Way {
        websocket,
        tls,
        dialect,
        relayed,
        early,
    } = way;
    let certificate = tls.then(certificate);
    let mut world = World::resumable_over(certificate, bounds(), Some(Duration::from_secs(3)));
    let mut traveller = Traveller::new(address(), websocket, dialect);
    traveller.tls = tls;
    traveller.early = early;
    if relayed {
        world = world.with_door();
        // The session is there; what is cut is the connection that comes back to the other frontend.
        traveller.connect(&world);
        for _ in 0..5 {
            settle().await;
            traveller.read();
        }
        settle().await;
        traveller.forget_link();
    }
    let first = traveller.connections + 1;
    if let Where::FromClient(bytes, cut) = at {
        traveller.fuse = Some((bytes, cut));
    }
    traveller.connect(&world);
    if let (Where::FromServer(bytes), Some(link)) = (at, &traveller.link) {
        link.faults.reset_after(bytes);
    }
    let mut from_server = 0;
    let mut pushes = 0;
    for step in [
        "", "echo", "push", "wait", "echo", "push", "", "go", "pushes", "echo", "big", "push", "",
        "go", "echo", "push", "", "",
    ] {
        match step {
            "" => settle().await,
            "push" => {
                pushes += 1;
                // One that is shared as a pointer, and one that is copied.
                let filler = "x".repeat(if pushes % 2 == 0 { 100 } else { 1 });
                push(
                    &world,
                    &traveller,
                    &format!(r#"{{"push":{pushes},"x":"{filler}"}}"#),
                );
            }
            "go" => {
                world.release(0, Then::Answer);
            }
            method => traveller.ask(method),
        }
        settle().await;
        if traveller.connections == first
            && let Some(link) = &traveller.link
        {
            from_server += link.faults.unread_by_client();
        }
        go_on(&mut traveller, &world);
    }
    let from_client = traveller.wrote;
    arrive(&world, &mut traveller).await?;
    let created = world.script.log().sessions.len();
    // The handshake may not have been answered in time for the client to learn a token.
    if created > 2 || (created == 2 && !matches!(at, Where::FromServer(_) | Where::FromClient(..)))
    {
        return Err(format!("{created} sessions were made"));
    }
    drop(std::mem::take(&mut traveller.old));
    if relayed && created != 1 {
        return Err(format!("{created} sessions were made"));
    }
    if created == 1 {
        depart(world, traveller).await?;
    }
    Ok((from_server, from_client))
}

/// All cuts of one kind of connection. `EVERY=1` in the environment takes each byte, otherwise one in 29, from another one for each kind.
fn cut_everywhere(way: Way, first: usize) {
    let whole = run(async move || journey(Where::Nowhere, way).await);
    let (from_server, from_client) = whole.expect("without a cut");
    // A handshake of TLS alone is more than that.
    let least = if way.tls { 600 } else { 200 };
    assert!(
        from_server > 300 + least && from_client > least,
        "{from_server}, {from_client}"
    );
    let every = std::env::var("EVERY").is_ok();
    let (first, step) = if every { (0, 1) } else { (first, 29) };
    // The first answer to "big" is most of the bytes: of it fewer are enough.
    let server = (first..from_server).filter(|at| every || *at < 900 + 3 * least || at % 17 == 0);
    let mut cuts: Vec<_> = server.step_by(step).map(Where::FromServer).collect();
    for cut in [Cut::Reset, Cut::Finish, Cut::Forget] {
        let client = (first..from_client).step_by(step);
        cuts.extend(client.map(|at| Where::FromClient(at, cut)));
    }
    for at in cuts {
        let result = run(async move || journey(at, way).await);
        assert!(result.is_ok(), "{at:?}, {way:?}: {result:?}");
    }
}

#[test]
fn cut_at_every_byte_tcp_pomelo() {
    cut_everywhere(Way::tcp(Dialect::Pomelo), 0);
}

#[test]
fn cut_at_every_byte_tcp_pitaya() {
    cut_everywhere(Way::tcp(Dialect::Pitaya), 3);
}

#[test]
fn cut_at_every_byte_ws_pomelo() {
    cut_everywhere(Way::ws(Dialect::Pomelo), 7);
}

#[test]
fn cut_at_every_byte_ws_pitaya() {
    cut_everywhere(Way::ws(Dialect::Pitaya), 10);
}

#[test]
fn cut_at_every_byte_early_tcp() {
    cut_everywhere(Way::tcp(Dialect::Pomelo).early(), 6);
}

#[test]
fn cut_at_every_byte_early_ws() {
    cut_everywhere(Way::ws(Dialect::Pitaya).early(), 9);
}

#[test]
fn cut_at_every_byte_tls_pomelo() {
    cut_everywhere(Way::tcp(Dialect::Pomelo).over_tls(), 1);
}

#[test]
fn cut_at_every_byte_tls_pitaya() {
    cut_everywhere(Way::tcp(Dialect::Pitaya).over_tls(), 4);
}

#[test]
fn cut_at_every_byte_wss_pomelo() {
    cut_everywhere(Way::ws(Dialect::Pomelo).over_tls(), 8);
}

#[test]
fn cut_at_every_byte_wss_pitaya() {
    cut_everywhere(Way::ws(Dialect::Pitaya).over_tls(), 11);
}

#[test]
fn cut_at_every_byte_of_a_relay_tcp() {
    cut_everywhere(Way::tcp(Dialect::Pomelo).relayed(), 5);
}

#[test]
fn cut_at_every_byte_of_a_relay_early() {
    cut_everywhere(Way::ws(Dialect::Pomelo).relayed().early(), 3);
}

#[test]
fn cut_at_every_byte_of_a_relay_ws() {
    cut_everywhere(Way::ws(Dialect::Pitaya).relayed(), 2);
}

#[test]
fn cut_at_every_byte_of_a_relay_wss() {
    cut_everywhere(Way::ws(Dialect::Pomelo).over_tls().relayed(), 6);
}

/// A client that has come in, of a server with these bounds.
pub async fn arrived(bounds: ResumeConfig, websocket: bool) -> (World, Traveller) {
    let world = World::resumable(bounds, Some(Duration::from_secs(3)));
    arrived_in(world, websocket).await
}

pub async fn arrived_in(world: World, websocket: bool) -> (World, Traveller) {
    let mut traveller = Traveller::new(address(), websocket, Dialect::Pomelo);
    traveller.connect(&world);
    settle().await;
    traveller.read();
    settle().await;
    assert!(traveller.working);
    (world, traveller)
}

pub fn state(world: &World) -> Vec<SessionState> {
    let mut states = Vec::new();
    let sessions = &world.script.sessions;
    sessions.for_each_session(|session| states.push(session.state()));
    states
}

#[test]
fn what_suspends_and_what_ends() {
    let goodbye = |n: u16| [&[0x88, 0x82, 0, 0, 0, 0][..], &n.to_be_bytes()].concat();
    let cases: Vec<(&str, bool, Vec<u8>, bool)> = vec![
        (
            "a KICK",
            false,
            package(PackageType::Kick, b"").to_vec(),
            false,
        ),
        (
            "a KICK that says something",
            false,
            package(PackageType::Kick, b"x").to_vec(),
            false,
        ),
        ("garbage", false, b"\xff\xff\xff\xff".to_vec(), false),
        (
            "a bad number",
            false,
            package(PackageType::Heartbeat, b"\x80").to_vec(),
            false,
        ),
        (
            "runs ahead",
            false,
            package(PackageType::Heartbeat, b"\x09").to_vec(),
            false,
        ),
        ("status 1000", true, goodbye(1000), false),
        ("no status", true, vec![0x88, 0x80, 0, 0, 0, 0], false),
        ("status 1001", true, goodbye(1001), true),
        ("status 4000", true, goodbye(4000), true),
        ("a frame that is not masked", true, vec![0x82, 1, 0], false),
    ];
    let both = cases
        .into_iter()
        .flat_map(|case| [(case.clone(), false), (case, true)]);
    for ((name, websocket, bytes, suspends), relayed) in both {
        run(async move || {
            let (mut world, mut traveller) = arrived(bounds(), websocket).await;
            let mut before = 0;
            if relayed {
                world = world.with_door();
                traveller.forget_link();
                traveller.connect(&world);
                settle().await;
                traveller.read();
                settle().await;
                assert_eq!((traveller.working, traveller.resumed), (true, 1));
                before = 1;
            }
            traveller.link.as_ref().unwrap().send_raw(&bytes);
            settle().await;
            let expected = if suspends {
                vec![SessionState::Suspended]
            } else {
                vec![]
            };
            assert_eq!(state(&world), expected, "{name}, relayed: {relayed}");
            traveller.link = None;
            traveller.connect(&world);
            settle().await;
            traveller.read();
            assert_eq!(
                (traveller.resumed - before, traveller.restarted.len()),
                if suspends { (1, 0) } else { (0, 1) },
                "{name}, relayed: {relayed}"
            );
            drop(std::mem::take(&mut traveller.old));
            traveller.goodbye();
            settle().await;
            world.finish(Vec::new()).await.unwrap();
        });
    }
}

/// Repeated messages are sent with the answer if the client requests it, and otherwise when it has acknowledged the answer. They are the same, once.
#[test]
fn what_is_sent_again_may_come_with_the_answer() {
    for (websocket, early) in [(false, false), (false, true), (true, false), (true, true)] {
        run(async move || {
            let (world, mut traveller) = arrived(bounds(), websocket).await;
            traveller.forget_link();
            settle().await;
            for n in 1..=3 {
                push(&world, &traveller, &n.to_string());
            }
            traveller.early = early;
            for missing in ["the answer", "the acknowledgement"] {
                traveller.connect(&world);
                settle().await;
                let link = traveller.link.as_mut().unwrap();
                link.read();
                let kinds: Vec<_> = link.packages.iter().map(|package| package.kind).collect();
                let data = if early { 3 } else { 0 };
                assert_eq!(kinds[0], PackageType::Handshake);
                assert_eq!(kinds[1..], vec![PackageType::Data; data], "{missing}");
                assert_eq!(state(&world), [SessionState::Suspended]);
                if missing == "the acknowledgement" {
                    // It has read all, and is lost before the server knows.
                    traveller.fuse = Some((0, Cut::Reset));
                    traveller.read();
                }
                traveller.forget_link();
            }
            push(&world, &traveller, "4");
            arrive(&world, &mut traveller).await.unwrap();
            assert_eq!((traveller.seen.len(), traveller.received), (4, 4));
            depart(world, traveller).await.unwrap();
        });
    }
}

#[test]
fn the_window_ends_with_the_reason_of_the_loss() {
    run(async || {
        let (world, mut traveller) = arrived(bounds(), false).await;
        traveller.ask("wait");
        settle().await;
        traveller.link.as_ref().unwrap().faults.reset();
        pass(19_000).await;
        assert_eq!(state(&world), [SessionState::Suspended]);
        pass(2000).await;
        assert_eq!(state(&world), []);
        let reason = CloseReason::Transport(std::io::ErrorKind::ConnectionReset);
        assert_eq!(world.script.log().closed[&address()], [reason]);
        assert_eq!(world.script.sessions.resume_statistics().expired, 1);
        traveller.link = None;
        traveller.connect(&world);
        settle().await;
        traveller.read();
        assert_eq!(traveller.restarted, ["expired"]);
        settle().await;
        traveller.goodbye();
        world.finish(Vec::new()).await.unwrap();
    });
}

/// The frontend sends its client away: the session waits, what is sent is kept, and a client that does not come back has left with the drain. A
/// client whose connection another frontend has accepted stays.
#[test]
fn a_client_that_is_sent_away_comes_back_to_its_session() {
    for websocket in [false, true] {
        run(async move || {
            let (mut world, mut traveller) = arrived(bounds(), websocket).await;
            traveller.ask("wait");
            settle().await;
            assert_eq!(send_away(&world), 1);
            push(&world, &traveller, "1");
            settle().await;
            traveller.read();
            assert_eq!(state(&world), [SessionState::Suspended]);
            assert!(traveller.link.is_none(), "and nothing was said");
            assert_eq!(send_away(&world), 0, "there is no socket");
            world.release(0, Then::Answer);
            push(&world, &traveller, "2");

            world = world.with_door();
            arrive(&world, &mut traveller).await.unwrap();
            assert_eq!(traveller.seen.len(), 3);
            settle().await;
            assert_eq!(
                (traveller.connections, send_away(&world)),
                (2, 0),
                "it came through the other frontend"
            );
            traveller.forget_link();
            arrive(&world, &mut traveller).await.unwrap();
            settle().await;
            assert_eq!((traveller.connections, send_away(&world)), (3, 1), "here");
            settle().await;
            traveller.read();
            assert!(traveller.link.is_none());
            pass(21_000).await;
            assert_eq!(state(&world), []);
            let closed = world.script.log().closed[&address()].clone();
            assert_eq!(closed, [CloseReason::Draining]);
            drop(std::mem::take(&mut traveller.old));
            world.finish(Vec::new()).await.unwrap();
        });
    }
}

/// How many connections go.
fn send_away(world: &World) -> usize {
    let mut sent = 0;
    let sessions = &world.script.sessions;
    sessions.visit_sessions(|session| sent += usize::from(session.dismiss()));
    sent
}

#[test]
fn waiting_messages_run_while_the_session_is_suspended() {
    run(async || {
        let (world, mut traveller) = arrived(bounds(), false).await;
        for method in ["wait", "echo", "echo", "wait", "echo"] {
            traveller.ask(method);
        }
        settle().await;
        traveller.link.as_ref().unwrap().faults.reset();
        traveller.link = None;
        traveller.working = false;
        settle().await;
        assert_eq!(world.script.log().dispatched[&address()], [1]);
        world.release(0, Then::Answer);
        settle().await;
        assert_eq!(world.script.log().dispatched[&address()], [1, 2, 3, 4]);
        traveller.connect(&world);
        settle().await;
        traveller.read();
        settle().await;
        traveller.read();
        assert_eq!(traveller.seen.len(), 3);
        arrive(&world, &mut traveller).await.unwrap();
        depart(world, traveller).await.unwrap();
    });
}

/// A client gets no new messages a second by coming back: of rate limits the session's count.
#[test]
fn the_rate_is_that_of_the_session() {
    // Its driver goes on until the client is back, or it is parked meanwhile, or it was parked and the connection after it is lost, too.
    for case in ["a handler waits", "parked", "parked twice"] {
        run(async move || {
            let world = World::resumable_with(bounds(), None, |config| {
                config.limits.messages_per_second = 1;
                config.limits.burst = 8;
            });
            let (world, mut traveller) = arrived_in(world, false).await;
            for method in ["echo", "echo", "echo", "wait"] {
                traveller.ask(method);
            }
            settle().await;
            if case != "a handler waits" {
                world.release(0, Then::Answer);
            }
            settle().await;
            traveller.read();
            let losses = if case == "parked twice" { 2 } else { 1 };
            for loss in 1..=losses {
                traveller.link.as_ref().unwrap().faults.reset();
                settle().await;
                assert_eq!(state(&world), [SessionState::Suspended], "{case}");
                traveller.link = None;
                traveller.connect(&world);
                settle().await;
                traveller.read();
                settle().await;
                assert_eq!((traveller.working, traveller.resumed), (true, loss));
            }
            // Its acknowledgements count as well. Of a count of its own, a connection would have taken as many.
            for _ in 0..6 {
                traveller.ask("echo");
            }
            settle().await;
            let closed = world.script.log().closed.get(&address()).cloned();
            assert_eq!(closed, Some(vec![CloseReason::RateLimited]), "{case}");
            assert_eq!(state(&world), []);
            world.finish(Vec::new()).await.unwrap();
        });
    }
}

#[test]
fn a_gap_is_reported_and_later_messages_are_complete() {
    run(async || {
        let bounds = bounds().max_messages(4);
        let (world, mut traveller) = arrived(bounds, false).await;
        push(&world, &traveller, "1");
        settle().await;
        traveller.read();
        traveller.link.as_ref().unwrap().faults.reset();
        traveller.link = None;
        settle().await;
        for n in 2..=9 {
            push(&world, &traveller, &n.to_string());
        }
        traveller.connect(&world);
        settle().await;
        // The messages after the announced position are kept in any case.
        for n in 10..=19 {
            push(&world, &traveller, &n.to_string());
        }
        traveller.read();
        settle().await;
        traveller.read();
        assert_eq!((traveller.missed, traveller.seen.len()), (4, 15));
        let accepted = world.script.log().accepted[&address()].clone();
        assert_eq!(traveller.seen[0], accepted[0]);
        assert_eq!(traveller.seen[1..], accepted[5..]);
        assert_eq!(traveller.received, 19);
        depart(world, traveller).await.unwrap();
    });
}

#[test]
fn a_slow_client_loses_its_socket_and_not_its_session() {
    for websocket in [false, true] {
        run(async move || {
            let (world, mut traveller) = arrived(bounds(), websocket).await;
            traveller.link.as_ref().unwrap().faults.set_window(0);
            for _ in 0..30 {
                push(&world, &traveller, &format!("\"{}\"", "x".repeat(20_000)));
                settle().await;
            }
            assert_eq!(state(&world), [SessionState::Suspended]);
            traveller.forget_link();
            traveller.connect(&world);
            settle().await;
            traveller.read();
            settle().await;
            traveller.read();
            // The messages within the limit are there: three of 20,000 bytes, of 30.
            assert_eq!(
                (traveller.resumed, traveller.missed, traveller.seen.len()),
                (1, 27, 3)
            );
            depart(world, traveller).await.unwrap();
        });
    }
}

#[test]
fn the_application_may_refuse_and_a_used_token_is_none() {
    run(async || {
        let (world, mut traveller) = arrived(bounds(), false).await;
        let first = traveller.token.clone();
        traveller.link = None;
        traveller.connect(&world);
        settle().await;
        traveller.read();
        settle().await;
        assert_eq!(traveller.resumed, 1);
        let second = traveller.token.clone();
        assert_ne!(first, second);
        // The client has acknowledged: the first token is void.
        let mut thief =
            Traveller::new(SocketAddr::from(([10, 0, 0, 2], 1)), false, Dialect::Pomelo);
        thief.token = first;
        thief.connect(&world);
        settle().await;
        thief.read();
        assert_eq!(thief.restarted, ["unknown"]);
        traveller.link = None;
        traveller.version = "banned";
        traveller.connect(&world);
        settle().await;
        traveller.read();
        assert_eq!(traveller.restarted, ["denied"]);
        settle().await;
        let refused = world.script.sessions.resume_statistics().refused;
        assert!(refused.contains(&("denied", 1)) && refused.contains(&("unknown", 1)));
        // The session that was refused still waits, until its window ends.
        assert_eq!(world.script.sessions.session_count(), 3);
        thief.goodbye();
        traveller.goodbye();
        world.finish(Vec::new()).await.unwrap();
    });
}

/// Bytes immediately after the handshake are relayed too. (A client must not do that: if the answer is lost, its token is void.)
#[test]
fn what_follows_the_handshake_is_relayed() {
    for websocket in [false, true] {
        run(async move || {
            let (mut world, mut traveller) = arrived(bounds(), websocket).await;
            world = world.with_door();
            traveller.link = None;
            traveller.eager = true;
            traveller.connect(&world);
            settle().await;
            traveller.read();
            assert_eq!((traveller.working, traveller.resumed), (true, 1));
            traveller.ask("echo");
            arrive(&world, &mut traveller).await.unwrap();
            assert_eq!(traveller.connections, 2);
            depart(world, traveller).await.unwrap();
        });
    }
}

/// It sends more than the session's frontend takes, and then it is gone.
#[test]
fn a_client_that_is_gone_behind_a_full_relay_is_noticed() {
    for is_reset in [true, false] {
        run(async move || {
            let (mut world, mut traveller) = arrived(bounds(), false).await;
            world = world.with_door();
            traveller.forget_link();
            traveller.connect(&world);
            settle().await;
            traveller.read();
            settle().await;
            assert_eq!((traveller.working, traveller.resumed), (true, 1));
            traveller.ask("wait");
            let link = traveller.link.as_ref().unwrap();
            let filler = format!("\"{}\"", "x".repeat(100));
            for _ in 0..4000 {
                link.send_raw(&request(9, "a.b.echo", &filler));
            }
            settle().await;
            assert!(link.faults.unread_by_server() > 100_000);
            if is_reset {
                link.faults.reset();
            } else {
                link.socket.as_ref().unwrap().finish();
            }
            pass(2000).await;
            assert_eq!(state(&world), [SessionState::Suspended], "{is_reset}");
            end_all(&world);
            while world.release(0, Then::Answer) {}
            world.finish(Vec::new()).await.unwrap();
        });
    }
}

fn end_all(world: &World) {
    let mut all = Vec::new();
    let sessions = &world.script.sessions;
    sessions.for_each_session(|session| all.push(session.clone()));
    for session in all {
        session.close(CloseReason::Removed);
    }
}

/// A client that says everything at once, and in two parts, while a handler of its session runs: the second part does not overtake the first.
#[test]
fn what_was_read_with_the_handshake_comes_before_what_follows() {
    run(async || {
        let (world, mut traveller) = arrived(bounds(), false).await;
        traveller.ask("wait");
        settle().await;
        traveller.link = None;
        settle().await;
        assert_eq!(state(&world), [SessionState::Suspended]);
        traveller.eager = true;
        traveller.connect(&world);
        let link = traveller.link.as_ref().unwrap();
        link.faults.set_step(traveller.wrote);
        link.send_raw(&request(2, "a.b.echo", "{}"));
        settle().await;
        // The acknowledgement did not wait for the handler.
        assert_eq!(state(&world), [SessionState::Open]);
        assert_eq!(world.script.log().dispatched[&address()], [1]);
        assert!(world.release(0, Then::Answer));
        settle().await;
        assert_eq!(world.script.log().dispatched[&address()], [1, 2]);
        end_all(&world);
        world.finish(Vec::new()).await.unwrap();
    });
}

#[test]
fn old_clients_are_granted_nothing_and_close_with_their_socket() {
    run(async || {
        let mut world = World::resumable(bounds(), Some(Duration::from_secs(3)));
        for websocket in [false, true] {
            let client = world.joined(websocket).await;
            let answer = client.packages[0].body.clone();
            assert_eq!(&answer[..], b"{\"code\":200,\"sys\":{\"heartbeat\":3}}");
            client.faults.reset();
            settle().await;
            assert_eq!(state(&world), []);
        }
        world.finish(Vec::new()).await.unwrap();
    });
}

// ---- stories

struct Rng(u64);

impl Rng {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % n as u64).unwrap()
    }
}

/// Any number of cuts, at any byte, also while the client comes back; second sockets; late answers; sockets that take little.
async fn story(seed: u64, relayed: bool) -> Result<(), String> {
    let mut rng = Rng(seed);
    let websocket = rng.below(2) == 0;
    let dialect = [Dialect::Pomelo, Dialect::Pitaya][rng.below(2)];
    let beat = [Some(Duration::from_secs(3)), None][rng.below(2)];
    let mut world = World::resumable(bounds(), beat);
    if relayed {
        world = world.with_door();
    }
    let mut traveller = Traveller::new(address(), websocket, dialect);
    let mut pushes = 0;
    for _ in 0..80 {
        match rng.below(17) {
            0..4 if traveller.sent < 120 => {
                let method = ["echo", "echo", "wait", "pushes"][rng.below(4)];
                traveller.ask(method);
            }
            4..7 => {
                pushes += 1;
                push(
                    &world,
                    &traveller,
                    &format!(r#"{{"n":{pushes},"x":"{}"}}"#, "x".repeat(rng.below(120))),
                );
            }
            7..9 => {
                let waiting = world.script.log().gates.len();
                if waiting > 0 {
                    world.release(rng.below(waiting), Then::Answer);
                }
            }
            9 => {
                let cut = [Cut::Reset, Cut::Finish, Cut::Forget][rng.below(3)];
                traveller.fuse = Some((rng.below(60), cut));
            }
            10 => {
                if let Some(link) = &traveller.link {
                    link.faults.reset_after(rng.below(200));
                }
            }
            11 => traveller.forget_link(),
            12 => {
                // A second socket while the first one is still in its handshake.
                traveller.forget_link();
                traveller.connect(&world);
            }
            13 => traveller.version = ["1", "late"][rng.below(2)],
            14 => {
                if let Some(link) = &traveller.link {
                    link.faults.set_step([1, 7, 65_536][rng.below(3)]);
                }
            }
            15 if rng.below(2) == 0 => traveller.early = !traveller.early,
            // A drain: whatever the connection is at, it goes without a word.
            15 => {
                send_away(&world);
            }
            _ => pass([1, 60, 900][rng.below(3)]).await,
        }
        if rng.below(4) > 0 {
            settle().await;
        }
        if rng.below(3) > 0 {
            go_on(&mut traveller, &world);
        }
        if rng.below(6) == 0 {
            traveller.heartbeat();
        }
    }
    traveller.fuse = None;
    traveller.version = "1";
    // A last connection that nothing is wrong with.
    traveller.forget_link();
    arrive(&world, &mut traveller).await?;
    drop(std::mem::take(&mut traveller.old));
    // The hooks of a late handshake may still wait: then its session is there, before sessions are counted.
    pass(200).await;
    // Handshakes whose responses never arrived have left sessions that no client resumes.
    if world.script.sessions.session_count() == 1 {
        depart(world, traveller).await?;
    }
    Ok(())
}

#[test]
fn stories() {
    tell(false);
}

/// Every other connection is relayed by another frontend.
#[test]
fn stories_of_two_frontends() {
    tell(true);
}

/// Seeds that found a fault once. 16,450: the counts of an older connection, whose handshake came late, fitted when it claimed the session and no
/// longer when it received it; the session was closed.
const FOUND: [u64; 1] = [16_450];

fn tell(relayed: bool) {
    let number = |name: &str| std::env::var(name).ok().map(|n| n.parse::<u64>().unwrap());
    let seeds: Vec<u64> = match number("SEED") {
        Some(seed) => vec![seed],
        None => FOUND
            .into_iter()
            .chain(0..number("SEEDS").unwrap_or(100))
            .collect(),
    };
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let Some(&seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) else {
                        return;
                    };
                    let result = run(async move || story(seed, relayed).await);
                    assert_eq!(result, Ok(()), "SEED={seed}");
                }
            });
        }
    });
}
