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
    table::{count, print_line},
};

/// Time between two looks at a server that drains.
const LOOK: Duration = Duration::from_millis(250);
/// Lines of progress, if there is some: one a second for the first ones, and then one in so long.
const FIRST: usize = 30;
const LATER: Duration = Duration::from_secs(10);
/// On top of the time in which the server says that it ends.
const SLACK: Duration = Duration::from_secs(60);
/// For a server that does not say it.
const UNKNOWN: Duration = Duration::from_secs(600);

/// Drain one server: it leaves the list, closes its clients in waves, finishes what it has, and its process ends. Clients that resume keep
/// their sessions: they come back to them through the other frontends, and the process ends when the last of these sessions has ended.
#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    /// Its id, as `shaddock servers` shows it
    server: String,
    /// How long sessions may go on whose clients resume; `0s` closes all of them. Default: `drain.linger` of the server, or 10m if that is not
    /// set. For a server that drains already: from now
    #[arg(long, value_name = "TIME")]
    linger: Option<Time>,
    /// Return when the drain has begun. Otherwise the command shows how it goes on and ends with the process; Ctrl-C ends only the command
    #[arg(long)]
    no_wait: bool,
    /// The default; kept for scripts of earlier versions
    #[arg(long, hide = true, conflicts_with = "no_wait")]
    wait: bool,
    /// How long to wait at most: `20s`, `10m`, or a number of seconds. Default: a minute longer than the server needs at most
    #[arg(long, value_name = "TIME")]
    timeout: Option<Time>,
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
    request.linger = args.linger;
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
        print_line(&summary(&started));
    }
    if !args.no_wait {
        let begun = Instant::now();
        wait(&started, operator, begun + patience(args, &started)).await?;
        if !args.target.json {
            let seconds = begun.elapsed().as_secs_f64();
            print_line(&format!("{} is gone after {seconds:.1} s", started.server));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn patience(args: &DrainArgs, started: &DrainStarted) -> Duration {
    match (args.timeout, started.ends_within_ms) {
        (Some(timeout), _) => timeout.0,
        (None, 0) => UNKNOWN,
        (None, ms) => Duration::from_millis(ms) + SLACK,
    }
}

fn summary(started: &DrainStarted) -> String {
    let sessions = count(started.sessions, "session");
    let mut text = if started.linger_ms == 0 {
        format!("{} drains: {sessions} to close", started.server)
    } else {
        format!(
            "{} drains: {sessions}; clients that resume come back through other frontends, for at most {}",
            started.server,
            seconds(started.linger_ms)
        )
    };
    if !started.process_shared_with.is_empty() {
        text.push_str(", with its process: ");
        text.push_str(&started.process_shared_with.join(", "));
    }
    text
}

/// In whole seconds, which is enough for people.
fn seconds(ms: u64) -> Time {
    Time::secs(ms.div_ceil(1000))
}

/// Done when the server is neither in the list nor answers any more.
async fn wait(
    started: &DrainStarted,
    operator: &Operator,
    end: Instant,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let (mut progress, mut uptime) = (Progress::new(), 0);
    loop {
        match operator.server(&started.server).await {
            Ok(None) => return Ok(()),
            // Another one under the same id.
            Ok(Some(server)) if server.uptime_ms.is_some_and(|ms| ms < uptime) => return Ok(()),
            Ok(Some(server)) => {
                uptime = server.uptime_ms.unwrap_or(uptime);
                progress.report(&server);
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

/// The progress that was printed last.
struct Progress {
    lines: usize,
    last: Instant,
    text: String,
}

impl Progress {
    fn new() -> Self {
        Self {
            lines: 0,
            last: Instant::now(),
            text: String::new(),
        }
    }

    fn report(&mut self, server: &ServerStatus) {
        let text = progress(server);
        let pause = match self.lines {
            0 => Duration::ZERO,
            1..FIRST => Duration::from_secs(1),
            _ => LATER,
        };
        let is_due = self.last.elapsed() >= pause || server.state == ServerState::Silent;
        if text == self.text || !is_due {
            return;
        }
        let end = server.drain.as_ref().map(|drain| drain.ends_within_ms);
        let end = end.map(|ms| format!("; it ends in {} at the latest", seconds(ms)));
        eprintln!("{text}{}", end.unwrap_or_default());
        self.lines += 1;
        (self.text, self.last) = (text, Instant::now());
    }
}

fn progress(server: &ServerStatus) -> String {
    if server.state == ServerState::Silent {
        return format!("{}: no longer responds", server.id);
    }
    let sessions = server.sessions.map(|n| count(n, "session") + " left");
    let relayed = server.sessions_relayed.filter(|n| *n > 0);
    let relayed = relayed.map(|n| format!("{n} with clients at other frontends"));
    let drain = server.drain.as_ref().filter(|drain| drain.disconnected > 0);
    let away = drain.map(|drain| format!("{} whose clients are not back yet", drain.away));
    let in_flight = server.in_flight.map(|n| format!("{n} in flight"));
    let state = Some(server.state.name().to_owned());
    let parts = [state, sessions, relayed, away, in_flight];
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

    fn parse(words: &[&str]) -> Option<DrainArgs> {
        let parsed = Command::try_parse_from([&["drain", "chat-1"], words].concat());
        parsed.ok().map(|command| command.drain)
    }

    #[test]
    fn times_are_written_as_every_other_time() {
        let timeout = |words: &[&str]| parse(words).map(|args| args.timeout);
        assert_eq!(timeout(&[]), Some(None));
        assert_eq!(timeout(&["--timeout", "20s"]), Some(Some(Time::secs(20))));
        assert_eq!(timeout(&["--timeout", "20"]), Some(Some(Time::secs(20))));
        assert_eq!(timeout(&["--timeout", "1m30s"]), Some(Some(Time::secs(90))));
        assert_eq!(timeout(&["--timeout", "soon"]), None);
        let linger = parse(&["--linger", "0s"]).unwrap().linger;
        assert_eq!(linger, Some(Time::secs(0)));
        assert!(parse(&["--wait", "--no-wait"]).is_none());
    }

    #[test]
    fn it_waits_for_as_long_as_the_server_may_need() {
        let started = |ends_within_ms: u64| -> DrainStarted {
            let json = serde_json::json!({
                "server": "a", "sessions": 1, "process_shared_with": [], "ends_within_ms": ends_within_ms,
            });
            serde_json::from_value(json).unwrap()
        };
        let args = parse(&[]).unwrap();
        assert_eq!(patience(&args, &started(5000)), Duration::from_secs(65));
        assert_eq!(patience(&args, &started(0)), UNKNOWN);
        let args = parse(&["--timeout", "3s"]).unwrap();
        assert_eq!(patience(&args, &started(5000)), Duration::from_secs(3));
    }
}
