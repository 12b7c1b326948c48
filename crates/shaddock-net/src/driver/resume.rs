//! Resumable sessions: a lost connection, the wait for the client, and the continuation by another connection.
//!
//! One driver at a time has a session, with all its running and waiting work. The driver whose socket is lost keeps it, without a socket,
//! in [`Phase::Suspended`]. The driver of a resuming connection claims the session ([`Returning`]); the driver that has it releases it at
//! its next turn, and hands over its state ([`Left`]). When nothing runs for the session any more, that state is left with the session
//! ([`Parked`]). So no work is polled by two drivers, and no lock is held while work runs.

use std::{
    any::Any,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use shaddock_core::{
    Claimed, ClientInfo, CloseReason, Credentials, Flush, Handover, ResumeRefusal, Resumption,
    ReturningClient, Session,
};
use shaddock_protocol::{
    HandshakeRequest, Millis, ProtocolError, ResumeGrant, ResumeOutcome, ResumeRequest,
    put_heartbeat,
};

use super::{
    Driver, Phase, detail,
    input::Wire,
    parked::Parked,
    relay::{Elsewhere, RelayAnswer},
    work::{Waiting, Work},
};
use crate::{
    clock,
    frontend::{Carried, Opened, Peer, ResumeTerms},
    io::Io,
    rate::Bucket,
    ready::{BoxFuture, MaybeReady},
    secrets::new_secret,
    stats::Group,
    worker::Scratch,
};

/// A session whose connection is gone.
pub(super) struct Away {
    /// When it is closed, on the clock. None: not known, the session is still to be handed over to this driver.
    pub(super) until: Option<Millis>,
    /// The session that this connection has claimed, and the claim, if it was lost before the session was handed over to it.
    pub(super) claim: Option<(Arc<Session>, u64)>,
    /// Its client has never acknowledged a handshake.
    pub(super) unopened: Option<Box<Unopened>>,
}

/// A session whose client has not acknowledged its handshake on any connection: with the first one that it does, it begins.
pub(super) struct Unopened {
    /// What the layer above left with its answer to the first handshake.
    carried: Option<Carried>,
}

impl Away {
    /// The driver ends: closes a session that was, or will be, handed over to it, because it has no other owner.
    pub(super) fn close_if_claimed(&self) {
        if let Some((session, _)) = &self.claim {
            session.close(CloseReason::Internal);
        }
    }
}

/// A client that comes back, while its handshake waits for the answer.
pub(super) struct Returning {
    session: Arc<Session>,
    shown: Credentials,
    /// The client takes what is sent again directly behind the answer.
    is_early: bool,
    /// For the answer.
    user: Option<serde_json::Value>,
    terms: ResumeTerms,
    /// The number of its claim.
    number: u64,
    stage: Stage,
}

enum Stage {
    /// The application is asked.
    Asked(MaybeReady<Result<(), ResumeRefusal>>),
    /// The driver that has the session is about to let go of it.
    Claimed,
}

impl Returning {
    /// The driver ends: closes a session that was, or will be, handed over to it, because it has no other owner.
    pub(super) fn close_if_claimed(&self) {
        if matches!(self.stage, Stage::Claimed) {
            self.session.close(CloseReason::Internal);
        }
    }
}

/// What one driver leaves for the next.
#[derive(Default)]
pub(super) struct Left {
    pub(super) handler: Option<BoxFuture<()>>,
    pub(super) messages: Option<Box<Waiting>>,
    pub(super) rate: Option<Box<Bucket>>,
    pub(super) unopened: Option<Box<Unopened>>,
}

/// A [`Left`] with nothing in it. It takes no memory.
struct NothingLeft;

impl Left {
    pub(super) fn into_handover(self) -> Handover {
        match self {
            Self {
                handler: None,
                messages: None,
                rate: None,
                unopened: None,
            } => Box::new(NothingLeft),
            left => Box::new(left),
        }
    }

    fn from_handover(handover: Handover) -> Self {
        let handover: Box<dyn Any> = handover;
        handover
            .downcast::<Self>()
            .map_or_else(|_nothing| Self::default(), |left| *left)
    }
}

/// Wakes the task that had parked a session, when it is dropped: after the handshake, which does not wait for the end of that task.
pub(super) struct WakeLater(Waker);

impl Drop for WakeLater {
    fn drop(&mut self) {
        self.0.wake_by_ref();
    }
}

/// # The handshake
impl Driver {
    /// The application has accepted the handshake: a new session, one that goes on, or none that would outlive its socket.
    pub(super) fn accept(
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

    fn resume_session(
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
        let shown = Credentials::of(back);
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
            stage: Stage::Asked(answer),
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
                Stage::Asked(answer) => {
                    let Poll::Ready(answer) = Pin::new(answer).poll(cx) else {
                        return Ok(false);
                    };
                    let (session, shown) = (&returning.session, &returning.shown);
                    match answer.and_then(|()| session.claim(number, shown, cx.waker())) {
                        Ok(parked) => {
                            returning.stage = Stage::Claimed;
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
                Stage::Claimed => returning.session.poll_claim(number, cx.waker()),
            };
            match claimed {
                Claimed::Pending => return Ok(false),
                // Its own client is already elsewhere, and hears there.
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

    /// The client gets a new session at the frontend that has accepted its connection.
    fn refuse_relayed(&mut self, why: ResumeRefusal) -> Result<(), CloseReason> {
        self.answer_relay(RelayAnswer::Refused(why));
        Err(CloseReason::Rejected)
    }

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
        // Who may not open a session is told so when the handshake is acknowledged.
        let Some((session, secret)) = opened else {
            return self.put_answer(now, user, None, scratch);
        };
        let grant = grant(terms, secret.token(session.id()), outcome);
        let answered = self.put_answer(now, user, Some(&grant), scratch);
        self.begin_session(cx, session, true);
        answered
    }

    /// Answers the handshake with 200.
    fn put_answer(
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
    fn begin_session(&mut self, cx: &mut Context<'_>, session: Arc<Session>, is_new: bool) {
        if let Some(opening) = &mut self.opening {
            opening.is_new = is_new;
            session.count_received(0, std::mem::take(&mut opening.received));
        }
        session.outbox().begin_poll(cx.waker());
        self.session = Some(session);
    }

    /// The client has acknowledged the handshake of a session that was there before.
    pub(super) fn go_live(&mut self, session: &Arc<Session>, peer: Peer, is_new: bool) {
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

    fn request(&self) -> Option<Arc<HandshakeRequest>> {
        self.opening.as_ref()?.handshake.clone()
    }

    /// The other end, with what is known of its transport by now.
    fn peer(&self) -> Option<Peer> {
        let peer = self.opening.as_ref()?.peer;
        Some(Peer {
            transport: self.transport(),
            ..peer
        })
    }
}

fn grant(terms: &ResumeTerms, token: String, outcome: ResumeOutcome) -> ResumeGrant {
    ResumeGrant {
        token,
        window: terms.window,
        ack: terms.ack,
        address: terms.address.clone(),
        outcome,
    }
}

/// # While it is open
impl Driver {
    /// A HEARTBEAT that tells how many packages were taken, if that is news.
    pub(super) fn queue_acknowledgement(&mut self, now: Millis, scratch: &mut Scratch) {
        let Some(session) = &self.session else {
            return;
        };
        let mut out = scratch.out.lend();
        put_heartbeat(session.acknowledgement(), &mut out);
        self.queue_out(now, &out);
    }

    /// A HEARTBEAT of the client. It is answered as on any connection.
    pub(super) fn heartbeat(
        &mut self,
        now: Millis,
        acknowledged: Option<u64>,
        scratch: &mut Scratch,
    ) -> Result<(), CloseReason> {
        if let (Some(session), Some(count)) = (&self.session, acknowledged)
            && let Err(error) = session.acknowledged(count)
        {
            tracing::debug!(sid = self.sid(), "{error}");
            return Err(CloseReason::Protocol(ProtocolError::Acknowledgement));
        }
        if self.conn.has_heartbeats() {
            self.queue_acknowledgement(now, scratch);
        }
        Ok(())
    }
}

/// # Without a socket
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
                if !matches!(stage, Stage::Claimed) {
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

    /// What was read and not taken comes again.
    fn forget_input(&mut self) {
        if let Some(mut waiting) = self.waiting.take()
            && waiting.forget_input()
        {
            self.waiting = Some(waiting);
        }
    }

    /// One poll of a session without a socket: what its client has asked for goes on. When all of it is done, the session is
    /// parked.
    pub(super) fn poll_suspended(
        &mut self,
        cx: &mut Context<'_>,
        now: Millis,
    ) -> Poll<Option<Parked>> {
        loop {
            let Phase::Suspended(away) = &mut self.phase else {
                return Poll::Ready(None);
            };
            if let Some((session, claim)) = &away.claim {
                let left = match session.poll_claim(*claim, cx.waker()) {
                    Claimed::Pending => return Poll::Pending,
                    // Without what was to be handed over, the session ends with the connection that has it.
                    Claimed::Superseded | Claimed::Closed(None) => {
                        self.give_up();
                        return Poll::Ready(None);
                    }
                    Claimed::Closed(left) => left,
                    Claimed::Yours(left) => Some(left),
                };
                let session = Arc::clone(session);
                session.outbox().begin_poll(cx.waker());
                self.take_on(session, left);
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

    /// What runs, and what waits for it.
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

    /// Takes over what another driver has left.
    fn adopt(&mut self, left: Handover) {
        let left = Left::from_handover(left);
        if let Some(handler) = left.handler {
            self.work = Work::Handler(handler);
        }
        let own = std::mem::replace(&mut self.waiting, left.messages);
        // Read on this connection while the session was waited for.
        if let Some(own) = own
            && !(own.input.is_empty() && own.frames.is_empty())
        {
            let waiting = self.waiting.get_or_insert_default();
            (waiting.input, waiting.frames) = (own.input, own.frames);
        }
        self.rate = left.rate.or_else(|| self.rate.take());
        match (&mut self.opening, &mut self.phase) {
            (Some(opening), _) => {
                // What the application says of the handshake that is acknowledged is newer, if it says anything.
                if let Some(unopened) = left.unopened {
                    opening.is_new = true;
                    opening.carried = opening.carried.take().or(unopened.carried);
                }
            }
            (None, Phase::Suspended(away)) => {
                away.unopened = left.unopened;
            }
            _ => {}
        }
    }

    /// The session is another driver's.
    fn give_up(&mut self) {
        self.session = None;
        self.timer = None;
        self.phase = Phase::Gone { outlived: false };
    }
}
