//! The metrics of the services of HTTP backends.

use std::fmt;

use prometheus_client::{encoding::NoLabelSet, metrics::MetricType};

use super::page::{Labels, Page, Seen, with};
use crate::backend::Backend;

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
