//! The metrics of handlers and pushes.

use std::fmt;

use prometheus_client::{encoding::NoLabelSet, metrics::MetricType};

use super::{
    Histogram, Latencies,
    page::{Page, Seen, with},
};
use crate::app::AppHandle;

impl Page<'_, '_> {
    pub(super) fn work(&mut self, seen: &[Seen]) -> fmt::Result {
        let each = |read: fn(&AppHandle) -> u64| {
            seen.iter()
                .map(move |one| (one.labels().to_vec(), read(&one.app)))
        };
        self.counters(
            "handled",
            "Dispatched requests and notifies, of clients and of other servers",
            each(|app| app.stats().requests.get()),
        )?;
        self.counters(
            "handler_errors",
            "Requests with an error response",
            each(|app| app.stats().errors.get()),
        )?;
        self.counters(
            "requests_rejected",
            "Requests rejected because handlers.max_concurrent were running",
            each(|app| app.stats().rejected.get()),
        )?;
        self.counters(
            "handler_panics",
            "Handlers, filters and listeners that panicked",
            each(|app| app.stats().panics.get()),
        )?;
        self.counters(
            "handler_timeouts",
            "Handlers that did not finish in time",
            each(|app| app.stats().timeouts.get()),
        )?;
        self.counters(
            "pushes",
            "Queued pushes, one per receiver",
            each(|app| app.stats().pushed.get()),
        )?;
        self.counters(
            "pushes_missed",
            "Receivers of pushes without a session",
            each(|app| app.stats().missing.get()),
        )?;
        self.counters(
            "lost_events",
            "Session events dropped because listeners did not keep up",
            each(|app| app.stats().lost_events.get()),
        )?;
        self.counters(
            "channel_store_errors",
            "Failed calls of the application's store of channels",
            each(|app| app.channel_data().store_errors()),
        )
    }

    pub(super) fn latencies(&mut self, seen: &[Seen]) -> fmt::Result {
        let latencies: Vec<_> = seen
            .iter()
            .filter_map(|one| Some((one, one.app.get::<Latencies>()?)))
            .collect();
        let by_route = |read: fn(&Histogram) -> u64| {
            latencies.iter().flat_map(move |(one, latencies)| {
                let routes = latencies.read(one.app.handlers().numbers()).into_iter();
                routes.map(move |(route, histogram)| {
                    (with(&one.labels(), &[("route", route)]), read(histogram))
                })
            })
        };
        self.counters(
            "route_errors",
            "Requests with an error response, by route",
            by_route(Histogram::errors),
        )?;
        self.counters(
            "route_panics",
            "Requests whose handler or filter panicked, by route",
            by_route(Histogram::panics),
        )?;
        self.counters(
            "route_blocked",
            "Times at which a handler held its thread for 100 ms or longer without waiting, by route",
            by_route(Histogram::blocked),
        )?;
        let name = "handler_seconds";
        let help = "Time from the first filter to the response, by route";
        self.family(name, help, MetricType::Histogram, |mut family| {
            for one in seen {
                let Some(latencies) = one.app.get::<Latencies>() else {
                    continue;
                };
                for (route, histogram) in latencies.read(one.app.handlers().numbers()) {
                    let labels = with(&one.labels(), &[("route", route)]);
                    let (sum, count, buckets) = histogram.read();
                    family
                        .encode_family(&labels)?
                        .encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
                }
            }
            Ok(())
        })
    }
}
