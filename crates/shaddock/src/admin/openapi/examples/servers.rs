//! Examples of servers, of processes, and of drains.

use super::{Type, address, shown, text, unanswered};
use crate::{
    admin::{
        answers::{DrainReport, ProcessDrain, WhoAmI},
        tokens::Scope,
        types::{ServerList, ServerReport, ServerStats, Stats},
    },
    config::Time,
    operations::Phase,
    operators::{
        DrainRequest, DrainStarted, DrainStatus, EffectiveKey, ServerOverview, ServerState,
        ServerStatus,
    },
};

/// Drains.
pub(super) fn drains() -> Vec<Type> {
    vec![
        shown(
            "DrainRequest",
            &["whole_process", "linger"],
            &[],
            &DrainRequest {
                server: text(),
                whole_process: true,
                linger: Some(Time::secs(600)),
            },
        ),
        shown(
            "ProcessDrain",
            &["linger"],
            &[],
            &ProcessDrain {
                linger: Some(Time::secs(600)),
            },
        ),
        shown(
            "DrainStarted",
            &[],
            &[],
            &DrainStarted {
                server: text(),
                sessions: 1,
                process_shared_with: vec![text()],
                here: true,
                linger_ms: 1,
                ends_within_ms: 1,
            },
        ),
        shown(
            "DrainReport",
            &[],
            &[],
            &DrainReport {
                draining: true,
                sessions: 1,
            },
        ),
    ]
}

/// The caller, and the configuration of a server.
pub(super) fn settings() -> Vec<Type> {
    vec![
        shown(
            "EffectiveKey",
            &["value", "waits"],
            &[],
            &EffectiveKey {
                key: text(),
                value: Some(text()),
                origin: text(),
                is_set: true,
                live: true,
                waits: Some(text()),
                about: text(),
            },
        ),
        shown(
            "WhoAmI",
            &[],
            &[],
            &WhoAmI {
                scope: Scope::Read,
                name: text(),
                version: "text",
                servers: vec![text()],
            },
        ),
    ]
}

/// Servers of the cluster.
pub(super) fn cluster() -> Vec<Type> {
    let server = ServerStatus {
        id: text(),
        server_type: text(),
        frontend: true,
        host: text(),
        state: ServerState::Running,
        listed: true,
        here: true,
        software: text(),
        version: Some(text()),
        uptime_ms: Some(1),
        connections: Some(1),
        sessions: Some(1),
        sessions_relayed: Some(1),
        drain: Some(DrainStatus {
            ends_within_ms: 1,
            disconnected: 1,
            away: 1,
        }),
        users: Some(1),
        in_flight: Some(1),
        addresses: vec![address()],
        process_shared_with: vec![text()],
        metadata: [(text(), text())].into(),
        suspected_by: vec![text()],
        unanswered: Some(unanswered()),
    };
    let unsaid = [
        "version",
        "uptime_ms",
        "connections",
        "sessions",
        "sessions_relayed",
        "drain",
        "users",
        "in_flight",
        "addresses",
        "process_shared_with",
        "suspected_by",
        "unanswered",
    ];
    vec![
        shown("ServerStatus", &unsaid, &[], &server),
        shown(
            "ServerOverview",
            &[],
            &[],
            &ServerOverview {
                servers: Vec::new(),
            },
        ),
    ]
}

/// Servers of the responding process.
pub(super) fn process() -> Vec<Type> {
    let report = ServerReport {
        id: text(),
        server_type: text(),
        frontend: true,
        here: true,
        addresses: vec![address()],
        connections: 1,
        sessions: 1,
        users: 1,
        metadata: [(text(), text())].into(),
    };
    let stats = Stats {
        version: "text",
        phase: Phase::Running,
        uptime_ms: 1,
        resident_bytes: Some(1),
        servers: Vec::new(),
    };
    vec![
        shown("ServerReport", &[], &[], &report),
        shown(
            "ServerList",
            &[],
            &[],
            &ServerList {
                servers: Vec::new(),
            },
        ),
        shown("Stats", &[], &["resident_bytes"], &stats),
        shown("ServerStats", &[], &[], &ServerStats::default()),
    ]
}
