//! The take-over of a session: claims of new connections, and the hand-over of the last one.
//!
//! A hand-over has one owner at any time: the connection whose driver holds it, the session while it is parked, or the claim to which it was
//! handed over. Each step from one to the next is one step under the lock of the outbox.

use super::{Ledger, Link};
use crate::resume::claim::{Claim, Claimed, Handover, Replaced, Resumption};
use crate::resume::token::TokenHash;
use shaddock_protocol::ResumeRefusal;
use std::task::Waker;

/// Number of tokens that stay valid until the client acknowledges one. Beyond it the oldest is removed, but not the one that the client has
/// just used.
const MAX_ISSUED: usize = 8;

impl Ledger {
    /// A new connection claims the session, and receives it unless a claim with a higher number exists. A parked session is handed over to
    /// it at once.
    pub(crate) fn claim(
        &mut self,
        number: u64,
        token: TokenHash,
        (received, sent): (u64, u64),
        waker: &Waker,
    ) -> Result<Replaced, ResumeRefusal> {
        if self.link == Link::Ended || !self.is_token(&token) || !self.fits(received, sent) {
            return Err(ResumeRefusal::Unknown);
        }
        if number < self.claimed {
            // The client has opened another connection since. This one finds out when it polls.
            return Ok(Replaced::default());
        }
        self.claimed = number;
        let parked = self.away.as_mut().and_then(|away| away.parked.take());
        let was_parked = parked.is_some();
        let rare = self.rare();
        let (claimant, handed) = match rare.claim.take() {
            Some(claim) => (claim.waker, claim.handed),
            None => (None, None),
        };
        rare.claim = Some(Claim {
            number,
            waker: Some(waker.clone()),
            handed: handed.or(parked),
        });
        Ok(Replaced {
            claimant,
            was_parked,
        })
    }

    /// The session has no connection, and nothing runs for it: its hand-over is left here. Returns the number for
    /// [`unpark`](Self::unpark).
    pub(crate) fn park(&mut self, handover: Handover) -> Result<u64, Handover> {
        match &mut self.away {
            Some(away) if self.link == Link::Away => {
                away.parked = Some(handover);
                Ok(self.claimed)
            }
            _ => Err(handover),
        }
    }

    /// The hand-over that was left here, unless the session was claimed since.
    pub(crate) fn unpark(&mut self, number: u64) -> Option<Handover> {
        if number != self.claimed {
            return None;
        }
        let waiting = self.away.as_mut().and_then(|away| away.parked.take());
        waiting.or_else(|| self.rare.as_mut()?.unclaimed.take())
    }

    /// All valid tokens.
    pub(crate) fn tokens(&self) -> Vec<TokenHash> {
        let issued = self.rare.as_ref().map_or(&[][..], |rare| &rare.issued);
        [self.token].iter().chain(issued).copied().collect()
    }

    /// Whether this is the token of the session, or one that may be. Looks at all of them, whatever the first says.
    pub(crate) fn is_token(&self, token: &TokenHash) -> bool {
        let issued = self.rare.as_ref().map_or(&[][..], |rare| &rare.issued);
        let same = |found, known: &TokenHash| found | known.is(token);
        issued.iter().fold(self.token.is(token), same)
    }

    /// Whether counts of a client are possible for this session.
    fn fits(&self, received: u64, sent: u64) -> bool {
        (self.acked..=self.kept.last()).contains(&received) && sent >= self.received
    }

    pub(crate) fn poll_claim(&mut self, number: u64, waker: &Waker) -> (Claimed, Option<Waker>) {
        let ended = self.link == Link::Ended;
        let Some(rare) = &mut self.rare else {
            return (Claimed::Superseded, None);
        };
        let Some(claim) = rare.claim.as_mut().filter(|claim| claim.number == number) else {
            return (Claimed::Superseded, None);
        };
        let claimed = match (claim.handed.take(), ended) {
            (handed, true) => Claimed::Closed(handed),
            (Some(handed), false) => Claimed::Yours(handed),
            (None, false) => {
                let old = claim.waker.replace(waker.clone());
                return (Claimed::Pending, old);
            }
        };
        let waker = claim.waker.take();
        rare.claim = None;
        (claimed, waker)
    }

    /// The connection that had the session hands it over to the one that has claimed it. `Err`: there is no claim.
    pub(crate) fn hand_over(&mut self, handover: Handover) -> Result<Option<Waker>, Handover> {
        if self.link == Link::Ended {
            return Err(handover);
        }
        match self.rare.as_mut().and_then(|rare| rare.claim.as_mut()) {
            Some(claim) if claim.handed.is_none() => {
                claim.handed = Some(handover);
                Ok(claim.waker.take())
            }
            _ => Err(handover),
        }
    }

    /// The session continues with its new connection. `None` if the counts do not match this session.
    pub(crate) fn resume_from(
        &mut self,
        received: u64,
        sent: u64,
        shown: TokenHash,
        next_token: TokenHash,
    ) -> Option<Resumption> {
        if self.link == Link::Ended || !self.is_token(&shown) || !self.fits(received, sent) {
            return None;
        }
        self.acknowledged(received).ok()?;
        self.link = Link::Waiting;
        self.owed = 0;
        let issued = &mut self.rare().issued;
        if issued.len() >= MAX_ISSUED {
            let shown_first = issued[0].is(&shown);
            issued.remove(usize::from(shown_first));
        }
        issued.push(next_token);
        let position = received.max(self.kept.before());
        self.pool.missed(position - received);
        Some(Resumption {
            received: self.received,
            position,
            missed: position - received,
        })
    }
}
