//! The settings of a backend.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use hashbrown::HashSet;
use hyper::http::uri::PathAndQuery;
use rustls::ClientConfig;
use shaddock_cluster::Secret;

use super::{BackendError, BackendEvent, BackendUrl, Balance, Protocol, connect, sign::SigningKey};

/// The most keys that sign at the same time: the new one and the old one.
const MOST_SECRETS: usize = 2;

/// An HTTP service, with limits. Each limit has a default.
#[derive(Debug, Clone)]
pub struct HttpBackend {
    pub(super) urls: Vec<BackendUrl>,
    /// Shared by the copies: a rotation reaches all of them.
    pub(super) keys: Arc<ArcSwap<Vec<SigningKey>>>,
    pub(super) tls: Option<ClientConfig>,
    pub(super) health: Option<Box<str>>,
    pub(super) concurrent: HashSet<Box<str>>,
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

/// The keys of these secrets.
pub(super) fn keys_of<'a>(
    secrets: impl IntoIterator<Item = &'a Secret>,
) -> Result<Vec<SigningKey>, BackendError> {
    let keys: Result<Vec<SigningKey>, _> = secrets.into_iter().map(SigningKey::new).collect();
    let keys = keys?;
    if keys.len() > MOST_SECRETS {
        return Err(BackendError::Secrets);
    }
    Ok(keys)
}
