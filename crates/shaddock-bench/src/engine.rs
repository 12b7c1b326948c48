//! One thread: an epoll loop, its connections and their deadlines. What the connections do is the [`Scenario`]'s business.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use mio::{Events, Poll, Token, Waker};
use serde_json::Value;
use shaddock_protocol::{
    Message, MessageType, Package, PackageType, WireRoute, encode_package, put_package_header,
};
use slab::Slab;

use crate::{
    body::Bodies,
    conn::{Conn, Pending, RequestKind, Requests, State, Stray},
    link::{Filled, Link, LinkError},
    tally::{Harvest, Tally},
    target::Target,
    timers::{Alarm, Timer, Timers},
};

const WAKER: Token = Token(usize::MAX);
const ALARM: Token = Token(usize::MAX - 1);
const EVENTS: usize = 1024;
const READ_SIZE: usize = 64 * 1024;
/// How long a server may take to close after we have said goodbye.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Where a run stands. The controller moves it on, all threads follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Phase {
    /// Sessions are opened.
    Connect,
    /// The load is on, but is not measured.
    WarmUp,
    /// The load is measured.
    Measure,
    /// Nothing new is sent; answers that are under way are awaited.
    Drain,
    /// The thread ends.
    Done,
}

/// A [`Phase`] that threads share.
#[derive(Debug, Default)]
pub(crate) struct SharedPhase(AtomicU8);

impl SharedPhase {
    pub(crate) fn set(&self, phase: Phase) {
        self.0.store(phase as u8, Ordering::Release);
    }

    pub(crate) fn get(&self) -> Phase {
        match self.0.load(Ordering::Acquire) {
            0 => Phase::Connect,
            1 => Phase::WarmUp,
            2 => Phase::Measure,
            3 => Phase::Drain,
            _ => Phase::Done,
        }
    }
}

/// What the poll says of a socket, besides that there is something to read.
#[derive(Clone, Copy, Debug)]
struct Ready {
    writable: bool,
    /// The server sends nothing more.
    ended: bool,
}

/// Why a connection is no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gone {
    /// It never came to stand.
    Failed,
    /// The server ended it, or broke the protocol.
    Ended,
    /// We ended it, and the server agreed.
    Closed,
}

/// What the connections of one thread do. Called by the engine; all calls are on its thread.
pub(crate) trait Scenario {
    /// The run has moved on.
    fn phase(&mut self, engine: &mut Engine, phase: Phase);
    /// A session is open: its ack is sent with whatever is sent from here.
    fn opened(&mut self, engine: &mut Engine, key: usize);
    /// A request was answered, rightly or not. The engine has checked the body and counted what is wrong.
    fn answered(&mut self, engine: &mut Engine, key: usize, pending: Pending);
    /// A push came.
    fn pushed(&mut self, _engine: &mut Engine, _key: usize, _route: &[u8], _body: &[u8]) {}
    /// A session is gone, and its key with it.
    fn gone(&mut self, engine: &mut Engine, slot: usize, why: Gone);
    /// A timer of the scenario's has come.
    fn timer(&mut self, _engine: &mut Engine, _number: u64) {}
    /// When the scenario wants to be paced next, to the microsecond.
    fn due(&self) -> Option<Instant> {
        None
    }
    /// The time is there.
    fn pace(&mut self, _engine: &mut Engine, _now: Instant) {}
    /// The end of each turn of the loop.
    fn turn(&mut self, _engine: &mut Engine) {}
    /// Whether the scenario has reached the end of its present phase.
    fn is_settled(&self, engine: &Engine) -> bool;
    /// The run is over: what is still missing is counted here.
    fn finish(&mut self, _engine: &mut Engine) {}
}

/// One thread's connections, and all that they share.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) target: Arc<Target>,
    pub(crate) tally: Arc<Tally>,
    pub(crate) harvest: Harvest,
    pub(crate) timers: Timers,
    pub(crate) bodies: Bodies,
    conns: Slab<Conn>,
    timeout: Duration,
    epoch: Instant,
    poll: Poll,
    alarm: Alarm,
    serials: u64,
    /// The time at the start of this turn.
    now: Instant,
    /// Slots whose connection could not even be begun.
    stillborn: Vec<usize>,
    /// Keys with output to flush at the end of this turn.
    dirty: Vec<usize>,
    buffer: Vec<u8>,
    message: BytesMut,
    package: BytesMut,
    requests_waiting: usize,
}

impl Engine {
    /// `epoch` is the zero of all times in bodies; all threads have the same.
    pub(crate) fn new(
        target: Arc<Target>,
        tally: Arc<Tally>,
        epoch: Instant,
        body: usize,
        timeout: Duration,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        let alarm = Alarm::new(poll.registry(), ALARM)?;
        Ok(Self {
            target,
            tally,
            harvest: Harvest::new()?,
            timers: Timers::default(),
            bodies: Bodies::new(body),
            conns: Slab::new(),
            timeout,
            epoch,
            poll,
            alarm,
            serials: 0,
            now: Instant::now(),
            stillborn: Vec::new(),
            dirty: Vec::new(),
            buffer: vec![0; READ_SIZE],
            message: BytesMut::new(),
            package: BytesMut::new(),
            requests_waiting: 0,
        })
    }

    /// Wakes this engine from another thread. There can be only one waker, so it is shared.
    pub(crate) fn waker(&self) -> io::Result<Arc<Waker>> {
        Waker::new(self.poll.registry(), WAKER).map(Arc::new)
    }

    /// Follows the phases until the last. `settled` is called once in each phase, when the scenario has reached its end.
    pub(crate) fn run<S: Scenario>(
        mut self,
        mut scenario: S,
        phases: &SharedPhase,
        mut settled: impl FnMut(Phase),
    ) -> io::Result<Harvest> {
        let mut events = Events::with_capacity(EVENTS);
        let mut phase = Phase::Connect;
        let mut reported = false;
        scenario.phase(&mut self, phase);
        loop {
            scenario.turn(&mut self);
            self.flush(&mut scenario);
            if !reported && scenario.is_settled(&self) {
                reported = true;
                settled(phase);
            }
            let wait = self.wait(scenario.due())?;
            match self.poll.poll(&mut events, wait) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            self.now = Instant::now();
            while phase < phases.get() {
                phase = phases.get();
                reported = false;
                if phase == Phase::Done {
                    scenario.finish(&mut self);
                    return Ok(self.harvest);
                }
                if phase == Phase::Measure {
                    self.harvest.latency.reset();
                }
                scenario.phase(&mut self, phase);
            }
            for event in &events {
                if event.token() != WAKER && event.token() != ALARM {
                    let ready = Ready {
                        writable: event.is_writable(),
                        ended: event.is_read_closed() || event.is_error(),
                    };
                    self.service(&mut scenario, event.token().0, ready);
                }
            }
            self.fire_timers(&mut scenario);
            if scenario.due().is_some_and(|due| due <= self.now) {
                let now = self.now;
                scenario.pace(&mut self, now);
            }
        }
    }

    fn wait(&self, pace: Option<Instant>) -> io::Result<Option<Duration>> {
        if let Some(pace) = pace {
            self.alarm
                .set(pace.saturating_duration_since(Instant::now()))?;
        }
        let next = self.timers.next().into_iter().chain(pace).min();
        Ok(next.map(|at| at.saturating_duration_since(Instant::now())))
    }

    fn fire_timers<S: Scenario>(&mut self, scenario: &mut S) {
        while let Some(timer) = self.timers.take_due(self.now) {
            match timer {
                Timer::Scenario(number) => scenario.timer(self, number),
                Timer::Heartbeat { key, serial } => self.beat(key, serial),
                Timer::Deadline { key, serial } => {
                    let late = self
                        .conns
                        .get(key)
                        .is_some_and(|conn| conn.serial == serial && conn.state != State::Open);
                    if late {
                        self.end(scenario, key, || "no answer in time".to_owned());
                    }
                }
            }
        }
    }

    fn beat(&mut self, key: usize, serial: u64) {
        let Some(conn) = self.conns.get_mut(key).filter(|conn| conn.serial == serial) else {
            return;
        };
        if conn.state == State::Open {
            conn.link.send(&package(PackageType::Heartbeat, b""));
            let next = self.now + conn.heartbeat;
            self.dirty.push(key);
            self.timers.add(next, Timer::Heartbeat { key, serial });
        }
    }

    /// Begins a connection for the scenario's session `slot`. The scenario hears of it when it is open or has failed.
    pub(crate) fn connect(&mut self, slot: usize, stalled: bool) {
        let entry = self.conns.vacant_entry();
        let key = entry.key();
        match Link::connect(&self.target, self.poll.registry(), Token(key), stalled) {
            Ok(link) => {
                self.serials += 1;
                let serial = self.serials;
                // Not the time of the turn: connecting itself takes long.
                let started = Instant::now();
                self.timers
                    .add(started + self.timeout, Timer::Deadline { key, serial });
                entry.insert(Conn {
                    link,
                    state: State::Connecting,
                    slot,
                    serial,
                    started,
                    heartbeat: Duration::ZERO,
                    requests: Requests::default(),
                });
            }
            Err(error) => {
                self.tally.failed.add(1);
                self.harvest.note(|| format!("cannot connect: {error}"));
                self.stillborn.push(slot);
            }
        }
    }

    /// Ends a connection as a client does that has nothing more to say.
    pub(crate) fn close(&mut self, key: usize) {
        let Some(conn) = self.conns.get_mut(key) else {
            return;
        };
        if conn.state == State::Open {
            self.tally.open.take_one();
            self.requests_waiting -= conn.requests.waiting();
        }
        conn.state = State::Closing;
        let serial = conn.serial;
        // If this fails, the socket says so by itself.
        let _ = conn.link.finish();
        self.timers
            .add(self.now + CLOSE_TIMEOUT, Timer::Deadline { key, serial });
    }

    /// Never reads this connection again, but keeps it open.
    pub(crate) fn abandon(&mut self, key: usize) {
        if let Some(conn) = self.conns.get_mut(key) {
            let _ = conn.link.flush();
            let _ = conn.link.abandon(self.poll.registry());
        }
    }

    /// Sends a request whose body is the connection's slot and the request's id. `sent` is when it should have been sent, if
    /// that is not now.
    pub(crate) fn request_echo(&mut self, key: usize, sent: Option<Instant>) {
        let sent = self.nanos(sent.unwrap_or(self.now));
        let Some(conn) = self.conns.get_mut(key) else {
            return;
        };
        let pending = conn.requests.begin(RequestKind::Echo, sent);
        let body = self.bodies.get(conn.slot as u64, pending.id);
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

    /// Sends a request that makes the server push to all. The pushes carry `number`, and the time at which this request should
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
            conn.link.send(&self.package);
            self.requests_waiting += 1;
            self.dirty.push(key);
        }
    }

    /// Requests of all connections that wait for their answers.
    pub(crate) fn requests_waiting(&self) -> usize {
        self.requests_waiting
    }

    /// The scenario's number of a connection.
    pub(crate) fn slot(&self, key: usize) -> usize {
        self.conns.get(key).map_or(usize::MAX, |conn| conn.slot)
    }

    /// The time at the start of this turn.
    pub(crate) fn now(&self) -> Instant {
        self.now
    }

    /// When the connection was begun.
    pub(crate) fn started(&self, key: usize) -> Instant {
        self.conns.get(key).map_or(self.now, |conn| conn.started)
    }

    /// Records a latency that began at `sent` and ends now.
    pub(crate) fn record(&mut self, sent: u64) {
        let latency = self.nanos(self.now).saturating_sub(sent).max(1);
        self.harvest.latency.saturating_record(latency);
    }

    /// Nanoseconds since the start of the run.
    pub(crate) fn nanos(&self, at: Instant) -> u64 {
        let nanos = at.saturating_duration_since(self.epoch).as_nanos();
        u64::try_from(nanos).unwrap_or(u64::MAX)
    }

    /// Reads a connection that has something to read, and answers it.
    fn service<S: Scenario>(&mut self, scenario: &mut S, key: usize, ready: Ready) {
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
                // The end comes right behind what was there, and is not told of again.
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
                (State::Open, PackageType::Data) => self.take_message(scenario, key, package.body),
                (State::Open, PackageType::Kick) => {
                    let reason = String::from_utf8_lossy(&package.body).into_owned();
                    self.end(scenario, key, || format!("kicked: {reason}"));
                }
                // Heartbeats; whatever comes while we close.
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
            conn.link.send(&self.target.handshake);
            self.dirty.push(key);
        }
    }

    fn handshake_answered<S: Scenario>(&mut self, scenario: &mut S, key: usize, package: &Package) {
        let Some(conn) = self.conns.get_mut(key) else {
            return;
        };
        let answer: Value = serde_json::from_slice(&package.body).unwrap_or_default();
        if answer["code"] != 200 {
            let text = String::from_utf8_lossy(&package.body).into_owned();
            return self.end(scenario, key, || format!("handshake answered with {text}"));
        }
        let seconds = answer["sys"]["heartbeat"].as_f64().unwrap_or(0.0);
        conn.heartbeat = Duration::try_from_secs_f64(seconds).unwrap_or_default();
        conn.state = State::Open;
        conn.link
            .send(&self::package(PackageType::HandshakeAck, b""));
        self.dirty.push(key);
        self.tally.open.add(1);
        if !conn.heartbeat.is_zero() {
            let timer = Timer::Heartbeat {
                key,
                serial: conn.serial,
            };
            self.timers.add(self.now + conn.heartbeat, timer);
        }
        scenario.opened(self, key);
    }

    fn take_message<S: Scenario>(&mut self, scenario: &mut S, key: usize, body: Bytes) {
        let Some(conn) = self.conns.get_mut(key) else {
            return;
        };
        let message = match Message::decode(body) {
            Ok(message) => message,
            Err(error) => return self.wrong(|| format!("message that cannot be read: {error}")),
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
                        .note(|| format!("request {} was answered again", message.id));
                }
                Err(Stray::Unknown) => self.wrong(|| format!("answer to nothing: {}", message.id)),
            },
            (MessageType::Push, WireRoute::Name(route)) => {
                let route = route.clone();
                scenario.pushed(self, key, &route, &message.body);
            }
            _ => self.wrong(|| format!("a server does not send {message:?}")),
        }
    }

    fn check(&mut self, slot: usize, pending: Pending, answer: &Message) {
        let right = match pending.kind {
            RequestKind::Echo => {
                !answer.error && self.bodies.get(slot as u64, pending.id) == &answer.body[..]
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

    /// Forgets a connection that has ended, whoever ended it.
    fn end<S: Scenario>(&mut self, scenario: &mut S, key: usize, note: impl FnOnce() -> String) {
        let Some(conn) = self.conns.try_remove(key) else {
            return;
        };
        let why = match conn.state {
            State::Closing => Gone::Closed,
            State::Open => Gone::Ended,
            State::Connecting | State::Handshaking => Gone::Failed,
        };
        match why {
            Gone::Closed => {}
            Gone::Failed => self.tally.failed.add(1),
            Gone::Ended => {
                self.tally.open.take_one();
                self.tally.closed.add(1);
                self.requests_waiting -= conn.requests.waiting();
                self.tally.lost.add(conn.requests.waiting() as u64);
            }
        }
        if why != Gone::Closed {
            self.harvest
                .note(|| format!("session {}: {}", conn.slot, note()));
        }
        let slot = conn.slot;
        drop(conn);
        scenario.gone(self, slot, why);
    }

    /// Writes what this turn has to say, and tells the scenario of connections that could not even be begun.
    fn flush<S: Scenario>(&mut self, scenario: &mut S) {
        while let Some(slot) = self.stillborn.pop() {
            scenario.gone(self, slot, Gone::Failed);
        }
        while !self.dirty.is_empty() {
            let mut dirty = std::mem::take(&mut self.dirty);
            // A connection may be in here more than once; the second flush finds nothing to write.
            for key in dirty.drain(..) {
                if let Some(conn) = self.conns.get_mut(key)
                    && let Err(error) = conn.link.flush()
                {
                    self.end(scenario, key, || error.to_string());
                }
            }
            if self.dirty.is_empty() {
                self.dirty = dirty;
                return;
            }
        }
    }
}

/// Whether the answer of a bind or push reports an error: `{"code":500}` in Pomelo's way.
fn is_error(body: &[u8]) -> bool {
    let answer: Value = serde_json::from_slice(body).unwrap_or_default();
    !answer.is_object() || answer["code"].as_u64().is_some_and(|code| code != 200)
}

/// A package with a body of at most a few bytes.
fn package(kind: PackageType, body: &[u8]) -> Bytes {
    encode_package(kind, body).unwrap_or_default()
}

/// Builds a request in `package`. The body is appended behind the head of the message, so that it is copied only once.
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
    // The routes and the body's length were checked at the start.
    let _ = head.encode(message);
    let _ = put_package_header(PackageType::Data, message.len() + body.len(), package);
    package.extend_from_slice(message);
    package.extend_from_slice(body);
}
