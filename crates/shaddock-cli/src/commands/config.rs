//! `shaddock config`

use std::process::ExitCode;

use clap::Args;
use shaddock::config::Config;

use super::Outcome;
use crate::ConfigSource;

/// Print the effective configuration.
#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    #[command(flatten)]
    source: ConfigSource,
    /// Print the reference of all settings as Markdown instead
    #[arg(long)]
    reference: bool,
    /// Print nothing; only say whether there are mistakes
    #[arg(long, conflicts_with = "reference")]
    check: bool,
}

pub(crate) fn run(args: ConfigArgs) -> Outcome {
    if args.reference {
        print!("{}", Config::reference());
        return Ok(ExitCode::SUCCESS);
    }
    let mistakes = |error| format!("the configuration is invalid:\n{error}");
    let config = Config::load(&args.source.sources()).map_err(mistakes)?;
    if args.check {
        config.check_start().map_err(mistakes)?;
    } else {
        print!("{}", config.to_toml());
    }
    Ok(ExitCode::SUCCESS)
}
