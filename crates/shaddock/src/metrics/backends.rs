//! Requests to services over HTTP: how long they take, and why they fail.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use prometheus_client::{encoding::NoLabelSet, metrics::MetricType};

use super::{Labels, Page, Seen, histogram::Histogram, with};
use crate::backend::Backend;

/// Why a service gave no answer.
#[derive(Debug, Clone, Copy)]
pub(crate) enum NoAnswer {
    Down,
    Busy,
    Timeout,
    Broken,
}

impl NoAnswer {
    const ALL: [(Self, &'static str); 4] = [
        (Self::Down, "down"),
        (Self::Busy, "busy"),
        (Self::Timeout, "timeout"),
        (Self::Broken, "broken"),
    ];
}

/// Requests to one backend, events and handshakes among them.
#[derive(Debug, Default)]
pub(crate) struct Exchanges {
    times: Histogram,
    failed: [AtomicU64; NoAnswer::ALL.len()],
}

impl Exchanges {
    /// One has ended.
    pub(crate) fn end(&self, took: Duration, failed: Option<NoAnswer>) {
        self.times.record(took);
        if let Some(failed) = failed {
            self.failed[failed as usize].fetch_add(1, Ordering::Relaxed);
        }
    }

    fn failed(&self) -> impl Iterator<Item = (&'static str, u64)> {
        NoAnswer::ALL
            .into_iter()
            .map(|(reason, name)| (name, self.failed[reason as usize].load(Ordering::Relaxed)))
    }
}

impl Page<'_, '_> {
    /// The services of the HTTP backends.
    pub(super) fn backends(&mut self, seen: &[Seen]) -> fmt::Result {
        let mut all: Vec<(Labels<'_>, &Backend)> = Vec::new();
        for one in seen {
            let backends = one.app.backends().iter();
            all.extend(
                backends.map(|(name, backend)| {
                    (with(&one.labels(), &[("backend", &**name)]), &**backend)
                }),
            );
        }
        all.sort_by(|(one, _), (other, _)| one.cmp(other));
        let help = "Time from a request to a service over HTTP to its response or failure";
        self.family(
            "backend_seconds",
            help,
            MetricType::Histogram,
            |mut family| {
                for (labels, backend) in &all {
                    let (sum, count, buckets) = backend.exchanges().times.read();
                    family
                        .encode_family(labels)?
                        .encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
                }
                Ok(())
            },
        )?;
        let failed = all.iter().flat_map(|(labels, backend)| {
            let reasons = backend.exchanges().failed();
            reasons.map(|(reason, n)| (with(labels, &[("reason", reason)]), n))
        });
        self.counters(
            "backend_errors",
            "Requests to services over HTTP without a complete response, by reason",
            failed,
        )?;
        let each = |read: fn(&Backend) -> usize| {
            all.iter()
                .map(move |(labels, backend)| (labels.clone(), read(backend) as u64))
        };
        self.gauges(
            "backend_waiting",
            "Requests to services over HTTP that wait for a connection",
            each(Backend::waiting),
        )?;
        self.gauges(
            "backend_urls",
            "URLs of a service over HTTP",
            each(Backend::urls),
        )?;
        self.gauges(
            "backend_urls_aside",
            "URLs that are tried last, because they did not accept a connection or are not healthy",
            each(Backend::urls_aside),
        )
    }
}
