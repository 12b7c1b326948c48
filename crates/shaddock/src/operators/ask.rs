//! The question that one server puts to another, and what is in the answers.

use std::{collections::BTreeMap, net::SocketAddr};

use serde::{Deserialize, Serialize};
use shaddock_cluster::ServerInfo;

use super::{
    AudienceQuery, EventQuery, KickRequest, MemberQuery, SessionQuery,
    order::{Find, Order},
    types::{DrainStatus, ServerState},
};
use crate::config::Time;

/// Code of an error that says that the state of the server forbids it.
pub(crate) const CONFLICT: &str = "SHADDOCK-409";

/// A question. The answer is of the type that is named.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "ask", content = "with", rename_all = "snake_case")]
pub(crate) enum Ask {
    /// [`Report`].
    Report,
    /// [`SessionPage`](super::SessionPage) of this server.
    Sessions(SessionQuery),
    /// [`SessionInfo`](super::SessionInfo) with settings, or `null`.
    Session(String),
    /// [`KickReport`](super::KickReport) of this server.
    Kick(KickRequest),
    /// [`EventPage`](super::EventPage) of this server.
    Events(EventQuery),
    /// [`AudiencesHere`](super::audiences::AudiencesHere).
    Audiences(AudienceQuery),
    /// [`MembersHere`](super::audiences::MembersHere).
    Members(MemberQuery),
    /// [`Series`](super::Series) of this server after that time.
    Load(u64),
    /// [`ServerWork`](super::ServerWork).
    Work,
    /// The [keys](super::EffectiveKey) of its configuration.
    Config,
    /// [`Found`](super::order::Found) of this server.
    Find(Find),
    /// [`Obeyed`](super::order::Obeyed) of this server.
    Do(Order),
    /// [`DrainStarted`](super::DrainStarted).
    Drain {
        /// Also if other servers run in the process.
        whole_process: bool,
        /// How long sessions go on, if the operator says it.
        linger: Option<Time>,
    },
}

/// What a server says of itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) version: String,
    pub(crate) state: ServerState,
    /// Unknown if the process was not started by a launcher.
    #[serde(default)]
    pub(crate) uptime_ms: Option<u64>,
    pub(crate) connections: u64,
    pub(crate) sessions: u64,
    /// Of these, those whose clients are connected to other frontends.
    #[serde(default)]
    pub(crate) sessions_relayed: u64,
    #[serde(default)]
    pub(crate) drain: Option<DrainStatus>,
    pub(crate) users: u64,
    pub(crate) in_flight: u64,
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) shared_with: Vec<String>,
    /// Servers that have left the list and still serve, as far as this one knows. Who has just joined does not.
    pub(crate) departing: Vec<Departing>,
    /// Servers that do not answer this one.
    #[serde(default)]
    pub(crate) suspects: Vec<String>,
}

/// A server that is not in the list any more.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Departing {
    id: String,
    server_type: String,
    frontend: bool,
    hostname: String,
    metadata: BTreeMap<String, String>,
}

impl Departing {
    pub(crate) fn of(info: &ServerInfo) -> Self {
        Self {
            id: info.id.to_string(),
            server_type: info.server_type.to_string(),
            frontend: info.frontend,
            hostname: info.hostname.clone(),
            metadata: info.metadata.clone(),
        }
    }

    /// `None` if this cannot be a server.
    pub(crate) fn into_info(self) -> Option<ServerInfo> {
        let mut info = ServerInfo::new(&self.id, &self.server_type, self.frontend).ok()?;
        info.hostname = self.hostname;
        info.metadata = self.metadata;
        Some(info)
    }
}
