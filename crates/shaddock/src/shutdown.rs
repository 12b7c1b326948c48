//! A graceful shutdown: not ready, no new clients, clients notified and closed in waves, queues flushed, requests of backends completed,
//! everything stopped.
//!
//! ```text
//! signal ─► not ready ─► delay ─► stop accepting, leave discovery ─► waves over `spread` ─► (linger) ─► Running::shutdown ─► exit 0
//!                └─────────────────────── all within `deadline`, and `linger` on top ────────────────────────┘
//! ```
//!
//! With `linger`, a wave closes only the sockets of sessions that outlive them. Their clients come back through other frontends, which relay
//! (`resume/relay.rs`); the sessions go on here, until they end by themselves or the time is over. What is left then is closed in waves.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use shaddock_core::{CloseReason, Session, SessionService};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    app::{AppHandle, Running, Stopping},
    config::DrainSettings,
    operations::{Operations, Phase, drain_deadline},
    resume::relay::SessionSide,
    signals::{EndSignals, survive_user_signals},
};

/// Time between looks at sessions that wait for an answer.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Time between looks for clients that have a socket here after all.
const SEND_AWAY_AGAIN: Duration = Duration::from_secs(1);

/// Time between lines of the log while sessions go on.
const LOG_PERIOD: Duration = Duration::from_secs(60);

/// The signals of a process: those that end it, and those that would if nothing handled them. (SIGPIPE is ignored in every Rust program.)
pub(crate) struct Signals {
    ends: EndSignals,
    hangup: Signal,
}

/// What a process was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    /// To end, by the signal of this name.
    End(&'static str),
    /// To read its configuration again.
    Reload,
}

impl Signals {
    /// Handles them from now on, also those that come before the first [`next`](Self::next).
    pub(crate) fn new() -> std::io::Result<Self> {
        survive_user_signals()?;
        Ok(Self {
            ends: EndSignals::new()?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// What the next one says. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Command {
        tokio::select! {
            signal = self.ends.next() => Command::End(signal.name()),
            _ = self.hangup.recv() => Command::Reload,
        }
    }

    /// The name of the next one that ends the process. Cancel-safe.
    pub(crate) async fn end(&mut self) -> &'static str {
        loop {
            if let Command::End(name) = self.next().await {
                return name;
            }
        }
    }
}

/// Drains the servers and stops them. True if everything ended within `drain.deadline`, not counting the time for which sessions went on;
/// otherwise what is left was abandoned. That time is `drain.linger`, or what an operator [said](Operations::request_drain_for).
///
/// Not cancel-safe: dropped, it leaves servers half stopped.
pub async fn drain(running: Running, settings: &DrainSettings, operations: &Operations) -> bool {
    operations.set_phase(Phase::Draining);
    let limit = operations.drain_linger(settings);
    let deadline = drain_deadline(settings, limit);
    let begun = Instant::now();
    operations.set_drain_end(begun + deadline + limit);
    // The rest is for closing.
    let answers_until = begun + deadline * 3 / 4;
    let closing = async {
        if !settings.delay.0.is_zero() {
            tracing::info!(delay = %settings.delay, "draining: not ready, still serving");
            tokio::time::sleep(settings.delay.0).await;
        }
        close_doors(running.apps()).await;
        let staying = staying(running.apps(), limit);
        close_in_waves(running.apps(), settings, answers_until, &staying).await;
        staying
    };
    let closed = tokio::time::timeout(deadline, closing).await;
    let used = begun.elapsed();
    let staying = closed.as_deref().unwrap_or_default();
    if !staying.is_empty() {
        linger(staying, limit, deadline.saturating_sub(used), operations).await;
    }
    let lingered = begun.elapsed().saturating_sub(used);
    let is_second_round = !staying.is_empty();
    let was_closed = closed.is_ok();
    let rest = async {
        if is_second_round {
            close_in_waves(running.apps(), settings, answers_until + lingered, &[]).await;
        }
        running.shutdown_within(deadline).await;
    };
    let done = was_closed
        && tokio::time::timeout(deadline.saturating_sub(used), rest)
            .await
            .is_ok();
    operations.forget_apps();
    if done {
        tracing::info!("stopped");
    } else {
        tracing::warn!(
            ?deadline,
            ?lingered,
            "the drain took too long; the remaining work was dropped"
        );
    }
    done
}

/// Frontends accept no new clients. Backends of this process continue, because listeners of closed sessions may call them.
async fn close_doors(apps: &[AppHandle]) {
    for app in apps.iter().filter(|app| app.is_frontend()) {
        app.stop_accepting();
        Stopping::of(app).withdraw().await;
    }
}

/// The frontends whose sessions go on for a while, because their clients have somewhere to come back to. They open no session any more.
fn staying(apps: &[AppHandle], linger: Duration) -> Vec<&AppHandle> {
    if linger.is_zero() {
        return Vec::new();
    }
    let stays =
        |app: &&AppHandle| app.is_frontend() && SessionSide::of(app).is_relayed_by_others(apps);
    let staying: Vec<_> = apps.iter().filter(stays).collect();
    for app in &staying {
        app.open_no_session();
    }
    staying
}

/// Waits until the last session has ended, at most for `limit`, or for what was said last. `rest`: what closing takes after that.
async fn linger(staying: &[&AppHandle], limit: Duration, rest: Duration, operations: &Operations) {
    let services: Vec<_> = (staying.iter())
        .filter_map(|app| app.session_service())
        .collect();
    let left = || -> usize { services.iter().map(|it| it.session_count()).sum() };
    tracing::info!(
        sessions = left(),
        ?limit,
        "draining: waiting for sessions whose clients resume through other frontends"
    );
    let now = Instant::now();
    let end = || operations.drain_linger_until().unwrap_or(now + limit);
    let (mut say, mut send_away) = (now + LOG_PERIOD, now);
    while left() > 0 && Instant::now() < end() {
        operations.set_drain_end(end() + rest);
        for app in staying {
            // Sessions of other frontends do not end with the sockets that are here.
            app.relays().cut_sockets();
        }
        if Instant::now() >= send_away {
            // Who was about to come back here when the doors were closed.
            for service in &services {
                service.visit_sessions(|session| {
                    session.dismiss();
                });
            }
            send_away += SEND_AWAY_AGAIN;
        }
        if Instant::now() >= say {
            tracing::info!(
                sessions = left(),
                "draining: waiting for resumable sessions"
            );
            say += LOG_PERIOD;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// How many sessions a wave closes, so that `count` of them are gone after `spread`.
fn wave_size(count: usize, spread: Duration, interval: Duration) -> usize {
    let waves = spread.as_nanos() / interval.as_nanos().max(1);
    let waves = usize::try_from(waves).unwrap_or(usize::MAX).max(1);
    count.div_ceil(waves).max(1)
}

/// Closes the sessions of this moment over `spread`; of sessions at frontends that are `staying`, those that outlive their sockets only lose them.
/// Who waits for an answer gets it, if it comes before `until`.
async fn close_in_waves(
    apps: &[AppHandle],
    settings: &DrainSettings,
    until: Instant,
    staying: &[&AppHandle],
) {
    let sessions = by_turns(apps.iter().filter_map(AppHandle::session_service).map(all));
    if sessions.is_empty() {
        return;
    }
    let size = wave_size(sessions.len(), settings.spread.0, settings.wave_interval.0);
    tracing::info!(
        sessions = sessions.len(),
        wave = size,
        "draining: closing {} in waves",
        if staying.is_empty() {
            "sessions"
        } else {
            "connections"
        }
    );
    for app in apps {
        app.flush_pushes();
    }
    let goes = |session: &Arc<Session>| {
        let frontend = session.frontend_id().as_str();
        if staying.iter().any(|app| app.id() == frontend) && session.resumable().is_some() {
            // What runs for it goes on, and what is sent to it is kept.
            session.dismiss();
            return true;
        }
        close_unless_working(session)
    };
    let mut working = Vec::new();
    for (n, wave) in sessions.chunks(size).enumerate() {
        // Clients that have left need no wave.
        if wave.iter().all(|session| session.is_closed()) {
            continue;
        }
        if n > 0 {
            tokio::time::sleep(settings.wave_interval.0).await;
        }
        working.extend(wave.iter().cloned());
        working.retain(|session| !goes(session));
    }
    while !working.is_empty() && Instant::now() < until {
        tokio::time::sleep(LOOK_AGAIN).await;
        working.retain(|session| !goes(session));
    }
    for session in working {
        session.close(CloseReason::Draining);
    }
}

/// A session that waits for an answer gets it first. True if it is closed.
fn close_unless_working(session: &Arc<Session>) -> bool {
    let closes = session.is_closed() || !session.is_working();
    if closes {
        session.close(CloseReason::Draining);
    }
    closes
}

/// The sessions of this moment. Who comes in after the doors were closed is left to [`Running::shutdown`].
fn all(service: &SessionService) -> Vec<Arc<Session>> {
    let mut sessions = Vec::with_capacity(service.session_count());
    service.visit_sessions(|session| sessions.push(Arc::clone(session)));
    sessions
}

/// One of each list by turns, so that every frontend sheds its clients evenly.
fn by_turns<T>(lists: impl Iterator<Item = Vec<T>>) -> Vec<T> {
    let mut lists: Vec<_> = lists.map(Vec::into_iter).collect();
    let mut mixed = Vec::with_capacity(lists.iter().map(ExactSizeIterator::len).sum());
    while !lists.is_empty() {
        lists.retain_mut(|list| {
            let next = list.next();
            let some = next.is_some();
            mixed.extend(next);
            some
        });
    }
    mixed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frontends_take_turns() {
        let lists = [vec![1, 2, 3], vec![], vec![4]];
        assert_eq!(by_turns(lists.into_iter()), [1, 4, 2, 3]);
    }

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
