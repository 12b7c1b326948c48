//! Traces of requests, exported to an [OpenTelemetry](https://opentelemetry.io) collector.
//!
//! A request of a client starts a trace. Its span has child spans for a forward to another server, a request to an HTTP backend, an RPC and a push
//! to several sessions. The trace context is propagated as [W3C Trace Context](https://www.w3.org/TR/trace-context/): between servers in the
//! metadata of each request, under the key that Pitaya servers use (`otel-span`), and to HTTP backends in the header `traceparent`.
//!
//! - `context.rs`: the propagated trace context.
//! - `span.rs`: spans and sampling.
//! - `spans.rs`: names and attributes of the framework's spans.
//! - `wire.rs`: OTLP messages.
//! - `export.rs`: the export queue and its task.
//!
//! Without a [`Telemetry`] in the app a request costs one branch. With one, each request carries a trace context; each recorded span reads the
//! clock twice and is sent through a bounded queue. No request waits for the collector.
//!
//! ```no_run
//! # #[cfg(feature = "otlp")]
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use shaddock::{prelude::*, telemetry::{Telemetry, TelemetryConfig}};
//!
//! let mut config = TelemetryConfig::new("http://127.0.0.1:4318");
//! config.ratio = 0.1;
//! let mut app = App::new("connector", "connector-1");
//! app.set(Telemetry::new(config)?);
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "otlp"))]
//! # fn main() {}
//! ```

mod context;
#[cfg(feature = "otlp")]
mod export;
mod span;
mod spans;
#[cfg(feature = "otlp")]
mod wire;

#[cfg(feature = "otlp")]
use parking_lot::Mutex;
use std::{fmt, sync::Arc, time::Duration};

use hyper::http::{HeaderName, HeaderValue};
use shaddock_cluster::Secret;
use tokio::{runtime::Handle, sync::mpsc};

pub(crate) use self::{
    context::TraceContext,
    span::{Kind, Span, Tracer},
    spans::Spans,
};
use crate::backend::BackendUrl;

/// How spans name users.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum TracedUsers {
    /// By `enduser.pseudo.id`: the first 16 hexadecimal digits of the SHA-256 of the uid. A uid that can be guessed can be confirmed.
    #[default]
    Hashed,
    /// By `enduser.id`: the uid.
    Plain,
    /// Not at all.
    Left,
}

/// Destination, sampling and limits of spans.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TelemetryConfig {
    /// URL of the collector, such as `http://127.0.0.1:4318`. `/v1/traces` is appended unless the URL ends with it.
    pub otlp: String,
    /// Headers of the requests to the collector, each as `name=value`, such as `authorization=Bearer 1234`.
    pub headers: Vec<Secret>,
    /// PEM text of the certificate authorities that are trusted for an `https://` collector. Default: those of the system.
    pub ca: Option<Vec<u8>>,
    /// Share of traces that is recorded, from 0 to 1, of those that start here. Default 0.01. A trace that another server started keeps that
    /// server's decision.
    pub ratio: f64,
    /// `service.name` of all spans. Default `shaddock`.
    pub service: String,
    /// How spans name users.
    pub users: TracedUsers,
    /// Spans that wait to be sent. Default 2,048. Spans above this limit are dropped and counted.
    pub queue: usize,
    /// Time between two requests to the collector; a request contains at most 512 spans. Default 5 s. A request that fails is repeated after this
    /// time; after three attempts its spans are dropped and counted.
    pub interval: Duration,
    /// Time limit for a response of the collector, and for [`Telemetry::flush`]. Default 5 s.
    pub timeout: Duration,
}

shaddock_protocol::setters!(TelemetryConfig {
    otlp: String,
    headers: Vec<Secret>,
    ca: impl Into<Option<Vec<u8>>>,
    ratio: f64,
    service: String,
    users: TracedUsers,
    queue: usize,
    interval: Duration,
    timeout: Duration,
});

impl TelemetryConfig {
    /// Sends to this collector.
    pub fn new(otlp: impl Into<String>) -> Self {
        Self {
            otlp: otlp.into(),
            headers: Vec::new(),
            ca: None,
            ratio: 0.01,
            service: "shaddock".to_owned(),
            users: TracedUsers::default(),
            queue: 2048,
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(5),
        }
    }
}

/// The reason why a [`TelemetryConfig`] is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TelemetryError {
    /// The URL is invalid. The text is shown without parts that may be secret.
    #[error("\"{url}\" {reason}")]
    Url {
        /// The text.
        url: String,
        /// The reason, with a valid example.
        reason: &'static str,
    },
    /// A header is invalid. It is not shown, because its value is a secret.
    #[error(
        "header {0} is not valid; write `name=value` in visible ASCII characters, such as \"authorization=Bearer 1234\""
    )]
    Header(usize),
    /// The certificate authorities are invalid.
    #[error(
        "the certificate authorities for the collector cannot be used: {0}; set `ca` to a PEM file"
    )]
    Roots(String),
    /// The ratio is out of range.
    #[error("`ratio` must be a number from 0 to 1, not {0}")]
    Ratio(String),
    /// The crate was built without its feature `otlp`.
    #[error(
        "this program was built without the feature `otlp` of shaddock, so it cannot send traces"
    )]
    NotBuilt,
}

/// Exports spans to a collector. One value serves all servers of a process: [`App::set`](crate::App::set) a clone in each app.
///
/// [`Launcher`](crate::launch::Launcher) does that for the section `[telemetry]` of the configuration.
#[derive(Clone)]
pub struct Telemetry(Arc<Inner>);

#[cfg_attr(
    not(feature = "otlp"),
    allow(dead_code, reason = "it cannot be made without the feature")
)]
struct Inner {
    tracer: Tracer,
    timeout: Duration,
    /// Requests of [`Telemetry::flush`].
    flushes: mpsc::Sender<tokio::sync::oneshot::Sender<()>>,
    /// `None` once the first app has started it.
    #[cfg(feature = "otlp")]
    exporter: Mutex<Option<export::Exporter>>,
}

impl Telemetry {
    /// Checks the configuration. The export starts with the first app that contains the value.
    ///
    /// # Errors
    /// [`TelemetryError`] if the configuration is invalid.
    #[cfg(feature = "otlp")]
    pub fn new(config: TelemetryConfig) -> Result<Self, TelemetryError> {
        check(&config)?;
        let timeout = config.timeout;
        let (sender, spans) = mpsc::channel(config.queue.clamp(1, 1 << 24));
        let tracer = Tracer::new(config.ratio, config.users, sender);
        let (flushes, asked) = mpsc::channel(1);
        let exporter = export::Exporter::new(config, tracer.counts(), spans, asked)?;
        Ok(Self(Arc::new(Inner {
            tracer,
            timeout,
            flushes,
            exporter: Mutex::new(Some(exporter)),
        })))
    }

    /// # Errors
    /// [`TelemetryError::NotBuilt`].
    #[cfg(not(feature = "otlp"))]
    pub fn new(_: TelemetryConfig) -> Result<Self, TelemetryError> {
        Err(TelemetryError::NotBuilt)
    }

    /// Called when an app starts. The first call spawns the export task on `runtime`.
    #[cfg_attr(
        not(feature = "otlp"),
        allow(unused_variables, reason = "nothing is sent")
    )]
    pub(crate) fn begin(&self, runtime: &Handle) -> Tracer {
        #[cfg(feature = "otlp")]
        {
            let exporter = self.0.exporter.lock().take();
            if let Some(exporter) = exporter {
                runtime.spawn(exporter.run());
            }
        }
        self.0.tracer.clone()
    }

    /// Whether the export task was started.
    #[cfg(feature = "otlp")]
    fn is_at_work(&self) -> bool {
        self.0.exporter.lock().is_none()
    }

    #[cfg(not(feature = "otlp"))]
    #[expect(clippy::unused_self, reason = "as with the feature")]
    const fn is_at_work(&self) -> bool {
        false
    }

    /// Exports the queued spans, with one attempt for each request. Call it at the end of a process. Returns after
    /// [`TelemetryConfig::timeout`] at the latest: `false` if spans were still queued then. Dropping the future leaves the rest to the export task.
    pub async fn flush(&self) -> bool {
        if !self.is_at_work() {
            return true;
        }
        let flushed = async {
            let (done, heard) = tokio::sync::oneshot::channel();
            self.0.flushes.send(done).await.is_ok() && heard.await.is_ok()
        };
        let flushed = tokio::time::timeout(self.0.timeout, flushed).await;
        let is_whole = flushed.unwrap_or(false) && self.0.tracer.waiting() == 0;
        if !is_whole {
            let left = self.0.tracer.waiting();
            tracing::warn!(
                left,
                "the last spans were not sent: the collector did not take them in time (`telemetry.timeout`)"
            );
        }
        is_whole
    }
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Telemetry").finish_non_exhaustive()
    }
}

/// The URL of the collector, and the path of requests.
///
/// # Errors
/// [`TelemetryError::Url`].
pub(crate) fn endpoint(text: &str) -> Result<(BackendUrl, String), TelemetryError> {
    // Text before an `@` may be a password, and text after a `?` a token.
    let shown = text.rsplit('@').next().unwrap_or_default();
    let shown = shown.split(['?', '#']).next().unwrap_or_default();
    let wrong = |reason| TelemetryError::Url {
        url: shown.to_owned(),
        reason,
    };
    if text.contains('@') {
        return Err(wrong(
            "contains a user, which is not sent; use `headers` (`telemetry.headers`) instead",
        ));
    }
    if text.contains(['?', '#']) {
        return Err(wrong("contains `?` or `#`; remove that part"));
    }
    let url: BackendUrl = text.parse().map_err(|_| {
        wrong("is not a valid collector URL; write \"http://127.0.0.1:4318\" (OTLP over HTTP)")
    })?;
    let path = url.path().to_owned();
    let path = if path.ends_with("/v1/traces") {
        path
    } else {
        path + "/v1/traces"
    };
    Ok((url, path))
}

/// # Errors
/// [`TelemetryError::Header`] with the number of the first invalid one, counted from 1.
fn headers(list: &[Secret]) -> Result<Vec<(HeaderName, HeaderValue)>, TelemetryError> {
    let parsed = list.iter().enumerate().map(|(number, text)| {
        let read = || {
            let (name, value) = text.expose().split_once('=')?;
            let name = HeaderName::from_bytes(name.trim().as_bytes()).ok()?;
            let mut value = HeaderValue::from_str(value.trim()).ok()?;
            value.set_sensitive(true);
            Some((name, value))
        };
        read().ok_or(TelemetryError::Header(number + 1))
    });
    parsed.collect()
}

/// Checks a configuration without reading certificates.
///
/// # Errors
/// [`TelemetryError`].
pub(crate) fn check(config: &TelemetryConfig) -> Result<(), TelemetryError> {
    if !cfg!(feature = "otlp") {
        return Err(TelemetryError::NotBuilt);
    }
    if !(0.0..=1.0).contains(&config.ratio) {
        return Err(TelemetryError::Ratio(config.ratio.to_string()));
    }
    endpoint(&config.otlp)?;
    headers(&config.headers).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collectors() {
        for (text, path) in [
            ("http://127.0.0.1:4318", "/v1/traces"),
            ("http://127.0.0.1:4318/", "/v1/traces"),
            ("https://otel.example.com/a", "/a/v1/traces"),
            ("http://[::1]:4318/v1/traces", "/v1/traces"),
        ] {
            assert_eq!(endpoint(text).unwrap().1, path, "{text}");
        }
        for (text, part) in [
            ("", "is not a valid collector URL"),
            ("127.0.0.1:4318", "http://127.0.0.1:4318"),
            ("grpc://127.0.0.1:4317", "OTLP over HTTP"),
            ("http://user:s3cret@a", "`telemetry.headers`"),
            ("http://a/?token=s3cret", "`?`"),
            ("http://a:0", "is not a valid"),
        ] {
            let error = endpoint(text).unwrap_err().to_string();
            assert!(
                error.contains(part) && !error.contains("s3cret"),
                "{text}: {error}"
            );
        }
    }
}
