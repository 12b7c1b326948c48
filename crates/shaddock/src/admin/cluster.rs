//! The admin API of the whole cluster, which every process serves.

use axum::{
    Json, Router,
    extract::{Path, Query, State, rejection::JsonRejection, rejection::QueryRejection},
    http::StatusCode,
    routing::{get, post},
};

use serde_json::json;

use super::{
    api::{line_of_kick, log_kick, read_body, read_query, to_its_end},
    audit::Line,
    error::ApiError,
    trail::Trail,
};
use crate::{
    operations::Operations,
    operators::{
        ClusterView, DrainRequest, DrainStarted, KickOutcome, KickRequest, OperatorError,
        ServerOverview, ServerStatus, SessionInfo, SessionOverview, SessionQuery, ViewConfig,
    },
};

type Answer<T> = Result<Json<T>, ApiError>;

/// The state for requests about the cluster.
#[derive(Clone)]
pub(super) struct Seen {
    pub(super) operations: Operations,
    pub(super) config: ViewConfig,
}

impl Seen {
    pub(super) fn view(&self) -> Result<ClusterView, ApiError> {
        ClusterView::of(&self.operations.apps(), self.config.clone())
            .ok_or_else(ApiError::not_joined)
    }
}

pub(super) fn routes(config: ViewConfig, operations: Operations) -> Router<Operations> {
    let drain = Router::new()
        .route("/api/cluster/drain", post(drain))
        .with_state(Seen {
            operations: operations.clone(),
            config: config.clone(),
        });
    shown_routes(config, operations).merge(drain)
}

/// All routes except drains.
pub(super) fn shown_routes(config: ViewConfig, operations: Operations) -> Router<Operations> {
    Router::new()
        .route("/api/cluster/servers", get(servers))
        .route("/api/cluster/servers/{id}", get(server))
        .route("/api/cluster/sessions", get(sessions))
        .route("/api/cluster/sessions/{sid}", get(session))
        .route("/api/cluster/kick", post(kick))
        .with_state(Seen { operations, config })
}

async fn servers(State(seen): State<Seen>) -> Answer<ServerOverview> {
    Ok(Json(seen.view()?.servers().await))
}

async fn server(State(seen): State<Seen>, Path(id): Path<String>) -> Answer<ServerStatus> {
    let found = seen.view()?.server(&id).await;
    found
        .map(Json)
        .ok_or_else(|| ApiError::not_found(format!("no server \"{id}\"")))
}

async fn sessions(
    State(seen): State<Seen>,
    query: Result<Query<SessionQuery>, QueryRejection>,
) -> Answer<SessionOverview> {
    let query = read_query(query)?;
    Ok(Json(seen.view()?.sessions(&query).await?))
}

async fn session(State(seen): State<Seen>, Path(sid): Path<String>) -> Answer<SessionInfo> {
    Ok(Json(seen.view()?.session(&sid).await?))
}

async fn kick(
    State(seen): State<Seen>,
    trail: Trail,
    request: Result<Json<KickRequest>, JsonRejection>,
) -> Answer<KickOutcome> {
    let request = read_body(request)?;
    let view = seen.view()?;
    to_its_end(async move {
        let outcome = view.kick(&request).await?;
        let mut line = line_of_kick(&request);
        line.done = Some(outcome.kicked);
        let silent = outcome.unanswered.iter().map(|one| one.server.clone());
        line.unanswered = silent.collect();
        trail.note(line).await;
        log_kick(&request, outcome.kicked);
        Ok(Json(outcome))
    })
    .await
}

async fn drain(
    State(seen): State<Seen>,
    trail: Trail,
    request: Result<Json<DrainRequest>, JsonRejection>,
) -> Result<(StatusCode, Json<DrainStarted>), ApiError> {
    let request = read_body(request)?;
    let view = seen.view()?;
    to_its_end(async move {
        let started = view.drain(&request).await;
        let mut what = json!({"whole_process": request.whole_process});
        if let Some(linger) = request.linger {
            what["linger"] = json!(linger);
        }
        let mut line = Line::new("drain", json!({"server": request.server}), what);
        line.error = started.as_ref().err().map(ToString::to_string);
        trail.note(line).await;
        Ok((StatusCode::ACCEPTED, Json(started?)))
    })
    .await
}

impl From<OperatorError> for ApiError {
    fn from(error: OperatorError) -> Self {
        let (status, code) = match &error {
            OperatorError::BadRequest(_) => (StatusCode::BAD_REQUEST, "bad_request"),
            OperatorError::NoServer { .. } | OperatorError::NoSession { .. } => {
                (StatusCode::NOT_FOUND, "not_found")
            }
            OperatorError::Refused { .. } => (StatusCode::CONFLICT, "refused"),
            OperatorError::Unanswered(_) => (StatusCode::BAD_GATEWAY, "unanswered"),
        };
        Self::new(status, code, error.to_string())
    }
}
