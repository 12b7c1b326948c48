//! The path of one request: filters, look-up, handler or forward. See [`crate::filter`] for the order.
//!
//! The straight path makes one future on the heap: filters that do not wait run inline, the route is looked up with one hash, and the
//! response is encoded into the session's outbound queue. A filter that waits adds a future around the same steps.

mod forward;
mod left_behind;
mod stage;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use shaddock_cluster::{Context, RemoteError};
use shaddock_core::Session;
use shaddock_net::MaybeReady;
use shaddock_protocol::{Dialect, Inbound, Route};

pub(crate) use self::left_behind::LeftBehind;
use self::{
    forward::Forwarder,
    stage::{Outside, Refused, Stage, fail, no_room},
};
use crate::{
    answer::ToClient,
    app::{AppHandle, Registrations, Server, SpawnError},
    backend::{Backend, Call},
    boxed::BoxFuture,
    error::HandlerError,
    handler::{Complete, HandlerEntry, ToCaller, Work},
    metrics::Calls,
    received,
    reply::Outcome,
    request::RequestContext,
    session::SessionView,
    telemetry::Spans,
};

/// Where a route leads.
enum Target<'a> {
    Here(&'a HandlerEntry),
    Backend(&'a Arc<Backend>),
    Elsewhere,
    Nowhere(HandlerError),
}

/// Serves the requests of one app.
#[derive(Clone, Copy)]
pub(crate) struct Dispatcher<'a> {
    server: &'a Server,
    app: &'a AppHandle,
}

impl<'a> Dispatcher<'a> {
    pub(crate) const fn of(server: &'a Server) -> Self {
        Self {
            server,
            app: &server.app,
        }
    }

    fn registered(self) -> &'a Registrations {
        &self.server.registered
    }

    /// Ends a request in this stage with an error.
    fn fail<S: Complete>(
        self,
        request: Box<RequestContext>,
        error: HandlerError,
    ) -> BoxFuture<S::Output> {
        fail::<S>(request, self.registered().filters(), error)
    }

    /// Serves a message of a client that is connected here.
    pub(crate) fn serve_client(self, session: &Arc<Session>, message: Inbound) -> MaybeReady<()> {
        self.app.stats().requests.add(1);
        let view = SessionView::of_session(self.app, session);
        let request = RequestContext::new(view, message.route, message.id, message.body);
        match Spans::of(self.app) {
            None => self.serve_filtered(request),
            Some(spans) => self.serve_traced(spans, request),
        }
    }

    /// As [`serve_filtered`](Self::serve_filtered), as a trace: what the handler asks of others goes on with it.
    #[cold]
    fn serve_traced(self, spans: Spans<'_>, mut request: Box<RequestContext>) -> MaybeReady<()> {
        let span = spans.of_request(&request, None);
        let mut context = Context::new();
        span.context().write(&mut context);
        request.insert(span);
        received::serve_client(context, || self.serve_filtered(request))
    }

    #[inline]
    fn serve_filtered(self, mut request: Box<RequestContext>) -> MaybeReady<()> {
        if self.app.stats().left_behind.load(Ordering::Relaxed) >= self.app.config().max_concurrent
        {
            return MaybeReady::Later(
                self.fail::<Outside>(request, no_room(self.app, &SpawnError::TooMany)),
            );
        }
        let filters = self.registered().filters();
        match filters.global.run_before(&mut request, 0) {
            MaybeReady::Now(Ok(())) => self.dispatch_client(request),
            MaybeReady::Now(Err(error)) => MaybeReady::Later(self.fail::<Refused>(request, error)),
            MaybeReady::Later(pause) => {
                let server = self.server.clone();
                MaybeReady::later(async move {
                    let filters = server.registered.filters();
                    match filters.global.go_on(&mut request, pause).await {
                        Ok(()) => {
                            if let MaybeReady::Later(rest) =
                                Dispatcher::of(&server).dispatch_client(request)
                            {
                                rest.await;
                            }
                        }
                        Err(error) => fail::<Refused>(request, filters, error).await,
                    }
                })
            }
        }
    }

    /// After the global filters.
    fn dispatch_client(self, request: Box<RequestContext>) -> MaybeReady<()> {
        if self.is_for_users(&request) {
            return MaybeReady::Later(self.fail::<ToClient>(request, HandlerError::no_user()));
        }
        let entry = match self.target(request.route(), request.session().dialect()) {
            // As the cluster refuses to forward: a session whose user may have another frontend by now does nothing in the name of that user.
            Target::Here(_) | Target::Backend(_)
                if self.app.is_fenced() && request.session().uid().is_some() =>
            {
                return MaybeReady::Later(self.fail::<ToClient>(request, cut_off()));
            }
            Target::Here(entry) => entry,
            Target::Backend(backend) => return self.ask_backend(backend, request),
            Target::Elsewhere => return Forwarder::of(self.server).forward(request),
            Target::Nowhere(error) => {
                return MaybeReady::Later(self.fail::<ToClient>(request, error));
            }
        };
        let options = entry.options;
        if !options.concurrent && !options.offload {
            request.set_at_once(true);
            return MaybeReady::Later(self.run_own::<ToClient>(entry, request));
        }
        // Before the handler is called: a request that cannot run is answered, and its handler has not begun.
        let slot = match self.app.requests().slot() {
            Ok(slot) => slot,
            Err(error) => {
                return MaybeReady::Later(
                    self.fail::<ToClient>(request, no_room(self.app, &error)),
                );
            }
        };
        let handler = self.run_own::<ToClient>(entry, request);
        let running = received::finish(slot, "request", handler);
        if options.concurrent {
            return MaybeReady::Now(());
        }
        MaybeReady::later(async move {
            let _ = running.await;
        })
    }

    /// Whether the client must log in first.
    #[inline]
    fn is_for_users(self, request: &RequestContext) -> bool {
        let exceptions = &self.registered().hooks().users_only;
        exceptions.is_some() && !request.session().has_user() && !self.is_exception(request)
    }

    /// Whether a route is open to sessions without a user, while other routes require one.
    #[inline(never)]
    fn is_exception(self, request: &RequestContext) -> bool {
        let route = request.route();
        // Pitaya clients may leave the own type out.
        let is_same = |whole: &String| match (route.server_type(), whole.split_once('.')) {
            (Some(_), _) => whole == route.as_str(),
            (None, Some((own, short))) => {
                own == self.app.server_type() && Some(short) == route.short()
            }
            (None, None) => false,
        };
        self.registered()
            .hooks()
            .users_only
            .iter()
            .flatten()
            .any(is_same)
    }

    /// Serves a message that a frontend forwarded. The sender looked at the server type: here only the handler counts, as in Pitaya. A
    /// request that wants a value is refused by handlers that return none.
    pub(crate) fn serve_forwarded(
        self,
        request: Box<RequestContext>,
        wants_value: bool,
    ) -> BoxFuture<Outcome> {
        self.app.stats().requests.add(1);
        if self.is_for_users(&request) {
            return self.fail::<ToCaller>(request, HandlerError::no_user());
        }
        let short = request.route().short();
        if let Some(entry) = short.and_then(|short| self.registered().handlers().get(short)) {
            if wants_value && !entry.tells {
                let error = HandlerError::bad_request("tried to request a notify route");
                return self.fail::<ToCaller>(request, error);
            }
            if entry.options.offload {
                return self.run_apart(entry, request);
            }
            return self.run_own::<ToCaller>(entry, request);
        }
        // In Pitaya's words: the client may be behind a frontend in Go.
        let error = RemoteError::handler_not_found(request.route().as_str());
        self.fail::<ToCaller>(request, HandlerError::from_remote(error))
    }

    /// As [`run_own`](Self::run_own), on the app's runtime: not where the message came in, which in one process is the thread of its client.
    fn run_apart(self, entry: &HandlerEntry, request: Box<RequestContext>) -> BoxFuture<Outcome> {
        let slot = match self.app.requests().slot() {
            Ok(slot) => slot,
            Err(error) => return self.fail::<ToCaller>(request, no_room(self.app, &error)),
        };
        let handler = received::carry(self.run_own::<ToCaller>(entry, request));
        let running = slot.finish("request", handler);
        Box::pin(async move {
            let ended = running.await.ok().flatten();
            ended.unwrap_or_else(|| Err(HandlerError::handler_failed()))
        })
    }

    /// The app's own filters, then the handler.
    fn run_own<S: Stage>(
        self,
        entry: &HandlerEntry,
        mut request: Box<RequestContext>,
    ) -> BoxFuture<S::Output> {
        request.set_handler(entry.number);
        if let Some(timeout) = entry.options.timeout {
            request.limit(timeout);
        }
        let filters = self.registered().filters();
        match filters.own.run_before(&mut request, 0) {
            MaybeReady::Now(Ok(())) => S::handle(&*entry.handler, request, filters),
            MaybeReady::Now(Err(error)) => self.fail::<S>(request, error),
            MaybeReady::Later(pause) => {
                let (handler, filters) = (Arc::clone(&entry.handler), Arc::clone(filters));
                Box::pin(async move {
                    match filters.own.go_on(&mut request, pause).await {
                        Ok(()) => S::handle(&*handler, request, &filters).await,
                        Err(error) => fail::<S>(request, &filters, error).await,
                    }
                })
            }
        }
    }

    fn target(self, route: &Route, dialect: Dialect) -> Target<'a> {
        match route.server_type() {
            Some(server_type) if server_type != self.app.server_type() => {
                return match self.app.backends().get(server_type) {
                    Some(backend) => Target::Backend(backend),
                    None => Target::Elsewhere,
                };
            }
            None if dialect != Dialect::Pitaya => {
                return Target::Nowhere(HandlerError::bad_request("invalid route"));
            }
            _ => {}
        }
        match route
            .short()
            .and_then(|short| self.registered().handlers().get(short))
        {
            Some(entry) => Target::Here(entry),
            None => Target::Nowhere(no_handler(route)),
        }
    }

    /// Asks the backend of the route's type over HTTP. The session does not wait for it if the backend is set up so for the route.
    fn ask_backend(
        self,
        backend: &Arc<Backend>,
        mut request: Box<RequestContext>,
    ) -> MaybeReady<()> {
        let limit = match request.own_timeout() {
            Some(timeout) if !timeout.is_zero() => timeout,
            _ => backend.timeout(),
        };
        // The call watches the time: what it carries out when the answer is there is not cut off.
        request.set_timeout(Duration::ZERO);
        let mut slot = None;
        let work = Work::start(
            request,
            Outside::of(self.registered().filters()),
            |request| {
                let short = request.route().short();
                if short.is_some_and(|short| backend.is_concurrent(short)) {
                    slot = Some(
                        self.app
                            .requests()
                            .slot()
                            .map_err(|error| no_room(self.app, &error))?,
                    );
                }
                let (app, began) = (self.app.clone(), Calls::begin());
                let call = Call::begin(backend, request, limit)?;
                Ok(async move {
                    let answer = call.run().await;
                    app.stats().asked.ended(began, answer.is_err());
                    answer
                })
            },
        );
        received::serve_in(slot, work)
    }
}

fn cut_off() -> HandlerError {
    HandlerError::new(
        shaddock_cluster::code::UNAVAILABLE,
        "this server is disconnected from the cluster; try again later",
    )
}

fn no_handler(route: &Route) -> HandlerError {
    // In Pitaya's words, with the route as it was sent, which is at most 255 bytes.
    HandlerError::not_found(format!("pitaya/handler: {} not found", route.as_str()))
}
