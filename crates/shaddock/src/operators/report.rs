//! What is shown of a server.

use std::collections::BTreeMap;

use shaddock_cluster::ServerInfo;

use super::{
    ask::Report,
    types::{ServerState, ServerStatus, Unanswered, WhyUnanswered},
};

/// Who suspects whom, from what all servers said.
pub(crate) fn suspicions<'a>(
    said: impl Iterator<Item = (&'a ServerInfo, &'a Report)>,
) -> BTreeMap<String, Vec<String>> {
    let mut suspected: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (info, report) in said {
        for suspect in &report.suspects {
            let by = suspected.entry(suspect.clone()).or_default();
            by.push(info.id.to_string());
        }
    }
    suspected
}

/// A server in the list, and what it said.
pub(crate) fn status(
    info: &ServerInfo,
    listed: bool,
    here: bool,
    said: Result<Report, Unanswered>,
) -> ServerStatus {
    let ours = info.flags().next().is_some();
    let mut status = ServerStatus {
        id: info.id.to_string(),
        server_type: info.server_type.to_string(),
        frontend: info.frontend,
        host: info.hostname.clone(),
        state: ServerState::Listed,
        listed,
        here,
        software: if ours { "shaddock" } else { "pitaya" }.to_owned(),
        version: None,
        uptime_ms: None,
        connections: None,
        sessions: None,
        sessions_relayed: None,
        drain: None,
        users: None,
        in_flight: None,
        addresses: Vec::new(),
        process_shared_with: Vec::new(),
        metadata: info.metadata.clone(),
        suspected_by: Vec::new(),
        unanswered: None,
    };
    match said {
        Ok(report) => {
            status.state = report.state;
            status.version = Some(report.version);
            status.uptime_ms = report.uptime_ms;
            if info.frontend {
                status.connections = Some(report.connections);
                status.sessions = Some(report.sessions);
                status.sessions_relayed = Some(report.sessions_relayed);
                status.drain = report.drain;
                status.users = Some(report.users);
            }
            status.in_flight = Some(report.in_flight);
            status.addresses = report.addresses;
            status.process_shared_with = report.shared_with;
        }
        Err(unanswered) => {
            if unanswered.why != WhyUnanswered::Unable {
                status.state = ServerState::Silent;
            }
            status.unanswered = Some(unanswered);
        }
    }
    status
}
