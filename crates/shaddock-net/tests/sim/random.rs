//! Stories by seed: clients come, ask, stall, fail and leave; handlers wait, push, panic and kick; after each step everything that must
//! hold is checked, and at the end nothing may be left.

use std::{
    fmt::Write as _,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use shaddock_core::{CloseReason, Uid};
use shaddock_net::clock::hold_up;
use tokio::time::Instant;

use crate::{
    client::Client,
    world::{Then, World, pass, run, settle},
};

/// SplitMix64: small, and the same everywhere.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).unwrap()
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

/// A client, and what it may complain of.
struct Player {
    client: Client,
    /// It reads all that comes, at every step.
    reads: bool,
    /// Nothing was done that could end its connection: it must live, and every request of its must be answered.
    healthy: bool,
    last_beat: Instant,
}

struct Story {
    rng: Rng,
    world: World,
    players: Vec<Player>,
    told: String,
    pushes: usize,
}

const METHODS: [&str; 8] = [
    "echo", "echo", "echo", "big", "wait", "wait", "pushes", "echo",
];

impl Story {
    fn new(seed: u64) -> Self {
        let mut rng = Rng(seed);
        let (few, tiny) = (rng.one_in(2), rng.one_in(3));
        let world = World::new(|config, _| {
            if few {
                config.limits.waiting_messages = 3;
            }
            if tiny {
                config.limits.waiting_bytes = 1024;
            }
        });
        Self {
            rng,
            world,
            players: Vec::new(),
            told: String::new(),
            pushes: 0,
        }
    }

    fn tell(&mut self, line: std::fmt::Arguments<'_>) {
        let _ = writeln!(self.told, "  {line}");
    }

    fn someone(&mut self) -> Option<usize> {
        (!self.players.is_empty()).then(|| self.rng.below(self.players.len()))
    }

    async fn step(&mut self) {
        match self.rng.below(24) {
            0..3 => self.come(),
            3..10 => self.ask(),
            10..12 => self.release(),
            12..14 => self.push(),
            14 => self.stall(),
            15 => self.bother(),
            16 => self.fail(),
            17 => self.leave(),
            18 => self.kick(),
            19 => self.bind(),
            20 => self.misbehave(),
            21 => self.hold(),
            _ => {
                let ms = self.rng.pick(&[10, 100, 1000, 1900]);
                self.tell(format_args!("{ms} ms pass"));
                self.beat();
                pass(ms).await;
            }
        }
        // Sometimes the next thing happens before the server has done this one.
        if !self.rng.one_in(4) {
            settle().await;
            self.read();
            if self.rng.one_in(2) {
                settle().await;
                self.read();
            }
        }
        self.beat();
    }

    fn come(&mut self) {
        if self.players.len() > 8 {
            return;
        }
        let websocket = self.rng.one_in(2);
        let mut client = self.world.connect(websocket);
        let version = self
            .rng
            .pick(&["1", "1", "1", "late", "long", "no", "draining"]);
        if self.rng.one_in(3) {
            client.faults.set_step(self.rng.pick(&[5, 50, 1000]));
        }
        client.join(version);
        self.tell(format_args!(
            "{} comes ({version}, websocket: {websocket})",
            client.address
        ));
        self.players.push(Player {
            client,
            reads: true,
            healthy: !matches!(version, "no" | "draining"),
            last_beat: Instant::now(),
        });
    }

    fn ask(&mut self) {
        let Some(who) = self.someone() else { return };
        let player = &mut self.players[who];
        // Before the session there is no client to respond to.
        if player.client.packages.is_empty() {
            return;
        }
        let count = self.rng.pick(&[1, 1, 2, 5, 12, 40]);
        let mut bytes = Vec::new();
        let mut methods = Vec::new();
        for _ in 0..count {
            let method = match self.rng.below(60) {
                0 => "kick",
                1 => "panic",
                _ => self.rng.pick(&METHODS),
            };
            player.healthy &= !matches!(method, "kick" | "panic");
            methods.push(method);
            let package = player.client.request(method);
            player.client.asked.push(u64::from(player.client.next_id));
            if self.rng.one_in(2) {
                bytes.extend(player.client.framed(&package));
            } else {
                player.client.send_raw(&bytes);
                bytes.clear();
                player.client.send(&package);
            }
        }
        player.client.send_raw(&bytes);
        let address = player.client.address;
        self.tell(format_args!("{address} asks {methods:?}"));
    }

    fn release(&mut self) {
        let waiting = self.world.script.log().gates.len();
        if waiting == 0 {
            return;
        }
        let n = self.rng.below(waiting);
        let address = self.world.script.log().gates[n].client;
        let then = if self.rng.one_in(12) {
            Then::Panic
        } else {
            Then::Answer
        };
        if then == Then::Panic {
            for player in &mut self.players {
                player.healthy &= player.client.address != address;
            }
        }
        self.tell(format_args!("a handler of {address} goes on: {then:?}"));
        self.world.release(n, then);
    }

    /// To all clients, as a broadcast does.
    fn push(&mut self) {
        let size = self.rng.pick(&[1, 60, 100, 5000, 40_000]);
        self.pushes += 1;
        let body = format!(r#"{{"n":{},"x":"{}"}}"#, self.pushes, "x".repeat(size));
        let mut sessions = Vec::new();
        self.world
            .script
            .sessions
            .for_each_session(|s| sessions.push(s.clone()));
        self.tell(format_args!("a push of {size} to {}", sessions.len()));
        // More at once than may wait for a socket that is full: it was not offered them yet.
        let times = if self.rng.one_in(3) { 10 } else { 1 };
        for session in sessions {
            // Beyond the bound of a socket that is full at the moment, the verdict would be right.
            let stats = session.outbox().stats();
            let waiting = stats.queued_bytes + stats.in_flight_bytes;
            if waiting > 0 && waiting + times * body.len() > 256 * 1024 {
                continue;
            }
            for _ in 0..times {
                let _ = self.world.script.push(&session, &body);
            }
        }
    }

    fn stall(&mut self) {
        let Some(who) = self.someone() else { return };
        let window = self.rng.pick(&[0, 100, 5000]);
        let player = &mut self.players[who];
        (player.reads, player.healthy) = (false, false);
        player.client.faults.set_window(window);
        let address = player.client.address;
        self.tell(format_args!(
            "{address} does not read any more, window {window}"
        ));
    }

    fn bother(&mut self) {
        let Some(who) = self.someone() else { return };
        let player = &mut self.players[who];
        if self.rng.one_in(2) {
            player.client.faults.wake_spuriously();
        } else {
            player
                .client
                .faults
                .set_step(self.rng.pick(&[20, 100, 65_536]));
            // Small steps make a small network, not a client that does not read.
        }
    }

    fn fail(&mut self) {
        let Some(who) = self.someone() else { return };
        let after = self.rng.pick(&[0, 1, 5, 70, 300, 5000]);
        let player = &mut self.players[who];
        player.healthy = false;
        match self.rng.below(3) {
            0 => player.client.faults.reset(),
            1 => player.client.faults.reset_after(after),
            _ => {
                if let Some(socket) = &player.client.socket {
                    socket.finish();
                }
            }
        }
        let address = player.client.address;
        self.tell(format_args!(
            "{address} fails (reset, after {after}, or half a close)"
        ));
    }

    fn leave(&mut self) {
        let Some(who) = self.someone() else { return };
        let player = &mut self.players[who];
        player.healthy = false;
        player.client.socket = None;
        let address = player.client.address;
        self.tell(format_args!("{address} leaves"));
    }

    fn kick(&mut self) {
        let Some(who) = self.someone() else { return };
        let Some(session) = self.world.session(&self.players[who].client) else {
            return;
        };
        self.players[who].healthy = false;
        let reason = self.rng.pick(&[0, 1, 2]);
        let reason = [
            CloseReason::kicked("go"),
            CloseReason::Draining,
            CloseReason::HeartbeatTimeout,
        ][reason]
            .clone();
        let address = self.players[who].client.address;
        self.tell(format_args!("{address} is closed: {reason}"));
        session.close(reason);
    }

    fn bind(&mut self) {
        let Some(who) = self.someone() else { return };
        if let Some(session) = self.world.session(&self.players[who].client) {
            let _ = session.bind(Uid::new(format!("user-{}", self.rng.below(4))).unwrap());
        }
    }

    fn misbehave(&mut self) {
        let Some(who) = self.someone() else { return };
        let bytes: &[u8] = self.rng.pick(&[
            &b"\x09\x00\x00\x00"[..],
            b"\xff\xff\xff\xff\xff",
            b"\x05\x00\x00\x00",
            b"\x04\x00\x00",
            b"\x00",
        ]);
        let player = &mut self.players[who];
        player.healthy = false;
        player.client.send_raw(bytes);
        let address = player.client.address;
        self.tell(format_args!("{address} sends {bytes:?}"));
    }

    /// Something blocks the worker, while clients go on.
    fn hold(&mut self) {
        let ms = self.rng.pick(&[300, 2500, 9000]);
        self.tell(format_args!("the worker is held up for {ms} ms"));
        for player in &mut self.players {
            player.client.heartbeat();
            player.last_beat = Instant::now();
        }
        hold_up(Duration::from_millis(ms));
    }

    fn beat(&mut self) {
        for player in &mut self.players {
            if player.last_beat.elapsed() >= Duration::from_millis(1500)
                && !player.client.packages.is_empty()
            {
                player.last_beat = Instant::now();
                player.client.heartbeat();
            }
        }
    }

    fn read(&mut self) {
        for player in &mut self.players {
            if player.reads {
                player.client.read();
            }
        }
    }

    fn check(&mut self) -> Result<(), String> {
        for player in &self.players {
            let closed = self.world.closed(&player.client);
            if player.healthy && !closed.is_empty() {
                return Err(format!(
                    "{} did nothing wrong: {closed:?}",
                    player.client.address
                ));
            }
            if player.healthy && player.client.ended {
                return Err(format!(
                    "{} did nothing wrong and has no connection",
                    player.client.address
                ));
            }
            let slow = closed.contains(&CloseReason::SlowClient);
            if slow && player.reads {
                return Err(format!("{} reads, and is slow", player.client.address));
            }
        }
        for player in &mut self.players {
            self.world.check(&mut player.client)?;
        }
        Ok(())
    }

    /// Every healthy client receives everything.
    async fn end(mut self) -> Result<(), (String, String)> {
        for _ in 0..200 {
            settle().await;
            self.read();
            self.beat();
            if !self.world.release(0, Then::Answer) {
                break;
            }
        }
        for player in &mut self.players {
            if player.healthy {
                player.client.faults.set_step(usize::MAX);
            }
        }
        for _ in 0..50 {
            pass(20).await;
            self.read();
            while self.world.release(0, Then::Answer) {}
        }
        let mut result = self.check();
        for player in &self.players {
            if player.healthy && player.client.answers() != player.client.asked {
                let Client { address, asked, .. } = &player.client;
                let got = player.client.answers();
                result = result.and(Err(format!("{address} asked {asked:?} and got {got:?}")));
            }
        }
        let clients = self
            .players
            .into_iter()
            .map(|player| player.client)
            .collect();
        let result = match result {
            Ok(()) => self.world.finish(clients).await,
            error => error,
        };
        result.map_err(|error| (error, self.told))
    }
}

async fn play(seed: u64, steps: usize) -> Result<(), (String, String)> {
    let mut story = Story::new(seed);
    for _ in 0..steps {
        story.step().await;
        if let Err(error) = story.check() {
            return Err((error, story.told));
        }
    }
    story.end().await
}

#[test]
fn seeds() {
    let number = |name: &str| std::env::var(name).ok().map(|n| n.parse::<u64>().unwrap());
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let text = panic.payload_as_str().unwrap_or_default();
        if !text.starts_with("expected") {
            quiet(panic);
        }
    }));
    let seeds = match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SEEDS").unwrap_or(1000),
    };
    let next = &AtomicU64::new(seeds.start);
    let end = seeds.end;
    let failed = std::thread::scope(|scope| {
        let threads = [(); 2].map(|()| {
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return None;
                    }
                    if let Err((error, story)) = run(async move || play(seed, 100).await) {
                        next.store(end, Ordering::Relaxed);
                        return Some((seed, error, story));
                    }
                }
            })
        });
        threads
            .into_iter()
            .find_map(|thread| thread.join().unwrap())
    });
    if let Some((seed, error, story)) = failed {
        let shown = number("SEED").map_or("", |_| story.as_str());
        panic!(
            "{error}\n{shown}\nagain, with its story: SEED={seed} cargo test -p shaddock-net --all-features --test sim seeds"
        );
    }
}
