//! `[telemetry]`: converts settings into the configuration of the exporter.

use super::{Config, ConfigError, Problem, TelemetrySettings, TracedUsersSetting};
use crate::telemetry::{self, Telemetry, TelemetryConfig, TelemetryError, TracedUsers};

impl TelemetrySettings {
    /// The configuration without the content of files; `None` without traces.
    fn config(&self) -> Option<TelemetryConfig> {
        if self.otlp.is_empty() {
            return None;
        }
        let mut config = TelemetryConfig::new(&self.otlp);
        config.headers.clone_from(&self.headers.0);
        config.ratio = self.ratio;
        config.service.clone_from(&self.service);
        config.users = match self.users {
            TracedUsersSetting::Hashed => TracedUsers::Hashed,
            TracedUsersSetting::Plain => TracedUsers::Plain,
            TracedUsersSetting::Left => TracedUsers::Left,
        };
        config.queue = self.queue;
        config.interval = self.interval.0;
        config.timeout = self.timeout.0;
        Some(config)
    }

    fn build(&self) -> Result<Option<Telemetry>, TelemetryError> {
        let Some(mut config) = self.config() else {
            return Ok(None);
        };
        if !self.ca.as_os_str().is_empty() {
            let pem = std::fs::read(&self.ca).map_err(|error| {
                TelemetryError::Roots(format!("{} cannot be read: {error}", self.ca.display()))
            })?;
            config.ca = Some(pem);
        }
        Telemetry::new(config).map(Some)
    }
}

/// The key that the error is about.
const fn key_of(error: &TelemetryError) -> &'static str {
    match error {
        TelemetryError::Url { .. } | TelemetryError::NotBuilt => "telemetry.otlp",
        TelemetryError::Header(_) => "telemetry.headers",
        TelemetryError::Roots(_) => "telemetry.ca",
        TelemetryError::Ratio(_) => "telemetry.ratio",
    }
}

fn named(error: &TelemetryError) -> (&'static str, String) {
    (key_of(error), error.to_string())
}

impl Config {
    /// Checks the section without reading files. Returns the invalid key and the reason.
    pub(super) fn telemetry_mistake(&self) -> Option<(&'static str, String)> {
        let config = self.telemetry.config()?;
        telemetry::check(&config).err().as_ref().map(named)
    }

    /// Checks the section with its files.
    pub(super) fn telemetry_files(&self) -> Option<(&'static str, String)> {
        self.telemetry.build().err().as_ref().map(named)
    }

    /// The exporter of this process; `None` without `telemetry.otlp`.
    ///
    /// # Errors
    /// The section is invalid. [`load`](Self::load) reports most reasons, [`check_start`](Self::check_start) unreadable files.
    pub fn telemetry(&self) -> Result<Option<Telemetry>, ConfigError> {
        self.telemetry.build().map_err(|error| {
            let (key, message) = named(&error);
            ConfigError::Problems(vec![Problem {
                origin: self.origin(key).clone(),
                key: key.to_owned(),
                message,
            }])
        })
    }
}
