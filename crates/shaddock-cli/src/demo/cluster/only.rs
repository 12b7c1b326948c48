//! One server of the cluster in this process: `shaddock demo --only SERVER`, which is also what the children run.

use std::{process::ExitCode, time::Duration};

use shaddock::{app::BoxError, launch::Launcher, operations::Operations, prelude::*};

use super::{super::app, lifeline, sources};
use crate::{commands::Outcome, demo::DemoArgs, print_within};

/// The line that a child writes when it sees all others.
pub(super) const READY: &str = "ready";

pub(crate) fn run_one(args: &DemoArgs, id: &str) -> Outcome {
    let mut launcher = Launcher::new(sources(args))?;
    launcher.init_logs()?;
    let server = app(args, &launcher, id)?;
    let operations = launcher.operations();
    let child = &args.child;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        if child.lifeline {
            tokio::spawn(stop_when_cut(operations));
        }
        let servers = Servers::new().add(server);
        launcher
            .serve(servers, |running| greet(running, &child.expect))
            .await
    })?;
    // Work that did not end by itself is not waited for.
    runtime.shutdown_background();
    Ok(ExitCode::SUCCESS)
}

async fn stop_when_cut(operations: Operations) {
    match lifeline::cut().await {
        Ok(_) => operations.request_drain(),
        Err(error) => tracing::error!(%error, "--lifeline needs a pipe as standard input"),
    }
}

fn greet(running: &Running, expected: &[String]) {
    for app in running.apps() {
        if expected.is_empty() {
            let text = format!("{} is running in the cluster; Ctrl-C stops it\n", app.id());
            print_within(std::io::stdout(), text, Duration::ZERO);
            continue;
        }
        let (app, expected) = (app.clone(), expected.to_owned());
        tokio::spawn(async move {
            if until_there(&app, &expected).await.is_ok() {
                print_within(std::io::stdout(), format!("{READY}\n"), Duration::ZERO);
            }
        });
    }
}

/// Done when all of these servers are in discovery.
async fn until_there(app: &AppHandle, expected: &[String]) -> Result<(), BoxError> {
    let members = app.membership()?.members();
    let mut changes = members.changes();
    while expected.iter().any(|id| members.server(id).is_none()) {
        changes.changed().await?;
    }
    Ok(())
}
