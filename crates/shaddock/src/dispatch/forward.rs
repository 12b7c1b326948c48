//! Requests whose route belongs to another server.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use shaddock_cluster::{
    Context, ForwardedRequest, ForwardedSession, RemoteError, RemoteErrorKind, RoutingTarget,
    ServerInfo,
};
use shaddock_core::{Session, Sid};
use shaddock_net::MaybeReady;
use tokio::time::Instant;

use super::stage::{Outside, fail, no_room};
use crate::{
    app::{AppHandle, Choice, Chooser, Server},
    error::HandlerError,
    handler::{Complete, Work},
    metrics::Calls,
    received,
    reply::Reply,
    request::RequestContext,
    telemetry::{Span, Spans},
};

/// How many other servers a request is sent to when its server has just died.
const OTHER_SERVERS: usize = 2;

/// Whether no server has got the request.
fn is_undelivered(answer: &Result<Bytes, RemoteError>) -> bool {
    matches!(answer, Err(error) if error.kind() == RemoteErrorKind::NoResponder)
}

/// Ends the span of a forwarded request.
fn note_failure(span: Option<Box<Span>>, answer: &Result<Bytes, RemoteError>) {
    if let (Some(span), Err(error)) = (span, answer) {
        span.failed(error.code(), error.message());
    }
}

/// The context of a request that may take `limit` (zero: for ever; `None`: as long as the cluster lets it), of which `spent` is over.
#[inline]
fn context_within(limit: Option<Duration>, spent: Duration) -> Result<Context, HandlerError> {
    match limit {
        Some(timeout) if !timeout.is_zero() => match timeout.saturating_sub(spent) {
            left if left.is_zero() => Err(HandlerError::too_late()),
            left => Ok(Context::with_timeout(left)),
        },
        Some(forever) => Ok(Context::with_timeout(forever)),
        None => Ok(Context::new()),
    }
}

/// Sends requests to other servers.
#[derive(Clone, Copy)]
pub(super) struct Forwarder<'a> {
    server: &'a Server,
    app: &'a AppHandle,
}

impl<'a> Forwarder<'a> {
    pub(super) const fn of(server: &'a Server) -> Self {
        Self {
            server,
            app: &server.app,
        }
    }

    /// Sends the request to a server of the type that its route names.
    pub(super) fn forward(self, request: Box<RequestContext>) -> MaybeReady<()> {
        let server_type = request.route().server_type().unwrap_or_default();
        match self.server.registered.hooks().choosers.of(server_type) {
            None => self.forward_to(None, request),
            Some(chooser) => self.choose_and_forward(chooser, request),
        }
    }

    /// Sends the request to the server that a function of the application chooses, for which the session waits.
    fn choose_and_forward(self, chooser: &Chooser, request: Box<RequestContext>) -> MaybeReady<()> {
        let (server, chooser) = (self.server.clone(), Arc::clone(chooser));
        MaybeReady::later(async move {
            let app = &server.app;
            request.set_at_once(false);
            let limit = match request.own_timeout() {
                Some(timeout) if !timeout.is_zero() => timeout,
                _ => app.config().handler_timeout,
            };
            let began = Instant::now();
            let (session, route) = (request.session().clone(), request.route().clone());
            let choice = Choice {
                app,
                chooser: &chooser,
                server_type: route.server_type().unwrap_or_default(),
                limit,
            };
            let body = request.body().clone();
            let chosen = choice.make(session, route.as_str().into(), body).await;
            let is_closed = |session: &Arc<Session>| session.is_closed();
            if request.session().session().is_some_and(is_closed) {
                return;
            }
            match chosen {
                Ok(chosen) => {
                    let spent = began.elapsed();
                    if let MaybeReady::Later(rest) =
                        Forwarder::of(&server).forward_to(Some((chosen, spent)), request)
                    {
                        rest.await;
                    }
                }
                Err(error) => fail::<Outside>(request, server.registered.filters(), error).await,
            }
        })
    }

    /// Sends the request to this server, whose choice took so long, or to the one that the strategy chooses. The session does not wait for it if
    /// that server says so of the route.
    fn forward_to(
        self,
        server: Option<(Arc<ServerInfo>, Duration)>,
        mut request: Box<RequestContext>,
    ) -> MaybeReady<()> {
        let app = self.app.clone();
        let limit = request.own_timeout().filter(|timeout| !timeout.is_zero());
        // The cluster watches the time: no second timer is made here.
        request.set_timeout(Duration::ZERO);
        let mut slot = None;
        let end = Outside::of(self.server.registered.filters());
        let work = Work::start(request, end, |request| {
            let route = request.route();
            let session = request.session().export();
            let server_type = route.server_type().unwrap_or_default();
            let membership = app.membership().map_err(HandlerError::from_remote)?;
            let (server, spent) = if let Some(chosen) = server {
                chosen
            } else {
                let target = RoutingTarget::new(&session, route.as_str(), request.body());
                let members = membership.members();
                let picked = app.routing().pick(members, server_type, &target);
                (picked.map_err(HandlerError::from_remote)?, Duration::ZERO)
            };
            let short = route.short().unwrap_or_default();
            if server.is_concurrent(short) {
                let free = app.requests().slot();
                slot = Some(free.map_err(|error| no_room(&app, &error))?);
            }
            // Unless a filter chose a time, the server that handles it says how long it may take; from a Pitaya server, which says nothing, the
            // answer has the cluster's request timeout.
            let limit = limit.or_else(|| server.timeout_of(short));
            let mut context = context_within(limit, spent)?;
            let span = Spans::of_forward(request, &server).map(Box::new);
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
                if is_undelivered(&answer) {
                    // Boxed: every request is moved with what it may need.
                    let again = Undelivered::of(&app).try_others(&forwarded, began.into());
                    answer = Box::pin(again).await;
                }
                app.stats().forwards.end(began, &answer);
                note_failure(span, &answer);
                answer.map(Reply::raw).map_err(HandlerError::from_forward)
            })
        });
        received::serve_in(slot, work)
    }
}

/// Requests that their servers did not get.
#[derive(Clone, Copy)]
struct Undelivered<'a> {
    app: &'a AppHandle,
}

impl<'a> Undelivered<'a> {
    const fn of(app: &'a AppHandle) -> Self {
        Self { app }
    }

    /// Sends a request that its server did not get to others, one after the other. It was not delivered, so it can be repeated safely. The
    /// dead server is not chosen again soon.
    async fn try_others(
        self,
        forwarded: &ForwardedRequest,
        began: Instant,
    ) -> Result<Bytes, RemoteError> {
        let mut answer = self.forward_again(forwarded, began).await;
        for _ in 1..OTHER_SERVERS {
            if !is_undelivered(&answer) {
                break;
            }
            answer = self.forward_again(forwarded, began).await;
        }
        answer
    }

    /// Sends a request that its server did not get to another one, in what is left of its time.
    async fn forward_again(
        self,
        forwarded: &ForwardedRequest,
        began: Instant,
    ) -> Result<Bytes, RemoteError> {
        let membership = self.app.membership()?;
        let left = |limit: Duration| match limit.saturating_sub(began.elapsed()) {
            _ if limit.is_zero() => Ok(limit),
            left if left.is_zero() => Err(HandlerError::too_late().into_remote()),
            left => Ok(left),
        };
        let (server_type, _) = forwarded.route.split_once('.').unwrap_or_default();
        let (session, route) = (&forwarded.session, &forwarded.route);
        let timeout = forwarded.context.timeout();
        let limit = left(timeout.unwrap_or(self.app.config().handler_timeout));
        let wait = limit.as_ref().copied().unwrap_or_default();
        let application = self.app.application();
        let server = match application.choose(self.app, session, route, &forwarded.body, wait) {
            None => {
                let target = RoutingTarget::new(session, route, &forwarded.body);
                let members = membership.members();
                self.app.routing().pick(members, server_type, &target)?
            }
            Some(choice) => {
                limit?;
                let chosen = choice.await.map_err(HandlerError::into_remote)?;
                if self.has_closed(session) {
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

    /// Whether a session of this frontend has closed since its data was taken for a request that is forwarded.
    fn has_closed(self, session: &ForwardedSession) -> bool {
        let sid = session.sid.and_then(|sid| Sid::new(sid.get()));
        let service = self.app.session_service();
        service
            .zip(sid)
            .is_some_and(|(service, sid)| service.get(sid).is_none())
    }
}
