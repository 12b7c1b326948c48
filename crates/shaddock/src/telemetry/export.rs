//! The export task: one for all servers of a process.
//!
//! The task collects spans for [`interval`](super::TelemetryConfig::interval), or until there are [`MOST`], and sends them in one request. A request that fails is
//! repeated at each interval, [`ATTEMPTS`] times in all. Meanwhile the queue fills up, and spans that do not fit are dropped when they end. So
//! memory is bounded without a collector, and no request waits. The log reports lost spans at most once a minute.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::http::{
    HeaderName, HeaderValue, Request, Response, StatusCode,
    header::{CONTENT_TYPE, HOST, USER_AGENT},
};
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
    time::{Instant, MissedTickBehavior, interval_at, timeout},
};

use super::{
    TelemetryConfig, TelemetryError, endpoint, headers,
    span::{Counts, Record},
    wire,
};
use crate::backend::{
    BackendError, Protocol,
    connect::{Body, Connector, Sender, pem_tls, system_tls},
};

/// Spans of one request.
const MOST: usize = 512;
/// Attempts to send the same spans.
const ATTEMPTS: u32 = 3;
/// Bytes of a response that are read.
const MOST_ANSWER: usize = 64 * 1024;
/// Time between two lines of the log.
const QUIET: Duration = Duration::from_secs(60);
const AGENT: &str = concat!("shaddock/", env!("CARGO_PKG_VERSION"));

type Flushes = mpsc::Receiver<oneshot::Sender<()>>;

/// The state of the export task.
pub(super) struct Exporter {
    collector: Collector,
    interval: Duration,
    service: String,
    counts: Arc<Counts>,
    spans: mpsc::Receiver<Record>,
    flushes: Flushes,
    /// The spans of the next request.
    batch: Vec<Record>,
    attempts: u32,
    complaint: Complaint,
}

/// A request that failed.
struct Failed {
    reason: String,
    /// Whether the same request may succeed later.
    is_passing: bool,
}

impl Failed {
    fn passing(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            is_passing: true,
        }
    }
}

impl Exporter {
    pub(super) fn new(
        config: TelemetryConfig,
        counts: Arc<Counts>,
        spans: mpsc::Receiver<Record>,
        flushes: Flushes,
    ) -> Result<Self, TelemetryError> {
        let complaint = Complaint::new(Arc::clone(&counts));
        Ok(Self {
            collector: Collector::new(&config)?,
            interval: config.interval.max(Duration::from_millis(1)),
            service: config.service,
            counts,
            spans,
            flushes,
            batch: Vec::new(),
            attempts: 0,
            complaint,
        })
    }

    /// Runs until the last [`Telemetry`](super::Telemetry) is dropped.
    pub(super) async fn run(mut self) {
        let mut ticks = interval_at(Instant::now() + self.interval, self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let room = MOST.saturating_sub(self.batch.len());
            tokio::select! {
                biased;
                asked = self.flushes.recv() => match asked {
                    Some(done) => {
                        self.flush().await;
                        // The caller of `flush` may have stopped waiting.
                        let _ = done.send(());
                    }
                    None => return self.flush().await,
                },
                _ = ticks.tick() => self.send().await,
                // A batch that waits for another attempt takes no more spans: each has all its attempts, and the queue is bounded.
                _ = self.spans.recv_many(&mut self.batch, room), if room > 0 && self.attempts == 0 => {
                    if self.batch.len() >= MOST {
                        self.send().await;
                    }
                }
            }
        }
    }

    /// Sends all queued spans, with one attempt.
    async fn flush(&mut self) {
        loop {
            while self.batch.len() < MOST
                && let Ok(record) = self.spans.try_recv()
            {
                self.batch.push(record);
            }
            if self.batch.is_empty() {
                return;
            }
            self.attempts = ATTEMPTS;
            self.send().await;
        }
    }

    /// Sends the batch. The batch is kept if another attempt may succeed.
    async fn send(&mut self) {
        let count = self.batch.len() as u64;
        if count > 0 {
            let resource = [
                ("service.name", self.service.as_str()),
                ("telemetry.sdk.name", "shaddock"),
                ("telemetry.sdk.language", "rust"),
                ("telemetry.sdk.version", env!("CARGO_PKG_VERSION")),
            ];
            let body = Bytes::from(wire::request(&resource, &self.batch));
            self.attempts += 1;
            match self.collector.post(body).await {
                Ok(answer) => {
                    let (rejected, why) = wire::rejected(&answer);
                    let rejected = rejected.min(count);
                    self.counts.rejected.fetch_add(rejected, Ordering::Relaxed);
                    self.counts
                        .exported
                        .fetch_add(count - rejected, Ordering::Relaxed);
                    self.batch.clear();
                    self.attempts = 0;
                    self.complaint.forget();
                    if rejected > 0 {
                        self.complaint.note(format!("spans were rejected: {why}"));
                    }
                }
                Err(failed) => {
                    if !failed.is_passing || self.attempts >= ATTEMPTS {
                        self.counts.failed.fetch_add(count, Ordering::Relaxed);
                        self.batch.clear();
                        self.attempts = 0;
                    }
                    self.complaint.note(failed.reason);
                }
            }
        }
        if let Some((reason, lost)) = self.complaint.due(Instant::now()) {
            let url = &self.collector.shown;
            tracing::warn!(
                url,
                lost,
                reason,
                "the collector does not accept spans (`telemetry.otlp`); `telemetry_spans_dropped_total` counts lost spans"
            );
        }
    }
}

/// The state of the log line about lost spans.
struct Complaint {
    counts: Arc<Counts>,
    /// Lost spans that were reported.
    told: u64,
    said: Option<Instant>,
    reason: Option<String>,
}

impl Complaint {
    fn new(counts: Arc<Counts>) -> Self {
        Self {
            counts,
            told: 0,
            said: None,
            reason: None,
        }
    }

    /// Notes a failure. The latest reason is reported.
    fn note(&mut self, reason: String) {
        self.reason = Some(reason);
    }

    /// The collector has accepted spans: an earlier failure is no reason for what is lost from here on.
    fn forget(&mut self) {
        let lost = self.counts.lost();
        if lost == self.told {
            self.reason = None;
        }
    }

    /// The reason and the number of spans lost since the last line, if a line is due.
    fn due(&mut self, now: Instant) -> Option<(String, u64)> {
        let lost = self.counts.lost();
        let is_news = lost > self.told;
        let is_early = |said| now.saturating_duration_since(said) < QUIET;
        if !is_news || self.said.is_some_and(is_early) {
            return None;
        }
        self.said = Some(now);
        let since = lost - std::mem::replace(&mut self.told, lost);
        let reason = self.reason.take();
        let reason = reason.unwrap_or_else(|| "the queue was full (`telemetry.queue`)".to_owned());
        Some((reason, since))
    }
}

/// The connection to the collector.
struct Collector {
    connector: Arc<Connector>,
    /// The idle connection.
    sender: Option<Sender>,
    path: String,
    headers: Vec<(HeaderName, HeaderValue)>,
    timeout: Duration,
    /// The URL, for the log.
    shown: String,
}

impl Collector {
    fn new(config: &TelemetryConfig) -> Result<Self, TelemetryError> {
        let (url, path) = endpoint(&config.otlp)?;
        let roots = |error: BackendError| match error {
            BackendError::Roots(reason) => TelemetryError::Roots(reason),
            other => TelemetryError::Roots(other.to_string()),
        };
        let tls = match &config.ca {
            Some(pem) => Some(pem_tls(pem).map_err(roots)?),
            None if url.is_tls() => Some(system_tls().map_err(roots)?),
            None => None,
        };
        Ok(Self {
            shown: url.root() + &path,
            connector: Arc::new(Connector::new(url, Protocol::Auto, tls.as_ref())),
            sender: None,
            path,
            headers: headers(&config.headers)?,
            timeout: config.timeout,
        })
    }

    /// Sends a request and returns the body of a successful response.
    async fn post(&mut self, body: Bytes) -> Result<Bytes, Failed> {
        let limit = self.timeout;
        let posted = timeout(limit, self.exchange(body)).await;
        posted.unwrap_or_else(|_| Err(Failed::passing(format!("no response within {limit:?}"))))
    }

    /// Dropping the future closes the connection.
    async fn exchange(&mut self, body: Bytes) -> Result<Bytes, Failed> {
        let (mut sender, mut is_used) = match self.sender.take() {
            Some(sender) => (sender, true),
            None => (self.connect().await?, false),
        };
        let response = loop {
            let request = self.request(body.clone(), sender.is_two())?;
            match sender.send(request).await {
                Ok(response) => break response,
                Err(mut error) => {
                    // Nothing was written if the request comes back: the collector had closed the idle connection.
                    let is_unsent = error.take_message().is_some();
                    if !is_unsent || !is_used {
                        return Err(Failed::passing(error.into_error().to_string()));
                    }
                    (sender, is_used) = (self.connect().await?, false);
                }
            }
        };
        let answer = read(response).await?;
        self.sender = Some(sender);
        Ok(answer)
    }

    async fn connect(&self) -> Result<Sender, Failed> {
        let connected = self.connector.connect(&Handle::current(), self.timeout);
        let connected = connected.await;
        connected.map_err(|error| Failed::passing(format!("no connection: {error}")))
    }

    fn request(&self, body: Bytes, is_two: bool) -> Result<Request<Body>, Failed> {
        let url = &self.connector.url;
        // HTTP/2 has no `Host`: the host is a part of what is asked for.
        let root = if is_two { url.root() } else { String::new() };
        let mut request = Request::post(format!("{root}{}", self.path))
            .header(USER_AGENT, HeaderValue::from_static(AGENT))
            .header(
                CONTENT_TYPE,
                HeaderValue::from_static("application/x-protobuf"),
            );
        if !is_two {
            request = request.header(HOST, url.authority());
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        request.body(Full::new(body)).map_err(|error| Failed {
            reason: format!("the request cannot be made: {error}"),
            is_passing: false,
        })
    }
}

async fn read(response: Response<Incoming>) -> Result<Bytes, Failed> {
    let status = response.status();
    let mut body = response.into_body();
    let mut answer = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame
            .map_err(|error| Failed::passing(format!("the response is incomplete: {error}")))?;
        let data = frame.into_data().unwrap_or_default();
        if answer.len() + data.len() > MOST_ANSWER {
            return Err(Failed {
                reason: format!("response {status} with more than {MOST_ANSWER} bytes"),
                is_passing: false,
            });
        }
        answer.extend_from_slice(&data);
    }
    match status {
        StatusCode::OK => Ok(answer.into()),
        // The statuses that OTLP declares retryable.
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => Err(Failed::passing(format!("response {status}"))),
        _ => Err(Failed {
            reason: format!("response {status}"),
            is_passing: false,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// At most one line a minute, and none without lost spans.
    #[test]
    fn lost_spans_are_one_line_a_minute() {
        let counts = Arc::new(Counts::default());
        let mut complaint = Complaint::new(Arc::clone(&counts));
        let start = Instant::now();
        let mut lines = Vec::new();
        for second in 0..300 {
            if (1..=200).contains(&second) {
                complaint.note(format!("reason {second}"));
                counts.failed.fetch_add(10, Ordering::Relaxed);
                counts.queue_full.fetch_add(1, Ordering::Relaxed);
            }
            if let Some((reason, lost)) = complaint.due(start + Duration::from_secs(second)) {
                lines.push((second, reason, lost));
            }
        }
        let expected = [(1, 11), (61, 660), (121, 660), (181, 660), (241, 209)];
        let seen: Vec<(u64, u64)> = lines.iter().map(|line| (line.0, line.2)).collect();
        assert_eq!(seen, expected);
        assert_eq!(lines[1].1, "reason 61");
        complaint.note("a failure that a second attempt mends".to_owned());
        assert_eq!(complaint.due(start + QUIET * 9), None);
        counts.rejected.fetch_add(1, Ordering::Relaxed);
        complaint.note("the latest".to_owned());
        let said = complaint.due(start + QUIET * 10);
        assert_eq!(said, Some(("the latest".to_owned(), 1)));
        counts.queue_full.fetch_add(1, Ordering::Relaxed);
        let (reason, lost) = complaint.due(start + QUIET * 20).unwrap();
        assert!(reason.contains("telemetry.queue") && lost == 1, "{reason}");
    }
}
