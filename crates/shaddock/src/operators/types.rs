//! What is known of a cluster, as JSON.

use std::{collections::BTreeMap, net::SocketAddr};

use serde::{Deserialize, Serialize};

use super::session_info::SessionInfo;
use crate::config::Time;

/// One server of the cluster. What a server did not say is absent.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ServerStatus {
    /// Its id.
    pub id: String,
    /// Its type.
    pub server_type: String,
    /// Whether clients connect to it.
    pub frontend: bool,
    /// The machine it says it runs on; may be empty.
    pub host: String,
    /// What it does.
    pub state: ServerState,
    /// Whether other servers choose it: it is in the list of the cluster.
    pub listed: bool,
    /// Whether it runs in the process that gave this answer.
    pub here: bool,
    /// `shaddock` or `pitaya`.
    pub software: String,
    /// Version of its framework.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Milliseconds since its process began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uptime_ms: Option<u64>,
    /// Open connections of clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u64>,
    /// Open sessions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions: Option<u64>,
    /// Of these, those whose clients are connected to other frontends, which relay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions_relayed: Option<u64>,
    /// How far its drain is, if it drains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<DrainStatus>,
    /// Users that are bound to one of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub users: Option<u64>,
    /// Requests of other servers that it works on, and its own calls of others that wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<u64>,
    /// Where it listens for clients.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<SocketAddr>,
    /// Other servers of its process.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub process_shared_with: Vec<String>,
    /// What it told the cluster about itself.
    pub metadata: BTreeMap<String, String>,
    /// Servers that it did not answer lately, so that they choose others and do not wait for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub suspected_by: Vec<String>,
    /// Why it did not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unanswered: Option<Unanswered>,
}

/// What a server does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ServerState {
    /// It starts.
    Starting,
    /// It serves.
    Running,
    /// It finishes what it has and will be gone.
    Draining,
    /// The server is in the list but does not support queries: a Pitaya server.
    Listed,
    /// It is in the list and did not answer.
    Silent,
    /// A state that this version does not know.
    #[serde(other)]
    Unknown,
}

impl ServerState {
    /// The name in the JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Draining => "draining",
            Self::Listed => "listed",
            Self::Silent => "silent",
            Self::Unknown => "unknown",
        }
    }
}

/// All servers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ServerOverview {
    /// Sorted by type and id.
    pub servers: Vec<ServerStatus>,
}

/// Sessions of all frontends, or part of them, by ascending id.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SessionOverview {
    /// The sessions of this page.
    pub sessions: Vec<SessionInfo>,
    /// How many match on all pages of all frontends that answered.
    pub total: usize,
    /// The `after` of the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// Frontends whose sessions are missing here.
    pub unanswered: Vec<Unanswered>,
}

/// A server that did not say what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Unanswered {
    /// Its id.
    pub server: String,
    /// Why, for programs.
    pub why: WhyUnanswered,
    /// Why, for people.
    pub reason: String,
}

/// Why a server did not say what it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum WhyUnanswered {
    /// The server has just died: it has no subscriber, and stays in the list until its lease ends. It has no sessions.
    Gone,
    /// No answer in time: it hangs, or the network does. It may have done what it was told.
    Silent,
    /// It has no such operation: a Pitaya server, or an older version.
    Unable,
    /// It answered with an error, or cannot be reached.
    Failed,
    /// A reason that this version does not know.
    #[serde(other)]
    Unknown,
}

/// What a kick did.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct KickOutcome {
    /// How many sessions were closed.
    pub kicked: u64,
    /// How many at which frontend; those without any are left out.
    pub by_frontend: BTreeMap<String, u64>,
    /// Frontends that may have such sessions and did not say what became of them.
    pub unanswered: Vec<Unanswered>,
}

/// Which server is to end.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct DrainRequest {
    /// Its id.
    pub server: String,
    /// Also if other servers run in its process, which end with it.
    #[serde(default)]
    pub whole_process: bool,
    /// How long sessions go on whose clients can come back to them through other frontends; 0: they are closed with the others. Without it
    /// the `drain.linger` of the server, or 10 minutes if that is not set. For a server that drains already: from now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub linger: Option<Time>,
}

/// How far the drain of a frontend is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DrainStatus {
    /// Its process has ended after this time, in milliseconds, whatever clients do.
    pub ends_within_ms: u64,
    /// Clients that were disconnected and can come back through other frontends.
    pub disconnected: u64,
    /// Sessions whose clients are not connected at this moment: they have not come back yet.
    pub away: u64,
}

/// A drain has begun, or goes on.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DrainStarted {
    /// The server.
    pub server: String,
    /// Open sessions of its process.
    pub sessions: u64,
    /// Other servers of its process, which end with it.
    pub process_shared_with: Vec<String>,
    /// Whether the server runs in the process that gave this answer, which then ends too.
    #[serde(default)]
    pub here: bool,
    /// How long sessions go on whose clients can come back through other frontends, in milliseconds. 0: there is no other frontend of the
    /// type, or it was asked for so.
    #[serde(default)]
    pub linger_ms: u64,
    /// The process has ended after this time, in milliseconds, whatever clients do.
    #[serde(default)]
    pub ends_within_ms: u64,
}
