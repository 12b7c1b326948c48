//! The interface of the app for the cluster.

use std::sync::Arc;

use bytes::Bytes;
use shaddock_cluster::{
    BoxFuture, ClusterError, Delivered, Delivery, ForwardedRequest, MemberChange, MemberNotice,
    Node, RawSid, RemoteCall, RemoteError, ServerId, SessionAnswer, SessionEvent, SessionOp, code,
};
use shaddock_core::{CloseReason, Sid};
use shaddock_protocol::Route;

use super::{AppHandle, Part, Server, WeakServer};
use crate::{
    answer::for_other_server,
    channel::{Audiences, Deliveries, OwnChannels, Watching, kept_room},
    dispatch::Dispatcher,
    error::{HandlerError, codes},
    guarded::guard,
    operations::Operations,
    operators::Operator,
    received,
    remote::Remotes,
    reply::Outcome,
    request::RequestContext,
    session::{ClusterEvents, SessionOps, SessionView},
    telemetry::{Spans, TraceContext},
};

/// The app as other servers use it. It must not keep the app alive, because the app holds its membership in the cluster.
pub(crate) struct AppNode(WeakServer);

impl AppNode {
    pub(crate) fn new(server: &Server) -> Arc<Self> {
        Arc::new(Self(server.downgrade()))
    }

    fn app(&self) -> Option<AppHandle> {
        self.0.app()
    }
}

fn gone() -> RemoteError {
    RemoteError::server_not_found()
}

fn answer(app: &AppHandle, outcome: Outcome) -> Result<Bytes, RemoteError> {
    match outcome {
        Ok(reply) => Ok(reply.into_bytes()),
        Err(error) => Err(to_remote(app, error)),
    }
}

/// The source of the error belongs to the application: it is logged and dropped here.
fn to_remote(app: &AppHandle, error: HandlerError) -> RemoteError {
    let part = Part::of(app, "an error's source");
    guard(&part, || error.into_remote())
        .unwrap_or_else(|| HandlerError::handler_failed().into_remote())
}

/// The error of a Pitaya server when a handler or remote is too slow, which its callers expect.
fn in_pitayas_words(error: HandlerError) -> HandlerError {
    if error.is_too_late() {
        return HandlerError::new(codes::INTERNAL, error.message().to_owned());
    }
    error
}

/// Whether the sender must be notified if there is no value. Frontends of shaddock respond with `{}`, as Pomelo does; a Pitaya frontend
/// would forward an empty body, which some clients consider malformed.
///
/// The session id identifies the kind of frontend, even if the list of servers does not contain it (yet, or any longer): a Pitaya frontend
/// counts from 1, and shaddock has the time in the upper bits.
fn wants_value(request: &ForwardedRequest) -> bool {
    let is_ours = |sid: RawSid| Sid::new(sid.get()).is_some_and(Sid::has_time);
    request.id.is_some() && !request.session.sid.is_some_and(is_ours)
}

impl Node for AppNode {
    fn serve_request(
        self: Arc<Self>,
        request: ForwardedRequest,
    ) -> BoxFuture<'static, Result<Bytes, RemoteError>> {
        let Some(server) = self.0.upgrade() else {
            return Box::pin(std::future::ready(Err(gone())));
        };
        let app = &server.app;
        let wants_value = wants_value(&request);
        let session = SessionView::of_forwarded(app, request.session);
        let mut context =
            RequestContext::new(session, Route::new(request.route), request.id, request.body);
        if let Some(timeout) = request.context.timeout() {
            context.set_sender_waits(timeout);
        }
        let mut passed = request.context;
        if let Some(spans) = Spans::of(app) {
            let parent = TraceContext::read(&passed);
            let span = spans.of_request(&context, parent.as_ref());
            span.context().write(&mut passed);
            context.insert(span);
        }
        received::serve(passed, || {
            let future = Dispatcher::of(&server).serve_forwarded(context, wants_value);
            let app = server.app;
            async move {
                match future.await {
                    Ok(reply) if wants_value && !reply.has_value() => {
                        Err(RemoteError::new(code::UNKNOWN, "reply must not be null"))
                    }
                    Ok(reply) => Ok(for_other_server(reply)),
                    // A shaddock frontend passes the code on to its client.
                    Err(error) if !wants_value => Err(to_remote(&app, error)),
                    Err(error) => Err(to_remote(&app, in_pitayas_words(error))),
                }
            }
        })
    }

    fn serve_call(
        self: Arc<Self>,
        call: RemoteCall,
    ) -> BoxFuture<'static, Result<Bytes, RemoteError>> {
        let Some(server) = self.0.upgrade() else {
            return Box::pin(std::future::ready(Err(gone())));
        };
        let app = &server.app;
        if Operator::is_addressed(&call) {
            return Operator::of(app).serve(&call);
        }
        let mut passed = call.context.clone();
        let span = Spans::of(app).map(|spans| {
            let span = spans.of_remote(&call.route, TraceContext::read(&passed).as_ref());
            span.context().write(&mut passed);
            Box::new(span)
        });
        received::serve(passed, || {
            let future = Remotes::of(&server).serve(&call);
            let app = server.app;
            async move {
                let answer = answer(&app, future.await.map_err(in_pitayas_words));
                if let (Some(span), Err(error)) = (&span, &answer) {
                    span.failed(error.code(), error.message());
                }
                drop(span);
                answer
            }
        })
    }

    fn session_op(
        self: Arc<Self>,
        op: SessionOp,
    ) -> BoxFuture<'static, Result<SessionAnswer, RemoteError>> {
        match self.app() {
            Some(app) => SessionOps::of(&app).serve(op),
            None => Box::pin(std::future::ready(Err(gone()))),
        }
    }

    fn room(&self) -> Option<BoxFuture<'static, ()>> {
        let wait = self.app()?.scheduler().pressure().wait()?;
        Some(Box::pin(wait))
    }

    fn kept_room(&self, sessions: Vec<RawSid>) -> BoxFuture<'static, ()> {
        match self.app() {
            Some(app) => Box::pin(kept_room(app.session_service().cloned(), sessions)),
            None => Box::pin(std::future::ready(())),
        }
    }

    fn deliver(&self, delivery: Delivery) -> Delivered {
        self.app()
            .map(|app| Deliveries::of(&app).deliver(delivery))
            .unwrap_or_default()
    }

    fn bound_elsewhere(&self, uid: &Arc<str>, owner: Option<&ServerId>) {
        let Some(app) = self.app() else { return };
        if let Some(service) = app.session_service() {
            let closed = service.close_by_uid(uid, &CloseReason::Replaced);
            tracing::info!(
                uid = &**uid,
                owner = owner.map(ServerId::as_str),
                closed,
                "a user is bound elsewhere"
            );
        }
    }

    fn expelled(&self, error: &ClusterError) {
        let Some(app) = self.app() else { return };
        app.stop_accepting();
        if let Some(service) = app.session_service() {
            let mut sessions = Vec::with_capacity(service.session_count());
            service.visit_sessions(|session| sessions.push(Arc::clone(session)));
            for session in sessions {
                session.close(CloseReason::Draining);
            }
        }
        // Ends the process, if a `Launcher` started it.
        if let Some(operations) = Operations::of(&app) {
            operations.request_end(error.to_string());
        }
    }

    fn member_changed(&self, change: MemberChange) {
        tracing::debug!(?change, "servers changed");
        let Some(app) = self.app() else { return };
        match change {
            // A server that has said goodbye still has its clients; their sessions leave channels one by one when they close.
            MemberChange::Left(info) => {
                if info.frontend && !app.is_departing(&info.id) {
                    OwnChannels::of(&app).forget_frontend(&info.id);
                    Watching::of(&app).unwatch_frontend(&info.id);
                }
                Audiences::of(&app).forget_owner(&info);
            }
            MemberChange::Joined(info) if info.frontend => {
                Watching::of(&app).watch_frontend(&info.id);
                OwnChannels::of(&app).settle_restored();
            }
            MemberChange::Returned(info) => OwnChannels::of(&app).remember_frontend(&info.id),
            _ => {}
        }
    }

    fn session_event(&self, frontend_type: &Arc<str>, event: SessionEvent) {
        if let Some(server) = self.0.upgrade() {
            ClusterEvents::of(&server).event(frontend_type, event);
        }
    }

    fn member_notice(&self, notice: MemberNotice) {
        if let Some(app) = self.app() {
            Watching::of(&app).notice(notice);
        }
    }
}
