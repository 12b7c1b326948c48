//! Sessions that follow a script.

use std::time::Duration;

use super::{Gone, Ramp, Scenario, Share};
use crate::{
    args::duration,
    conn::{Pending, RequestKind},
    engine::Engine,
    phase::Phase,
    timers::Timer,
};

/// What a session does, over and over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Script(Vec<Step>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Bind to the session's uid.
    Bind,
    /// So many requests, one after the other.
    Request(u32),
    /// Do nothing.
    Wait(Duration),
    /// Close, and connect again.
    Reconnect,
}

impl std::str::FromStr for Script {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split(',')
            .map(step)
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

fn step(text: &str) -> Result<Step, String> {
    let text = text.trim();
    let bad = || format!("`{text}` is no step: say bind, request*5, wait 100ms or reconnect");
    match text
        .split_once([' ', '*'])
        .map(|(word, rest)| (word.trim(), rest.trim()))
    {
        None if text == "bind" => Ok(Step::Bind),
        None if text == "request" => Ok(Step::Request(1)),
        None if text == "reconnect" => Ok(Step::Reconnect),
        Some(("request", times)) => {
            let times = times
                .trim_start_matches('*')
                .trim()
                .parse()
                .map_err(|_| bad())?;
            if times == 0 {
                Err(bad())
            } else {
                Ok(Step::Request(times))
            }
        }
        Some(("wait", time)) => duration(time).map(Step::Wait),
        _ => Err(bad()),
    }
}

/// Every session repeats the script until the run ends.
#[derive(Debug)]
pub(crate) struct Mix {
    ramp: Ramp,
    first: usize,
    script: Script,
    places: Vec<Place>,
    running: bool,
    draining: bool,
}

/// Where a session is in the script.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    /// The step that comes next.
    step: usize,
    /// Requests that the present step has still to send.
    requests: u32,
}

impl Mix {
    pub(crate) fn new(share: &Share, script: Script) -> Self {
        Self {
            ramp: Ramp::new(share),
            first: share.slots.start,
            script,
            places: vec![Place::default(); share.slots.len()],
            running: false,
            draining: false,
        }
    }

    /// Takes the next step of a session that waits for nothing.
    fn advance(&mut self, engine: &mut Engine, key: usize) {
        let slot = engine.slot(key);
        let Some(place) = self.places.get_mut(slot.wrapping_sub(self.first)) else {
            return;
        };
        if !self.running || self.draining {
            return;
        }
        if place.requests > 0 {
            place.requests -= 1;
            return engine.request_echo(key, None);
        }
        let step = self.script.0[place.step];
        place.step = (place.step + 1) % self.script.0.len();
        match step {
            Step::Bind => engine.request_bind(key, slot + 1),
            Step::Request(times) => {
                place.requests = times - 1;
                engine.request_echo(key, None);
            }
            Step::Wait(time) => {
                engine
                    .timers
                    .add(engine.now() + time, Timer::Scenario(slot as u64));
            }
            Step::Reconnect => engine.close(key),
        }
    }
}

impl Scenario for Mix {
    fn phase(&mut self, engine: &mut Engine, phase: Phase) {
        match phase {
            Phase::Connect => self.ramp.pump(engine, |_| false),
            Phase::WarmUp | Phase::Measure => {
                if !self.running {
                    self.running = true;
                    for index in 0..self.ramp.len() {
                        if let Some(key) = self.ramp.key(index) {
                            self.advance(engine, key);
                        }
                    }
                }
            }
            Phase::Drain | Phase::Done => self.draining = true,
        }
    }

    fn opened(&mut self, engine: &mut Engine, key: usize) {
        self.ramp.set_key(engine.slot(key), Some(key));
        if self.running {
            return self.advance(engine, key);
        }
        self.ramp.landed();
        self.ramp.pump(engine, |_| false);
    }

    fn answered(&mut self, engine: &mut Engine, key: usize, pending: Pending) {
        if pending.kind == RequestKind::Echo {
            engine.record(pending.sent);
            engine.tally.done.add(1);
        }
        self.advance(engine, key);
    }

    fn gone(&mut self, engine: &mut Engine, slot: usize, why: Gone) {
        self.ramp.set_key(slot, None);
        if why == Gone::Closed && !self.draining {
            return engine.connect(slot, false);
        }
        if why == Gone::Failed && !self.running {
            self.ramp.landed();
            self.ramp.pump(engine, |_| false);
        }
    }

    fn timer(&mut self, engine: &mut Engine, number: u64) {
        let slot = usize::try_from(number).unwrap_or(usize::MAX);
        if let Some(key) = self.ramp.key_of(slot) {
            self.advance(engine, key);
        }
    }

    fn is_settled(&self, engine: &Engine) -> bool {
        if self.draining {
            engine.requests_waiting() == 0
        } else {
            self.ramp.is_done()
        }
    }

    fn finish(&mut self, engine: &mut Engine) {
        engine.tally.lost.add(engine.requests_waiting() as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_are_read_step_by_step() {
        let script: Script = "bind, request*5,request, wait 100ms , reconnect"
            .parse()
            .unwrap();
        let wait = Step::Wait(Duration::from_millis(100));
        let steps = vec![
            Step::Bind,
            Step::Request(5),
            Step::Request(1),
            wait,
            Step::Reconnect,
        ];
        assert_eq!(script.0, steps);
        for bad in [
            "",
            "bind,",
            "request*0",
            "request*x",
            "wait",
            "wait 5",
            "sing",
        ] {
            assert!(bad.parse::<Script>().is_err(), "{bad}");
        }
    }
}
