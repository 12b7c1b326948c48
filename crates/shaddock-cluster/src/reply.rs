//! Answers: one to be awaited, how long it may take, and the count of those a server still owes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Sleep;

use crate::quiet::quiet;
use crate::{BoxFuture, RemoteError, RemoteErrorKind, ServerId, code, format_duration};

/// The answer to a request, to be awaited. Dropping it is giving up.
#[must_use = "a reply must be awaited: an error in it is lost otherwise"]
pub struct Reply(State);

enum State {
    Ready(Option<Result<Bytes, RemoteError>>),
    /// A node of this process. The timer is only made when the node does not answer at once.
    Node {
        answer: BoxFuture<'static, Result<Bytes, RemoteError>>,
        limit: Limit,
        timer: Option<Pin<Box<Sleep>>>,
        /// Counts the request while it is served.
        _serving: Serving,
    },
    Remote(BoxFuture<'static, Result<Bytes, RemoteError>>),
}

/// How long an answer may take, and what its failure says.
pub(crate) struct Limit {
    pub(crate) timeout: Duration,
    pub(crate) route: Arc<str>,
    pub(crate) caller: ServerId,
    pub(crate) target: ServerId,
}

impl Limit {
    /// The error of a caller that got no response in time.
    pub(crate) fn error(&self) -> RemoteError {
        RemoteError::of(
            RemoteErrorKind::Timeout,
            code::TIMEOUT,
            "rpc client: request timeout",
        )
        .with("timeout", format_duration(self.timeout))
        .with("route", &*self.route)
        .with("server", self.caller.as_str())
        .with("peer.id", self.target.as_str())
    }
}

impl Reply {
    /// An answer that is known.
    pub fn ready(result: Result<Bytes, RemoteError>) -> Self {
        Self(State::Ready(Some(result)))
    }

    /// An answer that comes from a future with a deadline of its own.
    pub fn from_future(future: BoxFuture<'static, Result<Bytes, RemoteError>>) -> Self {
        Self(State::Remote(future))
    }

    /// The answer of a node in this process, which is given up after the limit.
    pub(crate) fn of_node(
        answer: BoxFuture<'static, Result<Bytes, RemoteError>>,
        limit: Limit,
        serving: Serving,
    ) -> Self {
        Self(State::Node {
            answer,
            limit,
            timer: None,
            _serving: serving,
        })
    }
}

impl Future for Reply {
    type Output = Result<Bytes, RemoteError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            State::Ready(result) => {
                Poll::Ready(result.take().unwrap_or_else(|| Err(polled_after_the_end())))
            }
            State::Remote(future) => future.as_mut().poll(cx),
            State::Node {
                answer,
                limit,
                timer,
                ..
            } => {
                match catch_unwind(AssertUnwindSafe(|| answer.as_mut().poll(cx))) {
                    Ok(Poll::Pending) => {}
                    Ok(done) => return done,
                    Err(_) => {
                        // The future is broken; it is not polled again.
                        self.0 = State::Ready(None);
                        return Poll::Ready(Err(panicked()));
                    }
                }
                let timer =
                    timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit.timeout)));
                ready!(timer.as_mut().poll(cx));
                let error = limit.error();
                self.0 = State::Ready(None);
                Poll::Ready(Err(error))
            }
        }
    }
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reply").finish_non_exhaustive()
    }
}

/// Requests that a server has taken and not yet answered.
#[derive(Debug, Default)]
pub(crate) struct ServingCount {
    now: AtomicUsize,
    idle: Notify,
}

/// One such request; it ends with this value.
#[derive(Debug)]
pub(crate) struct Serving(Arc<ServingCount>);

impl ServingCount {
    pub(crate) fn enter(self: &Arc<Self>) -> Serving {
        self.now.fetch_add(1, Ordering::Relaxed);
        Serving(Arc::clone(self))
    }

    pub(crate) fn now(&self) -> usize {
        self.now.load(Ordering::Relaxed)
    }

    /// Waits until none is left.
    pub(crate) async fn idle(&self) {
        loop {
            let idle = self.idle.notified();
            if self.now() == 0 {
                return;
            }
            idle.await;
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if self.0.now.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}

/// Calls code of the application; a panic in it is logged and gives the default.
pub(crate) fn guarded<T: Default>(what: &str, call: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_| {
        quiet!(error, "a node panicked", what);
        T::default()
    })
}

/// The reply to a caller whose handler or remote panicked.
pub(crate) fn panicked() -> RemoteError {
    RemoteError::new(code::UNKNOWN, "the handler panicked")
}

fn polled_after_the_end() -> RemoteError {
    RemoteError::of(
        RemoteErrorKind::BadAnswer,
        code::UNKNOWN,
        "this reply has been taken already",
    )
}
