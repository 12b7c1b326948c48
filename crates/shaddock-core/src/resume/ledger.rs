//! The counts and kept packages of a resumable session. Behind the lock of its outbox.

mod takeover;

use super::claim::{Claim, Handover};
use super::config::OnFull;
use super::kept::{Kept, Piece};
use super::pool::ResumePool;
use super::token::TokenHash;
use crate::{CloseReason, Millis};
use bytes::Bytes;
use std::sync::Arc;
use std::task::Waker;

/// The state of the session's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    /// The handshake response was sent and not acknowledged yet. Nothing is sent, and nothing may be discarded, because the client knows
    /// the next position.
    Waiting,
    /// As `Waiting`, and the kept packages were sent with the handshake response. Accepted packages are sent.
    Early,
    /// Accepted packages are sent.
    Live,
    /// The connection must be cut: its client does not read.
    Cut,
    /// The connection has to go: the frontend will not be reached any more, and the client comes back through another one.
    Dismissed,
    /// There is none.
    Away,
    /// The session is closed.
    Ended,
}

/// Counts and kept packages. [`Session`](crate::Session) describes their use.
#[derive(Debug)]
pub(crate) struct Ledger {
    pool: Arc<ResumePool>,
    kept: Kept,
    /// The number of packages that the client has acknowledged.
    acked: u64,
    /// The number of the client's packages that were taken.
    received: u64,
    /// The number of those that were not acknowledged to the client yet.
    owed: u32,
    /// Packages up to this number were given to a connection, and may have arrived: they keep their numbers.
    given: u64,
    /// The number of the latest connection that wanted the session.
    claimed: u64,
    token: TokenHash,
    link: Link,
    /// The connection that it has, or is about to get, was accepted by another frontend.
    is_relayed: bool,
    /// Only while the session waits for its client.
    away: Option<Box<Away>>,
    rare: Option<Box<Rare>>,
}

/// State that exists only while a connection takes the session over.
#[derive(Default)]
struct Rare {
    /// Tokens issued since the client last acknowledged a handshake, latest last. Any of them may have arrived: the client may have several
    /// concurrent connections, and they may be checked in a different order than they were opened.
    issued: Vec<TokenHash>,
    claim: Option<Claim>,
    /// Data discarded under the lock, to be dropped without it.
    garbage: Vec<Bytes>,
    /// The hand-over of a session that was closed while it was parked. It may contain values of the application, so the task that has parked it
    /// drops it, and not the caller of the close.
    unclaimed: Option<Handover>,
}

impl std::fmt::Debug for Rare {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rare").finish_non_exhaustive()
    }
}

/// A session without a connection.
#[derive(Debug)]
pub(crate) struct Away {
    /// When the connection was lost.
    pub(crate) since: Millis,
    /// Why it was lost.
    pub(crate) reason: CloseReason,
    /// Its position in the pool.
    pub(crate) ticket: u64,
    /// Whether it is in the pool's list. Not if it was to go while its client was coming back.
    pub(crate) is_listed: bool,
    /// The hand-over of the last connection, if it has left it here: the next connection takes it at once.
    pub(crate) parked: Option<Handover>,
}

/// An acknowledgement that decreases, or exceeds what was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("acknowledgement of {count} packages, after {acknowledged}, of {sent}")]
pub struct BadAcknowledgement {
    /// The number of packages that the client acknowledges.
    pub count: u64,
    /// The number it acknowledged before.
    pub acknowledged: u64,
    /// The number of packages that were sent.
    pub sent: u64,
}

impl Ledger {
    pub(crate) fn new(pool: Arc<ResumePool>, token: TokenHash) -> Self {
        Self {
            pool,
            kept: Kept::default(),
            acked: 0,
            received: 0,
            owed: 0,
            given: 0,
            claimed: 0,
            token,
            link: Link::Waiting,
            is_relayed: false,
            away: None,
            rare: None,
        }
    }

    pub(crate) const fn link(&self) -> Link {
        self.link
    }

    pub(crate) fn set_link(&mut self, link: Link) {
        self.link = link;
    }

    fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    fn claim_of(&self) -> Option<&Claim> {
        self.rare.as_ref()?.claim.as_ref()
    }

    /// Whether the connection that has the session must release it.
    pub(crate) fn must_release(&self) -> bool {
        match self.link {
            // The close notifies the driver.
            Link::Ended => false,
            Link::Cut | Link::Dismissed => true,
            Link::Waiting | Link::Early | Link::Live | Link::Away => self.is_claimed(),
        }
    }

    /// Whether another connection claims the session.
    pub(crate) fn is_claimed(&self) -> bool {
        self.claim_of().is_some_and(|claim| claim.handed.is_none())
    }

    // ---- sent packages

    pub(crate) fn keep_own(&mut self, package: &[u8]) {
        self.pool.kept(package.len());
        self.kept.add_own(package);
        self.settle();
    }

    pub(crate) fn keep_shared(&mut self, package: &Bytes) {
        self.pool.kept(package.len());
        self.kept.add_shared(package);
        self.settle();
    }

    /// Keeps a package of which the newest of its key is enough. What [`take_back`](Self::take_back) takes goes before.
    pub(crate) fn keep_latest(&mut self, key: &Arc<str>, package: &Bytes) {
        let before = self.kept.bytes();
        self.kept.add_latest(key, package);
        self.pool.kept(self.kept.bytes() - before);
        self.settle();
    }

    /// Takes the package of this key back that is kept and was given to no connection: it is neither sent nor counted. False: there is none.
    pub(crate) fn take_back(&mut self, key: &str) -> bool {
        let before = self.kept.bytes();
        let Some(package) = self.kept.take_back(key, self.given) else {
            return false;
        };
        self.pool.release(before - self.kept.bytes());
        self.rare().garbage.push(package);
        true
    }

    /// The connection has taken all that was queued for it.
    #[inline]
    pub(crate) fn give(&mut self) {
        if self.is_sending() {
            self.given = self.kept.last();
        }
    }

    /// Whether accepted packages are sent.
    #[inline]
    pub(crate) fn is_sending(&self) -> bool {
        matches!(self.link, Link::Live | Link::Early)
    }

    /// Bytes that are kept.
    pub(crate) fn kept_bytes(&self) -> usize {
        self.kept.bytes()
    }

    pub(crate) fn kept_messages(&self) -> usize {
        self.kept.len()
    }

    /// Discards packages beyond the limits, oldest first.
    pub(crate) fn settle(&mut self) {
        if self.link == Link::Waiting {
            return;
        }
        let (messages, bytes) = self.pool.config().most_kept();
        while self.kept.len() > messages
            || self.kept.bytes() > bytes
            || (self.kept.len() > 0 && self.pool.is_full())
        {
            self.forget_first();
        }
    }

    /// Whether senders that can wait do. On a connection only if its client owes an acknowledgement, so that one is to come.
    pub(crate) fn is_full(&self) -> bool {
        let config = self.pool.config();
        if config.on_full == OnFull::Gap {
            return false;
        }
        let is_over = self.kept.len() > config.max_messages || self.kept.bytes() > config.max_bytes;
        is_over
            && match self.link {
                Link::Live => self.kept.len() >= usize::from(config.ack),
                Link::Waiting | Link::Early | Link::Cut | Link::Dismissed | Link::Away => true,
                Link::Ended => false,
            }
    }

    fn forget_first(&mut self) {
        let before = self.kept.bytes();
        let package = self.kept.forget_first();
        self.pool.release(before - self.kept.bytes());
        if let Some(package) = package {
            self.rare().garbage.push(package);
        }
    }

    /// The client has received this number of packages.
    pub(crate) fn acknowledged(&mut self, count: u64) -> Result<(), BadAcknowledgement> {
        if count < self.acked || count > self.kept.last() {
            return Err(BadAcknowledgement {
                count,
                acknowledged: self.acked,
                sent: self.kept.last(),
            });
        }
        self.acked = count;
        while self.kept.before() < count {
            self.forget_first();
        }
        Ok(())
    }

    pub(crate) fn pieces(&self) -> impl Iterator<Item = Piece<'_>> {
        self.kept.pieces()
    }

    // ---- received packages

    /// A package of the client was taken. Returns true if it must be acknowledged now.
    pub(crate) fn took(&mut self) -> bool {
        self.received += 1;
        self.owed += 1;
        self.owed >= u32::from(self.pool.config().ack.max(1))
    }

    /// The number for the next HEARTBEAT to the client; `None` if nothing is new.
    pub(crate) fn acknowledgement(&mut self) -> Option<u64> {
        let owed = std::mem::take(&mut self.owed);
        (owed > 0).then_some(self.received)
    }

    // ---- state of the connection

    /// The connection is gone.
    pub(crate) fn connection_lost(&mut self) {
        self.link = Link::Away;
        self.is_relayed = false;
        self.settle();
    }

    /// The connection to which it was handed over was accepted by another frontend.
    pub(crate) fn set_relayed(&mut self) {
        self.is_relayed = true;
    }

    /// The connection is to go, and the session to wait for its client. False if it has none here, is about to get another one, or goes already.
    pub(crate) fn dismiss(&mut self) -> bool {
        let has_one = matches!(self.link, Link::Waiting | Link::Early | Link::Live);
        let goes = has_one && !self.is_relayed && !self.is_claimed();
        if goes {
            // What is queued may still be taken.
            self.given = self.kept.last();
            self.link = Link::Dismissed;
            self.pool.count_dismissed();
        }
        goes
    }

    pub(crate) fn away(&self) -> Option<&Away> {
        self.away.as_deref()
    }

    pub(crate) fn set_away(&mut self, f: impl FnOnce(Option<Away>) -> Away) {
        let known = self.away.take().map(|away| *away);
        self.away = Some(Box::new(f(known)));
    }

    /// The session waits no more.
    fn is_back(&mut self) {
        let Some(away) = self.away.take() else {
            return;
        };
        self.pool.is_back(away.ticket);
        if away.parked.is_some() {
            self.rare().unclaimed = away.parked;
        }
    }

    /// The kept packages were queued for the connection, before the client has acknowledged its handshake.
    pub(crate) fn go_early(&mut self) {
        self.link = Link::Early;
        self.give();
    }

    /// The client has acknowledged its handshake: its positions are valid. The kept packages were queued for the connection.
    pub(crate) fn go_live(&mut self) {
        if std::mem::replace(&mut self.link, Link::Live) != Link::Early {
            self.give();
        }
        self.is_back();
        if let Some(rare) = &mut self.rare {
            if let Some(token) = rare.issued.pop() {
                self.token = token;
                rare.issued = Vec::new();
            }
            self.tidy();
        }
    }

    fn tidy(&mut self) {
        let is_idle = |rare: &Rare| {
            rare.claim.is_none()
                && rare.issued.is_empty()
                && rare.garbage.is_empty()
                && rare.unclaimed.is_none()
        };
        if self.rare.as_deref().is_some_and(is_idle) {
            self.rare = None;
        }
    }

    /// The session is closed: kept packages are dropped. Its hand-over is for a connection that has claimed it, or for the task that has parked
    /// it. Returns the waker of that connection.
    pub(crate) fn end(&mut self) -> Option<Waker> {
        self.link = Link::Ended;
        while self.kept.len() > 0 {
            self.forget_first();
        }
        self.is_back();
        self.rare.as_mut()?.claim.as_mut()?.waker.take()
    }

    /// Ends the wait for the client, if it is still away: it cannot resume from now on. Returns the reason for which the connection was
    /// lost.
    pub(crate) fn give_up(&mut self) -> Option<CloseReason> {
        let reason = self.away()?.reason.clone();
        if !matches!(self.link, Link::Away | Link::Waiting | Link::Early) {
            return None;
        }
        self.link = Link::Ended;
        Some(reason)
    }

    /// Too many sessions wait, and this one for the longest time: gives it up, unless its client is about to come back. (Then it is off the list until it
    /// waits again.)
    pub(crate) fn evict(&mut self) -> Option<CloseReason> {
        let is_coming =
            self.claim_of().is_some() || matches!(self.link, Link::Waiting | Link::Early);
        if !is_coming {
            return self.give_up();
        }
        if let Some(away) = &mut self.away {
            away.is_listed = false;
        }
        None
    }

    pub(crate) fn add_garbage(&mut self, packages: impl Iterator<Item = Bytes>) {
        for package in packages {
            self.rare().garbage.push(package);
        }
    }

    pub(crate) fn take_garbage(&mut self) -> Vec<Bytes> {
        let Some(rare) = &mut self.rare else {
            return Vec::new();
        };
        let garbage = std::mem::take(&mut rare.garbage);
        self.tidy();
        garbage
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.pool.release(self.kept.bytes());
        self.is_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `resume.md`, section 9: at most 160 bytes more for an idle session that can be resumed, and at most 1 KiB for a suspended one.
    /// The sizes are ones that mimalloc gives.
    #[test]
    fn is_small() {
        assert!(size_of::<Ledger>() <= 96, "{}", size_of::<Ledger>());
        assert!(size_of::<Away>() <= 64, "{}", size_of::<Away>());
    }
}
