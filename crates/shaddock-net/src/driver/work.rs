//! Dispatch of messages to handlers: a session's messages run one after another, in the order of arrival.

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use shaddock_core::CloseReason;
use shaddock_protocol::{HandshakeRequest, Inbound, Millis, ResumeRequest};

use super::{Driver, Phase, relay::Elsewhere, resume::Returning, silence::Unread};
use crate::{
    frontend::Verdict,
    ready::{BoxFuture, MaybeReady},
    worker::Scratch,
};

/// The work that runs for this connection.
pub(super) enum Work {
    Idle,
    /// The application judges the handshake. Dropped when the client leaves.
    Handshake(BoxFuture<Verdict>),
    /// The client comes back to its session.
    Returning(Box<Returning>),
    /// The client comes back to a session of another frontend, which is asked. Dropped when the client leaves.
    Elsewhere(Box<Elsewhere>),
    /// A handler of the session. Polled to its end in every phase.
    Handler(BoxFuture<()>),
}

impl Work {
    pub(super) fn is_handler(&self) -> bool {
        matches!(self, Self::Handler(_))
    }
}

/// The approximate memory of a waiting message besides its route and body.
const MESSAGE_OVERHEAD: usize = 128;

/// Messages that have arrived and cannot be served yet. Exists only while there is one.
#[derive(Default)]
pub(super) struct Waiting {
    /// With memory of their own: a slice would keep the whole chunk that it was read with.
    messages: VecDeque<Inbound>,
    /// Their memory.
    bytes: usize,
    /// Rest of the bytes (of a WebSocket message, under WebSocket) that the last message was in.
    pub(super) input: Bytes,
    /// Rest of the chunk with further WebSocket frames.
    pub(super) frames: Bytes,
    /// Of the socket, while its input has to wait.
    pub(super) unread: Option<Unread>,
}

impl Waiting {
    /// Drops what was read and not taken. False: nothing else is left.
    pub(super) fn forget_input(&mut self) -> bool {
        self.input = Bytes::new();
        self.frames = Bytes::new();
        self.unread = None;
        !self.messages.is_empty()
    }

    /// The message that is next.
    pub(super) fn pop(&mut self) -> Option<Inbound> {
        let message = self.messages.pop_front()?;
        self.bytes -= cost(&message);
        Some(message)
    }
}

impl Driver {
    /// Whether no more input may be taken: the handshake is being judged, enough messages wait, or enough bytes wait for the client.
    #[inline]
    pub(super) fn is_blocked(&self) -> bool {
        self.is_pressed()
            || match self.work {
                Work::Handshake(_) | Work::Returning(_) | Work::Elsewhere(_) => true,
                _ if self.opening.is_some() => self.holds_input(),
                _ => self.is_full(),
            }
    }

    /// Whether input waits that was read before what the socket has.
    fn holds_input(&self) -> bool {
        self.waiting
            .as_ref()
            .is_some_and(|waiting| !(waiting.input.is_empty() && waiting.frames.is_empty()))
    }

    /// Whether enough messages wait for those before them.
    pub(super) fn is_full(&self) -> bool {
        let limits = &self.live.limits;
        self.waiting.as_ref().is_some_and(|waiting| {
            !waiting.input.is_empty()
                || !waiting.frames.is_empty()
                || waiting.messages.len() >= limits.waiting_messages
                || waiting.bytes >= limits.waiting_bytes
        })
    }

    /// Whether input waits that could go on now.
    pub(super) fn has_input(&self) -> bool {
        self.waiting.is_some() && matches!(self.work, Work::Idle) && !self.is_pressed()
    }

    /// Goes on with what runs, then with what waits.
    pub(super) fn poll_work(
        &mut self,
        cx: &mut Context<'_>,
        now: Millis,
        scratch: &mut Scratch,
    ) -> Result<(), CloseReason> {
        loop {
            self.check_closed()?;
            match &mut self.work {
                Work::Handshake(judge) => {
                    let Poll::Ready(verdict) = judge.as_mut().poll(cx) else {
                        return Ok(());
                    };
                    self.work = Work::Idle;
                    self.answer(cx, now, verdict, scratch)?;
                }
                Work::Returning(_) => {
                    if !self.poll_returning(cx, now, scratch)? {
                        return Ok(());
                    }
                }
                Work::Elsewhere(_) => {
                    if !self.poll_elsewhere(cx, now, scratch)?
                        || matches!(self.phase, Phase::Relaying(_))
                    {
                        return Ok(());
                    }
                }
                Work::Handler(_) => {
                    if !self.poll_handler(cx) {
                        return self.advance_opening(cx, now, scratch);
                    }
                }
                Work::Idle => {
                    if !self.has_input() {
                        return Ok(());
                    }
                    self.advance(cx, now, scratch)?;
                    if self.waiting.is_none() && matches!(self.work, Work::Idle) {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Polls the handler that runs, if one does. True when none runs any more.
    pub(super) fn poll_handler(&mut self, cx: &mut Context<'_>) -> bool {
        let Work::Handler(handler) = &mut self.work else {
            return true;
        };
        if handler.as_mut().poll(cx).is_pending() {
            return false;
        }
        self.work = Work::Idle;
        if let Some(session) = &self.session {
            session.set_working(false);
        }
        self.look_at_outbox();
        true
    }

    /// The client of a session for which something runs comes back: what was read behind its handshake holds the acknowledgement, which does not
    /// wait for that.
    fn advance_opening(
        &mut self,
        cx: &mut Context<'_>,
        now: Millis,
        scratch: &mut Scratch,
    ) -> Result<(), CloseReason> {
        if self.opening.is_none() || self.is_pressed() || !self.holds_input() {
            return Ok(());
        }
        let Some(waiting) = &mut self.waiting else {
            return Ok(());
        };
        let input = std::mem::take(&mut waiting.input);
        let frames = std::mem::take(&mut waiting.frames);
        self.resume(cx, now, input, frames, scratch)
    }

    /// Serves the next message that waits, or reads on where input was held back.
    fn advance(
        &mut self,
        cx: &mut Context<'_>,
        now: Millis,
        scratch: &mut Scratch,
    ) -> Result<(), CloseReason> {
        let Some(waiting) = &mut self.waiting else {
            return Ok(());
        };
        if let Some(message) = waiting.pop() {
            self.start(cx, message);
            return Ok(());
        }
        // The box goes first, so that what is read now may make a new one.
        let Waiting { input, frames, .. } = *self.waiting.take().unwrap_or_default();
        self.resume(cx, now, input, frames, scratch)
    }

    /// Serves a message now, or lets it wait for those before it.
    #[inline]
    pub(super) fn dispatch(&mut self, cx: &mut Context<'_>, message: Inbound) {
        if matches!(self.work, Work::Idle) && self.waiting.is_none() {
            self.start(cx, message);
        } else {
            self.enqueue(&message);
        }
    }

    #[inline(never)]
    fn enqueue(&mut self, message: &Inbound) {
        let message = Inbound {
            id: message.id,
            route: message.route.detach(),
            body: Bytes::copy_from_slice(&message.body),
        };
        let waiting = self.waiting.get_or_insert_default();
        waiting.bytes += cost(&message);
        waiting.messages.push_back(message);
    }

    pub(super) fn start(&mut self, cx: &mut Context<'_>, message: Inbound) {
        let Some(session) = &self.session else {
            return;
        };
        // Also directly after a close by any thread: no work starts for a closed session.
        if session.is_closed() {
            return;
        }
        session.count_received(1, 0);
        if message.id.is_some() {
            self.local.stats.requests.add(1);
        } else {
            self.local.stats.notifies.add(1);
        }
        let flow = self.local.frontend.message(session, message);
        self.run(cx, flow);
    }

    /// Polls what was started for the session, and keeps it if it is not done.
    #[inline]
    pub(super) fn run(&mut self, cx: &mut Context<'_>, flow: MaybeReady<()>) {
        if let MaybeReady::Later(mut handler) = flow
            && handler.as_mut().poll(cx).is_pending()
        {
            if let Some(session) = &self.session {
                session.set_working(true);
            }
            self.work = Work::Handler(handler);
        }
        self.look_at_outbox();
    }

    /// Gives a handshake to the application.
    pub(super) fn check_handshake(
        &mut self,
        cx: &mut Context<'_>,
        now: Millis,
        request: Arc<HandshakeRequest>,
        scratch: &mut Scratch,
    ) -> Result<(), CloseReason> {
        let Some(opening) = &mut self.opening else {
            return Err(CloseReason::Internal);
        };
        if matches!(request.resume, ResumeRequest::Back(_)) {
            opening.claim = self.local.frontend.next_claim();
        }
        let handled = match &mut opening.relayed {
            // The other frontend has asked its application.
            Some(relayed) => MaybeReady::Now(match relayed.carried.take() {
                Some(carried) => Verdict::AcceptWith(relayed.user.take(), carried),
                None => Verdict::Accept(relayed.user.take()),
            }),
            None => self.local.frontend.handshake(&opening.peer, &request),
        };
        opening.handshake = Some(request);
        match handled {
            MaybeReady::Now(verdict) => self.answer(cx, now, verdict, scratch),
            MaybeReady::Later(mut judge) => match judge.as_mut().poll(cx) {
                Poll::Ready(verdict) => self.answer(cx, now, verdict, scratch),
                Poll::Pending => {
                    self.work = Work::Handshake(judge);
                    Ok(())
                }
            },
        }
    }

    fn answer(
        &mut self,
        cx: &mut Context<'_>,
        now: Millis,
        verdict: Verdict,
        scratch: &mut Scratch,
    ) -> Result<(), CloseReason> {
        match verdict {
            Verdict::Accept(user) => self.accept(cx, now, user, scratch),
            Verdict::AcceptWith(user, carried) => {
                if let Some(opening) = &mut self.opening {
                    opening.carried = Some(carried);
                }
                self.accept(cx, now, user, scratch)
            }
            Verdict::Reject(code) => {
                let mut out = scratch.out.lend();
                self.conn.reject(code, &mut out);
                self.queue_out(now, &out);
                Err(CloseReason::Rejected)
            }
        }
    }
}

/// The accounted size of a waiting message.
fn cost(message: &Inbound) -> usize {
    MESSAGE_OVERHEAD + message.route.as_str().len() + message.body.len()
}
