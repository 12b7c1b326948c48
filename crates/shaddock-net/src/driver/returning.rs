//! A client that comes back to its session: here, or on another frontend.
//!
//! One driver at a time has a session, with all its running and waiting work. The driver of a resuming connection claims the session
//! ([`Returning`]); the driver that has it ([`suspended`](super::suspended)) releases it at its next turn, and hands over its state
//! ([`handover`](super::handover)). So no work is polled by two drivers, and no lock is held while work runs.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use shaddock_core::{Claimed, CloseReason, Credentials, Handover, ResumeRefusal, Resumption};
use shaddock_protocol::{HandshakeRequest, Millis, ResumeOutcome, ReturningClient};

use super::{
    accept::grant,
    opening::WakeLater,
    relayed::RelayAnswer,
    state::Driver,
    work::{Claim, Elsewhere, Returning, Work},
};
use crate::{
    frontend::{Peer, ResumeTerms},
    secrets::new_secret,
    worker::Scratch,
};

impl Driver {
    pub(super) fn resume_session(
        &mut self,
        cx: &mut Context<'_>,
        now: Millis,
        (user, terms): (Option<serde_json::Value>, ResumeTerms),
        (back, peer, request): (&ReturningClient, Peer, &Arc<HandshakeRequest>),
        scratch: &mut Scratch,
    ) -> Result<(), CloseReason> {
        let frontend = &self.local.frontend;
        let opening = self.opening.as_ref();
        let carried = opening.and_then(|opening| opening.carried.as_ref());
        if !self.is_relayed()
            && let Some(asked) = frontend.find_elsewhere(&peer, request, user.as_ref(), carried)
        {
            self.work = Work::Elsewhere(Box::new(Elsewhere { asked, user, terms }));
            // At the next turn, with all that is read by then.
            cx.waker().wake_by_ref();
            return Ok(());
        }
        let shown = Credentials::from(back);
        let session = match frontend.find_resumable(&peer, &shown, self.conn.dialect()) {
            Ok(session) => session,
            Err(why) if self.is_relayed() => return self.refuse_relayed(why),
            Err(why) => {
                let outcome = ResumeOutcome::Restarted(why);
                return self.accept_new(cx, now, user.as_ref(), &terms, outcome, scratch);
            }
        };
        let answer = frontend.before_resume(&session, &peer, request, carried);
        self.work = Work::Returning(Box::new(Returning {
            number: opening.map_or(0, |opening| opening.claim),
            session,
            shown,
            is_early: back.early,
            user,
            terms,
            stage: Claim::Asked(answer),
        }));
        self.poll_returning(cx, now, scratch).map(drop)
    }

    /// A client that comes back: the application is asked, the session is claimed and taken over. True when the handshake is answered.
    pub(super) fn poll_returning(
        &mut self,
        cx: &mut Context<'_>,
        now: Millis,
        scratch: &mut Scratch,
    ) -> Result<bool, CloseReason> {
        loop {
            let Work::Returning(returning) = &mut self.work else {
                return Ok(true);
            };
            let number = returning.number;
            let claimed = match &mut returning.stage {
                Claim::Asked(answer) => {
                    let Poll::Ready(answer) = Pin::new(answer).poll(cx) else {
                        return Ok(false);
                    };
                    let (session, shown) = (&returning.session, &returning.shown);
                    match answer.and_then(|()| session.claim(number, shown, cx.waker())) {
                        Ok(parked) => {
                            returning.stage = Claim::Claimed;
                            if let Some(opening) = &mut self.opening {
                                opening.parked = parked.map(WakeLater);
                            }
                        }
                        Err(why) => {
                            self.restart(cx, now, why, scratch)?;
                            return Ok(true);
                        }
                    }
                    continue;
                }
                Claim::Claimed => returning.session.poll_claim(number, cx.waker()),
            };
            match claimed {
                Claimed::Pending => return Ok(false),
                // Its own client is already on another connection, and receives the answer there.
                Claimed::Superseded => {
                    self.answer_relay(RelayAnswer::Superseded);
                    self.work = Work::Idle;
                    return Err(CloseReason::Transport(
                        std::io::ErrorKind::ConnectionAborted,
                    ));
                }
                Claimed::Closed(None) => self.restart(cx, now, ResumeRefusal::Unknown, scratch)?,
                Claimed::Closed(Some(left)) => {
                    if let Work::Returning(returning) =
                        std::mem::replace(&mut self.work, Work::Idle)
                    {
                        // With the outbox's waker: the close may still be under way on another thread.
                        self.begin_session(cx, returning.session, false);
                    }
                    self.adopt(left);
                    return Err(self.end_reason());
                }
                Claimed::Yours(left) => self.continue_with(cx, now, left, scratch)?,
            }
            return Ok(true);
        }
    }

    /// A new session in the place of one that cannot go on.
    fn restart(
        &mut self,
        cx: &mut Context<'_>,
        now: Millis,
        why: ResumeRefusal,
        scratch: &mut Scratch,
    ) -> Result<(), CloseReason> {
        let Work::Returning(returning) = std::mem::replace(&mut self.work, Work::Idle) else {
            return Err(CloseReason::Internal);
        };
        self.local.frontend.resume_refused(why);
        if self.is_relayed() {
            return self.refuse_relayed(why);
        }
        let Returning { user, terms, .. } = *returning;
        let outcome = ResumeOutcome::Restarted(why);
        self.accept_new(cx, now, user.as_ref(), &terms, outcome, scratch)
    }

    /// The session is this driver's: the client is told where both go on.
    fn continue_with(
        &mut self,
        cx: &mut Context<'_>,
        now: Millis,
        left: Handover,
        scratch: &mut Scratch,
    ) -> Result<(), CloseReason> {
        let Work::Returning(returning) = std::mem::replace(&mut self.work, Work::Idle) else {
            return Err(CloseReason::Internal);
        };
        let Returning {
            session,
            shown,
            is_early,
            user,
            terms,
            ..
        } = *returning;
        if self.is_relayed() {
            session.set_relayed();
        }
        // Before the response, which goes through its outbox: what follows it leaves in the same write.
        self.begin_session(cx, Arc::clone(&session), false);
        let answered = new_secret().and_then(|secret| {
            let Resumption {
                received,
                position,
                missed,
            } = session.resume_from(&shown, &secret)?;
            let outcome = ResumeOutcome::Resumed {
                received,
                position,
                missed,
            };
            let grant = grant(&terms, secret.token(session.id()), outcome);
            Some(self.put_answer(now, user.as_ref(), Some(&grant), scratch))
        });
        self.answer_relay(match answered {
            Some(_) => RelayAnswer::Accepted,
            None => RelayAnswer::Superseded,
        });
        if is_early && matches!(answered, Some(Ok(()))) {
            session.send_early();
        }
        self.adopt(left);
        // Token and counts were valid when the session was claimed. Meanwhile the client has gone on over the connection that had the session:
        // this one is older, and its handshake arrived late. Only this connection ends; the session waits for the client.
        answered.unwrap_or(Err(CloseReason::Transport(
            std::io::ErrorKind::ConnectionAborted,
        )))
    }

    /// Waits for the frontend that has the session. True when the handshake is answered, or will be by that one.
    pub(super) fn poll_elsewhere(
        &mut self,
        cx: &mut Context<'_>,
        now: Millis,
        scratch: &mut Scratch,
    ) -> Result<bool, CloseReason> {
        let Work::Elsewhere(elsewhere) = &mut self.work else {
            return Ok(true);
        };
        let Poll::Ready(answer) = elsewhere.asked.as_mut().poll(cx) else {
            return Ok(false);
        };
        let Work::Elsewhere(elsewhere) = std::mem::replace(&mut self.work, Work::Idle) else {
            return Err(CloseReason::Internal);
        };
        match answer {
            Ok(Some(pipe)) => {
                self.begin_relay(now, pipe)?;
                Ok(true)
            }
            // Its own client is already on another connection, and receives the answer there.
            Ok(None) => Err(CloseReason::Transport(
                std::io::ErrorKind::ConnectionAborted,
            )),
            Err(why) => {
                let Elsewhere { user, terms, .. } = *elsewhere;
                let outcome = ResumeOutcome::Restarted(why);
                self.accept_new(cx, now, user.as_ref(), &terms, outcome, scratch)?;
                Ok(true)
            }
        }
    }
}
