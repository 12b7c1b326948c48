//! The client side of one connection: its state and its pending requests.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use shaddock_protocol::{PackageType, encode_package};

use crate::{counts::Counts, link::Link};

/// The state of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// The socket, TLS or WebSocket is being set up.
    Connecting,
    /// The handshake was sent, its response is pending.
    Handshaking,
    /// The ack was sent.
    Open,
    /// The goodbye was sent; waiting for the server to close.
    Closing,
}

/// The purpose of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequestKind {
    /// The response must have the same body.
    Echo,
    /// The response must not be an error.
    Bind,
    /// The same; and it makes the server push.
    Push,
}

/// A pending request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pending {
    pub(crate) id: u64,
    pub(crate) kind: RequestKind,
    /// When it was sent, or should have been: nanoseconds since the engine's start.
    pub(crate) sent: u64,
}

/// A response without a pending request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stray {
    /// Its request already received a response.
    Repeated,
    /// Its request has timed out.
    Late,
    /// It never had a request.
    Unknown,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) link: Link,
    pub(crate) state: State,
    /// The scenario's number for this session.
    pub(crate) slot: usize,
    /// Never reused, unlike keys.
    pub(crate) serial: u64,
    pub(crate) started: Instant,
    /// Zero if the server requests no heartbeats.
    pub(crate) heartbeat: Duration,
    pub(crate) requests: Requests,
    /// Only for a resumable session.
    pub(crate) counts: Option<Box<Counts>>,
    /// The session has resumed, the server has responses for it, and none of them has arrived yet.
    pub(crate) is_returning: bool,
}

impl Conn {
    /// Sends a goodbye before the socket is closed, so that the server need not keep the session.
    pub(crate) fn say_goodbye(&mut self) {
        if self.state == State::Open && self.counts.is_some() {
            self.link
                .send(&encode_package(PackageType::Kick, b"").unwrap_or_default());
        }
    }
}

/// A session without a socket.
#[derive(Debug)]
pub(crate) struct Away {
    pub(crate) slot: usize,
    pub(crate) requests: Requests,
    pub(crate) counts: Box<Counts>,
}

/// After this number of timeouts of its session, a late response counts as repeated: a server that loses so many has failed anyway.
const GIVEN_UP: usize = 1024;

/// The requests of one connection.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    last_id: u64,
    /// In the order of sending.
    waiting: VecDeque<Pending>,
    /// Requests that have timed out, the last [`GIVEN_UP`] of them.
    given_up: VecDeque<u64>,
}

impl Requests {
    /// Whether any request has no response yet.
    pub(crate) fn is_pending(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Records a request that is about to be sent.
    pub(crate) fn begin(&mut self, kind: RequestKind, sent: u64) -> Pending {
        self.last_id += 1;
        let pending = Pending {
            id: self.last_id,
            kind,
            sent,
        };
        self.waiting.push_back(pending);
        pending
    }

    /// Finds the request of a response. Servers may respond out of order.
    pub(crate) fn settle(&mut self, id: u64) -> Result<Pending, Stray> {
        let place = match self.waiting.front() {
            Some(first) if first.id == id => Some(0),
            _ => self.waiting.iter().position(|pending| pending.id == id),
        };
        match place.and_then(|place| self.waiting.remove(place)) {
            Some(pending) => Ok(pending),
            None if self.given_up.contains(&id) => {
                self.given_up.retain(|given_up| *given_up != id);
                Err(Stray::Late)
            }
            None if (1..=self.last_id).contains(&id) => Err(Stray::Repeated),
            None => Err(Stray::Unknown),
        }
    }

    /// Removes a request that was sent before `limit`, if there is one.
    pub(crate) fn give_up(&mut self, limit: u64) -> Option<Pending> {
        self.waiting.front().filter(|first| first.sent < limit)?;
        let overdue = self.waiting.pop_front()?;
        if self.given_up.len() == GIVEN_UP {
            self.given_up.pop_front();
        }
        self.given_up.push_back(overdue.id);
        Some(overdue)
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_find_their_requests_in_any_order_and_only_once() {
        let mut requests = Requests::default();
        let sent: Vec<Pending> = (0..3)
            .map(|at| requests.begin(RequestKind::Echo, at))
            .collect();
        assert_eq!(requests.settle(3), Ok(sent[2]));
        assert_eq!(requests.settle(1), Ok(sent[0]));
        assert_eq!(requests.settle(1), Err(Stray::Repeated));
        assert_eq!(requests.settle(4), Err(Stray::Unknown));
        assert_eq!(requests.settle(0), Err(Stray::Unknown));
        assert_eq!(requests.waiting(), 1);
    }

    #[test]
    fn an_answer_to_a_request_that_was_given_up_is_late_once() {
        let mut requests = Requests::default();
        let sent: Vec<Pending> = (0..3)
            .map(|at| requests.begin(RequestKind::Echo, at))
            .collect();
        assert_eq!(requests.give_up(0), None);
        assert_eq!(requests.give_up(1), Some(sent[0]));
        assert_eq!(requests.give_up(1), None);
        assert_eq!(requests.settle(1), Err(Stray::Late));
        assert_eq!(requests.settle(1), Err(Stray::Repeated));
        assert_eq!(requests.settle(2), Ok(sent[1]));
        assert_eq!(requests.waiting(), 1);
    }
}
