//! Going down without harm: not ready, nobody new, clients told and closed in waves, the rest flushed, everything stopped.
//!
//! ```text
//! signal ─► not ready ─► delay ─► stop accepting, leave discovery ─► waves over `spread` ─► Running::shutdown ─► exit 0
//!                └──────────────────────── all within `deadline` ────────────────────────────────┘
//! ```

use std::{sync::Arc, time::Duration};

use shaddock_core::{CloseReason, Session, SessionService};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    app::{AppHandle, Running},
    config::DrainSettings,
    operations::{Operations, Phase},
};

/// The signals that end a process.
pub(crate) struct EndSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl EndSignals {
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// The name of the next one.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}

/// Drains the servers and stops them. True if everything ended within `drain.deadline`; otherwise what is left was abandoned.
///
/// Not cancel-safe: dropped, it leaves servers half stopped.
pub async fn drain(running: Running, settings: &DrainSettings, operations: &Operations) -> bool {
    operations.set_phase(Phase::Draining);
    let all = async {
        if !settings.delay.0.is_zero() {
            tracing::info!(delay = %settings.delay, "draining: not ready any more, still serving");
            tokio::time::sleep(settings.delay.0).await;
        }
        close_doors(running.apps()).await;
        close_in_waves(running.apps(), settings).await;
        running.shutdown().await;
    };
    let done = tokio::time::timeout(settings.deadline.0, all).await.is_ok();
    operations.forget_apps();
    if done {
        tracing::info!("stopped");
    } else {
        tracing::warn!(deadline = %settings.deadline, "the drain took too long; what was left is abandoned");
    }
    done
}

/// Nobody new is let in, and other servers send nobody here.
async fn close_doors(apps: &[AppHandle]) {
    for app in apps {
        app.stop_accepting();
        if let Ok(membership) = app.membership() {
            let limit = app.config().stop_timeout;
            if tokio::time::timeout(limit, membership.withdraw())
                .await
                .is_err()
            {
                tracing::warn!(app = app.id(), "leaving discovery took too long");
            }
        }
    }
}

/// How many sessions a wave closes, so that `count` of them are gone after `spread`.
fn wave_size(count: usize, spread: Duration, interval: Duration) -> usize {
    let waves = spread.as_nanos() / interval.as_nanos().max(1);
    let waves = usize::try_from(waves).unwrap_or(usize::MAX).max(1);
    count.div_ceil(waves).max(1)
}

async fn close_in_waves(apps: &[AppHandle], settings: &DrainSettings) {
    let services: Vec<&SessionService> =
        apps.iter().filter_map(AppHandle::session_service).collect();
    let count: usize = services.iter().map(|service| service.session_count()).sum();
    if count == 0 {
        return;
    }
    let size = wave_size(count, settings.spread.0, settings.wave_interval.0);
    tracing::info!(
        sessions = count,
        wave = size,
        "draining: closing sessions in waves"
    );
    for app in apps {
        app.flush_pushes();
    }
    loop {
        let wave = next_wave(&services, size);
        if wave.is_empty() {
            return;
        }
        for session in &wave {
            session.close(CloseReason::Draining);
        }
        if services.iter().all(|service| service.session_count() == 0) {
            return;
        }
        tokio::time::sleep(settings.wave_interval.0).await;
    }
}

/// Sessions of all frontends by turns, so that each of them sheds its clients evenly.
fn next_wave(services: &[&SessionService], size: usize) -> Vec<Arc<Session>> {
    let mut wave = Vec::with_capacity(size);
    let share = size.div_ceil(services.len().max(1));
    for service in services {
        let mut taken = 0;
        service.visit_sessions(|session| {
            if taken < share && wave.len() < size {
                wave.push(Arc::clone(session));
                taken += 1;
            }
        });
    }
    // A frontend with fewer sessions than its share leaves room.
    for service in services {
        service.visit_sessions(|session| {
            if wave.len() < size && !wave.iter().any(|taken| taken.id() == session.id()) {
                wave.push(Arc::clone(session));
            }
        });
    }
    wave
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waves_fill_the_time() {
        let size = |count, spread, interval| {
            wave_size(
                count,
                Duration::from_millis(spread),
                Duration::from_millis(interval),
            )
        };
        assert_eq!(size(1000, 5000, 500), 100);
        assert_eq!(size(1001, 5000, 500), 101);
        assert_eq!(size(3, 5000, 500), 1);
        assert_eq!(size(1000, 0, 500), 1000);
        assert_eq!(size(0, 5000, 500), 1);
    }
}
