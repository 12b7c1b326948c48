//! How much a server does, as it tells operators.

use shaddock_cluster::RemoteError;
use shaddock_core::SessionService;

use super::{
    ask::CONFLICT,
    work::{RouteWork, ServerWork},
};
use crate::{
    app::AppHandle,
    config::EffectiveKey,
    history::unix_ms,
    metrics::{self, Latencies},
    operations::Operations,
    series::Series,
};

/// The work of this server, for operators.
#[derive(Clone, Copy)]
pub(crate) struct Workload<'a> {
    app: &'a AppHandle,
}

impl<'a> Workload<'a> {
    pub(crate) const fn of(app: &'a AppHandle) -> Self {
        Self { app }
    }

    /// Samples of this server after that time.
    pub(super) fn series(self, after_ms: u64) -> Series {
        let process = Operations::of(self.app);
        process.map_or_else(Series::default, |process| {
            process.series().after(self.app.id(), after_ms)
        })
    }

    pub(super) fn work(self) -> ServerWork {
        let mut work = ServerWork {
            time_ms: unix_ms(),
            bounds_us: metrics::bounds_us(),
            ..ServerWork::default()
        };
        if let Some(latencies) = self.app.get::<Latencies>() {
            let routes = latencies.read(self.app.handlers().numbers()).into_iter();
            let routes = routes.map(|(route, times)| RouteWork {
                route: route.to_owned(),
                errors: times.errors(),
                panics: times.panics(),
                blocked: times.blocked(),
                answers: times.counts().collect(),
            });
            work.routes = routes.collect();
        }
        let stats = self.app.stats();
        work.calls = [
            ("forward", &stats.forwards),
            ("http", &stats.asked),
            ("rpc", &stats.rpcs),
        ]
        .map(|(name, calls)| RouteWork::of_calls(name, calls))
        .into();
        if let Some(statistics) = self.app.session_service().map(SessionService::statistics) {
            let closed = statistics.closed.into_iter().filter(|(_, n)| *n > 0);
            work.closed = closed.map(|(reason, n)| (reason.to_owned(), n)).collect();
        }
        for net in self.app.net_stats() {
            for (sums, counts) in [
                (&mut work.refused, net.refused),
                (&mut work.dropped, net.dropped),
            ] {
                for (reason, n) in counts {
                    *sums.entry(reason.to_owned()).or_default() += n;
                }
            }
        }
        work
    }

    pub(super) fn config(self) -> Result<Vec<EffectiveKey>, RemoteError> {
        let config = Operations::of(self.app).and_then(|process| process.config());
        match config {
            Some((started, newest)) => Ok(started.effective(&newest)),
            None => Err(RemoteError::new(
                CONFLICT,
                "its program was not started by a `Launcher`, so there is no configuration to show",
            )),
        }
    }
}
