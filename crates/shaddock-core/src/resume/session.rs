//! Resumption as methods of sessions and of their service.

use super::token::TokenHash;
use super::{
    Away, BadAcknowledgement, Claimed, Credentials, Handover, Ledger, Link, Parking, ResumeSecret,
    ResumeStatistics, Resumption,
};
use crate::event::Event;
use crate::session::without_scope;
use crate::{ClientInfo, CloseReason, Dialect, Millis, Session, SessionService, SessionState};
use shaddock_protocol::ResumeRefusal;
use std::sync::Arc;
use std::task::Waker;

/// The state of a resumable session at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Resumable {
    /// While the session is suspended: when its connection was lost.
    pub suspended: Option<Millis>,
    /// Messages that are kept until the client acknowledges them.
    pub kept_messages: usize,
    /// Their bytes.
    pub kept_bytes: usize,
    /// As much is kept as may be, and senders that can wait do ([`Room::Full`](crate::Room::Full)).
    pub is_full: bool,
    /// Another connection claims the session.
    pub is_claimed: bool,
    /// Its connection was told to go ([`Session::dismiss`]) and has not gone yet.
    pub is_dismissed: bool,
}

impl SessionService {
    /// As [`create`](Self::create), for a client that can resume: the token is that of `secret`. The handshake response was sent, and not
    /// acknowledged yet: until [`go_live`](Session::go_live) sent packages are kept.
    pub fn create_resumable(&self, info: ClientInfo, secret: &ResumeSecret) -> Arc<Session> {
        let pool = self.resume_pool();
        let ledger = Ledger::new(Arc::clone(pool), TokenHash::of(secret));
        pool.count_granted();
        self.register(info, Some(ledger))
    }

    /// The session of a resuming client, if it can continue. Nothing changes yet: its connection keeps it until another one
    /// [claims](Session::claim) it.
    ///
    /// # Errors
    ///
    /// The reason for the client. It is counted.
    pub fn find_resumable(
        &self,
        shown: &Credentials,
        dialect: Dialect,
    ) -> Result<Arc<Session>, ResumeRefusal> {
        let found = shown.token.ok_or(ResumeRefusal::Unknown);
        let found = found.and_then(|(sid, hash)| {
            let is_its = |session: &Arc<Session>| {
                let is_its = session.outbox().ledger(|ledger| ledger.is_token(&hash));
                is_its.unwrap_or(false)
            };
            match self.get(sid).filter(is_its) {
                Some(session) if session.variant().dialect() != dialect => {
                    Err(ResumeRefusal::Changed)
                }
                Some(session) => Ok(session),
                None if self.resume_pool().is_gone(sid, &hash) => Err(ResumeRefusal::Expired),
                None => Err(ResumeRefusal::Unknown),
            }
        });
        found.inspect_err(|why| self.count_resume_refused(*why))
    }

    /// A number for a claim. Take it when the handshake arrives: of two connections the later one receives the session, in whatever order
    /// the application finishes with them.
    pub fn next_claim(&self) -> u64 {
        self.resume_pool().next_claim()
    }

    /// Counts a client that could not resume its session.
    pub fn count_resume_refused(&self, why: ResumeRefusal) {
        self.resume_pool().count_refused(why);
    }

    /// Counts of resumable sessions.
    pub fn resume_statistics(&self) -> ResumeStatistics {
        self.resume_pool().statistics()
    }
}

/// # Resumption
///
/// For the driver of the connection that has the session. They have no effect on a session that is not resumable.
impl Session {
    /// The state of a session whose client can resume it after its connection is lost; `None` if it ends with its connection.
    pub fn resumable(&self) -> Option<Resumable> {
        self.outbox().ledger(|ledger| Resumable {
            suspended: ledger.away().map(|away| away.since),
            kept_messages: ledger.kept_messages(),
            kept_bytes: ledger.kept_bytes(),
            is_full: ledger.is_full(),
            is_claimed: ledger.is_claimed(),
            is_dismissed: ledger.link() == Link::Dismissed,
        })
    }

    /// Whether the session blocks a login of its user. Not while it is suspended: the client that logs in is connected, and the client of
    /// this session is not.
    pub(crate) fn blocks_a_login(&self) -> bool {
        self.state() == SessionState::Open
    }

    /// A DATA package of the client was taken: it will be executed, or rejected with an error, whatever happens to its connection. Returns
    /// true if it must be acknowledged now.
    pub fn took(&self) -> bool {
        self.outbox().ledger(Ledger::took).unwrap_or(false)
    }

    /// The number that the next HEARTBEAT to the client acknowledges; `None` if nothing is new.
    pub fn acknowledgement(&self) -> Option<u64> {
        self.outbox().ledger(Ledger::acknowledgement).flatten()
    }

    /// The client has received this number of DATA packages: they are no longer kept.
    ///
    /// # Errors
    ///
    /// The number decreases, or exceeds what was sent.
    pub fn acknowledged(&self, count: u64) -> Result<(), BadAcknowledgement> {
        let acknowledge = |ledger: &mut Ledger| ledger.acknowledged(count);
        self.outbox().ledger(acknowledge).unwrap_or(Ok(()))
    }

    /// The connection is lost, and the session waits for its client. Returns false if it is closed or not resumable.
    ///
    /// The connection's driver keeps the running and waiting work of the session, until another connection [claims](Self::claim) it or the
    /// driver closes it, at the end of the [window](super::ResumeConfig::window) after `now`.
    pub fn suspend(self: &Arc<Self>, reason: &CloseReason, now: Millis) -> bool {
        let Some(registry) = self.registry() else {
            return false;
        };
        let pool = self.resume_pool();
        let waits = self.outbox().connection_lost(|known| match known {
            None => Away {
                since: now,
                reason: reason.clone(),
                ticket: pool.is_away(self.id()),
                is_listed: true,
                parked: None,
            },
            Some(mut away) => {
                if !away.is_listed {
                    pool.is_away_again(away.ticket, self.id());
                    away.is_listed = true;
                }
                away
            }
        });
        if waits {
            let event = {
                let mut record = self.record();
                let is_news = record.state == SessionState::Open;
                if is_news {
                    record.state = SessionState::Suspended;
                }
                is_news.then(|| record.offer(Event::Suspended)).flatten()
            };
            self.dispatch(Some(&*registry), event);
        }
        while let Some(oldest) = pool.pop_excess() {
            if let Some(oldest) = registry.get(oldest)
                && oldest.end_suspended(Ledger::evict)
            {
                pool.count_evicted();
            }
        }
        waits
    }

    /// The connection is to go without a word, and the session to wait for its client, which comes back through another frontend: this one will
    /// not be reached any more. The driver is told to let go ([`Next::Release`](crate::Next::Release)). False if it has no connection, has one
    /// through [another frontend](Self::set_relayed), or cannot be resumed.
    pub fn dismiss(&self) -> bool {
        self.outbox()
            .ledger_and_wake(Ledger::dismiss)
            .unwrap_or(false)
    }

    /// Another frontend has accepted the connection to which the session was handed over, and with which it [goes on](Self::resume_from).
    pub fn set_relayed(&self) {
        self.outbox().ledger(Ledger::set_relayed);
    }

    /// The window of a suspended session has ended: it is closed with the reason for which its connection was lost. False if it is closed
    /// already, or has a connection.
    pub fn expire(self: &Arc<Self>) -> bool {
        let is_over = self.end_suspended(Ledger::give_up);
        if is_over {
            self.resume_pool().count_expired();
        }
        is_over
    }

    /// Closes the session for this reason, if it is suspended. Decided under the lock: a client that has resumed meanwhile keeps its
    /// session. Returns false in that case, and if the session is already closed.
    pub fn close_suspended(self: &Arc<Self>, reason: CloseReason) -> bool {
        let given_up = self.outbox().ledger(Ledger::give_up).flatten();
        given_up.is_some() && self.close(reason)
    }

    /// Decided under the lock, as in [`close_suspended`](Self::close_suspended).
    fn end_suspended(
        self: &Arc<Self>,
        decide: impl FnOnce(&mut Ledger) -> Option<CloseReason>,
    ) -> bool {
        let given_up = self.outbox().ledger(|ledger| {
            let tokens = ledger.tokens();
            Some((decide(ledger)?, tokens))
        });
        let Some((reason, tokens)) = given_up.flatten() else {
            return false;
        };
        self.resume_pool().remember_gone(self.id(), tokens);
        self.close(reason)
    }

    /// A new connection of the client claims the session. The connection that has it is asked to release it
    /// ([`Next::Release`](crate::Next::Release)); a [parked](Self::park) session is handed over at once, and the waker of the task that has parked
    /// it is returned: that task has nothing left to do but to end, so it can be woken when there is time. An earlier claim becomes void, as
    /// does this one if it is not the latest. [`poll_claim`](Self::poll_claim) returns the result.
    ///
    /// # Errors
    ///
    /// The session is closed, the token is no longer valid, or the counts are impossible.
    pub fn claim(
        &self,
        number: u64,
        shown: &Credentials,
        waker: &Waker,
    ) -> Result<Option<Waker>, ResumeRefusal> {
        match shown.token {
            Some((sid, hash)) if sid == self.id() => {
                let counts = (shown.received, shown.sent);
                self.outbox().claim(number, hash, counts, waker)
            }
            _ => Err(ResumeRefusal::Unknown),
        }
    }

    /// The state of a claim. `waker` is woken when that changes.
    pub fn poll_claim(&self, number: u64, waker: &Waker) -> Claimed {
        let poll = |ledger: &mut Ledger| ledger.poll_claim(number, waker);
        // An unneeded waker is dropped here, without the lock.
        let polled = self.outbox().ledger(poll);
        polled.map_or(Claimed::Superseded, |(claimed, _waker)| claimed)
    }

    /// Hands the session, which is [suspended](Self::suspend), over to the connection that has claimed it.
    ///
    /// # Errors
    ///
    /// There is no claim, or the session is closed: the hand-over is returned.
    pub fn hand_over(&self, handover: Handover) -> Result<(), Handover> {
        let mut handover = Some(handover);
        let handed = self.outbox().ledger(|ledger| {
            let result = ledger.hand_over(handover.take()?);
            Some(result)
        });
        match handed.flatten() {
            Some(Ok(waker)) => {
                if let Some(waker) = waker {
                    waker.wake();
                }
                Ok(())
            }
            Some(Err(back)) => Err(back),
            None => Err(handover.unwrap_or_else(|| Box::new(()))),
        }
    }

    /// Leaves the hand-over of a [suspended](Self::suspend) session with the session, because nothing runs for it: a connection that
    /// [claims](Self::claim) it has it at once. The caller is woken when the session is closed, and by the next
    /// connection; it has to [take the hand-over back](Self::unpark) before it acts for the session.
    pub fn park(&self, handover: Handover, waker: &Waker) -> Parking {
        self.outbox().park(handover, waker)
    }

    /// Takes the hand-over back that was left with this number, also if the session is closed by now. `None`: the session has another owner
    /// since; nothing is left to do for it.
    pub fn unpark(&self, number: u64) -> Option<Handover> {
        self.outbox().unpark(number)
    }

    /// Continues the session with a connection to which it was handed over, when the client acknowledges the response
    /// ([`go_live`](Self::go_live)). From then on the token of `secret` is valid, until then also the previous ones.
    ///
    /// `None`: token or counts are invalid, or the session is closed.
    pub fn resume_from(&self, shown: &Credentials, secret: &ResumeSecret) -> Option<Resumption> {
        let (_, token) = shown.token?;
        let next = TokenHash::of(secret);
        let resume =
            |ledger: &mut Ledger| ledger.resume_from(shown.received, shown.sent, token, next);
        self.outbox().ledger(resume).flatten()
    }

    /// After the response was queued: kept packages are queued, and all later ones, for a client that takes them
    /// [early](shaddock_protocol::ReturningClient::early). The session still counts as suspended.
    pub fn send_early(&self) {
        self.outbox().send_early();
    }

    /// The client has acknowledged the response: kept packages are sent, then all later ones, if they were not
    /// [early](Self::send_early). Returns false if the session is closed.
    pub fn go_live(self: &Arc<Self>, info: &ClientInfo) -> bool {
        if !self.outbox().go_live() {
            return false;
        }
        let event = {
            let mut record = self.record();
            record.moved(info.transport, info.address.map(without_scope));
            let is_back = record.state == SessionState::Suspended;
            if is_back {
                record.state = SessionState::Open;
            }
            is_back.then(|| record.offer(Event::Resumed))
        };
        if let Some(event) = event {
            self.resume_pool().count_resumed();
            self.dispatch(self.registry().as_deref(), event);
        }
        true
    }
}
