//! The shared state of all resumable sessions of a service: limits, counts, and the list of suspended sessions.

use super::config::ResumeConfig;
use super::token::TokenHash;
use crate::Sid;
use crate::sync::Mutex;
use shaddock_protocol::ResumeRefusal;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Counts of resumable sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResumeStatistics {
    /// Sessions that were granted resumption.
    pub granted: u64,
    /// Number of times that a session was resumed.
    pub resumed: u64,
    /// Failed resumptions, by reason ([`ResumeRefusal::name`]).
    pub refused: Vec<(&'static str, u64)>,
    /// Sessions that are suspended now.
    pub suspended: usize,
    /// Messages that clients have missed.
    pub missed: u64,
    /// Sessions whose window ended.
    pub expired: u64,
    /// Sessions closed before their window ended, because too many were suspended.
    pub evicted: u64,
    /// Connections that were closed so that their clients come back to their sessions through other frontends.
    pub dismissed: u64,
    /// Bytes kept now.
    pub kept_bytes: usize,
}

/// Shared by a service and its sessions.
#[derive(Debug, Default)]
pub(crate) struct ResumePool {
    config: ResumeConfig,
    kept_bytes: AtomicUsize,
    claims: AtomicU64,
    suspended: AtomicUsize,
    granted: AtomicU64,
    resumed: AtomicU64,
    refused: [AtomicU64; ResumeRefusal::ALL.len()],
    missed: AtomicU64,
    expired: AtomicU64,
    evicted: AtomicU64,
    dismissed: AtomicU64,
    /// Taken under the locks of outboxes, and alone.
    away: Mutex<AwayList>,
    /// Locked alone.
    gone: Mutex<Gone>,
}

/// Number of expired sessions that are remembered, so that their clients receive the reason.
const MAX_GONE: usize = 10_000;

/// The tokens of sessions whose window has ended.
#[derive(Debug, Default)]
struct Gone {
    tokens: HashMap<Sid, Vec<TokenHash>>,
    /// Oldest first.
    order: VecDeque<Sid>,
}

#[derive(Debug, Default)]
struct AwayList {
    next: u64,
    sessions: BTreeMap<u64, Sid>,
}

fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

impl ResumePool {
    pub(crate) fn new(config: ResumeConfig) -> Self {
        Self {
            config,
            ..Self::default()
        }
    }

    pub(crate) const fn config(&self) -> &ResumeConfig {
        &self.config
    }

    pub(crate) fn kept(&self, bytes: usize) {
        self.kept_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn release(&self, bytes: usize) {
        self.kept_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(crate) fn is_full(&self) -> bool {
        self.kept_bytes.load(Ordering::Relaxed) > self.config.max_total_bytes
    }

    pub(crate) fn next_claim(&self) -> u64 {
        self.claims.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A session begins to wait: its place in the list.
    pub(crate) fn is_away(&self, session: Sid) -> u64 {
        let mut away = self.away.lock();
        let ticket = away.next;
        away.next += 1;
        away.sessions.insert(ticket, session);
        self.suspended.store(away.sessions.len(), Ordering::Relaxed);
        ticket
    }

    /// A session that was [passed over](Self::pop_excess) waits again, at its old place.
    pub(crate) fn is_away_again(&self, ticket: u64, session: Sid) {
        let mut away = self.away.lock();
        away.sessions.insert(ticket, session);
        self.suspended.store(away.sessions.len(), Ordering::Relaxed);
    }

    /// Takes the session that waits longest off the list, if there are too many. Its time is over, unless its client is about to come back.
    pub(crate) fn pop_excess(&self) -> Option<Sid> {
        let mut away = self.away.lock();
        if away.sessions.len() <= self.config.max_suspended {
            return None;
        }
        let oldest = away.sessions.pop_first();
        self.suspended.store(away.sessions.len(), Ordering::Relaxed);
        oldest.map(|(_, session)| session)
    }

    /// A session is no longer suspended, for any reason.
    pub(crate) fn is_back(&self, ticket: u64) {
        let mut away = self.away.lock();
        away.sessions.remove(&ticket);
        self.suspended.store(away.sessions.len(), Ordering::Relaxed);
    }

    /// Remembers an expired session. Beyond [`MAX_GONE`] the oldest one is forgotten.
    pub(crate) fn remember_gone(&self, sid: Sid, tokens: Vec<TokenHash>) {
        let mut gone = self.gone.lock();
        gone.order.push_back(sid);
        gone.tokens.insert(sid, tokens);
        if gone.order.len() > MAX_GONE
            && let Some(oldest) = gone.order.pop_front()
        {
            gone.tokens.remove(&oldest);
        }
    }

    /// Whether this was the token of an expired session.
    pub(crate) fn is_gone(&self, sid: Sid, token: &TokenHash) -> bool {
        let gone = self.gone.lock();
        let tokens = gone.tokens.get(&sid).map_or(&[][..], Vec::as_slice);
        tokens
            .iter()
            .fold(false, |found, known| found | known.is(token))
    }

    pub(crate) fn count_granted(&self) {
        add(&self.granted, 1);
    }

    pub(crate) fn count_resumed(&self) {
        add(&self.resumed, 1);
    }

    pub(crate) fn count_refused(&self, why: ResumeRefusal) {
        if let Some(place) = ResumeRefusal::ALL.iter().position(|known| *known == why) {
            add(&self.refused[place], 1);
        }
    }

    pub(crate) fn missed(&self, messages: u64) {
        add(&self.missed, messages);
    }

    pub(crate) fn count_expired(&self) {
        add(&self.expired, 1);
    }

    pub(crate) fn count_evicted(&self) {
        add(&self.evicted, 1);
    }

    pub(crate) fn count_dismissed(&self) {
        add(&self.dismissed, 1);
    }

    pub(crate) fn statistics(&self) -> ResumeStatistics {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let refused = ResumeRefusal::ALL.iter().zip(&self.refused);
        ResumeStatistics {
            granted: get(&self.granted),
            resumed: get(&self.resumed),
            refused: refused.map(|(why, n)| (why.name(), get(n))).collect(),
            suspended: self.suspended.load(Ordering::Relaxed),
            missed: get(&self.missed),
            expired: get(&self.expired),
            evicted: get(&self.evicted),
            dismissed: get(&self.dismissed),
            kept_bytes: self.kept_bytes.load(Ordering::Relaxed),
        }
    }
}
