//! The JSON of the API of one process. Keys are in snake case.

use std::{collections::BTreeMap, net::SocketAddr};

use serde::{Deserialize, Serialize};

use crate::operations::Phase;

/// A server that the process runs or knows.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ServerReport {
    /// The server id.
    pub id: String,
    /// The server type.
    pub server_type: String,
    /// True for a frontend.
    pub frontend: bool,
    /// True for a server of the responding process. The fields below are filled only then.
    pub here: bool,
    /// The addresses it listens on.
    pub addresses: Vec<SocketAddr>,
    /// Open connections.
    pub connections: u64,
    /// Open sessions.
    pub sessions: u64,
    /// Users with a session.
    pub users: u64,
    /// The metadata that it announces to the cluster.
    pub metadata: BTreeMap<String, String>,
}

/// The list of servers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ServerList {
    /// Sorted by type and id.
    pub servers: Vec<ServerReport>,
}

/// Numbers of the process.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Stats {
    /// Version of the framework.
    pub version: &'static str,
    /// The phase of the process.
    pub phase: Phase,
    /// Milliseconds since the start.
    pub uptime_ms: u64,
    /// Resident memory, if the system reports it.
    pub resident_bytes: Option<u64>,
    /// The servers of the process.
    pub servers: Vec<ServerStats>,
}

/// Numbers of one server; counts are since the start.
#[derive(Debug, Clone, Default, Serialize)]
#[non_exhaustive]
pub struct ServerStats {
    /// The server id.
    pub id: String,
    /// The server type.
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
    /// Accepted connections.
    pub accepted: u64,
    /// Completed handshakes.
    pub handshakes: u64,
    /// Requests of clients.
    pub requests: u64,
    /// Notifies of clients.
    pub notifies: u64,
    /// Messages queued for clients other than responses.
    pub pushes: u64,
    /// Requests that received an error response.
    pub errors: u64,
    /// Bytes from clients.
    pub bytes_in: u64,
    /// Bytes to clients.
    pub bytes_out: u64,
    /// Rejected connections, by reason.
    pub refused: BTreeMap<&'static str, u64>,
    /// Closed connections, by reason.
    pub closed: BTreeMap<&'static str, u64>,
    /// Dropped packages and messages, by reason.
    pub dropped: BTreeMap<&'static str, u64>,
}
