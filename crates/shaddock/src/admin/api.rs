//! What the admin API does.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::{
    Json,
    extract::{Path, Query, State, rejection::JsonRejection, rejection::QueryRejection},
    http::{StatusCode, header},
    response::IntoResponse,
};
use ipnet::IpNet;
use shaddock_core::{CloseReason, Session, SessionService, Sid};

use super::{
    error::ApiError,
    types::{
        KickReport, KickRequest, ServerList, ServerReport, ServerStats, SessionInfo, SessionPage,
        SessionQuery, Stats,
    },
};
use crate::{
    app::AppHandle,
    metrics::{self, Walk},
    operations::{Operations, Phase},
};

/// Sessions of one page, if the caller does not say.
const PAGE: usize = 100;
/// The most that a page may have.
const LARGEST_PAGE: usize = 1000;
/// Characters of a kick's reason.
const LONGEST_REASON: usize = 256;

type Answer<T> = Result<Json<T>, ApiError>;

pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

pub(super) async fn readyz(State(operations): State<Operations>) -> impl IntoResponse {
    let phase = operations.phase();
    let status = if phase == Phase::Running {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, format!("{}\n", phase.name()))
}

pub(super) async fn metrics(
    State(operations): State<Operations>,
) -> Result<impl IntoResponse, ApiError> {
    let text = visit(move || metrics::render(&operations)).await?;
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text))
}

pub(super) async fn sessions(
    State(operations): State<Operations>,
    query: Result<Query<SessionQuery>, QueryRejection>,
) -> Answer<SessionPage> {
    let Query(query) = query.map_err(|error| {
        ApiError::bad_request(format!(
            "{}; known are uid, address, frontend, transport, limit, after",
            error.body_text()
        ))
    })?;
    let filter = Filter::new(&query)?;
    let limit = query.limit.unwrap_or(PAGE).clamp(1, LARGEST_PAGE);
    let page = visit(move || {
        let services = services(&operations);
        filter.page(&services, limit)
    });
    Ok(Json(page.await?))
}

pub(super) async fn session(
    State(operations): State<Operations>,
    Path(sid): Path<String>,
) -> Answer<SessionInfo> {
    let sid = parse_sid(&sid)?;
    let found = services(&operations)
        .iter()
        .find_map(|service| service.get(sid));
    let session =
        found.ok_or_else(|| ApiError::not_found(format!("no session {sid} in this process")))?;
    Ok(Json(SessionInfo::with_settings(&session)))
}

pub(super) async fn kick(
    State(operations): State<Operations>,
    request: Result<Json<KickRequest>, JsonRejection>,
) -> Answer<KickReport> {
    let Json(request) =
        request.map_err(|error| ApiError::new(error.status(), "bad_request", error.body_text()))?;
    let reason = request.reason.as_deref().unwrap_or("kicked by an operator");
    if reason.chars().count() > LONGEST_REASON {
        let message = format!("`reason` may have at most {LONGEST_REASON} characters");
        return Err(ApiError::bad_request(message));
    }
    let kicked = match (&request.uid, &request.sid, &request.address) {
        (Some(uid), None, None) => kick_uid(&operations, uid, reason).await?,
        (None, Some(sid), None) => kick_sid(&operations, parse_sid(sid)?, reason),
        (None, None, Some(address)) => {
            kick_address(&operations, &AddressFilter::parse(address)?, reason)
        }
        _ => {
            let message = "say who: exactly one of `uid`, `sid` and `address`";
            return Err(ApiError::bad_request(message));
        }
    };
    tracing::info!(
        uid = request.uid,
        sid = request.sid,
        address = request.address,
        reason,
        kicked,
        "kicked by an operator"
    );
    Ok(Json(KickReport { kicked }))
}

async fn kick_uid(operations: &Operations, uid: &str, reason: &str) -> Result<u64, ApiError> {
    let apps = operations.apps();
    let Some(app) = apps.iter().find(|app| app.membership().is_ok()) else {
        return Ok(0);
    };
    let kicked = app.backend_sessions().kick_everywhere(uid, reason).await;
    kicked.map(u64::from).map_err(|error| {
        let message = format!("not every server could be asked: {error}");
        ApiError::new(StatusCode::BAD_GATEWAY, "cluster", message)
    })
}

fn kick_sid(operations: &Operations, sid: Sid, reason: &str) -> u64 {
    let services = services(operations);
    let kicked = services
        .iter()
        .any(|service| service.kick_by_session_id(sid, Some(reason)));
    u64::from(kicked)
}

fn kick_address(operations: &Operations, filter: &AddressFilter, reason: &str) -> u64 {
    let reason = CloseReason::kicked(reason);
    let mut found: Vec<Arc<Session>> = Vec::new();
    for service in services(operations) {
        service.visit_sessions(|session| {
            if filter.matches(session) {
                found.push(Arc::clone(session));
            }
        });
    }
    let closed = found.iter().filter(|session| session.close(reason.clone()));
    closed.count() as u64
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

/// The present state of a drain.
#[derive(serde::Serialize)]
pub(super) struct DrainReport {
    draining: bool,
    sessions: usize,
}

pub(super) async fn drain(
    State(operations): State<Operations>,
    body: Result<Json<serde_json::Map<String, serde_json::Value>>, JsonRejection>,
) -> Result<(StatusCode, Json<DrainReport>), ApiError> {
    let Json(body) = body.map_err(|error| {
        let message = format!("{}; send {{}}", error.body_text());
        ApiError::new(error.status(), "bad_request", message)
    })?;
    if let Some(key) = body.keys().next() {
        let message = format!("unknown key `{key}`; send {{}}");
        return Err(ApiError::bad_request(message));
    }
    let sessions = services(&operations)
        .iter()
        .map(SessionService::session_count)
        .sum();
    tracing::info!(sessions, "an operator asked for a drain");
    operations.request_drain();
    let report = DrainReport {
        draining: true,
        sessions,
    };
    Ok((StatusCode::ACCEPTED, Json(report)))
}

pub(super) async fn unknown() -> ApiError {
    ApiError::not_found(
        "there are GET /healthz, /readyz, /metrics, /api/sessions, /api/sessions/{sid}, /api/servers, /api/stats and POST /api/kick, \
         /api/drain",
    )
}

/// Runs what looks at every session where it holds up nobody.
async fn visit<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| {
        let message = "the server could not finish this; its log says why";
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
    })
}

fn services(operations: &Operations) -> Vec<SessionService> {
    let apps = operations.apps();
    apps.iter()
        .filter_map(|app| app.session_service().cloned())
        .collect()
}

fn parse_sid(text: &str) -> Result<Sid, ApiError> {
    text.parse()
        .map_err(|_| ApiError::bad_request(format!("\"{text}\" is no session id")))
}

/// An address, an address with a port, or a network.
#[derive(Debug, Clone, Copy)]
enum AddressFilter {
    Whole(SocketAddr),
    Network(IpNet),
}

impl AddressFilter {
    fn parse(text: &str) -> Result<Self, ApiError> {
        let network = || {
            text.parse()
                .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        };
        text.parse()
            .map(Self::Whole)
            .or_else(|_| network().map(Self::Network))
            .map_err(|_| {
                ApiError::bad_request(format!(
                    "\"{text}\" is no address; write 192.0.2.7, 192.0.2.7:4711 or 192.0.2.0/24"
                ))
            })
    }

    fn matches(&self, session: &Session) -> bool {
        let Some(address) = session.client_address() else {
            return false;
        };
        let ip = address.ip().to_canonical();
        match self {
            Self::Whole(wanted) => {
                wanted.port() == address.port() && wanted.ip().to_canonical() == ip
            }
            Self::Network(network) => network.contains(&ip),
        }
    }
}

/// Which sessions a query is about.
struct Filter {
    uid: Option<String>,
    address: Option<AddressFilter>,
    frontend: Option<String>,
    transport: Option<String>,
    after: Option<Sid>,
}

impl Filter {
    fn new(query: &SessionQuery) -> Result<Self, ApiError> {
        Ok(Self {
            uid: query.uid.clone(),
            address: query
                .address
                .as_deref()
                .map(AddressFilter::parse)
                .transpose()?,
            frontend: query.frontend.clone(),
            transport: query.transport.clone(),
            after: query.after.as_deref().map(parse_sid).transpose()?,
        })
    }

    fn matches(&self, session: &Session) -> bool {
        self.frontend
            .as_ref()
            .is_none_or(|frontend| session.frontend_id().as_str() == frontend)
            && self
                .transport
                .as_ref()
                .is_none_or(|transport| session.transport().name() == transport)
            && self
                .uid
                .as_ref()
                .is_none_or(|uid| session.uid().is_some_and(|own| own.as_str() == uid))
            && self.address.is_none_or(|address| address.matches(session))
    }

    fn page(&self, services: &[SessionService], limit: usize) -> SessionPage {
        let mut total = 0;
        let mut found: BTreeMap<Sid, Arc<Session>> = BTreeMap::new();
        let mut look = |session: &Arc<Session>| {
            if !self.matches(session) {
                return;
            }
            total += 1;
            if self.after.is_none_or(|after| session.id() > after) {
                found.insert(session.id(), Arc::clone(session));
                // One more than the page shows whether there is a next one; the rest need not be kept.
                if found.len() > limit + 1 {
                    found.pop_last();
                }
            }
        };
        for service in services {
            match &self.uid {
                Some(uid) => service.get_by_uid(uid).iter().for_each(&mut look),
                None => service.visit_sessions(&mut look),
            }
        }
        let more = found.len() > limit;
        let sessions: Vec<_> = found.values().take(limit).map(SessionInfo::of).collect();
        let last = sessions.last().map(|session| session.sid.clone());
        SessionPage {
            total,
            next: last.filter(|_| more),
            sessions,
        }
    }
}
