//! The outbox of a resumable session: DATA packages are counted and kept in addition to being queued.

use super::{Intake, Next, Outbox, Queue, Room, SendError, bytes_u32};
use crate::pool;
use crate::resume::{Away, Handover, Ledger, Link, Parking, Piece, TokenHash};
use bytes::Bytes;
use shaddock_protocol::{HEADER_LEN, PackageType, ResumeRefusal};
use std::sync::Arc;
use std::task::Waker;

impl Outbox {
    /// Creates an empty outbox whose DATA packages are counted and kept by `ledger`.
    pub(crate) fn resumable(limit: usize, ledger: Ledger) -> Self {
        let outbox = Self::new(limit);
        outbox.queue.lock().resume = Some(Box::new(ledger));
        outbox
    }

    /// Reads or changes the ledger; `None` if there is none. Values released by `f` are dropped without the lock.
    pub(crate) fn ledger<R>(&self, f: impl FnOnce(&mut Ledger) -> R) -> Option<R> {
        let mut queue = self.queue.lock();
        let ledger = queue.resume.as_deref_mut()?;
        let result = f(ledger);
        let garbage = ledger.take_garbage();
        drop(queue);
        drop(garbage);
        Some(result)
    }

    /// As [`ledger`](Self::ledger), and wakes the connection that has the session if it must release it now.
    pub(crate) fn ledger_and_wake<R>(&self, f: impl FnOnce(&mut Ledger) -> R) -> Option<R> {
        let mut queue = self.queue.lock();
        let ledger = queue.resume.as_deref_mut()?;
        let result = f(ledger);
        Self::unlock_and_wake(queue);
        Some(result)
    }

    /// See [`Session::claim`](crate::Session::claim).
    pub(crate) fn claim(
        &self,
        number: u64,
        token: TokenHash,
        counts: (u64, u64),
        waker: &Waker,
    ) -> Result<Option<Waker>, ResumeRefusal> {
        let mut queue = self.queue.lock();
        let ledger = queue.resume.as_deref_mut().ok_or(ResumeRefusal::Unknown)?;
        let replaced = ledger.claim(number, token, counts, waker)?;
        let parked = replaced.was_parked.then(|| queue.release()).flatten();
        Self::unlock_and_wake(queue);
        if let Some(claimant) = replaced.claimant {
            claimant.wake();
        }
        Ok(parked)
    }

    /// See [`Session::park`](crate::Session::park). In one step with the decision whether there is anything to wait for.
    pub(crate) fn park(&self, handover: Handover, waker: &Waker) -> Parking {
        let mut queue = self.queue.lock();
        let Some(ledger) = queue.resume.as_deref_mut() else {
            return Parking::Ended(handover);
        };
        let (parking, claimant) = match ledger.hand_over(handover) {
            Ok(claimant) => (Parking::HandedOver, claimant),
            Err(handover) => match ledger.park(handover) {
                Ok(number) => (Parking::Parked(number), None),
                Err(handover) => (Parking::Ended(handover), None),
            },
        };
        let mut old = queue.release();
        if let Parking::Parked(_) = parking {
            queue.waker = match old.take() {
                Some(known) if known.will_wake(waker) => Some(known),
                other => {
                    old = other;
                    Some(waker.clone())
                }
            };
        }
        drop(queue);
        drop(old);
        if let Some(claimant) = claimant {
            claimant.wake();
        }
        parking
    }

    /// See [`Session::unpark`](crate::Session::unpark).
    pub(crate) fn unpark(&self, number: u64) -> Option<Handover> {
        self.ledger(|ledger| ledger.unpark(number)).flatten()
    }

    /// The connection is gone: what is queued goes, and what is kept stays. `away` makes the entry of a session that begins to wait, and gets the one of a
    /// session that waits already. False if the session has ended, or cannot be resumed.
    pub(crate) fn connection_lost(&self, away: impl FnOnce(Option<Away>) -> Away) -> bool {
        let mut queue = self.queue.lock();
        if queue.intake != Intake::Open {
            return false;
        }
        let Some(ledger) = queue.resume.as_deref_mut() else {
            return false;
        };
        ledger.connection_lost();
        ledger.set_away(away);
        queue.drop_queued();
        queue.in_flight = 0;
        queue.announced = Next::Continue;
        Self::unlock_and_wake(queue);
        true
    }

    /// The client takes kept data, and all later ones, before it has acknowledged its handshake.
    pub(crate) fn send_early(&self) {
        let mut queue = self.queue.lock();
        let Some(mut ledger) = queue.resume.take() else {
            return;
        };
        if queue.intake == Intake::Open && ledger.link() == Link::Waiting {
            queue.append_kept(&ledger);
            ledger.go_early();
        }
        queue.resume = Some(ledger);
        Self::unlock_and_wake(queue);
    }

    /// The client has acknowledged its handshake: kept data are sent, and all later ones. Returns false if the session has ended, or if
    /// another connection has claimed it.
    pub(crate) fn go_live(&self) -> bool {
        let mut queue = self.queue.lock();
        let Some(mut ledger) = queue.resume.take() else {
            return false;
        };
        // Not if it must release the session: the token and the counts with which the next connection was checked must stay valid.
        let is_answered = matches!(ledger.link(), Link::Waiting | Link::Early);
        let goes = queue.intake == Intake::Open && is_answered && !ledger.is_claimed();
        if goes {
            if ledger.link() == Link::Waiting {
                queue.append_kept(&ledger);
            }
            ledger.go_live();
            ledger.settle();
        }
        queue.resume = Some(ledger);
        Self::unlock_and_wake(queue);
        goes
    }

    /// Ends the ledger at the end of the session: the client cannot resume it.
    pub(super) fn end_ledger(queue: &mut Queue) -> Option<Waker> {
        queue.resume.as_deref_mut().and_then(Ledger::end)
    }
}

impl Queue {
    /// Whether the connection must release the session, which continues without it.
    #[inline]
    pub(super) fn must_release(&self) -> bool {
        self.resume.as_deref().is_some_and(Ledger::must_release)
    }

    /// Whether there is room for what is kept, if that is what counts.
    #[inline]
    pub(super) fn kept_room(&self) -> Option<Room> {
        let ledger = self.resume.as_deref()?;
        if ledger.is_full() {
            Some(Room::Full)
        } else {
            (ledger.link() != Link::Live).then_some(Room::Kept)
        }
    }

    /// A push to a resumable session. The intake is open.
    #[cold]
    #[inline(never)]
    pub(super) fn push_counted(&mut self, package: &mut Bytes) -> Result<(), SendError> {
        loop {
            let first = first_len(package);
            if first == package.len() {
                return self.push_one(package, None);
            }
            self.push_one(&mut package.split_to(first), None)?;
        }
    }

    pub(super) fn push_one(
        &mut self,
        package: &mut Bytes,
        key: Option<&Arc<str>>,
    ) -> Result<(), SendError> {
        let is_sent = self.admit_counted(package.len(), is_data(package))?;
        if is_sent && self.waiting() + package.len() > self.limit as usize {
            return Err(SendError::Busy);
        }
        if is_data(package) {
            self.keep(|ledger| match key {
                Some(key) => ledger.keep_latest(key, package),
                None => ledger.keep_shared(package),
            });
        }
        match key {
            Some(key) if is_sent => self.append_latest(key, package),
            None if is_sent => self.append(package),
            _ => {}
        }
        Ok(())
    }

    /// As [`push_counted`](Self::push_counted), for bytes encoded for this client alone.
    #[inline(never)]
    pub(super) fn push_own_counted(&mut self, mut message: &[u8]) -> Result<(), SendError> {
        while !message.is_empty() {
            let (package, rest) = message.split_at(first_len(message));
            message = rest;
            let is_sent = self.admit_counted(package.len(), is_data(package))?;
            if is_data(package) {
                self.keep(|ledger| ledger.keep_own(package));
            }
            if is_sent {
                self.queued += bytes_u32(package.len());
                self.messages += 1;
                self.append_own(package);
            }
        }
        Ok(())
    }

    fn keep(&mut self, f: impl FnOnce(&mut Ledger)) {
        if let Some(ledger) = self.resume.as_deref_mut() {
            f(ledger);
        }
    }

    /// Whether a package is sent. Otherwise it is kept, if it is DATA; other packages are for this connection only.
    fn admit_counted(&mut self, len: usize, is_data: bool) -> Result<bool, SendError> {
        let limit = self.limit as usize;
        let Some(ledger) = self.resume.as_deref() else {
            return Ok(true);
        };
        let (link, kept) = (ledger.link(), ledger.kept_bytes());
        if len > limit {
            return Err(SendError::TooLarge { len, limit });
        }
        match link {
            Link::Ended => return Err(SendError::Closed),
            // The handshake's own packages.
            Link::Waiting if !is_data => {}
            Link::Waiting => {
                if kept + len > limit {
                    self.cut();
                }
                return Ok(false);
            }
            Link::Cut | Link::Dismissed | Link::Away => return Ok(false),
            Link::Live | Link::Early => {}
        }
        match self.admit(len) {
            // The socket is lost, the session is not.
            Err(SendError::SlowClient) => {
                self.cut();
                Ok(false)
            }
            other => other.map(|()| true),
        }
    }

    /// Cuts the connection, because its client does not read.
    fn cut(&mut self) {
        if let Some(ledger) = self.resume.as_deref_mut() {
            ledger.set_link(Link::Cut);
        }
        self.drop_queued();
    }

    /// Drops the queued data. All DATA among them are kept, up to the limits.
    fn drop_queued(&mut self) {
        self.queued = 0;
        pool::put(std::mem::take(&mut self.own));
        let more = self.more.take().unwrap_or_default();
        let first = self.first.take();
        if let Some(ledger) = self.resume.as_deref_mut() {
            ledger.add_garbage(
                first
                    .into_iter()
                    .chain(more.inserts.into_iter().map(|insert| insert.bytes)),
            );
        }
    }

    /// Enqueues all kept data. They were accepted before.
    fn append_kept(&mut self, ledger: &Ledger) {
        for piece in ledger.pieces() {
            match piece {
                Piece::Own(package) => {
                    self.queued += bytes_u32(package.len());
                    self.append_own(package);
                }
                Piece::Shared(package) => {
                    self.queued += bytes_u32(package.len());
                    let at = self.own.len();
                    self.more.get_or_insert_default().push(at, package.clone());
                }
            }
        }
    }

    fn append_own(&mut self, package: &[u8]) {
        if self.own.capacity() == 0 {
            self.own = pool::lend().keep();
        }
        self.own.extend_from_slice(package);
    }

    pub(super) fn leftovers(&mut self) -> Vec<Bytes> {
        let ledger = self.resume.as_deref_mut();
        ledger.map_or_else(Vec::new, Ledger::take_garbage)
    }

    /// Whether a parking driver must check again, because it must release the session and was not notified.
    #[inline]
    pub(super) fn owes_release(&self) -> bool {
        self.announced != Next::Release && self.must_release()
    }
}

/// The length of the first package in `bytes`, at most all.
fn first_len(bytes: &[u8]) -> usize {
    match bytes.first_chunk::<HEADER_LEN>() {
        Some([_, high, middle, low]) => {
            let body = usize::from(*high) << 16 | usize::from(*middle) << 8 | usize::from(*low);
            bytes.len().min(HEADER_LEN + body)
        }
        None => bytes.len(),
    }
}

/// Whether this is one package, of DATA.
pub(super) fn is_one_data(package: &[u8]) -> bool {
    is_data(package) && first_len(package) == package.len()
}

fn is_data(package: &[u8]) -> bool {
    package.first() == Some(&(PackageType::Data as u8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_distinguished() {
        assert_eq!(first_len(b"\x04\x00\x00\x02ab\x03\x00\x00\x00"), 6);
        assert_eq!(first_len(b"\x04\x00\x00\x02a"), 5);
        assert_eq!(first_len(b"\x04\x00"), 2);
        assert!(is_data(b"\x04\x00\x00\x00") && !is_data(b"\x03\x00\x00\x00"));
    }
}
