//! What an operator has done to sessions, wherever they are: which ones, and what. Each frontend does it to its own.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use shaddock_cluster::{Receivers, RemoteError, code};
use shaddock_core::{CloseReason, Session, SessionService, Sid, Uid};

use super::{
    ask::Ask,
    filter::parse_sid,
    predicate::Predicate,
    serve::aside,
    types::Unanswered,
    view::{ClusterView, sort},
};
use crate::{
    app::AppHandle,
    channel::Message,
    session::{SessionError, SessionView, raw_sid},
};

/// After so many sessions others get their turn on the thread.
const AT_A_TIME: usize = 256;
/// Errors that are repeated in an answer; the rest are counted.
const MOST_ERRORS: usize = 3;

/// Which sessions.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Select {
    /// By their ids.
    Sids(Vec<String>),
    /// All of these users.
    Users(Vec<String>),
    /// Those of which this [`Predicate`] is true.
    Where(String),
    /// Every one.
    All,
}

/// What is done to each.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Act {
    Kick {
        reason: String,
    },
    Push {
        route: String,
        body: Value,
    },
    Set {
        values: Map<String, Value>,
        remove: Vec<String>,
    },
    Bind {
        uid: String,
    },
    Unbind,
    Join {
        topic: String,
    },
    Leave {
        topic: String,
    },
}

/// A question: which sessions are there? Answered with [`Found`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Find {
    pub(crate) select: Select,
    /// Whether their ids are wanted.
    pub(crate) list: bool,
}

/// Something to do. Answered with [`Obeyed`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) select: Select,
    pub(crate) act: Act,
}

/// What one frontend has.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Found {
    pub(crate) matched: u64,
    /// All sessions.
    pub(crate) total: u64,
    #[serde(default)]
    pub(crate) sids: Vec<String>,
}

/// What one frontend did.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Obeyed {
    pub(crate) matched: u64,
    /// To how many it was done.
    pub(crate) done: u64,
    /// To how many it could not be done.
    #[serde(default)]
    pub(crate) failed: u64,
    /// Why, for the first of them.
    #[serde(default)]
    pub(crate) errors: Vec<String>,
}

impl Obeyed {
    fn failed(&mut self, error: String) {
        self.failed += 1;
        if self.errors.len() < MOST_ERRORS {
            self.errors.push(error);
        }
    }

    /// Adds what came of other sessions.
    pub(crate) fn add(&mut self, other: Self) {
        self.matched += other.matched;
        self.done += other.done;
        self.failed += other.failed;
        let room = MOST_ERRORS.saturating_sub(self.errors.len());
        self.errors.extend(other.errors.into_iter().take(room));
    }
}

/// What all frontends have, or did: the sum, each one's share, and who did not say.
#[derive(Debug, Default)]
pub(crate) struct Everywhere<T> {
    pub(crate) all: T,
    pub(crate) by_frontend: BTreeMap<String, u64>,
    pub(crate) unanswered: Vec<Unanswered>,
}

impl Select {
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn check(&self) -> Result<(), String> {
        match self {
            Self::Sids(sids) => sids.iter().try_for_each(|sid| parse_sid(sid).map(drop)),
            Self::Users(uids) => uids.iter().try_for_each(|uid| {
                let uid = Uid::new(uid.as_str()).map(drop);
                uid.map_err(|error| format!("a user that cannot be: {error}"))
            }),
            Self::Where(text) => Predicate::parse(text)
                .map(drop)
                .map_err(|error| format!("`where`, {error}")),
            Self::All => Ok(()),
        }
    }

    /// Looks at every session, unless they are named: not for a thread that others wait for.
    fn find(&self, service: &SessionService) -> Result<Vec<Arc<Session>>, String> {
        let mut found = Vec::new();
        match self {
            Self::Sids(sids) => {
                for sid in sids {
                    found.extend(service.get(parse_sid(sid)?));
                }
            }
            Self::Users(uids) => {
                for uid in uids {
                    found.extend(service.get_by_uid(uid));
                }
            }
            Self::Where(text) => {
                let predicate = Predicate::parse(text).map_err(|error| error.to_string())?;
                service.visit_sessions(|session| {
                    if predicate.matches(session) {
                        found.push(Arc::clone(session));
                    }
                });
            }
            Self::All => service.visit_sessions(|session| found.push(Arc::clone(session))),
        }
        Ok(found)
    }
}

impl AppHandle {
    async fn selected(&self, select: Select) -> Result<Vec<Arc<Session>>, RemoteError> {
        let Some(service) = self.session_service().cloned() else {
            return Ok(Vec::new());
        };
        let found = aside(move || select.find(&service)).await?;
        found.map_err(|text| RemoteError::new(code::BAD_REQUEST, text))
    }

    /// Which sessions of this server are meant.
    pub(super) async fn find(&self, find: Find) -> Result<Found, RemoteError> {
        let found = self.selected(find.select).await?;
        let total = self
            .session_service()
            .map_or(0, SessionService::session_count);
        let sids = found
            .iter()
            .filter(|_| find.list)
            .map(|one| one.id().to_string());
        Ok(Found {
            matched: found.len() as u64,
            total: total as u64,
            sids: sids.collect(),
        })
    }

    /// Does something to sessions of this server.
    pub(super) async fn obey(&self, order: Order) -> Result<Obeyed, RemoteError> {
        let sessions = self.selected(order.select).await?;
        let mut done = Obeyed {
            matched: sessions.len() as u64,
            ..Obeyed::default()
        };
        if let Act::Push { route, body } = &order.act {
            let message = Message::new(route, body)
                .map_err(|error| RemoteError::new(code::BAD_REQUEST, error.to_string()))?;
            let sids = sessions.iter().map(|session| raw_sid(session.id()));
            let delivery = message.to(Receivers::Sids(sids.collect()));
            let app = self.clone();
            let delivered = aside(move || app.deliver_here(delivery)).await?;
            done.done = delivered.queued as u64;
            done.failed = done.matched - done.done.min(done.matched);
            done.errors
                .extend(delivered.refused.map(|why| why.to_string()));
            return Ok(done);
        }
        for (number, session) in sessions.iter().enumerate() {
            if number % AT_A_TIME == AT_A_TIME - 1 {
                tokio::task::yield_now().await;
            }
            match self.act_on(session, &order.act).await {
                Ok(has_changed) => done.done += u64::from(has_changed),
                Err(error) => done.failed(error),
            }
        }
        Ok(done)
    }

    /// Whether that changed something.
    async fn act_on(&self, session: &Arc<Session>, act: &Act) -> Result<bool, String> {
        let view = || SessionView::of_session(self, session);
        let text = |error: SessionError| error.to_string();
        match act {
            Act::Kick { reason } => Ok(session.close(CloseReason::kicked(reason.as_str()))),
            Act::Set { values, remove } => session
                .change_settings(values.clone(), remove)
                .map(|()| true)
                .map_err(|error| error.to_string()),
            Act::Bind { uid } => {
                let uid = Uid::new(uid.as_str()).map_err(|error| error.to_string())?;
                self.bind_here(session, uid).await.map_err(text)?;
                Ok(true)
            }
            Act::Unbind => match session.uid() {
                Some(uid) => {
                    let unbound = session.unbind(&uid);
                    unbound.map_err(|error| error.to_string())?;
                    Ok(true)
                }
                None => Ok(false),
            },
            Act::Join { topic } => {
                let joined = self.topic(topic).join(&view()).await;
                Ok(joined.map_err(|error| error.to_string())?.is_new())
            }
            Act::Leave { topic } => {
                let left = self.topic(topic).quit(&view()).await;
                left.map_err(|error| error.message().to_owned())
            }
            Act::Push { .. } => Ok(false),
        }
    }
}

impl ClusterView {
    /// Which sessions of all frontends are meant.
    pub(crate) async fn find(&self, find: &Find) -> Everywhere<Found> {
        let targets = self.holders_of(&find.select);
        let said = self.ask(&targets, &Ask::Find(find.clone())).await;
        let (answers, unanswered) = sort::<Found>(&targets, said);
        let mut everywhere = Everywhere::<Found> {
            unanswered,
            ..Everywhere::default()
        };
        for (server, found) in answers {
            if found.matched > 0 {
                everywhere.by_frontend.insert(server, found.matched);
            }
            everywhere.all.matched += found.matched;
            everywhere.all.total += found.total;
            everywhere.all.sids.extend(found.sids);
        }
        everywhere
    }

    /// Does something to sessions of all frontends, at the same time.
    pub(crate) async fn obey(&self, order: &Order) -> Everywhere<Obeyed> {
        let targets = self.holders_of(&order.select);
        let said = self.ask(&targets, &Ask::Do(order.clone())).await;
        let (answers, unanswered) = sort::<Obeyed>(&targets, said);
        let mut everywhere = Everywhere::<Obeyed> {
            unanswered,
            ..Everywhere::default()
        };
        for (server, done) in answers {
            if done.done > 0 {
                everywhere.by_frontend.insert(server, done.done);
            }
            everywhere.all.add(done);
        }
        everywhere
    }

    /// The frontends that may have such sessions.
    fn holders_of(&self, select: &Select) -> Vec<super::view::Target> {
        let mut targets = self.frontends();
        if let Select::Sids(sids) = select {
            let nodes: Vec<u16> = sids
                .iter()
                .filter_map(|sid| Some(sid.parse::<Sid>().ok()?.node()))
                .collect();
            targets.retain(|target| nodes.iter().any(|node| target.may_hold(*node)));
        }
        targets
    }
}
