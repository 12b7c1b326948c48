//! What a server answers to operators, for itself.

use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::Serialize;
use shaddock_cluster::{BoxFuture, RemoteCall, RemoteError, code, split_route};
use shaddock_core::SessionService;

use super::{
    EventPage, KickReport, OPERATE, SessionInfo,
    aside::aside,
    ask::{Ask, CONFLICT, Departing, Report},
    filter::{Filter, parse_sid},
    kick::Kick,
    orders::Orders,
    types::{DrainStarted, DrainStatus, ServerState},
    workload::Workload,
};
use crate::{
    app::AppHandle,
    config::Time,
    operations::{Operations, Phase},
};

type Answer = Result<Bytes, RemoteError>;

/// Answers the requests of operators to this server.
#[derive(Clone, Copy)]
pub(crate) struct Operator<'a> {
    app: &'a AppHandle,
}

impl<'a> Operator<'a> {
    pub(crate) const fn of(app: &'a AppHandle) -> Self {
        Self { app }
    }

    /// Whether a call of another server is for [`serve`](Self::serve).
    pub(crate) fn is_addressed(call: &RemoteCall) -> bool {
        split_route(&call.route).is_ok_and(|(_, short)| short == OPERATE)
    }

    /// Answers an operator who asks through another server.
    pub(crate) fn serve(self, call: &RemoteCall) -> BoxFuture<'static, Answer> {
        let app = self.app.clone();
        let asked = serde_json::from_slice::<Ask>(&call.body);
        let by = call.from.clone();
        Box::pin(async move {
            let ask = asked.map_err(|error| {
                bad_request(format!("this server does not support the request: {error}"))
            })?;
            if matches!(ask, Ask::Kick(_) | Ask::Do(_) | Ask::Drain { .. }) {
                tracing::info!(app = app.id(), ?ask, ?by, "requested by an operator");
            }
            // The question itself is a request that is being served.
            Operator::of(&app).operate(ask, 1).await
        })
    }

    /// Answers an operator. `own` requests at work are the question itself.
    pub(crate) async fn operate(self, ask: Ask, own: u64) -> Answer {
        match ask {
            Ask::Report => json(&self.report(own)),
            Ask::Sessions(query) => {
                let filter = Filter::new(&query).map_err(bad_request)?;
                let services: Vec<_> = self.app.session_service().cloned().into_iter().collect();
                json(&aside(move || filter.page(&services)).await?)
            }
            Ask::Session(sid) => {
                let sid = parse_sid(&sid).map_err(bad_request)?;
                let whole = |service: &SessionService| {
                    Some(SessionInfo::whole(service, &service.get(sid)?))
                };
                json(&self.app.session_service().and_then(whole))
            }
            Ask::Kick(request) => {
                let kick = Kick::new(&request).map_err(bad_request)?;
                let service = self.app.session_service().cloned();
                let kicked = aside(move || service.map_or(0, |service| kick.apply(&service)));
                json(&KickReport {
                    kicked: kicked.await?,
                })
            }
            Ask::Events(query) => {
                let app = self.app.clone();
                let found = aside(move || EventPage::here(app.history(), app.id(), &query)).await?;
                json(&found.map_err(bad_request)?)
            }
            Ask::Audiences(query) => {
                let here = self.look_at(move |service| query.here(service)).await?;
                json(&here)
            }
            Ask::Members(query) => {
                let here = self.look_at(move |service| query.here(service)).await?;
                json(&here)
            }
            Ask::Load(after_ms) => json(&Workload::of(self.app).series(after_ms)),
            Ask::Work => json(&Workload::of(self.app).work()),
            Ask::Config => json(&Workload::of(self.app).config()?),
            Ask::Find(find) => json(&Orders::of(self.app).find(find).await?),
            Ask::Do(order) => json(&Orders::of(self.app).obey(order).await?),
            Ask::Drain {
                whole_process,
                linger,
            } => json(&self.begin_drain(whole_process, linger)?),
        }
    }

    /// Visits all sessions, or all channels and topics, on a blocking thread. A server without sessions has none.
    async fn look_at<T: Default + Send + 'static>(
        self,
        look: impl FnOnce(&SessionService) -> Result<T, String> + Send + 'static,
    ) -> Result<T, RemoteError> {
        match self.app.session_service().cloned() {
            Some(service) => aside(move || look(&service)).await?.map_err(bad_request),
            None => Ok(T::default()),
        }
    }

    fn report(self, own: u64) -> Report {
        let operations = Operations::of(self.app);
        let status = self
            .app
            .membership()
            .map(|membership| membership.status())
            .unwrap_or_default();
        let statistics = self.app.session_service().map(SessionService::statistics);
        let serving = (status.serving as u64).saturating_sub(own);
        Report {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            state: self.state(operations.as_ref()),
            uptime_ms: operations
                .as_ref()
                .map(|process| u64::try_from(process.uptime().as_millis()).unwrap_or(u64::MAX)),
            connections: self.app.open_connections() as u64,
            sessions: statistics.as_ref().map_or(0, |s| s.sessions as u64),
            sessions_relayed: self.app.relays().count().1 as u64,
            drain: operations.as_ref().and_then(|all| self.drain_status(all)),
            users: statistics.as_ref().map_or(0, |s| s.users as u64),
            in_flight: serving + status.pending_calls as u64,
            addresses: self.app.local_addrs(),
            shared_with: self.neighbours(operations.as_ref()),
            departing: self.departing(),
            suspects: self.suspects(),
        }
    }

    fn state(self, operations: Option<&Operations>) -> ServerState {
        match operations.map(Operations::phase) {
            Some(Phase::Starting) => ServerState::Starting,
            Some(Phase::Draining) => ServerState::Draining,
            _ if self.app.is_draining() => ServerState::Draining,
            _ => ServerState::Running,
        }
    }

    /// Other servers of the process.
    fn neighbours(self, operations: Option<&Operations>) -> Vec<String> {
        let apps = operations.map_or_else(Vec::new, Operations::apps);
        let others = apps.iter().filter(|app| app.id() != self.app.id());
        others.map(|app| app.id().to_owned()).collect()
    }

    fn suspects(self) -> Vec<String> {
        let suspects = self
            .app
            .membership()
            .map(|membership| membership.members().suspects());
        let mut ids: Vec<_> = suspects
            .unwrap_or_default()
            .iter()
            .map(ToString::to_string)
            .collect();
        ids.sort();
        ids
    }

    fn departing(self) -> Vec<Departing> {
        let Ok(membership) = self.app.membership() else {
            return Vec::new();
        };
        let departing = membership.departing();
        departing.iter().map(|info| Departing::of(info)).collect()
    }

    /// How far the drain of this process is, as far as it concerns this server.
    fn drain_status(self, operations: &Operations) -> Option<DrainStatus> {
        let end = operations.drain_end()?;
        let resumable = self.app.session_service()?.resume_statistics();
        Some(DrainStatus {
            ends_within_ms: millis(end.saturating_duration_since(Instant::now())),
            disconnected: resumable.dismissed,
            away: resumable.suspended as u64,
        })
    }

    fn begin_drain(
        self,
        whole_process: bool,
        linger: Option<Time>,
    ) -> Result<DrainStarted, RemoteError> {
        let Some(operations) = Operations::of(self.app) else {
            let text = "its program was not started by a `Launcher`, so it cannot be drained remotely; send it SIGTERM";
            return Err(RemoteError::new(CONFLICT, text));
        };
        let process_shared_with = self.neighbours(Some(&operations));
        if !process_shared_with.is_empty() && !whole_process {
            let text = format!(
                "its process also runs {}, which would end too; confirm with `--whole-process`",
                process_shared_with.join(", ")
            );
            return Err(RemoteError::new(CONFLICT, text));
        }
        let apps = operations.apps();
        let services = apps.iter().filter_map(|app| app.session_service());
        let sessions = services.map(SessionService::session_count).sum::<usize>();
        let plan = operations.drain_by_operator(linger);
        tracing::info!(app = self.app.id(), sessions, linger = ?plan.linger, "an operator requested a drain");
        Ok(DrainStarted {
            server: self.app.id().to_owned(),
            sessions: sessions as u64,
            process_shared_with,
            here: false,
            linger_ms: millis(plan.linger),
            ends_within_ms: millis(plan.ends_within),
        })
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn bad_request(text: String) -> RemoteError {
    RemoteError::new(code::BAD_REQUEST, text)
}

fn json(value: &impl Serialize) -> Answer {
    serde_json::to_vec(value)
        .map(Bytes::from)
        .map_err(|error| RemoteError::new(code::INTERNAL, error.to_string()))
}
