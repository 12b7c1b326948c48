//! The answer to an accepted handshake, and a new session that is resumable.

use std::{sync::Arc, task::Context};

use shaddock_core::{CloseReason, ResumeRefusal, Session};
use shaddock_protocol::{HandshakeRequest, Millis, ResumeGrant, ResumeOutcome};

use super::{relayed::RelayAnswer, state::Driver};
use crate::{
    frontend::{Opened, Peer, ResumeTerms},
    secrets::new_secret,
    worker::Scratch,
};

impl Driver {
    pub(super) fn accept_new(
        &mut self,
        cx: &mut Context<'_>,
        now: Millis,
        user: Option<&serde_json::Value>,
        terms: &ResumeTerms,
        outcome: ResumeOutcome,
        scratch: &mut Scratch,
    ) -> Result<(), CloseReason> {
        let (Some(handshake), Some(peer)) = (self.request(), self.peer()) else {
            return Err(CloseReason::Internal);
        };
        let opened = new_secret().and_then(|secret| {
            let opened = Opened {
                peer,
                dialect: self.conn.dialect(),
                handshake,
                resume: Some(secret),
            };
            let session = self.local.frontend.open(opened).ok()?;
            Some((session, secret))
        });
        // A client that may not open a session receives the refusal when it acknowledges the handshake.
        let Some((session, secret)) = opened else {
            return self.put_answer(now, user, None, scratch);
        };
        let grant = grant(terms, secret.token(session.id()), outcome);
        let answered = self.put_answer(now, user, Some(&grant), scratch);
        self.begin_session(cx, session, true);
        answered
    }

    /// Answers the handshake with 200.
    pub(super) fn put_answer(
        &mut self,
        now: Millis,
        user: Option<&serde_json::Value>,
        grant: Option<&ResumeGrant>,
        scratch: &mut Scratch,
    ) -> Result<(), CloseReason> {
        let mut out = scratch.out.lend();
        let out = &mut *out;
        let accepted = match grant {
            Some(grant) => self.conn.accept_resumable(now, user, grant, out),
            None => self.conn.accept(now, user, out),
        };
        let accepted = accepted.map_err(|error| {
            crate::quiet!(error, "the result of the handshake hook is too long for the client, which is rejected: return less", %error);
            self.conn.reject(shaddock_protocol::RejectCode::Failed, out);
            CloseReason::Rejected
        });
        self.queue_out(now, out);
        accepted
    }

    /// The session is there, before the client has acknowledged its handshake.
    pub(super) fn begin_session(
        &mut self,
        cx: &mut Context<'_>,
        session: Arc<Session>,
        is_new: bool,
    ) {
        if let Some(opening) = &mut self.opening {
            opening.is_new = is_new;
            session.count_received(0, std::mem::take(&mut opening.received));
        }
        session.outbox().begin_poll(cx.waker());
        self.session = Some(session);
    }

    /// Whether another frontend has accepted this connection.
    pub(super) fn is_relayed(&self) -> bool {
        let opening = self.opening.as_ref();
        opening.is_some_and(|opening| opening.relayed.is_some())
    }

    /// Tells the frontend that has accepted this connection what becomes of it.
    pub(super) fn answer_relay(&mut self, answer: RelayAnswer) {
        let relayed = self.opening.as_mut().and_then(|it| it.relayed.as_mut());
        if let Some(sender) = relayed.and_then(|relayed| relayed.answer.take()) {
            // The receiver may be gone, if its client has disconnected.
            let _ = sender.send(answer);
        }
    }

    /// The client gets a new session at the frontend that has accepted its connection.
    pub(super) fn refuse_relayed(&mut self, why: ResumeRefusal) -> Result<(), CloseReason> {
        self.answer_relay(RelayAnswer::Refused(why));
        Err(CloseReason::Rejected)
    }

    pub(super) fn request(&self) -> Option<Arc<HandshakeRequest>> {
        self.opening.as_ref()?.handshake.clone()
    }

    /// The other end, with what is known of its transport by now.
    pub(super) fn peer(&self) -> Option<Peer> {
        let peer = self.opening.as_ref()?.peer;
        Some(Peer {
            transport: self.transport(),
            ..peer
        })
    }
}

pub(super) fn grant(terms: &ResumeTerms, token: String, outcome: ResumeOutcome) -> ResumeGrant {
    ResumeGrant {
        token,
        window: terms.window,
        ack: terms.ack,
        address: terms.address.clone(),
        outcome,
    }
}
