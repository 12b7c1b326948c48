//! Reads what other servers send to this one, and serves it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::{Message, StatusCode, Subject};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::oneshot;

use super::calls;
use super::core::Core;
use super::inbox::Inbox;
use super::incoming::{Contexts, Incoming, SysAnswer, read};
use super::lateness::Clocks;
use super::run::{Turn, Working, is_busy, run, time_left, too_late};
use super::wire::{self, BUSY, KickAnswer, MOVED, Response, Stamp};
use super::{delivery, events, ops, subject};
use crate::clock;
use crate::owners::{Moment, Seen};
use crate::quiet::quiet;
use crate::reply::guarded;
use crate::{BoxFuture, ForwardedRequest, Node, RemoteError, SessionAnswer, SessionOp, code};

/// Reads the subject on which all kinds of servers call this one, until `stop`, and then the requests that are on their way.
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

/// The state of the task that reads requests. Only that task has it, so it takes no lock.
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

/// Reads the messages that only shaddock servers send: deliveries, session operations, and answers. In order of arrival.
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
        Incoming::Handler(request) => forwarded(core, (reply, stamp, now), request, reader),
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

/// A message of a client, forwarded by its frontend: runs the handler, unless the request is late or its user has moved.
fn forwarded(
    core: &Arc<Core>,
    (reply, stamp, now): (Option<Subject>, Stamp, Moment),
    request: ForwardedRequest,
    reader: &mut Reader,
) {
    let timeout = request.context.timeout();
    let timeout = timeout.unwrap_or(core.config.request_timeout);
    let Some(left) = reader.left(&stamp, timeout, now) else {
        return too_late(core, reply);
    };
    if !reader.admits(&stamp, request.session.uid.as_deref(), now) {
        core.outdated.fetch_add(1, Ordering::Relaxed);
        core.answer(reply, &Err(RemoteError::new(code::UNAVAILABLE, MOVED)));
        return;
    }
    core.learn_frontend(&request.session);
    let notify = request.id.is_none();
    let route = Some(Arc::clone(&request.route));
    let node = Arc::clone(&core.node);
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
