//! The way of one request: filters, look-up, handler or forward, answer. See [`crate::filter`] for the order.
//!
//! The straight way makes one future on the heap: filters that do not wait run inline, the route is looked up with one hash, and the answer is
//! encoded into the session's outbound queue. A filter that waits adds a future around the same steps.

use std::{
    future::Ready,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use shaddock_cluster::{
    Context, ForwardedRequest, RemoteError, RemoteErrorKind, RoutingTarget, ServerInfo,
};
use shaddock_core::Session;
use shaddock_net::Flow;
use shaddock_protocol::{Dialect, Inbound, Route};
use tokio::time::Instant;

use crate::{
    answer::{ToClient, answer_client},
    app::{AppHandle, Chooser, SpawnError},
    backend::Backend,
    error::HandlerError,
    filter::{ErrorFlow, Step},
    handler::{BoxFuture, Complete, Erased, HandlerEntry, ToCaller, Work, failed},
    metrics::Calls,
    received,
    reply::{Outcome, Reply},
    request::RequestContext,
    session::SessionView,
    telemetry::Tracer,
};

/// How many other servers a request is sent to when its server has just died.
const OTHER_SERVERS: usize = 2;

/// A stage that a request can end in: who gets the outcome, and which handler calls go there.
pub(crate) trait Stage: Complete + Default {
    /// Calls the handler so that the outcome ends in this stage.
    fn handle(handler: &dyn Erased, request: Box<RequestContext>) -> BoxFuture<Self::Output>;
}

impl Stage for ToClient {
    fn handle(handler: &dyn Erased, request: Box<RequestContext>) -> BoxFuture<()> {
        handler.to_client(request)
    }
}

impl Stage for ToCaller {
    fn handle(handler: &dyn Erased, request: Box<RequestContext>) -> BoxFuture<Outcome> {
        handler.to_caller(request)
    }
}

/// The stage of requests that a global before-filter refused. Its errors are the global handler's.
#[derive(Default)]
struct Refused;

impl Complete for Refused {
    type Output = ();

    fn complete(self, request: &mut RequestContext, outcome: Outcome) {
        answer_client(request, outcome);
    }

    fn panicked_output() {}

    fn recover(request: &mut RequestContext, error: HandlerError) -> ErrorFlow {
        request
            .app()
            .clone()
            .filters()
            .global
            .recover(request, error)
    }
}

/// The stage around the app's own: requests that are forwarded, or rejected. Its errors skip this server's error handler: those of another
/// server have passed that server's error handler.
#[derive(Default)]
struct Outside;

impl Complete for Outside {
    type Output = ();

    fn complete(self, request: &mut RequestContext, outcome: Outcome) {
        answer_client(request, outcome);
    }

    fn panicked_output() {}

    fn recover(_request: &mut RequestContext, error: HandlerError) -> ErrorFlow {
        ErrorFlow::Now(Err(error))
    }
}

/// Where a route leads.
enum Target<'a> {
    Here(&'a HandlerEntry),
    Backend(&'a Arc<Backend>),
    Elsewhere,
    Nowhere(HandlerError),
}

impl AppHandle {
    /// Serves a message of a client that is connected here.
    pub(crate) fn serve_client(&self, session: &Arc<Session>, message: Inbound) -> Flow {
        self.stats().requests.add(1);
        let view = SessionView::of_session(self, session);
        let request = RequestContext::new(view, message.route, message.id, message.body);
        match self.tracer() {
            None => self.serve_filtered(request),
            Some(tracer) => self.serve_traced(tracer, request),
        }
    }

    /// As [`serve_filtered`](Self::serve_filtered), as a trace: what the handler asks of others goes on with it.
    #[cold]
    fn serve_traced(&self, tracer: &Tracer, mut request: Box<RequestContext>) -> Flow {
        let span = self.span_of_request(tracer, &request, None);
        let mut context = Context::new();
        span.context().write(&mut context);
        request.insert(span);
        received::serve_client(context, || self.serve_filtered(request))
    }

    #[inline]
    fn serve_filtered(&self, mut request: Box<RequestContext>) -> Flow {
        if self.stats().left_behind.load(Ordering::Relaxed) >= self.config().max_concurrent {
            return Flow::Later(fail::<Outside>(request, no_room(&SpawnError::TooMany)));
        }
        match self.filters().global.run_before(&mut request, 0) {
            Step::Through => self.dispatch_client(request),
            Step::Refused(error) => Flow::Later(fail::<Refused>(request, error)),
            Step::Wait(pause) => {
                let app = self.clone();
                Flow::Later(Box::pin(async move {
                    match app.filters().global.go_on(&mut request, pause).await {
                        Ok(()) => {
                            if let Flow::Later(rest) = app.dispatch_client(request) {
                                rest.await;
                            }
                        }
                        Err(error) => fail::<Refused>(request, error).await,
                    }
                }))
            }
        }
    }

    /// Counts a handler whose client has left, until it ends. While there are [`max_concurrent`](crate::app::AppConfig::max_concurrent) of
    /// them, nothing else is served: clients that ask and leave cannot pile up work.
    pub(crate) fn left_behind(&self, handler: BoxFuture<()>) -> BoxFuture<()> {
        let slot = self.requests().slot_of_running();
        let counted = LeftBehind::new(self.clone());
        Box::pin(async move {
            let _counted = (slot, counted);
            handler.await;
        })
    }

    /// After the global filters.
    fn dispatch_client(&self, request: Box<RequestContext>) -> Flow {
        if self.is_for_users(&request) {
            return Flow::Later(fail::<ToClient>(request, HandlerError::no_user()));
        }
        let entry = match self.target(request.route(), request.session().dialect()) {
            // As the cluster refuses to forward: a session whose user may have another frontend by now does nothing in the name of that user.
            Target::Here(_) | Target::Backend(_)
                if self.is_fenced() && request.session().uid().is_some() =>
            {
                return Flow::Later(fail::<ToClient>(request, cut_off()));
            }
            Target::Here(entry) => entry,
            Target::Backend(backend) => return self.ask_backend(backend, request),
            Target::Elsewhere => return self.forward(request),
            Target::Nowhere(error) => return Flow::Later(fail::<ToClient>(request, error)),
        };
        let options = entry.options;
        if !options.concurrent && !options.offload {
            request.set_at_once(true);
            return Flow::Later(self.run_own::<ToClient>(entry, request));
        }
        // Before the handler is called: a request that cannot run is answered, and its handler has not begun.
        let slot = match self.requests().slot() {
            Ok(slot) => slot,
            Err(error) => return Flow::Later(fail::<ToClient>(request, no_room(&error))),
        };
        let handler = self.run_own::<ToClient>(entry, request);
        let running = received::finish(slot, "request", handler);
        if options.concurrent {
            return Flow::Done;
        }
        Flow::Later(Box::pin(async move {
            let _ = running.await;
        }))
    }

    /// Whether the client must log in first.
    #[inline]
    fn is_for_users(&self, request: &RequestContext) -> bool {
        let exceptions = &self.hooks().users_only;
        exceptions.is_some() && !request.session().has_user() && !self.is_exception(request)
    }

    /// Whether a route is open to sessions without a user, while other routes require one.
    #[inline(never)]
    fn is_exception(&self, request: &RequestContext) -> bool {
        let route = request.route();
        // Pitaya clients may leave the own type out.
        let is_same = |whole: &String| match (route.server_type(), whole.split_once('.')) {
            (Some(_), _) => whole == route.as_str(),
            (None, Some((own, short))) => own == self.server_type() && Some(short) == route.short(),
            (None, None) => false,
        };
        self.hooks().users_only.iter().flatten().any(is_same)
    }

    /// Serves a message that a frontend forwarded. The sender looked at the server type: here only the handler counts, as in Pitaya. Who
    /// wants a value is refused by handlers that have none.
    pub(crate) fn serve_forwarded(
        &self,
        request: Box<RequestContext>,
        wants_value: bool,
    ) -> BoxFuture<Outcome> {
        self.stats().requests.add(1);
        if self.is_for_users(&request) {
            return fail::<ToCaller>(request, HandlerError::no_user());
        }
        let short = request.route().short();
        if let Some(entry) = short.and_then(|short| self.handlers().get(short)) {
            if wants_value && !entry.tells {
                let error = HandlerError::bad_request("tried to request a notify route");
                return fail::<ToCaller>(request, error);
            }
            if entry.options.offload {
                return self.run_apart(entry, request);
            }
            return self.run_own::<ToCaller>(entry, request);
        }
        // In Pitaya's words: the client may be behind a frontend in Go.
        let error = RemoteError::handler_not_found(request.route().as_str());
        fail::<ToCaller>(request, HandlerError::from_remote(error))
    }

    /// As [`run_own`](Self::run_own), on the app's runtime: not where the message came in, which in one process is the thread of its client.
    fn run_apart(&self, entry: &HandlerEntry, request: Box<RequestContext>) -> BoxFuture<Outcome> {
        let slot = match self.requests().slot() {
            Ok(slot) => slot,
            Err(error) => return fail::<ToCaller>(request, no_room(&error)),
        };
        let handler = received::carry(self.run_own::<ToCaller>(entry, request));
        let running = slot.finish("request", handler);
        Box::pin(async move {
            let ended = running.await.ok().flatten();
            ended.unwrap_or_else(|| Err(failed()))
        })
    }

    /// The app's own filters, then the handler.
    fn run_own<S: Stage>(
        &self,
        entry: &HandlerEntry,
        mut request: Box<RequestContext>,
    ) -> BoxFuture<S::Output> {
        request.set_handler(entry.number);
        if let Some(timeout) = entry.options.timeout {
            request.limit(timeout);
        }
        match self.filters().own.run_before(&mut request, 0) {
            Step::Through => S::handle(&*entry.handler, request),
            Step::Refused(error) => fail::<S>(request, error),
            Step::Wait(pause) => {
                let handler = Arc::clone(&entry.handler);
                let app = self.clone();
                Box::pin(async move {
                    match app.filters().own.go_on(&mut request, pause).await {
                        Ok(()) => S::handle(&*handler, request).await,
                        Err(error) => fail::<S>(request, error).await,
                    }
                })
            }
        }
    }

    fn target(&self, route: &Route, dialect: Dialect) -> Target<'_> {
        match route.server_type() {
            Some(server_type) if server_type != self.server_type() => {
                return match self.backends().get(server_type) {
                    Some(backend) => Target::Backend(backend),
                    None => Target::Elsewhere,
                };
            }
            None if dialect != Dialect::Pitaya => {
                return Target::Nowhere(HandlerError::bad_request("invalid route"));
            }
            _ => {}
        }
        match route.short().and_then(|short| self.handlers().get(short)) {
            Some(entry) => Target::Here(entry),
            None => Target::Nowhere(no_handler(route)),
        }
    }

    /// Sends the request to a server of the type that its route names.
    fn forward(&self, request: Box<RequestContext>) -> Flow {
        let server_type = request.route().server_type().unwrap_or_default();
        match self.hooks().choosers.of(server_type) {
            None => self.forward_to(None, request),
            Some(chooser) => self.choose_and_forward(chooser, request),
        }
    }

    /// Sends the request to the server that a function of the application chooses, for which the session waits.
    fn choose_and_forward(&self, chooser: &Chooser, request: Box<RequestContext>) -> Flow {
        let (app, chooser) = (self.clone(), Arc::clone(chooser));
        Flow::Later(Box::pin(async move {
            request.set_at_once(false);
            let limit = match request.own_timeout() {
                Some(timeout) if !timeout.is_zero() => timeout,
                _ => app.config().handler_timeout,
            };
            let began = Instant::now();
            let (session, route) = (request.session().clone(), request.route().clone());
            let message = (session, Arc::from(route.as_str()), request.body().clone());
            let server_type = route.server_type().unwrap_or_default();
            let chosen = app.choose(&chooser, server_type, message, limit).await;
            let is_closed = |session: &Arc<Session>| session.is_closed();
            if request.session().session().is_some_and(is_closed) {
                return;
            }
            match chosen {
                Ok(server) => {
                    let spent = began.elapsed();
                    if let Flow::Later(rest) = app.forward_to(Some((server, spent)), request) {
                        rest.await;
                    }
                }
                Err(error) => fail::<Outside>(request, error).await,
            }
        }))
    }

    /// Sends the request to this server, whose choice took so long, or to the one that the strategy chooses. The session does not wait for it if
    /// that server says so of the route.
    fn forward_to(
        &self,
        server: Option<(Arc<ServerInfo>, Duration)>,
        mut request: Box<RequestContext>,
    ) -> Flow {
        let app = self.clone();
        let limit = request.own_timeout().filter(|timeout| !timeout.is_zero());
        // The cluster watches the time: no second timer is made here.
        request.set_timeout(Duration::ZERO);
        let mut slot = None;
        let work = Work::start(request, Outside, |request| {
            let route = request.route();
            let session = request.session().export();
            let server_type = route.server_type().unwrap_or_default();
            let membership = app.membership().map_err(HandlerError::from_remote)?;
            let (server, spent) = if let Some(chosen) = server {
                chosen
            } else {
                let target = RoutingTarget::new(&session, route.as_str(), request.body());
                let picked = app
                    .routing()
                    .pick(membership.members(), server_type, &target)
                    .map_err(HandlerError::from_remote)?;
                (picked, Duration::ZERO)
            };
            let short = route.short().unwrap_or_default();
            if server.is_concurrent(short) {
                slot = Some(app.requests().slot().map_err(|error| no_room(&error))?);
            }
            // Unless a filter chose a time, the server that handles it says how long it may take; from a Pitaya server, which says nothing, the
            // answer has the cluster's request timeout.
            let mut context = match limit.or_else(|| server.timeout_of(short)) {
                Some(timeout) if !timeout.is_zero() => {
                    let left = timeout.saturating_sub(spent);
                    if left.is_zero() {
                        return Err(HandlerError::too_late());
                    }
                    Context::with_timeout(left)
                }
                Some(forever) => Context::with_timeout(forever),
                None => Context::new(),
            };
            let span = app.span_of_forward(request, &server);
            if let Some(span) = &span {
                span.context().write(&mut context);
            }
            let forwarded = ForwardedRequest {
                route: Arc::from(route.as_str()),
                body: request.body().clone(),
                id: request.id(),
                session,
                context,
            };
            let began = Calls::begin();
            let answer = membership.forward(&server, forwarded.clone());
            Ok(async move {
                let mut answer = answer.await;
                for _ in 0..OTHER_SERVERS {
                    match &answer {
                        Err(error) if error.kind() == RemoteErrorKind::NoResponder => {}
                        _ => break,
                    }
                    // The request was not delivered, so it can be repeated safely. The dead server is not chosen again soon. Boxed: every
                    // request is moved with what it may need.
                    answer = Box::pin(app.forward_again(&forwarded, began.into())).await;
                }
                app.stats().forwards.end(began, &answer);
                if let (Some(span), Err(error)) = (&span, &answer) {
                    span.failed(error.code(), error.message());
                }
                drop(span);
                answer.map(Reply::raw).map_err(HandlerError::from_forward)
            })
        });
        match slot {
            None => Flow::Later(Box::pin(work)),
            Some(slot) => {
                drop(received::finish(slot, "request", work));
                Flow::Done
            }
        }
    }

    /// Asks the backend of the route's type over HTTP. The session does not wait for it if the backend is set up so for the route.
    fn ask_backend(&self, backend: &Arc<Backend>, mut request: Box<RequestContext>) -> Flow {
        let limit = match request.own_timeout() {
            Some(timeout) if !timeout.is_zero() => timeout,
            _ => backend.timeout(),
        };
        // The call watches the time: what it carries out when the answer is there is not cut off.
        request.set_timeout(Duration::ZERO);
        let mut slot = None;
        let work = Work::start(request, Outside, |request| {
            let short = request.route().short();
            if short.is_some_and(|short| backend.is_concurrent(short)) {
                slot = Some(self.requests().slot().map_err(|error| no_room(&error))?);
            }
            let (app, began) = (self.clone(), Calls::begin());
            let call = backend.call(request, limit)?;
            Ok(async move {
                let answer = call.run().await;
                app.stats().asked.ended(began, answer.is_err());
                answer
            })
        });
        match slot {
            None => Flow::Later(Box::pin(work)),
            Some(slot) => {
                drop(received::finish(slot, "request", work));
                Flow::Done
            }
        }
    }

    /// Sends a request that its server did not get to another one, in what is left of its time.
    async fn forward_again(
        &self,
        forwarded: &ForwardedRequest,
        began: Instant,
    ) -> Result<Bytes, RemoteError> {
        let membership = self.membership()?;
        let left = |limit: Duration| match limit.saturating_sub(began.elapsed()) {
            _ if limit.is_zero() => Ok(limit),
            left if left.is_zero() => Err(HandlerError::too_late().into_remote()),
            left => Ok(left),
        };
        let (server_type, _) = forwarded.route.split_once('.').unwrap_or_default();
        let server = match self.hooks().choosers.of(server_type) {
            None => {
                let (session, route) = (&forwarded.session, &forwarded.route);
                let target = RoutingTarget::new(session, route, &forwarded.body);
                let members = membership.members();
                self.routing().pick(members, server_type, &target)?
            }
            Some(chooser) => {
                let session = SessionView::of_forwarded(self, forwarded.session.clone());
                let message = (
                    session,
                    Arc::clone(&forwarded.route),
                    forwarded.body.clone(),
                );
                let limit = forwarded.context.timeout();
                let limit = left(limit.unwrap_or(self.config().handler_timeout))?;
                let chosen = self.choose(chooser, server_type, message, limit);
                // Apart, so that requests without such a function are as small as before.
                let chosen = Box::pin(chosen).await.map_err(HandlerError::into_remote)?;
                if self.has_closed(&forwarded.session) {
                    return Err(RemoteError::session_not_found());
                }
                chosen
            }
        };
        let mut forwarded = forwarded.clone();
        if let Some(limit) = forwarded.context.timeout() {
            forwarded.context.set_timeout(left(limit)?);
        }
        membership.forward(&server, forwarded).await
    }
}

/// A handler that is counted as left behind by its client.
struct LeftBehind(AppHandle);

impl LeftBehind {
    fn new(app: AppHandle) -> Self {
        app.stats().left_behind.fetch_add(1, Ordering::Relaxed);
        Self(app)
    }
}

impl Drop for LeftBehind {
    fn drop(&mut self) {
        self.0.stats().left_behind.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Ends a request in this stage with an error.
fn fail<S: Complete + Default>(
    request: Box<RequestContext>,
    error: HandlerError,
) -> BoxFuture<S::Output> {
    Box::pin(Work::<Ready<Outcome>, S>::failed(
        request,
        S::default(),
        error,
    ))
}

fn cut_off() -> HandlerError {
    HandlerError::new(
        shaddock_cluster::code::UNAVAILABLE,
        "this server is disconnected from the cluster; try again later",
    )
}

fn no_room(error: &SpawnError) -> HandlerError {
    match error {
        SpawnError::TooMany => HandlerError::too_many("too many requests are running"),
        SpawnError::Stopping | SpawnError::Session(_) | SpawnError::ChannelDestroyed => {
            HandlerError::new(
                shaddock_cluster::code::UNAVAILABLE,
                "this server is stopping; try again later",
            )
        }
    }
}

fn no_handler(route: &Route) -> HandlerError {
    // In Pitaya's words, with the route as it was sent, which is at most 255 bytes.
    HandlerError::not_found(format!("pitaya/handler: {} not found", route.as_str()))
}
