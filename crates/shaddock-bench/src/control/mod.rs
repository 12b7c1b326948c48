//! One run: threads, the phases of each scenario, and the result.

mod run;
mod setup;

use std::{
    sync::{Arc, atomic::AtomicU64, mpsc::channel},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use mio::Waker;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};

pub use self::setup::BenchError;
use self::{
    run::{Run, Window},
    setup::Setup,
};
use crate::{
    args::{
        BenchArgs, ChurnArgs, EchoArgs, FanoutArgs, IdleArgs, MixArgs, ResumeArgs, ScenarioArgs,
        TargetArgs,
    },
    engine::Engine,
    phase::{Phase, SharedPhase},
    procfs::Processes,
    report::{Latency, Report, ServerCost},
    scenario::{Churn, Echo, Fanout, FanoutShared, Idle, Mix, Resume, Scenario, Script, Share},
    tally::{Harvest, Tally},
    target::{Routes, Target},
};

/// Files that a run needs besides its connections.
const SPARE_FILES: usize = 64;

pub(crate) fn measure(args: &BenchArgs) -> Result<Report, BenchError> {
    let target = args.target();
    raise_file_limit(target.connections)?;
    let mut target = target.clone();
    target.resume |= match &args.scenario {
        ScenarioArgs::Resume(_) => true,
        ScenarioArgs::Idle(idle) => idle.suspend,
        _ => false,
    };
    let setup = Setup::new(&target, &args.scenario)?;
    match &args.scenario {
        ScenarioArgs::Echo(args) => echo(&setup, args),
        ScenarioArgs::Idle(args) => idle(&setup, args),
        ScenarioArgs::Fanout(args) => fanout(&setup, args),
        ScenarioArgs::Churn(args) => churn(&setup, args),
        ScenarioArgs::Mix(args) => mix(&setup, args),
        ScenarioArgs::Resume(args) => resume(&setup, args),
    }
}

#[expect(clippy::cast_precision_loss, reason = "a handful of threads")]
fn echo(setup: &Setup<'_>, args: &EchoArgs) -> Result<Report, BenchError> {
    let part = args.rate.map(|rate| rate / setup.threads() as f64);
    let settings = json!({
        "connections": args.target.connections, "in_flight": args.in_flight, "rate": args.rate,
        "body": args.target.body, "threads": args.target.threads, "resume": args.target.resume,
    });
    let make = |share: &Share, _: &Waker0| Echo::new(share, args.in_flight, part);
    setup.drive("echo", "answers", settings, make, |run| {
        run.open();
        run.under_load(args.warmup, args.duration)
    })
}

fn idle(setup: &Setup<'_>, args: &IdleArgs) -> Result<Report, BenchError> {
    let settings = json!({
        "connections": args.target.connections, "hold_s": args.hold.as_secs_f64(),
        "threads": args.target.threads, "resume": setup.args.resume, "suspend": args.suspend,
    });
    setup.drive(
        "idle",
        "sessions",
        settings,
        |share, _| Idle::new(share, args.suspend),
        |run| {
            run.settle(Phase::Connect, None);
            run.wait(args.settle);
            run.look_open();
            let before = run.snapshot();
            if args.suspend {
                run.enter(Phase::Measure);
                run.wait(args.settle);
            }
            run.wait(args.hold);
            Window {
                before,
                after: run.snapshot(),
                from_zero: true,
            }
        },
    )
}

fn fanout(setup: &Setup<'_>, args: &FanoutArgs) -> Result<Report, BenchError> {
    let settings = json!({
        "connections": args.target.connections, "pushes": args.pushes, "rate": args.rate,
        "stalled_percent": args.stalled, "body": args.target.body, "threads": args.target.threads,
    });
    let mut shared = None;
    let make = |share: &Share, sender: &Waker0| {
        let shared = shared.get_or_insert_with(|| {
            Arc::new(FanoutShared {
                sender: Arc::clone(sender),
                receivers: AtomicU64::new(0),
                sent: AtomicU64::new(0),
                delivered: AtomicU64::new(0),
                timeout: args.target.timeout,
            })
        });
        Fanout::new(share, args, Arc::clone(shared))
    };
    setup.drive("fanout", "deliveries", settings, make, |run| {
        run.open();
        run.look_open();
        let before = run.snapshot();
        run.enter(Phase::Measure);
        run.settle(Phase::Measure, None);
        Window {
            before,
            after: run.snapshot(),
            from_zero: false,
        }
    })
}

fn churn(setup: &Setup<'_>, args: &ChurnArgs) -> Result<Report, BenchError> {
    let settings = json!({
        "connections": args.target.connections, "connecting": args.target.connecting,
        "close": args.close, "threads": args.target.threads,
    });
    setup.drive(
        "churn",
        "sessions",
        settings,
        |share, _| Churn::new(share, args.close),
        |run| {
            let before = run.snapshot();
            run.enter(Phase::Measure);
            run.settle(Phase::Measure, None);
            let elapsed = Instant::now();
            run.quiet();
            run.look_open();
            let mut after = run.snapshot();
            after.at = elapsed;
            Window {
                before,
                after,
                from_zero: false,
            }
        },
    )
}

fn mix(setup: &Setup<'_>, args: &MixArgs) -> Result<Report, BenchError> {
    let script: Script = args.script.parse().map_err(BenchError::Script)?;
    let settings = json!({
        "connections": args.target.connections, "script": args.script, "repeat": args.repeat,
        "body": args.target.body, "threads": args.target.threads,
    });
    setup.drive(
        "mix",
        "answers",
        settings,
        |share, _| Mix::new(share, script.clone(), args.repeat, args.first_uid),
        |run| {
            run.open();
            match args.repeat {
                Some(_) => run.until_settled(args.duration),
                None => run.under_load(args.warmup, args.duration),
            }
        },
    )
}

fn resume(setup: &Setup<'_>, args: &ResumeArgs) -> Result<Report, BenchError> {
    let settings = json!({
        "connections": args.target.connections, "cuts": args.cuts, "burst": args.burst,
        "away_s": args.away.as_secs_f64(), "body": args.target.body, "threads": args.target.threads,
    });
    setup.drive(
        "resume",
        "answers",
        settings,
        |share, _| Resume::new(share, args),
        |run| {
            run.open();
            run.until_settled(args.limit)
        },
    )
}

/// The routes whose messages a scenario sends or reads.
fn used(scenario: &ScenarioArgs, routes: &Routes) -> Vec<Bytes> {
    let used: &[&Bytes] = match scenario {
        ScenarioArgs::Echo(_) => &[&routes.echo],
        ScenarioArgs::Idle(_) | ScenarioArgs::Churn(_) => &[],
        ScenarioArgs::Fanout(_) => &[&routes.bind, &routes.push, &routes.push_event],
        ScenarioArgs::Mix(_) => &[&routes.bind, &routes.echo],
        ScenarioArgs::Resume(_) => &[&routes.bind, &routes.echo, &routes.push, &routes.push_event],
    };
    used.iter().copied().cloned().collect()
}

/// The waker of the first thread.
type Waker0 = Arc<Waker>;

impl<'a> Setup<'a> {
    fn new(args: &'a TargetArgs, scenario: &ScenarioArgs) -> Result<Self, BenchError> {
        let mut target = Target::new(args)?;
        target.used = used(scenario, &target.routes);
        Ok(Self {
            args,
            target: Arc::new(target),
            server: Processes::new(&args.pid),
        })
    }

    fn threads(&self) -> usize {
        self.args.threads.clamp(1, self.args.connections.max(1))
    }

    /// Starts the threads, lets `plan` run the phases, and collects the result.
    fn drive<S: Scenario + Send>(
        &self,
        name: &'static str,
        unit: &'static str,
        settings: Value,
        mut make: impl FnMut(&Share, &Waker0) -> S,
        plan: impl FnOnce(&mut Run<'_>) -> Window,
    ) -> Result<Report, BenchError> {
        let epoch = Instant::now();
        let shares = Share::cut(self.args.connections, self.args.connecting, self.threads());
        let tallies: Vec<Arc<Tally>> = shares.iter().map(|_| Arc::default()).collect();
        let mut engines = Vec::new();
        let mut wakers = Vec::new();
        for tally in &tallies {
            let target = Arc::clone(&self.target);
            let engine = Engine::new(target, Arc::clone(tally), epoch, self.args.timeout)?;
            wakers.push(engine.waker()?);
            engines.push(engine);
        }
        let phases = SharedPhase::default();
        let (sender, settled) = channel();
        let mut run = Run::new(self, name, &phases, wakers, settled, &tallies)?;
        let (window, harvest) = thread::scope(|scope| {
            let mut threads = Vec::new();
            for (engine, share) in engines.into_iter().zip(&shares) {
                let scenario = make(share, &run.wakers[0]);
                let sender = sender.clone();
                let phases = &phases;
                threads.push(scope.spawn(move || {
                    // There is no receiver any more once the run has failed.
                    engine.run(scenario, phases, |phase| {
                        let _ = sender.send(phase);
                    })
                }));
            }
            let window = plan(&mut run);
            run.enter(Phase::Done);
            let mut harvest = Harvest::new()?;
            for thread in threads {
                harvest.add(&thread.join().map_err(|_| BenchError::Panicked)??);
            }
            Ok::<_, BenchError>((window, harvest))
        })?;
        run.clear_progress();
        Ok(self.report(&run, &window, harvest, unit, settings))
    }

    fn report(
        &self,
        run: &Run<'_>,
        window: &Window,
        mut harvest: Harvest,
        unit: &'static str,
        settings: Value,
    ) -> Report {
        let Window {
            before,
            after,
            from_zero,
        } = window;
        let from = if *from_zero { 0 } else { before.totals.done };
        let own_cpu = after.own.cpu_since(&before.own);
        let server = before
            .server
            .zip(after.server)
            .map(|(before, after)| ServerCost {
                cpu: after.cpu_since(&before),
                user: after.user.saturating_sub(before.user),
                system: after.system.saturating_sub(before.system),
                resident_before: run.resident_before,
                resident_open: run.resident_open,
                resident_peak: run.resident_peak,
                resident_after: after.resident,
            });
        if self.server.is_some() && server.is_none() {
            let note = "the process of --pid ended before the run did";
            harvest.notes.push(note.to_owned());
        }
        let machine = after.machine.busy.saturating_sub(before.machine.busy);
        let stolen = after.machine.stolen.saturating_sub(before.machine.stolen);
        let known = own_cpu + server.map_or(Duration::ZERO, |server| server.cpu);
        let mut report = Report {
            scenario: run.name,
            transport: self.target.transport,
            label: self.args.label.clone(),
            settings,
            unit,
            messages: after.totals.done - from,
            elapsed: after.at.saturating_duration_since(before.at),
            sessions: run.sessions,
            wrong: 0,
            lost: 0,
            repeated: 0,
            late: 0,
            failed: 0,
            closed: 0,
            latency: Latency::of(&harvest.latency),
            plain: Latency::of(&harvest.plain),
            plain_open: Latency::of(&harvest.plain_open),
            notes: harvest.notes,
            server,
            own_cpu,
            other_cpu: machine.saturating_sub(known) + stolen,
        };
        report.count(&run.totals());
        report
    }
}

/// Raises the soft limit of open files to the hard limit.
fn raise_file_limit(connections: usize) -> Result<(), BenchError> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        // If it fails, the current limit may still be enough.
        let _ = setrlimit(
            Resource::Nofile,
            Rlimit {
                current: maximum,
                maximum,
            },
        );
    }
    match getrlimit(Resource::Nofile).current {
        Some(limit) if limit < (connections + SPARE_FILES) as u64 => Err(BenchError::Files {
            wanted: connections,
            limit,
        }),
        _ => Ok(()),
    }
}
