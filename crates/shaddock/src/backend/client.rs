//! One URL: its connections, the queue for them, and one exchange.
//!
//! HTTP/1.1 with keep-alive, one request on a connection at a time. A connection goes back to the others only when its answer has been read
//! to the end; in every other case (too slow, too long, broken, nobody waits any more) it is closed. A request whose bytes may have left is never sent
//! again: only an attempt to connect is repeated at another URL, and a connection that turns out to be closed before anything was written is
//! replaced once.

use std::{
    fmt, io,
    pin::Pin,
    str::FromStr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use axum::http::{
    HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri,
    header::{ACCEPT, CONTENT_TYPE, HOST, LOCATION, USER_AGENT},
};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::{Body as _, Incoming},
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    runtime::Handle,
    sync::{Semaphore, SemaphorePermit},
    task::JoinHandle,
};

use super::{BackendError, HttpBackend, sign};
use crate::{
    app::AppHandle,
    error::{HandlerError, codes},
};

/// How long a URL that did not accept a connection is left out.
const ASIDE: Duration = Duration::from_secs(1);
/// Bytes of the head of an answer.
const MAX_HEAD: usize = 64 * 1024;
/// Bytes of a text for the log: an answer may be a megabyte of one unknown name.
const MOST_TEXT: usize = 500;

const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const AGENT: &str = concat!("shaddock/", env!("CARGO_PKG_VERSION"));

/// Where a backend is: `http://host:port/path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendUrl {
    /// As it is connected to.
    host: String,
    port: u16,
    /// As it is written in the `Host` header.
    authority: HeaderValue,
    /// Without a slash at the end.
    path: String,
}

impl FromStr for BackendUrl {
    type Err = BackendError;

    fn from_str(text: &str) -> Result<Self, BackendError> {
        // What stands before an `@` may be a password, and behind a `?` a token.
        let shown = text.rsplit('@').next().unwrap_or_default();
        let shown = shown.split(['?', '#']).next().unwrap_or_default();
        let wrong = |reason| BackendError::Url {
            url: shown.to_owned(),
            reason,
        };
        if text.contains('@') {
            return Err(wrong(
                "has a user in it, which is not sent; use `secret`, so that the service can check signatures",
            ));
        }
        if !text.contains("://") {
            return Err(wrong(
                "has no scheme; write it as \"http://127.0.0.1:8000/shaddock\"",
            ));
        }
        let no_url = "is no URL; write it as \"http://127.0.0.1:8000/shaddock\"";
        let uri: Uri = text.parse().map_err(|_| wrong(no_url))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => {
                return Err(wrong(
                    "asks for TLS, which is not spoken to backends; write \"http://\", on a private network or through a proxy on this machine",
                ));
            }
            _ => return Err(wrong("has a scheme that is not known; write \"http://\"")),
        }
        if uri.query().is_some() || text.contains('#') {
            return Err(wrong(
                "has a `?` or `#` behind it; the route is added to the path, so nothing can stand behind it",
            ));
        }
        let authority = uri.authority().ok_or_else(|| wrong(no_url))?;
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        // Behind the host stands nothing, or a colon and a port.
        let port = match authority.as_str().strip_prefix(authority.host()) {
            Some("") => 80,
            Some(port) => {
                let port = port.strip_prefix(':').and_then(|port| port.parse().ok());
                port.ok_or_else(|| wrong(no_url))?
            }
            None => return Err(wrong(no_url)),
        };
        if port == 0 {
            return Err(wrong("has port 0, where nothing listens"));
        }
        if host.is_empty() {
            return Err(wrong(no_url));
        }
        Ok(Self {
            host,
            port,
            authority: HeaderValue::from_str(authority.as_str()).map_err(|_| wrong(no_url))?,
            path: uri.path().trim_end_matches('/').to_owned(),
        })
    }
}

impl fmt::Display for BackendUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authority = self.authority.to_str().unwrap_or_default();
        write!(f, "http://{authority}{}", self.path)
    }
}

/// A text for the log that may repeat what a service wrote, cut off after [`MOST_TEXT`] bytes.
#[derive(Debug)]
pub(super) struct Excerpt(String);

impl Excerpt {
    pub(super) fn new(text: impl Into<String>) -> Self {
        let mut text = text.into();
        if text.len() > MOST_TEXT {
            let whole = (0..=MOST_TEXT).rev().find(|at| text.is_char_boundary(*at));
            text.truncate(whole.unwrap_or_default());
            text.push_str("..");
        }
        Self(text)
    }
}

impl fmt::Display for Excerpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// Nothing was sent: no connection.
    Down(Excerpt),
    /// Nothing was sent: too many requests wait.
    Busy(usize),
    /// No whole answer in time. What was sent may have been carried out.
    Slow(Duration),
    /// An answer that is none.
    Broken(Excerpt),
}

impl Failure {
    pub(super) fn down(reason: impl Into<String>) -> Self {
        Self::Down(Excerpt::new(reason))
    }

    pub(super) fn broken(reason: impl Into<String>) -> Self {
        Self::Broken(Excerpt::new(reason))
    }

    /// What the client is told: what kind of failure it is. Names and addresses are for the log.
    pub(super) fn into_error(self) -> HandlerError {
        match self {
            Self::Down(_) => HandlerError::new(
                shaddock_cluster::code::UNAVAILABLE,
                "the backend cannot be reached; try again later",
            ),
            Self::Busy(_) => HandlerError::too_many("too many requests wait for the backend"),
            Self::Slow(_) => HandlerError::timeout("the backend did not answer in time"),
            Self::Broken(_) => HandlerError::new(codes::INTERNAL, "the backend failed"),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Down(reason) | Self::Broken(reason) => reason.fmt(f),
            Self::Busy(queue) => write!(
                f,
                "all connections are in use, and {queue} requests wait for one (`max_connections`, `queue`)"
            ),
            Self::Slow(limit) => write!(f, "no whole answer within {limit:?} (`timeout`)"),
        }
    }
}

/// One request, ready to be sent. Its timestamp and signature are made when it is.
pub(super) struct Outgoing {
    pub(super) path: String,
    pub(super) body: Bytes,
    pub(super) id: String,
    pub(super) trace: String,
}

type Sender = SendRequest<Full<Bytes>>;

/// One URL at work.
pub(super) struct Target {
    url: BackendUrl,
    seed: u64,
    places: Semaphore,
    waiting: AtomicUsize,
    idle: Mutex<Vec<(Sender, Instant)>>,
    aside: Mutex<Option<Instant>>,
}

impl Target {
    pub(super) fn new(url: BackendUrl, settings: &HttpBackend) -> Self {
        let places = settings.max_connections.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            seed: hash_of(url.to_string().as_bytes()),
            url,
            places: Semaphore::new(places),
            waiting: AtomicUsize::new(0),
            idle: Mutex::default(),
            aside: Mutex::default(),
        }
    }

    /// Orders the URLs for one user: when one is left out, only its users move.
    pub(super) fn weight(&self, key: u64) -> u64 {
        let mut both = [0; 16];
        both[..8].copy_from_slice(&self.seed.to_le_bytes());
        both[8..].copy_from_slice(&key.to_le_bytes());
        hash_of(&both)
    }

    pub(super) fn is_aside(&self) -> bool {
        let mut aside = self.aside.lock().unwrap_or_else(PoisonError::into_inner);
        if aside.is_some_and(|since| since.elapsed() >= ASIDE) {
            *aside = None;
        }
        aside.is_some()
    }

    fn put_aside(&self) {
        *self.aside.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Sends a request and reads its answer. Cancel-safe: the connection is closed.
    pub(super) async fn exchange(
        &self,
        app: &AppHandle,
        settings: &HttpBackend,
        outgoing: &Outgoing,
    ) -> Result<Bytes, Failure> {
        let place = self.place(settings.queue).await?;
        let mut request = Some(self.request(settings, outgoing)?);
        let (mut sender, mut is_used) = match self.idle(settings.max_idle).await {
            Some(sender) => (sender, true),
            None => (self.connect(app, settings.connect_timeout).await?, false),
        };
        let response = loop {
            let Some(sending) = request.take() else {
                return Err(Failure::down("the connection closes"));
            };
            match sender.try_send_request(sending).await {
                Ok(response) => break response,
                Err(mut error) => {
                    request = error.take_message();
                    // With the request in hand nothing of it was written.
                    if request.is_none() || !is_used {
                        return Err(self.failed(request.is_some(), error.error()));
                    }
                    (sender, is_used) = (self.connect(app, settings.connect_timeout).await?, false);
                }
            }
        };
        let body = self.read(response, settings.max_body).await?;
        if !sender.is_closed() {
            self.lock_idle().push((sender, Instant::now()));
        }
        drop(place);
        Ok(body)
    }

    /// A place among the connections. Cancel-safe.
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

    /// A connection that was used before and still can be.
    async fn idle(&self, max_idle: Duration) -> Option<Sender> {
        loop {
            // The one that was used last: the others grow old and are closed.
            let (mut sender, since) = self.lock_idle().pop()?;
            if since.elapsed() > max_idle {
                self.lock_idle().clear();
                return None;
            }
            // One that still writes its last request, which was answered before it was read, is closed and not waited for.
            let ready = std::future::poll_fn(|task| Poll::Ready(sender.poll_ready(task))).await;
            if matches!(ready, Poll::Ready(Ok(()))) {
                return Some(sender);
            }
        }
    }

    async fn connect(&self, app: &AppHandle, limit: Duration) -> Result<Sender, Failure> {
        // On a worker, its runtime: then an exchange wakes no other thread.
        let runtime = Handle::try_current().unwrap_or_else(|_| app.runtime().clone());
        let address = (self.url.host.clone(), self.url.port);
        let on = runtime.clone();
        let connecting = runtime.spawn(async move {
            // A host that is gone says nothing: without a limit it would take the time of the URLs behind it.
            let stream = tokio::time::timeout(limit, TcpStream::connect(address)).await??;
            stream.set_nodelay(true)?;
            let (sender, connection) = http1::Builder::new()
                .max_buf_size(MAX_HEAD)
                .handshake(TokioIo::new(stream))
                .await
                .map_err(io::Error::other)?;
            on.spawn(async move {
                // Whoever waits for an answer is told.
                let _ = connection.await;
            });
            Ok::<_, io::Error>(sender)
        });
        let connected = Attempt(connecting).await;
        connected.map_err(|error| {
            self.put_aside();
            Failure::down(format!("{} cannot be reached: {error}", self.url))
        })
    }

    fn request(
        &self,
        settings: &HttpBackend,
        outgoing: &Outgoing,
    ) -> Result<Request<Full<Bytes>>, Failure> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let timestamp = now.unwrap_or_default().as_secs().to_string();
        let signed = sign::signature(&settings.keys, &outgoing.id, &timestamp, &outgoing.body);
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(format!("{}/{}", self.url.path, outgoing.path))
            .header(HOST, self.url.authority.clone())
            .header(USER_AGENT, HeaderValue::from_static(AGENT))
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .header(ACCEPT, HeaderValue::from_static("application/json"))
            .header(TRACEPARENT, &outgoing.trace)
            .header(WEBHOOK_ID, &outgoing.id)
            .header(WEBHOOK_TIMESTAMP, timestamp);
        if let Some(signed) = signed {
            request = request.header(WEBHOOK_SIGNATURE, signed);
        }
        request
            .body(Full::new(outgoing.body.clone()))
            .map_err(|error| Failure::broken(format!("the request cannot be made: {error}")))
    }

    fn failed(&self, is_unsent: bool, error: &hyper::Error) -> Failure {
        let error = with_cause(error);
        if is_unsent {
            return Failure::down(format!("{} closes connections: {error}", self.url));
        }
        Failure::broken(format!(
            "{} was sent the request and gave no answer: {error}",
            self.url
        ))
    }

    /// The body of a good answer, at most so long.
    async fn read(&self, response: Response<Incoming>, max: usize) -> Result<Bytes, Failure> {
        let status = response.status();
        let mut body = response.into_parts();
        match status {
            StatusCode::OK | StatusCode::NO_CONTENT => {}
            _ if status.is_redirection() => {
                let to = body.0.headers.get(LOCATION).and_then(|to| to.to_str().ok());
                return Err(Failure::broken(format!(
                    "{} answered {status} to {:?}; redirects are not followed, write the right URL into the configuration",
                    self.url,
                    to.unwrap_or_default()
                )));
            }
            _ => return Err(Failure::broken(format!("{} answered {status}", self.url))),
        }
        let too_long = || {
            Failure::broken(format!(
                "the answer of {} is longer than {max} bytes (`max_body`)",
                self.url
            ))
        };
        if body.1.size_hint().lower() > max as u64 {
            return Err(too_long());
        }
        let mut text = Bytes::new();
        let mut parts: Vec<u8> = Vec::new();
        while let Some(frame) = body.1.frame().await {
            let frame = frame.map_err(|error| {
                Failure::broken(format!(
                    "the answer of {} ends in the middle: {}",
                    self.url,
                    with_cause(&error)
                ))
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
            // More than one piece is copied together.
            parts.extend_from_slice(&std::mem::take(&mut text));
            parts.extend_from_slice(&data);
        }
        Ok(if parts.is_empty() { text } else { parts.into() })
    }

    fn lock_idle(&self) -> std::sync::MutexGuard<'_, Vec<(Sender, Instant)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An attempt to connect, which ends with whoever wants the connection: their place goes to another one, who may try at once.
struct Attempt<T>(JoinHandle<io::Result<T>>);

impl<T> Future for Attempt<T> {
    type Output = io::Result<T>;

    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Self::Output> {
        let ended = ready!(Pin::new(&mut self.0).poll(task));
        Poll::Ready(ended.unwrap_or_else(|error| Err(io::Error::other(error))))
    }
}

impl<T> Drop for Attempt<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// One that waits for a connection, as long as it does.
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

/// The same for everybody, on every start (FNV-1a, mixed once more).
pub(super) fn hash_of(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in bytes {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash ^= hash >> 32;
    hash.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a service writes is repeated in one line of the log, not in a megabyte of it.
    #[test]
    fn what_a_service_wrote_is_cut_off() {
        let long = "房".repeat(10_000);
        for failure in [Failure::down(&long), Failure::broken(&long)] {
            let text = failure.to_string();
            assert!(
                text.len() <= MOST_TEXT + 2 && text.ends_with(".."),
                "{text}"
            );
        }
        assert_eq!(Failure::broken("short").to_string(), "short");
    }

    #[test]
    fn urls() {
        for (text, shown, host, port) in [
            ("http://a", "http://a", "a", 80),
            ("http://a/", "http://a", "a", 80),
            (
                "http://127.0.0.1:8000/x/",
                "http://127.0.0.1:8000/x",
                "127.0.0.1",
                8000,
            ),
            ("http://[::1]:81/x/y", "http://[::1]:81/x/y", "::1", 81),
        ] {
            let url: BackendUrl = text.parse().unwrap();
            assert_eq!(
                (url.to_string().as_str(), url.host.as_str(), url.port),
                (shown, host, port)
            );
        }
        for (text, part) in [
            ("127.0.0.1:8000", "no scheme"),
            ("", "no scheme"),
            ("https://a", "TLS"),
            ("ftp://a", "not known"),
            ("http://", "is no URL"),
            ("http:///x", "is no URL"),
            ("http://a:", "is no URL"),
            ("http://a:0", "port 0"),
            ("http://a:99999", "is no URL"),
            ("http://a b", "is no URL"),
            ("http://a/?x=s3cret", "`?`"),
            ("http://a/#s3cret", "`#`"),
            ("http://user:s3cret@a/x", "`secret`"),
            ("http://s3cret@a/x@b?s3cret", "`secret`"),
        ] {
            let error = text.parse::<BackendUrl>().unwrap_err().to_string();
            assert!(
                error.contains(part) && !error.contains("s3cret"),
                "{text}: {error}"
            );
        }
    }
}
