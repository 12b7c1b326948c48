//! The stages that a request can end in.

use std::{future::Ready, sync::Arc};

use shaddock_net::MaybeReady;

use crate::{
    answer::{ToClient, answer_client},
    app::{AppHandle, SpawnError},
    boxed::BoxFuture,
    error::HandlerError,
    filter::Filters,
    handler::{Complete, Erased, ToCaller, Work},
    reply::Outcome,
    request::RequestContext,
};

/// A stage that a request can end in: who gets the outcome, and which handler calls go there.
pub(crate) trait Stage: Complete {
    /// Calls the handler so that the outcome ends in this stage.
    fn handle(
        handler: &dyn Erased,
        request: Box<RequestContext>,
        filters: &Arc<Filters>,
    ) -> BoxFuture<Self::Output>;
}

impl Stage for ToClient {
    fn handle(
        handler: &dyn Erased,
        request: Box<RequestContext>,
        filters: &Arc<Filters>,
    ) -> BoxFuture<()> {
        handler.to_client(request, filters)
    }
}

impl Stage for ToCaller {
    fn handle(
        handler: &dyn Erased,
        request: Box<RequestContext>,
        filters: &Arc<Filters>,
    ) -> BoxFuture<Outcome> {
        handler.to_caller(request, filters)
    }
}

/// The stage of requests that a global before-filter refused. Its errors are the global handler's.
pub(super) struct Refused(Arc<Filters>);

impl Complete for Refused {
    type Output = ();

    fn of(filters: &Arc<Filters>) -> Self {
        Self(Arc::clone(filters))
    }

    fn complete(self, request: &mut RequestContext, outcome: Outcome) {
        answer_client(request, outcome, &self.0);
    }

    fn panicked_output() {}

    fn recover(&self, request: &mut RequestContext, error: HandlerError) -> MaybeReady<Outcome> {
        self.0.global.recover(request, error)
    }
}

/// The stage around the app's own: requests that are forwarded, or rejected. Its errors skip this server's error handler: those of another
/// server have passed that server's error handler.
pub(super) struct Outside(Arc<Filters>);

impl Complete for Outside {
    type Output = ();

    fn of(filters: &Arc<Filters>) -> Self {
        Self(Arc::clone(filters))
    }

    fn complete(self, request: &mut RequestContext, outcome: Outcome) {
        answer_client(request, outcome, &self.0);
    }

    fn panicked_output() {}

    fn recover(&self, _request: &mut RequestContext, error: HandlerError) -> MaybeReady<Outcome> {
        MaybeReady::Now(Err(error))
    }
}

/// Ends a request in this stage with an error.
pub(super) fn fail<S: Complete>(
    request: Box<RequestContext>,
    filters: &Arc<Filters>,
    error: HandlerError,
) -> BoxFuture<S::Output> {
    Box::pin(Work::<Ready<Outcome>, S>::failed(
        request,
        S::of(filters),
        error,
    ))
}

/// The error of a request for which there is no task.
pub(super) fn no_room(app: &AppHandle, error: &SpawnError) -> HandlerError {
    match error {
        SpawnError::TooMany => {
            app.stats().rejected.add(1);
            shaddock_net::quiet!(
                warn,
                "a request was rejected because too many are running: handlers are slow, or handlers.max_concurrent is too low",
                server = %app.id(),
                max_concurrent = app.config().max_concurrent
            );
            HandlerError::too_many("too many requests are running")
        }
        SpawnError::Stopping | SpawnError::Session(_) | SpawnError::ChannelDestroyed => {
            HandlerError::new(
                shaddock_cluster::code::UNAVAILABLE,
                "this server is stopping; try again later",
            )
        }
    }
}
