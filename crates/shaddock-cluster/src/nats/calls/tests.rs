//! Servers with calls that take long, while the clock of the test is paused.

use super::*;
use crate::nats::detector::Rules;
use crate::nats::health::probe_with;
use crate::{Members, ServerInfo};
use std::cell::Cell;

fn seconds(n: f32) -> Duration {
    Duration::from_secs_f32(n)
}

/// A server with calls that may take 30 s each. `answers`: how long it takes to answer a probe.
struct World {
    members: Members,
    health: Health,
    target: Target,
    probes: Cell<usize>,
    answers: Duration,
}

impl World {
    fn new(answers: Duration) -> Self {
        let members = Members::new();
        let info = Arc::new(ServerInfo::new("chat-1", "chat", false).unwrap());
        members.add(Arc::clone(&info));
        let rules = Rules {
            timeouts: 3,
            pause: seconds(1.0),
        };
        Self {
            health: Health::new(members.clone(), rules),
            members,
            target: Target::new(info, 1024, 0),
            probes: Cell::new(0),
            answers,
        }
    }

    fn is_suspect(&self) -> bool {
        self.members.is_suspect("chat-1")
    }

    async fn probe(&self, server: ServerId) -> (ServerId, Probed) {
        self.probes.set(self.probes.get() + 1);
        let wait = tokio::time::timeout(seconds(2.0), pass(self.answers));
        let replied = wait.await.is_ok();
        (
            server,
            if replied {
                Probed::Replied
            } else {
                Probed::Silent
            },
        )
    }

    /// A call that waits for so long, and gets its answer then if that is not too late.
    async fn call(&self, answered_after: Duration) -> bool {
        let start = tokio::time::Instant::now();
        let (sender, receiver) = oneshot::channel();
        let answer = async {
            pass(answered_after).await;
            self.health.replied(&self.target);
            let _ = sender.send(());
            std::future::pending::<()>().await;
        };
        let slow = || self.health.call_is_slow(&self.target);
        let (patience, until) = (start + seconds(5.0), start + seconds(30.0));
        tokio::select! {
            answered = awaited(receiver, Some(patience), until, slow) => answered.is_some(),
            () = answer => false,
        }
    }

    /// Runs a story while servers are probed.
    async fn run(&self, story: impl Future<Output = ()>) {
        tokio::select! {
            () = probe_with(&self.health, |server| self.probe(server), |_| {}) => {}
            () = story => {}
        }
    }
}

const NEVER: Duration = Duration::from_secs(3600);

/// Lets so much of the test's time pass: the clock is paused.
async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

#[tokio::test(start_paused = true)]
async fn a_frozen_server_is_suspected_long_before_its_calls_end() {
    let world = World::new(NEVER);
    let look = async {
        pass(seconds(4.9)).await;
        assert_eq!((world.probes.get(), world.is_suspect()), (0, false));
        pass(seconds(0.2)).await;
        assert_eq!((world.probes.get(), world.is_suspect()), (1, false));
        pass(seconds(2.0)).await;
        assert!(world.is_suspect(), "7 s after the first call");
    };
    let call = async { assert!(!world.call(NEVER).await) };
    world
        .run(async {
            tokio::join!(call, look);
        })
        .await;
    assert_eq!(world.health.suspected(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_slow_server_is_asked_now_and_then_and_never_suspected() {
    let world = World::new(seconds(0.1));
    let start = tokio::time::Instant::now();
    // A call begins every tenth of a second, and each takes 20 s.
    let calls = (0..600_u16).map(|n| {
        let world = &world;
        async move {
            pass(Duration::from_millis(100) * u32::from(n)).await;
            assert!(world.call(seconds(20.0)).await);
            assert!(!world.is_suspect());
        }
    });
    let all = async {
        futures_util::future::join_all(calls).await;
    };
    world.run(all).await;
    assert_eq!(world.health.suspected(), 0);
    let took = usize::try_from(start.elapsed().as_secs()).unwrap();
    let probes = world.probes.get();
    assert!(
        (took / 2..=took).contains(&probes),
        "{probes} probes in {took} s"
    );
}

#[tokio::test(start_paused = true)]
async fn calls_that_are_answered_soon_cause_no_early_probe() {
    let world = World::new(NEVER);
    let calls = async {
        for _ in 0..10 {
            assert!(world.call(seconds(4.9)).await);
        }
    };
    world.run(calls).await;
    assert_eq!(world.probes.get(), 0);
}
