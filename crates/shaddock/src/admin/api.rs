//! The handlers of the admin API.

use std::collections::BTreeMap;

use axum::{
    Extension, Json,
    extract::{Path, Query, State, rejection::JsonRejection, rejection::QueryRejection},
    http::{HeaderMap, Method, StatusCode, Uri, header},
    response::IntoResponse,
};
use serde_json::{Value, json};
use shaddock_core::SessionService;

use super::{
    answers::{DrainReport, ProcessDrain, WhoAmI},
    audit::Line,
    error::ApiError,
    openapi,
    tokens::Caller,
    trail::Trail,
    types::{ServerList, ServerReport, ServerStats, Stats},
};
use crate::{
    app::AppHandle,
    metrics::{self, Walk},
    operations::{LONGEST_LINGER, Operations},
    operators::{
        Filter, Kick, KickReport, KickRequest, KickTarget, Predicate, SessionInfo, SessionPage,
        SessionQuery, parse_sid,
    },
};

type Answer<T> = Result<Json<T>, ApiError>;

pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

pub(super) async fn readyz(State(operations): State<Operations>) -> impl IntoResponse {
    match operations.not_ready() {
        None => (StatusCode::OK, "running\n".to_owned()),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

pub(super) async fn metrics(
    State(operations): State<Operations>,
    headers: HeaderMap,
) -> Result<impl IntoResponse, ApiError> {
    let accepts = |kind: &str| {
        let mut said = headers.get_all(header::ACCEPT).iter();
        said.any(|value| value.to_str().is_ok_and(|value| value.contains(kind)))
    };
    let is_classic = accepts("text/plain") && !accepts("openmetrics");
    let text = visit(move || {
        let text = metrics::render(&operations);
        if is_classic {
            metrics::classic(&text)
        } else {
            text
        }
    });
    let kind = if is_classic {
        metrics::CLASSIC_TYPE
    } else {
        metrics::CONTENT_TYPE
    };
    Ok(([(header::CONTENT_TYPE, kind)], text.await?))
}

pub(super) async fn sessions(
    State(operations): State<Operations>,
    query: Result<Query<SessionQuery>, QueryRejection>,
) -> Answer<SessionPage> {
    let filter = Filter::new(&read_query(query)?).map_err(ApiError::bad_request)?;
    let page = visit(move || {
        let services = services(&operations);
        filter.page(&services)
    });
    Ok(Json(page.await?))
}

pub(super) fn read_query(
    query: Result<Query<SessionQuery>, QueryRejection>,
) -> Result<SessionQuery, ApiError> {
    let Query(query) = query.map_err(|error| {
        ApiError::bad_request(format!(
            "{}; known are where, uid, address, frontend, transport, client, version, platform, limit, after",
            error.body_text()
        ))
    })?;
    if let Some(text) = &query.predicate {
        Predicate::parse(text).map_err(|error| {
            ApiError::bad_request(format!("`where`, {error}")).at_column(error.column)
        })?;
    }
    Ok(query)
}

pub(super) async fn session(
    State(operations): State<Operations>,
    Path(sid): Path<String>,
) -> Answer<SessionInfo> {
    let sid = parse_sid(&sid).map_err(ApiError::bad_request)?;
    let services = services(&operations);
    let mut found = services
        .iter()
        .filter_map(|service| Some(SessionInfo::whole(service, &service.get(sid)?)));
    let session = found.next();
    session
        .map(Json)
        .ok_or_else(|| ApiError::not_found(format!("no session {sid} in this process")))
}

pub(super) async fn kick(
    State(operations): State<Operations>,
    trail: Trail,
    request: Result<Json<KickRequest>, JsonRejection>,
) -> Answer<KickReport> {
    let request = read_body(request)?;
    let kick = Kick::new(&request).map_err(ApiError::bad_request)?;
    to_its_end(async move {
        let ended = match &kick.target {
            KickTarget::User(uid) => kick_uid(&operations, uid, &kick.reason).await,
            KickTarget::Session(_) | KickTarget::Address(_) => {
                let (services, kick) = (services(&operations), kick.clone());
                visit(move || services.iter().map(|service| kick.apply(service)).sum()).await
            }
        };
        let mut line = line_of_kick(&request);
        match &ended {
            Ok(kicked) => line.done = Some(*kicked),
            Err(error) => line.error = Some(error.text().to_owned()),
        }
        trail.note(line).await;
        let kicked = ended?;
        log_kick(&request, kicked);
        Ok(Json(KickReport { kicked }))
    })
    .await
}

/// Runs work to its end even if the caller disconnects, so that its audit line is complete.
pub(super) async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, ApiError>> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::spawn(work).await.unwrap_or_else(|_| Err(broken()))
}

pub(super) fn line_of_kick(request: &KickRequest) -> Line {
    let to = [
        ("uid", &request.uid),
        ("sid", &request.sid),
        ("address", &request.address),
    ];
    let said = |(name, value): (&str, &Option<String>)| {
        let value = value.as_deref()?;
        Some((name.to_owned(), json!(value)))
    };
    let to = to.into_iter().filter_map(said).collect();
    Line::new("kick", Value::Object(to), json!({"reason": request.reason}))
}

pub(super) fn read_body<T>(body: Result<Json<T>, JsonRejection>) -> Result<T, ApiError> {
    let Json(body) =
        body.map_err(|error| ApiError::new(error.status(), "bad_request", error.body_text()))?;
    Ok(body)
}

pub(super) fn log_kick(request: &KickRequest, kicked: u64) {
    tracing::info!(
        uid = request.uid,
        sid = request.sid,
        address = request.address,
        reason = request.reason,
        kicked,
        "kicked by an operator"
    );
}

async fn kick_uid(operations: &Operations, uid: &str, reason: &str) -> Result<u64, ApiError> {
    let apps = operations.apps();
    let Some(app) = apps.iter().find(|app| app.membership().is_ok()) else {
        return Ok(0);
    };
    let kicked = app.backend_sessions().kick_everywhere(uid, reason).await;
    kicked.map(u64::from).map_err(|error| {
        let message = format!("not every server could be queried: {error}");
        ApiError::new(StatusCode::BAD_GATEWAY, "cluster", message)
    })
}

pub(super) async fn servers(State(operations): State<Operations>) -> Json<ServerList> {
    let apps = operations.apps();
    let mut servers: BTreeMap<(String, String), ServerReport> = BTreeMap::new();
    let known = apps.iter().find_map(|app| app.membership().ok());
    for info in known.map_or_else(Vec::new, |membership| membership.members().all()) {
        servers.insert(
            (info.server_type.to_string(), info.id.as_str().to_owned()),
            ServerReport {
                id: info.id.as_str().to_owned(),
                server_type: info.server_type.to_string(),
                frontend: info.frontend,
                here: false,
                addresses: Vec::new(),
                connections: 0,
                sessions: 0,
                users: 0,
                metadata: info
                    .metadata
                    .iter()
                    .map(|(key, value)| (key.clone(), value.clone()))
                    .collect(),
            },
        );
    }
    for app in &apps {
        let key = (app.server_type().to_owned(), app.id().to_owned());
        if let Some(server) = servers.get_mut(&key) {
            let statistics = app.session_service().map(SessionService::statistics);
            server.here = true;
            server.addresses = app.local_addrs();
            server.connections = app.open_connections() as u64;
            server.sessions = statistics.as_ref().map_or(0, |s| s.sessions as u64);
            server.users = statistics.as_ref().map_or(0, |s| s.users as u64);
        }
    }
    Json(ServerList {
        servers: servers.into_values().collect(),
    })
}

pub(super) async fn stats(State(operations): State<Operations>) -> Answer<Stats> {
    let stats = visit(move || Stats {
        version: env!("CARGO_PKG_VERSION"),
        phase: operations.phase(),
        uptime_ms: u64::try_from(operations.uptime().as_millis()).unwrap_or(u64::MAX),
        resident_bytes: metrics::process::read().map(|process| process.resident_bytes),
        servers: operations.apps().iter().map(server_stats).collect(),
    });
    Ok(Json(stats.await?))
}

fn server_stats(app: &AppHandle) -> ServerStats {
    let mut stats = ServerStats {
        id: app.id().to_owned(),
        server_type: app.server_type().to_owned(),
        connections: app.open_connections() as u64,
        pushes: app.stats().pushed.get(),
        errors: app.stats().errors.get(),
        ..ServerStats::default()
    };
    if let Some(service) = app.session_service() {
        let statistics = service.statistics();
        let walk = Walk::of(service);
        stats.sessions = statistics.sessions as u64;
        stats.users = statistics.users as u64;
        stats.bound_sessions = walk.bound;
        stats.outbox_bytes = walk.queued_bytes;
    }
    for net in app.net_stats() {
        stats.accepted += net.accepted;
        stats.handshakes += net.opened;
        stats.requests += net.requests;
        stats.notifies += net.notifies;
        stats.bytes_in += net.bytes_in;
        stats.bytes_out += net.bytes_out;
        for (target, source) in [
            (&mut stats.refused, net.refused),
            (&mut stats.closed, net.closed),
            (&mut stats.dropped, net.dropped),
        ] {
            for (reason, n) in source {
                *target.entry(reason).or_default() += n;
            }
        }
    }
    stats
}

pub(super) async fn drain(
    State(operations): State<Operations>,
    trail: Trail,
    body: Result<Json<ProcessDrain>, JsonRejection>,
) -> Result<(StatusCode, Json<DrainReport>), ApiError> {
    let Json(body) = body.map_err(|error| {
        let message = format!(
            "{}; send {{}} or {{\"linger\": \"10m\"}}",
            error.body_text()
        );
        ApiError::new(error.status(), "bad_request", message)
    })?;
    if body
        .linger
        .is_some_and(|linger| linger.0 > LONGEST_LINGER.0)
    {
        let message = format!("`linger` is at most {LONGEST_LINGER}");
        return Err(ApiError::bad_request(message));
    }
    let sessions = services(&operations)
        .iter()
        .map(SessionService::session_count)
        .sum();
    tracing::info!(sessions, "an operator requested a drain");
    // Written before the process ends.
    let what = body.linger.map(|linger| json!({ "linger": linger }));
    let line = Line::new("drain", Value::Null, what.unwrap_or_default());
    trail.note(line).await;
    operations.drain_by_operator(body.linger);
    let report = DrainReport {
        draining: true,
        sessions,
    };
    Ok((StatusCode::ACCEPTED, Json(report)))
}

pub(super) async fn unknown() -> ApiError {
    ApiError::not_found(openapi::list())
}

pub(super) async fn wrong_method(method: Method, uri: Uri) -> ApiError {
    let (path, list) = (uri.path(), openapi::list());
    let message = format!("{path} does not support {method}; {list}");
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "wrong_method", message)
}

pub(super) async fn whoami(
    State(operations): State<Operations>,
    Extension(caller): Extension<Caller>,
) -> Json<WhoAmI> {
    let apps = operations.apps();
    Json(WhoAmI {
        scope: caller.scope,
        name: caller.name,
        version: env!("CARGO_PKG_VERSION"),
        servers: apps.iter().map(|app| app.id().to_owned()).collect(),
    })
}

pub(super) async fn openapi() -> Json<Value> {
    Json(openapi::document())
}

/// Runs work that visits every session on a blocking thread, where it delays no other work.
async fn visit<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| broken())
}

fn broken() -> ApiError {
    let message = "the server failed to complete the request; see its log";
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
}

fn services(operations: &Operations) -> Vec<SessionService> {
    let apps = operations.apps();
    apps.iter()
        .filter_map(|app| app.session_service().cloned())
        .collect()
}
