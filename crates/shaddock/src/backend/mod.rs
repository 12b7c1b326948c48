//! HTTP backends: a server type that is a URL.
//!
//! A frontend forwards the requests of a type to another server of the cluster. A type that is named with [`App::http_backend`] (in a
//! configuration: `[backends.<type>]`) leads to a service that speaks HTTP instead, in any language. The dispatcher (`dispatch.rs`) knows
//! three ways for a route: a handler of its own, a backend, another server. Because the session is on this server, what a backend asks for
//! (bind, settings, pushes, kicks) goes through the same [`SessionView`] as in a handler.
//!
//! - `wire.rs`: the JSON of a request and of an answer.
//! - `url.rs`, `connect.rs`: where a service is, and how it is connected to.
//! - `client.rs`: connections, queue, one exchange. What was sent is never sent again.
//! - `failure.rs`: why there is no answer.
//! - `actions.rs`: what an answer asks for is checked as a whole, then carried out, all or none.
//! - `sign.rs`: Standard Webhooks signatures.
//! - `events.rs`: handshakes, binds and closes as requests of the same form.
//!
//! `docs/http-backends.md` says what a service sees.
//!
//! ```no_run
//! use shaddock::{backend::HttpBackend, prelude::*};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut app = App::new("connector", "connector-1");
//! app.listen("0.0.0.0:3010");
//! app.http_backend("chat", HttpBackend::new(["http://127.0.0.1:8000/shaddock"])?);
//! Servers::new().add(app).run_blocking()?;
//! # Ok(())
//! # }
//! ```

mod actions;
mod client;
pub(crate) mod connect;
mod events;
mod failure;
mod sign;
mod url;
mod wire;

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::http::uri::PathAndQuery;
use bytes::Bytes;
use hashbrown::{HashMap, HashSet};
use rustls::ClientConfig;
use shaddock_cluster::Secret;

use self::{
    client::{Outgoing, Target},
    failure::Failure,
    sign::SigningKey,
    wire::{Envelope, Object},
};
pub use self::{events::BackendEvent, url::BackendUrl};
use crate::{
    app::{App, AppHandle},
    error::HandlerError,
    metrics::Exchanges,
    reply::{Outcome, Reply},
    request::RequestContext,
    session::SessionView,
    telemetry::Span,
};

/// How many keys may sign at once: the new one and the old one.
const MOST_SECRETS: usize = 2;

/// The backends of an app, by server type.
pub(crate) type Backends = HashMap<Box<str>, Arc<Backend>>;

/// What cannot be a backend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// No URL was given.
    #[error("a backend needs at least one URL, such as \"http://127.0.0.1:8000/shaddock\"")]
    NoUrl,
    /// The text is no URL of a backend.
    #[error("\"{url}\" {reason}")]
    Url {
        /// The text.
        url: String,
        /// What is wrong, and what to write.
        reason: &'static str,
    },
    /// The secret is no key. The text is not shown.
    #[error(
        "a secret is \"whsec_\" and 24 to 64 bytes in base64; make one with: echo \"whsec_$(openssl rand -base64 32)\""
    )]
    Secret,
    /// The certificates that are to be trusted cannot be.
    #[error(
        "the certificates that a service over TLS is checked with cannot be used: {0}; name a PEM file of them (`ca`)"
    )]
    Roots(String),
    /// The path of the health check is none.
    #[error(
        "\"{0}\" is no path for a health check; write it from the root of the host, such as \"/healthz\""
    )]
    Health(String),
    /// More keys than a rotation needs.
    #[error("at most two secrets sign at once: the new one and the old one")]
    Secrets,
}

/// Which URL of a backend gets a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Balance {
    /// One after the other.
    #[default]
    RoundRobin,
    /// The same one for the same user; a session without a user has its own.
    UserHash,
}

/// What is spoken with a service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Protocol {
    /// HTTP/2 where TLS agrees on it, otherwise HTTP/1.1.
    #[default]
    Auto,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, without TLS too: the service must be known to speak it.
    Http2,
}

/// A service that is asked over HTTP, with bounds. Each has a default.
#[derive(Debug, Clone)]
pub struct HttpBackend {
    urls: Vec<BackendUrl>,
    keys: Vec<SigningKey>,
    tls: Option<ClientConfig>,
    health: Option<Box<str>>,
    concurrent: HashSet<Box<str>>,
    pub(crate) events: Vec<BackendEvent>,
    /// How long one request may take, with the wait for a connection. Default 2 s; then its client gets an error, and the connection is
    /// closed.
    pub timeout: Duration,
    /// How long it may take to connect. Default 500 ms; then the URL counts as one that does not accept connections. Choose it shorter than
    /// `timeout`, so that there is time for another URL.
    pub connect_timeout: Duration,
    /// Open connections to each URL. Default 64; then requests wait.
    pub max_connections: usize,
    /// Requests that wait for a connection, for each URL. Default 256; others go to another URL if requests go round, and get an error at
    /// once if there is none.
    pub queue: usize,
    /// Bytes of an answer. Default 1 MiB; a longer one is not read, and its client gets an error.
    pub max_body: usize,
    /// How long an unused connection may be used again. Default 1 s: shorter than services keep theirs open, because a request that meets a
    /// closing connection is not sent again.
    pub max_idle: Duration,
    /// Which URL gets a request.
    pub balance: Balance,
    /// What is spoken with the service. With HTTP/2 all requests to a URL share a connection, and `max_connections` is how many are at work
    /// at once.
    pub protocol: Protocol,
    /// Time between health checks, if there are some ([`health`](Self::health)). Default 5 s.
    pub health_interval: Duration,
}

impl HttpBackend {
    /// A service at these URLs, which are equal: each gets a share of the requests. One that does not accept connections is left out for a
    /// second, if there are others. For `https://` the root certificates of this system are read.
    ///
    /// # Errors
    /// [`BackendError`]: no URL, one that cannot be asked, or no root certificates.
    pub fn new<T: AsRef<str>>(urls: impl IntoIterator<Item = T>) -> Result<Self, BackendError> {
        Self::with_urls(urls)?.trust_system()
    }

    /// As [`new`](Self::new). Over TLS it trusts what is signed by the certificates in this PEM text, and nothing else.
    ///
    /// # Errors
    /// [`BackendError`]: as of `new`, or there is no certificate in the text.
    pub fn with_roots<T: AsRef<str>>(
        urls: impl IntoIterator<Item = T>,
        pem: &[u8],
    ) -> Result<Self, BackendError> {
        Self::with_urls(urls)?.trust(pem)
    }

    pub(crate) fn trust_system(mut self) -> Result<Self, BackendError> {
        if self.urls.iter().any(|url| url.is_tls) {
            self.tls = Some(connect::system_tls()?);
        }
        Ok(self)
    }

    pub(crate) fn trust(mut self, pem: &[u8]) -> Result<Self, BackendError> {
        self.tls = Some(connect::pem_tls(pem)?);
        Ok(self)
    }

    /// Without certificates.
    pub(crate) fn with_urls<T: AsRef<str>>(
        urls: impl IntoIterator<Item = T>,
    ) -> Result<Self, BackendError> {
        let urls: Result<Vec<BackendUrl>, _> =
            urls.into_iter().map(|url| url.as_ref().parse()).collect();
        let urls = urls?;
        if urls.is_empty() {
            return Err(BackendError::NoUrl);
        }
        Ok(Self {
            urls,
            keys: Vec::new(),
            tls: None,
            health: None,
            concurrent: HashSet::new(),
            events: Vec::new(),
            timeout: Duration::from_secs(2),
            connect_timeout: Duration::from_millis(500),
            max_connections: 64,
            queue: 256,
            max_body: 1024 * 1024,
            max_idle: Duration::from_secs(1),
            balance: Balance::default(),
            protocol: Protocol::default(),
            health_interval: Duration::from_secs(5),
        })
    }

    /// Asks each URL's host for this path, such as `/healthz`, every [`health_interval`](Self::health_interval) (GET, without a body). One that does
    /// not say 200 or 204 within `timeout` gets requests only if the others do not either.
    ///
    /// # Errors
    /// [`BackendError::Health`]: this is no path.
    pub fn health(mut self, path: &str) -> Result<Self, BackendError> {
        let is_path = path.starts_with('/') && path.parse::<PathAndQuery>().is_ok();
        if !is_path || path.contains('#') {
            return Err(BackendError::Health(path.to_owned()));
        }
        self.health = Some(path.into());
        Ok(self)
    }

    /// Signs requests with one secret, or with two while services change from one to the other.
    ///
    /// # Errors
    /// [`BackendError`]: a text that is no secret, or more than two.
    pub fn secrets<'a>(
        mut self,
        secrets: impl IntoIterator<Item = &'a Secret>,
    ) -> Result<Self, BackendError> {
        let keys: Result<Vec<SigningKey>, _> = secrets.into_iter().map(SigningKey::new).collect();
        self.keys = keys?;
        if self.keys.len() > MOST_SECRETS {
            return Err(BackendError::Secrets);
        }
        Ok(self)
    }

    /// Requests to these routes (`handler.method`) do not wait for earlier requests of their session, nor later ones for them.
    #[must_use]
    pub fn concurrent<T: AsRef<str>>(mut self, routes: impl IntoIterator<Item = T>) -> Self {
        let routes = routes.into_iter().map(|route| route.as_ref().into());
        self.concurrent.extend(routes);
        self
    }

    /// Tells the service of these events.
    #[must_use]
    pub fn events(mut self, events: impl IntoIterator<Item = BackendEvent>) -> Self {
        self.events.extend(events);
        self
    }
}

impl App {
    /// Asks a service over HTTP for all routes of this server type. Its [events](HttpBackend::events) are added to the app's listeners;
    /// [`BackendEvent::Handshake`] takes the place of [`on_handshake`](Self::on_handshake).
    ///
    /// # Panics
    /// If the type is the app's own, or has a backend already.
    #[track_caller]
    pub fn http_backend(&mut self, server_type: &str, backend: HttpBackend) -> &mut Self {
        assert!(
            server_type != self.server_type(),
            "`{server_type}` is the type of this server itself, so its routes cannot lead to a backend"
        );
        assert!(
            !self.backends.contains_key(server_type),
            "there is a backend for `{server_type}` already"
        );
        let backend = Arc::new(Backend::new(server_type, backend));
        self.listen_for(&backend);
        self.check_health(&backend);
        self.backends.insert(server_type.into(), backend);
        self
    }
}

impl App {
    fn check_health(&mut self, backend: &Arc<Backend>) {
        let Some(path) = backend.settings.health.clone() else {
            return;
        };
        for number in 0..backend.targets.len() {
            let (backend, path) = (Arc::clone(backend), path.clone());
            let interval = backend.settings.health_interval;
            self.every("backend health", interval, move |app| {
                let (backend, path) = (Arc::clone(&backend), path.clone());
                async move {
                    if let Some(target) = backend.targets.get(number) {
                        target.check(&app, &backend.settings, &path).await;
                    }
                }
            });
        }
    }
}

/// A backend at work.
pub(crate) struct Backend {
    server_type: Box<str>,
    settings: HttpBackend,
    targets: Vec<Target>,
    next: AtomicUsize,
    /// Numbers of requests, and a key that no other process has.
    count: AtomicU64,
    random: RandomState,
    exchanges: Exchanges,
}

impl Backend {
    fn new(server_type: &str, settings: HttpBackend) -> Self {
        let targets = settings.urls.iter().cloned();
        Self {
            server_type: server_type.into(),
            targets: targets
                .map(|url| Target::new(url, &settings, settings.tls.as_ref()))
                .collect(),
            settings,
            next: AtomicUsize::new(0),
            count: AtomicU64::new(0),
            random: RandomState::new(),
            exchanges: Exchanges::default(),
        }
    }

    /// What became of its requests.
    pub(crate) const fn exchanges(&self) -> &Exchanges {
        &self.exchanges
    }

    /// Requests that wait for a connection.
    pub(crate) fn waiting(&self) -> usize {
        self.targets.iter().map(Target::waiting).sum()
    }

    /// Number of its URLs.
    pub(crate) fn urls(&self) -> usize {
        self.targets.len()
    }

    /// Number of those that are asked last.
    pub(crate) fn urls_aside(&self) -> usize {
        let aside = self.targets.iter().filter(|target| target.is_aside());
        aside.count()
    }

    pub(crate) fn is_concurrent(&self, short_route: &str) -> bool {
        self.settings.concurrent.contains(short_route)
    }

    /// How long a request may take.
    pub(crate) const fn timeout(&self) -> Duration {
        self.settings.timeout
    }

    /// Makes the HTTP request for a request of a client.
    ///
    /// # Errors
    /// Its body is no JSON, or its route has no place in a URL.
    pub(crate) fn call(
        self: &Arc<Self>,
        request: &RequestContext,
        limit: Duration,
    ) -> Result<Call, HandlerError> {
        let path = wire::path_of(request.route().short())?;
        let view = request.session().clone();
        let body = Envelope::request(request, limit)?;
        let span = request.span().and_then(|parent| {
            let route = request.route().as_str();
            let app = request.app();
            app.span_of_backend(Some(&parent), &self.server_type, route)
        });
        Ok(Call {
            backend: Arc::clone(self),
            key: self.key_of(&view),
            outgoing: self.outgoing(path, body, span.as_deref()),
            route: request.route().as_str().into(),
            wants_value: request.id().is_some(),
            view,
            limit,
            span,
        })
    }

    /// Without a span it is in a trace of its own, which nobody records.
    fn outgoing(&self, path: String, body: Vec<u8>, span: Option<&Span>) -> Outgoing {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let [one, two, three] = [0_u64, 1, 2].map(|part| self.random.hash_one((number, part)));
        Outgoing {
            path,
            body: Bytes::from(body),
            id: format!("msg_{one:016x}{number:x}"),
            trace: match span {
                Some(span) => span.context().parent(),
                None => format!("00-{one:016x}{two:016x}-{three:016x}-00"),
            },
            trace_state: span.and_then(|span| span.context().state().map(str::to_owned)),
        }
    }

    /// What chooses the URL of a user.
    fn key_of(&self, view: &SessionView) -> u64 {
        match (self.settings.balance, view.uid()) {
            (Balance::RoundRobin, _) => self.next.fetch_add(1, Ordering::Relaxed) as u64,
            (Balance::UserHash, Some(uid)) => client::hash_of(uid.as_str().as_bytes()),
            (Balance::UserHash, None) => client::hash_of(&view.id().get().to_le_bytes()),
        }
    }

    /// The URLs in the order in which they are tried: those that do not accept connections come last.
    fn order(&self, key: u64) -> Vec<&Target> {
        let mut order: Vec<&Target> = self.targets.iter().collect();
        match self.settings.balance {
            Balance::RoundRobin => {
                let count = order.len() as u64;
                order.rotate_left(usize::try_from(key % count).unwrap_or_default());
            }
            Balance::UserHash => order.sort_by_key(|target| target.weight(key)),
        }
        order.sort_by_key(|target| target.is_aside());
        order
    }

    /// Sends a request, once: another URL is tried only where nothing was sent.
    async fn ask(
        &self,
        app: &AppHandle,
        key: u64,
        outgoing: &Outgoing,
        limit: Duration,
    ) -> Result<Bytes, Failure> {
        let goes_round = self.settings.balance == Balance::RoundRobin;
        let asked = async {
            let mut last = Failure::down("there is no URL");
            for target in self.order(key) {
                match target.exchange(app, &self.settings, outgoing).await {
                    Err(failure @ Failure::Down(_)) => last = failure,
                    Err(failure @ Failure::Busy(_)) if goes_round => last = failure,
                    ended => return ended,
                }
            }
            Err(last)
        };
        let began = Instant::now();
        let ended = tokio::select! {
            biased;
            asked = asked => asked,
            () = app.sleep(limit) => Err(Failure::Slow(limit)),
        };
        let failed = ended.as_ref().err().map(Failure::reason);
        self.exchanges.end(began.elapsed(), failed);
        ended
    }
}

/// One request of a client on its way to a backend.
pub(crate) struct Call {
    backend: Arc<Backend>,
    key: u64,
    outgoing: Outgoing,
    view: SessionView,
    route: Box<str>,
    wants_value: bool,
    limit: Duration,
    /// Until the answer is there.
    span: Option<Box<Span>>,
}

impl Call {
    /// Asks, carries out the actions of the answer, and returns its body.
    pub(crate) async fn run(mut self) -> Outcome {
        let app = self.view.app().clone();
        let span = self.span.take();
        let asked = self.backend.ask(&app, self.key, &self.outgoing, self.limit);
        let asked = asked.await;
        if let (Some(span), Err(failure)) = (&span, &asked) {
            span.failed(failure.name(), &failure.to_string());
        }
        drop(span);
        let done = match asked {
            Ok(text) => self.carry_out(&app, &text).await,
            Err(failure) => Err(Stopped::Failure(failure)),
        };
        match done {
            Ok(reply) => Ok(reply),
            Err(Stopped::Error(error)) => Err(error),
            Err(Stopped::Failure(failure)) => {
                if matches!(failure, Failure::Slow(_)) {
                    app.stats().timeouts.add(1);
                }
                shaddock_net::quiet!(warn, "a backend failed", backend = &*self.backend.server_type, route = &*self.route, id = self.outgoing.id, %failure);
                Err(failure.into_error())
            }
        }
    }

    async fn carry_out(&self, app: &AppHandle, text: &Bytes) -> Result<Reply, Stopped> {
        if text.is_empty() {
            return Ok(Reply::empty());
        }
        let broken = |reason: String| Stopped::Failure(Failure::broken(reason));
        let answer = wire::Answer::read(text).map_err(broken)?;
        if let Some(Object(error)) = answer.error {
            return Err(Stopped::Error(error.into_error()));
        }
        let reply = match answer.body {
            Some(body) if self.wants_value => Reply::raw(text.slice_ref(body.get().as_bytes())),
            _ => Reply::empty(),
        };
        let plan = actions::Plan::check(&self.view, answer.actions).map_err(broken)?;
        plan.carry_out(app, &self.view)
            .await
            .map_err(Stopped::Error)?;
        Ok(reply)
    }
}

/// Why there is no reply.
enum Stopped {
    /// The service did not do its part. The client learns what kind of failure it is, the log the rest.
    Failure(Failure),
    /// What the client is told.
    Error(HandlerError),
}
