//! Applies the decisions of the [detector](super::detector) to the routing of servers, and says when probes are due.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::calls::Target;
use super::detector::{Detector, Probed, Rules, Verdict};
use crate::{Members, ServerId};

/// The longest interval between checks for due probes.
const LONGEST_LOOK: Duration = Duration::from_secs(3600);

/// Which servers reply, as far as this server has seen.
pub(super) struct Health {
    detector: Mutex<Detector>,
    /// A server is doubted again after this time at the earliest.
    pause: Duration,
    members: Members,
    /// Times of the detector count from here.
    began: Instant,
    /// There is a new suspect, or a new doubt.
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
        self.detector.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often a server was suspected since the start.
    pub(super) fn suspected(&self) -> u64 {
        self.suspected.load(Ordering::Relaxed)
    }

    /// A call was not answered, although it had the time that servers have.
    pub(super) fn timed_out(&self, target: &Target) {
        target.in_doubt.store(true, Ordering::Relaxed);
        let now = self.began.elapsed();
        self.decide(&target.info.id, |detector, id| detector.timed_out(id, now));
    }

    /// A call waits for longer than most calls may, and goes on waiting: the server is asked whether it is only slow.
    pub(super) fn doubt(&self, target: &Target) {
        let now = self.began.elapsed();
        // A server whose calls all take long is asked now and then, not for each of them.
        if target.may_doubt(now, self.pause) {
            self.probe_soon(target);
        }
    }

    /// The server is asked whether it replies.
    fn probe_soon(&self, target: &Target) {
        target.in_doubt.store(true, Ordering::Relaxed);
        if self.detector().doubt(&target.info.id) {
            self.changed.notify_one();
        }
    }

    /// NATS reports that the server has no subscriber.
    pub(super) fn nobody_there(&self, target: &Target) {
        target.in_doubt.store(true, Ordering::Relaxed);
        let now = self.began.elapsed();
        self.decide(&target.info.id, |detector, id| {
            detector.nobody_there(id, now)
        });
    }

    /// A call was answered. Costs one look at a flag unless the server failed to answer before.
    pub(super) fn answered(&self, target: &Target) {
        if target.in_doubt.load(Ordering::Relaxed) && target.in_doubt.swap(false, Ordering::Relaxed)
        {
            self.decide(&target.info.id, Detector::answered);
        }
    }

    /// What was seen of a server does not count any more. `called`: calls are on their way to it, so it is asked whether it is there.
    pub(super) fn forget(&self, server: &ServerId, called: Option<&Target>) {
        self.decide(server, Detector::forget);
        if let Some(target) = called {
            self.probe_soon(target);
        }
    }

    fn decide(
        &self,
        server: &ServerId,
        ask: impl FnOnce(&mut Detector, &ServerId) -> Option<Verdict>,
    ) -> Option<Verdict> {
        // Told under the lock, so that two verdicts on one server are told in their order.
        let mut detector = self.detector();
        let verdict = ask(&mut detector, server);
        if let Some(verdict) = verdict {
            self.tell(server, verdict);
        }
        verdict
    }

    fn tell(&self, server: &ServerId, verdict: Verdict) {
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
            // It stays a suspect.
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
