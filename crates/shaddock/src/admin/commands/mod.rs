//! The server API: commands for sessions of the whole cluster, one or many in a request.
//!
//! A request is parsed and validated as a whole before anything is done. Then its commands are executed in order, each of which succeeds or
//! fails independently, in a task of their own, so a caller that disconnects does not interrupt a batch.
//!
//! `types.rs` is the JSON, `prepare.rs` validates it, this file answers requests, and `run.rs` executes commands.

mod prepare;
mod run;
mod types;

use std::sync::Arc;

use axum::{
    Extension, Json,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::Value;
use tokio::sync::Semaphore;

use self::prepare::Prepared;
pub use self::types::{
    BindCommand, CallAnswer, CallRequest, Command, CommandOutcome, CommandResult, CountCommand,
    KickCommand, PushCommand, SetCommand, To, TopicCommand,
};
use super::{
    audit::{Audit, Line},
    error::ApiError,
    jobs::{JobStatus, Jobs},
    once::{First, Once},
    tokens::{Caller, Scope},
    trail::Trail,
};
use crate::{
    app::AppHandle,
    operations::Operations,
    operators::{ClusterView, ViewConfig},
};

/// The most commands in one request.
pub(super) const MOST_COMMANDS: usize = 100;
/// Requests that are executed concurrently. Further requests receive 429.
pub(super) const AT_ONCE: usize = 16;
/// The header that makes a request idempotent.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// The state for the execution of commands.
#[derive(Debug, Clone)]
pub(super) struct Api {
    pub(super) operations: Operations,
    pub(super) config: ViewConfig,
    pub(super) audit: Audit,
    pub(super) once: Once,
    pub(super) jobs: Jobs,
    /// Permits; [`AT_ONCE`] in total.
    pub(super) places: Arc<Semaphore>,
}

impl Api {
    pub(super) fn view(&self) -> Result<ClusterView, ApiError> {
        ClusterView::of(&self.operations.apps(), self.config.clone())
            .ok_or_else(ApiError::not_joined)
    }

    fn app(&self) -> Result<AppHandle, ApiError> {
        let apps = self.operations.apps();
        let app = apps.into_iter().find(|app| app.membership().is_ok());
        app.ok_or_else(ApiError::not_joined)
    }
}

/// Parses a request, and checks that the caller's scope permits it.
fn read(caller: &Caller, body: &[u8]) -> Result<(CallRequest, Vec<Prepared>), ApiError> {
    let request: CallRequest = serde_json::from_slice(body).map_err(|error| {
        ApiError::bad_request(format!(
            "the body is invalid: {error}; send {{\"commands\": [..]}} with `dry_run` and `per_second` beside `commands`, as `GET /api/openapi.json` says"
        ))
    })?;
    let count = request.commands.len();
    if !(1..=MOST_COMMANDS).contains(&count) {
        return Err(ApiError::bad_request(format!(
            "{count} commands; a request may contain 1 to {MOST_COMMANDS}"
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
                "command {}: `{}` requires a token with scope `{}`, and this token has `{}`; nothing was done",
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
            format!("{AT_ONCE} requests are being executed; nothing was done, retry later");
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
            results.push(api.execute(&caller, &request, command).await);
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
        let message = "the server failed to complete the request; see its log";
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
