//! Logs: for people or as JSON, on standard error, with levels by module that can be changed while the server runs.
//!
//! Logging never waits for the reader of standard error: see [`LineQueue`]. Panics are logged too.

mod filter;
mod queue;

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    fs::File,
    io::{self, IsTerminal as _},
    os::fd::AsFd as _,
    time::Duration,
};

use tracing::Subscriber;
use tracing_subscriber::{
    Layer, Registry,
    filter::Targets,
    layer::SubscriberExt as _,
    registry::LookupSpan,
    reload,
    util::{SubscriberInitExt as _, TryInitError},
};

pub(crate) use self::filter::check_filter;
use self::filter::parse_filter;
pub use self::queue::{Line, LineQueue};
use crate::{
    config::{LogFormat, LogSettings},
    guarded,
};

/// Changes what is logged while the process runs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LogHandle {
    filter: reload::Handle<Targets, Registry>,
    queue: LineQueue,
}

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
    /// The operating system refuses a thread, or a descriptor for standard error.
    #[error("logs cannot be written: {0}")]
    System(#[from] io::Error),
}

/// Sets up logging for the whole process, as the settings say. Panics of any thread go to the log from then on, as errors.
///
/// Lines go to standard error through a queue of [`LogSettings::queue_bytes`] and a thread of its own. At the bound they are dropped and
/// counted ([`LogHandle::dropped_lines`]); when standard error is read again, the log says how many are missing. A program that ends calls
/// [`LogHandle::flush`], as [`Launcher`](crate::launch::Launcher) does.
///
/// # Errors
/// The filter is malformed, the process has a logger already, or the operating system refuses a thread.
pub fn init(settings: &LogSettings) -> Result<LogHandle, LogError> {
    let targets = parse_filter(&settings.filter).map_err(LogError::Filter)?;
    let (filter, handle) = reload::Layer::new(targets);
    let terminal = io::stderr().is_terminal();
    let json = match settings.format {
        LogFormat::Json => true,
        LogFormat::Auto => !terminal,
        LogFormat::Human => false,
    };
    // A descriptor of its own: the lock of `io::stderr` would be held while a write waits.
    let out = File::from(io::stderr().as_fd().try_clone_to_owned()?);
    let queue = LineQueue::new(settings.queue_bytes.0);
    let layer = if json {
        json_layer(queue.clone()).boxed()
    } else {
        human_layer(queue.clone(), terminal).boxed()
    };
    tracing_subscriber::registry()
        .with(layer.with_filter(filter))
        .try_init()?;
    queue.run(out, |lines| {
        tracing::warn!(
            lines,
            "lines of the log were dropped: standard error was not read in time"
        );
    })?;
    log_panics();
    Ok(LogHandle {
        filter: handle,
        queue,
    })
}

/// The hook of the standard library writes to standard error, and waits for its reader.
fn log_panics() {
    std::panic::set_hook(Box::new(|info| {
        let thread = std::thread::current();
        let place = info.location().map(ToString::to_string);
        let place = place.unwrap_or_default();
        let backtrace = Backtrace::capture();
        let backtrace = (backtrace.status() == BacktraceStatus::Captured)
            .then(|| tracing::field::display(backtrace));
        shaddock_net::quiet!(
            error,
            "a thread panicked",
            thread = thread.name().unwrap_or("unnamed"),
            place,
            panic = guarded::text_of(info.payload()),
            backtrace
        );
    }));
}

impl LogHandle {
    /// Replaces the filter.
    ///
    /// # Errors
    /// It is malformed; then the old one stays.
    pub fn set_filter(&self, filter: &str) -> Result<(), LogError> {
        let targets = parse_filter(filter).map_err(LogError::Filter)?;
        Ok(self.filter.reload(targets)?)
    }

    /// Waits until the lines of this moment are written, but no longer than `limit`; false if some are not. It blocks the thread.
    pub fn flush(&self, limit: Duration) -> bool {
        self.queue.flush(limit)
    }

    /// Lines that were dropped because standard error was not read in time, or at all.
    pub fn dropped_lines(&self) -> u64 {
        self.queue.dropped()
    }
}

/// Whether a line that cannot be formatted is reported, which is done on standard error, and panics when that is closed.
const SAY_SO: bool = false;

fn human_layer<S>(queue: LineQueue, terminal: bool) -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    // See https://no-color.org.
    let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    tracing_subscriber::fmt::layer()
        .with_ansi(colour)
        .log_internal_errors(SAY_SO)
        .with_writer(queue)
}

fn json_layer<S>(queue: LineQueue) -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .log_internal_errors(SAY_SO)
        .with_writer(queue)
}
