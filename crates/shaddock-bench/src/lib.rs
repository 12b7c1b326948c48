//! Load tester for servers that speak the Pomelo client protocol: the command `shaddock bench`.
//!
//! It opens thousands of sessions from one process, over TCP, WebSocket or TLS, and measures the server's cost: latency as HDR percentiles,
//! and, given the server's process id, CPU per message and resident bytes per session. Every response is checked against its request.
//! Wrong, lost or repeated responses are counted and make the run fail. `resume` cuts the sockets of its sessions, resumes them, and checks
//! the order too.
//!
//! The server needs three routes, whose names are configurable:
//!
//! | route (default) | request | what the server does |
//! | --- | --- | --- |
//! | `bench.echo.echo` | `{"i":"..","p":".."}` | responds with the same body |
//! | `bench.echo.bind` | `{"uid":"17"}` | binds the session to the uid and responds without an error |
//! | `bench.echo.push` | `{"i":"..","p":".."}` | pushes the same body on `onPush` to every bound session, then responds |
//!
//! # Map
//!
//! | module | what it owns |
//! | --- | --- |
//! | `args`, `target` | the command line; the server's address and the handshake |
//! | `control`, `phase` | **start here**: threads, phases of a run, the progress line |
//! | `engine`, `conn`, `counts`, `timers` | one thread: event loop, connections, counts, deadlines |
//! | `link`, `ws` | one socket: TLS, WebSocket frames, packages |
//! | `scenario` | the behaviour of the connections: one file per scenario |
//! | `body` | verifiable bodies |
//! | `tally`, `procfs`, `report` | counters, the server's CPU and memory, the result |
//!
//! A thread is one epoll loop. A connection reacts to input, as its scenario defines, in the same iteration, and all its output is sent in
//! one write.

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
/// The exit code is 0 if every response was right, 1 if a response was wrong, lost or repeated or a connection failed, and 2 if the run
/// could not be made at all.
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

/// Runs one scenario. Blocks until it has finished; prints only the progress line.
///
/// # Errors
///
/// The target is invalid, the operating system refuses a resource, or no connection could be made. Wrong responses are not an error here:
/// see [`Report::is_clean`].
pub fn measure(args: &BenchArgs) -> Result<Report, BenchError> {
    control::measure(args)
}
