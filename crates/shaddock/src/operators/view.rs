//! All servers of a cluster, asked at the same time.

mod audiences;
mod events;
#[cfg(feature = "admin")]
mod orders;
mod work;

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use serde::de::DeserializeOwned;
use shaddock_cluster::{Cluster, ClusterError, Membership, RemoteError, ServerInfo};
use tokio::time::Instant;

#[cfg(feature = "admin")]
pub(crate) use self::orders::{Everywhere, MOST_FOUND};
use super::{
    DrainRequest, DrainStarted, KickOutcome, KickReport, KickRequest, ServerOverview, ServerStatus,
    SessionInfo, SessionOverview, SessionPage, SessionQuery, Unanswered, WhyUnanswered,
    ask::{Ask, CONFLICT, Departing, Report},
    filter::{Filter, parse_sid},
    join,
    kick::{Kick, KickTarget},
    merge,
    question::{self, Question, unanswered},
    report,
    serve::Operator,
};
use crate::{app::AppHandle, operations::LONGEST_LINGER};

/// Bounds of a view.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ViewConfig {
    /// How long all servers together may take; who has not answered then is named. Default 3 s.
    pub deadline: Duration,
    /// Servers that are asked at the same time; the others wait for one of these places. Default 64.
    pub at_once: usize,
}

impl Default for ViewConfig {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(3),
            at_once: 64,
        }
    }
}

/// How long a tool that joins looks for servers that left the list before.
const LOOK_BACK: Duration = Duration::from_secs(1);

/// Why an operator got nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OperatorError {
    /// The request is invalid. No server was queried.
    #[error("{0}")]
    BadRequest(String),
    /// No server has this id.
    #[error("no server \"{id}\"; the servers are: {known}")]
    NoServer {
        /// The id that was asked for.
        id: String,
        /// The ids that are there.
        known: String,
    },
    /// No frontend that answered has this session.
    #[error("no session {sid}{}", named(.unanswered))]
    NoSession {
        /// The session.
        sid: String,
        /// Frontends that might have it and did not say.
        unanswered: Vec<Unanswered>,
    },
    /// The server answered that it will not.
    #[error("{server}: {reason}")]
    Refused {
        /// The server.
        server: String,
        /// What it said.
        reason: String,
    },
    /// The server did not answer.
    #[error("{}: {}", .0.server, .0.reason)]
    Unanswered(Unanswered),
}

fn named(unanswered: &[Unanswered]) -> String {
    let names: Vec<String> = unanswered
        .iter()
        .map(|one| format!("; {}: {}", one.server, one.reason))
        .collect();
    names.concat()
}

/// The whole cluster, for operators. Cheap to make; every call asks anew.
pub struct ClusterView {
    membership: Arc<dyn Membership>,
    /// Servers of this process, which are asked without a message.
    local: Vec<AppHandle>,
    /// Servers that had left the list before this view joined, and still served.
    departed: Vec<Arc<ServerInfo>>,
    config: ViewConfig,
}

/// A server that can be asked.
pub(super) struct Target {
    info: Arc<ServerInfo>,
    listed: bool,
    here: Option<AppHandle>,
}

impl Target {
    pub(super) fn is(&self, id: &str) -> bool {
        self.info.id == *id
    }

    pub(super) fn is_frontend(&self) -> bool {
        self.info.frontend
    }

    /// Whether it may have made sids of this node.
    pub(super) fn may_hold(&self, node: u16) -> bool {
        self.info.may_be_node(node)
    }
}

impl ClusterView {
    /// The view of a process with these servers; `None` before one of them has joined the others.
    pub fn of(apps: &[AppHandle], config: ViewConfig) -> Option<Self> {
        let membership = apps.iter().find_map(|app| app.membership().ok())?;
        Some(Self {
            membership: Arc::clone(membership),
            local: apps.to_vec(),
            departed: Vec::new(),
            config,
        })
    }

    /// Joins the cluster without being listed, so no requests are routed to it. Call [`leave`](Self::leave) at the end.
    ///
    /// # Errors
    /// The cluster cannot be reached.
    pub async fn join(cluster: &dyn Cluster, config: ViewConfig) -> Result<Self, ClusterError> {
        let mut view = Self {
            membership: join::hidden(cluster).await?,
            local: Vec::new(),
            departed: Vec::new(),
            config,
        };
        let look_back = view.config.deadline.min(LOOK_BACK);
        let targets = view.targets();
        let reports = view.ask_within::<Report>(&targets, &Ask::Report, look_back);
        let mut departed = BTreeMap::new();
        for report in reports.await.into_iter().flatten() {
            let infos = report
                .departing
                .into_iter()
                .filter_map(Departing::into_info);
            departed.extend(infos.map(|info| (info.id.clone(), Arc::new(info))));
        }
        view.departed = departed.into_values().collect();
        Ok(view)
    }

    /// Leaves the cluster, if [`join`](Self::join) has joined it.
    pub async fn leave(self) {
        if self.local.is_empty() {
            self.membership.leave().await;
        }
    }

    /// All servers, each with what it says of itself.
    pub async fn servers(&self) -> ServerOverview {
        let targets = self.targets();
        let said = self.ask::<Report>(&targets, &Ask::Report).await;
        let answered = targets
            .iter()
            .zip(&said)
            .filter_map(|(target, said)| Some((&*target.info, said.as_ref().ok()?)));
        let mut suspicions = report::suspicions(answered);
        let servers = targets.iter().zip(said).filter_map(|(target, said)| {
            let mut status = status(target, said)?;
            status.suspected_by = suspicions.remove(&status.id).unwrap_or_default();
            Some(status)
        });
        ServerOverview {
            servers: servers.collect(),
        }
    }

    /// One server; `None` if it is not there, or has just gone.
    pub async fn server(&self, id: &str) -> Option<ServerStatus> {
        let target = [self.target(id)?];
        let said = self.ask::<Report>(&target, &Ask::Report).await.pop()?;
        status(&target[0], said)
    }

    /// Sessions of all frontends.
    ///
    /// # Errors
    /// The query makes no sense, or names a frontend that is not there.
    pub async fn sessions(&self, query: &SessionQuery) -> Result<SessionOverview, OperatorError> {
        let filter = Filter::new(query).map_err(OperatorError::BadRequest)?;
        let mut targets = self.frontends();
        if let Some(frontend) = &query.frontend {
            targets.retain(|target| target.info.id == **frontend);
            if targets.is_empty() {
                return Err(self.no_server(frontend));
            }
        }
        let said = self.ask(&targets, &Ask::Sessions(query.clone())).await;
        let (pages, unanswered) = sort::<SessionPage>(&targets, said);
        let pages = pages.into_iter().map(|(_, page)| page).collect();
        Ok(merge::pages(pages, filter.limit(), unanswered))
    }

    /// One session with its settings, wherever it is.
    ///
    /// # Errors
    /// It is not there, or its frontend did not answer.
    pub async fn session(&self, sid: &str) -> Result<SessionInfo, OperatorError> {
        let number = parse_sid(sid).map_err(OperatorError::BadRequest)?;
        let targets = self.holders(number.node());
        let answers = self.ask(&targets, &Ask::Session(sid.to_owned())).await;
        let (found, unanswered) = sort::<Option<SessionInfo>>(&targets, answers);
        let sid = sid.to_owned();
        found
            .into_iter()
            .find_map(|(_, session)| session)
            .ok_or(OperatorError::NoSession { sid, unanswered })
    }

    /// Kicks everywhere.
    ///
    /// # Errors
    /// The request makes no sense. Frontends that did not answer are named in the result.
    pub async fn kick(&self, request: &KickRequest) -> Result<KickOutcome, OperatorError> {
        let kick = Kick::new(request).map_err(OperatorError::BadRequest)?;
        let targets = match kick.target {
            KickTarget::Session(sid) => self.holders(sid.node()),
            KickTarget::User(_) | KickTarget::Address(_) => self.frontends(),
        };
        let said = self.ask(&targets, &Ask::Kick(request.clone())).await;
        let (said, mut unanswered) = sort::<KickReport>(&targets, said);
        let hit = said.into_iter().filter(|(_, report)| report.kicked > 0);
        let by_frontend: BTreeMap<_, _> = hit
            .map(|(server, report)| (server, report.kicked))
            .collect();
        let kicked = by_frontend.values().sum();
        // A server that is gone has no sessions, and a session that was found is nowhere else.
        let found = kicked > 0 && matches!(kick.target, KickTarget::Session(_));
        unanswered.retain(|one| one.why != WhyUnanswered::Gone && !found);
        Ok(KickOutcome {
            kicked,
            by_frontend,
            unanswered,
        })
    }

    /// Tells a server to drain: a frontend leaves the list and closes its clients in waves, a backend finishes what it has, then
    /// its process ends. Returns when it has begun; [`server`](Self::server) tells how it goes on.
    ///
    /// # Errors
    /// It is not there, did not answer, or refused.
    pub async fn drain(&self, request: &DrainRequest) -> Result<DrainStarted, OperatorError> {
        if request
            .linger
            .is_some_and(|linger| linger.0 > LONGEST_LINGER.0)
        {
            let text = format!("`linger` is at most {LONGEST_LINGER}");
            return Err(OperatorError::BadRequest(text));
        }
        let Some(target) = self.target(&request.server) else {
            return Err(self.no_server(&request.server));
        };
        let target = [target];
        let ask = Ask::Drain {
            whole_process: request.whole_process,
            linger: request.linger,
        };
        let said = self.ask::<DrainStarted>(&target, &ask).await.pop();
        let [target] = target;
        let server = target.info.id.to_string();
        match said {
            Some(Ok(mut started)) => {
                started.here = target.here.is_some();
                Ok(started)
            }
            Some(Err(error)) if error.code() == CONFLICT => Err(OperatorError::Refused {
                server,
                reason: error.message().to_owned(),
            }),
            Some(Err(error)) => Err(OperatorError::Unanswered(unanswered(&server, &error))),
            None => Err(self.no_server(&server)),
        }
    }

    pub(super) fn no_server(&self, id: &str) -> OperatorError {
        let known: Vec<_> = self
            .targets()
            .iter()
            .map(|target| target.info.id.to_string())
            .collect();
        OperatorError::NoServer {
            id: id.to_owned(),
            known: known.join(", "),
        }
    }

    /// All servers that are known, by type and id.
    pub(super) fn targets(&self) -> Vec<Target> {
        let mut targets = BTreeMap::new();
        let mut add = |info: &Arc<ServerInfo>, listed| {
            let key = (Arc::clone(&info.server_type), info.id.clone());
            if let Entry::Vacant(place) = targets.entry(key) {
                let id = info.id.as_str();
                place.insert(Target {
                    info: Arc::clone(info),
                    listed,
                    here: self.local.iter().find(|app| app.id() == id).cloned(),
                });
            }
        };
        for info in self.membership.members().all() {
            add(&info, true);
        }
        for info in self.membership.departing().iter().chain(&self.departed) {
            add(info, false);
        }
        for app in &self.local {
            // What the cluster knows of it, or before it has joined, what it will say.
            let info = app
                .membership()
                .map_or_else(|_| app.info(), |member| member.info());
            add(info, false);
        }
        targets.into_values().collect()
    }

    pub(super) fn target(&self, id: &str) -> Option<Target> {
        let mut targets = self.targets().into_iter();
        targets.find(|target| target.info.id == *id)
    }

    pub(super) fn frontends(&self) -> Vec<Target> {
        let mut targets = self.targets();
        targets.retain(|target| target.info.frontend);
        targets
    }

    /// Frontends that may have made sids of this node.
    pub(super) fn holders(&self, node: u16) -> Vec<Target> {
        let mut targets = self.frontends();
        targets.retain(|target| target.may_hold(node));
        targets
    }

    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        targets: &[Target],
        ask: &Ask,
    ) -> Vec<Result<T, RemoteError>> {
        self.ask_within(targets, ask, self.config.deadline).await
    }

    /// Asks all, and gives one answer for each, in their order. Servers of this process are asked first, when nothing of this is
    /// on its way yet.
    async fn ask_within<T: DeserializeOwned>(
        &self,
        targets: &[Target],
        ask: &Ask,
        deadline: Duration,
    ) -> Vec<Result<T, RemoteError>> {
        let mut answers: Vec<Option<Result<Bytes, RemoteError>>> = Vec::new();
        for target in targets {
            answers.push(match &target.here {
                Some(app) => Some(Operator::of(app).operate(ask.clone(), 0).await),
                None => None,
            });
        }
        let question = Question::new(&self.membership, ask, Instant::now() + deadline);
        let others = targets.iter().enumerate();
        let others = others.filter(|(_, target)| target.here.is_none());
        let others = others.map(|(n, target)| (n, Arc::clone(&target.info)));
        question
            .put_to(others.collect(), self.config.at_once, &mut answers)
            .await;
        answers.into_iter().map(question::read).collect()
    }
}

impl std::fmt::Debug for ClusterView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterView")
            .field("local", &self.local)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// `None` for a server that had left the list and is gone now.
fn status(target: &Target, said: Result<Report, RemoteError>) -> Option<ServerStatus> {
    let said = said.map_err(|error| unanswered(target.info.id.as_str(), &error));
    let is_gone = said
        .as_ref()
        .is_err_and(|unanswered| unanswered.why == WhyUnanswered::Gone);
    if is_gone && !target.listed {
        return None;
    }
    Some(report::status(
        &target.info,
        target.listed,
        target.here.is_some(),
        said,
    ))
}

/// Tells answers, with the id of who gave them, from servers that gave none. Servers that had left the list and are gone are neither.
pub(super) fn sort<T>(
    targets: &[Target],
    said: Vec<Result<T, RemoteError>>,
) -> (Vec<(String, T)>, Vec<Unanswered>) {
    let (mut answers, mut missing) = (Vec::new(), Vec::new());
    for (target, said) in targets.iter().zip(said) {
        let id = target.info.id.as_str();
        match said {
            Ok(answer) => answers.push((id.to_owned(), answer)),
            Err(error) => {
                let one = unanswered(id, &error);
                if target.listed || one.why != WhyUnanswered::Gone {
                    missing.push(one);
                }
            }
        }
    }
    (answers, missing)
}
