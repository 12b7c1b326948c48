//! From a client's handshake to its session: the application judges it, it is answered, and acknowledged.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use shaddock_core::{ClientInfo, CloseReason, ResumeRefusal, Session};
use shaddock_protocol::{HandshakeRequest, Millis, ResumeOutcome, ResumeRequest};

use super::{state::Driver, work::Work};
use crate::{
    clock,
    frontend::{Opened, Peer, Verdict},
    ready::MaybeReady,
    stats::Group,
    worker::Scratch,
};

impl Driver {
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

    pub(super) fn answer(
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

    /// The application has accepted the handshake: a new session, one that goes on, or none that would outlive its socket.
    fn accept(
        &mut self,
        cx: &mut Context<'_>,
        now: Millis,
        user: Option<serde_json::Value>,
        scratch: &mut Scratch,
    ) -> Result<(), CloseReason> {
        let (Some(request), Some(peer)) = (self.request(), self.peer()) else {
            return Err(CloseReason::Internal);
        };
        let terms = match request.resume {
            ResumeRequest::No => None,
            ResumeRequest::Malformed => {
                self.local.stats.count(Group::Dropped, "malformed_resume");
                None
            }
            ResumeRequest::New | ResumeRequest::Back(_) => {
                self.local.frontend.resume_terms(&peer, &request)
            }
        };
        match (&request.resume, terms) {
            (ResumeRequest::New, Some(terms)) => {
                let outcome = ResumeOutcome::Granted;
                self.accept_new(cx, now, user.as_ref(), &terms, outcome, scratch)
            }
            (ResumeRequest::Back(back), Some(terms)) => {
                self.resume_session(cx, now, (user, terms), (back, peer, &request), scratch)
            }
            // The frontend that has accepted it offers what this one does not: there it gets a new session.
            _ if self.is_relayed() => self.refuse_relayed(ResumeRefusal::Unknown),
            _ => self.put_answer(now, user.as_ref(), None, scratch),
        }
    }

    /// The client has acknowledged the handshake: its session begins, or goes on.
    pub(super) fn open(&mut self, cx: &mut Context<'_>, now: Millis) -> Result<(), CloseReason> {
        let transport = self.transport();
        let Some(opening) = self.opening.take() else {
            return Err(CloseReason::Internal);
        };
        let peer = Peer {
            transport,
            ..opening.peer
        };
        if let Some(session) = self.session.clone() {
            self.go_live(&session, peer, opening.is_new);
            match opening.carried {
                Some(carried) if opening.is_new => {
                    let flow = self.local.frontend.begin(&session, carried);
                    self.run(cx, flow);
                }
                Some(carried) => self.local.frontend.session_resumed(&session, carried),
                None => {}
            }
            return Ok(());
        }
        let Some(handshake) = opening.handshake else {
            return Err(CloseReason::Internal);
        };
        let opened = self.local.frontend.open(Opened {
            peer,
            dialect: self.conn.dialect(),
            handshake,
            resume: None,
        });
        let session = match opened {
            Ok(session) => session,
            Err(reason) => {
                // There is no session whose close would tell the client.
                if let Some(kick) = reason.kick_package() {
                    self.queue_out(now, &kick);
                }
                return Err(reason);
            }
        };
        self.local.stats.opened.add(1);
        session.count_received(0, opening.received);
        session.outbox().begin_poll(cx.waker());
        let begun = opening
            .carried
            .map(|carried| self.local.frontend.begin(&session, carried));
        self.session = Some(session);
        if let Some(flow) = begun {
            self.run(cx, flow);
        }
        Ok(())
    }

    /// The client has acknowledged the handshake of a session that was there before.
    fn go_live(&mut self, session: &Arc<Session>, peer: Peer, is_new: bool) {
        if is_new {
            self.local.stats.opened.add(1);
        }
        // If it is closed, this poll finds out.
        session.go_live(&ClientInfo {
            variant: session.variant(),
            transport: peer.transport,
            address: Some(peer.address),
            connected_at: clock::now(),
        });
    }
}
