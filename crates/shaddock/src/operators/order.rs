//! What an operator has done to sessions, wherever they are: which ones, and what. Each frontend does it to its own.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    sync::Arc,
};

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
    view::{ClusterView, Target, sort},
};
use crate::{
    app::AppHandle,
    channel::{Content, Deliveries},
    session::{Binder, SessionError, SessionView, raw_sid},
};

/// After so many sessions others get their turn on the thread.
const AT_A_TIME: usize = 256;
/// Errors that are repeated in an answer; the rest are counted.
const MOST_ERRORS: usize = 3;
/// Sessions that one frontend names in an answer: less than half of what NATS takes as one message.
const PAGE: usize = 20_000;
/// Sessions that are named in an order.
const STEP: usize = 1000;
/// Sessions of all frontends that are named. Above it nothing is done to them one by one.
pub(crate) const MOST_FOUND: usize = 200_000;

/// Which sessions.
#[derive(Clone, Serialize, Deserialize)]
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

/// Its kind and how much there is of it: it may name users, and a predicate values of settings.
impl fmt::Debug for Select {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sids(sids) => write!(f, "{} sids", sids.len()),
            Self::Users(uids) => write!(f, "{} users", uids.len()),
            Self::Where(_) => f.write_str("where"),
            Self::All => f.write_str("all"),
        }
    }
}

/// What is done to each.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Act {
    Kick {
        reason: String,
    },
    Push {
        route: String,
        body: Value,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        latest: Option<String>,
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

impl Act {
    const fn name(&self) -> &'static str {
        match self {
            Self::Kick { .. } => "kick",
            Self::Push { .. } => "push",
            Self::Set { .. } => "set",
            Self::Bind { .. } => "bind",
            Self::Unbind => "unbind",
            Self::Join { .. } => "join",
            Self::Leave { .. } => "leave",
        }
    }
}

/// Its kind: bodies of messages and values of settings are for clients, and not for a log.
impl fmt::Debug for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A question: which sessions are there? Answered with [`Found`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Find {
    pub(crate) select: Select,
    /// Whether their ids are wanted.
    pub(crate) list: bool,
    /// Ids above this one only: the last of the answer before.
    #[serde(default)]
    pub(crate) after: Option<String>,
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
    /// In ascending order.
    #[serde(default)]
    pub(crate) sids: Vec<String>,
    /// Whether there are more than these.
    #[serde(default)]
    pub(crate) more: bool,
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
                uid.map_err(|error| format!("an invalid user: {error}"))
            }),
            Self::Where(text) => Predicate::parse(text)
                .map(drop)
                .map_err(|error| format!("`where`, {error}")),
            Self::All => Ok(()),
        }
    }

    /// Looks at every session, unless they are named: not for a thread that others wait for. With how many sessions there are.
    fn find(&self, service: &SessionService) -> Result<(Vec<Arc<Session>>, usize), String> {
        let mut found = Vec::new();
        // Of the same walk: one that counts later would take those who came meanwhile for sessions of which the predicate is not true.
        let mut seen = None;
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
                let mut visited = 0;
                service.visit_sessions(|session| {
                    visited += 1;
                    if predicate.matches(session) {
                        found.push(Arc::clone(session));
                    }
                });
                seen = Some(visited);
            }
            Self::All => service.visit_sessions(|session| found.push(Arc::clone(session))),
        }
        if matches!(self, Self::Sids(_) | Self::Users(_)) {
            // A session is named twice, perhaps in two spellings: it is one all the same.
            let mut once = HashSet::with_capacity(found.len());
            found.retain(|session| once.insert(session.id()));
        }
        let total = seen.unwrap_or_else(|| service.session_count());
        Ok((found, total))
    }
}

/// Executes the orders of operators at this server.
#[derive(Clone, Copy)]
pub(crate) struct Orders<'a> {
    app: &'a AppHandle,
}

impl<'a> Orders<'a> {
    pub(crate) const fn of(app: &'a AppHandle) -> Self {
        Self { app }
    }

    async fn selected(self, select: Select) -> Result<(Vec<Arc<Session>>, usize), RemoteError> {
        let Some(service) = self.app.session_service().cloned() else {
            return Ok((Vec::new(), 0));
        };
        let found = aside(move || select.find(&service)).await?;
        found.map_err(|text| RemoteError::new(code::BAD_REQUEST, text))
    }

    /// Which sessions of this server are meant.
    pub(super) async fn find(self, find: Find) -> Result<Found, RemoteError> {
        let (found, total) = self.selected(find.select).await?;
        let after = find.after.as_deref().map(parse_sid).transpose();
        let after = after.map_err(|text| RemoteError::new(code::BAD_REQUEST, text))?;
        let sids = found.iter().filter(|_| find.list).map(|one| one.id());
        let (sids, more) = page(sids.collect(), after, PAGE);
        Ok(Found {
            matched: found.len() as u64,
            total: total as u64,
            sids: sids.iter().map(ToString::to_string).collect(),
            more,
        })
    }

    /// Does something to sessions of this server.
    pub(super) async fn obey(self, order: Order) -> Result<Obeyed, RemoteError> {
        let (sessions, _) = self.selected(order.select).await?;
        let mut done = Obeyed {
            matched: sessions.len() as u64,
            ..Obeyed::default()
        };
        if let Act::Push {
            route,
            body,
            latest,
        } = &order.act
        {
            let content = Content {
                route,
                value: body,
                latest: latest.as_deref(),
            };
            let message = content
                .message()
                .map_err(|error| RemoteError::new(code::BAD_REQUEST, error.to_string()))?;
            let sids = sessions.iter().map(|session| raw_sid(session.id()));
            let delivery = message.to(Receivers::Sids(sids.collect()));
            let app = self.app.clone();
            let delivered = aside(move || Deliveries::of(&app).deliver(delivery)).await?;
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
    async fn act_on(self, session: &Arc<Session>, act: &Act) -> Result<bool, String> {
        let view = || SessionView::of_session(self.app, session);
        let text = |error: SessionError| error.to_string();
        match act {
            Act::Kick { reason } => Ok(session.close(CloseReason::kicked(reason.as_str()))),
            Act::Set { values, remove } => session
                .change_settings(values.clone(), remove)
                .map(|()| true)
                .map_err(|error| error.to_string()),
            Act::Bind { uid } => {
                let uid = Uid::new(uid.as_str()).map_err(|error| error.to_string())?;
                Binder::of(self.app)
                    .bind(session, uid)
                    .await
                    .map_err(text)?;
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
                let joined = self.app.topic(topic).join(&view()).await;
                Ok(joined.map_err(|error| error.to_string())?.is_new())
            }
            Act::Leave { topic } => {
                let left = self.app.topic(topic).quit(&view()).await;
                left.map_err(|error| error.message().to_owned())
            }
            Act::Push { .. } => Ok(false),
        }
    }
}

/// The first `most` above `after`, each once, in ascending order, and whether there are more.
fn page(mut sids: Vec<Sid>, after: Option<Sid>, most: usize) -> (Vec<Sid>, bool) {
    sids.retain(|sid| after.is_none_or(|after| *sid > after));
    sids.sort_unstable();
    sids.dedup();
    let more = sids.len() > most;
    sids.truncate(most);
    (sids, more)
}

impl ClusterView {
    /// Which sessions of all frontends are meant. If they are listed, all are, in several answers where there are many; `more` says
    /// that they were above [`MOST_FOUND`].
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
                everywhere.by_frontend.insert(server.clone(), found.matched);
            }
            everywhere.all.matched += found.matched;
            everywhere.all.total += found.total;
            let mut last = found.sids.last().filter(|_| found.more).cloned();
            everywhere.all.sids.extend(found.sids);
            let target = targets.iter().find(|target| target.is(&server));
            while let (Some(after), Some(target)) = (last.take(), target) {
                if everywhere.all.sids.len() > MOST_FOUND {
                    break;
                }
                last = self.find_more(find, target, after, &mut everywhere).await;
            }
        }
        everywhere.all.more = everywhere.all.sids.len() > MOST_FOUND;
        everywhere
    }

    /// The next sessions of a frontend; returns the last of them if there are more.
    async fn find_more(
        &self,
        find: &Find,
        target: &Target,
        after: String,
        found: &mut Everywhere<Found>,
    ) -> Option<String> {
        let next = Find {
            after: Some(after),
            ..find.clone()
        };
        let target = std::slice::from_ref(target);
        let said = self.ask(target, &Ask::Find(next)).await;
        let (answers, unanswered) = sort::<Found>(target, said);
        found.unanswered.extend(unanswered);
        let (_, answer) = answers.into_iter().next()?;
        let last = answer.sids.last().filter(|_| answer.more).cloned();
        found.all.sids.extend(answer.sids);
        last
    }

    /// Does something to sessions of all frontends, at the same time.
    pub(crate) async fn obey(&self, order: &Order) -> Everywhere<Obeyed> {
        let targets = self.holders_of(&order.select);
        self.obey_at(&targets, order).await
    }

    async fn obey_at(&self, targets: &[Target], order: &Order) -> Everywhere<Obeyed> {
        let said = self.ask(targets, &Ask::Do(order.clone())).await;
        let (answers, unanswered) = sort::<Obeyed>(targets, said);
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

    /// Does something to these sessions and no others. Those of a frontend that does not answer count as failed, and it is not asked again.
    pub(crate) async fn obey_each(&self, sids: &[String], act: &Act) -> Everywhere<Obeyed> {
        let mut sum = Everywhere::<Obeyed>::default();
        for some in sids.chunks(STEP) {
            let order = Order {
                select: Select::Sids(some.to_vec()),
                act: act.clone(),
            };
            let mut targets = self.holders_of(&order.select);
            let before = targets.len();
            targets.retain(|target| !sum.unanswered.iter().any(|one| target.is(&one.server)));
            let is_whole = targets.len() == before;
            let one = self.obey_at(&targets, &order).await;
            if !is_whole || !one.unanswered.is_empty() {
                sum.all.failed += (some.len() as u64).saturating_sub(one.all.matched);
            }
            for (server, done) in one.by_frontend {
                *sum.by_frontend.entry(server).or_default() += done;
            }
            sum.unanswered.extend(one.unanswered);
            sum.all.add(one.all);
        }
        sum
    }

    /// The frontends that may have such sessions.
    fn holders_of(&self, select: &Select) -> Vec<Target> {
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_log_names_changed_keys_and_no_values() {
        let secret = || "hush-hush".to_owned();
        let values = json!({"hush-hush": "hush-hush"});
        let Value::Object(map) = values.clone() else {
            unreachable!()
        };
        let acts = [
            Act::Kick { reason: secret() },
            Act::Push {
                route: secret(),
                body: values,
                latest: Some(secret()),
            },
            Act::Set {
                values: map,
                remove: vec![secret()],
            },
            Act::Bind { uid: secret() },
            Act::Unbind,
            Act::Join { topic: secret() },
            Act::Leave { topic: secret() },
        ];
        let selects = [
            (Select::Sids(vec![secret(); 3]), "3 sids"),
            (Select::Users(vec![secret(); 2]), "2 users"),
            (Select::Where(format!("settings.a = {}", secret())), "where"),
            (Select::All, "all"),
        ];
        for act in &acts {
            for (select, said) in &selects {
                let order = Order {
                    select: select.clone(),
                    act: act.clone(),
                };
                let text = format!("{:?}", Ask::Do(order));
                assert!(
                    text.contains(act.name()) && text.contains(said) && !text.contains("hush"),
                    "{text}"
                );
            }
        }
    }

    #[test]
    fn pages_have_every_session_once() {
        let sid = |n: u64| n.to_string().parse::<Sid>().unwrap();
        let all: Vec<Sid> = [7, 3, 9, 3, 1, 8].map(sid).to_vec();
        for most in 1..8 {
            let (mut listed, mut after) = (Vec::new(), None);
            loop {
                let (some, more) = page(all.clone(), after, most);
                assert!(some.len() <= most);
                after = some.last().copied();
                listed.extend(some);
                if !more {
                    break;
                }
            }
            assert_eq!(listed, [1, 3, 7, 8, 9].map(sid), "{most}");
        }
    }
}
