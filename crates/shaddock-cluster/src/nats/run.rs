//! Runs what another server asked for: at once or in a task of its own, within its caller's deadline.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Poll, Waker};
use std::time::Duration;

use async_nats::Subject;
use bytes::Bytes;
use futures_util::FutureExt;
use tokio::runtime::Handle;

use super::core::Core;
use super::lateness::Clocks;
use super::wire::Stamp;
use crate::clock;
use crate::owners::Moment;
use crate::quiet::quiet;
use crate::reply::panicked;
use crate::{BoxFuture, RemoteError, code};

/// How long handlers may run in the task that reads requests, before others get tasks of their own.
const TURN: Duration = Duration::from_micros(200);

/// The time since the reader last waited. A handler that is done at once needs no task; but handlers that compute must not
/// wait for each other while there are idle cores.
pub(super) struct Turn {
    began: Moment,
    is_over: bool,
}

impl Turn {
    /// A turn that begins now.
    pub(super) fn start() -> Self {
        Self {
            began: clock::now(),
            is_over: false,
        }
    }

    /// Makes work and polls it once. Also returns how long that took. If it is not done, its own task polls it again, with the waker of that
    /// task.
    fn begin(
        &mut self,
        home: &Handle,
        make: impl FnOnce() -> Option<Working>,
    ) -> (Begun, Duration) {
        let before = clock::now();
        let first_poll = || {
            // Its tasks and timers belong to that runtime and not to the thread of the connection.
            let _home = home.enter();
            let mut work = make()?;
            let mut context = std::task::Context::from_waker(Waker::noop());
            Some(match work.as_mut().poll(&mut context) {
                Poll::Pending => Begun::Waits(work),
                Poll::Ready(result) => Begun::Done(result),
            })
        };
        let polled = catch_unwind(AssertUnwindSafe(first_poll));
        let after = clock::now();
        self.is_over = self.began.until(after) >= TURN;
        let polled = polled.ok().flatten();
        (polled.unwrap_or_else(Begun::panicked), before.until(after))
    }
}

type Answer = Result<Bytes, RemoteError>;

/// The work of a request, after its handler was called.
pub(super) type Working = BoxFuture<'static, Answer>;

/// The result of the first poll.
enum Begun {
    Done(Answer),
    Waits(Working),
}

impl Begun {
    fn panicked() -> Self {
        Self::Done(Err(panicked()))
    }
}

/// Runs a handler or remote within its caller's deadline, and answers: at once if its route is known to be quick and there is time, or
/// in a task of its own. Session operations have no route: they are quick.
pub(super) fn run(
    core: &Arc<Core>,
    (reply, left, route): (Option<Subject>, Duration, Option<Arc<str>>),
    turn: &mut Turn,
    make: impl FnOnce() -> Option<Working> + Send + 'static,
    done: impl FnOnce(Bytes) -> Bytes + Send + 'static,
) {
    let serving = core.serving.enter();
    let pace = route.as_deref().and_then(|route| core.paces.find(route));
    let is_quick = route.is_none() || pace.as_ref().is_some_and(|pace| pace.is_quick());
    let work = if is_quick && !turn.is_over {
        let (begun, took) = turn.begin(&core.home, make);
        if let Some(pace) = pace {
            pace.took(took);
        }
        match begun {
            Begun::Done(result) => return core.answer(reply, &result.map(done)),
            Begun::Waits(work) => work,
        }
    } else {
        Box::pin(begins_late(Arc::clone(core), route, make))
    };
    let core = Arc::clone(core);
    let until = tokio::time::Instant::now() + left;
    core.home.clone().spawn(async move {
        // It may have waited for a thread.
        if !is_quick && tokio::time::Instant::now() >= until {
            return too_late(&core, reply);
        }
        let work = AssertUnwindSafe(work).catch_unwind();
        let result = match tokio::time::timeout_at(until, work).await {
            Ok(Ok(result)) => result.map(done),
            Ok(Err(_panic)) => Err(panicked()),
            Err(_late) => Err(late()),
        };
        core.answer(reply, &result);
        drop(serving);
    });
}

/// Work that begins in a task of its own. The duration of its first poll decides where the next request of its route may begin.
async fn begins_late(
    core: Arc<Core>,
    route: Option<Arc<str>>,
    make: impl FnOnce() -> Option<Working> + Send,
) -> Answer {
    let before = clock::now();
    let Some(mut work) = make() else {
        return Err(panicked());
    };
    let mut first = route;
    poll_fn(move |task| {
        let polled = work.as_mut().poll(task);
        if let Some(route) = first.take() {
            // Requests for unknown routes must not fill the table.
            let is_there = |error: &RemoteError| error.code() != code::NOT_FOUND;
            if !matches!(&polled, Poll::Ready(Err(error)) if !is_there(error)) {
                core.paces.learn(&route, before.until(clock::now()));
            }
        }
        polled
    })
    .await
}

/// Whether too much is being served already; counts the refusal.
pub(super) fn is_busy(core: &Core) -> bool {
    let busy = core.serving.now() >= core.config.max_serving;
    if busy {
        core.refused_busy.fetch_add(1, Ordering::Relaxed);
        quiet!(
            warn,
            "a request of another server was rejected because too many are running: handlers are slow, or max_serving of [cluster] is too low",
            max_serving = core.config.max_serving
        );
    }
    busy
}

/// How long the caller of a request still waits. A request without a clock counts as sent just now.
pub(super) fn time_left(
    clocks: &mut Clocks,
    stamp: &Stamp,
    timeout: Duration,
    now: Moment,
) -> Option<Duration> {
    if stamp.clock == 0 {
        return Some(timeout);
    }
    let delay = clocks.delay(stamp.clock, stamp.sent, now);
    if delay.is_zero() {
        return Some(timeout);
    }
    timeout.checked_sub(delay).filter(|left| !left.is_zero())
}

/// The caller has timed out: the request is not run, and is answered with an error in case the caller still waits.
pub(super) fn too_late(core: &Core, reply: Option<Subject>) {
    core.too_late.fetch_add(1, Ordering::Relaxed);
    core.answer(reply, &Err(late()));
}

fn late() -> RemoteError {
    RemoteError::new(code::INTERNAL, "rpc client: request timeout")
}
