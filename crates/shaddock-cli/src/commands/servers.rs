//! `shaddock servers`

use std::process::ExitCode;

use clap::Args;
use shaddock::operators::{ServerOverview, ServerStatus};

use super::{
    Outcome,
    operator::{self, Target, print_json},
    table::{age, count, or_dash, print_line, printable, table},
};

/// List the servers of the cluster.
#[derive(Debug, Args)]
pub(crate) struct ServersArgs {
    /// Only this server
    id: Option<String>,
    #[command(flatten)]
    target: Target,
}

pub(crate) fn run(args: &ServersArgs) -> Outcome {
    operator::run(&args.target, async |operator| {
        let mut overview = operator.servers().await?;
        if let Some(id) = &args.id {
            overview.servers.retain(|server| server.id == *id);
        }
        // For scripts: a server that is not there is told apart.
        let missing = args.id.as_ref().filter(|_| overview.servers.is_empty());
        if args.target.json {
            print_json(&overview)?;
        } else if missing.is_none() {
            show(&overview);
        }
        if let Some(id) = missing {
            eprintln!("shaddock: no server \"{id}\"; `shaddock servers` lists them");
        }
        Ok(ExitCode::from(u8::from(missing.is_some())))
    })
}

const HEAD: [&str; 10] = [
    "ID",
    "TYPE",
    "KIND",
    "STATE",
    "SESSIONS",
    "USERS",
    "IN-FLIGHT",
    "VERSION",
    "UPTIME",
    "HOST",
];

fn show(overview: &ServerOverview) {
    print_line(&table(HEAD, overview.servers.iter().map(row)));
    let total = |of: fn(&ServerStatus) -> Option<u64>| {
        let known = overview.servers.iter().filter_map(of);
        known.sum::<u64>()
    };
    print_line(&format!(
        "{}, {}, {}",
        count(overview.servers.len() as u64, "server"),
        count(total(|server| server.sessions), "session"),
        count(total(|server| server.users), "user"),
    ));
    for one in overview
        .servers
        .iter()
        .filter_map(|s| s.unanswered.as_ref())
    {
        // A Pitaya server says nothing, and that is no fault.
        if one.why != shaddock::operators::WhyUnanswered::Unable {
            eprintln!("shaddock: {}: {}", one.server, one.reason);
        }
    }
}

/// The state of a server, and the servers that suspect it.
fn state(server: &ServerStatus) -> String {
    let name = server.state.name();
    match server.suspected_by.len() {
        0 => name.to_owned(),
        n => format!("{name} (suspected by {n})"),
    }
}

fn row(server: &ServerStatus) -> [String; 10] {
    let kind = if server.frontend {
        "frontend"
    } else {
        "backend"
    };
    let version = match &server.version {
        Some(version) => version.clone(),
        None if server.software == "pitaya" => server.software.clone(),
        None => "-".to_owned(),
    };
    [
        printable(&server.id),
        printable(&server.server_type),
        kind.to_owned(),
        state(server),
        or_dash(server.sessions),
        or_dash(server.users),
        or_dash(server.in_flight),
        printable(&version),
        or_dash(server.uptime_ms.map(age)),
        or_dash(Some(printable(&server.host)).filter(|host| !host.is_empty())),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_a_dash() {
        let server = serde_json::json!({
            "id": "go-1", "server_type": "room", "frontend": false, "host": "", "state": "listed",
            "listed": true, "here": false, "software": "pitaya", "metadata": {}
        });
        let cells = row(&serde_json::from_value(server).unwrap());
        let expected = [
            "go-1", "room", "backend", "listed", "-", "-", "-", "pitaya", "-", "-",
        ];
        assert_eq!(cells, expected);
    }

    #[test]
    fn a_suspect_is_shown() {
        let server = serde_json::json!({
            "id": "room-1", "server_type": "room", "frontend": false, "host": "", "state": "running",
            "listed": true, "here": false, "software": "shaddock", "metadata": {}, "suspected_by": ["connector-1", "connector-2"]
        });
        let cells = row(&serde_json::from_value(server).unwrap());
        assert_eq!(cells[3], "running (suspected by 2)");
    }
}
