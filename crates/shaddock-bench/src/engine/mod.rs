//! One thread: an epoll loop, its connections and their deadlines. The [`Scenario`] controls the connections.

mod receive;
mod requests;

use std::{
    collections::HashMap,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use mio::{Events, Poll, Token, Waker};
use shaddock_protocol::{PackageType, encode_package};
use slab::Slab;

use crate::{
    body::Bodies,
    conn::{Away, Conn, Pending, Requests, State},
    counts::Counts,
    link::Link,
    phase::{Phase, SharedPhase},
    tally::{Harvest, Tally},
    target::Target,
    timers::{Alarm, Timer, Timers},
};

const WAKER: Token = Token(usize::MAX);
const ALARM: Token = Token(usize::MAX - 1);
const EVENTS: usize = 1024;
const READ_SIZE: usize = 64 * 1024;
/// Timeout for the server to close after a goodbye.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Slots from here on are plain connections beside the load: they only perform a handshake.
pub(crate) const PLAIN: usize = usize::MAX / 2;

/// Why a connection has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gone {
    /// It was never established.
    Failed,
    /// The server closed it, or violated the protocol.
    Ended,
    /// The client closed it, and the server confirmed.
    Closed,
}

/// The behaviour of the connections of one thread. Called by the engine on its thread.
pub(crate) trait Scenario {
    /// The run has entered a phase.
    fn phase(&mut self, engine: &mut Engine, phase: Phase);
    /// A session is open: its ack is sent together with requests made here.
    fn opened(&mut self, engine: &mut Engine, key: usize);
    /// A session has resumed on a new socket, and unreceived messages were sent again.
    fn resumed(&mut self, _engine: &mut Engine, _key: usize) {}
    /// A plain connection received a heartbeat, the first package that servers send after the ACK.
    fn greeted(&mut self, _engine: &mut Engine, _key: usize) {}
    /// A response arrived, right or wrong. The engine has checked the body and counted faults.
    fn answered(&mut self, engine: &mut Engine, key: usize, pending: Pending);
    /// A request has timed out, which the engine has counted.
    fn unanswered(&mut self, _engine: &mut Engine, _key: usize, _pending: Pending) {}
    /// A push arrived.
    fn pushed(&mut self, _engine: &mut Engine, _key: usize, _route: &[u8], _body: &[u8]) {}
    /// A session has ended, and its key is invalid.
    fn gone(&mut self, engine: &mut Engine, slot: usize, why: Gone);
    /// A timer of the scenario has expired.
    fn timer(&mut self, _engine: &mut Engine, _number: u64) {}
    /// The next time at which [`pace`](Self::pace) should be called, to the microsecond.
    fn due(&self) -> Option<Instant> {
        None
    }
    /// The time has been reached.
    fn pace(&mut self, _engine: &mut Engine, _now: Instant) {}
    /// The end of each iteration of the loop.
    fn turn(&mut self, _engine: &mut Engine) {}
    /// Whether the scenario has finished its current phase.
    fn is_settled(&self, engine: &Engine) -> bool;
    /// The run is over: missing messages are counted here.
    fn finish(&mut self, _engine: &mut Engine) {}
}

/// The events of a socket, besides readable data.
#[derive(Clone, Copy, Debug)]
struct Ready {
    writable: bool,
    /// The server has closed its sending side.
    ended: bool,
}

/// The connections of one thread, and their shared state.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) target: Arc<Target>,
    pub(crate) tally: Arc<Tally>,
    pub(crate) harvest: Harvest,
    pub(crate) timers: Timers,
    pub(crate) bodies: Bodies,
    /// Routes of pushes by code, if the server has a dictionary.
    dictionary: HashMap<u16, Bytes>,
    conns: Slab<Conn>,
    timeout: Duration,
    epoch: Instant,
    poll: Poll,
    alarm: Alarm,
    serials: u64,
    /// The time at the start of this iteration.
    now: Instant,
    /// Slots whose connection could not be started.
    stillborn: Vec<usize>,
    /// Keys with output to flush at the end of this iteration.
    dirty: Vec<usize>,
    buffer: Vec<u8>,
    message: BytesMut,
    package: BytesMut,
    requests_waiting: usize,
}

impl Engine {
    /// `epoch` is the zero point of all times in bodies; it is the same for all threads.
    pub(crate) fn new(
        target: Arc<Target>,
        tally: Arc<Tally>,
        epoch: Instant,
        timeout: Duration,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        let alarm = Alarm::new(poll.registry(), ALARM)?;
        Ok(Self {
            tally,
            harvest: Harvest::new()?,
            timers: Timers::default(),
            bodies: target.bodies.clone(),
            dictionary: HashMap::new(),
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
            target,
        })
    }

    /// Wakes this engine from another thread. There can be only one waker, so it is shared.
    pub(crate) fn waker(&self) -> io::Result<Arc<Waker>> {
        Waker::new(self.poll.registry(), WAKER).map(Arc::new)
    }

    /// Runs all phases. `settled` is called once in each phase, when the scenario has finished it.
    pub(crate) fn run<S: Scenario>(
        mut self,
        mut scenario: S,
        phases: &SharedPhase,
        mut settled: impl FnMut(Phase),
    ) -> io::Result<Harvest> {
        let mut events = Events::with_capacity(EVENTS);
        let mut phase = Phase::Connect;
        let mut reported = false;
        self.look_again();
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
                    self.leave();
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
                Timer::Overdue => {
                    self.give_up_overdue(scenario);
                    self.look_again();
                }
                Timer::Deadline { key, serial } => {
                    let late = self
                        .conns
                        .get(key)
                        .is_some_and(|conn| conn.serial == serial && conn.state != State::Open);
                    if late {
                        self.end(scenario, key, || "no response in time".to_owned());
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
            let heartbeat = match &mut conn.counts {
                Some(counts) => counts.heartbeat(),
                None => package(PackageType::Heartbeat, b""),
            };
            conn.link.send(&heartbeat);
            let next = self.now + conn.heartbeat;
            self.dirty.push(key);
            self.timers.add(next, Timer::Heartbeat { key, serial });
        }
    }

    /// Starts a connection for the scenario's session `slot`. The scenario is notified when it is open or has failed.
    pub(crate) fn connect(&mut self, slot: usize, stalled: bool) {
        self.begin(slot, stalled, Requests::default(), None);
    }

    /// Starts a connection for a session that lost its socket.
    pub(crate) fn come_back(&mut self, away: Away) {
        self.begin(away.slot, false, away.requests, Some(away.counts));
    }

    /// Cuts the socket of a session, as a network failure does: without a goodbye, after its queued output. `None`: there is no such
    /// session, or it is not resumable.
    pub(crate) fn cut(&mut self, key: usize) -> Option<Away> {
        let conn = self.conns.get_mut(key)?;
        if conn.state != State::Open || conn.counts.is_none() {
            return None;
        }
        // If this fails, the socket is already closed.
        let _ = conn.link.flush();
        let conn = self.conns.try_remove(key)?;
        self.tally.open.take_one();
        Some(Away {
            slot: conn.slot,
            requests: conn.requests,
            counts: conn.counts?,
        })
    }

    fn begin(
        &mut self,
        slot: usize,
        stalled: bool,
        requests: Requests,
        counts: Option<Box<Counts>>,
    ) {
        let waiting = requests.waiting();
        let entry = self.conns.vacant_entry();
        let key = entry.key();
        match Link::connect(&self.target, self.poll.registry(), Token(key), stalled) {
            Ok(link) => {
                self.serials += 1;
                let serial = self.serials;
                // Not the time of the iteration: connecting itself takes long.
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
                    requests,
                    is_returning: false,
                    counts,
                });
            }
            Err(error) => {
                self.tally.failed.add(1);
                self.give_up(waiting);
                self.harvest.note(|| format!("cannot connect: {error}"));
                self.stillborn.push(slot);
            }
        }
    }

    /// Closes a connection regularly.
    pub(crate) fn close(&mut self, key: usize) {
        let Some(conn) = self.conns.get_mut(key) else {
            return;
        };
        if conn.state == State::Open {
            self.tally.open.take_one();
            self.requests_waiting -= conn.requests.waiting();
        }
        conn.say_goodbye();
        conn.state = State::Closing;
        let serial = conn.serial;
        // If this fails, the socket reports an error.
        let _ = conn.link.finish();
        self.timers
            .add(self.now + CLOSE_TIMEOUT, Timer::Deadline { key, serial });
    }

    /// Stops reading this connection, but keeps it open.
    pub(crate) fn abandon(&mut self, key: usize) {
        if let Some(conn) = self.conns.get_mut(key) {
            let _ = conn.link.flush();
            let _ = conn.link.abandon(self.poll.registry());
        }
    }

    /// The slot of a connection.
    pub(crate) fn slot(&self, key: usize) -> usize {
        self.conns.get(key).map_or(usize::MAX, |conn| conn.slot)
    }

    /// The time at the start of this iteration.
    pub(crate) fn now(&self) -> Instant {
        self.now
    }

    /// The start time of the connection.
    pub(crate) fn started(&self, key: usize) -> Instant {
        self.conns.get(key).map_or(self.now, |conn| conn.started)
    }

    /// Whether the server has asked for heartbeats, and so sends them.
    pub(crate) fn has_heartbeats(&self, key: usize) -> bool {
        self.conns
            .get(key)
            .is_some_and(|conn| !conn.heartbeat.is_zero())
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

    /// Removes a connection that has ended, by either side.
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
            Gone::Failed => {
                self.tally.failed.add(1);
                // The requests of a session that was resuming.
                self.give_up(conn.requests.waiting());
            }
            Gone::Ended => {
                self.tally.open.take_one();
                self.tally.closed.add(1);
                self.give_up(conn.requests.waiting());
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

    /// The run is over: servers need not keep its sessions.
    fn leave(&mut self) {
        for (_, conn) in &mut self.conns {
            conn.say_goodbye();
            // A full socket does not accept the goodbye; its server then waits for the end of the window.
            let _ = conn.link.flush();
        }
    }

    /// This number of requests will receive no response.
    fn give_up(&mut self, requests: usize) {
        self.requests_waiting -= requests;
        self.tally.lost.add(requests as u64);
    }

    /// Writes the output of this iteration, and reports connections that could not be started to the scenario.
    fn flush<S: Scenario>(&mut self, scenario: &mut S) {
        while let Some(slot) = self.stillborn.pop() {
            scenario.gone(self, slot, Gone::Failed);
        }
        while !self.dirty.is_empty() {
            let mut dirty = std::mem::take(&mut self.dirty);
            // A connection may be listed more than once; the second flush finds nothing to write.
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

/// A package with a body of at most a few bytes.
fn package(kind: PackageType, body: &[u8]) -> Bytes {
    encode_package(kind, body).unwrap_or_default()
}
