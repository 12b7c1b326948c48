//! The server API: commands for sessions of the whole cluster, one or many in a request.
//!
//! A request is understood and judged as a whole before anything is done. Then its commands are carried out in their order, each of which succeeds or
//! fails for itself, in a task of its own: a caller who leaves does not cut a batch in two.

use std::sync::Arc;

use axum::{
    Extension, Json,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::sync::Semaphore;

use super::{
    audit::{self, Audit, Line},
    error::{ApiError, ErrorInfo},
    jobs::{Job, JobStatus, Jobs},
    once::{First, Once},
    tokens::{Caller, Scope},
    trail::Trail,
};
use crate::{
    app::AppHandle,
    operations::Operations,
    operators::{
        Act, ClusterView, Everywhere, Find, Found, MOST_FOUND, Obeyed, Order, Select, Unanswered,
        ViewConfig, WhyUnanswered,
    },
};

/// Commands of one request.
pub(super) const MOST_COMMANDS: usize = 100;
/// Sessions, or users, that one command names.
pub(super) const MOST_NAMED: usize = 1000;
/// Requests that are carried out at the same time. One more is answered with 429.
pub(super) const AT_ONCE: usize = 16;
/// Characters of a kick's reason.
const LONGEST_REASON: usize = 256;
/// The header that makes a request one that is carried out once.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// A request: commands, and how they are carried out.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct CallRequest {
    /// What is to be done, in this order: 1 to 100.
    pub commands: Vec<Command>,
    /// Counts only: nothing is done.
    #[serde(default)]
    pub dry_run: bool,
    /// So many sessions a second, in the background, if a command is about more; the answer then names a job. 0: all at once.
    #[serde(default)]
    pub per_second: u64,
}

/// Something to be done.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Command {
    /// How many sessions there are. Scope `read`.
    Count(CountCommand),
    /// Sends a message. Scope `push`.
    Push(PushCommand),
    /// Closes sessions. Scope `operate`, as all that follow.
    Kick(KickCommand),
    /// Changes settings.
    Set(SetCommand),
    /// Binds a session to a user.
    Bind(BindCommand),
    /// Takes the user away; the sessions stay open.
    Unbind(CountCommand),
    /// Lets the sessions' users into a topic.
    Join(TopicCommand),
    /// Takes them out of it.
    Leave(TopicCommand),
}

/// Which sessions: exactly one of `sid`, `sids`, `uid`, `uids`, `where`, `all` and, for pushes, `topic`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct To {
    /// This session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sid: Option<String>,
    /// These sessions, at most 1,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sids: Option<Vec<String>>,
    /// Every session of this user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Every session of these users, at most 1,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uids: Option<Vec<String>>,
    /// Every session of which this is true, such as `client.version < 1.4 and not uid = null`.
    #[serde(default, rename = "where", skip_serializing_if = "Option::is_none")]
    pub predicate: Option<String>,
    /// The members of this topic; for pushes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// A member of the topic who is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub except: Option<String>,
    /// Every session. With `where` it confirms that the predicate may be true of every session.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
}

/// A command without more.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct CountCommand {
    /// Which sessions.
    pub to: To,
}

/// A message.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct PushCommand {
    /// Which sessions.
    pub to: To,
    /// The route that clients listen to.
    pub route: String,
    /// What they get; not `null`.
    pub body: Value,
}

/// A kick.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct KickCommand {
    /// Which sessions.
    pub to: To,
    /// What clients are told. Default: `kicked by an operator`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A change of settings, in one step for each session.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct SetCommand {
    /// Which sessions.
    pub to: To,
    /// New values; other settings stay.
    #[serde(default)]
    pub values: Map<String, Value>,
    /// Keys that go.
    #[serde(default)]
    pub remove: Vec<String>,
}

/// A bind.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct BindCommand {
    /// The session: a `sid`.
    pub to: To,
    /// Its user from now on.
    pub uid: String,
}

/// Into a topic or out of it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct TopicCommand {
    /// Which sessions; those that are bound to no user cannot join.
    pub to: To,
    /// Its name.
    pub topic: String,
}

/// The answer to a request.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CallAnswer {
    /// One for each command, in their order.
    pub results: Vec<CommandResult>,
}

/// What became of a command: one of both.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CommandResult {
    /// It was carried out, or counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ok: Option<CommandOutcome>,
    /// It was not, and nothing of it was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorInfo>,
}

/// What a command did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CommandOutcome {
    /// How many sessions are meant. Absent of a push to a topic, which is not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matched: Option<u64>,
    /// To how many it was done. Absent of a dry run and of a job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done: Option<u64>,
    /// To how many it could not be done. Of sessions that were looked for before, those of a frontend that did not answer are among them.
    #[serde(default)]
    pub failed: u64,
    /// Why, for the first of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<String>,
    /// How many at which frontend.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub by_frontend: std::collections::BTreeMap<String, u64>,
    /// The job that goes on with it: `GET /api/cluster/jobs/{id}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// Frontends that may have such sessions and did not say what became of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unanswered: Vec<Unanswered>,
}

/// A command that makes sense.
#[derive(Debug, Clone)]
struct Prepared {
    name: &'static str,
    scope: Scope,
    /// As it was written, for the audit log.
    to: Value,
    what: Value,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    Count(Select),
    Do {
        order: Order,
        /// `all` was said.
        may_be_all: bool,
    },
    Topic {
        name: String,
        except: Option<String>,
        route: String,
        body: Value,
    },
}

impl To {
    /// The sessions, for commands other than a push.
    fn select(&self) -> Result<Select, String> {
        if self.topic.is_some() || self.except.is_some() {
            return Err("`topic` and `except` are for pushes".to_owned());
        }
        let given = [
            self.sid.is_some(),
            self.sids.is_some(),
            self.uid.is_some(),
            self.uids.is_some(),
            self.predicate.is_some(),
            self.all && self.predicate.is_none(),
        ];
        if given.iter().filter(|is_given| **is_given).count() != 1 {
            return Err(
                "`to` says which sessions: exactly one of `sid`, `sids`, `uid`, `uids`, `where`, and `\"all\": true`"
                    .to_owned(),
            );
        }
        let select = if let Some(sids) = self.sids.clone().or(self.sid.clone().map(|sid| vec![sid]))
        {
            Select::Sids(sids)
        } else if let Some(uids) = self.uids.clone().or(self.uid.clone().map(|uid| vec![uid])) {
            Select::Users(uids)
        } else if let Some(text) = &self.predicate {
            Select::Where(text.clone())
        } else {
            Select::All
        };
        if let Select::Sids(list) | Select::Users(list) = &select
            && list.len() > MOST_NAMED
        {
            return Err(format!("`to` names {} of at most {MOST_NAMED}", list.len()));
        }
        select.check()?;
        Ok(select)
    }
}

impl Command {
    fn prepare(&self) -> Result<Prepared, String> {
        let prepared = |name, scope, to: &To, what, kind| Prepared {
            name,
            scope,
            to: serde_json::to_value(to).unwrap_or_default(),
            what,
            kind,
        };
        let act = |name, to: &To, what, act| {
            let order = Order {
                select: to.select()?,
                act,
            };
            let kind = Kind::Do {
                order,
                may_be_all: to.all,
            };
            Ok::<_, String>(prepared(name, Scope::Operate, to, what, kind))
        };
        match self {
            Self::Count(CountCommand { to }) => {
                let kind = Kind::Count(to.select()?);
                Ok(prepared("count", Scope::Read, to, Value::Null, kind))
            }
            Self::Push(push) => Ok(prepared(
                "push",
                Scope::Push,
                &push.to,
                json!({"route": push.route}),
                push.prepare()?,
            )),
            Self::Kick(KickCommand { to, reason }) => {
                let reason = reason.as_deref().unwrap_or("kicked by an operator");
                if reason.chars().count() > LONGEST_REASON {
                    return Err(format!(
                        "`reason` may have at most {LONGEST_REASON} characters"
                    ));
                }
                let what = json!({"reason": reason});
                let reason = reason.to_owned();
                act("kick", to, what, Act::Kick { reason })
            }
            Self::Set(SetCommand { to, values, remove }) => {
                if values.is_empty() && remove.is_empty() {
                    return Err("`set` needs `values` or `remove`".to_owned());
                }
                let keys: Vec<&String> = values.keys().collect();
                let what = json!({"values": keys, "remove": remove});
                let (values, remove) = (values.clone(), remove.clone());
                act("set", to, what, Act::Set { values, remove })
            }
            Self::Bind(BindCommand { to, uid }) => {
                if to.sid.is_none() {
                    return Err("`bind` is about one session: `to` is a `sid`".to_owned());
                }
                shaddock_core::Uid::new(uid.as_str())
                    .map_err(|error| format!("`uid` cannot be a user: {error}"))?;
                let what = json!({"uid": uid});
                act("bind", to, what, Act::Bind { uid: uid.clone() })
            }
            Self::Unbind(CountCommand { to }) => act("unbind", to, Value::Null, Act::Unbind),
            Self::Join(TopicCommand { to, topic }) => {
                check_topic(topic)?;
                let what = json!({"topic": topic});
                let topic = topic.clone();
                act("join", to, what, Act::Join { topic })
            }
            Self::Leave(TopicCommand { to, topic }) => {
                check_topic(topic)?;
                let what = json!({"topic": topic});
                let topic = topic.clone();
                act("leave", to, what, Act::Leave { topic })
            }
        }
    }
}

impl PushCommand {
    fn prepare(&self) -> Result<Kind, String> {
        if self.route.is_empty() || self.route.len() > 255 {
            return Err("`route` has 1 to 255 bytes".to_owned());
        }
        if self.body.is_null() {
            return Err(
                "`body` is null, which no client can read; write an object, such as {}".to_owned(),
            );
        }
        let (route, body) = (self.route.clone(), self.body.clone());
        let Some(topic) = &self.to.topic else {
            let order = Order {
                select: self.to.select()?,
                act: Act::Push { route, body },
            };
            return Ok(Kind::Do {
                order,
                // A message to all is an ordinary thing to send.
                may_be_all: true,
            });
        };
        check_topic(topic)?;
        let rest = To {
            topic: None,
            except: None,
            ..self.to.clone()
        };
        if serde_json::to_value(&rest).is_ok_and(|rest| rest != json!({})) {
            return Err(
                "`to` has a `topic` and something else; a push has one receiver".to_owned(),
            );
        }
        Ok(Kind::Topic {
            name: topic.clone(),
            except: self.to.except.clone(),
            route,
            body,
        })
    }
}

fn check_topic(name: &str) -> Result<(), String> {
    match shaddock_cluster::AudienceKey::topic(name) {
        Some(_) => Ok(()),
        None => Err(format!(
            "a topic has a name of 1 to 256 bytes, not {}",
            name.len()
        )),
    }
}

/// What commands need.
#[derive(Debug, Clone)]
pub(super) struct Api {
    pub(super) operations: Operations,
    pub(super) config: ViewConfig,
    pub(super) audit: Audit,
    pub(super) once: Once,
    pub(super) jobs: Jobs,
    /// Places of [`AT_ONCE`].
    pub(super) places: Arc<Semaphore>,
}

impl Api {
    pub(super) fn view(&self) -> Result<ClusterView, ApiError> {
        ClusterView::of(&self.operations.apps(), self.config.clone()).ok_or_else(|| {
            let message = "no server of this process has joined the others yet, or all have left";
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "not_joined", message)
        })
    }

    fn app(&self) -> Result<AppHandle, ApiError> {
        let apps = self.operations.apps();
        let app = apps.into_iter().find(|app| app.membership().is_ok());
        app.ok_or_else(|| {
            let message = "no server of this process has joined the others yet, or all have left";
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "not_joined", message)
        })
    }
}

/// Reads a request, and judges whether this caller may make it.
fn read(caller: &Caller, body: &[u8]) -> Result<(CallRequest, Vec<Prepared>), ApiError> {
    let request: CallRequest = serde_json::from_slice(body).map_err(|error| {
        ApiError::bad_request(format!(
            "the body is not what is expected: {error}; send {{\"commands\": [..]}}, as `GET /api/openapi.json` says"
        ))
    })?;
    let count = request.commands.len();
    if !(1..=MOST_COMMANDS).contains(&count) {
        return Err(ApiError::bad_request(format!(
            "there are {count} commands; a request has 1 to {MOST_COMMANDS}"
        )));
    }
    let mut prepared = Vec::with_capacity(count);
    for (number, command) in request.commands.iter().enumerate() {
        let mut one = command.prepare().map_err(|reason| {
            ApiError::bad_request(format!(
                "command {}: {reason}; nothing was done",
                number + 1
            ))
        })?;
        if request.dry_run {
            one.scope = Scope::Read;
        }
        if !caller.scope.allows(one.scope) {
            return Err(ApiError::forbidden(format!(
                "command {}: `{}` needs a token of scope `{}`, and this one has `{}`; nothing was done",
                number + 1,
                one.name,
                one.scope.name(),
                caller.scope.name()
            )));
        }
        prepared.push(one);
    }
    Ok((request, prepared))
}

pub(super) async fn call(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    let (request, prepared) = read(&caller, &body)?;
    let place = Arc::clone(&api.places).try_acquire_owned().map_err(|_| {
        let message =
            format!("{AT_ONCE} requests are being carried out; nothing was done, ask again later");
        ApiError::new(StatusCode::TOO_MANY_REQUESTS, "too_many", message)
    })?;
    let key = headers.get(IDEMPOTENCY_KEY);
    let key = key.map(|key| key.to_str().unwrap_or_default().to_owned());
    let begun = match key.map(|key| api.once.begin(&caller.name, &key, &body)) {
        None => None,
        Some(first) => match first? {
            First::Yes(begun) => Some(begun),
            First::No(answer) => return Ok(as_json(answer)),
        },
    };
    let working = tokio::spawn(async move {
        let mut results = Vec::with_capacity(prepared.len());
        for command in &prepared {
            results.push(api.carry_out(&caller, &request, command).await);
        }
        let answer = serde_json::to_vec(&CallAnswer { results }).unwrap_or_default();
        let answer = Bytes::from(answer);
        if let Some(begun) = begun {
            begun.end(answer.clone());
        }
        drop(place);
        answer
    });
    let answer = working.await.map_err(|_| {
        let message = "the server could not finish this; its log says why";
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
    })?;
    Ok(as_json(answer))
}

fn as_json(body: Bytes) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

pub(super) async fn job(
    State(api): State<Api>,
    Path(id): Path<String>,
) -> Result<Json<JobStatus>, ApiError> {
    let found = api.jobs.get(&id);
    found
        .map(Json)
        .ok_or_else(|| ApiError::not_found(format!("no job \"{id}\" at this process")))
}

pub(super) async fn stop_job(
    State(api): State<Api>,
    trail: Trail,
    Path(id): Path<String>,
) -> Result<Json<JobStatus>, ApiError> {
    if api.jobs.stop(&id) {
        let mut line = Line::new("stop_job", Value::Null, Value::Null);
        line.job = Some(id.clone());
        trail.note(line).await;
    }
    job(State(api), Path(id)).await
}

impl Api {
    async fn carry_out(
        &self,
        caller: &Caller,
        request: &CallRequest,
        command: &Prepared,
    ) -> CommandResult {
        let mut line = Line::new(command.name, command.to.clone(), command.what.clone());
        line.who.clone_from(&caller.name);
        line.dry_run = request.dry_run;
        let result = match self.run(request, command, &line).await {
            Ok(ok) => CommandResult {
                ok: Some(ok),
                error: None,
            },
            Err(error) => CommandResult {
                ok: None,
                error: Some(error.into_info()),
            },
        };
        if matches!(command.kind, Kind::Count(_)) {
            return result;
        }
        line.time_ms = audit::now_ms();
        if let Some(ok) = &result.ok {
            line.matched = ok.matched;
            line.done = ok.done;
            line.failed = ok.failed;
            line.unanswered = ok.unanswered.iter().map(|one| one.server.clone()).collect();
            line.job.clone_from(&ok.job);
        }
        line.error = result.error.as_ref().map(|error| error.message.clone());
        self.audit.write(&line).await;
        result
    }

    async fn run(
        &self,
        request: &CallRequest,
        command: &Prepared,
        line: &Line,
    ) -> Result<CommandOutcome, ApiError> {
        match &command.kind {
            Kind::Count(select) => self.count(select).await,
            Kind::Topic { name, .. } if request.dry_run => {
                let members = self.app()?.topic(name).len().await.map_err(|error| {
                    ApiError::new(StatusCode::BAD_GATEWAY, "unanswered", error.to_string())
                })?;
                Ok(CommandOutcome {
                    matched: Some(members as u64),
                    ..CommandOutcome::default()
                })
            }
            Kind::Topic {
                name,
                except,
                route,
                body,
            } => {
                let topic = self.app()?.topic(name);
                let push = match except {
                    Some(uid) => topic.push_except(uid, route, body),
                    None => topic.push(route, body),
                };
                push.await
                    .map_err(|error| ApiError::bad_request(error.to_string()))?;
                Ok(CommandOutcome::default())
            }
            Kind::Do { order, may_be_all } => self.order(request, order, *may_be_all, line).await,
        }
    }

    async fn count(&self, select: &Select) -> Result<CommandOutcome, ApiError> {
        let find = Find {
            select: select.clone(),
            list: false,
            after: None,
        };
        let found = self.view()?.find(&find).await;
        Ok(CommandOutcome {
            matched: Some(found.all.matched),
            by_frontend: found.by_frontend,
            unanswered: found.unanswered,
            ..CommandOutcome::default()
        })
    }

    async fn order(
        &self,
        request: &CallRequest,
        order: &Order,
        may_be_all: bool,
        line: &Line,
    ) -> Result<CommandOutcome, ApiError> {
        if request.dry_run {
            return self.count(&order.select).await;
        }
        let view = self.view()?;
        let is_paced = request.per_second > 0;
        let is_guarded = !may_be_all && matches!(order.select, Select::Where(_));
        if !is_paced && !is_guarded {
            return Ok(outcome(view.obey(order).await));
        }
        let find = Find {
            select: order.select.clone(),
            list: true,
            after: None,
        };
        let found = view.find(&find).await;
        confirm(&found, is_guarded)?;
        let Everywhere {
            all,
            by_frontend,
            unanswered,
        } = found;
        let matched = all.sids.len() as u64;
        if is_paced && matched > request.per_second {
            let act = order.act.clone();
            let job = Job {
                act,
                sids: all.sids,
                per_second: request.per_second,
                line: line.clone(),
            };
            return Ok(CommandOutcome {
                matched: Some(matched),
                by_frontend,
                unanswered,
                job: Some(self.jobs.start(self.clone(), job)?),
                ..CommandOutcome::default()
            });
        }
        // Those that were found, and no others: the predicate may be true of more sessions by now.
        let mut ended = outcome(view.obey_each(&all.sids, &order.act).await);
        ended.matched = Some(matched);
        for one in unanswered {
            if ended
                .unanswered
                .iter()
                .all(|other| other.server != one.server)
            {
                ended.unanswered.push(one);
            }
        }
        Ok(ended)
    }
}

/// Whether something may be done to what was found.
fn confirm(found: &Everywhere<Found>, is_guarded: bool) -> Result<(), ApiError> {
    // One that is gone has no sessions, and one that cannot be asked this cannot be told anything either. All others may have sessions that
    // nobody has counted.
    let is_open =
        |one: &&Unanswered| !matches!(one.why, WhyUnanswered::Gone | WhyUnanswered::Unable);
    if let Some(one) = found.unanswered.iter().find(is_open) {
        let message = format!(
            "{} did not say which sessions it has, so nothing was done: {}; try again",
            one.server, one.reason
        );
        return Err(ApiError::new(
            StatusCode::BAD_GATEWAY,
            "unanswered",
            message,
        ));
    }
    if found.all.more {
        let message = format!(
            "more than {MOST_FOUND} sessions are meant, so nothing was done; name fewer at a time (such as with `frontend = ..` or `age > ..` in `where`), \
             or add `\"all\": true` (`--all`) and leave `per_second` out"
        );
        return Err(ApiError::new(StatusCode::CONFLICT, "too_many", message));
    }
    let (matched, total) = (found.all.sids.len() as u64, found.all.total);
    if is_guarded && matched >= total && total > 1 {
        let message = format!(
            "`where` is true of all {total} sessions, so nothing was done; if that is meant, add `\"all\": true` (`--all`)"
        );
        return Err(ApiError::new(StatusCode::CONFLICT, "everybody", message));
    }
    Ok(())
}

fn outcome(ended: Everywhere<Obeyed>) -> CommandOutcome {
    CommandOutcome {
        matched: Some(ended.all.matched),
        done: Some(ended.all.done),
        failed: ended.all.failed,
        errors: ended.all.errors,
        by_frontend: ended.by_frontend,
        unanswered: ended.unanswered,
        job: None,
    }
}
