//! Resumable sessions: the counts of both ends, kept messages, and the delay before the next attempt. Data and arithmetic, without clock
//! and IO. `docs/protocol/resume.md` specifies the protocol.

use std::collections::VecDeque;
use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use serde::Serialize;
use serde_json::Value;
use shaddock_protocol::{MAX_TOKEN_LEN, put_heartbeat, read_acknowledgement};

use crate::Violation;

/// Maximum number of unacknowledged messages. Beyond it callers wait for room.
pub(crate) const MAX_KEPT: usize = 256;

/// A connection that lasted this long counts as stable: the next attempt begins with the shortest delay.
pub(crate) const STABLE: Duration = Duration::from_secs(5);

/// How a client reconnects after it lost its connection: see [`ClientBuilder::resume`](crate::ClientBuilder::resume).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "it does nothing until it is given to a builder"]
pub struct Reconnect {
    shortest: Duration,
    longest: Duration,
    attempts: u32,
}

impl Default for Reconnect {
    fn default() -> Self {
        Self {
            shortest: Duration::from_millis(250),
            longest: Duration::from_secs(10),
            attempts: 30,
        }
    }
}

impl Reconnect {
    /// Creates options with the defaults named at the methods.
    pub fn new() -> Self {
        Self::default()
    }

    /// The delay before the first attempt, and the longest delay: each failed attempt doubles it. Half of it is random, so that the clients
    /// of a failed server do not all reconnect at once. Default: 250 ms, 10 s.
    pub const fn waits(mut self, shortest: Duration, longest: Duration) -> Self {
        self.shortest = shortest;
        self.longest = longest;
        self
    }

    /// After this number of failed attempts the client is closed, with the reason for which the connection was lost. Default: 30.
    pub const fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts;
        self
    }

    /// The delay before attempt number `done` (from 0). `None`: there were enough attempts.
    pub(crate) fn wait(&self, done: u32) -> Option<Duration> {
        self.wait_at(done, RandomState::new().hash_one(done))
    }

    fn wait_at(&self, done: u32, chance: u64) -> Option<Duration> {
        if done >= self.attempts {
            return None;
        }
        let full = self
            .shortest
            .saturating_mul(1 << done.min(20))
            .min(self.longest);
        // 512 to 1024 parts of 1024.
        let parts = 512 + u32::try_from(chance % 513).unwrap_or(0);
        Some(full.saturating_mul(parts) / 1024)
    }
}

/// `sys.resume` of this client's handshake.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ResumeRequest {
    v: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    received: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sent: Option<u64>,
    /// Take what is sent again directly behind the response, and not after its acknowledgement: a round trip less.
    #[serde(skip_serializing_if = "Option::is_none")]
    early: Option<bool>,
}

impl ResumeRequest {
    /// A resumable session.
    pub(crate) const fn new() -> Self {
        Self {
            v: 1,
            token: None,
            received: None,
            sent: None,
            early: None,
        }
    }

    pub(crate) const fn is_back(&self) -> bool {
        self.token.is_some()
    }
}

/// `sys.resume` of the server's response, validated.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Grant {
    token: String,
    ack: u64,
    address: Option<String>,
    pub(crate) outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// A new session; the word explains why the old one was not resumed, if there was one.
    New { why: String },
    Resumed {
        received: u64,
        position: u64,
        missed: u64,
    },
}

/// Never prints the token, which is equivalent to a password.
impl std::fmt::Debug for Grant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grant")
            .field("outcome", &self.outcome)
            .finish_non_exhaustive()
    }
}

/// The protocol has one byte for it, and a client that owes more at a time would stop.
const MAX_ACK: u64 = 255;
/// Above everything that can be sent, and far below the maximum.
const MAX_POSITION: u64 = u64::MAX / 2;

impl Grant {
    /// An invalid grant counts as none; a resumption without counts is an error.
    pub(crate) fn read(value: &Value) -> Result<Option<Self>, Violation> {
        let text = |name: &str| value[name].as_str().filter(|text| !text.is_empty());
        let token = text("token").filter(|token| token.len() <= MAX_TOKEN_LEN);
        let ack = value["ack"]
            .as_u64()
            .filter(|ack| (1..=MAX_ACK).contains(ack));
        let (Some(1), Some(token), Some(ack)) = (value["v"].as_u64(), token, ack) else {
            return Ok(None);
        };
        let outcome = if value["resumed"] == true {
            let count = |name: &str| value[name].as_u64();
            match (count("received"), count("position")) {
                (Some(received), Some(position)) if position <= MAX_POSITION => Outcome::Resumed {
                    received,
                    position,
                    missed: count("missed").unwrap_or(0),
                },
                _ => return Err(Violation::ResumeCounts),
            }
        } else {
            let why = text("why").unwrap_or_default().to_owned();
            Outcome::New { why }
        };
        Ok(Some(Self {
            token: token.to_owned(),
            ack,
            address: text("address").map(str::to_owned),
            outcome,
        }))
    }
}

/// The counts of one session, and its kept messages.
#[derive(Debug)]
pub(crate) struct Ledger {
    grant: Grant,
    /// DATA packages since the session began.
    sent: u64,
    received: u64,
    /// The numbers acknowledged by the server, and by this client.
    acknowledged: u64,
    told: u64,
    /// Sent and not acknowledged, oldest first.
    kept: VecDeque<Bytes>,
}

impl Ledger {
    pub(crate) fn new(grant: Grant) -> Self {
        Self {
            grant,
            sent: 0,
            received: 0,
            acknowledged: 0,
            told: 0,
            kept: VecDeque::new(),
        }
    }

    pub(crate) fn has_room(&self) -> bool {
        self.kept.len() < MAX_KEPT
    }

    pub(crate) fn kept(&self) -> impl Iterator<Item = &Bytes> {
        self.kept.iter()
    }

    /// The address that the server asks this client to try first.
    pub(crate) fn address(&self) -> Option<&str> {
        self.grant.address.as_deref()
    }

    /// A DATA package is about to be written.
    pub(crate) fn keep(&mut self, package: Bytes) {
        self.sent += 1;
        self.kept.push_back(package);
    }

    /// A DATA package was delivered to the application. Returns whether an acknowledgement is due.
    pub(crate) fn taken(&mut self) -> bool {
        self.received += 1;
        self.received - self.told >= self.grant.ack
    }

    /// A HEARTBEAT arrived.
    pub(crate) fn heartbeat(&mut self, body: &[u8]) -> Result<(), Violation> {
        match read_acknowledgement(body) {
            Ok(Some(count)) => self.forget(count),
            Ok(None) => Ok(()),
            Err(_) => Err(Violation::Acknowledgement),
        }
    }

    fn forget(&mut self, count: u64) -> Result<(), Violation> {
        if count < self.acknowledged || count > self.sent {
            return Err(Violation::Acknowledgement);
        }
        let news = usize::try_from(count - self.acknowledged).unwrap_or(usize::MAX);
        self.kept.drain(..news.min(self.kept.len()));
        self.acknowledged = count;
        Ok(())
    }

    /// This client's next HEARTBEAT, with the number of received packages if it has changed.
    pub(crate) fn put_heartbeat(&mut self) -> Bytes {
        let news = (self.received != self.told).then_some(self.received);
        self.told = self.received;
        let mut out = BytesMut::new();
        put_heartbeat(news, &mut out);
        out.freeze()
    }

    /// The resumption data for the next connection.
    pub(crate) fn ask(&self) -> ResumeRequest {
        ResumeRequest {
            v: 1,
            token: Some(self.grant.token.clone()),
            received: Some(self.received),
            sent: Some(self.sent),
            early: Some(true),
        }
    }

    /// The server continues the session. Kept messages must be sent again.
    pub(crate) fn resume(
        &mut self,
        mut grant: Grant,
        received: u64,
        position: u64,
    ) -> Result<(), Violation> {
        if position < self.received {
            return Err(Violation::ResumeCounts);
        }
        self.forget(received)?;
        self.received = position;
        self.told = position;
        grant.address = grant.address.or_else(|| self.grant.address.take());
        self.grant = grant;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn grant() -> Grant {
        let value = json!({"v": 1, "token": "secret", "window": 60, "ack": 2, "address": "ws://h"});
        Grant::read(&value).unwrap().unwrap()
    }

    fn package(n: u8) -> Bytes {
        Bytes::copy_from_slice(&[n])
    }

    #[test]
    fn waits_double_up_to_the_longest_and_half_of_each_is_chance() {
        let reconnect = Reconnect::new()
            .waits(Duration::from_millis(100), Duration::from_secs(1))
            .attempts(40);
        for (done, longest) in [(0, 100), (1, 200), (3, 800), (4, 1000), (39, 1000)] {
            let longest = Duration::from_millis(longest);
            assert_eq!(reconnect.wait_at(done, 0), Some(longest / 2));
            assert_eq!(reconnect.wait_at(done, 512), Some(longest));
            let wait = reconnect.wait(done).unwrap();
            assert!((longest / 2..=longest).contains(&wait), "{wait:?}");
        }
        assert_eq!(reconnect.wait(40), None);
    }

    #[test]
    fn grants_that_make_no_sense() {
        for none in [
            json!(null),
            json!(7),
            json!([1]),
            json!({"v": 2, "token": "t", "ack": 1}),
            json!({"v": 1, "ack": 1}),
            json!({"v": 1, "token": "", "ack": 1}),
            json!({"v": 1, "token": "t".repeat(129), "ack": 1}),
            json!({"v": 1, "token": "t"}),
            json!({"v": 1, "token": "t", "ack": 0}),
            json!({"v": 1, "token": "t", "ack": "1"}),
        ] {
            assert_eq!(Grant::read(&none), Ok(None), "{none}");
        }
        for wrong in [
            json!({"v": 1, "token": "t", "ack": 1, "resumed": true}),
            json!({"v": 1, "token": "t", "ack": 1, "resumed": true, "received": -1, "position": 0}),
        ] {
            assert_eq!(Grant::read(&wrong), Err(Violation::ResumeCounts), "{wrong}");
        }
        assert!(!format!("{:?}", grant()).contains("secret"));
    }

    #[test]
    fn what_is_acknowledged_is_forgotten_and_nothing_else() {
        let mut ledger = Ledger::new(grant());
        for n in 1..=3 {
            ledger.keep(package(n));
        }
        ledger.heartbeat(b"").unwrap();
        ledger.heartbeat(b"\x01").unwrap();
        ledger.heartbeat(b"\x01").unwrap();
        assert_eq!(
            ledger.kept().collect::<Vec<_>>(),
            [&package(2), &package(3)]
        );
        // Back, ahead, no number, two numbers.
        for wrong in [&b"\x00"[..], b"\x04", b"\x80", b"\x01\x01"] {
            assert_eq!(
                ledger.heartbeat(wrong),
                Err(Violation::Acknowledgement),
                "{wrong:?}"
            );
        }
        assert_eq!(ledger.kept().count(), 2);
    }

    #[test]
    fn acknowledgements_are_due_after_a_number_of_messages_and_contain_the_position() {
        let mut ledger = Ledger::new(grant());
        assert_eq!(&ledger.put_heartbeat()[..], b"\x03\x00\x00\x00");
        assert!(!ledger.taken());
        assert!(ledger.taken());
        assert_eq!(&ledger.put_heartbeat()[..], b"\x03\x00\x00\x01\x02");
        assert_eq!(&ledger.put_heartbeat()[..], b"\x03\x00\x00\x00");
    }

    #[test]
    fn coming_back() {
        let mut ledger = Ledger::new(grant());
        for n in 1..=3 {
            ledger.keep(package(n));
        }
        ledger.taken();
        let asked = serde_json::to_value(ledger.ask()).unwrap();
        assert_eq!(
            asked,
            json!({"v": 1, "token": "secret", "received": 1, "sent": 3, "early": true})
        );
        let asked = serde_json::to_value(ResumeRequest::new()).unwrap();
        assert_eq!(asked, json!({"v": 1}));
        let mut next = grant();
        next.address = None;
        next.token = "other".to_owned();
        // The server counts from less than came, or has received more than was sent.
        for (received, position) in [(2, 0), (4, 1)] {
            assert!(ledger.resume(next.clone(), received, position).is_err());
        }
        ledger.resume(next, 2, 5).unwrap();
        assert_eq!(ledger.kept().collect::<Vec<_>>(), [&package(3)]);
        assert_eq!(ledger.address(), Some("ws://h"));
        let asked = serde_json::to_value(ledger.ask()).unwrap();
        assert_eq!(
            asked,
            json!({"v": 1, "token": "other", "received": 5, "sent": 3, "early": true})
        );
    }

    #[test]
    fn no_more_is_kept_than_the_bound() {
        let mut ledger = Ledger::new(grant());
        for _ in 0..MAX_KEPT {
            assert!(ledger.has_room());
            ledger.keep(package(0));
        }
        assert!(!ledger.has_room());
        ledger.heartbeat(b"\x01").unwrap();
        assert!(ledger.has_room());
    }
}
