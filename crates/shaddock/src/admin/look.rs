//! Views of the whole cluster besides servers and sessions: load, events, channels and topics, configuration.

use axum::{
    Json, Router,
    extract::{Path, Query, State, rejection::QueryRejection},
    routing::get,
};
use serde::Deserialize;

use super::{cluster::Seen, error::ApiError};
use crate::{
    operations::Operations,
    operators::{
        AudiencePage, AudienceQuery, EffectiveKey, EventPage, EventQuery, LoadReport, MemberPage,
        MemberQuery, ServerWork, ViewConfig,
    },
};

type Answer<T> = Result<Json<T>, ApiError>;
type Asked<T> = Result<Query<T>, QueryRejection>;

pub(super) fn routes(config: ViewConfig, operations: Operations) -> Router<Operations> {
    Router::new()
        .route("/api/cluster/servers/{id}/work", get(work))
        .route("/api/cluster/servers/{id}/config", get(configured))
        .route("/api/cluster/load", get(load))
        .route("/api/cluster/events", get(events))
        .route("/api/cluster/audiences", get(audiences))
        .route("/api/cluster/audiences/members", get(members))
        .with_state(Seen { operations, config })
}

fn read<T>(query: Asked<T>) -> Result<T, ApiError> {
    let Query(query) = query.map_err(|error| ApiError::bad_request(error.body_text()))?;
    Ok(query)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LoadQuery {
    /// Only samples after this time.
    #[serde(default)]
    after_ms: u64,
}

async fn load(State(seen): State<Seen>, query: Asked<LoadQuery>) -> Answer<LoadReport> {
    let LoadQuery { after_ms } = read(query)?;
    Ok(Json(seen.view()?.load(after_ms).await))
}

async fn work(State(seen): State<Seen>, Path(id): Path<String>) -> Answer<ServerWork> {
    Ok(Json(seen.view()?.work(&id).await?))
}

async fn configured(State(seen): State<Seen>, Path(id): Path<String>) -> Answer<Vec<EffectiveKey>> {
    Ok(Json(seen.view()?.config(&id).await?))
}

async fn events(State(seen): State<Seen>, query: Asked<EventQuery>) -> Answer<EventPage> {
    let query = read(query)?;
    Ok(Json(seen.view()?.events(&query).await?))
}

async fn audiences(State(seen): State<Seen>, query: Asked<AudienceQuery>) -> Answer<AudiencePage> {
    let query = read(query)?;
    Ok(Json(seen.view()?.audiences(&query).await?))
}

async fn members(State(seen): State<Seen>, query: Asked<MemberQuery>) -> Answer<MemberPage> {
    let query = read(query)?;
    Ok(Json(seen.view()?.members(&query).await?))
}
