//! One connection as a client sees it: its state, and the requests that wait for their answers.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use shaddock_protocol::{PackageType, encode_package};

use crate::{counts::Counts, link::Link};

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// The socket, TLS or the WebSocket is not there yet.
    Connecting,
    /// The handshake is sent, its answer awaited.
    Handshaking,
    /// The ack is sent.
    Open,
    /// We have said goodbye and wait for the server's end.
    Closing,
}

/// What a request was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequestKind {
    /// Its answer must have the same body.
    Echo,
    /// Its answer must be no error.
    Bind,
    /// The same; and it makes the server push.
    Push,
}

/// A request that waits for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pending {
    pub(crate) id: u64,
    pub(crate) kind: RequestKind,
    /// When it was sent, or should have been: nanoseconds since the engine's start.
    pub(crate) sent: u64,
}

/// An answer to no request that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stray {
    /// Its request was answered before.
    Repeated,
    /// Its request was given up before.
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
    /// Never used again, unlike keys.
    pub(crate) serial: u64,
    pub(crate) started: Instant,
    /// Zero if the server wants no heartbeats.
    pub(crate) heartbeat: Duration,
    pub(crate) requests: Requests,
    /// Of a session that outlives its socket.
    pub(crate) counts: Option<Box<Counts>>,
    /// It is on its way back to its session, or has not heard from it yet.
    pub(crate) is_returning: bool,
}

impl Conn {
    /// Says that the server need not keep the session, before the socket is closed.
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

/// An answer that comes after so many others of its session were given up counts as repeated: a server that loses so many has failed anyway.
const GIVEN_UP: usize = 1024;

/// The requests of one connection.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    last_id: u64,
    /// In the order in which they were begun.
    waiting: VecDeque<Pending>,
    /// Those whose answers are not waited for any more, the last [`GIVEN_UP`] of them.
    given_up: VecDeque<u64>,
}

impl Requests {
    /// Remembers a request that is about to be sent.
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

    /// Finds the request of an answer. Servers may answer out of order.
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

    /// Gives up a request that was begun before `limit`, if there is one.
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
