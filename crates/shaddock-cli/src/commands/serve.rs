//! `shaddock serve`: a frontend without handlers of its own, in front of services over HTTP or whatever backends the cluster has.

use std::{fmt::Write as _, hash::BuildHasher as _, process::ExitCode, time::Duration};

use clap::Args;
use shaddock::{app::Running, config::Config, launch::Launcher, prelude::*};

use super::Outcome;
use crate::{ConfigSource, print_within};

/// A frontend without others to forward to makes no sense, so without HTTP backends the cluster is NATS unless the configuration says otherwise.
const NATS: &str = "cluster.mode=nats";

/// Run a frontend from a configuration alone.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    source: ConfigSource,
}

pub(crate) fn run(args: ServeArgs) -> Outcome {
    let sources = args.source.sources();
    let mut launcher = Launcher::new(sources.clone())?;
    if launcher.config().backends.is_empty() {
        launcher = Launcher::new(sources.preset(NATS))?;
    }
    launcher.init_logs()?;
    let config = launcher.config();
    let mut app = App::new(&config.server.server_type, &id(config));
    launcher.configure_frontend(&mut app)?;
    if !app.is_frontend() {
        return Err("a frontend must listen: set `listen.address` or `tls.address`".into());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(launcher.serve(Servers::new().add(app), greet))?;
    // Work that did not end by itself is not waited for.
    runtime.shutdown_background();
    Ok(ExitCode::SUCCESS)
}

/// The configured id, or one that no other start has.
fn id(config: &Config) -> String {
    if !config.server.id.is_empty() {
        return config.server.id.clone();
    }
    // The standard library's hasher has a random key.
    let random = std::hash::RandomState::new().hash_one(std::process::id());
    format!("{}-{random:016x}", config.server.server_type)
}

/// Says where clients are served.
fn greet(running: &Running) {
    let mut text = String::new();
    for app in running.apps() {
        let addresses: Vec<String> = app.local_addrs().iter().map(ToString::to_string).collect();
        // Writing to a String does not fail.
        let _ = writeln!(
            text,
            "shaddock serve: {} is running on {}",
            app.id(),
            addresses.join(" and ")
        );
    }
    print_within(std::io::stdout(), text, Duration::ZERO);
}
