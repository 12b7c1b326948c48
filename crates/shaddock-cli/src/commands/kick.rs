//! `shaddock kick`

use std::process::ExitCode;

use clap::Args;
use serde_json::json;
use shaddock::admin::KickReport;

use super::{
    Outcome,
    admin::{Admin, Target},
};

/// Kick clients.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("who").required(true).args(["uid", "sid", "address"]))]
pub(crate) struct KickArgs {
    /// Every session of this user, on all servers
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
    let mut request = serde_json::Map::new();
    for (key, value) in [
        ("uid", args.uid),
        ("sid", args.sid),
        ("address", args.address),
        ("reason", args.reason),
    ] {
        if let Some(value) = value {
            request.insert(key.to_owned(), json!(value));
        }
    }
    let report: KickReport = Admin::of(&args.target)?.post("/api/kick", &request)?;
    if args.target.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        match report.kicked {
            0 => println!("nobody was there"),
            1 => println!("kicked 1 session"),
            n => println!("kicked {n} sessions"),
        }
    }
    // For scripts: a kick that hit nobody is told apart.
    Ok(ExitCode::from(u8::from(report.kicked == 0)))
}
