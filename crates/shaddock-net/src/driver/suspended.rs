//! A session without a socket, from the loss of its connection to the next connection, or to the end of its window.
//!
//! The driver whose socket is lost keeps the session, in [`Phase::Suspended`], with all its running and waiting work. The driver of a
//! resuming connection claims it, and gets it at the next turn of this one. When nothing runs for the session any more, its state is left
//! with the session ([`Parked`]).

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use shaddock_core::{Claimed, CloseReason, Flush, Handover, Session};
use shaddock_protocol::Millis;

use super::{
    closing::detail,
    handover::Left,
    parked::Parked,
    phase::{Away, Phase, Unopened},
    state::Driver,
    wire::Wire,
    work::{Claim, Returning, Work},
};
use crate::{clock, io::Io, stats::Group};

/// # The loss
impl Driver {
    /// The socket goes, and the session stays, if that is so with this reason. False: it is not.
    pub(super) fn suspend(&mut self, reason: &CloseReason) -> bool {
        if let Work::Returning(_) = &self.work {
            return self.suspend_claim(reason);
        }
        let Some(session) = &self.session else {
            return false;
        };
        if !self.is_loss(reason) || !session.suspend(reason, clock::now()) {
            return false;
        }
        let until = self.end_of_window(session);
        let opening = self.opening.as_mut().filter(|opening| opening.is_new);
        let unopened = opening.map(|opening| {
            Box::new(Unopened {
                carried: opening.carried.take(),
            })
        });
        self.release_socket(reason);
        self.phase = Phase::Suspended(Box::new(Away {
            until: Some(until),
            claim: None,
            unopened,
        }));
        true
    }

    /// A connection that has claimed a session and is lost before the hand-over still receives it, because the session has no other owner.
    fn suspend_claim(&mut self, reason: &CloseReason) -> bool {
        match std::mem::replace(&mut self.work, Work::Idle) {
            Work::Returning(returning) => {
                let Returning {
                    session,
                    stage,
                    number,
                    ..
                } = *returning;
                if !matches!(stage, Claim::Claimed) {
                    return false;
                }
                self.release_socket(reason);
                self.phase = Phase::Suspended(Box::new(Away {
                    until: None,
                    claim: Some((session, number)),
                    unopened: None,
                }));
                true
            }
            work => {
                self.work = work;
                false
            }
        }
    }

    fn end_of_window(&self, session: &Session) -> Millis {
        let window = self.local.frontend.resume_window();
        let since = session.resumable().and_then(|state| state.suspended);
        since.unwrap_or_else(clock::now) + window
    }

    /// Whether the connection was lost: not ended by the server, and not by a goodbye of the client.
    fn is_loss(&self, reason: &CloseReason) -> bool {
        match reason {
            CloseReason::Transport(_)
            | CloseReason::HeartbeatTimeout
            | CloseReason::HandshakeTimeout
            | CloseReason::Idle
            | CloseReason::SlowClient => true,
            CloseReason::ClientClosed => !self.has_sent_goodbye(),
            // Of a session that is closed because the server goes, nothing is left.
            CloseReason::Draining => {
                let session = self.session.as_ref();
                session
                    .and_then(|session| session.resumable())
                    .is_some_and(|state| state.is_dismissed)
            }
            _ => false,
        }
    }

    fn has_sent_goodbye(&self) -> bool {
        let closed = match &self.wire {
            Wire::Ws(ws) => ws.is_closed && matches!(ws.goodbye, None | Some(1000)),
            _ => false,
        };
        closed || self.conn.has_left()
    }

    fn release_socket(&mut self, reason: &CloseReason) {
        self.local.stats.count(Group::Closed, detail(reason));
        tracing::debug!(
            address = self.address(),
            sid = self.sid(),
            reason = detail(reason),
            "connection lost, its session is suspended: {reason}"
        );
        self.conn.close();
        self.io = Io::Closed;
        self.wire = Wire::Closed;
        self.unsent = None;
        self.opening = None;
        self.forget_input();
    }

    /// Messages that were read and not taken are sent again by the client.
    fn forget_input(&mut self) {
        if let Some(mut waiting) = self.waiting.take()
            && waiting.forget_input()
        {
            self.waiting = Some(waiting);
        }
    }
}

/// # The wait
impl Driver {
    /// One poll of a session without a socket: what its client has asked for goes on. When all of it is done, the session is
    /// parked.
    pub(super) fn poll_suspended(
        &mut self,
        cx: &mut Context<'_>,
        now: Millis,
    ) -> Poll<Option<Parked>> {
        loop {
            let Phase::Suspended(away) = &self.phase else {
                return Poll::Ready(None);
            };
            if away.claim.is_some() {
                if self.poll_claim(cx).is_pending() {
                    return Poll::Pending;
                }
                continue;
            }
            let until = away.until;
            let Some(session) = self.session.clone() else {
                return Poll::Ready(None);
            };
            if session.is_closed() {
                self.waiting = None;
                self.drop_socket();
                return Poll::Ready(None);
            }
            if session.resumable().is_some_and(|state| state.is_claimed) {
                if self.hand_over(&session) {
                    self.give_up();
                    return Poll::Ready(None);
                }
                if !session.is_closed() {
                    // Another thread is about to close it.
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                continue;
            }
            let wall = clock::now();
            let until = until.unwrap_or(wall);
            if wall >= until {
                if !session.expire() && !session.is_closed() {
                    // Another thread is about to close it.
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                continue;
            }
            self.poll_rest(cx);
            if !session.outbox().end_poll(Flush::Done) {
                if let Some(parked) = self.park() {
                    return Poll::Ready(Some(parked));
                }
                self.arm(cx, now, Some(now + (until - wall)));
                return Poll::Pending;
            }
        }
    }

    /// Waits for the session that this connection had claimed. Ready: it has come, or will not, and the phase is another.
    fn poll_claim(&mut self, cx: &Context<'_>) -> Poll<()> {
        let Phase::Suspended(away) = &self.phase else {
            return Poll::Ready(());
        };
        let Some((session, claim)) = &away.claim else {
            return Poll::Ready(());
        };
        let left = match session.poll_claim(*claim, cx.waker()) {
            Claimed::Pending => return Poll::Pending,
            // Without what was to be handed over, the session ends with the connection that has it.
            Claimed::Superseded | Claimed::Closed(None) => {
                self.give_up();
                return Poll::Ready(());
            }
            Claimed::Closed(left) => left,
            Claimed::Yours(left) => Some(left),
        };
        let session = Arc::clone(session);
        session.outbox().begin_poll(cx.waker());
        self.take_on(session, left);
        Poll::Ready(())
    }

    /// The handler that runs, and the messages that wait for it.
    fn poll_rest(&mut self, cx: &mut Context<'_>) {
        while self.poll_handler(cx) {
            let message = self.waiting.as_mut().and_then(|waiting| waiting.pop());
            let Some(message) = message else {
                self.waiting = None;
                // Only what runs for it still counts for its client's address.
                self.permit = None;
                return;
            };
            self.start(cx, message);
        }
    }

    /// A session that was claimed by a connection which is lost meanwhile has come.
    fn take_on(&mut self, session: Arc<Session>, left: Option<Handover>) {
        self.phase = Phase::Suspended(Box::new(Away {
            until: Some(self.end_of_window(&session)),
            claim: None,
            unopened: None,
        }));
        // It waits as before, and counts as one that does.
        let aborted = std::io::ErrorKind::ConnectionAborted;
        session.suspend(&CloseReason::Transport(aborted), clock::now());
        self.session = Some(session);
        if let Some(left) = left {
            self.adopt(left);
        }
    }

    /// Gives the session to the connection that has claimed it. False: there is none any more.
    fn hand_over(&mut self, session: &Session) -> bool {
        let unopened = match &mut self.phase {
            Phase::Suspended(away) => away.unopened.take(),
            _ => None,
        };
        let handler = match std::mem::replace(&mut self.work, Work::Idle) {
            Work::Handler(handler) => Some(handler),
            _ => None,
        };
        let left = Left {
            handler,
            messages: self.waiting.take(),
            rate: self.rate.take(),
            unopened,
        };
        // First: once it is handed over, the outbox has another driver.
        session.outbox().release();
        match session.hand_over(left.into_handover()) {
            Ok(()) => true,
            Err(left) => {
                self.adopt(left);
                false
            }
        }
    }

    /// The session is another driver's.
    fn give_up(&mut self) {
        self.session = None;
        self.timer = None;
        self.phase = Phase::Gone { outlived: false };
    }
}
