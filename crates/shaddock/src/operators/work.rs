//! How much servers do: plots, routes, and what is configured.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::types::Unanswered;
use crate::{metrics::Calls, series::Series};

/// The last ten minutes of all servers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LoadReport {
    /// The time of the process that answers: milliseconds since 1970.
    pub now_ms: u64,
    /// Time between two samples.
    pub step_ms: u64,
    /// The servers.
    pub servers: Vec<ServerLoad>,
    /// Servers that did not say.
    pub unanswered: Vec<Unanswered>,
}

/// The last ten minutes of one server.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ServerLoad {
    /// Its id.
    pub id: String,
    /// Whether clients connect to it.
    pub frontend: bool,
    /// Its samples.
    pub series: Series,
}

/// What a server does, route by route. Counts are since its start.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ServerWork {
    /// Milliseconds since 1970, by its clock.
    pub time_ms: u64,
    /// Upper bounds of times, in microseconds.
    pub bounds_us: Vec<u64>,
    /// Its own handlers, by route.
    pub routes: Vec<RouteWork>,
    /// What it asks of others: `forward` (requests of clients for other servers), `http` (for backends), `rpc` (calls of remotes).
    pub calls: Vec<RouteWork>,
    /// Connections turned away, by reason.
    pub refused: BTreeMap<String, u64>,
    /// Sessions closed, by reason.
    pub closed: BTreeMap<String, u64>,
    /// Packages and messages dropped, by reason.
    pub dropped: BTreeMap<String, u64>,
}

/// One route in numbers.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RouteWork {
    /// The route.
    pub route: String,
    /// Answered with an error, or failed.
    pub errors: u64,
    /// Whose handler or filter panicked.
    pub panics: u64,
    /// Which held their thread for 100 ms or longer.
    pub blocked: u64,
    /// How many were answered within each of `bounds_us`, and in the end how many took longer.
    pub answers: Vec<u64>,
}

impl RouteWork {
    pub(super) fn of_calls(name: &str, calls: &Calls) -> Self {
        Self {
            route: name.to_owned(),
            errors: calls.failed().map(|(_, n)| n).sum(),
            answers: calls.times().counts().collect(),
            ..Self::default()
        }
    }
}
