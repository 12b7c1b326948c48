//! Requests of other servers, run and answered.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use async_nats::{Message, StatusCode, Subject, Subscriber};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::oneshot;

use super::calls::Answer;
use super::core::Core;
use super::incoming::{Incoming, SysAnswer, read};
use super::wire::{self, BUSY, KickAnswer, Response};
use super::{delivery, ops, subject};
use crate::reply::{guarded, panicked};
use crate::{BoxFuture, Node, RemoteError, SessionAnswer, SessionOp, code};

/// Reads the subject on which all kinds of servers call this one, until it is told to stop and what is on its way has come.
pub(super) async fn requests(
    core: Arc<Core>,
    mut subscription: Subscriber,
    mut stop: oneshot::Receiver<()>,
) {
    let mut turn = Turn::start();
    loop {
        if let Some(message) = subscription.next().now_or_never() {
            let Some(message) = message else { return };
            request(&core, message, &mut turn);
            continue;
        }
        tokio::select! {
            biased;
            message = subscription.next() => {
                let Some(message) = message else { return };
                turn = Turn::start();
                request(&core, message, &mut turn);
            }
            _ = &mut stop => break,
        }
    }
    // Who calls now is told by NATS that nobody listens; what NATS has passed on before is served.
    if subscription.drain().await.is_ok() {
        while let Some(message) = subscription.next().await {
            request(&core, message, &mut Turn::start());
        }
    }
}

/// How long handlers may run in the task that reads requests, before others get tasks of their own.
const TURN: Duration = Duration::from_micros(200);

/// The time since the reader last waited. A handler that is done at once needs no task; but handlers that compute must not
/// wait for each other while there are idle cores.
pub(super) struct Turn {
    began: Instant,
    is_over: bool,
}

impl Turn {
    pub(super) fn start() -> Self {
        Self {
            began: Instant::now(),
            is_over: false,
        }
    }

    /// Polls work once, if there is time.
    fn poll<T>(&mut self, work: &mut BoxFuture<'static, T>) -> Poll<std::thread::Result<T>> {
        if self.is_over {
            return Poll::Pending;
        }
        // If it is not done, its own task polls it again, which is when it learns whom to wake.
        let mut context = std::task::Context::from_waker(Waker::noop());
        let polled = catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(&mut context)));
        self.is_over = self.began.elapsed() >= TURN;
        match polled {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(value)) => Poll::Ready(Ok(value)),
            Err(panic) => Poll::Ready(Err(panic)),
        }
    }
}

/// Reads what only shaddock servers send: deliveries, session operations, and answers. In the order in which it came.
pub(super) async fn own(core: Arc<Core>, mut subscription: Subscriber) {
    let prefix = subject::own_all(&core.info).len() - 1;
    while let Some(message) = subscription.next().await {
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
            subject::OPERATION => ops::received(&core, message),
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
        tracing::debug!(what, "a message for an earlier life of this server");
        return;
    };
    let answer = if message.status == Some(StatusCode::NO_RESPONDERS) {
        Answer::NoResponder
    } else {
        Answer::Payload(message.payload)
    };
    core.calls.answer(number, answer);
}

fn request(core: &Arc<Core>, message: Message, turn: &mut Turn) {
    let reply = message.reply;
    if is_busy(core) {
        core.answer(reply, &Err(RemoteError::new(code::UNAVAILABLE, BUSY)));
        return;
    }
    let default = core.config.request_timeout;
    match read(message.payload, core.info.frontend) {
        Incoming::Unreadable(reason) => {
            tracing::warn!(reason, "a request that cannot be read was dropped");
        }
        Incoming::Refused(error) => core.answer(reply, &Err(error)),
        Incoming::Handler(request) => {
            let notify = request.id.is_none();
            let timeout = request.context.timeout().unwrap_or(default);
            let handler = guarded("serve_request", || {
                Some(Arc::clone(&core.node).serve_request(request))
            });
            let done = move |body| {
                if notify {
                    Bytes::from_static(b"ack")
                } else {
                    body
                }
            };
            run(core, reply, timeout, handler, turn, done);
        }
        Incoming::Remote(call) => {
            let timeout = call.context.timeout().unwrap_or(default);
            let remote = guarded("serve_call", || {
                Some(Arc::clone(&core.node).serve_call(call))
            });
            run(core, reply, timeout, remote, turn, |body| body);
        }
        Incoming::Session {
            op,
            context,
            answer,
        } => {
            let timeout = context.timeout().unwrap_or(default);
            let node = Arc::clone(&core.node);
            let operation = guarded("session_op", || Some(pitaya_op(node, op)));
            let operation = operation.map(|operation| -> BoxFuture<'static, _> {
                Box::pin(async move { sys_answer(answer, &operation.await?) })
            });
            run(core, reply, timeout, operation, turn, |body| body);
        }
    }
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

/// Runs a handler or remote within its caller's deadline, and answers: at once if it is done at once and there is time, or
/// in a task of its own.
pub(super) fn run(
    core: &Arc<Core>,
    reply: Option<Subject>,
    timeout: Duration,
    work: Option<BoxFuture<'static, Result<Bytes, RemoteError>>>,
    turn: &mut Turn,
    done: impl FnOnce(Bytes) -> Bytes + Send + 'static,
) {
    let Some(mut work) = work else {
        core.answer(reply, &Err(panicked()));
        return;
    };
    let serving = core.serving.enter();
    if let Poll::Ready(result) = turn.poll(&mut work) {
        let result = result.unwrap_or_else(|_panic| Err(panicked()));
        core.answer(reply, &result.map(done));
        return;
    }
    let core = Arc::clone(core);
    core.home.clone().spawn(async move {
        let result =
            match tokio::time::timeout(timeout, AssertUnwindSafe(work).catch_unwind()).await {
                Ok(Ok(result)) => result.map(done),
                Ok(Err(_panic)) => Err(panicked()),
                Err(_late) => Err(RemoteError::new(
                    code::INTERNAL,
                    "rpc client: request timeout",
                )),
            };
        core.answer(reply, &result);
        drop(serving);
    });
}

/// Reads an answer of one of our own calls.
pub(super) fn decode<M: prost::Message + Default>(payload: Bytes) -> Result<M, RemoteError> {
    M::decode(payload).map_err(|e| {
        RemoteError::of(
            crate::RemoteErrorKind::BadAnswer,
            code::UNKNOWN,
            e.to_string(),
        )
    })
}

/// Reads a message of a subject that only this crate's servers use, or logs that it cannot be read.
pub(super) fn decode_or_log<M: prost::Message + Default>(message: &Message) -> Option<M> {
    M::decode(message.payload.clone())
        .inspect_err(|error| tracing::warn!(subject = %message.subject, %error, "a message that cannot be read"))
        .ok()
}
