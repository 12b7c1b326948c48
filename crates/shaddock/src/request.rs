//! One request on its way through filters and handler.

use std::{
    any::{Any, TypeId},
    num::NonZeroU64,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use shaddock_core::Sid;
use shaddock_net::clock;
use shaddock_protocol::Route;

use crate::{
    app::AppHandle,
    error::HandlerError,
    guarded::{Panic, Watch, guard},
    metrics::Times,
    session::SessionView,
    telemetry::Span,
};

/// A handler that holds its thread for this time without waiting is reported: everything else on the thread has waited for it.
const BLOCKED: Duration = Duration::from_millis(100);

/// A request or notify of a client, as filters and extractors see it.
pub struct RequestContext {
    session: SessionView,
    route: Route,
    id: Option<NonZeroU64>,
    body: Bytes,
    timeout: Duration,
    /// The timeout was chosen for this request.
    is_limited: bool,
    /// How long the server that forwarded it waits; zero is for ever.
    sender_waits: Duration,
    /// Number of the handler, once it is known.
    handler: Option<usize>,
    started: Option<Instant>,
    /// The request has not waited since [`started`](Self::started): it has held its thread from then on.
    at_once: AtomicBool,
    // A request seldom has any: no memory until then. What is only held has no key.
    extensions: Vec<(Option<TypeId>, Arc<dyn Any + Send + Sync>)>,
}

impl RequestContext {
    /// Boxed: it passes through many hands, and moving it each time costs more than the allocation (docs/performance.md).
    pub(crate) fn new(
        session: SessionView,
        route: Route,
        id: Option<NonZeroU64>,
        body: Bytes,
    ) -> Box<Self> {
        let timeout = session.app().config().handler_timeout;
        Box::new(Self {
            session,
            route,
            id,
            body,
            timeout,
            is_limited: false,
            sender_waits: Duration::ZERO,
            handler: None,
            started: None,
            at_once: AtomicBool::new(false),
            extensions: Vec::new(),
        })
    }

    /// The app that serves the request.
    pub const fn app(&self) -> &AppHandle {
        self.session.app()
    }

    /// The client's session.
    pub const fn session(&self) -> &SessionView {
        &self.session
    }

    /// The client's session, to be changed: what a filter sets in the view, later filters and the handler see.
    pub const fn session_mut(&mut self) -> &mut SessionView {
        &mut self.session
    }

    /// The route as the client named it.
    pub const fn route(&self) -> &Route {
        &self.route
    }

    /// The client's number of the request; `None` for a notify.
    pub const fn id(&self) -> Option<NonZeroU64> {
        self.id
    }

    /// The body: JSON text in UTF-8 (for Pitaya clients with another serializer, their bytes).
    pub const fn body(&self) -> &Bytes {
        &self.body
    }

    /// Leaves a value for later filters and for the handler ([`Extension`](crate::extract::Extension)), in the place of one of the same type.
    /// It is dropped with the request. What belongs to one filter, such as a guard that counts down, is [held](Self::hold) instead: another
    /// filter of the same type would replace it here.
    pub fn insert<T: Send + Sync + 'static>(&mut self, value: T) {
        let key = Some(TypeId::of::<T>());
        self.extensions.retain(|(other, _)| *other != key);
        self.extensions.push((key, Arc::new(value)));
    }

    /// Keeps a value until the request is over, however it ends: answered, refused by a later filter, failed, too late, or dropped with its
    /// client. Then it is dropped, once. It cannot be taken or replaced, and a request holds any number of values of one type.
    pub fn hold<T: Send + Sync + 'static>(&mut self, value: T) {
        self.extensions.push((None, Arc::new(value)));
    }

    /// A value that was left before.
    pub fn extension<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        let key = Some(TypeId::of::<T>());
        let (_, value) = self.extensions.iter().find(|(other, _)| *other == key)?;
        Arc::clone(value).downcast().ok()
    }

    /// The span of the request, with [telemetry](crate::telemetry).
    pub(crate) fn span(&self) -> Option<Arc<Span>> {
        self.extension()
    }

    /// It is answered with this error.
    pub(crate) fn note_failure(&self, error: &HandlerError) {
        if let Some(span) = self.span() {
            span.failed(error.code(), error.message());
        }
    }

    /// The time limit of the handler; zero means none. It never exceeds the time that the forwarding server waits.
    pub fn timeout(&self) -> Duration {
        shorter(self.timeout, self.sender_waits)
    }

    /// Chooses how long the handler may take, instead of the app and the route. Counts from its start. Where a request is forwarded, it is how
    /// long this server waits for the answer; zero leaves that to the server that handles it.
    pub const fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
        self.is_limited = true;
    }

    /// The timeout that was chosen for this request, unless it is the app's.
    pub(crate) fn own_timeout(&self) -> Option<Duration> {
        self.is_limited.then_some(self.timeout)
    }

    /// The route has a timeout of its own. If a filter chose one too, the shorter counts.
    pub(crate) fn limit(&mut self, timeout: Duration) {
        let chosen = self.own_timeout().unwrap_or(Duration::ZERO);
        self.set_timeout(shorter(timeout, chosen));
    }

    /// Another server forwarded the request and waits for so long.
    pub(crate) const fn set_sender_waits(&mut self, timeout: Duration) {
        self.sender_waits = timeout;
    }

    /// Which entry of the handler table serves it; `None` before the look-up, and where there is no handler.
    pub(crate) const fn handler(&self) -> Option<usize> {
        self.handler
    }

    pub(crate) const fn set_handler(&mut self, number: usize) {
        self.handler = Some(number);
    }

    /// When a filter saw the request first; `None` unless one [marked](Self::mark_start) it.
    pub const fn started(&self) -> Option<Instant> {
        self.started
    }

    /// Says whether the thread has been held since [`started`](Self::started): from when the request is served where it came in, until it first
    /// waits.
    pub(crate) fn set_at_once(&self, at_once: bool) {
        self.at_once.store(at_once, Ordering::Relaxed);
    }

    /// Whether the request has not waited yet.
    pub(crate) fn is_at_once(&self) -> bool {
        self.at_once.load(Ordering::Relaxed)
    }

    /// The time since when this request, which is about to continue, has held the thread. `None` if it is not measured.
    pub(crate) fn held_since(&self) -> Option<Instant> {
        let started = self.started?;
        Some(if self.is_at_once() {
            started
        } else {
            clock::latest()
        })
    }

    /// The request waits now, or is done after it has waited: looks how long the thread was held since it went on at `since`.
    pub(crate) fn thread_released(&self, since: Option<Instant>) {
        self.set_at_once(false);
        if let Some(since) = since {
            self.check_held(clock::read().saturating_duration_since(since));
        }
    }

    /// Reports a request that held its thread for too long.
    pub(crate) fn check_held(&self, held: Duration) {
        if held >= BLOCKED {
            self.blocked(held);
        }
    }

    #[cold]
    fn blocked(&self, held: Duration) {
        self.app().stats().blocked.add(1);
        if self.times().is_none_or(|times| times.add_blocked() == 0) {
            tracing::warn!(
                route = self.route.as_str(),
                ?held,
                "a handler held its thread, and with it everything else there: use `.offload()` or `spawn_blocking`; further ones of this route \
                 are only counted (`route_blocked_total`)"
            );
        }
    }

    /// What is counted of its route.
    fn times(&self) -> Option<Times> {
        let (app, handler) = (self.app(), self.handler?);
        Some(Times::of(app.get()?, app.handlers().len(), handler))
    }

    /// Notes when work on the request began. The first mark stays.
    pub fn mark_start(&mut self, now: Instant) {
        self.started.get_or_insert(now);
    }
}

/// The shorter of two times, of which zero is for ever.
pub(crate) fn shorter(one: Duration, other: Duration) -> Duration {
    match (one.is_zero(), other.is_zero()) {
        (true, _) => other,
        (_, true) => one,
        _ => one.min(other),
    }
}

impl Watch for RequestContext {
    fn panicked(&self, panic: &Panic) {
        self.app().stats().panics.add(1);
        if let Some(times) = self.times() {
            times.add_panic();
        }
        shaddock_net::quiet!(
            error,
            "a handler panicked",
            route = self.route.as_str(),
            sid = self.session.id().map(Sid::get),
            panic = panic.text()
        );
    }
}

impl Drop for RequestContext {
    /// What filters left in it is the application's. The last comes first, as variables of a function.
    fn drop(&mut self) {
        while let Some(value) = self.extensions.pop() {
            let _ = guard(self, || drop(value));
        }
    }
}

impl std::fmt::Debug for RequestContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RequestContext")
            .field("app", &self.app().id())
            .field("sid", &self.session.id())
            .field("route", &self.route)
            .field("id", &self.id)
            .field("body_bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}
