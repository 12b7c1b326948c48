//! Why a process ends with an error.

use std::io;

use crate::{app::StartError, config::ConfigError, wire::TlsError};

/// Why a process does not start, or does not go on.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// The command line cannot be understood.
    #[error("{0}; `--help` lists the flags")]
    Arguments(String),
    /// The configuration has mistakes.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Logging cannot be set up.
    #[cfg(feature = "logs")]
    #[error(transparent)]
    Log(#[from] crate::logging::LogError),
    /// The admin server does not start.
    #[cfg(feature = "admin")]
    #[error(transparent)]
    Admin(#[from] crate::admin::AdminError),
    /// A server does not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Certificate or key cannot be used.
    #[error("{0} (`tls.certificate`, `tls.key`)")]
    Tls(#[from] TlsError),
    /// It ran, and could not go on; it has drained.
    #[error("the server ended: {0}")]
    Ended(String),
    /// The operating system refuses a runtime or signals.
    #[error("the process cannot be initialized: {0}")]
    System(#[from] io::Error),
}

/// Programs whose `main` returns it print it this way: what was wrong, for people.
impl std::fmt::Debug for LaunchError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}
