//! A running test: its phases, its measurements, and the progress line.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal as _},
    process,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use mio::Waker;

use super::setup::{BenchError, Setup};
use crate::{
    phase::{Phase, SharedPhase},
    procfs::{Machine, Process, Processes, Usage},
    tally::{Tally, Totals},
};

/// Interval of reading counters and the server's memory.
const LOOK: Duration = Duration::from_millis(250);
/// Time after the last handshake, for the server to process the last ack.
const QUIET: Duration = Duration::from_millis(300);

/// All values at one moment.
pub(super) struct Snapshot {
    pub(super) at: Instant,
    pub(super) totals: Totals,
    pub(super) server: Option<Usage>,
    pub(super) own: Usage,
    pub(super) machine: Machine,
}

/// The measured time.
pub(super) struct Window {
    pub(super) before: Snapshot,
    pub(super) after: Snapshot,
    /// Count from the start of the run, not of the window.
    pub(super) from_zero: bool,
}

/// A running test, for its plan.
pub(super) struct Run<'a> {
    setup: &'a Setup<'a>,
    pub(super) name: &'static str,
    phases: &'a SharedPhase,
    pub(super) wakers: Vec<Arc<Waker>>,
    settled: Receiver<Phase>,
    tallies: &'a [Arc<Tally>],
    progress: Progress,
    pub(super) resident_before: u64,
    pub(super) resident_open: u64,
    pub(super) resident_peak: u64,
    pub(super) sessions: u64,
}

impl<'a> Run<'a> {
    pub(super) fn new(
        setup: &'a Setup<'a>,
        name: &'static str,
        phases: &'a SharedPhase,
        wakers: Vec<Arc<Waker>>,
        settled: Receiver<Phase>,
        tallies: &'a [Arc<Tally>],
    ) -> Result<Self, BenchError> {
        let progress = Progress::new(!setup.args.quiet && io::stderr().is_terminal());
        let mut run = Self {
            setup,
            name,
            phases,
            wakers,
            settled,
            tallies,
            progress,
            resident_before: 0,
            resident_open: 0,
            resident_peak: 0,
            sessions: 0,
        };
        run.resident_before = run.usage()?.map_or(0, |usage| usage.resident);
        Ok(run)
    }

    fn usage(&self) -> Result<Option<Usage>, BenchError> {
        let Some(server) = &self.setup.server else {
            return Ok(None);
        };
        server
            .usage()
            .map(Some)
            .map_err(|(pid, error)| BenchError::Process { pid, error })
    }

    /// The same while the run continues: if the server has died, the connections show it.
    fn usage_so_far(&self) -> Option<Usage> {
        self.usage().ok().flatten()
    }

    pub(super) fn totals(&self) -> Totals {
        Totals::of(self.tallies.iter().map(AsRef::as_ref))
    }

    pub(super) fn enter(&self, phase: Phase) {
        self.phases.set(phase);
        for waker in &self.wakers {
            // It fails only if the thread has ended, and needs no waking.
            let _ = waker.wake();
        }
    }

    /// Waits for all sessions to be open.
    pub(super) fn open(&mut self) {
        self.settle(Phase::Connect, None);
        self.quiet();
    }

    /// Lets the server finish pending work.
    pub(super) fn quiet(&mut self) {
        self.wait(QUIET);
    }

    /// Waits until all threads have reached the end of `phase`, or the limit.
    pub(super) fn settle(&mut self, phase: Phase, limit: Option<Duration>) {
        let limit = limit.map(|limit| Instant::now() + limit);
        let mut missing = self.wakers.len();
        while missing > 0 && limit.is_none_or(|limit| Instant::now() < limit) {
            match self.settled.recv_timeout(LOOK) {
                Ok(done) if done == phase => missing -= 1,
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => self.look(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    pub(super) fn wait(&mut self, time: Duration) {
        let end = Instant::now() + time;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            thread::sleep(left.min(LOOK));
            self.look();
        }
    }

    /// No session was opened, so there is nothing to measure.
    fn nobody(&self) -> Option<Window> {
        if self.sessions > 0 {
            return None;
        }
        let from_zero = false;
        let (before, after) = (self.snapshot(), self.snapshot());
        Some(Window {
            before,
            after,
            from_zero,
        })
    }

    /// Warms up, measures, and waits for pending responses.
    pub(super) fn under_load(&mut self, warmup: Duration, duration: Duration) -> Window {
        self.look_open();
        if let Some(nothing) = self.nobody() {
            return nothing;
        }
        self.enter(Phase::WarmUp);
        self.wait(warmup);
        self.enter(Phase::Measure);
        let before = self.snapshot();
        self.wait(duration);
        let after = self.snapshot();
        self.enter(Phase::Drain);
        self.settle(Phase::Drain, Some(self.setup.args.timeout));
        Window {
            before,
            after,
            from_zero: false,
        }
    }

    /// Measures until the scenario has finished, or the limit, and waits for pending responses.
    pub(super) fn until_settled(&mut self, limit: Duration) -> Window {
        self.look_open();
        if let Some(nothing) = self.nobody() {
            return nothing;
        }
        let before = self.snapshot();
        self.enter(Phase::Measure);
        self.settle(Phase::Measure, Some(limit));
        let after = self.snapshot();
        self.enter(Phase::Drain);
        self.settle(Phase::Drain, Some(self.setup.args.timeout));
        Window {
            before,
            after,
            from_zero: false,
        }
    }

    /// Reads the memory with all sessions open and quiet.
    pub(super) fn look_open(&mut self) {
        self.sessions = self.totals().open;
        self.resident_open = self.usage_so_far().map_or(0, |usage| usage.resident);
        self.resident_peak = self.resident_peak.max(self.resident_open);
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        Snapshot {
            at: Instant::now(),
            totals: self.totals(),
            server: self.usage_so_far(),
            own: Process::new(process::id()).usage().unwrap_or_default(),
            machine: Machine::usage().unwrap_or_default(),
        }
    }

    fn look(&mut self) {
        // If the server has died, the connections show it.
        if let Some(Ok(resident)) = self.setup.server.as_ref().map(Processes::resident) {
            self.resident_peak = self.resident_peak.max(resident);
        }
        let totals = self.totals();
        self.progress.show(self.name, &totals, self.resident_peak);
    }

    pub(super) fn clear_progress(&self) {
        if self.progress.on {
            eprint!("\r\x1b[K");
        }
    }
}

/// The line on the terminal.
struct Progress {
    on: bool,
    start: Instant,
    last: (Instant, u64),
}

impl Progress {
    fn new(on: bool) -> Self {
        let now = Instant::now();
        Self {
            on,
            start: now,
            last: (now, 0),
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    fn show(&mut self, name: &str, totals: &Totals, resident: u64) {
        if !self.on {
            return;
        }
        let now = Instant::now();
        let (at, done) = self.last;
        let rate = (totals.done - done) as f64 / (now - at).as_secs_f64().max(1e-9);
        self.last = (now, totals.done);
        let elapsed = (now - self.start).as_secs_f64();
        let mut line = format!(
            "{name}  {elapsed:5.1} s  {} open  {} done  {rate:.0}/s",
            totals.open, totals.done
        );
        if resident > 0 {
            let _ = write!(line, "  server {} MiB", resident >> 20);
        }
        if totals.faults() > 0 {
            let _ = write!(line, "  FAULTS {}", totals.faults());
        }
        eprint!("\r{line}\x1b[K");
    }
}
