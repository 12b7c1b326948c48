//! Logs: for people or as JSON, on standard error, with levels by module that can be changed while the server runs.

use std::io::{self, IsTerminal as _};

use tracing::{Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{
    Layer, Registry,
    filter::Targets,
    layer::SubscriberExt as _,
    registry::LookupSpan,
    reload,
    util::{SubscriberInitExt as _, TryInitError},
};

use crate::config::{LogFormat, LogSettings};

/// Changes what is logged while the process runs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LogHandle(reload::Handle<Targets, Registry>);

/// Why logging cannot be set up or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The filter is malformed.
    #[error("{0}")]
    Filter(String),
    /// The process has a logger already.
    #[error("logging is set up already")]
    Taken(#[from] TryInitError),
    /// The logger is gone.
    #[error("the logger is gone")]
    Gone(#[from] reload::Error),
}

/// Sets up logging for the whole process, as the settings say.
///
/// # Errors
/// The filter is malformed, or the process has a logger already.
pub fn init(settings: &LogSettings) -> Result<LogHandle, LogError> {
    let targets = parse_filter(&settings.filter).map_err(LogError::Filter)?;
    let (filter, handle) = reload::Layer::new(targets);
    let terminal = io::stderr().is_terminal();
    let json = match settings.format {
        LogFormat::Json => true,
        LogFormat::Auto => !terminal,
        LogFormat::Human => false,
    };
    let layer = if json {
        json_layer().boxed()
    } else {
        human_layer(terminal).boxed()
    };
    tracing_subscriber::registry()
        .with(layer.with_filter(filter))
        .try_init()?;
    Ok(LogHandle(handle))
}

impl LogHandle {
    /// Replaces the filter.
    ///
    /// # Errors
    /// It is malformed; then the old one stays.
    pub fn set_filter(&self, filter: &str) -> Result<(), LogError> {
        let targets = parse_filter(filter).map_err(LogError::Filter)?;
        Ok(self.0.reload(targets)?)
    }
}

/// Whether a line that cannot be written is reported, which is done on standard error too, and panics there: whoever read our logs
/// is gone, and that must not stop a drain.
const SAY_SO: bool = false;

fn human_layer<S>(terminal: bool) -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    // See https://no-color.org.
    let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    tracing_subscriber::fmt::layer()
        .with_ansi(colour)
        .log_internal_errors(SAY_SO)
        .with_writer(io::stderr)
}

fn json_layer<S>() -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .log_internal_errors(SAY_SO)
        .with_writer(io::stderr)
}

/// Whether `text` is a filter; the message says what is wrong.
pub(crate) fn check_filter(text: &str) -> Result<(), String> {
    parse_filter(text).map(drop)
}

fn parse_filter(text: &str) -> Result<Targets, String> {
    // A lone word that is no level would be taken for a module, and silence all others.
    for part in text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty() && !part.contains('='))
    {
        if part.parse::<LevelFilter>().is_err() {
            return Err(format!(
                "\"{part}\" is no level; write error, warn, info, debug, trace or off, or \"{part}=debug\" for a module"
            ));
        }
    }
    text.parse().map_err(|error| {
        format!("\"{text}\" is no filter ({error}); write a level, or \"info,shaddock_net=debug\"")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters() {
        for text in [
            "info",
            "off",
            "info,shaddock_net=debug",
            "shaddock=trace,warn",
            "",
        ] {
            assert!(check_filter(text).is_ok(), "{text}");
        }
        assert!(
            check_filter("verbose")
                .unwrap_err()
                .contains("\"verbose=debug\"")
        );
        assert!(
            check_filter("info,shaddock=loud")
                .unwrap_err()
                .contains("no filter")
        );
    }
}
