//! The preparation of all scenarios, and the reasons for which a run fails.

use std::{io, sync::Arc};

use crate::{
    args::TargetArgs,
    procfs::Processes,
    target::{Target, TargetError},
};

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// Invalid flags.
    #[error("{0}")]
    Target(#[from] TargetError),
    /// The script of `mix` is invalid.
    #[error("{0}")]
    Script(String),
    /// More connections than files may be open.
    #[error("{wanted} connections need more files than this process may open ({limit})")]
    Files {
        /// Connections that were asked for.
        wanted: usize,
        /// The hard limit.
        limit: u64,
    },
    /// The server's process cannot be inspected.
    #[error("process {pid}: {error}")]
    Process {
        /// The process that was named.
        pid: u32,
        /// The error of the operating system.
        error: io::Error,
    },
    /// Another error of the operating system.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// A thread of the load tester panicked, which is a bug.
    #[error("a thread of the load tester panicked")]
    Panicked,
}

/// State for all scenarios.
pub(super) struct Setup<'a> {
    pub(super) args: &'a TargetArgs,
    pub(super) target: Arc<Target>,
    pub(super) server: Option<Processes>,
}
