//! Sessions that run a script.

use std::time::Duration;

use super::{Gone, Scenario, Share, crowd::Crowd};
use crate::{
    args::duration,
    conn::{Pending, RequestKind},
    engine::Engine,
    phase::Phase,
    timers::Timer,
};

/// The steps that a session repeats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Script(Vec<Step>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Bind to the session's uid.
    Bind,
    /// This number of requests, one after another.
    Request(u32),
    /// Wait.
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
    let bad = || format!("`{text}` is not a step: write bind, request*5, wait 100ms or reconnect");
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
    crowd: Crowd,
    first: usize,
    /// Number in the uid of slot 0.
    first_uid: usize,
    script: Script,
    /// How many times each session runs its script.
    repeat: Option<usize>,
    places: Vec<Place>,
    /// Sessions that have not finished.
    unfinished: usize,
}

/// The position of a session in the script.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    /// The next step.
    step: usize,
    /// How many times the script has run.
    rounds: usize,
    /// Requests that the current step must still send.
    requests: u32,
}

impl Mix {
    pub(crate) fn new(
        share: &Share,
        script: Script,
        repeat: Option<usize>,
        first_uid: usize,
    ) -> Self {
        Self {
            crowd: Crowd::new(share),
            first: share.slots.start,
            first_uid,
            script,
            repeat,
            places: vec![Place::default(); share.slots.len()],
            unfinished: share.slots.len(),
        }
    }

    /// Runs the next step of a session that waits for nothing.
    fn advance(&mut self, engine: &mut Engine, key: usize) {
        let slot = engine.slot(key);
        let Some(place) = self.places.get_mut(slot.wrapping_sub(self.first)) else {
            return;
        };
        if !self.crowd.is_running() {
            return;
        }
        if place.requests > 0 {
            place.requests -= 1;
            return engine.request_echo(key, None);
        }
        if place.step == self.script.0.len() {
            place.step = 0;
            place.rounds += 1;
        }
        if self.repeat == Some(place.rounds) {
            self.unfinished -= 1;
            return;
        }
        let step = self.script.0[place.step];
        place.step += 1;
        match step {
            Step::Bind => engine.request_bind(key, slot.saturating_add(self.first_uid)),
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
        if self.crowd.enter(engine, phase) {
            for key in self.crowd.keys() {
                self.advance(engine, key);
            }
        }
    }

    fn opened(&mut self, engine: &mut Engine, key: usize) {
        self.crowd.opened(engine, key);
        self.advance(engine, key);
    }

    fn answered(&mut self, engine: &mut Engine, key: usize, pending: Pending) {
        if pending.kind == RequestKind::Echo {
            engine.record(pending.sent);
            engine.tally.done.add(1);
        }
        self.advance(engine, key);
    }

    fn unanswered(&mut self, engine: &mut Engine, key: usize, _pending: Pending) {
        self.advance(engine, key);
    }

    fn gone(&mut self, engine: &mut Engine, slot: usize, why: Gone) {
        self.crowd.gone(engine, slot, why);
        if why == Gone::Closed && self.crowd.is_running() {
            return engine.connect(slot, false);
        }
        let place = self.places.get(slot.wrapping_sub(self.first));
        if place.is_some_and(|place| self.repeat != Some(place.rounds)) {
            // It will not continue.
            self.unfinished = self.unfinished.saturating_sub(1);
        }
    }

    fn timer(&mut self, engine: &mut Engine, number: u64) {
        let slot = usize::try_from(number).unwrap_or(usize::MAX);
        if let Some(key) = self.crowd.key_of(slot) {
            self.advance(engine, key);
        }
    }

    fn is_settled(&self, engine: &Engine) -> bool {
        let done = self.repeat.is_none() || self.unfinished == 0;
        self.crowd.is_settled(engine) && (done || !self.crowd.is_running())
    }

    fn finish(&mut self, engine: &mut Engine) {
        engine.count_unanswered();
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
