//! Sending of requests.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use shaddock_protocol::{Message, MessageType, PackageType, WireRoute, put_package_header};

use super::{Engine, Scenario};
use crate::{
    conn::{Pending, RequestKind, State},
    timers::Timer,
};

/// Minimum interval between checks for overdue requests.
const LEAST_PAUSE: Duration = Duration::from_millis(1);

impl Engine {
    /// Sends a request whose body contains the connection's slot and the request's id. `sent` is when it should have been sent, if that is
    /// not now.
    pub(crate) fn request_echo(&mut self, key: usize, sent: Option<Instant>) {
        let sent = self.nanos(sent.unwrap_or(self.now));
        let Some(conn) = self.conns.get_mut(key) else {
            return;
        };
        let pending = conn.requests.begin(RequestKind::Echo, sent);
        let body = self.bodies.request(conn.slot as u64, pending.id);
        let route = WireRoute::Name(self.target.routes.echo.clone());
        put_request(
            &mut self.package,
            &mut self.message,
            route,
            pending.id,
            body,
        );
        self.begin_request(key);
    }

    /// Sends a request that binds the session to `uid`.
    pub(crate) fn request_bind(&mut self, key: usize, uid: usize) {
        let sent = self.nanos(self.now);
        let Some(conn) = self.conns.get_mut(key) else {
            return;
        };
        let pending = conn.requests.begin(RequestKind::Bind, sent);
        let body = format!(r#"{{"uid":"{uid}"}}"#);
        let route = WireRoute::Name(self.target.routes.bind.clone());
        put_request(
            &mut self.package,
            &mut self.message,
            route,
            pending.id,
            body.as_bytes(),
        );
        self.begin_request(key);
    }

    /// Sends a request that makes the server push to all sessions. The pushes contain `number`, and the time at which this request should
    /// have been sent.
    pub(crate) fn request_push(&mut self, key: usize, number: u64, sent: Instant) {
        let sent = self.nanos(sent);
        let Some(conn) = self.conns.get_mut(key) else {
            return;
        };
        let pending = conn.requests.begin(RequestKind::Push, sent);
        let body = self.bodies.get(number, sent);
        let route = WireRoute::Name(self.target.routes.push.clone());
        put_request(
            &mut self.package,
            &mut self.message,
            route,
            pending.id,
            body,
        );
        self.begin_request(key);
    }

    fn begin_request(&mut self, key: usize) {
        if let Some(conn) = self.conns.get_mut(key) {
            if let Some(counts) = &mut conn.counts {
                counts.keep(Bytes::copy_from_slice(&self.package));
            }
            conn.link.send(&self.package);
            self.requests_waiting += 1;
            self.dirty.push(key);
        }
    }

    /// Schedules the next check for overdue requests: a request times out at most a quarter of the timeout late.
    pub(super) fn look_again(&mut self) {
        let pause = (self.timeout / 4).max(LEAST_PAUSE);
        self.timers.add(self.now + pause, Timer::Overdue);
    }

    /// Counts overdue requests as lost, so that their sessions continue.
    pub(super) fn give_up_overdue<S: Scenario>(&mut self, scenario: &mut S) {
        let Some(limit) = self.now.checked_sub(self.timeout) else {
            return;
        };
        let limit = self.nanos(limit);
        let open = self.conns.iter().filter(|(_, c)| c.state == State::Open);
        let open: Vec<usize> = open.map(|(key, _)| key).collect();
        for key in open {
            while let Some(conn) = self.conns.get_mut(key)
                && let Some(pending) = conn.requests.give_up(limit)
            {
                let slot = conn.slot;
                self.requests_waiting -= 1;
                self.tally.lost.add(1);
                self.harvest.note(|| {
                    let Pending { kind, id, .. } = pending;
                    format!("{kind:?} {id} of session {slot} was not answered in time")
                });
                scenario.unanswered(self, key, pending);
            }
        }
    }

    /// The run is over: counts the missing responses.
    pub(crate) fn count_unanswered(&self) {
        self.tally.lost.add(self.requests_waiting as u64);
    }

    /// Pending requests of all connections.
    pub(crate) fn requests_waiting(&self) -> usize {
        self.requests_waiting
    }
}

/// Builds a request in `package`. The body is appended after the head of the message, so that it is copied only once.
fn put_request(
    package: &mut BytesMut,
    message: &mut BytesMut,
    route: WireRoute,
    id: u64,
    body: &[u8],
) {
    package.clear();
    message.clear();
    let head = Message::new(MessageType::Request, id, route, Bytes::new());
    // The routes and the length of the body were validated at the start.
    let _ = head.encode(message);
    let _ = put_package_header(PackageType::Data, message.len() + body.len(), package);
    package.extend_from_slice(message);
    package.extend_from_slice(body);
}
