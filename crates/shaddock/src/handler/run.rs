//! One request at work: polls the handler, catches its panic, watches its time, lets the error handler repair the outcome, and completes it.
//!
//! All of it is one future, so a request costs one allocation. A timer is made only for a handler that is not done at once.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project_lite::pin_project;
use shaddock_core::Sid;
use shaddock_net::MaybeReady;
use tokio::time::Sleep;

use crate::{
    error::HandlerError,
    filter::Filters,
    guarded::{Guarded, Panic, Watch, caught},
    reply::{IntoReply, Outcome},
    request::RequestContext,
};

/// What happens with the outcome of a request.
pub(crate) trait Complete: Send + 'static {
    /// The output of the request's future.
    type Output: Send + 'static;

    /// The end of a request of an app with these filters.
    fn of(filters: &Arc<Filters>) -> Self;

    /// Called once, after the error handler.
    fn complete(self, request: &mut RequestContext, outcome: Outcome) -> Self::Output;

    /// What the future answers with if that panicked.
    fn panicked_output() -> Self::Output;

    /// Lets the error handler of this stage look at an error.
    fn recover(&self, request: &mut RequestContext, error: HandlerError) -> MaybeReady<Outcome>;
}

/// Passes the outcome to the code that awaits the future: the cluster, or a later stage of the same request.
pub(crate) struct ToCaller(Arc<Filters>);

impl Complete for ToCaller {
    type Output = Outcome;

    fn of(filters: &Arc<Filters>) -> Self {
        Self(Arc::clone(filters))
    }

    fn complete(self, request: &mut RequestContext, mut outcome: Outcome) -> Outcome {
        self.0.own.run_after(request, &mut outcome);
        if let Err(error) = &outcome {
            request.app().stats().errors.add(1);
            request.note_failure(error);
        }
        outcome
    }

    fn panicked_output() -> Outcome {
        Err(HandlerError::handler_failed())
    }

    fn recover(&self, request: &mut RequestContext, error: HandlerError) -> MaybeReady<Outcome> {
        self.0.own.recover(request, error)
    }
}

pin_project! {
    /// The future of one request.
    pub(crate) struct Work<Fut, K> {
        #[pin]
        state: Guarded<State<Fut>, Rest<K>>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<Fut> {
        Handler { #[pin] future: Fut, timer: Option<Pin<Box<Sleep>>> },
        /// The handler could not be called, or the error handler is at work.
        Outcome { outcome: MaybeReady<Outcome> },
    }
}

/// What is not the handler's.
struct Rest<K> {
    /// Taken when the request is complete.
    request: Option<(Box<RequestContext>, K)>,
    is_recovering: bool,
}

impl<K> Watch for Rest<K> {
    fn panicked(&self, panic: &Panic) {
        if let Some((request, _)) = &self.request {
            request.panicked(panic);
        }
    }
}

impl<Fut> State<Fut> {
    const fn failed(error: HandlerError) -> Self {
        Self::Outcome {
            outcome: MaybeReady::Now(Err(error)),
        }
    }
}

impl<Fut, K: Complete> Work<Fut, K> {
    /// `call` extracts the arguments and calls the handler; a panic in it is caught.
    pub(crate) fn start<F>(request: Box<RequestContext>, done: K, call: F) -> Self
    where
        F: FnOnce(&RequestContext) -> Result<Fut, HandlerError>,
    {
        let called = caught(|| call(&request)).unwrap_or_else(|panic| {
            request.panicked(&panic);
            Err(HandlerError::handler_failed())
        });
        let state = match called {
            Ok(future) => State::Handler {
                future,
                timer: None,
            },
            Err(error) => State::failed(error),
        };
        Self::of(state, request, done)
    }

    /// A request that has failed already.
    pub(crate) fn failed(request: Box<RequestContext>, done: K, error: HandlerError) -> Self {
        Self::of(State::failed(error), request, done)
    }

    fn of(state: State<Fut>, request: Box<RequestContext>, done: K) -> Self {
        let rest = Rest {
            request: Some((request, done)),
            is_recovering: false,
        };
        Self {
            state: Guarded::new(state, rest),
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
        let mut state = self.project().state;
        loop {
            let polled = state
                .as_mut()
                .run(|state, rest| poll_state(state, rest, task));
            let outcome = match polled {
                Some(polled) => ready!(polled),
                None => Err(HandlerError::handler_failed()),
            };
            // Whatever the handler left is dropped while its panic can still be told whose it is.
            state.as_mut().clear();
            let rest = state.as_mut().watch();
            let Some((request, done)) = rest.request.as_mut() else {
                // Polled after completion: a mistake of the executor; stay pending rather than panic.
                return Poll::Pending;
            };
            let outcome = match outcome {
                Err(error) if !rest.is_recovering => match done.recover(request, error) {
                    MaybeReady::Now(outcome) => outcome,
                    outcome @ MaybeReady::Later(_) => {
                        request.set_at_once(false);
                        rest.is_recovering = true;
                        state.as_mut().put(State::Outcome { outcome });
                        continue;
                    }
                },
                outcome => outcome,
            };
            return Poll::Ready(finish(rest, outcome));
        }
    }
}

#[inline]
fn finish<K: Complete>(rest: &mut Rest<K>, outcome: Outcome) -> K::Output {
    let Some((mut request, done)) = rest.request.take() else {
        unreachable!("the caller has seen it")
    };
    caught(|| done.complete(&mut request, outcome)).unwrap_or_else(|panic| {
        request.panicked(&panic);
        K::panicked_output()
    })
}

fn poll_state<Fut, K>(
    state: Pin<&mut State<Fut>>,
    rest: &Rest<K>,
    task: &mut Context<'_>,
) -> Poll<Outcome>
where
    Fut: Future,
    Fut::Output: IntoReply,
{
    match (state.project(), &rest.request) {
        (StateProj::Handler { future, timer }, Some((request, _))) => {
            poll_handler(future, timer, request, task)
        }
        (StateProj::Handler { .. }, None) => Poll::Pending,
        (StateProj::Outcome { outcome }, _) => Pin::new(outcome).poll(task),
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
    let since = request.held_since();
    let polled = future.poll(task);
    // A request that has not waited is measured as a whole, where its answer is: the clock is read once.
    if polled.is_pending() || !request.is_at_once() {
        request.thread_released(since);
    }
    if let Poll::Ready(reply) = polled {
        return Poll::Ready(reply.into_reply());
    }
    let timeout = request.timeout();
    if timeout == Duration::ZERO {
        return Poll::Pending;
    }
    let timer = timer.get_or_insert_with(|| request.app().sleep(timeout));
    ready!(timer.as_mut().poll(task));
    request.app().stats().timeouts.add(1);
    shaddock_net::quiet!(
        warn,
        "a handler did not finish in time",
        route = request.route().as_str(),
        sid = request.session().id().map(Sid::get),
        ?timeout
    );
    Poll::Ready(Err(HandlerError::too_late()))
}
