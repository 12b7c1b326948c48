//! Examples of sessions, of requests for them, and of kicks.

use serde_json::{Map, json};
use shaddock_core::ClientClaims;

use super::{Type, address, shown, text, value};
use crate::operators::{
    AudienceName, KickOutcome, KickReport, KickRequest, SessionInfo, SessionOverview, SessionPage,
    SessionQuery,
};

/// Requests for sessions, and kicks.
pub(super) fn requests() -> Vec<Type> {
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
    let whole = value(&query);
    let members: Vec<&str> = whole
        .as_object()
        .into_iter()
        .flat_map(Map::keys)
        .map(String::as_str)
        .collect();
    vec![
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
        shown("SessionQuery", &members, &[], &query),
    ]
}

/// The claims that are shown; data that a client sent under `user` is not.
fn claims() -> ClientClaims {
    let claims = json!({
        "kind": "text", "version": "text", "platform": "text", "library": "text", "build": "text",
    });
    serde_json::from_value(claims).unwrap_or_default()
}

/// A session, with every field.
fn session() -> SessionInfo {
    SessionInfo {
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
        client: Some(claims()),
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
    }
}

/// Sessions in responses.
pub(super) fn responses() -> Vec<Type> {
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
            &claims(),
        ),
        shown("SessionInfo", &optional, &["uid", "address"], &session()),
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
