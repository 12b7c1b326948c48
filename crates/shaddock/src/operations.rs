//! What an operator sees of a process: its phase, its servers, their sessions. Shared by the admin server, the metrics and the
//! drain.

mod phase;

use std::{
    fmt,
    sync::{Arc, OnceLock, Weak},
    time::{Duration, Instant},
};

use parking_lot::RwLock;
use tokio::sync::watch;

#[cfg(feature = "admin")]
use crate::admin::Guard;
use crate::{
    app::AppHandle,
    config::{Config, DrainSettings, Time},
    logging::LogHandle,
    resume::relay::SessionSide,
    series::SeriesOfAll,
};

pub use self::phase::Phase;

/// How long sessions may go on in a drain that an operator asks for, if neither they nor `drain.linger` say.
pub(crate) const LINGER: Time = Time::secs(600);
/// The longest that they may say, as in the configuration.
pub(crate) const LONGEST_LINGER: Time = Time::secs(86_400);

/// What a process that is to drain was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct DrainOrder {
    /// How long its sessions go on; `None`: as configured.
    linger: Option<Duration>,
    /// When they end, if that was said after the drain had been asked for.
    until: Option<Instant>,
}

/// The plan of a drain at the time of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DrainPlan {
    /// Time for which sessions continue whose clients can resume elsewhere. Zero: there is no other frontend, or the request said so.
    pub(crate) linger: Duration,
    /// After this time the process has ended.
    pub(crate) ends_within: Duration,
}

/// A handle on the running process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Operations(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    started: Instant,
    phase: watch::Sender<Phase>,
    drain: watch::Sender<Option<DrainOrder>>,
    /// When a drain that is under way ends at the latest.
    drain_end: watch::Sender<Option<Instant>>,
    error: OnceLock<String>,
    apps: RwLock<Vec<AppHandle>>,
    log: OnceLock<LogHandle>,
    #[cfg(feature = "admin")]
    guard: Guard,
    /// The last minutes in numbers.
    series: SeriesOfAll,
    /// The configuration at the start, and the newest.
    config: RwLock<Option<(Config, Config)>>,
    admin_counters: OnceLock<AdminCounters>,
}

impl Default for Operations {
    fn default() -> Self {
        Self(Arc::new(Inner {
            started: Instant::now(),
            phase: watch::Sender::new(Phase::Starting),
            drain: watch::Sender::new(None),
            drain_end: watch::Sender::new(None),
            error: OnceLock::new(),
            apps: RwLock::default(),
            log: OnceLock::new(),
            #[cfg(feature = "admin")]
            guard: Guard::default(),
            series: SeriesOfAll::default(),
            config: RwLock::default(),
            admin_counters: OnceLock::new(),
        }))
    }
}

impl Operations {
    /// The process of a server, if a launcher manages it.
    pub(crate) fn of(app: &AppHandle) -> Option<Self> {
        app.get::<WeakOperations>()?.upgrade()
    }

    /// A process that starts, with no servers yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// What the process is doing.
    pub fn phase(&self) -> Phase {
        *self.0.phase.borrow()
    }

    /// Why clients had better not be sent here now; `None` while they may.
    pub fn not_ready(&self) -> Option<String> {
        let phase = self.phase();
        if phase != Phase::Running {
            return Some(phase.name().to_owned());
        }
        let apps = self.apps();
        if !apps.iter().all(AppHandle::is_serving) {
            return Some("a listener starts again after a fault".to_owned());
        }
        apps.iter().find_map(|app| app.membership().ok()?.trouble())
    }

    /// How long ago the process began.
    pub fn uptime(&self) -> Duration {
        self.0.started.elapsed()
    }

    /// The servers of the process, in the order in which they were added.
    pub fn apps(&self) -> Vec<AppHandle> {
        self.0.apps.read().clone()
    }

    /// The servers run from now on, and can be drained by operators of the cluster.
    pub fn running(&self, apps: &[AppHandle]) {
        for app in apps {
            // Weak: the process holds its servers.
            app.set(WeakOperations(Arc::downgrade(&self.0)));
        }
        *self.0.apps.write() = apps.to_vec();
        self.set_phase(Phase::Running);
    }

    /// Asks the process to drain and to end, as SIGTERM does: sessions go on for `drain.linger`. Returns at once; a second call changes nothing.
    pub fn request_drain(&self) {
        self.order(None);
    }

    /// As [`request_drain`](Self::request_drain), but sessions whose clients can come back through other frontends go on for `linger`. In a
    /// drain that was asked for before, they go on for so long from now, whatever was said first; sessions that are closed already stay closed.
    pub fn request_drain_for(&self, linger: Duration) {
        self.order(Some(linger));
    }

    fn order(&self, linger: Option<Duration>) {
        let first = DrainOrder {
            linger,
            until: None,
        };
        self.0.drain.send_modify(|order| match order {
            None => *order = Some(first),
            Some(known) => {
                if let Some(linger) = linger {
                    known.until = Instant::now().checked_add(linger);
                }
            }
        });
    }

    /// An operator asks for a drain. Who does not say how long sessions may go on gets `drain.linger`, or [`LINGER`] if that is not set; a drain
    /// that is under way goes on as it is.
    pub(crate) fn drain_by_operator(&self, linger: Option<Time>) -> DrainPlan {
        let settings = self.drain_settings();
        let under_way = self.phase() == Phase::Draining || self.0.drain.borrow().is_some();
        let chosen = match linger {
            Some(linger) => linger.0,
            None if settings.linger.0.is_zero() => LINGER.0,
            None => settings.linger.0,
        };
        if !under_way || linger.is_some() {
            self.request_drain_for(chosen);
        }
        if let (true, None, Some(end)) = (under_way, linger, self.drain_end()) {
            let ends_within = end.saturating_duration_since(Instant::now());
            return DrainPlan {
                linger: ends_within.saturating_sub(settings.deadline.0),
                ends_within,
            };
        }
        let apps = self.apps();
        let goes_on = apps
            .iter()
            .any(|app| SessionSide::of(app).is_relayed_by_others(&apps));
        let linger = if goes_on { chosen } else { Duration::ZERO };
        DrainPlan {
            linger,
            ends_within: drain_deadline(&settings, linger) + linger,
        }
    }

    /// A signal during a drain that an operator asked for: from here on it is one of `linger`. False: the drain is that of a signal already.
    pub(crate) fn signal_in_drain(&self, linger: Duration) -> bool {
        self.0.drain.send_if_modified(|order| match order {
            Some(order) if order.linger.is_some() => {
                order.linger = None;
                order.until = Instant::now().checked_add(linger);
                true
            }
            _ => false,
        })
    }

    /// How long the sessions of a drain go on that goes by these settings.
    pub(crate) fn drain_linger(&self, settings: &DrainSettings) -> Duration {
        let order = *self.0.drain.borrow();
        let said = order.and_then(|order| order.linger);
        said.unwrap_or(settings.linger.0)
    }

    /// When they end, if that was said after the drain had been asked for.
    pub(crate) fn drain_linger_until(&self) -> Option<Instant> {
        self.0.drain.borrow().and_then(|order| order.until)
    }

    fn drain_settings(&self) -> DrainSettings {
        let newest = self.config().map(|(_, newest)| newest);
        newest.unwrap_or_default().drain
    }

    pub(crate) fn set_drain_end(&self, end: Instant) {
        self.0.drain_end.send_replace(Some(end));
    }

    /// When the drain that is under way has ended, at the latest.
    pub(crate) fn drain_end(&self) -> Option<Instant> {
        *self.0.drain_end.borrow()
    }

    /// Asks the process to drain and to end with this error. Returns at once; the first error counts.
    pub fn request_end(&self, error: String) {
        // The first one to say why.
        let _ = self.0.error.set(error);
        self.request_drain();
    }

    /// Why the process ends, if that is an error.
    pub fn error(&self) -> Option<&str> {
        self.0.error.get().map(String::as_str)
    }

    /// Completes when a drain is requested. Cancel-safe.
    pub async fn drain_requested(&self) {
        // The sender lives as long as `self`, so waiting cannot fail.
        let _ = self.0.drain.subscribe().wait_for(Option::is_some).await;
    }

    /// The log of the process, whose dropped lines are among the metrics. Set once.
    pub(crate) fn set_log(&self, log: LogHandle) {
        let _ = self.0.log.set(log);
    }

    /// Lines of the log that were dropped; `None` if the program logs in a way of its own.
    pub(crate) fn dropped_log_lines(&self) -> Option<u64> {
        self.0.log.get().map(LogHandle::dropped_lines)
    }

    /// Who may call the admin server of the process.
    #[cfg(feature = "admin")]
    pub(crate) fn guard(&self) -> &Guard {
        &self.0.guard
    }

    /// Samples of the process, as long as [`keep_samples`](Self::keep_samples) runs.
    pub(crate) fn series(&self) -> &SeriesOfAll {
        &self.0.series
    }

    /// Takes samples until it is dropped; where several do, one at a time.
    pub(crate) async fn keep_samples(&self) {
        self.0.series.keep(|| self.apps()).await;
    }

    /// The configuration that is in force, for operators to read. The first one is that of the start.
    pub(crate) fn set_config(&self, newest: &Config) {
        let mut config = self.0.config.write();
        match &mut *config {
            Some((_, known)) => newest.clone_into(known),
            none => *none = Some((newest.clone(), newest.clone())),
        }
    }

    /// The configuration at the start, and the newest; `None` where no [`Launcher`](crate::launch::Launcher) runs the process.
    pub(crate) fn config(&self) -> Option<(Config, Config)> {
        self.0.config.read().clone()
    }

    /// What the admin server does is among the metrics. Set once: a process has one admin server.
    #[cfg(feature = "admin")]
    pub(crate) fn set_admin_counters(&self, counters: AdminCounters) {
        let _ = self.0.admin_counters.set(counters);
    }

    pub(crate) fn admin_counters(&self) -> Option<&AdminCounters> {
        self.0.admin_counters.get()
    }

    pub(crate) fn set_phase(&self, phase: Phase) {
        self.0.phase.send_replace(phase);
    }

    /// Lets go of the servers, so that the last handle on them can be dropped.
    pub(crate) fn forget_apps(&self) {
        self.0.apps.write().clear();
    }
}

/// The time of all that a drain does but to let sessions go on. With that, connections are closed in two rounds of waves.
pub(crate) fn drain_deadline(settings: &DrainSettings, linger: Duration) -> Duration {
    let rounds = if linger.is_zero() { 1 } else { 2 };
    let waves = settings.delay.0 + settings.spread.0 * rounds;
    settings.deadline.0.max(waves + Duration::from_secs(1))
}

/// Reads a counter.
type Count = Box<dyn Fn() -> u64 + Send + Sync>;

/// Counters of the admin server, for the metrics.
pub(crate) struct AdminCounters {
    /// The number of running jobs.
    pub(crate) jobs: Count,
    /// Lines that are missing in the audit log's file.
    pub(crate) lost_lines: Count,
}

impl fmt::Debug for AdminCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminCounters").finish_non_exhaustive()
    }
}

/// How a server finds its process, for as long as that is there.
#[derive(Debug, Clone)]
pub(crate) struct WeakOperations(Weak<Inner>);

impl WeakOperations {
    pub(crate) fn upgrade(&self) -> Option<Operations> {
        self.0.upgrade().map(Operations)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_drain_is_remembered() {
        let operations = Operations::new();
        assert_eq!(operations.phase(), Phase::Starting);
        operations.running(&[]);
        assert_eq!(operations.phase().name(), "running");
        operations.request_drain();
        operations.request_drain();
        operations.drain_requested().await;
    }
    #[test]
    fn the_last_drain_request_decides_when_sessions_end() {
        let operations = Operations::new();
        let settings = DrainSettings::default();
        let (short, long) = (Duration::from_secs(5), Duration::from_secs(500));
        operations.request_drain_for(long);
        assert_eq!(operations.drain_linger(&settings), long);
        assert_eq!(operations.drain_linger_until(), None);
        // Nothing new, and then a shorter time.
        operations.request_drain();
        assert_eq!(operations.drain_linger_until(), None);
        let before = Instant::now();
        operations.request_drain_for(short);
        let until = operations.drain_linger_until().unwrap();
        assert!(until >= before + short && until <= Instant::now() + short);
        // A signal counts as the first one, and the next one as the second.
        assert!(operations.signal_in_drain(Duration::ZERO));
        assert!(operations.drain_linger_until().unwrap() <= Instant::now());
        assert!(!operations.signal_in_drain(Duration::ZERO));
    }

    #[test]
    fn a_drain_of_a_signal_is_ended_by_the_next_one() {
        let operations = Operations::new();
        assert!(!operations.signal_in_drain(Duration::ZERO));
        operations.request_drain();
        assert!(!operations.signal_in_drain(Duration::ZERO));
    }

    #[test]
    fn there_is_time_for_all_waves() {
        let settings = DrainSettings {
            deadline: Time::secs(30),
            spread: Time::secs(20),
            ..DrainSettings::default()
        };
        assert_eq!(
            drain_deadline(&settings, Duration::ZERO),
            Duration::from_secs(30)
        );
        assert_eq!(drain_deadline(&settings, LINGER.0), Duration::from_secs(41));
    }
}
