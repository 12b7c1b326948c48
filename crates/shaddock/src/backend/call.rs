//! A client's request that is sent to a backend.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use super::{
    Backend, actions,
    client::Outgoing,
    failure::Failure,
    wire::{self, Envelope, Object},
};
use crate::{
    app::AppHandle,
    error::HandlerError,
    reply::{Outcome, Reply},
    request::RequestContext,
    session::SessionView,
    telemetry::{Span, Spans},
};

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
    /// Creates the HTTP request for a client's request.
    ///
    /// # Errors
    /// The body is not JSON, or the route cannot be part of a URL.
    pub(crate) fn begin(
        backend: &Arc<Backend>,
        request: &RequestContext,
        limit: Duration,
    ) -> Result<Self, HandlerError> {
        let path = wire::path_of(request.route().short())?;
        let view = request.session().clone();
        let body = Envelope::request(request, limit)?;
        let span = request.span().and_then(|parent| {
            let route = request.route().as_str();
            let spans = Spans::of(request.app())?;
            let span = spans.of_backend(Some(&parent), &backend.server_type, route);
            Some(Box::new(span))
        });
        Ok(Self {
            backend: Arc::clone(backend),
            key: backend.key_of(view.uid(), view.id()),
            outgoing: backend.outgoing(path, body, span.as_deref()),
            route: request.route().as_str().into(),
            wants_value: request.id().is_some(),
            view,
            limit,
            span,
        })
    }

    /// Sends the request, executes the actions of the response, and returns its body.
    pub(crate) async fn run(mut self) -> Outcome {
        let app = self.view.app().clone();
        let span = self.span.take();
        let asked = self
            .backend
            .ask(app.tasks(), self.key, &self.outgoing, self.limit);
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
