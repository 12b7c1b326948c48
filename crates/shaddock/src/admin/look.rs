//! Views of the whole cluster besides servers and sessions: load, events, channels and topics, configuration.

use axum::{
    Json, Router,
    extract::{Path, Query, State, rejection::QueryRejection},
    routing::get,
};
use serde::Deserialize;

use super::{
    cluster::Seen,
    error::ApiError,
    openapi::{Example, value},
};
use crate::{
    operations::Operations,
    operators::{
        AudienceInfo, AudienceName, AudiencePage, AudienceQuery, EffectiveKey, EventPage,
        EventQuery, LoadReport, Member, MemberPage, MemberQuery, RouteWork, Series, ServerLoad,
        ServerWork, SessionRecord, Unanswered, ViewConfig, WhyUnanswered,
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

/// One example of each response with all optional members, for the OpenAPI document.
pub(super) fn examples() -> Vec<Example> {
    let text = || "text".to_owned();
    let unanswered = || {
        vec![Unanswered {
            server: text(),
            why: WhyUnanswered::Silent,
            reason: text(),
        }]
    };
    let counts = || [(text(), 1)].into();
    let route = || RouteWork {
        route: text(),
        errors: 1,
        panics: 1,
        blocked: 1,
        answers: vec![1],
    };
    let load = LoadReport {
        now_ms: 1,
        step_ms: 1,
        servers: vec![ServerLoad {
            id: text(),
            frontend: true,
            series: Series {
                columns: vec![text()],
                rows: vec![vec![1]],
                bounds_us: vec![1],
                answers: vec![vec![1]],
            },
        }],
        unanswered: unanswered(),
    };
    let work = ServerWork {
        time_ms: 1,
        bounds_us: vec![1],
        routes: vec![route()],
        calls: vec![route()],
        refused: counts(),
        closed: counts(),
        dropped: counts(),
    };
    let events = EventPage {
        events: vec![SessionRecord {
            time_ms: 1,
            event: text(),
            sid: text(),
            frontend: text(),
            uid: Some(text()),
            address: Some(([127, 0, 0, 1], 1).into()),
            age_ms: 1,
            reason: Some(text()),
            code: Some(1),
            text: Some(text()),
        }],
        since_ms: Some(1),
        unanswered: unanswered(),
    };
    let audiences = AudiencePage {
        audiences: vec![AudienceInfo {
            name: AudienceName {
                key: text(),
                kind: text(),
                name: text(),
                owner: Some(text()),
            },
            members: 1,
            by_frontend: counts(),
        }],
        next: Some(text()),
        unanswered: unanswered(),
    };
    let members = MemberPage {
        members: vec![Member {
            uid: text(),
            frontend: text(),
        }],
        total: 1,
        next: Some(text()),
        unanswered: unanswered(),
    };
    vec![
        (
            "LoadReport",
            &["now_ms", "step_ms", "servers"],
            value(&load),
        ),
        (
            "ServerWork",
            &["time_ms", "bounds_us", "routes"],
            value(&work),
        ),
        ("EventPage", &["events"], value(&events)),
        ("AudiencePage", &["audiences"], value(&audiences)),
        ("MemberPage", &["members", "total"], value(&members)),
    ]
}
