//! Commands other than the demo.

mod admin;
pub(crate) mod config;
pub(crate) mod kick;
pub(crate) mod serve;
pub(crate) mod sessions;

use std::{error::Error, process::ExitCode};

/// What a command ends with.
pub(crate) type Outcome = Result<ExitCode, Box<dyn Error + Send + Sync>>;
