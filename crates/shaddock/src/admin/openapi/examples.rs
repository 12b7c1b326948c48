//! An example of each type of the API with all optional members: a new member does not compile until it is added here.

mod console;

use std::net::SocketAddr;

use serde::Serialize;
use serde_json::{Map, Value, json};
use shaddock_core::ClientClaims;

use crate::{
    admin::{
        answers::{DrainReport, ProcessDrain, WhoAmI},
        commands::{
            BindCommand, CallAnswer, CallRequest, Command, CommandOutcome, CommandResult,
            CountCommand, KickCommand, PushCommand, SetCommand, To, TopicCommand,
        },
        error::{ErrorBody, ErrorInfo},
        jobs::JobStatus,
        tokens::Scope,
        types::{
            KickReport, KickRequest, ServerList, ServerReport, ServerStats, SessionInfo,
            SessionPage, SessionQuery, Stats,
        },
    },
    config::Time,
    operations::Phase,
    operators::{
        AudienceName, DrainRequest, DrainStarted, DrainStatus, EffectiveKey, KickOutcome,
        ServerOverview, ServerState, ServerStatus, SessionOverview, Unanswered, WhyUnanswered,
    },
};

/// The name of a type, its required members, and an example with all members.
pub(super) type Example = (&'static str, &'static [&'static str], Value);

/// A type, described by an example with all members.
pub(super) struct Type {
    pub(super) name: &'static str,
    /// Required members.
    pub(super) required: Vec<String>,
    /// Members that may be `null`.
    pub(super) nullable: &'static [&'static str],
    pub(super) value: Value,
}

/// All types.
pub(super) fn all() -> impl Iterator<Item = Type> {
    let given = commands().into_iter().chain(answers());
    given.chain(console::examples()).map(of).chain(seen())
}

fn of((name, required, value): Example) -> Type {
    Type {
        name,
        required: required.iter().map(|&member| member.to_owned()).collect(),
        nullable: &[],
        value,
    }
}

/// A response type: all members are required except the optional ones.
fn shown(
    name: &'static str,
    optional: &[&str],
    nullable: &'static [&'static str],
    of: &impl Serialize,
) -> Type {
    let value = value(of);
    let members = value.as_object().into_iter().flat_map(Map::keys);
    let required = members.filter(|member| !optional.contains(&member.as_str()));
    Type {
        name,
        required: required.cloned().collect(),
        nullable,
        value,
    }
}

pub(super) fn value(of: &impl Serialize) -> Value {
    serde_json::to_value(of).unwrap_or_default()
}

fn text() -> String {
    "text".to_owned()
}

fn address() -> SocketAddr {
    ([127, 0, 0, 1], 3010).into()
}

fn unanswered() -> Unanswered {
    Unanswered {
        server: text(),
        why: WhyUnanswered::Silent,
        reason: text(),
    }
}

/// Request types of commands.
fn commands() -> Vec<Example> {
    let to = || To {
        sid: Some(text()),
        sids: Some(vec![text()]),
        uid: Some(text()),
        uids: Some(vec![text()]),
        predicate: Some(text()),
        topic: Some(text()),
        except: Some(text()),
        all: true,
    };
    let count = CountCommand { to: to() };
    vec![
        ("To", &[], value(&to())),
        ("CountCommand", &["to"], value(&count)),
        (
            "PushCommand",
            &["to", "route", "body"],
            value(&PushCommand {
                to: to(),
                route: text(),
                body: json!({}),
                latest: Some(text()),
            }),
        ),
        (
            "KickCommand",
            &["to"],
            value(&KickCommand {
                to: to(),
                reason: Some(text()),
            }),
        ),
        (
            "SetCommand",
            &["to"],
            value(&SetCommand {
                to: to(),
                values: Map::new(),
                remove: vec![text()],
            }),
        ),
        (
            "BindCommand",
            &["to", "uid"],
            value(&BindCommand {
                to: to(),
                uid: text(),
            }),
        ),
        (
            "TopicCommand",
            &["to", "topic"],
            value(&TopicCommand {
                to: to(),
                topic: text(),
            }),
        ),
        (
            "CallRequest",
            &["commands"],
            value(&CallRequest {
                commands: vec![Command::Count(count)],
                dry_run: true,
                per_second: 1,
            }),
        ),
    ]
}

/// Response types of commands.
fn answers() -> Vec<Example> {
    let info = || ErrorInfo {
        code: text(),
        message: text(),
        column: Some(1),
    };
    let outcome = || CommandOutcome {
        matched: Some(1),
        done: Some(1),
        failed: 0,
        errors: vec![text()],
        by_frontend: [(text(), 1)].into(),
        job: Some(text()),
        unanswered: vec![unanswered()],
    };
    let result = || CommandResult {
        ok: Some(outcome()),
        error: Some(info()),
    };
    vec![
        (
            "CallAnswer",
            &["results"],
            value(&CallAnswer {
                results: vec![result()],
            }),
        ),
        ("CommandResult", &[], value(&result())),
        ("CommandOutcome", &["failed"], value(&outcome())),
        (
            "Unanswered",
            &["server", "why", "reason"],
            value(&unanswered()),
        ),
        (
            "JobStatus",
            &[
                "id", "command", "matched", "done", "failed", "left", "running", "errors",
            ],
            value(&JobStatus {
                id: text(),
                command: text(),
                matched: 1,
                done: 1,
                failed: 0,
                left: 0,
                running: false,
                errors: vec![text()],
            }),
        ),
        ("ErrorInfo", &["code", "message"], value(&info())),
        ("ErrorBody", &["error"], value(&ErrorBody { error: info() })),
    ]
}

/// The other types of the API.
fn seen() -> Vec<Type> {
    let query = SessionQuery {
        predicate: Some(text()),
        uid: Some(text()),
        address: Some(text()),
        frontend: Some(text()),
        transport: Some(text()),
        client: Some(text()),
        version: Some(text()),
        platform: Some(text()),
        limit: Some(1),
        after: Some(text()),
    };
    let mut all = vec![
        shown(
            "KickRequest",
            &["uid", "sid", "address", "reason"],
            &[],
            &KickRequest {
                uid: Some(text()),
                sid: Some(text()),
                address: Some(text()),
                reason: Some(text()),
            },
        ),
        shown("KickReport", &[], &[], &KickReport { kicked: 1 }),
        shown(
            "KickOutcome",
            &[],
            &[],
            &KickOutcome {
                kicked: 1,
                by_frontend: [(text(), 1)].into(),
                unanswered: Vec::new(),
            },
        ),
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
    ];
    let whole = value(&query);
    let members: Vec<&str> = whole
        .as_object()
        .into_iter()
        .flat_map(Map::keys)
        .map(String::as_str)
        .collect();
    all.push(shown("SessionQuery", &members, &[], &query));
    all.extend(process());
    all.extend(sessions());
    all.extend(servers());
    all
}

fn process() -> Vec<Type> {
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

fn sessions() -> Vec<Type> {
    // The claims that are shown; data that a client sent under `user` is not.
    let claims = json!({
        "kind": "text", "version": "text", "platform": "text", "library": "text", "build": "text",
    });
    let claims: ClientClaims = serde_json::from_value(claims).unwrap_or_default();
    let session = SessionInfo {
        sid: text(),
        uid: Some(text()),
        frontend: text(),
        state: text(),
        transport: text(),
        dialect: text(),
        address: Some(address()),
        age_ms: 1,
        messages_in: 1,
        bytes_in: 1,
        messages_out: 1,
        bytes_out: 1,
        queued_bytes: 1,
        client: Some(claims.clone()),
        suspended_ms: Some(1),
        kept_messages: Some(1),
        kept_bytes: Some(1),
        audiences: Some(vec![AudienceName {
            key: text(),
            kind: text(),
            name: text(),
            owner: Some(text()),
        }]),
        settings: Some(Map::new()),
    };
    let optional = [
        "client",
        "suspended_ms",
        "kept_messages",
        "kept_bytes",
        "audiences",
        "settings",
    ];
    vec![
        shown(
            "ClientClaims",
            &["kind", "version", "platform", "library", "build"],
            &[],
            &claims,
        ),
        shown("SessionInfo", &optional, &["uid", "address"], &session),
        shown(
            "SessionPage",
            &["next"],
            &[],
            &SessionPage {
                sessions: Vec::new(),
                total: 1,
                next: Some(text()),
            },
        ),
        shown(
            "SessionOverview",
            &["next"],
            &[],
            &SessionOverview {
                sessions: Vec::new(),
                total: 1,
                next: Some(text()),
                unanswered: Vec::new(),
            },
        ),
    ]
}

fn servers() -> Vec<Type> {
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
        shown("ServerStatus", &unsaid, &[], &server),
        shown(
            "ServerOverview",
            &[],
            &[],
            &ServerOverview {
                servers: Vec::new(),
            },
        ),
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
