//! Suspicion of servers that do not reply, derived from replies and timeouts alone. No IO and no clock, time is an argument.
//!
//! A server is suspected after a number of timeouts in a row, or immediately when NATS reports no subscriber. Routing avoids a suspect, and
//! pushes to it are sent without waiting; it is probed until it replies. A server that returned after a probe is on probation: its next
//! timeout makes it a suspect again, and the time until the next probe doubles, so that a server that replies only to probes costs less and
//! less. The first reply to anything but a probe ends the probation.
//!
//! A call with a long timeout detects a frozen server late. So a server whose call is pending for longer than most timeouts is *doubted*:
//! it is probed while it still counts as healthy. If it replies to the probe, it is only slow; otherwise it is suspected, long before the
//! call ends.
//!
//! Two probes in a row for which NATS reports no subscriber mean that the server is *absent*: it died, or NATS does not reach it.

use std::time::Duration;

use crate::ServerId;
use hashbrown::HashMap;

/// The longest time between two probes of one suspect.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// When a server is suspected, and how often a suspect is asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// Time-outs in a row. 0: servers are never suspected for time-outs.
    pub(super) timeouts: u32,
    /// Time until the first probe of a suspect.
    pub(super) pause: Duration,
}

/// What is remembered of the servers that did not answer. Those that do have no entry.
#[derive(Debug)]
pub(super) struct Detector {
    rules: Rules,
    servers: HashMap<ServerId, Record>,
}

#[derive(Debug)]
struct Record {
    state: State,
    /// Time until the next probe, should the server be suspected.
    pause: Duration,
    /// The probe of a server that is doubted and not suspected.
    doubt: Option<Doubt>,
    /// The last probe had no subscriber.
    was_absent: bool,
}

/// How a probe ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Probed {
    Replied,
    /// No reply in time, or it could not be sent.
    Silent,
    /// NATS reports that the server has no subscriber.
    NoSubscriber,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doubt {
    /// It is to be asked.
    Due,
    /// It is being asked.
    Asked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It did not answer so many calls in a row.
    Late(u32),
    Suspect {
        next_probe: Duration,
    },
    /// A probe is under way.
    Asked,
    Probation,
}

impl State {
    const fn is_suspected(self) -> bool {
        matches!(self, Self::Suspect { .. } | Self::Asked)
    }
}

/// What changed for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Suspected,
    Cleared,
    /// A suspect has had no subscriber for two probes.
    Absent,
}

impl Detector {
    pub(super) fn new(rules: Rules) -> Self {
        Self {
            rules,
            servers: HashMap::new(),
        }
    }

    /// A call was not answered in time.
    pub(super) fn timed_out(&mut self, server: &ServerId, now: Duration) -> Option<Verdict> {
        let allowed = self.rules.timeouts;
        if allowed == 0 {
            return None;
        }
        let record = self.record(server);
        match record.state {
            State::Late(before) if before + 1 < allowed => {
                record.state = State::Late(before + 1);
                None
            }
            State::Late(_) | State::Probation => Some(self.suspect(server, now)),
            State::Suspect { .. } | State::Asked => None,
        }
    }

    /// A call has waited for longer than most calls may, and still waits. True if the server is to be probed for that.
    pub(super) fn doubt(&mut self, server: &ServerId) -> bool {
        if self.rules.timeouts == 0 {
            return false;
        }
        let record = self.record(server);
        let is_new = record.doubt.is_none() && !record.state.is_suspected();
        if is_new {
            record.doubt = Some(Doubt::Due);
        }
        is_new
    }

    /// NATS reports that the server has no subscriber.
    pub(super) fn nobody_there(&mut self, server: &ServerId, now: Duration) -> Option<Verdict> {
        let record = self.servers.get(server);
        if record.is_some_and(|record| record.state.is_suspected()) {
            return None;
        }
        Some(self.suspect(server, now))
    }

    /// It answered a call.
    pub(super) fn answered(&mut self, server: &ServerId) -> Option<Verdict> {
        let record = self.servers.remove(server)?;
        record.state.is_suspected().then_some(Verdict::Cleared)
    }

    /// The servers to be asked now. Each is named once; then [`probed`](Self::probed) must say how that ended.
    pub(super) fn due(&mut self, now: Duration) -> Vec<ServerId> {
        let mut due = Vec::new();
        for (id, record) in &mut self.servers {
            if matches!(record.state, State::Suspect { next_probe } if next_probe <= now) {
                record.state = State::Asked;
                due.push(id.clone());
            } else if record.doubt == Some(Doubt::Due) {
                record.doubt = Some(Doubt::Asked);
                due.push(id.clone());
            }
        }
        due
    }

    /// When the next server is to be asked; zero: now.
    pub(super) fn next_probe(&self) -> Option<Duration> {
        let times = self
            .servers
            .values()
            .filter_map(|record| match (record.state, record.doubt) {
                (State::Suspect { next_probe }, _) => Some(next_probe),
                (_, Some(Doubt::Due)) => Some(Duration::ZERO),
                _ => None,
            });
        times.min()
    }

    /// A probe has ended.
    pub(super) fn probed(
        &mut self,
        server: &ServerId,
        probed: Probed,
        now: Duration,
    ) -> Option<Verdict> {
        // A call may have been answered meanwhile, or the server may be gone.
        let record = self.servers.get_mut(server)?;
        let answered = probed == Probed::Replied;
        let is_absent = probed == Probed::NoSubscriber;
        let was_absent = std::mem::replace(&mut record.was_absent, is_absent);
        if record.state == State::Asked {
            if answered {
                record.state = State::Probation;
                return Some(Verdict::Cleared);
            }
            self.suspect(server, now);
            return (was_absent && is_absent).then_some(Verdict::Absent);
        }
        if record.doubt != Some(Doubt::Asked) {
            return None;
        }
        record.doubt = None;
        if !answered {
            return Some(self.suspect(server, now));
        }
        // It is only slow.
        if record.state == State::Late(0) {
            self.servers.remove(server);
        }
        None
    }

    /// The server is gone, or another one has its id.
    pub(super) fn forget(&mut self, server: &ServerId) -> Option<Verdict> {
        self.answered(server)
    }

    fn record(&mut self, server: &ServerId) -> &mut Record {
        let pause = self.rules.pause;
        self.servers.entry(server.clone()).or_insert(Record {
            state: State::Late(0),
            pause,
            doubt: None,
            was_absent: false,
        })
    }

    fn suspect(&mut self, server: &ServerId, now: Duration) -> Verdict {
        let record = self.record(server);
        record.state = match record.doubt.take() {
            // That probe is the first one of the suspect.
            Some(Doubt::Asked) => State::Asked,
            _ => State::Suspect {
                next_probe: now + record.pause,
            },
        };
        record.pause = (record.pause * 2).min(LONGEST_PAUSE);
        Verdict::Suspected
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn detector(timeouts: u32) -> Detector {
        Detector::new(Rules {
            timeouts,
            pause: at(1),
        })
    }

    fn id(name: &str) -> ServerId {
        ServerId::new(name).unwrap()
    }

    /// Each step is what happens and at which second; `!` behind it: now the server is suspected, `+`: not any more, `-`: it is absent. `asked` and `quiet` say
    /// whether a probe is due.
    const STORIES: [(&str, &str); 16] = [
        ("three in a row", "late@0 late@0 late@0! late@0"),
        ("an answer between", "late@0 late@0 answer@0 late@0 late@0"),
        ("nobody listens", "nobody@0! nobody@0 quiet@0 asked@1"),
        (
            "asked once at a time",
            "nobody@0! asked@1 quiet@9 answers@9+ quiet@99",
        ),
        (
            "asked less and less often",
            "nobody@0! asked@1 silent@1 quiet@2 asked@3 silent@3 quiet@6 asked@7",
        ),
        (
            "on probation one is enough",
            "nobody@0! asked@1 answers@1+ late@5! quiet@6 asked@7",
        ),
        (
            "an answer ends it",
            "nobody@0! asked@1 answers@1+ answer@1 late@5",
        ),
        (
            "doubted and frozen",
            "doubt@5 asked@5 quiet@6 doubt@6 silent@7! asked@8 answers@8+",
        ),
        (
            "doubted and slow",
            "doubt@5 asked@5 answers@5 quiet@6 late@6 late@6 late@6! asked@7",
        ),
        ("answered before it was asked", "doubt@5 answer@5 quiet@5"),
        (
            "suspected while it is asked for a doubt",
            "doubt@5 asked@5 nobody@6! quiet@7 doubt@7 quiet@7 answers@8+",
        ),
        (
            "doubted on probation",
            "nobody@0! asked@1 answers@1+ doubt@5 asked@5 silent@6! quiet@7 asked@8",
        ),
        (
            "dead",
            "nobody@0! asked@1 absent@1 asked@3 absent@3- asked@7 absent@7-",
        ),
        (
            "doubted and dead",
            "doubt@5 asked@5 absent@5! asked@6 absent@6-",
        ),
        (
            "away for one probe",
            "nobody@0! asked@1 absent@1 asked@3 silent@3 asked@7 absent@7 asked@15 answers@15+",
        ),
        (
            "late, and a new life",
            "nobody@0! answer@0+ nobody@0! forget@0+",
        ),
    ];

    #[test]
    fn stories() {
        for (story, steps) in STORIES {
            let (mut detector, server) = (detector(3), id("a"));
            for step in steps.split(' ') {
                let (what, when) = step.split_once('@').unwrap();
                let now = at(when.trim_end_matches(['!', '+', '-']).parse().unwrap());
                let said = match what {
                    "late" => detector.timed_out(&server, now),
                    "nobody" => detector.nobody_there(&server, now),
                    "doubt" => {
                        detector.doubt(&server);
                        None
                    }
                    "answer" => detector.answered(&server),
                    "answers" => detector.probed(&server, Probed::Replied, now),
                    "silent" => detector.probed(&server, Probed::Silent, now),
                    "absent" => detector.probed(&server, Probed::NoSubscriber, now),
                    "forget" => detector.forget(&server),
                    "asked" | "quiet" => {
                        let due = detector.due(now).len();
                        assert_eq!(due, usize::from(what == "asked"), "{story}: {step}");
                        None
                    }
                    other => panic!("{other}"),
                };
                let expected = match when.chars().last() {
                    Some('!') => Some(Verdict::Suspected),
                    Some('+') => Some(Verdict::Cleared),
                    Some('-') => Some(Verdict::Absent),
                    _ => None,
                };
                assert_eq!(said, expected, "{story}: {step}");
            }
        }
    }

    #[test]
    fn without_a_number_nobody_is_suspected_for_time_outs() {
        let (mut detector, server) = (detector(0), id("a"));
        assert!((0..100).all(|n| detector.timed_out(&server, at(n)).is_none()));
        assert!(!detector.doubt(&server));
        assert!(detector.servers.is_empty());
    }

    /// Invariants: the verdicts for one server alternate, a suspect has exactly one probe scheduled or in flight, no server has two probes
    /// at a time, and a server that replies to everything is forgotten.
    #[test]
    fn any_order_of_events() {
        let hasher = std::hash::RandomState::new();
        let mut random = (0_u64..).map(|n| std::hash::BuildHasher::hash_one(&hasher, n));
        for _ in 0..2000 {
            let (mut detector, server) = (
                detector(1 + u32::try_from(random.next().unwrap() % 4).unwrap()),
                id("a"),
            );
            let (mut suspected, mut asked, mut now, mut in_a_row) = (false, false, 0, 0);
            let mut doubted = false;
            for _ in 0..60 {
                now += random.next().unwrap() % 3;
                let said = match random.next().unwrap() % 7 {
                    0 | 1 => {
                        in_a_row += 1;
                        detector.timed_out(&server, at(now))
                    }
                    2 => detector.nobody_there(&server, at(now)),
                    3 => {
                        (asked, doubted, in_a_row) = (false, false, 0);
                        detector.answered(&server)
                    }
                    4 => {
                        let due = detector.due(at(now));
                        assert!(due.is_empty() || (suspected || doubted) && !asked);
                        assert!(!doubted || !due.is_empty(), "a doubt is followed at once");
                        (asked, doubted) = (asked || !due.is_empty(), false);
                        None
                    }
                    5 => {
                        doubted |= detector.doubt(&server);
                        None
                    }
                    _ => {
                        let ways = [Probed::Replied, Probed::Silent, Probed::NoSubscriber];
                        let probed = ways[usize::try_from(random.next().unwrap() % 3).unwrap()];
                        let answered = probed == Probed::Replied;
                        let said = detector.probed(&server, probed, at(now));
                        match said {
                            Some(Verdict::Cleared) => assert!(asked && answered),
                            Some(Verdict::Suspected) => assert!(asked && !answered),
                            Some(Verdict::Absent) => {
                                assert!(asked && suspected && probed == Probed::NoSubscriber);
                            }
                            None => {}
                        }
                        asked = false;
                        said
                    }
                };
                match said {
                    Some(Verdict::Suspected) => {
                        assert!(!std::mem::replace(&mut suspected, true));
                        doubted = false;
                    }
                    Some(Verdict::Cleared) => assert!(std::mem::replace(&mut suspected, false)),
                    Some(Verdict::Absent) | None => {}
                }
                assert_eq!(
                    detector.next_probe().is_some(),
                    (suspected || doubted) && !asked
                );
                assert!(suspected || in_a_row == 0 || !detector.servers.is_empty());
            }
            detector.answered(&server);
            assert!(detector.servers.is_empty());
        }
    }
}
