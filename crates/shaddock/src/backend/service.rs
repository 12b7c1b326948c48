//! A running backend.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use hashbrown::HashMap;
use shaddock_cluster::Secret;
use shaddock_core::{Sid, Uid};

use super::{
    BackendError, Balance, HttpBackend,
    client::{self, Outgoing, Target},
    failure::{Complaints, Failure},
    settings::keys_of,
};
use crate::{app::Tasks, metrics::Exchanges, telemetry::Span};

/// The backends of an app, by server type.
pub(crate) type Backends = HashMap<Box<str>, Arc<Backend>>;

/// Signs the requests to the backend of this type with other secrets. `false` if there is none.
pub(crate) fn set_secrets<'a>(
    backends: &Backends,
    server_type: &str,
    secrets: impl IntoIterator<Item = &'a Secret>,
) -> Result<bool, BackendError> {
    let keys = Arc::new(keys_of(secrets)?);
    let backend = backends.get(server_type);
    Ok(backend
        .map(|backend| backend.settings.keys.store(keys))
        .is_some())
}

/// A running backend.
pub(crate) struct Backend {
    pub(super) server_type: Box<str>,
    pub(super) settings: HttpBackend,
    pub(super) targets: Vec<Target>,
    next: AtomicUsize,
    /// A counter of requests, and a key that is unique to this process.
    count: AtomicU64,
    random: RandomState,
    exchanges: Exchanges,
    complaints: Complaints,
}

impl Backend {
    pub(super) fn new(server_type: &str, settings: HttpBackend) -> Self {
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

    /// Without a span the request starts a trace that is not recorded.
    pub(super) fn outgoing(&self, path: String, body: Vec<u8>, span: Option<&Span>) -> Outgoing {
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
    pub(super) fn complain(&self, route: &str, id: &str, failure: &Failure) {
        let (backend, advice) = (&*self.server_type, failure.advice());
        if let Some(left_out) = self.complaints.allow(failure, Instant::now()) {
            tracing::warn!(backend, route, id, %failure, advice, left_out, "a backend failed");
        } else {
            tracing::debug!(backend, route, id, %failure, "a backend failed");
        }
    }

    /// The key that selects the URL of a user.
    pub(super) fn key_of(&self, uid: Option<&Uid>, sid: Option<Sid>) -> u64 {
        match (self.settings.balance, uid) {
            (Balance::RoundRobin, _) => self.next.fetch_add(1, Ordering::Relaxed) as u64,
            (Balance::UserHash, Some(uid)) => client::hash_of(uid.as_str().as_bytes()),
            (Balance::UserHash, None) => client::hash_of(&sid.map_or(0, Sid::get).to_le_bytes()),
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
    pub(super) async fn ask(
        &self,
        tasks: &Tasks,
        key: u64,
        outgoing: &Outgoing,
        limit: Duration,
    ) -> Result<Bytes, Failure> {
        let goes_round = self.settings.balance == Balance::RoundRobin;
        let asked = async {
            let mut last = Failure::down("there is no URL");
            for target in self.order(key) {
                match target.exchange(tasks, &self.settings, outgoing).await {
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
            () = tasks.sleep(limit) => Err(Failure::Slow(limit)),
        };
        let failed = ended.as_ref().err().map(Failure::reason);
        self.exchanges.end(began.elapsed(), failed);
        ended
    }
}
