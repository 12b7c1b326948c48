//! Dispatch of messages to handlers: a session's messages run one after another, in the order of arrival.

use std::task::Context;

use shaddock_protocol::Inbound;

use super::{state::Driver, work::Work};
use crate::ready::MaybeReady;

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
    pub(super) fn holds_input(&self) -> bool {
        self.waiting
            .as_ref()
            .is_some_and(|waiting| waiting.holds_input())
    }

    /// Whether enough messages wait for those before them.
    pub(super) fn is_full(&self) -> bool {
        let limits = &self.live.limits;
        self.waiting
            .as_ref()
            .is_some_and(|waiting| waiting.is_full(limits))
    }

    /// Whether input waits that could go on now.
    pub(super) fn has_input(&self) -> bool {
        self.waiting.is_some() && matches!(self.work, Work::Idle) && !self.is_pressed()
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
        self.waiting.get_or_insert_default().push(message);
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
}
