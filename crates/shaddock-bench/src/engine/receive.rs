//! Handling of received packages: handshake responses, responses and pushes.

use std::{
    borrow::Cow,
    collections::HashMap,
    time::{Duration, Instant},
};

use bytes::Bytes;
use serde_json::Value;
use shaddock_protocol::{
    MAX_BODY, Message, MessageType, Package, PackageType, WireRoute, inflate, looks_compressed,
};

use super::{Engine, PLAIN, Ready, Scenario};
use crate::{
    body::is_error,
    conn::{Pending, RequestKind, State, Stray},
    counts::{Counts, Outcome},
    link::{Filled, LinkError},
    timers::Timer,
};

impl Engine {
    /// Reads a readable connection, and handles its input.
    pub(super) fn service<S: Scenario>(&mut self, scenario: &mut S, key: usize, ready: Ready) {
        let Some(conn) = self.conns.get_mut(key) else {
            return;
        };
        if conn.state == State::Connecting && !conn.link.is_connected() {
            match conn.link.check_connected() {
                Ok(true) => self.begin_handshake(key),
                Ok(false) => return,
                Err(error) => return self.end(scenario, key, || error.to_string()),
            }
        }
        if ready.writable {
            self.dirty.push(key);
        }
        loop {
            let Some(conn) = self.conns.get_mut(key) else {
                return;
            };
            let filled = match conn.link.fill(&mut self.buffer) {
                Ok(filled) => filled,
                Err(error) => return self.end(scenario, key, || error.to_string()),
            };
            self.now = Instant::now();
            if let Err(error) = self.take_packages(scenario, key) {
                return self.end(scenario, key, || error.to_string());
            }
            match filled {
                Filled::More => {}
                // The end follows directly after the data, and is not reported again.
                Filled::Drained if ready.ended => {}
                Filled::Drained | Filled::Empty => return,
                Filled::End => {
                    return self.end(scenario, key, || "closed by the server".to_owned());
                }
            }
        }
    }

    fn take_packages<S: Scenario>(
        &mut self,
        scenario: &mut S,
        key: usize,
    ) -> Result<(), LinkError> {
        loop {
            let Some(conn) = self.conns.get_mut(key) else {
                return Ok(());
            };
            let Some(package) = conn.link.next_package()? else {
                break;
            };
            match (conn.state, package.kind) {
                (State::Handshaking, PackageType::Handshake) => {
                    self.handshake_answered(scenario, key, &package);
                }
                (State::Open, PackageType::Data) => {
                    self.count_received(key);
                    self.take_message(scenario, key, package.body);
                }
                (State::Open, PackageType::Heartbeat) => {
                    let is_plain = conn.slot >= PLAIN;
                    let counts = conn.counts.as_mut();
                    if let Some(Err(error)) =
                        counts.map(|counts| counts.acknowledged(&package.body))
                    {
                        self.wrong(|| format!("an invalid heartbeat: {error}"));
                    }
                    if is_plain {
                        scenario.greeted(self, key);
                    }
                }
                (State::Open, PackageType::Kick) => {
                    let reason = String::from_utf8_lossy(&package.body).into_owned();
                    self.end(scenario, key, || format!("kicked: {reason}"));
                }
                // Heartbeats, and packages that arrive while closing.
                _ => {}
            }
        }
        let Some(conn) = self.conns.get_mut(key) else {
            return Ok(());
        };
        if conn.link.is_closed_by_frame() && conn.state == State::Open {
            self.end(scenario, key, || {
                "closed by the server (WebSocket close)".to_owned()
            });
        } else if conn.state == State::Connecting && conn.link.is_open() {
            self.begin_handshake(key);
        }
        Ok(())
    }

    fn begin_handshake(&mut self, key: usize) {
        let Some(conn) = self.conns.get_mut(key) else {
            return;
        };
        if conn.link.is_open() {
            conn.state = State::Handshaking;
            let hello = match &conn.counts {
                Some(counts) => self.target.handshake_back(counts),
                None if conn.slot >= PLAIN => self.target.handshake_plain(),
                None => self.target.handshake.clone(),
            };
            conn.link.send(&hello);
            self.dirty.push(key);
        }
    }

    fn handshake_answered<S: Scenario>(&mut self, scenario: &mut S, key: usize, package: &Package) {
        let Some(conn) = self.conns.get_mut(key) else {
            return;
        };
        let body = inflated_handshake(&package.body);
        let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
        if answer["code"] != 200 {
            let text = String::from_utf8_lossy(&body).into_owned();
            return self.end(scenario, key, || format!("handshake answered with {text}"));
        }
        if let Some(route) = with_schema(&answer["sys"], &self.target.used) {
            let route = String::from_utf8_lossy(&route).into_owned();
            return self.end(scenario, key, || {
                format!(
                    "the server has a protobuf schema for `{route}`, and the load tester writes and reads JSON: measure a route without one, or \
                     take the schema away for the measurement"
                )
            });
        }
        if self.dictionary.is_empty() {
            self.dictionary = dictionary(&answer["sys"]);
        }
        let seconds = answer["sys"]["heartbeat"].as_f64().unwrap_or(0.0);
        let resume = &answer["sys"]["resume"];
        let is_back = match &mut conn.counts {
            Some(counts) => match counts.returned(resume) {
                Ok(Outcome::Resumed { missed: 0 }) => true,
                Ok(Outcome::Resumed { missed }) => {
                    self.tally.lost.add(missed);
                    self.harvest
                        .note(|| format!("{missed} messages were not kept"));
                    true
                }
                Ok(Outcome::Restarted(why)) => {
                    return self.end(scenario, key, || format!("it does not come back: {why}"));
                }
                Err(error) => {
                    return self.end(scenario, key, || format!("resumed, but {error}"));
                }
            },
            None if self.target.is_resumable && conn.slot < PLAIN => {
                conn.counts = Counts::granted(resume).map(Box::new);
                if conn.counts.is_none() {
                    return self.end(scenario, key, || "the server keeps no sessions".to_owned());
                }
                false
            }
            None => false,
        };
        self.open(key, seconds, is_back);
        if is_back {
            scenario.resumed(self, key);
        } else {
            scenario.opened(self, key);
        }
    }

    /// The handshake is done: acknowledges it, and sends again what the server has not received of an earlier connection.
    fn open(&mut self, key: usize, heartbeat_seconds: f64, is_back: bool) {
        let Some(conn) = self.conns.get_mut(key) else {
            return;
        };
        let sends_all_again = conn
            .counts
            .as_ref()
            .is_some_and(|counts| counts.kept().next().is_none());
        conn.is_returning = is_back && sends_all_again && conn.requests.is_pending();
        conn.heartbeat = Duration::try_from_secs_f64(heartbeat_seconds).unwrap_or_default();
        conn.state = State::Open;
        conn.link
            .send(&super::package(PackageType::HandshakeAck, b""));
        for package in conn.counts.iter().flat_map(|counts| counts.kept()) {
            conn.link.send(package);
        }
        self.dirty.push(key);
        self.tally.open.add(1);
        if !conn.heartbeat.is_zero() {
            let timer = Timer::Heartbeat {
                key,
                serial: conn.serial,
            };
            self.timers.add(self.now + conn.heartbeat, timer);
        }
    }

    /// A DATA package arrived: acknowledges if due, and measures the time to the first one after a resumption, if it is one that the server
    /// had for the client.
    fn count_received(&mut self, key: usize) {
        let Some(conn) = self.conns.get_mut(key) else {
            return;
        };
        if let Some(counts) = &mut conn.counts
            && counts.taken()
        {
            let heartbeat = counts.heartbeat();
            conn.link.send(&heartbeat);
            self.dirty.push(key);
        }
        if std::mem::take(&mut conn.is_returning) {
            let started = self.started(key);
            let started = self.nanos(started);
            self.record(started);
        }
    }

    fn take_message<S: Scenario>(&mut self, scenario: &mut S, key: usize, body: Bytes) {
        let Some(conn) = self.conns.get_mut(key) else {
            return;
        };
        let message = match decode(body) {
            Ok(message) => message,
            Err(error) => return self.wrong(|| format!("a malformed message: {error}")),
        };
        match (message.kind, &message.route) {
            (MessageType::Response, _) => match conn.requests.settle(message.id) {
                Ok(pending) => {
                    let slot = conn.slot;
                    self.requests_waiting -= 1;
                    self.check(slot, pending, &message);
                    scenario.answered(self, key, pending);
                }
                Err(Stray::Repeated) => {
                    self.tally.repeated.add(1);
                    self.harvest
                        .note(|| format!("a second response to request {}", message.id));
                }
                // It is already counted as lost.
                Err(Stray::Late) => {}
                Err(Stray::Unknown) => {
                    self.wrong(|| format!("response without a request: {}", message.id));
                }
            },
            (MessageType::Push, WireRoute::Name(route)) => {
                scenario.pushed(self, key, route, &message.body);
            }
            (MessageType::Push, WireRoute::Code(code)) => {
                let Some(route) = self.dictionary.get(code).cloned() else {
                    return self.wrong(|| format!("a push with the unknown route code {code}"));
                };
                scenario.pushed(self, key, &route, &message.body);
            }
            _ => self.wrong(|| format!("a server does not send {message:?}")),
        }
    }

    fn check(&mut self, slot: usize, pending: Pending, answer: &Message) {
        let right = match pending.kind {
            RequestKind::Echo => {
                !answer.error && self.bodies.is_answer(slot as u64, pending.id, &answer.body)
            }
            RequestKind::Bind | RequestKind::Push => !answer.error && !is_error(&answer.body),
        };
        if !right {
            self.wrong(|| {
                let body = String::from_utf8_lossy(&answer.body);
                format!(
                    "{:?} {} of session {slot} got {body}",
                    pending.kind, pending.id
                )
            });
        }
    }

    pub(crate) fn wrong(&mut self, note: impl FnOnce() -> String) {
        self.tally.wrong.add(1);
        self.harvest.note(note);
    }
}

/// Pitaya compresses the handshake response if that makes it shorter, without a flag.
fn inflated_handshake(body: &Bytes) -> Cow<'_, [u8]> {
    if looks_compressed(body)
        && let Ok(plain) = inflate(body, MAX_BODY)
    {
        return plain.into();
    }
    (&body[..]).into()
}

/// The message, with its body decompressed.
fn decode(bytes: Bytes) -> Result<Message, String> {
    let mut message = Message::decode(bytes).map_err(|error| error.to_string())?;
    if message.compressed {
        let plain = inflate(&message.body, MAX_BODY).map_err(|error| error.to_string())?;
        message.body = plain.into();
    }
    Ok(message)
}

/// One of these routes for which the server has a schema: it encodes what it sends there, and decodes what it gets, as protobuf.
fn with_schema(sys: &Value, routes: &[Bytes]) -> Option<Bytes> {
    let sides = ["server", "client"].map(|side| sys["protos"][side].as_object());
    let has_schema = |route: &&Bytes| {
        let name = std::str::from_utf8(route).unwrap_or_default();
        sides.iter().flatten().any(|side| side.contains_key(name))
    };
    routes.iter().find(has_schema).cloned()
}

/// Codes that the server may send instead of routes. Requests have their routes as text, which every server takes.
fn dictionary(sys: &Value) -> HashMap<u16, Bytes> {
    let codes = ["dict", "routeToCode"]
        .iter()
        .find_map(|name| sys[name].as_object());
    let code_of = |code: &Value| code.as_u64().and_then(|code| u16::try_from(code).ok());
    codes
        .into_iter()
        .flatten()
        .filter_map(|(route, code)| Some((code_of(code)?, Bytes::from(route.clone()))))
        .collect()
}
