//! One request at work: polls the handler, catches its panic, watches its time, lets the error handler repair the outcome, and completes it.
//!
//! All of it is one future, so a request costs one allocation. A timer is made only for a handler that is not done at once.

use std::{
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::time::Sleep;

use super::BoxFuture;
use crate::{
    error::HandlerError,
    filter::ErrorFlow,
    reply::{IntoReply, Outcome},
    request::RequestContext,
};

/// What happens with the outcome of a request.
pub(crate) trait Complete: Send + 'static {
    /// What the future of the request answers with.
    type Output: Send + 'static;

    /// Called once, after the error handler.
    fn complete(self, request: Box<RequestContext>, outcome: Outcome) -> Self::Output;

    /// Lets the error handler of this stage look at an error.
    fn recover(request: &mut RequestContext, error: HandlerError) -> ErrorFlow;
}

/// Hands the outcome to whoever awaits the future: the cluster, or a later stage of the same request.
#[derive(Default)]
pub(crate) struct ToCaller;

impl Complete for ToCaller {
    type Output = Outcome;

    fn complete(self, mut request: Box<RequestContext>, mut outcome: Outcome) -> Outcome {
        let app = request.app().clone();
        app.filters().run_after(&mut request, &mut outcome);
        if outcome.is_err() {
            app.stats().errors.add(1);
        }
        outcome
    }

    fn recover(request: &mut RequestContext, error: HandlerError) -> ErrorFlow {
        let app = request.app().clone();
        app.filters().recover(request, error)
    }
}

pin_project! {
    /// The future of one request.
    pub(crate) struct Work<Fut, K> {
        #[pin]
        state: State<Fut>,
        // Taken when the request is complete.
        rest: Option<(Box<RequestContext>, K)>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<Fut> {
        Handler { #[pin] future: Fut, timer: Option<Pin<Box<Sleep>>> },
        Failed { error: Option<HandlerError> },
        Recover { future: BoxFuture<Outcome> },
    }
}

impl<Fut, K: Complete> Work<Fut, K> {
    /// `call` extracts the arguments and calls the handler; a panic in it is caught.
    pub(crate) fn start<F>(request: Box<RequestContext>, done: K, call: F) -> Self
    where
        F: FnOnce(&RequestContext) -> Result<Fut, HandlerError>,
    {
        let called = catch_unwind(AssertUnwindSafe(|| call(&request)))
            .unwrap_or_else(|panic| Err(panicked(&request, &*panic)));
        let state = match called {
            Ok(future) => State::Handler {
                future,
                timer: None,
            },
            Err(error) => State::Failed { error: Some(error) },
        };
        Self {
            state,
            rest: Some((request, done)),
        }
    }

    /// A request that has failed already.
    pub(crate) fn failed(request: Box<RequestContext>, done: K, error: HandlerError) -> Self {
        Self {
            state: State::Failed { error: Some(error) },
            rest: Some((request, done)),
        }
    }
}

impl<Fut, K> Future for Work<Fut, K>
where
    Fut: Future + Send + 'static,
    Fut::Output: IntoReply,
    K: Complete,
{
    type Output = K::Output;

    fn poll(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<K::Output> {
        let mut this = self.project();
        loop {
            let Some((request, _)) = this.rest.as_mut() else {
                // Polled after completion: a mistake of the executor; stay pending rather than panic.
                return Poll::Pending;
            };
            let first = match this.state.as_mut().project() {
                StateProj::Handler { future, timer } => {
                    ready!(poll_handler(future, timer, request, task))
                }
                StateProj::Failed { error } => Err(error
                    .take()
                    .unwrap_or_else(|| HandlerError::internal("failed twice"))),
                StateProj::Recover { future } => {
                    let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(task)));
                    let outcome = match polled {
                        Ok(polled) => ready!(polled),
                        Err(panic) => Err(panicked(request, &*panic)),
                    };
                    return Poll::Ready(finish(this.rest, outcome));
                }
            };
            match first {
                Ok(reply) => return Poll::Ready(finish(this.rest, Ok(reply))),
                Err(error) => match K::recover(request, error) {
                    ErrorFlow::Now(outcome) => return Poll::Ready(finish(this.rest, outcome)),
                    ErrorFlow::Later(future) => this.state.set(State::Recover { future }),
                },
            }
        }
    }
}

fn finish<K: Complete>(rest: &mut Option<(Box<RequestContext>, K)>, outcome: Outcome) -> K::Output {
    match rest.take() {
        Some((request, done)) => done.complete(request, outcome),
        None => unreachable!("the caller holds the rest"),
    }
}

fn poll_handler<Fut>(
    future: Pin<&mut Fut>,
    timer: &mut Option<Pin<Box<Sleep>>>,
    request: &RequestContext,
    task: &mut Context<'_>,
) -> Poll<Outcome>
where
    Fut: Future,
    Fut::Output: IntoReply,
{
    match catch_unwind(AssertUnwindSafe(|| {
        future.poll(task).map(IntoReply::into_reply)
    })) {
        Ok(Poll::Ready(outcome)) => return Poll::Ready(outcome),
        Ok(Poll::Pending) => {}
        Err(panic) => return Poll::Ready(Err(panicked(request, &*panic))),
    }
    let timeout = request.timeout();
    if timeout == Duration::ZERO {
        return Poll::Pending;
    }
    let timer = timer.get_or_insert_with(|| request.app().sleep(timeout));
    ready!(timer.as_mut().poll(task));
    request.app().stats().timeouts.add(1);
    tracing::warn!(route = request.route().as_str(), sid = %request.session().id(), ?timeout, "a handler did not answer in time");
    Poll::Ready(Err(HandlerError::too_late()))
}

/// Waits for a future of the application; a panic in it becomes an error, and so does a wait that takes longer than the request may.
pub(crate) async fn guarded<T>(
    request: &RequestContext,
    mut future: BoxFuture<Result<T, HandlerError>>,
) -> Result<T, HandlerError> {
    let polled =
        poll_fn(
            |task| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(task))) {
                Ok(polled) => polled,
                Err(panic) => Poll::Ready(Err(panicked(request, &*panic))),
            },
        );
    if request.timeout().is_zero() {
        return polled.await;
    }
    tokio::select! {
        biased;
        result = polled => result,
        () = request.app().sleep(request.timeout()) => Err(HandlerError::internal("a filter did not answer in time")),
    }
}

/// What a client learns of a panic, and what the log learns.
pub(crate) fn panicked(
    request: &RequestContext,
    panic: &(dyn std::any::Any + Send),
) -> HandlerError {
    request.app().stats().panics.add(1);
    tracing::error!(
        route = request.route().as_str(),
        sid = %request.session().id(),
        panic = panic_text(panic),
        "a handler panicked"
    );
    HandlerError::panicked("the handler failed")
}

/// The text of a panic, if it has one.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&'static str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no text)")
}
