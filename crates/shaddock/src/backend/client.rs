//! One URL: its connections, the queue for them, and one exchange.
//!
//! HTTP/1.1 with keep-alive, one request at a time on a connection, or HTTP/2, where all requests share a connection. A connection for one
//! request is reused only if its response was read completely; in every other case (too slow, too long, malformed, cancelled) it is closed.
//! A request whose bytes may have been sent is never repeated: only an attempt to connect is repeated at another URL, and a connection that
//! turns out to be closed before anything was written is replaced once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::Poll,
    thread::{self, ThreadId},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::http::{
    HeaderName, HeaderValue, Method, Request, Response, StatusCode,
    header::{ACCEPT, CONTENT_TYPE, HOST, LOCATION, USER_AGENT},
    request::Builder,
};
use hyper::{
    body::{Body as _, Incoming},
    client::conn::{http1, http2},
};
use parking_lot::{Mutex, MutexGuard};
use rustls::ClientConfig;
use tokio::{
    runtime::Handle,
    sync::{Semaphore, SemaphorePermit},
};

use super::{
    BackendUrl, HttpBackend,
    connect::{Body, Connector, Sender},
    failure::{Failure, Fault},
    sign,
};
use crate::app::Tasks;

/// Time for which a URL that did not accept a connection is skipped.
const ASIDE: Duration = Duration::from_secs(1);

const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const AGENT: &str = concat!("shaddock/", env!("CARGO_PKG_VERSION"));

/// A request that is ready to be sent. Its timestamp and signature are added when it is sent.
pub(super) struct Outgoing {
    /// The path below the URL; with a leading slash, below the host.
    pub(super) path: String,
    pub(super) body: Bytes,
    pub(super) id: String,
    pub(super) trace: String,
    pub(super) trace_state: Option<String>,
}

/// A health check: a GET without a body.
pub(super) fn question(path: &str) -> Outgoing {
    Outgoing {
        path: path.to_owned(),
        body: Bytes::new(),
        id: String::new(),
        trace: String::new(),
        trace_state: None,
    }
}

/// An idle connection for one request at a time.
struct Idle {
    sender: http1::SendRequest<Body>,
    since: Instant,
    /// The thread on which its task was started: an exchange from there wakes no other thread.
    thread: ThreadId,
}

/// A URL that did not accept a connection.
struct Aside {
    since: Instant,
    reason: Arc<str>,
}

/// The state of one URL.
pub(super) struct Target {
    connector: Arc<Connector>,
    seed: u64,
    places: Semaphore,
    waiting: AtomicUsize,
    idle: Mutex<Vec<Idle>>,
    /// The connection that all requests share, if the service supports HTTP/2.
    shared: Mutex<Option<http2::SendRequest<Body>>>,
    /// If a connection may be shared, one request connects and the others wait for it.
    connecting: Semaphore,
    /// The service was found to support only HTTP/1.1.
    is_single: AtomicBool,
    aside: Mutex<Option<Aside>>,
    /// The last health check failed.
    is_sick: AtomicBool,
}

impl Target {
    pub(super) fn new(url: BackendUrl, settings: &HttpBackend, tls: Option<&ClientConfig>) -> Self {
        let places = settings.max_connections.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            seed: hash_of(url.to_string().as_bytes()),
            connector: Arc::new(Connector::new(url, settings.protocol, tls)),
            places: Semaphore::new(places),
            waiting: AtomicUsize::new(0),
            idle: Mutex::default(),
            shared: Mutex::default(),
            connecting: Semaphore::new(1),
            is_single: AtomicBool::new(false),
            aside: Mutex::default(),
            is_sick: AtomicBool::new(false),
        }
    }

    fn url(&self) -> &BackendUrl {
        &self.connector.url
    }

    /// Orders the URLs for one user: if one is skipped, only its users move.
    pub(super) fn weight(&self, key: u64) -> u64 {
        let mut both = [0; 16];
        both[..8].copy_from_slice(&self.seed.to_le_bytes());
        both[8..].copy_from_slice(&key.to_le_bytes());
        hash_of(&both)
    }

    /// Requests that wait for a connection.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Whether other URLs are tried before this one.
    pub(super) fn is_aside(&self) -> bool {
        self.is_sick.load(Ordering::Relaxed) || self.did_not_connect().is_some()
    }

    /// The reason why a connection failed a moment ago.
    fn did_not_connect(&self) -> Option<Arc<str>> {
        let mut aside = self.aside.lock();
        if aside
            .as_ref()
            .is_some_and(|one| one.since.elapsed() >= ASIDE)
        {
            *aside = None;
        }
        aside.as_ref().map(|one| Arc::clone(&one.reason))
    }

    fn put_aside(&self, reason: &str) {
        let (since, reason) = (Instant::now(), Arc::from(reason));
        *self.aside.lock() = Some(Aside { since, reason });
    }

    /// Runs a health check. A URL that fails it is tried last until it succeeds.
    pub(super) async fn check(&self, tasks: &Tasks, settings: &HttpBackend, path: &str) {
        let question = question(path);
        let asked = self.exchange(tasks, settings, &question);
        let failure = match tokio::time::timeout(settings.timeout, asked).await {
            // A service with that many requests counts as healthy.
            Ok(Ok(_) | Err(Failure::Busy(_))) => None,
            Ok(Err(failure)) => Some(failure),
            Err(_) => Some(Failure::Slow(settings.timeout)),
        };
        let was_sick = self.is_sick.swap(failure.is_some(), Ordering::Relaxed);
        match failure {
            Some(failure) if !was_sick => {
                let advice = failure.advice();
                tracing::warn!(url = %self.url(), %failure, advice, "a backend is not healthy");
            }
            None if was_sick => tracing::info!(url = %self.url(), "a backend is healthy again"),
            _ => {}
        }
    }

    /// Sends a request and reads its response. Cancel-safe: the connection is not reused.
    pub(super) async fn exchange(
        &self,
        tasks: &Tasks,
        settings: &HttpBackend,
        outgoing: &Outgoing,
    ) -> Result<Bytes, Failure> {
        let place = self.place(settings.queue).await?;
        let (mut sender, mut is_used) = match self.open_connection(settings.max_idle).await {
            Some(sender) => (sender, true),
            None => (self.connect(tasks, settings.connect_timeout).await?, false),
        };
        let response = loop {
            let request = self.request(settings, outgoing, sender.is_two())?;
            match sender.send(request).await {
                Ok(response) => break response,
                Err(mut error) => {
                    // If the error returns the request, none of it was written.
                    let is_unsent = error.take_message().is_some();
                    if !is_unsent || !is_used {
                        return Err(self.failed(is_unsent, error.error()));
                    }
                    (sender, is_used) =
                        (self.connect(tasks, settings.connect_timeout).await?, false);
                }
            }
        };
        let body = self.read(response, settings.max_body).await?;
        if let Sender::One(sender) = sender
            && !sender.is_closed()
        {
            let (since, thread) = (Instant::now(), thread::current().id());
            self.lock_idle().push(Idle {
                sender,
                since,
                thread,
            });
        }
        drop(place);
        Ok(body)
    }

    /// Reserves a connection. Cancel-safe.
    async fn place(&self, queue: usize) -> Result<SemaphorePermit<'_>, Failure> {
        if let Ok(place) = self.places.try_acquire() {
            return Ok(place);
        }
        let waiting = Waiting::new(&self.waiting);
        if waiting.ahead >= queue {
            return Err(Failure::Busy(queue));
        }
        // It is never closed.
        let place = self.places.acquire().await;
        place.map_err(|error| Failure::down(error.to_string()))
    }

    /// A connection that was used before and can be reused.
    async fn open_connection(&self, max_idle: Duration) -> Option<Sender> {
        if let Some(sender) = self.shared() {
            return Some(Sender::Two(sender));
        }
        loop {
            let mut idle = self.take_idle(max_idle)?;
            // A connection that is still writing its last request, whose response came early, is closed rather than awaited.
            let ready = std::future::poll_fn(|task| Poll::Ready(idle.sender.poll_ready(task)));
            if matches!(ready.await, Poll::Ready(Ok(()))) {
                return Some(Sender::One(idle.sender));
            }
        }
    }

    /// The connection of this thread that was used last, or of another thread: the others become stale and are closed.
    fn take_idle(&self, max_idle: Duration) -> Option<Idle> {
        let (here, now) = (thread::current().id(), Instant::now());
        let is_young = |idle: &Idle| now.saturating_duration_since(idle.since) <= max_idle;
        let mut all = self.lock_idle();
        // The oldest come first.
        let young = all.iter().position(is_young).unwrap_or(all.len());
        let old: Vec<Idle> = all.drain(..young).collect();
        let found = match all.iter().rposition(|idle| idle.thread == here) {
            Some(at) => Some(all.remove(at)),
            None => all.pop(),
        };
        // They are closed without holding the lock.
        drop((all, old));
        found
    }

    fn shared(&self) -> Option<http2::SendRequest<Body>> {
        let mut shared = self.shared.lock();
        if shared.as_ref().is_some_and(http2::SendRequest::is_closed) {
            *shared = None;
        }
        shared.clone()
    }

    async fn connect(&self, tasks: &Tasks, limit: Duration) -> Result<Sender, Failure> {
        let _alone = if self.connector.may_be_two() && !self.is_single.load(Ordering::Relaxed) {
            let alone = if let Ok(alone) = self.connecting.try_acquire() {
                alone
            } else {
                // It is never closed.
                let alone = self.connecting.acquire().await;
                let alone = alone.map_err(|error| Failure::down(error.to_string()))?;
                if let Some(reason) = self.did_not_connect() {
                    return Err(Failure::down(&*reason));
                }
                alone
            };
            if let Some(sender) = self.shared() {
                return Ok(Sender::Two(sender));
            }
            Some(alone)
        } else {
            None
        };
        // On the runtime of the worker: then an exchange wakes no other thread.
        let runtime = Handle::try_current().unwrap_or_else(|_| tasks.runtime().clone());
        let connected = self.connector.connect(&runtime, limit).await;
        let sender = connected.map_err(|error| {
            let reason = format!("{} cannot be reached: {error}", self.url());
            self.put_aside(&reason);
            Failure::down(reason)
        })?;
        match &sender {
            Sender::One(_) => self.is_single.store(true, Ordering::Relaxed),
            Sender::Two(sender) => {
                let mut shared = self.shared.lock();
                *shared = Some(sender.clone());
            }
        }
        Ok(sender)
    }

    fn request(
        &self,
        settings: &HttpBackend,
        outgoing: &Outgoing,
        is_two: bool,
    ) -> Result<Request<Body>, Failure> {
        let url = self.url();
        // HTTP/2 has no `Host`: the host is part of the URI.
        let root = if is_two { url.root() } else { String::new() };
        let mut request = Request::builder().header(USER_AGENT, HeaderValue::from_static(AGENT));
        if !is_two {
            request = request.header(HOST, url.authority.clone());
        }
        request = match outgoing.path.strip_prefix('/') {
            Some(path) => request.method(Method::GET).uri(format!("{root}/{path}")),
            None => self.head_of_post(request, settings, outgoing, &root),
        };
        request
            .body(Full::new(outgoing.body.clone()))
            .map_err(|error| {
                Failure::broken(Fault::Form, format!("the request cannot be made: {error}"))
            })
    }

    fn head_of_post(
        &self,
        request: Builder,
        settings: &HttpBackend,
        outgoing: &Outgoing,
        root: &str,
    ) -> Builder {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let timestamp = now.unwrap_or_default().as_secs().to_string();
        let signed = sign::signature(
            &settings.keys.load(),
            &outgoing.id,
            &timestamp,
            &outgoing.body,
        );
        let request = request
            .method(Method::POST)
            .uri(format!("{root}{}/{}", self.url().path, outgoing.path))
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .header(ACCEPT, HeaderValue::from_static("application/json"))
            .header(TRACEPARENT, &outgoing.trace)
            .header(WEBHOOK_ID, &outgoing.id)
            .header(WEBHOOK_TIMESTAMP, timestamp);
        let request = match &outgoing.trace_state {
            Some(state) => request.header(TRACESTATE, state),
            None => request,
        };
        match signed {
            Some(signed) => request.header(WEBHOOK_SIGNATURE, signed),
            None => request,
        }
    }

    fn failed(&self, is_unsent: bool, error: &hyper::Error) -> Failure {
        let error = with_cause(error);
        if is_unsent {
            return Failure::down(format!("{} closes connections: {error}", self.url()));
        }
        Failure::broken(
            Fault::Cut,
            format!(
                "{} received the request and sent no response: {error}",
                self.url()
            ),
        )
    }

    /// Reads the body of a successful response, up to this length.
    async fn read(&self, response: Response<Incoming>, max: usize) -> Result<Bytes, Failure> {
        let status = response.status();
        let mut body = response.into_parts();
        match status {
            StatusCode::OK | StatusCode::NO_CONTENT => {}
            _ if status.is_redirection() => {
                let to = body.0.headers.get(LOCATION).and_then(|to| to.to_str().ok());
                let text = format!(
                    "{} responded with {status} to {:?}",
                    self.url(),
                    to.unwrap_or_default()
                );
                return Err(Failure::broken(Fault::Redirect, text));
            }
            _ => {
                let text = format!("{} responded with {status}", self.url());
                return Err(Failure::broken(fault_of(status), text));
            }
        }
        let too_long = || {
            let text = format!("the response of {} is longer than {max} bytes", self.url());
            Failure::broken(Fault::TooLong, text)
        };
        if body.1.size_hint().lower() > max as u64 {
            return Err(too_long());
        }
        let mut text = Bytes::new();
        let mut parts: Vec<u8> = Vec::new();
        while let Some(frame) = body.1.frame().await {
            let frame = frame.map_err(|error| {
                let cause = with_cause(&error);
                let text = format!("the response of {} is incomplete: {cause}", self.url());
                Failure::broken(Fault::Cut, text)
            })?;
            let Ok(data) = frame.into_data() else {
                continue;
            };
            if text.len() + parts.len() + data.len() > max {
                return Err(too_long());
            }
            if text.is_empty() && parts.is_empty() {
                text = data;
                continue;
            }
            // Several chunks are copied into one.
            parts.extend_from_slice(&std::mem::take(&mut text));
            parts.extend_from_slice(&data);
        }
        Ok(if parts.is_empty() { text } else { parts.into() })
    }

    fn lock_idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock()
    }
}

/// The fault of a response with this status, which is not that of a success or a redirect.
fn fault_of(status: StatusCode) -> Fault {
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Fault::Refused,
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => Fault::NoRoute,
        _ if status.is_server_error() => Fault::ServerError,
        _ => Fault::Status,
    }
}

/// Counts a request while it waits for a connection.
struct Waiting<'a> {
    all: &'a AtomicUsize,
    ahead: usize,
}

impl<'a> Waiting<'a> {
    fn new(all: &'a AtomicUsize) -> Self {
        let ahead = all.fetch_add(1, Ordering::Relaxed);
        Self { all, ahead }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.all.fetch_sub(1, Ordering::Relaxed);
    }
}

fn with_cause(error: &hyper::Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// A hash that is the same on all servers and after each start (FNV-1a with a final mix).
pub(super) fn hash_of(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in bytes {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash ^= hash >> 32;
    hash.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
