//! HTTP backends: server types that are implemented by HTTP services.
//!
//! A frontend forwards the requests of a type to another server of the cluster. A type that is registered with [`App::http_backend`] (in a
//! configuration: `[backends.<type>]`) is an HTTP service instead, in any language. The dispatcher (`dispatch.rs`) knows three targets of a
//! route: a handler of its own, a backend, another server. Because the session is on this server, the actions of a backend (bind, settings,
//! pushes, kicks) use the same [`SessionView`] as handlers.
//!
//! - `wire.rs`: the JSON of requests and responses.
//! - `url.rs`, `connect.rs`: the URL of a service, and connecting to it.
//! - `client.rs`: connections, queue, one exchange. A request that was sent is never repeated.
//! - `failure.rs`: failures of an exchange.
//! - `actions.rs`: the actions of a response are validated as a whole, then executed, all or none.
//! - `sign.rs`: Standard Webhooks signatures.
//! - `events.rs`: handshakes, binds and closes as requests of the same form.
//!
//! `docs/http-backends.md` describes the interface for services.
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

use arc_swap::ArcSwap;
use axum::http::uri::PathAndQuery;
use bytes::Bytes;
use hashbrown::{HashMap, HashSet};
use rustls::ClientConfig;
use shaddock_cluster::Secret;

use self::{
    client::{Outgoing, Target},
    failure::{Complaints, Failure},
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

/// The most keys that sign at the same time: the new one and the old one.
const MOST_SECRETS: usize = 2;

/// The backends of an app, by server type.
pub(crate) type Backends = HashMap<Box<str>, Arc<Backend>>;

/// The reason why the configuration of a backend is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// No URL was given.
    #[error("a backend requires at least one URL, such as \"http://127.0.0.1:8000/shaddock\"")]
    NoUrl,
    /// The text is not a valid URL of a backend.
    #[error("\"{url}\" {reason}")]
    Url {
        /// The text.
        url: String,
        /// The mistake, and how to correct it.
        reason: &'static str,
    },
    /// The secret is not a valid key. The text is not shown.
    #[error(
        "a secret must be \"whsec_\" and 24 to 64 bytes in base64; generate one with: echo \"whsec_$(openssl rand -base64 32)\""
    )]
    Secret,
    /// The trusted certificates cannot be used.
    #[error(
        "the certificate authorities for services over TLS cannot be used: {0}; set `ca` to a PEM file"
    )]
    Roots(String),
    /// The path of the health check is invalid.
    #[error(
        "\"{0}\" is not a path for a health check; write it from the root of the host, such as \"/healthz\""
    )]
    Health(String),
    /// More keys than a rotation requires.
    #[error("at most two secrets may be set: the new one and the old one")]
    Secrets,
}

/// The strategy that chooses a URL of a backend.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Balance {
    /// Each URL in turn.
    #[default]
    RoundRobin,
    /// The same URL for the same user; a session without a user has its own.
    UserHash,
}

/// The HTTP version for a service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Protocol {
    /// HTTP/2 if TLS negotiates it, otherwise HTTP/1.1.
    #[default]
    Auto,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, also without TLS: the service must support it.
    Http2,
}

/// An HTTP service, with limits. Each limit has a default.
#[derive(Debug, Clone)]
pub struct HttpBackend {
    urls: Vec<BackendUrl>,
    /// Shared by the copies: a rotation reaches all of them.
    keys: Arc<ArcSwap<Vec<SigningKey>>>,
    tls: Option<ClientConfig>,
    health: Option<Box<str>>,
    concurrent: HashSet<Box<str>>,
    pub(crate) events: Vec<BackendEvent>,
    /// Time limit of a request, including the wait for a connection. Default 2 s; then the client receives an error, and the connection is
    /// closed.
    pub timeout: Duration,
    /// Time limit of connecting. Default 500 ms; then the URL counts as one that does not accept connections. Choose it shorter than
    /// `timeout`, so that there is time for another URL.
    pub connect_timeout: Duration,
    /// Open connections to each URL. Default 64; above this limit requests wait.
    pub max_connections: usize,
    /// Requests that may wait for a connection, for each URL. Default 256. Further requests use another URL if the balance is round robin,
    /// and fail immediately if there is none.
    pub queue: usize,
    /// The most bytes of a response. Default 1 MiB; a longer one is not read, and the client receives an error.
    pub max_body: usize,
    /// Time for which an unused connection may be reused. Default 1 s: shorter than the keep-alive time of services, because a request on a
    /// closing connection is not sent again.
    pub max_idle: Duration,
    /// The strategy that chooses a URL.
    pub balance: Balance,
    /// The HTTP version. With HTTP/2 all requests to a URL share a connection, and `max_connections` is the number of concurrent requests.
    pub protocol: Protocol,
    /// Time between health checks, if there are any ([`health`](Self::health)). Default 5 s.
    pub health_interval: Duration,
}

impl HttpBackend {
    /// Creates a service with these equivalent URLs, among which requests are distributed. A URL that does not accept connections is
    /// skipped for a second, if there are others. For `https://` the root certificates of the system are read.
    ///
    /// # Errors
    /// [`BackendError`]: no URL, an invalid URL, or no root certificates.
    pub fn new<T: AsRef<str>>(urls: impl IntoIterator<Item = T>) -> Result<Self, BackendError> {
        Self::with_urls(urls)?.trust_system()
    }

    /// As [`new`](Self::new). Over TLS only certificates signed by those of this PEM text are trusted.
    ///
    /// # Errors
    /// [`BackendError`]: as for `new`, or the text contains no certificate.
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

    /// Without reading certificates.
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
            keys: Arc::default(),
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

    /// Sends a GET for this path, such as `/healthz`, to each URL's host every [`health_interval`](Self::health_interval). A URL that does
    /// not respond with 200 or 204 within `timeout` receives requests only if the others are unhealthy too.
    ///
    /// # Errors
    /// [`BackendError::Health`]: the path is invalid.
    pub fn health(mut self, path: &str) -> Result<Self, BackendError> {
        let is_path = path.starts_with('/') && path.parse::<PathAndQuery>().is_ok();
        if !is_path || path.contains('#') {
            return Err(BackendError::Health(path.to_owned()));
        }
        self.health = Some(path.into());
        Ok(self)
    }

    /// Signs requests with one secret, or with two during a rotation.
    ///
    /// # Errors
    /// [`BackendError`]: an invalid secret, or more than two.
    pub fn secrets<'a>(
        mut self,
        secrets: impl IntoIterator<Item = &'a Secret>,
    ) -> Result<Self, BackendError> {
        self.keys = Arc::new(ArcSwap::from_pointee(keys_of(secrets)?));
        Ok(self)
    }

    /// Requests to these routes (`handler.method`) do not wait for earlier requests of their session, and later requests do not wait for
    /// them.
    #[must_use]
    pub fn concurrent<T: AsRef<str>>(mut self, routes: impl IntoIterator<Item = T>) -> Self {
        let routes = routes.into_iter().map(|route| route.as_ref().into());
        self.concurrent.extend(routes);
        self
    }

    /// Sends these events to the service.
    #[must_use]
    pub fn events(mut self, events: impl IntoIterator<Item = BackendEvent>) -> Self {
        self.events.extend(events);
        self
    }
}

impl App {
    /// Sends all requests of this server type to an HTTP service. Its [events](HttpBackend::events) are added to the app's listeners;
    /// [`BackendEvent::Handshake`] replaces [`on_handshake`](Self::on_handshake).
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
            "a backend for `{server_type}` exists already"
        );
        let backend = Arc::new(Backend::new(server_type, backend));
        self.listen_for(&backend);
        self.check_health(&backend);
        self.backends.insert(server_type.into(), backend);
        self
    }
}

fn keys_of<'a>(
    secrets: impl IntoIterator<Item = &'a Secret>,
) -> Result<Vec<SigningKey>, BackendError> {
    let keys: Result<Vec<SigningKey>, _> = secrets.into_iter().map(SigningKey::new).collect();
    let keys = keys?;
    if keys.len() > MOST_SECRETS {
        return Err(BackendError::Secrets);
    }
    Ok(keys)
}

impl AppHandle {
    /// Signs the requests to this type's HTTP backend with other secrets from now on, also those that are sent again; with two during a
    /// rotation. `false` if the type has no HTTP backend. SIGHUP does this with `backends.<type>.secret`.
    ///
    /// # Errors
    /// [`BackendError`]: an invalid secret, or more than two. The old secrets stay.
    pub fn set_backend_secrets<'a>(
        &self,
        server_type: &str,
        secrets: impl IntoIterator<Item = &'a Secret>,
    ) -> Result<bool, BackendError> {
        let keys = Arc::new(keys_of(secrets)?);
        let backend = self.backends().get(server_type);
        Ok(backend
            .map(|backend| backend.settings.keys.store(keys))
            .is_some())
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

/// A running backend.
pub(crate) struct Backend {
    server_type: Box<str>,
    settings: HttpBackend,
    targets: Vec<Target>,
    next: AtomicUsize,
    /// A counter of requests, and a key that is unique to this process.
    count: AtomicU64,
    random: RandomState,
    exchanges: Exchanges,
    complaints: Complaints,
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
            complaints: Complaints::default(),
        }
    }

    /// The counters of its exchanges.
    pub(crate) const fn exchanges(&self) -> &Exchanges {
        &self.exchanges
    }

    /// Requests that wait for a connection.
    pub(crate) fn waiting(&self) -> usize {
        self.targets.iter().map(Target::waiting).sum()
    }

    /// The number of its URLs.
    pub(crate) fn urls(&self) -> usize {
        self.targets.len()
    }

    /// The number of URLs that are tried last.
    pub(crate) fn urls_aside(&self) -> usize {
        let aside = self.targets.iter().filter(|target| target.is_aside());
        aside.count()
    }

    pub(crate) fn is_concurrent(&self, short_route: &str) -> bool {
        self.settings.concurrent.contains(short_route)
    }

    /// The time limit of a request.
    pub(crate) const fn timeout(&self) -> Duration {
        self.settings.timeout
    }

    /// Creates the HTTP request for a client's request.
    ///
    /// # Errors
    /// The body is not JSON, or the route cannot be part of a URL.
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

    /// Without a span the request starts a trace that is not recorded.
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

    /// Logs a failure with advice: once a minute for each kind of failure, others at level `debug`.
    fn complain(&self, route: &str, id: &str, failure: &Failure) {
        let (backend, advice) = (&*self.server_type, failure.advice());
        if let Some(left_out) = self.complaints.allow(failure, Instant::now()) {
            tracing::warn!(backend, route, id, %failure, advice, left_out, "a backend failed");
        } else {
            tracing::debug!(backend, route, id, %failure, "a backend failed");
        }
    }

    /// The key that selects the URL of a user.
    fn key_of(&self, view: &SessionView) -> u64 {
        match (self.settings.balance, view.uid()) {
            (Balance::RoundRobin, _) => self.next.fetch_add(1, Ordering::Relaxed) as u64,
            (Balance::UserHash, Some(uid)) => client::hash_of(uid.as_str().as_bytes()),
            (Balance::UserHash, None) => client::hash_of(&view.id().get().to_le_bytes()),
        }
    }

    /// The URLs in the order in which they are tried: those that do not accept connections are last.
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

    /// Sends a request once: another URL is tried only if nothing was sent.
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

/// A client's request that is sent to a backend.
pub(crate) struct Call {
    backend: Arc<Backend>,
    key: u64,
    outgoing: Outgoing,
    view: SessionView,
    route: Box<str>,
    wants_value: bool,
    limit: Duration,
    /// Ends with the response.
    span: Option<Box<Span>>,
}

impl Call {
    /// Sends the request, executes the actions of the response, and returns its body.
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
            Ok(text) => self.execute(&app, &text).await,
            Err(failure) => Err(Stopped::Failure(failure)),
        };
        match done {
            Ok(reply) => Ok(reply),
            Err(Stopped::Error(error)) => Err(error),
            Err(Stopped::Failure(failure)) => {
                if matches!(failure, Failure::Slow(_)) {
                    app.stats().timeouts.add(1);
                }
                self.backend
                    .complain(&self.route, &self.outgoing.id, &failure);
                Err(failure.into_error())
            }
        }
    }

    async fn execute(&self, app: &AppHandle, text: &Bytes) -> Result<Reply, Stopped> {
        let answer = wire::Answer::read(text).map_err(Stopped::Failure)?;
        if let Some(Object(error)) = answer.error {
            return Err(Stopped::Error(error.into_error()));
        }
        let reply = match answer.body {
            Some(body) if self.wants_value => Reply::raw(text.slice_ref(body.get().as_bytes())),
            _ => Reply::empty(),
        };
        let plan = actions::Plan::check(&self.view, answer.actions).map_err(Stopped::Failure)?;
        plan.execute(app, &self.view)
            .await
            .map_err(Stopped::Error)?;
        Ok(reply)
    }
}

/// The reason why there is no response for the client.
enum Stopped {
    /// The service failed. The client receives the kind of failure, the log the details.
    Failure(Failure),
    /// The error for the client.
    Error(HandlerError),
}
