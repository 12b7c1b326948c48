//! `shaddock bench` as a program of its own, without the rest of the command.

use clap::Parser;
use shaddock_bench::BenchArgs;

/// Load tester for servers that speak the Pomelo protocol.
#[derive(Parser)]
#[command(name = "shaddock-bench", version)]
struct Cli {
    #[command(flatten)]
    bench: BenchArgs,
}

fn main() -> std::process::ExitCode {
    shaddock_bench::run(&Cli::parse().bench)
}
