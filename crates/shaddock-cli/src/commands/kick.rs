//! `shaddock kick`

use std::{process::ExitCode, time::Duration};

use clap::Args;
use serde_json::{Value, json};
use shaddock::{admin::KickRequest, operators::KickOutcome};

use super::{
    Outcome,
    operator::{self, Target, print_json, warn},
    table::{count, print_line, printable},
};

/// Kick clients, wherever in the cluster they are.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("who").required(true).multiple(true).args(["uid", "sid", "address", "predicate", "all"]))]
pub(crate) struct KickArgs {
    /// Every session of this user
    #[arg(long, conflicts_with_all = ["sid", "address", "predicate", "all"])]
    uid: Option<String>,
    /// One session
    #[arg(long, conflicts_with_all = ["address", "predicate", "all"])]
    sid: Option<String>,
    /// Every session from an address, an address with a port, or a network
    #[arg(long, conflicts_with_all = ["predicate", "all"])]
    address: Option<String>,
    /// Every session of which this is true, such as 'client.version < 1.4 and age > 1h' (docs/server-api.md)
    #[arg(long = "where", value_name = "PREDICATE")]
    predicate: Option<String>,
    /// Every session; with --where: also if it is true of every session
    #[arg(long)]
    all: bool,
    /// Count only: no session is kicked
    #[arg(long)]
    dry_run: bool,
    /// So many sessions a second
    #[arg(long, value_name = "N")]
    per_second: Option<u64>,
    /// The reason that the client receives
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    target: Target,
}

pub(crate) fn run(args: KickArgs) -> Outcome {
    if args.predicate.is_some() || args.all || args.dry_run || args.per_second.is_some() {
        return by_command(&args);
    }
    let mut request = KickRequest::default();
    request.uid = args.uid;
    request.sid = args.sid;
    request.address = args.address;
    request.reason = args.reason;
    operator::run(&args.target, async |operator| {
        let outcome = operator.kick(&request).await?;
        if args.target.json {
            print_json(&outcome)?;
        } else {
            print_line(&summary(&outcome));
        }
        let incomplete = warn(&outcome.unanswered);
        // For scripts: a kick that matched no session has its own status, and so has one whose outcome is unknown.
        Ok(ExitCode::from(match (incomplete, outcome.kicked) {
            (true, _) => 2,
            (false, 0) => 1,
            (false, _) => 0,
        }))
    })
}

/// Time between two looks at a kick that takes its time.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// The request to the server API, which knows predicates, dry runs and a pace.
fn request(args: &KickArgs) -> Value {
    let predicate = args.predicate.clone().or_else(|| {
        let address = args.address.as_ref()?;
        Some(format!(
            "address = \"{}\"",
            address.replace(['"', '\\'], "")
        ))
    });
    let mut to = json!({});
    for (key, value) in [
        ("uid", &args.uid),
        ("sid", &args.sid),
        ("where", &predicate),
    ] {
        if let Some(value) = value {
            to[key] = json!(value);
        }
    }
    if args.all {
        to["all"] = json!(true);
    }
    let mut kick = json!({ "to": to });
    if let Some(reason) = &args.reason {
        kick["reason"] = json!(reason);
    }
    json!({
        "commands": [{ "kick": kick }],
        "dry_run": args.dry_run,
        "per_second": args.per_second.unwrap_or_default(),
    })
}

/// Kicks with the server API.
fn by_command(args: &KickArgs) -> Outcome {
    let request = request(args);
    operator::run(&args.target, async |operator| {
        let answer = operator.call(&request, None).await?;
        if args.target.json {
            print_json(&answer)?;
        }
        let result = answer.results.into_iter().next().unwrap_or_default();
        if let Some(error) = result.error {
            return Err(error.message.into());
        }
        let ok = result.ok.unwrap_or_default();
        let incomplete = warn(&ok.unanswered);
        let mut count = ok.done.or(ok.matched).unwrap_or_default();
        if let Some(id) = &ok.job {
            let job = loop {
                let job = operator.job(id).await?;
                if !job.running {
                    break job;
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            };
            for error in &job.errors {
                eprintln!("shaddock: {}", printable(error));
            }
            count = job.done;
        }
        if !args.target.json {
            print_line(&line(args.dry_run, count));
        }
        Ok(ExitCode::from(match (incomplete, count) {
            (true, _) => 2,
            (false, 0) => 1,
            (false, _) => 0,
        }))
    })
}

fn line(is_dry: bool, kicked: u64) -> String {
    match (is_dry, kicked) {
        (_, 0) => "no session matched".to_owned(),
        (true, n) => format!("would kick {}", count(n, "session")),
        (false, n) => format!("kicked {}", count(n, "session")),
    }
}

fn summary(outcome: &KickOutcome) -> String {
    if outcome.kicked == 0 {
        return "no session matched".to_owned();
    }
    let frontends: Vec<String> = outcome
        .by_frontend
        .iter()
        .map(|(frontend, n)| format!("{} at {}", n, printable(frontend)))
        .collect();
    format!(
        "kicked {}: {}",
        count(outcome.kicked, "session"),
        frontends.join(", ")
    )
}
