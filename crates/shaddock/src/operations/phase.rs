//! The state of a process.

/// What a process is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Phase {
    /// Components start and ports are opened.
    Starting,
    /// Clients are served. Only now is the process ready.
    Running,
    /// No new clients are accepted; connected clients are notified and closed.
    Draining,
}

impl Phase {
    /// `starting`, `running` or `draining`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Draining => "draining",
        }
    }
}
