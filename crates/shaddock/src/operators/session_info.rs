//! Sessions as operators see them. Keys are in snake case; session ids are text, because JavaScript's numbers end at 2^53.

use std::{net::SocketAddr, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use shaddock_core::{ClientClaims, Session, SessionService, SessionState};

use super::audience_name::AudienceName;

/// One session.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SessionInfo {
    /// The session id.
    pub sid: String,
    /// The user, if the session is bound.
    pub uid: Option<String>,
    /// The id of the server that holds the session.
    pub frontend: String,
    /// `open`, `suspended` or `closed`.
    pub state: String,
    /// `tcp`, `tls`, `ws` or `wss`.
    pub transport: String,
    /// `pomelo` or `pitaya`.
    pub dialect: String,
    /// The address of the client.
    pub address: Option<SocketAddr>,
    /// Milliseconds since its handshake.
    pub age_ms: u64,
    /// Messages from the client.
    pub messages_in: u64,
    /// Bytes from the client.
    pub bytes_in: u64,
    /// Messages accepted for the client.
    pub messages_out: u64,
    /// Bytes written to the client.
    pub bytes_out: u64,
    /// Bytes that wait for the client.
    pub queued_bytes: u64,
    /// The client's description of itself in the handshake, without its user data, which may contain credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<ClientClaims>,
    /// Milliseconds since the connection was lost; only for a suspended session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspended_ms: Option<u64>,
    /// Messages that are kept for the client: for suspended sessions, and for resumable sessions that are requested individually.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_messages: Option<u64>,
    /// Bytes of these messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_bytes: Option<u64>,
    /// Channels and topics that the user has joined on this frontend; only if one session is requested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audiences: Option<Vec<AudienceName>>,
    /// The settings; only if one session is requested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<Map<String, Value>>,
}

impl SessionInfo {
    pub(crate) fn of(session: &Arc<Session>) -> Self {
        let outbox = session.outbox().stats();
        let now = shaddock_net::now();
        let client = session.client();
        let age = now.0.saturating_sub(client.connected_at.0);
        let suspended = session
            .resumable()
            .and_then(|state| Some((state.suspended?, state)));
        let suspended = suspended.as_ref();
        Self {
            sid: session.id().to_string(),
            uid: session.uid().map(|uid| uid.as_str().to_owned()),
            frontend: session.frontend_id().as_str().to_owned(),
            state: state_name(session.state()).to_owned(),
            transport: client.transport.name().to_owned(),
            dialect: client.variant.dialect().name().to_owned(),
            address: client.address,
            age_ms: age,
            messages_in: session.received_messages(),
            bytes_in: session.received_bytes(),
            messages_out: outbox.messages,
            bytes_out: outbox.written_bytes,
            queued_bytes: (outbox.queued_bytes + outbox.in_flight_bytes) as u64,
            client: session.claims().map(|claims| {
                let mut shown = (*claims).clone();
                // It may contain credentials.
                shown.user = None;
                shown
            }),
            suspended_ms: suspended.map(|(since, _)| now.0.saturating_sub(since.0)),
            kept_messages: suspended.map(|(_, state)| state.kept_messages as u64),
            kept_bytes: suspended.map(|(_, state)| state.kept_bytes as u64),
            audiences: None,
            settings: None,
        }
    }

    /// All that is known of a session.
    pub(crate) fn whole(service: &SessionService, session: &Arc<Session>) -> Self {
        let settings = session.settings();
        let map = settings
            .iter()
            .map(|(key, value)| (key.to_owned(), value.clone()))
            .collect();
        let uid = session.uid();
        let audiences = uid.map(|uid| AudienceName::all_of(service, uid.as_str()));
        let kept = session.resumable();
        let kept = kept.as_ref();
        Self {
            settings: Some(map),
            audiences: Some(audiences.unwrap_or_default()),
            kept_messages: kept.map(|state| state.kept_messages as u64),
            kept_bytes: kept.map(|state| state.kept_bytes as u64),
            ..Self::of(session)
        }
    }
}

/// Part of a list of sessions, by ascending id.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SessionPage {
    /// The sessions.
    pub sessions: Vec<SessionInfo>,
    /// The number of matching sessions on all pages.
    pub total: usize,
    /// The `after` of the next page; absent on the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A filter for sessions. All given conditions must hold.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct SessionQuery {
    /// Sessions that match this predicate, such as `client.version < 1.4 and not uid = null`.
    #[serde(default, rename = "where", skip_serializing_if = "Option::is_none")]
    pub predicate: Option<String>,
    /// Sessions of this user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Sessions from this address, address with port, or network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Sessions on this frontend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frontend: Option<String>,
    /// Sessions over `tcp`, `tls`, `ws` or `wss`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transport: Option<String>,
    /// Sessions whose client is of this kind (`js-websocket`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// Sessions whose client has this version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Sessions whose client runs on this platform.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// The most sessions on a page: 1 to 1000, by default 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Sessions with a greater id, for the next page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// The sessions to kick: exactly one of `uid`, `sid` and `address`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct KickRequest {
    /// All sessions of this user, on all servers of the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// This session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sid: Option<String>,
    /// All sessions from this address, address and port, or network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The reason that the client receives. Default: `kicked by an operator`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The result of a kick.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[non_exhaustive]
pub struct KickReport {
    /// The number of kicked sessions; 0 if none matched.
    pub kicked: u64,
}

pub(super) const fn state_name(state: SessionState) -> &'static str {
    match state {
        SessionState::Open => "open",
        SessionState::Suspended => "suspended",
        SessionState::Closed => "closed",
    }
}
