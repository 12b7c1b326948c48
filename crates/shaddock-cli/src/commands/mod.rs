//! Commands other than the demo.

mod admin;
pub(crate) mod call;
pub(crate) mod config;
pub(crate) mod drain;
pub(crate) mod kick;
pub(crate) mod new;
mod operator;
pub(crate) mod serve;
pub(crate) mod servers;
pub(crate) mod sessions;
mod table;

use std::{error::Error, process::ExitCode};

/// The outcome of a command.
pub(crate) type Outcome = Result<ExitCode, Box<dyn Error + Send + Sync>>;
