//! The command line.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand, ValueEnum};

use crate::body::MIN_LEN;

/// Flags of `shaddock bench`.
#[derive(Args, Clone, Debug)]
pub struct BenchArgs {
    /// The scenario.
    #[command(subcommand)]
    pub scenario: ScenarioArgs,
}

/// The scenarios.
#[derive(Subcommand, Clone, Debug)]
pub enum ScenarioArgs {
    /// Requests and responses: latency and CPU per message.
    Echo(EchoArgs),
    /// Silent sessions: memory per session.
    Idle(IdleArgs),
    /// One request that pushes to all sessions: cost and latency per delivery.
    Fanout(FanoutArgs),
    /// Sessions that connect, and stay or disconnect: cost of connect, handshake and ack.
    Churn(ChurnArgs),
    /// Sessions that run a script: bind, request, wait, reconnect.
    Mix(MixArgs),
    /// Sessions that lose their sockets and resume: lost, repeated and late messages, and the time to the first of them.
    Resume(ResumeArgs),
}

/// The identification of the client in the handshake.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientDialect {
    /// `sys.type` and `sys.version`, as Pomelo's and Pinus's clients.
    Pomelo,
    /// `sys.platform` and `sys.libVersion`, as Pitaya's clients.
    Pitaya,
}

/// The server, and the flags of all scenarios.
#[derive(Args, Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line")]
pub struct TargetArgs {
    /// Address of the server: `tcp://`, `tls://`, `ws://` or `wss://`, host and port, for WebSocket also a path.
    pub url: String,
    /// Process id of the server: measures its CPU and memory. Repeat it for a server of several processes, whose values are added.
    #[arg(long)]
    pub pid: Vec<u32>,
    /// Sessions that are open at the same time.
    #[arg(short, long, default_value_t = 64, value_parser = at_least_one)]
    pub connections: usize,
    /// Threads of the load tester, each with its own share of the sessions.
    #[arg(long, default_value_t = 1, value_parser = at_least_one)]
    pub threads: usize,
    /// Handshakes that are in progress at the same time.
    #[arg(long, default_value_t = 64, value_parser = at_least_one)]
    pub connecting: usize,
    /// How long to wait for a handshake or a response before it counts as lost.
    #[arg(long, default_value = "10s", value_parser = some_time)]
    pub timeout: Duration,
    /// Request resumable sessions, which count, acknowledge and keep messages. `resume` always does.
    #[arg(long)]
    pub resume: bool,
    /// The identification of the client in the handshake.
    #[arg(long, value_enum, default_value = "pomelo")]
    pub dialect: ClientDialect,
    /// Route that responds with the body of the request.
    #[arg(long, default_value = "bench.echo.echo")]
    pub echo_route: String,
    /// Route that binds the session to `uid`.
    #[arg(long, default_value = "bench.echo.bind")]
    pub bind_route: String,
    /// Route that pushes the body of the request to every bound session.
    #[arg(long, default_value = "bench.echo.push")]
    pub push_route: String,
    /// Route of these pushes.
    #[arg(long, default_value = "onPush")]
    pub push_event: String,
    /// Bytes of a request's body, at least 39.
    #[arg(long, default_value_t = 64, value_parser = body)]
    pub body: usize,
    /// JSON body of requests instead of a generated one. Any response without an error is then accepted, and `--echo-route` may be any
    /// route of the server. An error is a `code` other than 200.
    #[arg(long, value_name = "JSON")]
    pub request_body: Option<String>,
    /// PEM file with the certificates that may sign those of a TLS server. Default: those of the system.
    #[arg(long)]
    pub ca: Option<PathBuf>,
    /// Accept any certificate of a TLS server.
    #[arg(long)]
    pub insecure: bool,
    /// Print the result as one line of JSON.
    #[arg(long)]
    pub json: bool,
    /// A name for this run, copied into the result.
    #[arg(long, default_value = "")]
    pub label: String,
    /// No progress line.
    #[arg(short, long)]
    pub quiet: bool,
}

/// Flags of `echo`.
#[derive(Args, Clone, Debug)]
pub struct EchoArgs {
    /// The server.
    #[command(flatten)]
    pub target: TargetArgs,
    /// Requests of one session that are in flight at the same time.
    #[arg(long, default_value_t = 1, value_parser = at_least_one)]
    pub in_flight: usize,
    /// Open loop: this number of requests per second in total, independent of responses. Latency is measured from the time at which a
    /// request should have been sent.
    #[arg(long, conflicts_with = "in_flight", value_parser = rate)]
    pub rate: Option<f64>,
    /// Time at the start that is not measured.
    #[arg(long, default_value = "1s", value_parser = duration)]
    pub warmup: Duration,
    /// Measured time.
    #[arg(long, default_value = "5s", value_parser = some_time)]
    pub duration: Duration,
}

/// Flags of `idle`.
#[derive(Args, Clone, Debug)]
pub struct IdleArgs {
    /// The server.
    #[command(flatten)]
    pub target: TargetArgs,
    /// Time to wait after the last session is open, before memory is read.
    #[arg(long, default_value = "2s", value_parser = duration)]
    pub settle: Duration,
    /// Time to stay open afterwards, while the CPU time of the idle server is measured.
    #[arg(long, default_value = "0s", value_parser = duration)]
    pub hold: Duration,
    /// Afterwards close their sockets and keep the sessions (as `--resume`), wait for `--settle` again, and read the memory once more: the
    /// server's `resident_after`.
    #[arg(long)]
    pub suspend: bool,
}

/// Flags of `fanout`.
#[derive(Args, Clone, Debug)]
pub struct FanoutArgs {
    /// The server.
    #[command(flatten)]
    pub target: TargetArgs,
    /// Pushes to send. Without `--rate` the next one is sent when the last one has reached all sessions.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    pub pushes: u64,
    /// Open loop: pushes per second.
    #[arg(long, value_parser = rate)]
    pub rate: Option<f64>,
    /// Percentage of the sessions that never read.
    #[arg(long, default_value_t = 0.0, value_parser = percentage)]
    pub stalled: f64,
}

/// Flags of `churn`.
#[derive(Args, Clone, Debug)]
pub struct ChurnArgs {
    /// The server. `--connections` is the total number of sessions.
    #[command(flatten)]
    pub target: TargetArgs,
    /// Close each session after its ack; without it all stay until the end.
    #[arg(long)]
    pub close: bool,
}

/// Flags of `mix`.
#[derive(Args, Clone, Debug)]
pub struct MixArgs {
    /// The server.
    #[command(flatten)]
    pub target: TargetArgs,
    /// Steps that each session repeats: `bind`, `request*N`, `wait DURATION`, `reconnect`, separated by commas. A session is connected
    /// before its first step.
    #[arg(
        long,
        default_value = "bind, request*5, wait 100ms, request*5, reconnect"
    )]
    pub script: String,
    /// Number in the uid of the first session. Give runs at the same time different ones, so that they do not take each other's users.
    #[arg(long, default_value_t = 1)]
    pub first_uid: usize,
    /// End when every session has run its script this many times, or when `--duration` is over. There is no warm-up: every response is
    /// measured.
    #[arg(long, value_parser = at_least_one)]
    pub repeat: Option<usize>,
    /// Time at the start that is not measured.
    #[arg(long, default_value = "1s", value_parser = duration)]
    pub warmup: Duration,
    /// Measured time.
    #[arg(long, default_value = "5s", value_parser = some_time)]
    pub duration: Duration,
}

/// Flags of `resume`.
#[derive(Args, Clone, Debug)]
pub struct ResumeArgs {
    /// The server. All sessions are bound, and the first one pushes to all of them after each of its cuts.
    #[command(flatten)]
    pub target: TargetArgs,
    /// Number of times that each session loses its socket.
    #[arg(long, default_value_t = 10, value_parser = at_least_one)]
    pub cuts: usize,
    /// Requests in flight at each cut, at most 200.
    #[arg(long, default_value_t = 8, value_parser = burst)]
    pub burst: usize,
    /// Time that a session stays disconnected.
    #[arg(long, default_value = "0s", value_parser = duration)]
    pub away: Duration,
    /// Open no plain connections in between, to which resuming is compared.
    #[arg(long)]
    pub no_plain: bool,
    /// Fail if it takes longer.
    #[arg(long, default_value = "5m", value_parser = some_time)]
    pub limit: Duration,
}

impl BenchArgs {
    /// The flags of all scenarios.
    pub const fn target(&self) -> &TargetArgs {
        match &self.scenario {
            ScenarioArgs::Echo(args) => &args.target,
            ScenarioArgs::Idle(args) => &args.target,
            ScenarioArgs::Fanout(args) => &args.target,
            ScenarioArgs::Churn(args) => &args.target,
            ScenarioArgs::Mix(args) => &args.target,
            ScenarioArgs::Resume(args) => &args.target,
        }
    }

    /// Whether the result is printed as JSON.
    pub const fn is_json(&self) -> bool {
        self.target().json
    }
}

/// A number and a unit: `250us`, `100ms`, `5s`, `2m`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let split = text
        .find(|c: char| c.is_ascii_alphabetic())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let seconds = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        _ => return Err(format!("`{text}` is not a duration: write 100ms, 5s or 2m")),
    };
    let number: f64 = number
        .trim()
        .parse()
        .map_err(|_| format!("`{text}` has no number"))?;
    Duration::try_from_secs_f64(number * seconds).map_err(|error| error.to_string())
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("at least 1".to_owned()),
        Ok(number) => Ok(number),
        Err(_) => Err(format!("`{text}` is not a number")),
    }
}

/// Fewer than a client keeps.
fn burst(text: &str) -> Result<usize, String> {
    match at_least_one(text)? {
        number @ ..=200 => Ok(number),
        _ => Err("at most 200".to_owned()),
    }
}

/// A positive time.
fn some_time(text: &str) -> Result<Duration, String> {
    let time = duration(text)?;
    if time.is_zero() {
        return Err("more than no time".to_owned());
    }
    Ok(time)
}

fn body(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(length) if length < MIN_LEN => Err(format!("at least {MIN_LEN}")),
        Ok(length) => Ok(length),
        Err(_) => Err(format!("`{text}` is not a number")),
    }
}

/// A positive rate.
fn rate(text: &str) -> Result<f64, String> {
    let number: f64 = text
        .parse()
        .map_err(|_| format!("`{text}` is not a number"))?;
    if number > 0.0 && number.is_finite() {
        Ok(number)
    } else {
        Err("a rate is above 0".to_owned())
    }
}

fn percentage(text: &str) -> Result<f64, String> {
    let number: f64 = text
        .parse()
        .map_err(|_| format!("`{text}` is not a number"))?;
    if (0.0..=100.0).contains(&number) {
        Ok(number)
    } else {
        Err("a percentage is between 0 and 100".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("250us"), Ok(Duration::from_micros(250)));
        assert_eq!(duration(" 1.5 s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for bad in ["", "5", "s", "5 weeks", "-1s", "1e99s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
