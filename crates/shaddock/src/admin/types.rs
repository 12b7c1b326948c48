//! The JSON of the admin API. Keys are in snake case; session ids are text, because JavaScript's numbers end at 2^53.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use shaddock_core::{ClientClaims, Session, SessionService, SessionState};

use crate::{operations::Phase, operators::AudienceName};

/// One session.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SessionInfo {
    /// Its id.
    pub sid: String,
    /// Its user, if it is bound.
    pub uid: Option<String>,
    /// The server that holds it.
    pub frontend: String,
    /// `open`, `suspended` or `closed`.
    pub state: String,
    /// `tcp`, `tls`, `ws` or `wss`.
    pub transport: String,
    /// `pomelo` or `pitaya`.
    pub dialect: String,
    /// Where the client comes from.
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
    /// What the client said of itself in its handshake, without its user data: they may hold what it logged in with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<ClientClaims>,
    /// Milliseconds since its connection was lost; only of a suspended session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspended_ms: Option<u64>,
    /// Messages that are kept for the client: of a suspended session, and where one session is asked for that can outlive its connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_messages: Option<u64>,
    /// Bytes of those messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_bytes: Option<u64>,
    /// Channels and topics that its user is in on this frontend; only where one session is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audiences: Option<Vec<AudienceName>>,
    /// Its settings; only where one session is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<Map<String, Value>>,
}

impl SessionInfo {
    pub(crate) fn of(session: &Arc<Session>) -> Self {
        let outbox = session.outbox().stats();
        let now = shaddock_net::now();
        let age = now.0.saturating_sub(session.connected_at().0);
        let suspended = session.suspended();
        let suspended = suspended.as_ref();
        Self {
            sid: session.id().to_string(),
            uid: session.uid().map(|uid| uid.as_str().to_owned()),
            frontend: session.frontend_id().as_str().to_owned(),
            state: state_name(session.state()).to_owned(),
            transport: session.transport().name().to_owned(),
            dialect: session.dialect().name().to_owned(),
            address: session.client_address(),
            age_ms: age,
            messages_in: session.received_messages(),
            bytes_in: session.received_bytes(),
            messages_out: outbox.messages,
            bytes_out: outbox.written_bytes,
            queued_bytes: (outbox.queued_bytes + outbox.in_flight_bytes) as u64,
            client: session.claims().map(|claims| {
                let mut shown = (*claims).clone();
                // It may hold what the user logged in with.
                shown.user = None;
                shown
            }),
            suspended_ms: suspended.map(|it| now.0.saturating_sub(it.since.0)),
            kept_messages: suspended.map(|it| it.kept_messages as u64),
            kept_bytes: suspended.map(|it| it.kept_bytes as u64),
            audiences: None,
            settings: None,
        }
    }

    /// With all that is known of it.
    pub(crate) fn whole(service: &SessionService, session: &Arc<Session>) -> Self {
        let settings = session.settings();
        let map = settings
            .iter()
            .map(|(key, value)| (key.to_owned(), value.clone()))
            .collect();
        let uid = session.uid();
        let audiences = uid.map(|uid| AudienceName::all_of(service, uid.as_str()));
        let kept = session.kept();
        Self {
            settings: Some(map),
            audiences: Some(audiences.unwrap_or_default()),
            kept_messages: kept.map(|(messages, _)| messages as u64),
            kept_bytes: kept.map(|(_, bytes)| bytes as u64),
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
    /// How many match on all pages together.
    pub total: usize,
    /// The `after` of the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Which sessions. All conditions that are given must hold.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct SessionQuery {
    /// Of which this is true, such as `client.version < 1.4 and not uid = null`.
    #[serde(default, rename = "where", skip_serializing_if = "Option::is_none")]
    pub predicate: Option<String>,
    /// Of this user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// From this address, address with port, or network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// On this frontend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frontend: Option<String>,
    /// Over `tcp`, `tls`, `ws` or `wss`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transport: Option<String>,
    /// Whose client is of this kind (`js-websocket`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// Whose client has this version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Whose client runs on this platform.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// How many at most: 1 to 1000, by default 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Only those with a greater id: the next page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// Who is to be kicked: exactly one of `uid`, `sid` and `address`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct KickRequest {
    /// Every session of this user, on every server of the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// This session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sid: Option<String>,
    /// Every session from this address, address and port, or network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// What the client is told. Default: `kicked by an operator`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// How many sessions were kicked.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[non_exhaustive]
pub struct KickReport {
    /// 0: nobody was there.
    pub kicked: u64,
}

/// One server that the process runs or knows.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ServerReport {
    /// Its id.
    pub id: String,
    /// Its type.
    pub server_type: String,
    /// Whether clients connect to it.
    pub frontend: bool,
    /// Whether it runs in the process that answers. Only then the rest is known.
    pub here: bool,
    /// Where it listens.
    pub addresses: Vec<SocketAddr>,
    /// Open connections.
    pub connections: u64,
    /// Open sessions.
    pub sessions: u64,
    /// Users with a session.
    pub users: u64,
    /// What it told the cluster about itself.
    pub metadata: BTreeMap<String, String>,
}

/// The list of servers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ServerList {
    /// Sorted by type and id.
    pub servers: Vec<ServerReport>,
}

/// The process in numbers.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Stats {
    /// Version of the framework.
    pub version: &'static str,
    /// What the process is doing.
    pub phase: Phase,
    /// Milliseconds since it began.
    pub uptime_ms: u64,
    /// Its memory, where the system tells.
    pub resident_bytes: Option<u64>,
    /// Its servers.
    pub servers: Vec<ServerStats>,
}

/// One server in numbers; counts are since the start.
#[derive(Debug, Clone, Default, Serialize)]
#[non_exhaustive]
pub struct ServerStats {
    /// Its id.
    pub id: String,
    /// Its type.
    pub server_type: String,
    /// Open connections.
    pub connections: u64,
    /// Open sessions.
    pub sessions: u64,
    /// Open sessions with a user.
    pub bound_sessions: u64,
    /// Users with a session.
    pub users: u64,
    /// Bytes that wait for clients.
    pub outbox_bytes: u64,
    /// Connections taken from the kernel.
    pub accepted: u64,
    /// Handshakes completed.
    pub handshakes: u64,
    /// Requests of clients.
    pub requests: u64,
    /// Notifies of clients.
    pub notifies: u64,
    /// Messages queued for clients that did not ask.
    pub pushes: u64,
    /// Requests answered with an error.
    pub errors: u64,
    /// Bytes from clients.
    pub bytes_in: u64,
    /// Bytes to clients.
    pub bytes_out: u64,
    /// Connections turned away, by reason.
    pub refused: BTreeMap<&'static str, u64>,
    /// Connections closed, by reason.
    pub closed: BTreeMap<&'static str, u64>,
    /// Packages and messages dropped, by reason.
    pub dropped: BTreeMap<&'static str, u64>,
}

pub(crate) const fn state_name(state: SessionState) -> &'static str {
    match state {
        SessionState::Open => "open",
        SessionState::Suspended => "suspended",
        SessionState::Closed => "closed",
    }
}
