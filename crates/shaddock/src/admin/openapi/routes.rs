//! The routes of the admin server, with their scopes.

use std::fmt::Write as _;

use crate::admin::tokens::Scope;

/// The prefix of the application's routes. Those with GET change nothing.
const OWN: &str = "/api/app/";

/// A route of the admin server.
pub(crate) struct Route {
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
    /// `None`: any token is accepted; a command has its own scope.
    pub(crate) scope: Option<Scope>,
    pub(super) summary: &'static str,
    /// Names of schemas.
    pub(super) body: Option<&'static str>,
    pub(super) answer: &'static str,
    pub(super) status: u16,
}

const fn get(path: &'static str, answer: &'static str, summary: &'static str) -> Route {
    Route {
        method: "GET",
        path,
        scope: Some(Scope::Read),
        summary,
        body: None,
        answer,
        status: 200,
    }
}

const fn post(
    path: &'static str,
    body: &'static str,
    answer: &'static str,
    status: u16,
    summary: &'static str,
) -> Route {
    Route {
        method: "POST",
        path,
        scope: Some(Scope::Operate),
        summary,
        body: Some(body),
        answer,
        status,
    }
}

/// All routes that require a token if tokens are configured.
pub(crate) const ROUTES: &[Route] = &[
    Route {
        scope: None,
        ..post(
            "/api/cluster/call",
            "CallRequest",
            "CallAnswer",
            200,
            "Commands for sessions of the whole cluster",
        )
    },
    get(
        "/api/cluster/jobs/{id}",
        "JobStatus",
        "The progress of a paced command",
    ),
    post(
        "/api/cluster/jobs/{id}/stop",
        "Nothing",
        "JobStatus",
        200,
        "Stops a paced command",
    ),
    get(
        "/api/cluster/servers",
        "ServerOverview",
        "All servers of the cluster",
    ),
    get(
        "/api/cluster/servers/{id}",
        "ServerStatus",
        "One server of the cluster",
    ),
    get(
        "/api/cluster/sessions",
        "SessionOverview",
        "Sessions of all frontends",
    ),
    get(
        "/api/cluster/sessions/{sid}",
        "SessionInfo",
        "One session with its settings",
    ),
    post(
        "/api/cluster/kick",
        "KickRequest",
        "KickOutcome",
        200,
        "Kicks a user, a session or an address",
    ),
    post(
        "/api/cluster/drain",
        "DrainRequest",
        "DrainStarted",
        202,
        "Drains one server",
    ),
    get(
        "/api/cluster/servers/{id}/work",
        "ServerWork",
        "The work of one server, by route",
    ),
    get(
        "/api/cluster/servers/{id}/config",
        "Configuration",
        "The configuration of one server, without secrets",
    ),
    get(
        "/api/cluster/load",
        "LoadReport",
        "The last ten minutes of all servers",
    ),
    get(
        "/api/cluster/events",
        "EventPage",
        "Recent events of sessions",
    ),
    get(
        "/api/cluster/audiences",
        "AudiencePage",
        "Channels and topics that have members",
    ),
    get(
        "/api/cluster/audiences/members",
        "MemberPage",
        "The members of a channel or topic",
    ),
    Route {
        scope: None,
        ..get("/api/whoami", "WhoAmI", "The scope of the token")
    },
    get("/api/sessions", "SessionPage", "Sessions of this process"),
    get(
        "/api/sessions/{sid}",
        "SessionInfo",
        "One session of this process",
    ),
    post(
        "/api/kick",
        "KickRequest",
        "KickReport",
        200,
        "Kicks sessions of this process, or a user everywhere",
    ),
    get(
        "/api/servers",
        "ServerList",
        "Servers that this process knows",
    ),
    get("/api/stats", "Stats", "Numbers of this process"),
    post(
        "/api/drain",
        "ProcessDrain",
        "DrainReport",
        202,
        "Drains this process",
    ),
    get(
        "/metrics",
        "Text",
        "Metrics of this process, for Prometheus",
    ),
    get("/api/openapi.json", "Any", "This document"),
];

/// The scope that a request requires. Requests that are not in the table, or are not written exactly as there, require `operate`.
pub(crate) fn scope_of(method: &str, path: &str) -> Option<Scope> {
    let method = if method == "HEAD" { "GET" } else { method };
    if method == "GET" && path.starts_with(OWN) {
        return Some(Scope::Read);
    }
    let found = ROUTES
        .iter()
        .find(|route| route.method == method && is_at(route.path, path));
    found.map_or(Some(Scope::Operate), |route| route.scope)
}

/// Whether a path matches the one of the table, in which `{id}` stands for any segment.
fn is_at(of_table: &str, path: &str) -> bool {
    let (mut one, mut two) = (of_table.split('/'), path.split('/'));
    loop {
        match (one.next(), two.next()) {
            (None, None) => return true,
            (Some(part), Some(given)) if part == given => {}
            (Some(part), Some(given)) if part.starts_with('{') && !given.is_empty() => {}
            _ => return false,
        }
    }
}

/// The list of paths, for the response to unknown paths.
pub(crate) fn list() -> String {
    let mut text = "there are GET /healthz, GET /readyz, GET /console/ (for people)".to_owned();
    for route in ROUTES {
        // Writing to a String does not fail.
        let _ = write!(text, ", {} {}", route.method, route.path);
    }
    text + "; routes of the application are under /api/app/{server}/"
}
