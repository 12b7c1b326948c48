//! Metrics of the application.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use parking_lot::Mutex;

use crate::stats::Counter;

/// How many an app may have. Above it new ones count, and are not shown.
const MOST: usize = 1000;

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Sets it.
    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Adds to it; less than nothing takes away.
    pub fn add(&self, n: i64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The current value.
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The metric of one name.
#[derive(Debug, Clone)]
pub(crate) enum Own {
    Counter(Arc<Counter>),
    Gauge(Arc<Gauge>),
}

/// The metrics of an application, beside those of the framework. [`AppHandle::metrics`](crate::app::AppHandle::metrics) gives them.
///
/// ```
/// # use shaddock::prelude::*;
/// async fn begin(Ctx(app): Ctx) {
///     app.metrics().counter("lobby_matches", "Matches begun").add(1);
///     app.metrics().gauge("lobby_waiting", "Players who wait for a match").set(0);
/// }
/// # App::new("lobby", "lobby-1").handle("match.begin", begin);
/// ```
///
/// `/metrics` shows them as `lobby_matches_total` and `lobby_waiting`, with the labels `server` and `server_type`. Keep what you get where it is
/// counted often: each call here takes a lock.
#[derive(Debug, Default)]
pub struct Metrics(Mutex<BTreeMap<String, (String, Own)>>);

impl Metrics {
    /// The counter of this name, made if it is not there. `_total` is put behind the name.
    ///
    /// # Panics
    /// The name is not made of `a` to `z`, digits and `_`, is one of the framework's (`shaddock_..`, `process_..`), or there is a gauge of that name.
    #[track_caller]
    pub fn counter(&self, name: &str, help: &str) -> Arc<Counter> {
        let name = name.strip_suffix("_total").unwrap_or(name);
        match self.get(name, help, || Own::Counter(Arc::default())) {
            Own::Counter(counter) => counter,
            Own::Gauge(_) => panic!("the metric `{name}` is a gauge"),
        }
    }

    /// The gauge of this name, made if it is not there.
    ///
    /// # Panics
    /// As [`counter`](Self::counter), if there is a counter of that name, or if the name ends with `_total`, as those of counters do.
    #[track_caller]
    pub fn gauge(&self, name: &str, help: &str) -> Arc<Gauge> {
        assert!(
            !name.ends_with("_total"),
            "`{name}`: names of counters end with `_total`; rename the gauge"
        );
        match self.get(name, help, || Own::Gauge(Arc::default())) {
            Own::Gauge(gauge) => gauge,
            Own::Counter(_) => panic!("the metric `{name}` is a counter"),
        }
    }

    #[track_caller]
    fn get(&self, name: &str, help: &str, make: impl FnOnce() -> Own) -> Own {
        let fine = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        assert!(
            name.bytes().all(fine) && name.starts_with(|c: char| c.is_ascii_lowercase()),
            "`{name}` is not a valid metric name: write a letter, then letters from a to z, digits and `_`"
        );
        assert!(
            !["shaddock_", "process_"]
                .iter()
                .any(|own| name.starts_with(own)),
            "`{name}`: this name is reserved for the framework"
        );
        let mut all = self.0.lock();
        if let Some((_, own)) = all.get(name) {
            return own.clone();
        }
        let own = make();
        if all.len() < MOST {
            all.insert(name.to_owned(), (help.to_owned(), own.clone()));
        } else {
            shaddock_net::quiet!(
                warn,
                "too many metrics of the application: this one is not shown",
                name
            );
        }
        own
    }

    /// Name, help and value of each.
    pub(crate) fn read(&self) -> Vec<(String, String, Own)> {
        let all = self.0.lock();
        let each = all.iter();
        each.map(|(name, (help, own))| (name.clone(), help.clone(), own.clone()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_name_is_one_metric() {
        let metrics = Metrics::default();
        metrics.counter("matches", "Matches").add(2);
        metrics.counter("matches", "again").add(1);
        assert_eq!(metrics.counter("matches", "").get(), 3);
        metrics.gauge("waiting", "Who waits").add(-1);
        assert_eq!(metrics.read().len(), 2);
        metrics.counter("matches_total", "").add(1);
        assert_eq!(metrics.counter("matches_total", "").get(), 4);
        assert_eq!(metrics.read().len(), 2);
        for bad in [
            "",
            "1x",
            "Matches",
            "a-b",
            "shaddock_x",
            "process_x",
            "matches_total",
        ] {
            let made = std::panic::catch_unwind(|| drop(Metrics::default().gauge(bad, "x")));
            assert!(made.is_err(), "{bad}");
        }
        let other = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            drop(metrics.gauge("matches", "x"));
        }));
        assert!(other.is_err());
        for n in 0..2 * MOST {
            metrics.counter(&format!("m{n}"), "x").add(1);
        }
        assert_eq!(metrics.read().len(), MOST);
    }
}
