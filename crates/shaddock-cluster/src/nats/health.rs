//! Applies the decisions of the [detector](super::detector) to the routing of servers, and says when probes are due.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::calls::Target;
use super::detector::{Detector, Probed, Rules, Verdict};
use crate::{Members, ServerId};
use parking_lot::{Mutex, MutexGuard};

/// The longest interval between checks for due probes.
const LONGEST_LOOK: Duration = Duration::from_secs(3600);

/// Which servers reply, as far as this server has seen.
pub(super) struct Health {
    detector: Mutex<Detector>,
    /// The shortest time between two early probes of a server.
    pause: Duration,
    members: Members,
    /// Times of the detector count from here.
    began: Instant,
    /// A probe is due earlier than before.
    changed: Notify,
    /// How often a server was suspected.
    suspected: AtomicU64,
}

impl Health {
    pub(super) fn new(members: Members, rules: Rules) -> Self {
        Self {
            detector: Mutex::new(Detector::new(rules)),
            pause: rules.pause,
            members,
            began: Instant::now(),
            changed: Notify::new(),
            suspected: AtomicU64::new(0),
        }
    }

    fn detector(&self) -> MutexGuard<'_, Detector> {
        self.detector.lock()
    }

    /// How often a server was suspected since the start.
    pub(super) fn suspected(&self) -> u64 {
        self.suspected.load(Ordering::Relaxed)
    }

    /// A call with a fair timeout was not answered in time.
    pub(super) fn timed_out(&self, target: &Target) {
        target.is_silent.store(true, Ordering::Relaxed);
        let now = self.began.elapsed();
        self.decide(&target.info.id, |detector, id| detector.timed_out(id, now));
    }

    /// A call is pending for longer than most timeouts: the server gets an early probe.
    pub(super) fn call_is_slow(&self, target: &Target) {
        let now = self.began.elapsed();
        // A server whose calls all take long is probed from time to time, and not for each of them.
        if target.may_probe_early(now, self.pause) {
            self.probe_soon(target);
        }
    }

    /// Probes the server as soon as possible.
    fn probe_soon(&self, target: &Target) {
        target.is_silent.store(true, Ordering::Relaxed);
        if self.detector().call_is_slow(&target.info.id) {
            self.changed.notify_one();
        }
    }

    /// NATS reports that the server has no subscriber.
    pub(super) fn no_subscriber(&self, target: &Target) {
        target.is_silent.store(true, Ordering::Relaxed);
        let now = self.began.elapsed();
        self.decide(&target.info.id, |detector, id| {
            detector.no_subscriber(id, now)
        });
    }

    /// A call was answered. Reads one flag unless the server failed to reply before.
    pub(super) fn replied(&self, target: &Target) {
        if target.is_silent.load(Ordering::Relaxed)
            && target.is_silent.swap(false, Ordering::Relaxed)
        {
            self.decide(&target.info.id, Detector::replied);
        }
    }

    /// Forgets the history of a server. `called` is given if calls are on their way to it; then it is probed.
    pub(super) fn forget(&self, server: &ServerId, called: Option<&Target>) {
        self.decide(server, Detector::forget);
        if let Some(target) = called {
            self.probe_soon(target);
        }
    }

    fn decide(
        &self,
        server: &ServerId,
        input: impl FnOnce(&mut Detector, &ServerId) -> Option<Verdict>,
    ) -> Option<Verdict> {
        // Applied under the lock, so that two verdicts on one server are applied in their order.
        let mut detector = self.detector();
        let verdict = input(&mut detector, server);
        if let Some(verdict) = verdict {
            self.apply(server, verdict);
        }
        verdict
    }

    fn apply(&self, server: &ServerId, verdict: Verdict) {
        match verdict {
            Verdict::Suspected => {
                self.members.suspect(server, true);
                tracing::warn!(%server, "a server does not reply: it is suspected until it does");
                self.suspected.fetch_add(1, Ordering::Relaxed);
                self.changed.notify_one();
            }
            Verdict::Cleared => {
                self.members.suspect(server, false);
                tracing::info!(%server, "a suspected server replies again");
            }
            // The server stays a suspect.
            Verdict::Absent => {}
        }
    }
}

/// Probes servers with `probe` when they are due, for ever. Each has one probe at a time. `is_absent` is called for a server that has had no
/// subscriber twice.
pub(super) async fn probe_with<F>(
    health: &Health,
    probe: impl Fn(ServerId) -> F,
    is_absent: impl Fn(&ServerId),
) where
    F: Future<Output = (ServerId, Probed)>,
{
    let mut asked = FuturesUnordered::new();
    loop {
        let next = {
            let mut detector = health.detector();
            let now = health.began.elapsed();
            for server in detector.due(now) {
                asked.push(probe(server));
            }
            detector
                .next_probe()
                .map_or(LONGEST_LOOK, |next| next.saturating_sub(now))
        };
        tokio::select! {
            () = tokio::time::sleep(next) => {}
            () = health.changed.notified() => {}
            Some((server, probed)) = asked.next(), if !asked.is_empty() => {
                let now = health.began.elapsed();
                let verdict = health.decide(&server, |detector, id| detector.probed(id, probed, now));
                if verdict == Some(Verdict::Absent) {
                    is_absent(&server);
                }
            }
        }
    }
}
