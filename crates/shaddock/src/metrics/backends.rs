//! The metrics of the services of HTTP backends.

use super::{
    page::{Page, Seen, with},
    text::{Kind, Labels},
};
use crate::backend::Backend;

impl Page<'_> {
    /// The services of the HTTP backends.
    pub(super) fn backends(&mut self, seen: &[Seen]) {
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
        let mut family = self.family("backend_seconds", help, Kind::Histogram);
        for (labels, backend) in &all {
            family.histogram(labels, backend.exchanges().times.read());
        }
        let failed = all.iter().flat_map(|(labels, backend)| {
            let reasons = backend.exchanges().failed();
            reasons.map(|(reason, n)| (with(labels, &[("reason", reason)]), n))
        });
        self.counters(
            "backend_errors",
            "Requests to services over HTTP without a complete response, by reason",
            failed,
        );
        let each = |read: fn(&Backend) -> usize| {
            all.iter()
                .map(move |(labels, backend)| (labels.clone(), read(backend) as u64))
        };
        self.gauges(
            "backend_waiting",
            "Requests to services over HTTP that wait for a connection",
            each(Backend::waiting),
        );
        self.gauges(
            "backend_urls",
            "URLs of a service over HTTP",
            each(Backend::urls),
        );
        self.gauges(
            "backend_urls_aside",
            "URLs that are tried last, because they did not accept a connection or are not healthy",
            each(Backend::urls_aside),
        );
    }
}
