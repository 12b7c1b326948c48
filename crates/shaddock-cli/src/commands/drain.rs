//! `shaddock drain`

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Args;
use shaddock::config::Time;
use shaddock::operators::{DrainRequest, DrainStarted, ServerState, ServerStatus};

use super::{
    Outcome,
    admin::Failure,
    operator::{self, Operator, Target, print_json},
    table::{count, say},
};

/// Time between two looks at a server that drains.
const LOOK: Duration = Duration::from_millis(250);

/// Drain one server: it leaves the list, closes its clients in waves, finishes what it has, and its process ends.
#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    /// Its id, as `shaddock servers` shows it
    server: String,
    /// Wait until it is gone, and say how it goes on
    #[arg(long)]
    wait: bool,
    /// How long to wait at most: `20s`, `10m`, or a number of seconds
    #[arg(long, default_value_t = Time::secs(600), value_name = "TIME")]
    timeout: Time,
    /// Also if other servers run in its process, which end with it
    #[arg(long)]
    whole_process: bool,
    #[command(flatten)]
    target: Target,
}

pub(crate) fn run(args: &DrainArgs) -> Outcome {
    operator::run(&args.target, async |operator| drain(args, operator).await)
}

async fn drain(args: &DrainArgs, operator: &Operator) -> Outcome {
    let mut request = DrainRequest::default();
    request.server.clone_from(&args.server);
    request.whole_process = args.whole_process;
    let started = match operator.drain(&request).await {
        Ok(started) => started,
        // For scripts: a server that is not there is told apart.
        Err(Failure::NotFound(text)) => {
            eprintln!("shaddock: {text}");
            return Ok(ExitCode::from(1));
        }
        Err(failure) => return Err(failure.into()),
    };
    if args.target.json {
        print_json(&started)?;
    } else {
        say(&said(&started));
    }
    if args.wait {
        let begun = Instant::now();
        let end = begun + args.timeout.0;
        wait(&started, operator, end).await?;
        if !args.target.json {
            let seconds = begun.elapsed().as_secs_f64();
            say(&format!("{} is gone after {seconds:.1} s", started.server));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn said(started: &DrainStarted) -> String {
    let mut text = format!(
        "{} drains: {} to close",
        started.server,
        count(started.sessions, "session")
    );
    if !started.process_shared_with.is_empty() {
        text.push_str(", with its process: ");
        text.push_str(&started.process_shared_with.join(", "));
    }
    text
}

/// Done when the server is neither in the list nor answers any more.
async fn wait(
    started: &DrainStarted,
    operator: &Operator,
    end: Instant,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let (mut told, mut uptime) = (String::new(), 0);
    loop {
        match operator.server(&started.server).await {
            Ok(None) => return Ok(()),
            // Another one under the same id.
            Ok(Some(server)) if server.uptime_ms.is_some_and(|ms| ms < uptime) => return Ok(()),
            Ok(Some(server)) => {
                uptime = server.uptime_ms.unwrap_or(uptime);
                let text = progress(&server);
                if text != told {
                    eprintln!("{text}");
                    told = text;
                }
            }
            // Its own admin server was asked, which ended with it.
            Err(Failure::NoServer(_)) if started.here => return Ok(()),
            // Its process ends at this moment.
            Err(Failure::Other(_)) if started.here => {}
            Err(failure) => return Err(failure.into()),
        }
        if Instant::now() >= end {
            return Err(format!("{} is still there", started.server).into());
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn progress(server: &ServerStatus) -> String {
    if server.state == ServerState::Silent {
        return format!("{}: does not answer any more", server.id);
    }
    let sessions = server.sessions.map(|n| count(n, "session") + " left");
    let relayed = server.sessions_relayed.filter(|n| *n > 0);
    let relayed = relayed.map(|n| format!("{n} with clients at other frontends"));
    let in_flight = server.in_flight.map(|n| format!("{n} in flight"));
    let state = Some(server.state.name().to_owned());
    let parts = [state, sessions, relayed, in_flight];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    format!("{}: {}", server.id, parts.join(", "))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        drain: DrainArgs,
    }

    #[test]
    fn the_time_to_wait_is_written_as_every_other_time() {
        let timeout = |words: &[&str]| {
            let parsed = Command::try_parse_from([&["drain", "chat-1"], words].concat());
            parsed.ok().map(|command| command.drain.timeout)
        };
        assert_eq!(timeout(&[]), Some(Time::secs(600)));
        assert_eq!(timeout(&["--timeout", "20s"]), Some(Time::secs(20)));
        assert_eq!(timeout(&["--timeout", "20"]), Some(Time::secs(20)));
        assert_eq!(timeout(&["--timeout", "1m30s"]), Some(Time::secs(90)));
        assert_eq!(timeout(&["--timeout", "soon"]), None);
    }
}
