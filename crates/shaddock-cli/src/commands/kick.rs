//! `shaddock kick`

use std::process::ExitCode;

use clap::Args;
use shaddock::{admin::KickRequest, operators::KickOutcome};

use super::{
    Outcome,
    operator::{self, Target, print_json, warn},
    table::{count, printable, say},
};

/// Kick clients, wherever in the cluster they are.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("who").required(true).args(["uid", "sid", "address"]))]
pub(crate) struct KickArgs {
    /// Every session of this user
    #[arg(long)]
    uid: Option<String>,
    /// One session
    #[arg(long)]
    sid: Option<String>,
    /// Every session from an address, an address with a port, or a network
    #[arg(long)]
    address: Option<String>,
    /// What the client is told
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    target: Target,
}

pub(crate) fn run(args: KickArgs) -> Outcome {
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
            say(&said(&outcome));
        }
        let incomplete = warn(&outcome.unanswered);
        // For scripts: a kick that hit nobody is told apart, and one of which that is not sure.
        Ok(ExitCode::from(match (incomplete, outcome.kicked) {
            (true, _) => 2,
            (false, 0) => 1,
            (false, _) => 0,
        }))
    })
}

fn said(outcome: &KickOutcome) -> String {
    if outcome.kicked == 0 {
        return "nobody was there".to_owned();
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
