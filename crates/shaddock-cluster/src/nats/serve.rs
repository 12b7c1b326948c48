//! Requests of other servers, run and answered.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Poll, Waker};
use std::time::Duration;

use async_nats::{Message, StatusCode, Subject};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::calls;
use super::core::Core;
use super::inbox::Inbox;
use super::incoming::{Contexts, Incoming, SysAnswer, read};
use super::lateness::Clocks;
use super::wire::{self, BUSY, KickAnswer, MOVED, Response, Stamp};
use super::{delivery, events, ops, subject};
use crate::clock;
use crate::owners::{Moment, Seen};
use crate::quiet::quiet;
use crate::reply::{guarded, panicked};
use crate::{BoxFuture, Node, RemoteError, SessionAnswer, SessionOp, code};

/// Reads the subject on which all kinds of servers call this one, until it is told to stop and what is on its way has come.
pub(super) async fn requests(core: Arc<Core>, mut inbox: Inbox, mut stop: oneshot::Receiver<()>) {
    let mut reader = Reader {
        turn: Turn::start(),
        clocks: Clocks::default(),
        seen: Seen::default(),
        contexts: Contexts::default(),
    };
    loop {
        if let Some(message) = inbox.next().now_or_never() {
            let Some(message) = message else { return };
            request(&core, message, &mut reader);
            continue;
        }
        tokio::select! {
            biased;
            message = inbox.next() => {
                let Some(message) = message else { return };
                reader.turn = Turn::start();
                request(&core, message, &mut reader);
            }
            _ = &mut stop => break,
        }
    }
    // New callers are notified by NATS that there is no subscriber; messages that NATS has already delivered are served.
    if inbox.drain().await {
        while let Some(message) = inbox.next().await {
            reader.turn = Turn::start();
            request(&core, message, &mut reader);
        }
    }
}

/// What the task that reads requests knows beside the core. Only that task has it, so it takes no lock.
struct Reader {
    turn: Turn,
    clocks: Clocks,
    seen: Seen,
    contexts: Contexts,
}

impl Reader {
    /// How long the caller of a request still waits, or nothing if it has given up.
    fn left(&mut self, stamp: &Stamp, timeout: Duration, now: Moment) -> Option<Duration> {
        time_left(&mut self.clocks, stamp, timeout, now)
    }

    /// Whether a request may be run in the name of its user.
    fn admits(&mut self, stamp: &Stamp, uid: Option<&str>, now: Moment) -> bool {
        match (uid, stamp.claim()) {
            (Some(uid), Some(number)) => self.seen.admits(stamp.scope, uid, number, now),
            _ => true,
        }
    }
}

/// How long the caller of what came still waits. Of a sender that says nothing of its clock, it is as if it had just sent.
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

/// How long handlers may run in the task that reads requests, before others get tasks of their own.
const TURN: Duration = Duration::from_micros(200);

/// The time since the reader last waited. A handler that is done at once needs no task; but handlers that compute must not
/// wait for each other while there are idle cores.
pub(super) struct Turn {
    began: Moment,
    is_over: bool,
}

impl Turn {
    pub(super) fn start() -> Self {
        Self {
            began: clock::now(),
            is_over: false,
        }
    }

    /// Makes work and polls it once. Also says how long that took. If it is not done, its own task polls it again, which is when it learns whom to
    /// wake.
    fn begin(
        &mut self,
        home: &Handle,
        make: impl FnOnce() -> Option<Working>,
    ) -> (Begun, Duration) {
        let before = clock::now();
        let first_poll = || {
            // What it spawns and what it waits for belongs there and not to the thread of the connection.
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
type Working = BoxFuture<'static, Answer>;

/// What came of the first poll.
enum Begun {
    Done(Answer),
    Waits(Working),
}

impl Begun {
    fn panicked() -> Self {
        Self::Done(Err(panicked()))
    }
}

/// Reads what only shaddock servers send: deliveries, session operations, and answers. In the order in which it came.
pub(super) async fn own(core: Arc<Core>, mut inbox: Inbox) {
    let prefix = subject::own_all(&core.info).len() - 1;
    let mut clocks = Clocks::default();
    while let Some(message) = inbox.next().await {
        let subject = message.subject.clone();
        let what = subject.as_str().get(prefix..).unwrap_or_default();
        match what {
            subject::MULTI_PUSH => {
                delivery::received(&core, message);
                // A burst does not outrun the sockets of clients that read. It ends soon, whatever clients do.
                if let Some(room) = core.node.room() {
                    room.await;
                }
            }
            subject::OPERATION => ops::received(&core, message, &mut clocks),
            subject::MEMBER => events::member(&core, &message),
            answer => answered(&core, answer, message),
        }
    }
}

/// `what` is `r.<token>.<number>`.
fn answered(core: &Core, what: &str, message: Message) {
    let number = what
        .strip_prefix(subject::ANSWER)
        .and_then(|rest| rest.strip_prefix('.'))
        .and_then(|rest| rest.strip_prefix(core.token.as_str()))
        .and_then(|rest| rest.strip_prefix('.'))
        .and_then(|number| number.parse().ok());
    let Some(number) = number else {
        tracing::debug!(what, "a message for a previous run of this server");
        return;
    };
    let answer = if message.status == Some(StatusCode::NO_RESPONDERS) {
        calls::Answer::NoResponder
    } else {
        calls::Answer::Payload(message.payload)
    };
    core.calls.answer(number, answer);
}

fn request(core: &Arc<Core>, message: Message, reader: &mut Reader) {
    let reply = message.reply;
    if is_busy(core) {
        core.answer(reply, &Err(RemoteError::new(code::UNAVAILABLE, BUSY)));
        return;
    }
    let default = core.config.request_timeout;
    let now = clock::now();
    let node = Arc::clone(&core.node);
    let (stamp, incoming) = read(message.payload, core.info.frontend, &mut reader.contexts);
    match incoming {
        Incoming::Unreadable(reason) => {
            quiet!(warn, "a malformed request was dropped", reason);
        }
        Incoming::Refused(error) => core.answer(reply, &Err(error)),
        Incoming::Handler(request) => {
            let timeout = request.context.timeout().unwrap_or(default);
            let Some(left) = reader.left(&stamp, timeout, now) else {
                return too_late(core, reply);
            };
            if !reader.admits(&stamp, request.session.uid.as_deref(), now) {
                core.outdated.fetch_add(1, Ordering::Relaxed);
                core.answer(reply, &Err(RemoteError::new(code::UNAVAILABLE, MOVED)));
                return;
            }
            core.saw(&request.session);
            let notify = request.id.is_none();
            let route = Some(Arc::clone(&request.route));
            let handler = move || guarded("serve_request", || Some(node.serve_request(request)));
            let done = move |body| {
                if notify {
                    Bytes::from_static(b"ack")
                } else {
                    body
                }
            };
            run(core, (reply, left, route), &mut reader.turn, handler, done);
        }
        Incoming::Remote(call) => {
            let timeout = call.context.timeout().unwrap_or(default);
            let Some(left) = reader.left(&stamp, timeout, now) else {
                return too_late(core, reply);
            };
            let route = Some(Arc::clone(&call.route));
            let remote = move || guarded("serve_call", || Some(node.serve_call(call)));
            run(
                core,
                (reply, left, route),
                &mut reader.turn,
                remote,
                |body| body,
            );
        }
        Incoming::Session {
            op,
            context,
            answer,
        } => {
            let timeout = context.timeout().unwrap_or(default);
            let operation = move || {
                let operation = guarded("session_op", || Some(pitaya_op(node, op)))?;
                let work: Working = Box::pin(async move { sys_answer(answer, &operation.await?) });
                Some(work)
            };
            let turn = &mut reader.turn;
            run(core, (reply, timeout, None), turn, operation, |body| body);
        }
    }
}

/// The caller has given up: it is not run, and should the caller wait after all, it is told.
pub(super) fn too_late(core: &Core, reply: Option<Subject>) {
    core.too_late.fetch_add(1, Ordering::Relaxed);
    core.answer(reply, &Err(late()));
}

fn late() -> RemoteError {
    RemoteError::new(code::INTERNAL, "rpc client: request timeout")
}

/// Whether too much is being served already; counts the refusal.
pub(super) fn is_busy(core: &Core) -> bool {
    let busy = core.serving.now() >= core.config.max_serving;
    if busy {
        core.refused_busy.fetch_add(1, Ordering::Relaxed);
    }
    busy
}

/// An operation that a Pitaya server asks for, refused when and as Pitaya's own frontends refuse it. To ours a second bind to the same user is none.
fn pitaya_op(
    node: Arc<dyn Node>,
    op: SessionOp,
) -> BoxFuture<'static, Result<SessionAnswer, RemoteError>> {
    let (sid, binds) = match &op {
        SessionOp::Bind { sid, .. } => (*sid, true),
        SessionOp::Replace { sid, .. } => (*sid, false),
        _ => return node.session_op(op),
    };
    Box::pin(async move {
        let found = Arc::clone(&node).session_op(SessionOp::Get { sid }).await?;
        let SessionAnswer::Sessions(sessions) = found else {
            return Err(RemoteError::session_not_found());
        };
        match sessions.first() {
            None => Err(RemoteError::session_not_found()),
            Some(session) if binds && session.uid.is_some() => Err(RemoteError::new(
                code::UNKNOWN,
                "session is already bound to an uid",
            )),
            Some(_) => node.session_op(op).await,
        }
    })
}

fn sys_answer(form: SysAnswer, answer: &SessionAnswer) -> Result<Bytes, RemoteError> {
    match (form, answer) {
        (SysAnswer::Kicked, SessionAnswer::Kicked(0)) => Err(RemoteError::session_not_found()),
        (SysAnswer::Kicked, _) => Ok(wire::encode(&KickAnswer { kicked: true })),
        (SysAnswer::Ack, _) => Ok(wire::encode(&Response {
            data: Bytes::from_static(b"ack"),
            error: None,
        })),
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

/// Work that begins in a task of its own. How long its first poll takes says where the next one of its route may begin.
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
