//! The last ten minutes of a process in numbers, so that a new plot has a past.
//!
//! Every two seconds the process reads the counters that it has anyway, and keeps what they have grown by. Nothing is counted for it, and no
//! request waits for it.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};
use shaddock_core::SessionService;

use crate::{app::AppHandle, history::unix_ms, metrics};

/// Time between two samples, in milliseconds. Samples are taken at whole multiples of it, so that those of several machines fit together.
pub(crate) const STEP_MS: u64 = 2000;
/// Samples that are kept of each server: ten minutes.
const KEPT: usize = 300;

/// Defines the numbers of a sample once: their names in the JSON are those here, in this order.
macro_rules! columns {
    ($($(#[doc = $doc:literal])* $name:ident,)*) => {
        /// A server at one moment.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        struct Row { $($(#[doc = $doc])* $name: u64,)* }

        impl Row {
            const NAMES: &'static [&'static str] = &[$(stringify!($name)),*];

            fn values(self) -> Vec<u64> {
                vec![$(self.$name),*]
            }
        }
    };
}

columns! {
    /// When it was taken: milliseconds since 1970, a multiple of [`STEP_MS`].
    time_ms,
    /// How long before the one before it was taken.
    span_ms,
    sessions,
    users,
    connections,
    /// Requests of other servers at work, and own calls that wait.
    in_flight,
    /// Bytes of memory of the process.
    resident_bytes,
    /// From here on: what has come in `span_ms`. Processor time of the process, in milliseconds.
    cpu_ms,
    requests,
    errors,
    pushes,
    bytes_in,
    bytes_out,
    opened,
    closed,
}

/// The last samples of a server. The columns of a row, and the upper bounds of the answers' times, are named.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Series {
    /// What the numbers of a row are.
    pub columns: Vec<String>,
    /// Oldest first.
    pub rows: Vec<Vec<u64>>,
    /// Upper bounds of the times in `answers`, in microseconds; what took longer is in one more place behind them.
    pub bounds_us: Vec<u64>,
    /// For each row: how many requests were answered within which time.
    pub answers: Vec<Vec<u64>>,
}

/// Counters since the start.
#[derive(Debug, Clone, Default)]
struct Totals {
    cpu_ms: u64,
    requests: u64,
    errors: u64,
    pushes: u64,
    bytes_in: u64,
    bytes_out: u64,
    opened: u64,
    closed: u64,
    answers: Vec<u64>,
}

impl Totals {
    fn of(app: &AppHandle, cpu_ms: u64) -> Self {
        let stats = app.stats();
        let mut totals = Self {
            cpu_ms,
            requests: stats.requests.get(),
            errors: stats.errors.get(),
            pushes: stats.pushed.get(),
            answers: metrics::answer_times(app),
            ..Self::default()
        };
        if let Some(service) = app.session_service() {
            let statistics = service.statistics();
            totals.opened = statistics.created;
            totals.closed = statistics.closed.iter().map(|(_, n)| n).sum();
        }
        let listeners = app.net_stats();
        if app.is_frontend() && !listeners.is_empty() {
            totals.requests = listeners.iter().map(|it| it.requests + it.notifies).sum();
        }
        for net in listeners {
            totals.bytes_in += net.bytes_in;
            totals.bytes_out += net.bytes_out;
        }
        totals
    }

    /// What has come since then. A server that counts from zero again has not counted backwards.
    const fn since(&self, before: &Self, row: Row) -> Row {
        Row {
            cpu_ms: self.cpu_ms.saturating_sub(before.cpu_ms),
            requests: self.requests.saturating_sub(before.requests),
            errors: self.errors.saturating_sub(before.errors),
            pushes: self.pushes.saturating_sub(before.pushes),
            bytes_in: self.bytes_in.saturating_sub(before.bytes_in),
            bytes_out: self.bytes_out.saturating_sub(before.bytes_out),
            opened: self.opened.saturating_sub(before.opened),
            closed: self.closed.saturating_sub(before.closed),
            ..row
        }
    }
}

#[derive(Debug, Default)]
struct Ring {
    before: Option<(Totals, Instant)>,
    rows: VecDeque<(Row, Vec<u64>)>,
}

impl Ring {
    /// Adds a sample. The first reading only says where counting begins.
    ///
    /// A second sample for the same step is left out, so that the next one covers both: a sampler that woke late has taken the sample of the
    /// step to come already.
    fn add(&mut self, row: Row, totals: Totals, now: Instant) {
        let last = self.rows.back().map(|(last, _)| last.time_ms);
        if last == Some(row.time_ms) {
            return;
        }
        if let Some((before, then)) = &self.before {
            let span = now.saturating_duration_since(*then).as_millis();
            let span_ms = u64::try_from(span).unwrap_or(u64::MAX).max(1);
            let answers = totals.answers.iter().enumerate().map(|(place, n)| {
                n.saturating_sub(before.answers.get(place).copied().unwrap_or_default())
            });
            let sample = (
                totals.since(before, Row { span_ms, ..row }),
                answers.collect(),
            );
            // A clock that was set back begins anew.
            if last.is_some_and(|last| row.time_ms < last) {
                self.rows.clear();
            }
            if self.rows.len() >= KEPT {
                self.rows.pop_front();
            }
            self.rows.push_back(sample);
        }
        self.before = Some((totals, now));
    }

    fn after(&self, time_ms: u64) -> Series {
        let wanted = self.rows.iter().filter(|(row, _)| row.time_ms > time_ms);
        let (rows, answers) = wanted
            .map(|(row, answers)| (row.values(), answers.clone()))
            .unzip();
        Series {
            columns: Row::NAMES.iter().map(|name| (*name).to_owned()).collect(),
            rows,
            bounds_us: metrics::bounds_us(),
            answers,
        }
    }
}

/// The samples of all servers of a process.
#[derive(Debug, Default)]
pub(crate) struct SeriesOfAll {
    rings: Mutex<HashMap<String, Ring>>,
    /// Held by who takes the samples.
    sampler: tokio::sync::Mutex<()>,
}

impl SeriesOfAll {
    fn rings(&self) -> MutexGuard<'_, HashMap<String, Ring>> {
        self.rings.lock()
    }

    /// Samples of this server after that time.
    pub(crate) fn after(&self, server: &str, time_ms: u64) -> Series {
        let rings = self.rings();
        rings
            .get(server)
            .map(|ring| ring.after(time_ms))
            .unwrap_or_default()
    }

    /// Takes a sample of each server. Those that are gone are forgotten.
    fn sample(&self, apps: &[AppHandle]) {
        let process = metrics::process::usage();
        let time_ms = unix_ms().saturating_add(STEP_MS / 2) / STEP_MS * STEP_MS;
        let read: Vec<_> = apps
            .iter()
            .map(|app| {
                let cpu_ms = process.map_or(0, |process| process.cpu_ms);
                let row = Row {
                    time_ms,
                    resident_bytes: process.map_or(0, |process| process.resident_bytes),
                    ..gauges(app)
                };
                (app.id(), row, Totals::of(app, cpu_ms))
            })
            .collect();
        let now = Instant::now();
        let mut rings = self.rings();
        rings.retain(|id, _| apps.iter().any(|app| app.id() == id));
        for (id, row, totals) in read {
            rings
                .entry(id.to_owned())
                .or_default()
                .add(row, totals, now);
        }
    }

    /// Takes samples until it is dropped, unless another sampler is running.
    pub(crate) async fn keep(&self, apps: impl Fn() -> Vec<AppHandle>) {
        let _alone = self.sampler.lock().await;
        loop {
            self.sample(&apps());
            let to_next = STEP_MS - unix_ms() % STEP_MS;
            tokio::time::sleep(Duration::from_millis(to_next)).await;
        }
    }
}

fn gauges(app: &AppHandle) -> Row {
    let statistics = app.session_service().map(SessionService::statistics);
    let status = app.membership().map(|membership| membership.status());
    let status = status.unwrap_or_default();
    Row {
        sessions: statistics.as_ref().map_or(0, |it| it.sessions as u64),
        users: statistics.as_ref().map_or(0, |it| it.users as u64),
        connections: app.open_connections() as u64,
        in_flight: (status.serving + status.pending_calls) as u64,
        ..Row::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(n: u64) -> Totals {
        Totals {
            cpu_ms: n,
            requests: 10 * n,
            answers: vec![n, 0, 2 * n],
            ..Totals::default()
        }
    }

    fn row(time_ms: u64) -> Row {
        Row {
            time_ms,
            sessions: 5,
            ..Row::default()
        }
    }

    fn column(series: &Series, name: &str) -> Vec<u64> {
        let place = series.columns.iter().position(|column| column == name);
        let place = place.unwrap();
        series.rows.iter().map(|row| row[place]).collect()
    }

    #[test]
    fn a_sample_is_what_came_since_the_one_before() {
        let (mut ring, start) = (Ring::default(), Instant::now());
        let at = |n: u64| start + Duration::from_millis(n * 1990);
        for n in 0..4 {
            ring.add(row((n + 1) * STEP_MS), totals(n * n), at(n));
        }
        let all = ring.after(0);
        assert_eq!(column(&all, "time_ms"), [4000, 6000, 8000]);
        assert_eq!(column(&all, "span_ms"), [1990; 3]);
        assert_eq!(column(&all, "sessions"), [5; 3]);
        assert_eq!(column(&all, "requests"), [10, 30, 50]);
        assert_eq!(all.answers, [[1, 0, 2], [3, 0, 6], [5, 0, 10]]);
        assert_eq!(all.columns.len(), all.rows[0].len());
        assert_eq!(column(&ring.after(6000), "time_ms"), [8000]);
    }

    #[test]
    fn two_samples_of_one_step_are_one_and_lose_nothing() {
        let (mut ring, now) = (Ring::default(), Instant::now());
        for (step, n) in [(1, 0), (2, 1), (3, 2), (3, 3), (4, 4)] {
            ring.add(row(step * STEP_MS), totals(n), now);
        }
        let all = ring.after(0);
        assert_eq!(column(&all, "time_ms"), [4000, 6000, 8000]);
        assert_eq!(column(&all, "requests"), [10, 10, 20]);
    }

    #[test]
    fn samples_are_bounded_and_survive_a_clock_that_is_set_back() {
        let (mut ring, now) = (Ring::default(), Instant::now());
        for n in 0..2 * KEPT as u64 {
            ring.add(row(n * STEP_MS), totals(n), now);
        }
        assert_eq!(ring.after(0).rows.len(), KEPT);
        ring.add(row(STEP_MS), totals(10_000), now);
        assert_eq!(column(&ring.after(0), "time_ms"), [STEP_MS]);
        ring.add(row(2 * STEP_MS), totals(1), now);
        assert_eq!(column(&ring.after(STEP_MS), "requests"), [0]);
    }
}
