//! Sessions that lose their sockets and resume.
//!
//! All sessions are bound. Then each one repeatedly sends a burst of requests, loses its socket immediately or after the first response
//! (alternately), resumes, and waits for all its responses; in between, after the same pause, a plain connection is opened and closed, to
//! which resuming is compared. The session of slot 0 pushes to all sessions after each of its cuts, so every session knows the number of expected pushes, on
//! any thread.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::{Gone, PLAIN, Ramp, Scenario, Share};
use crate::{
    args::ResumeArgs,
    conn::{Away, Pending, RequestKind},
    engine::Engine,
    phase::Phase,
    timers::Timer,
};

/// One thread's sessions.
#[derive(Debug)]
pub(crate) struct Resume {
    ramp: Ramp,
    first: usize,
    cuts: usize,
    burst: usize,
    away_time: Duration,
    is_compared: bool,
    is_running: bool,
    places: Vec<Place>,
    /// Sessions to be resumed, the earliest first.
    away: VecDeque<(Instant, Away)>,
    /// Slots for which a plain connection is to be opened, the earliest first: after the same pause, which lets the server and its machine
    /// go to sleep.
    plain: VecDeque<(Instant, usize)>,
    /// Handshakes in progress: of resuming sessions, and plain ones.
    connecting: usize,
    limit: usize,
    /// Sessions that have not done all their cuts.
    unfinished: usize,
    /// Pushes still expected, of all sessions.
    missing: u64,
}

/// The progress of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Course {
    #[default]
    Running,
    /// All its cuts are done.
    Done,
    /// It cannot continue.
    Gone,
}

/// The state of a session.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    is_bound: bool,
    course: Course,
    cuts: usize,
    /// Pending requests of the burst.
    waiting: usize,
    /// The burst was sent, and the socket is cut after its first response.
    is_to_be_cut: bool,
    /// Numbers of the last answer and the last push.
    answered: u64,
    pushed: u64,
}

impl Resume {
    pub(crate) fn new(share: &Share, args: &ResumeArgs) -> Self {
        let sessions = share.slots.len();
        Self {
            ramp: Ramp::new(share),
            first: share.slots.start,
            cuts: args.cuts,
            burst: args.burst,
            away_time: args.away,
            is_compared: !args.no_plain,
            is_running: false,
            places: vec![Place::default(); sessions],
            away: VecDeque::new(),
            plain: VecDeque::new(),
            connecting: 0,
            limit: share.connecting,
            unfinished: sessions,
            missing: sessions as u64 * args.cuts as u64,
        }
    }

    fn place(&mut self, slot: usize) -> Option<&mut Place> {
        self.places.get_mut(slot.wrapping_sub(self.first))
    }

    /// Starts the next round of a session, or finishes it.
    fn go_on(&mut self, engine: &mut Engine, slot: usize) {
        let (cuts, burst) = (self.cuts, self.burst);
        let Some(key) = self.ramp.key_of(slot) else {
            return;
        };
        let Some(place) = self.place(slot) else {
            return;
        };
        if place.cuts == cuts {
            if std::mem::replace(&mut place.course, Course::Done) == Course::Running {
                self.unfinished -= 1;
            }
            return;
        }
        place.cuts += 1;
        place.waiting = burst;
        place.is_to_be_cut = place.cuts % 2 == 0;
        let is_now = !place.is_to_be_cut;
        for _ in 0..burst {
            engine.request_echo(key, None);
        }
        if is_now {
            self.cut(engine, key);
        }
    }

    fn cut(&mut self, engine: &mut Engine, key: usize) {
        if let Some(away) = engine.cut(key) {
            let slot = away.slot;
            self.ramp.set_key(slot, None);
            if let Some(place) = self.place(slot) {
                place.is_to_be_cut = false;
            }
            let back = engine.now() + self.away_time;
            self.away.push_back((back, away));
            engine.timers.add(back, Timer::Scenario(0));
        }
    }

    /// Resumes sessions, and opens plain connections, whose time has come, up to the limit of handshakes.
    fn pump(&mut self, engine: &mut Engine) {
        while self.connecting < self.limit
            && let Some((at, _)) = self.away.front()
            && *at <= engine.now()
            && let Some((_, away)) = self.away.pop_front()
        {
            self.connecting += 1;
            engine.come_back(away);
        }
        while self.connecting < self.limit
            && let Some(&(at, slot)) = self.plain.front()
            && at <= engine.now()
        {
            self.plain.pop_front();
            self.connecting += 1;
            engine.connect(PLAIN + slot, false);
        }
    }

    /// All responses of a round have arrived.
    fn round_done(&mut self, engine: &mut Engine, key: usize, slot: usize) {
        if slot == 0 {
            let cuts = self.place(slot).map_or(0, |place| place.cuts);
            engine.request_push(key, cuts as u64, engine.now());
            return;
        }
        self.compare(engine, slot);
    }

    fn compare(&mut self, engine: &mut Engine, slot: usize) {
        if self.is_compared {
            let at = engine.now() + self.away_time;
            self.plain.push_back((at, slot));
            engine.timers.add(at, Timer::Scenario(0));
        } else {
            self.go_on(engine, slot);
        }
    }

    /// A session cannot continue.
    fn give_up(&mut self, slot: usize) {
        let cuts = self.cuts as u64;
        let Some(place) = self.place(slot) else {
            return;
        };
        let missing = cuts.saturating_sub(place.pushed);
        match std::mem::replace(&mut place.course, Course::Gone) {
            Course::Running => {
                self.missing = self.missing.saturating_sub(missing);
                self.unfinished -= 1;
            }
            Course::Done => self.missing = self.missing.saturating_sub(missing),
            Course::Gone => {}
        }
    }
}

impl Scenario for Resume {
    fn phase(&mut self, engine: &mut Engine, phase: Phase) {
        match phase {
            Phase::Connect => self.ramp.pump(engine, |_| false),
            Phase::Measure => {
                self.is_running = true;
                for index in 0..self.places.len() {
                    let place = self.places[index];
                    if place.is_bound && place.course == Course::Running {
                        self.go_on(engine, self.first + index);
                    }
                }
            }
            _ => {}
        }
    }

    fn opened(&mut self, engine: &mut Engine, key: usize) {
        let slot = engine.slot(key);
        if slot >= PLAIN {
            let started = engine.nanos(engine.started(key));
            let took = engine.nanos(engine.now()).saturating_sub(started).max(1);
            engine.harvest.plain.saturating_record(took);
            // A server without heartbeats sends nothing more.
            if !engine.has_heartbeats(key) {
                engine.close(key);
            }
            return;
        }
        self.ramp.set_key(slot, Some(key));
        engine.request_bind(key, slot + 1);
    }

    fn greeted(&mut self, engine: &mut Engine, key: usize) {
        let started = engine.nanos(engine.started(key));
        let took = engine.nanos(engine.now()).saturating_sub(started).max(1);
        engine.harvest.plain_open.saturating_record(took);
        engine.close(key);
    }

    fn resumed(&mut self, engine: &mut Engine, key: usize) {
        self.connecting -= 1;
        let slot = engine.slot(key);
        self.ramp.set_key(slot, Some(key));
        // All responses arrived before the cut: a burst of one.
        if self.place(slot).is_some_and(|place| place.waiting == 0) {
            self.round_done(engine, key, slot);
        }
        self.pump(engine);
    }

    fn answered(&mut self, engine: &mut Engine, key: usize, pending: Pending) {
        let slot = engine.slot(key);
        let Some(place) = self.place(slot) else {
            return;
        };
        if pending.id < place.answered {
            engine.tally.late.add(1);
        }
        place.answered = pending.id;
        match pending.kind {
            RequestKind::Bind => {
                place.is_bound = true;
                self.ramp.landed();
                self.ramp.pump(engine, |_| false);
            }
            RequestKind::Push => self.compare(engine, slot),
            RequestKind::Echo => {
                place.waiting -= 1;
                engine.tally.done.add(1);
                if place.is_to_be_cut {
                    self.cut(engine, key);
                } else if place.waiting == 0 {
                    self.round_done(engine, key, slot);
                }
            }
        }
    }

    fn unanswered(&mut self, engine: &mut Engine, key: usize, pending: Pending) {
        let slot = engine.slot(key);
        if pending.kind == RequestKind::Bind {
            self.ramp.landed();
        }
        self.give_up(slot);
    }

    fn pushed(&mut self, engine: &mut Engine, key: usize, _route: &[u8], body: &[u8]) {
        let slot = engine.slot(key);
        let numbers = engine.bodies.numbers(body);
        let Some((number, _)) = numbers else {
            return engine.wrong(|| "a push whose body is not one of this run".to_owned());
        };
        let Some(place) = self.place(slot) else {
            return;
        };
        let before = place.pushed;
        if number <= before {
            engine.tally.repeated.add(1);
            engine
                .harvest
                .note(|| format!("session {slot} got push {number} after {before}"));
            return;
        }
        place.pushed = number;
        self.missing = self.missing.saturating_sub(number - before);
        if number > before + 1 {
            engine.tally.lost.add(number - before - 1);
            engine
                .harvest
                .note(|| format!("session {slot} got push {number} after {before}"));
        }
    }

    fn gone(&mut self, engine: &mut Engine, slot: usize, why: Gone) {
        if slot >= PLAIN {
            self.connecting -= 1;
            self.pump(engine);
            return self.go_on(engine, slot - PLAIN);
        }
        let was_away = self.is_running && why == Gone::Failed;
        if was_away {
            self.connecting -= 1;
            self.pump(engine);
        }
        let is_bound = self.place(slot).is_some_and(|place| place.is_bound);
        if !is_bound {
            self.ramp.landed();
            self.ramp.pump(engine, |_| false);
        }
        self.ramp.set_key(slot, None);
        self.give_up(slot);
    }

    fn timer(&mut self, engine: &mut Engine, _number: u64) {
        self.pump(engine);
    }

    fn is_settled(&self, engine: &Engine) -> bool {
        if !self.is_running {
            return self.ramp.is_done();
        }
        self.unfinished == 0 && self.missing == 0 && engine.requests_waiting() == 0
    }

    fn finish(&mut self, engine: &mut Engine) {
        engine.count_unanswered();
        engine.tally.lost.add(self.missing);
    }
}
