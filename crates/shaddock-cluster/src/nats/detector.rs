//! Suspicion of servers that do not reply, derived from replies and timeouts alone. No IO and no clock, time is an argument.
//!
//! A server is suspected after a number of timeouts in a row, or immediately when NATS reports no subscriber. Routing avoids a suspect, and
//! pushes to it are sent without waiting; it is probed until it replies. A server that returned after a probe is on probation: its next
//! timeout makes it a suspect again, and the time until the next probe doubles, so that a server that replies only to probes costs less and
//! less. The first reply to anything but a probe ends the probation.
//!
//! A call with a long timeout detects a frozen server late. So a server whose call is pending for longer than most timeouts gets an *early
//! probe*, while it still counts as healthy. If it replies to the probe, it is only slow; otherwise it is suspected, long before the
//! call ends.
//!
//! Two probes in a row for which NATS reports no subscriber mean that the server is *absent*: it died, or NATS does not reach it.

use std::time::Duration;

use crate::ServerId;
use hashbrown::HashMap;

/// The longest time between two probes of one suspect.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// When a server is suspected, and how often a suspect is probed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// Time-outs in a row. 0: servers are never suspected for time-outs.
    pub(super) timeouts: u32,
    /// Time until the first probe of a suspect.
    pub(super) pause: Duration,
}

/// The servers that did not reply. A server that replies has no entry.
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
    /// The early probe of a server that is not suspected.
    early_probe: Option<EarlyProbe>,
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
enum EarlyProbe {
    /// It is due.
    Due,
    /// It was sent.
    Sent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// So many calls in a row timed out.
    Unanswered(u32),
    Suspect {
        next_probe: Duration,
    },
    /// A probe is under way.
    Probing,
    Probation,
}

impl State {
    const fn is_suspected(self) -> bool {
        matches!(self, Self::Suspect { .. } | Self::Probing)
    }
}

/// A change that the caller has to apply.
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

    /// A call timed out.
    pub(super) fn timed_out(&mut self, server: &ServerId, now: Duration) -> Option<Verdict> {
        let allowed = self.rules.timeouts;
        if allowed == 0 {
            return None;
        }
        let record = self.record(server);
        match record.state {
            State::Unanswered(before) if before + 1 < allowed => {
                record.state = State::Unanswered(before + 1);
                None
            }
            State::Unanswered(_) | State::Probation => Some(self.suspect(server, now)),
            State::Suspect { .. } | State::Probing => None,
        }
    }

    /// A call is pending for longer than most timeouts. True if an early probe is due for that.
    pub(super) fn call_is_slow(&mut self, server: &ServerId) -> bool {
        if self.rules.timeouts == 0 {
            return false;
        }
        let record = self.record(server);
        let is_new = record.early_probe.is_none() && !record.state.is_suspected();
        if is_new {
            record.early_probe = Some(EarlyProbe::Due);
        }
        is_new
    }

    /// NATS reports that the server has no subscriber.
    pub(super) fn no_subscriber(&mut self, server: &ServerId, now: Duration) -> Option<Verdict> {
        let record = self.servers.get(server);
        if record.is_some_and(|record| record.state.is_suspected()) {
            return None;
        }
        Some(self.suspect(server, now))
    }

    /// A call was answered.
    pub(super) fn replied(&mut self, server: &ServerId) -> Option<Verdict> {
        let record = self.servers.remove(server)?;
        record.state.is_suspected().then_some(Verdict::Cleared)
    }

    /// The servers whose probes are due. Each is returned once; then [`probed`](Self::probed) must be called with the result.
    pub(super) fn due(&mut self, now: Duration) -> Vec<ServerId> {
        let mut due = Vec::new();
        for (id, record) in &mut self.servers {
            if matches!(record.state, State::Suspect { next_probe } if next_probe <= now) {
                record.state = State::Probing;
                due.push(id.clone());
            } else if record.early_probe == Some(EarlyProbe::Due) {
                record.early_probe = Some(EarlyProbe::Sent);
                due.push(id.clone());
            }
        }
        due
    }

    /// When the next probe is due; zero: now.
    pub(super) fn next_probe(&self) -> Option<Duration> {
        let times =
            self.servers
                .values()
                .filter_map(|record| match (record.state, record.early_probe) {
                    (State::Suspect { next_probe }, _) => Some(next_probe),
                    (_, Some(EarlyProbe::Due)) => Some(Duration::ZERO),
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
        if record.state == State::Probing {
            if answered {
                record.state = State::Probation;
                return Some(Verdict::Cleared);
            }
            self.suspect(server, now);
            return (was_absent && is_absent).then_some(Verdict::Absent);
        }
        if record.early_probe != Some(EarlyProbe::Sent) {
            return None;
        }
        record.early_probe = None;
        if !answered {
            return Some(self.suspect(server, now));
        }
        // The server is only slow.
        if record.state == State::Unanswered(0) {
            self.servers.remove(server);
        }
        None
    }

    /// The server is gone, or another one has its id.
    pub(super) fn forget(&mut self, server: &ServerId) -> Option<Verdict> {
        self.replied(server)
    }

    fn record(&mut self, server: &ServerId) -> &mut Record {
        let pause = self.rules.pause;
        self.servers.entry(server.clone()).or_insert(Record {
            state: State::Unanswered(0),
            pause,
            early_probe: None,
            was_absent: false,
        })
    }

    fn suspect(&mut self, server: &ServerId, now: Duration) -> Verdict {
        let record = self.record(server);
        record.state = match record.early_probe.take() {
            // That probe is the first one of the suspect.
            Some(EarlyProbe::Sent) => State::Probing,
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
        ("no subscriber", "gone@0! gone@0 quiet@0 asked@1"),
        (
            "asked once at a time",
            "gone@0! asked@1 quiet@9 answers@9+ quiet@99",
        ),
        (
            "asked less and less often",
            "gone@0! asked@1 silent@1 quiet@2 asked@3 silent@3 quiet@6 asked@7",
        ),
        (
            "on probation one is enough",
            "gone@0! asked@1 answers@1+ late@5! quiet@6 asked@7",
        ),
        (
            "an answer ends it",
            "gone@0! asked@1 answers@1+ answer@1 late@5",
        ),
        (
            "slow and frozen",
            "slow@5 asked@5 quiet@6 slow@6 silent@7! asked@8 answers@8+",
        ),
        (
            "slow and alive",
            "slow@5 asked@5 answers@5 quiet@6 late@6 late@6 late@6! asked@7",
        ),
        ("answered before it was asked", "slow@5 answer@5 quiet@5"),
        (
            "suspected during an early probe",
            "slow@5 asked@5 gone@6! quiet@7 slow@7 quiet@7 answers@8+",
        ),
        (
            "slow on probation",
            "gone@0! asked@1 answers@1+ slow@5 asked@5 silent@6! quiet@7 asked@8",
        ),
        (
            "dead",
            "gone@0! asked@1 absent@1 asked@3 absent@3- asked@7 absent@7-",
        ),
        (
            "slow and dead",
            "slow@5 asked@5 absent@5! asked@6 absent@6-",
        ),
        (
            "away for one probe",
            "gone@0! asked@1 absent@1 asked@3 silent@3 asked@7 absent@7 asked@15 answers@15+",
        ),
        (
            "late, and a new life",
            "gone@0! answer@0+ gone@0! forget@0+",
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
                    "gone" => detector.no_subscriber(&server, now),
                    "slow" => {
                        detector.call_is_slow(&server);
                        None
                    }
                    "answer" => detector.replied(&server),
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
    fn without_a_number_no_server_is_suspected_for_time_outs() {
        let (mut detector, server) = (detector(0), id("a"));
        assert!((0..100).all(|n| detector.timed_out(&server, at(n)).is_none()));
        assert!(!detector.call_is_slow(&server));
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
            let mut early_probe = false;
            for _ in 0..60 {
                now += random.next().unwrap() % 3;
                let said = match random.next().unwrap() % 7 {
                    0 | 1 => {
                        in_a_row += 1;
                        detector.timed_out(&server, at(now))
                    }
                    2 => detector.no_subscriber(&server, at(now)),
                    3 => {
                        (asked, early_probe, in_a_row) = (false, false, 0);
                        detector.replied(&server)
                    }
                    4 => {
                        let due = detector.due(at(now));
                        assert!(due.is_empty() || (suspected || early_probe) && !asked);
                        assert!(
                            !early_probe || !due.is_empty(),
                            "an early probe is due at once"
                        );
                        (asked, early_probe) = (asked || !due.is_empty(), false);
                        None
                    }
                    5 => {
                        early_probe |= detector.call_is_slow(&server);
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
                        early_probe = false;
                    }
                    Some(Verdict::Cleared) => assert!(std::mem::replace(&mut suspected, false)),
                    Some(Verdict::Absent) | None => {}
                }
                assert_eq!(
                    detector.next_probe().is_some(),
                    (suspected || early_probe) && !asked
                );
                assert!(suspected || in_a_row == 0 || !detector.servers.is_empty());
            }
            detector.replied(&server);
            assert!(detector.servers.is_empty());
        }
    }
}
