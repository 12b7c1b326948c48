//! How much servers do: plots, routes, and what is configured.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use shaddock_cluster::RemoteError;
use shaddock_core::SessionService;

use super::{
    ask::Ask,
    question::unanswered,
    serve::CONFLICT,
    types::Unanswered,
    view::{ClusterView, OperatorError, Target, sort},
};
use crate::{
    app::AppHandle,
    config::EffectiveKey,
    history::unix_ms,
    metrics::{self, Calls, Latencies},
    operations::Operations,
    series::{STEP_MS, Series},
};

/// The last ten minutes of all servers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LoadReport {
    /// The time of the process that answers: milliseconds since 1970.
    pub now_ms: u64,
    /// Time between two samples.
    pub step_ms: u64,
    /// The servers.
    pub servers: Vec<ServerLoad>,
    /// Servers that did not say.
    pub unanswered: Vec<Unanswered>,
}

/// The last ten minutes of one server.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ServerLoad {
    /// Its id.
    pub id: String,
    /// Whether clients connect to it.
    pub frontend: bool,
    /// Its samples.
    pub series: Series,
}

/// What a server does, route by route. Counts are since its start.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ServerWork {
    /// Milliseconds since 1970, by its clock.
    pub time_ms: u64,
    /// Upper bounds of times, in microseconds.
    pub bounds_us: Vec<u64>,
    /// Its own handlers, by route.
    pub routes: Vec<RouteWork>,
    /// What it asks of others: `forward` (requests of clients for other servers), `http` (for backends), `rpc` (calls of remotes).
    pub calls: Vec<RouteWork>,
    /// Connections turned away, by reason.
    pub refused: BTreeMap<String, u64>,
    /// Sessions closed, by reason.
    pub closed: BTreeMap<String, u64>,
    /// Packages and messages dropped, by reason.
    pub dropped: BTreeMap<String, u64>,
}

/// One route in numbers.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RouteWork {
    /// The route.
    pub route: String,
    /// Answered with an error, or failed.
    pub errors: u64,
    /// Whose handler or filter panicked.
    pub panics: u64,
    /// Which held their thread for 100 ms or longer.
    pub blocked: u64,
    /// How many were answered within each of `bounds_us`, and in the end how many took longer.
    pub answers: Vec<u64>,
}

impl RouteWork {
    fn of_calls(name: &str, calls: &Calls) -> Self {
        Self {
            route: name.to_owned(),
            errors: calls.failed().map(|(_, n)| n).sum(),
            answers: calls.times().counts().collect(),
            ..Self::default()
        }
    }
}

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
            let routes = latencies.read(self.app).into_iter();
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

impl ClusterView {
    /// The last ten minutes of all servers; with `after_ms` only the samples after that time.
    pub async fn load(&self, after_ms: u64) -> LoadReport {
        let targets = self.targets();
        let said = self.ask(&targets, &Ask::Load(after_ms)).await;
        let (answers, unanswered) = sort::<Series>(&targets, said);
        let load = |(id, series): (String, Series)| {
            let frontend = targets
                .iter()
                .any(|target| target.is(&id) && target.is_frontend());
            ServerLoad {
                id,
                frontend,
                series,
            }
        };
        LoadReport {
            now_ms: unix_ms(),
            step_ms: STEP_MS,
            servers: answers.into_iter().map(load).collect(),
            unanswered,
        }
    }

    /// The work of one server, by route.
    ///
    /// # Errors
    /// It is not there, or did not answer.
    pub async fn work(&self, id: &str) -> Result<ServerWork, OperatorError> {
        self.ask_one(id, &Ask::Work).await
    }

    /// What is configured at one server. Secrets are not shown.
    ///
    /// # Errors
    /// It is not there, did not answer, or has none.
    pub async fn config(&self, id: &str) -> Result<Vec<EffectiveKey>, OperatorError> {
        self.ask_one(id, &Ask::Config).await
    }

    async fn ask_one<T: serde::de::DeserializeOwned>(
        &self,
        id: &str,
        ask: &Ask,
    ) -> Result<T, OperatorError> {
        let target: Vec<Target> = self.target(id).into_iter().collect();
        match self.ask::<T>(&target, ask).await.pop() {
            Some(Ok(answer)) => Ok(answer),
            Some(Err(error)) if error.code() == CONFLICT => Err(OperatorError::Refused {
                server: id.to_owned(),
                reason: error.message().to_owned(),
            }),
            Some(Err(error)) => Err(OperatorError::Unanswered(unanswered(id, &error))),
            None => Err(self.no_server(id)),
        }
    }
}
