//! Messages that wait for the connection to NATS: bounded in bytes and in number. Expired messages are not sent.
//!
//! The client of NATS has a queue of its own that is bounded in messages only and forgets nothing. So it is given no more than a window of
//! bytes at a time; messages that are sent while the window is full wait here, in order. As long as NATS keeps up none waits, and sending a
//! message reads two counters and takes no lock.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use parking_lot::{Mutex, MutexGuard};

/// Bytes that the client is given before it has sent what it was given before.
const WINDOW_BYTES: usize = 1024 * 1024;
/// Messages that wait here, however short they are.
const MAX_MESSAGES: usize = 65_536;
/// Bytes of a message beside its content.
pub(super) const OVERHEAD: usize = 128;

/// A message that waits.
pub(super) struct Waiting<M> {
    pub(super) message: M,
    size: usize,
    until: Option<Instant>,
}

/// The window, and what waits behind it.
pub(super) struct Waits<M> {
    queue: Mutex<VecDeque<Waiting<M>>>,
    max_bytes: usize,
    /// Something waits, so everything else must too.
    congested: AtomicBool,
    /// Bytes in the queue.
    bytes: AtomicUsize,
    /// Messages that were given to the client.
    given: AtomicU64,
    /// Bytes that were given to it since it had nothing left.
    in_window: AtomicUsize,
    expired: AtomicU64,
    /// Something began to wait.
    pub(super) began: Notify,
}

/// The decision about a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place<M> {
    /// Give it to the client.
    Now(M),
    /// It waits.
    Later,
    /// There is no room.
    Full,
}

impl<M> Waits<M> {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self {
            queue: Mutex::default(),
            max_bytes,
            congested: AtomicBool::new(false),
            bytes: AtomicUsize::new(0),
            given: AtomicU64::new(0),
            in_window: AtomicUsize::new(0),
            expired: AtomicU64::new(0),
            began: Notify::new(),
        }
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<Waiting<M>>> {
        self.queue.lock()
    }

    /// Bytes that wait.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Messages that waited for too long and were not sent.
    pub(super) fn expired(&self) -> u64 {
        self.expired.load(Ordering::Relaxed)
    }

    /// Decides on a message. `taken`: how many messages the client has sent.
    pub(super) fn place(&self, message: M, size: usize, life: Duration, taken: u64) -> Place<M> {
        let size = size + OVERHEAD;
        if !self.congested.load(Ordering::Acquire) && self.fits(size, taken) {
            return Place::Now(message);
        }
        let mut queue = self.queue();
        // It may have become empty in this moment; then the next message finds that.
        self.congested.store(true, Ordering::Release);
        let bytes = self.bytes.load(Ordering::Relaxed);
        if queue.len() >= MAX_MESSAGES || bytes + size > self.max_bytes {
            return Place::Full;
        }
        self.bytes.store(bytes + size, Ordering::Relaxed);
        let until = Instant::now().checked_add(life);
        queue.push_back(Waiting {
            message,
            size,
            until,
        });
        drop(queue);
        self.began.notify_one();
        Place::Later
    }

    /// Whether the client has room for so many bytes; then they count as given.
    fn fits(&self, size: usize, taken: u64) -> bool {
        if self.given.load(Ordering::Relaxed) <= taken {
            self.in_window.store(size, Ordering::Relaxed);
        } else if self.in_window.fetch_add(size, Ordering::Relaxed) + size > WINDOW_BYTES {
            self.in_window.fetch_sub(size, Ordering::Relaxed);
            return false;
        }
        self.given.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// A message was given to the client beside all this.
    pub(super) fn beside(&self) {
        self.given.fetch_add(1, Ordering::Relaxed);
    }

    /// A message that was to be given was not.
    pub(super) fn not_given(&self) {
        self.given.fetch_sub(1, Ordering::Relaxed);
    }

    /// Throws away what is too old, wherever it is.
    pub(super) fn expire(&self, now: Instant) {
        self.queue().retain(|waiting| {
            let over = waiting.until.is_some_and(|until| until <= now);
            if over {
                self.bytes.fetch_sub(waiting.size, Ordering::Relaxed);
                self.expired.fetch_add(1, Ordering::Relaxed);
            }
            !over
        });
    }

    /// Gives what fits, in order. False if something still waits.
    pub(super) fn advance(&self, taken: impl Fn() -> u64, mut give: impl FnMut(M)) -> bool {
        let mut queue = self.queue();
        while let Some(next) = queue.front() {
            if !self.fits(next.size, taken()) {
                return false;
            }
            if let Some(next) = queue.pop_front() {
                self.bytes.fetch_sub(next.size, Ordering::Relaxed);
                give(next.message);
            }
        }
        // Under the lock: what comes now is behind all that was given.
        self.congested.store(false, Ordering::Release);
        true
    }

    /// The connection broke: what waits is not sent.
    pub(super) fn clear(&self, taken: u64) {
        let mut queue = self.queue();
        self.given.store(taken, Ordering::Relaxed);
        queue.clear();
        self.bytes.store(0, Ordering::Relaxed);
        self.congested.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const KIB: usize = 1024;

    #[test]
    fn while_it_is_sent_nothing_waits() {
        let waits = Waits::new(0);
        for n in 0..10_000 {
            assert_eq!(waits.place(n, 100 * KIB, HOUR, n), Place::Now(n));
        }
        assert_eq!(waits.bytes(), 0);
    }

    #[test]
    fn a_client_that_sends_nothing_gets_a_window_and_the_rest_waits_in_order() {
        let waits = Waits::new(1024 * KIB);
        let mut given = Vec::new();
        let mut full = 0;
        for n in 0..1000 {
            match waits.place(n, 10 * KIB, HOUR, 0) {
                Place::Now(n) => given.push(n),
                Place::Later => {}
                Place::Full => full += 1,
            }
        }
        assert!((90..=103).contains(&given.len()), "{}", given.len());
        assert!((700..=820).contains(&full), "{full}");
        assert!(waits.bytes() <= 1024 * KIB && waits.bytes() > 1000 * KIB);
        assert!(!waits.advance(|| 0, |_| panic!("there is no room")));
        // It goes on: each time that all is sent there is a window.
        let mut rounds = 0;
        let mut out = given.clone();
        loop {
            rounds += 1;
            let taken = out.len() as u64;
            let done = waits.advance(|| taken, |n| out.push(n));
            if done {
                break;
            }
        }
        assert!((1..=3).contains(&rounds), "{rounds}");
        assert_eq!(out, (0..out.len()).collect::<Vec<_>>());
        assert_eq!((waits.bytes(), out.len() + full), (0, 1000));
        let taken = out.len() as u64;
        assert_eq!(waits.place(7, 1, HOUR, taken), Place::Now(7));
    }

    #[test]
    fn what_is_too_old_is_thrown_away_also_behind_what_is_not() {
        let waits = Waits::new(1024 * KIB);
        assert_eq!(waits.place(0, 2048 * KIB, HOUR, 0), Place::Now(0));
        for (n, life) in [
            (1, HOUR),
            (2, Duration::ZERO),
            (3, HOUR),
            (4, Duration::ZERO),
        ] {
            assert_eq!(waits.place(n, 200 * KIB, life, 0), Place::Later);
        }
        let mut out = Vec::new();
        waits.expire(Instant::now());
        assert!(!waits.advance(|| 0, |n| out.push(n)));
        assert_eq!(
            (waits.expired(), waits.bytes()),
            (2, 2 * (200 * KIB + OVERHEAD))
        );
        assert!(waits.advance(|| 1, |n| out.push(n)));
        assert_eq!(out, [1, 3]);
    }
}
