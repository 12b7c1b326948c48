//! What an operator sees of a process: its phase, its servers, their sessions. Shared by the admin server, the metrics and the
//! drain.

use std::{
    sync::{Arc, OnceLock, PoisonError, RwLock, Weak},
    time::{Duration, Instant},
};

use tokio::sync::watch;

use crate::{
    admin::{AdminWork, Guard},
    app::AppHandle,
    config::Config,
    logging::LogHandle,
    series::SeriesOfAll,
};

/// What a process is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Phase {
    /// Components start and ports are opened.
    Starting,
    /// Clients are served. Only now is the process ready.
    Running,
    /// Nobody new is let in; clients are told and closed.
    Draining,
}

impl Phase {
    /// `starting`, `running` or `draining`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Draining => "draining",
        }
    }
}

/// A handle on the running process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Operations(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    started: Instant,
    phase: watch::Sender<Phase>,
    drain: watch::Sender<bool>,
    error: OnceLock<String>,
    apps: RwLock<Vec<AppHandle>>,
    log: OnceLock<LogHandle>,
    guard: Guard,
    /// The last minutes in numbers.
    series: SeriesOfAll,
    /// The configuration at the start, and the newest.
    config: RwLock<Option<(Config, Config)>>,
    admin_work: OnceLock<AdminWork>,
}

impl Default for Operations {
    fn default() -> Self {
        Self(Arc::new(Inner {
            started: Instant::now(),
            phase: watch::Sender::new(Phase::Starting),
            drain: watch::Sender::new(false),
            error: OnceLock::new(),
            apps: RwLock::default(),
            log: OnceLock::new(),
            guard: Guard::default(),
            series: SeriesOfAll::default(),
            config: RwLock::default(),
            admin_work: OnceLock::new(),
        }))
    }
}

impl Operations {
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
        self.0
            .apps
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The servers run from now on, and can be drained by operators of the cluster.
    pub fn running(&self, apps: &[AppHandle]) {
        for app in apps {
            // Weak: the process holds its servers.
            app.set(WeakOperations(Arc::downgrade(&self.0)));
        }
        *self.0.apps.write().unwrap_or_else(PoisonError::into_inner) = apps.to_vec();
        self.set_phase(Phase::Running);
    }

    /// Asks the process to drain and to end. Returns at once; a second call changes nothing.
    pub fn request_drain(&self) {
        self.0.drain.send_replace(true);
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

    /// Done when somebody asked for a drain. Cancel-safe.
    pub async fn drain_requested(&self) {
        // The sender lives as long as `self`, so waiting cannot fail.
        let _ = self.0.drain.subscribe().wait_for(|asked| *asked).await;
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
        let mut config = self
            .0
            .config
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        match &mut *config {
            Some((_, known)) => newest.clone_into(known),
            none => *none = Some((newest.clone(), newest.clone())),
        }
    }

    /// The configuration at the start, and the newest; `None` where no [`Launcher`](crate::launch::Launcher) runs the process.
    pub(crate) fn config(&self) -> Option<(Config, Config)> {
        let config = self.0.config.read();
        config.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What the admin server does is among the metrics. Set once: a process has one admin server.
    pub(crate) fn set_admin_work(&self, work: AdminWork) {
        let _ = self.0.admin_work.set(work);
    }

    pub(crate) fn admin_work(&self) -> Option<&AdminWork> {
        self.0.admin_work.get()
    }

    pub(crate) fn set_phase(&self, phase: Phase) {
        self.0.phase.send_replace(phase);
    }

    /// Lets go of the servers, so that the last handle on them can be dropped.
    pub(crate) fn forget_apps(&self) {
        self.0
            .apps
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
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
}
