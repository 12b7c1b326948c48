//! Load tester for servers that speak the Pomelo client protocol: the command `shaddock bench`.
//!
//! It opens thousands of sessions from one process, over TCP, WebSocket or TLS, and measures what the server takes for them:
//! latency as HDR percentiles, and, given the server's process id, CPU per message and resident bytes per session. Every
//! answer is checked against its request. A wrong, lost or repeated answer is counted and makes the run fail. `resume` cuts the sockets of its
//! sessions and comes back to them, and looks at the order too.
//!
//! The server needs three routes, whose names can be chosen:
//!
//! | route (default) | request | what the server does |
//! | --- | --- | --- |
//! | `bench.echo.echo` | `{"i":"..","p":".."}` | answers with the same body |
//! | `bench.echo.bind` | `{"uid":"17"}` | binds the session to the uid and answers anything without an error |
//! | `bench.echo.push` | `{"i":"..","p":".."}` | pushes the same body on `onPush` to every bound session, then answers |
//!
//! # Map
//!
//! | module | what it owns |
//! | --- | --- |
//! | `args`, `target` | the command line; the server's address and what is said to it first |
//! | `control`, `phase` | **start here**: threads, phases of a run, the progress line |
//! | `engine`, `conn`, `counts`, `timers` | one thread: event loop, its connections, what they count, its deadlines |
//! | `link`, `ws` | one socket: TLS, WebSocket frames, packages |
//! | `scenario` | what the connections do: one file for each scenario |
//! | `body` | bodies that can be checked |
//! | `tally`, `procfs`, `report` | counters, the server's CPU and memory, the result |
//!
//! A thread is one epoll loop. A connection answers as the scenario says, in the turn in which its input came, and everything
//! it has to say leaves in one write.

mod args;
mod body;
mod conn;
mod control;
mod counts;
mod engine;
mod link;
mod phase;
mod procfs;
mod report;
mod scenario;
mod tally;
mod target;
mod timers;
mod ws;

use std::process::ExitCode;

pub use args::{
    BenchArgs, ChurnArgs, ClientDialect, EchoArgs, FanoutArgs, IdleArgs, MixArgs, ResumeArgs,
    ScenarioArgs, TargetArgs,
};
pub use control::BenchError;
pub use report::{Latency, Report, ServerCost};

/// Runs one scenario and prints its result: a table, or with `--json` one JSON line.
///
/// The exit code is 0 if every answer was right, 1 if an answer was wrong, lost or repeated or a connection failed, and 2 if
/// the run could not be made at all.
pub fn run(args: &BenchArgs) -> ExitCode {
    match measure(args) {
        Ok(report) => {
            if args.is_json() {
                println!("{}", report.to_json());
            } else {
                print!("{report}");
            }
            ExitCode::from(u8::from(!report.is_clean()))
        }
        Err(error) => {
            eprintln!("shaddock bench: {error}");
            ExitCode::from(2)
        }
    }
}

/// Runs one scenario. Blocks until it is over; prints only the progress line.
///
/// # Errors
///
/// The target cannot be used, the operating system refuses what is needed, or no connection could be made. Wrong answers are
/// not an error here: see [`Report::is_clean`].
pub fn measure(args: &BenchArgs) -> Result<Report, BenchError> {
    control::measure(args)
}
