//! The `shaddock` command.

mod commands;
mod demo;

use std::{error::Error, io::Write, path::PathBuf, process::ExitCode, sync::mpsc, time::Duration};

use clap::{Args, Parser, Subcommand};
use shaddock::config::Sources;

/// An idle session costs a tenth less with it than with glibc's allocator, and memory comes back when sessions go
/// (docs/performance.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The session layer of real-time servers.
#[derive(Debug, Parser)]
#[command(name = "shaddock", version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the chat demo: gate, two connectors and a chat server in one process or as a cluster, and a web page
    Demo(demo::DemoArgs),
    /// Begin a project: a server with a test, its configuration and a Dockerfile
    New(commands::new::NewArgs),
    /// Run a frontend from a configuration file: every route is forwarded to the backends of the cluster
    Serve(commands::serve::ServeArgs),
    /// Print the effective configuration with comments, or check a file
    Config(commands::config::ConfigArgs),
    /// List the servers of the cluster: what they are, what they have, how they are
    Servers(commands::servers::ServersArgs),
    /// List the sessions of all frontends of the cluster
    Sessions(commands::sessions::SessionsArgs),
    /// Kick a user, a session or an address, wherever in the cluster
    Kick(commands::kick::KickArgs),
    /// Carry out commands of the server API: pushes, kicks, settings, binds, topics
    Call(commands::call::CallArgs),
    /// Drain one server of the cluster, so that its process ends without harm
    Drain(commands::drain::DrainArgs),
    /// Measure a server that speaks the Pomelo protocol
    Bench(shaddock_bench::BenchArgs),
    /// Run a program until standard input ends. `shaddock demo --cluster` keeps NATS and etcd with it
    #[command(hide = true)]
    Keep(demo::cluster::KeepArgs),
}

/// Where settings come from. `docs/configuration.md` lists all of them.
#[derive(Debug, Clone, Args)]
struct ConfigSource {
    /// Configuration file (TOML); also $SHADDOCK_CONFIG
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// One setting; weighs more than the environment and the file. May be repeated
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    settings: Vec<String>,
}

impl ConfigSource {
    fn sources(self) -> Sources {
        Sources::of_process(self.config, self.settings)
    }
}

/// How long the end of the process waits for its error to be written. Nothing may read it.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Writes on its own thread, which may block while a pipe is full and not read. The caller waits for at most `limit`. A closed pipe is not
/// an error.
pub(crate) fn print_within(mut out: impl Write + Send + 'static, text: String, limit: Duration) {
    let (done, is_done) = mpsc::channel::<()>();
    let written = std::thread::Builder::new().spawn(move || {
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        drop(done);
    });
    if written.is_ok() {
        // Nothing is sent: the channel closes.
        let _ = is_done.recv_timeout(limit);
    }
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Demo(args) => demo::run(&args),
        Command::New(args) => commands::new::run(&args),
        Command::Serve(args) => commands::serve::run(args),
        Command::Config(args) => commands::config::run(args),
        Command::Servers(args) => commands::servers::run(&args),
        Command::Sessions(args) => commands::sessions::run(&args),
        Command::Kick(args) => commands::kick::run(args),
        Command::Call(args) => commands::call::run(&args),
        Command::Drain(args) => commands::drain::run(&args),
        Command::Keep(args) => demo::cluster::keep(&args),
        Command::Bench(args) => return shaddock_bench::run(&args),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            let text = format!("shaddock: {}\n", with_causes(&*error));
            print_within(std::io::stderr(), text, LAST_WORDS);
            ExitCode::from(2)
        }
    }
}

/// The text of an error, followed by those texts of its causes that it does not contain.
fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    for cause in causes.map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}
