//! The page that a scrape reads: families of metrics with labels.

use shaddock_core::{ResumeStatistics, SessionService, SessionStatistics};
use shaddock_net::NetStats;

use super::{
    text::{Family, Kind, Labels},
    walk::Walk,
};
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

/// The text that is being written: families one after the other.
pub(super) struct Page<'a> {
    out: &'a mut String,
    prefix: &'static str,
}

impl<'a> Page<'a> {
    /// `prefix`: before the names of all families.
    pub(super) fn new(out: &'a mut String, prefix: &'static str) -> Self {
        Self { out, prefix }
    }

    pub(super) fn family(&mut self, name: &str, help: &str, kind: Kind) -> Family<'_> {
        Family::begin(self.out, format!("{}{name}", self.prefix), help, kind)
    }

    pub(super) fn gauges<'s>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels<'s>, u64)>,
    ) {
        let mut family = self.family(name, help, Kind::Gauge);
        for (labels, value) in values {
            family.gauge(&labels, value);
        }
    }

    pub(super) fn counters<'s>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels<'s>, u64)>,
    ) {
        let mut family = self.family(name, help, Kind::Counter);
        for (labels, value) in values {
            family.counter(&labels, value);
        }
    }
}

pub(super) fn with<'a>(labels: &[(&'a str, &'a str)], more: &[(&'a str, &'a str)]) -> Labels<'a> {
    [labels, more].concat()
}
