//! The page that a scrape reads: families of metrics with labels.

use std::fmt;

use prometheus_client::{
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet},
    metrics::MetricType,
};
use shaddock_core::{ResumeStatistics, SessionService, SessionStatistics};
use shaddock_net::NetStats;

use super::walk::Walk;
use crate::app::AppHandle;

/// One app at the moment of the scrape.
pub(super) struct Seen {
    pub(super) app: AppHandle,
    pub(super) sessions: Option<(SessionStatistics, Walk)>,
    pub(super) resume: Option<ResumeStatistics>,
    pub(super) listeners: Vec<(String, NetStats)>,
}

impl Seen {
    pub(super) fn new(app: AppHandle) -> Self {
        let sessions = app
            .session_service()
            .map(|service| (service.statistics(), Walk::of(service)));
        let resume = app.session_service().map(SessionService::resume_statistics);
        let addresses = app
            .local_addrs()
            .into_iter()
            .map(|address| address.to_string());
        let listeners = addresses.zip(app.net_stats()).collect();
        Self {
            app,
            sessions,
            resume,
            listeners,
        }
    }

    pub(super) fn labels(&self) -> [(&str, &str); 2] {
        [
            ("server", self.app.id()),
            ("server_type", self.app.server_type()),
        ]
    }
}

pub(super) type Labels<'a> = Vec<(&'a str, &'a str)>;

/// The text that is being written: families one after the other.
pub(super) struct Page<'a, 'e>(pub(super) &'a mut DescriptorEncoder<'e>);

impl Page<'_, '_> {
    pub(super) fn family(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        write: impl FnOnce(MetricEncoder<'_>) -> fmt::Result,
    ) -> fmt::Result {
        write(self.0.encode_descriptor(name, help, None, kind)?)
    }

    pub(super) fn gauges<'s>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels<'s>, u64)>,
    ) -> fmt::Result {
        self.family(name, help, MetricType::Gauge, |mut family| {
            for (labels, value) in values {
                let value = i64::try_from(value).unwrap_or(i64::MAX);
                family.encode_family(&labels)?.encode_gauge(&value)?;
            }
            Ok(())
        })
    }

    pub(super) fn counters<'s>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels<'s>, u64)>,
    ) -> fmt::Result {
        self.family(name, help, MetricType::Counter, |mut family| {
            for (labels, value) in values {
                family
                    .encode_family(&labels)?
                    .encode_counter::<NoLabelSet, u64, u64>(&value, None)?;
            }
            Ok(())
        })
    }
}

pub(super) fn with<'a>(labels: &[(&'a str, &'a str)], more: &[(&'a str, &'a str)]) -> Labels<'a> {
    [labels, more].concat()
}
