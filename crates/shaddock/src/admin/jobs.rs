//! Jobs: commands that are executed in the background, at a number of sessions per second.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::http::StatusCode;
use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};

use super::{
    audit::{self, Audit, Line},
    error::ApiError,
};
use crate::{
    guarded::{Guarded, Panic, Watch},
    operators::{Act, Everywhere, Obeyed},
};

/// Jobs that are known, running and ended. Above this limit the oldest ended job is forgotten; if all are running, no job can start.
const MOST_JOBS: usize = 64;
/// Steps per second, if the pace permits.
const STEPS_A_SECOND: u64 = 5;
/// The most sessions of one step.
const MOST_A_STEP: u64 = 1000;
/// The error of a job whose task ended without a reason.
const BROKE_OFF: &str = "the job failed; see the log of the process";

/// The number of sessions per step and the time between two steps. The requested rate is never exceeded.
fn pace(per_second: u64) -> (usize, Duration) {
    let per_second = per_second.max(1);
    let step = per_second.div_ceil(STEPS_A_SECOND).min(MOST_A_STEP);
    // This cannot overflow: a step is at most 1,000 sessions.
    let pause = Duration::from_nanos((step * 1_000_000_000).div_ceil(per_second));
    (usize::try_from(step).unwrap_or(1), pause)
}

/// The work of a job.
pub(super) struct Job {
    pub(super) act: Act,
    pub(super) sids: Vec<String>,
    pub(super) per_second: u64,
    /// The command, for the line in the audit log when the job ends.
    pub(super) line: Line,
}

/// The parts of the process that a job uses.
pub(super) trait Host: Send + Sync + 'static {
    /// Whether the process drains, so that jobs end.
    fn is_draining(&self) -> bool;

    /// Executes one step, for these sessions.
    fn step(
        &self,
        sids: &[String],
        act: &Act,
    ) -> impl Future<Output = Result<Everywhere<Obeyed>, ApiError>> + Send;

    /// The audit log.
    fn audit(&self) -> &Audit;
}

/// The progress of a job.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct JobStatus {
    /// The id of the job.
    pub id: String,
    /// The command.
    pub command: String,
    /// The number of sessions that were selected when the job started.
    pub matched: u64,
    /// The number of sessions on which the command succeeded.
    pub done: u64,
    /// The number of sessions on which the command failed, including those of frontends without a reply.
    pub failed: u64,
    /// The number of remaining sessions.
    pub left: u64,
    /// Whether the job is running.
    pub running: bool,
    /// The errors of the first failed sessions, and the reason if the job ended early.
    pub errors: Vec<String>,
}

/// The jobs of a process.
#[derive(Debug, Clone, Default)]
pub(super) struct Jobs {
    all: Arc<Mutex<BTreeMap<u64, JobStatus>>>,
    next: Arc<AtomicU64>,
}

impl Jobs {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, JobStatus>> {
        self.all.lock()
    }

    pub(super) fn get(&self, id: &str) -> Option<JobStatus> {
        self.lock().get(&id.parse().ok()?).cloned()
    }

    /// The number of running jobs.
    pub(super) fn running(&self) -> u64 {
        self.lock().values().filter(|job| job.running).count() as u64
    }

    /// Stops a job after its current step. Returns whether it was running.
    pub(super) fn stop(&self, id: &str) -> bool {
        let id = id.parse().unwrap_or_default();
        match self.lock().get_mut(&id) {
            Some(job) if job.running => {
                job.running = false;
                job.errors.push("it was stopped".to_owned());
                true
            }
            _ => false,
        }
    }

    /// Starts a job, and returns its id.
    pub(super) fn start(&self, host: impl Host, job: Job) -> Result<String, ApiError> {
        let running = self.begin(job.line.command, job.sids.len() as u64)?;
        let id = running.id.to_string();
        tokio::spawn(running.work(host, job));
        Ok(id)
    }

    /// Reserves a slot for a job of this command, for this number of sessions.
    fn begin(&self, command: &str, matched: u64) -> Result<Running, ApiError> {
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let mut all = self.lock();
        if all.len() >= MOST_JOBS {
            let ended = all.iter().find(|(_, job)| !job.running).map(|(id, _)| *id);
            let Some(ended) = ended else {
                return Err(ApiError::new(
                    StatusCode::TOO_MANY_REQUESTS,
                    "too_many",
                    format!("{MOST_JOBS} jobs are running; wait until one ends, or stop one"),
                ));
            };
            all.remove(&ended);
        }
        let status = JobStatus {
            id: id.to_string(),
            command: command.to_owned(),
            matched,
            done: 0,
            failed: 0,
            left: matched,
            running: true,
            errors: Vec::new(),
        };
        all.insert(id, status);
        Ok(Running {
            jobs: self.clone(),
            id,
            tally: Mutex::default(),
        })
    }
}

/// The totals of a job for the audit log: its status may be forgotten before it ends.
#[derive(Debug, Clone, Default)]
struct Tally {
    done: u64,
    failed: u64,
    unanswered: Vec<String>,
}

/// A running job, held by its task. When the task ends for any reason (a panic, the end of the runtime), the job is no longer `running`.
#[derive(Debug)]
struct Running {
    jobs: Jobs,
    id: u64,
    tally: Mutex<Tally>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end(Some(BROKE_OFF.to_owned()));
    }
}

impl Watch for Running {
    fn panicked(&self, panic: &Panic) {
        let (job, panic) = (self.id, panic.text());
        tracing::error!(job, panic, "a job of the server API panicked");
    }
}

impl Running {
    async fn work(self, host: impl Host, job: Job) {
        self.watched(
            self.steps(&host, &job),
            job.sids.len() as u64,
            job.line.clone(),
        )
        .await
        .note(host.audit())
        .await;
    }

    /// Runs the work to its end, or to its panic, and returns what the audit log needs.
    async fn watched(
        &self,
        steps: impl Future<Output = Option<String>>,
        matched: u64,
        mut line: Line,
    ) -> Noted<'_> {
        let ended = Guarded::new(steps, self).await;
        line.error = ended.unwrap_or_else(|| Some(BROKE_OFF.to_owned()));
        let tally = self.tally().clone();
        line.job = Some(self.id.to_string());
        line.matched = Some(matched);
        line.done = Some(tally.done);
        line.failed = tally.failed;
        line.unanswered = tally.unanswered;
        line.time_ms = audit::now_ms();
        Noted {
            running: self,
            line,
        }
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock()
    }

    /// Executes the job step by step; returns the reason if it ended early.
    async fn steps(&self, host: &impl Host, job: &Job) -> Option<String> {
        let (step, pause) = pace(job.per_second);
        let mut ticks = tokio::time::interval(pause);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for some in job.sids.chunks(step) {
            ticks.tick().await;
            if host.is_draining() {
                return Some("the process drains".to_owned());
            }
            if !self.goes_on() {
                return Some("it was stopped".to_owned());
            }
            match host.step(some, &job.act).await {
                Ok(ended) => self.took(some.len() as u64, ended),
                Err(error) => return Some(error.into_info().message),
            }
        }
        None
    }

    /// Records the outcome of a step for this number of sessions.
    fn took(&self, sessions: u64, ended: Everywhere<Obeyed>) {
        {
            let mut tally = self.tally();
            tally.done += ended.all.done;
            tally.failed += ended.all.failed;
            for one in &ended.unanswered {
                if !tally.unanswered.contains(&one.server) {
                    tally.unanswered.push(one.server.clone());
                }
            }
        }
        let mut all = self.jobs.lock();
        // A stopped job may already be forgotten.
        let Some(status) = all.get_mut(&self.id) else {
            return;
        };
        status.done += ended.all.done;
        status.failed += ended.all.failed;
        status.left = status.left.saturating_sub(sessions);
        let silent = ended
            .unanswered
            .iter()
            .map(|one| format!("{}: {}", one.server, one.reason));
        let reasons = ended.all.errors.into_iter().chain(silent);
        let room = 3_usize.saturating_sub(status.errors.len());
        status.errors.extend(reasons.take(room));
    }

    fn goes_on(&self) -> bool {
        let all = self.jobs.lock();
        all.get(&self.id).is_some_and(|job| job.running)
    }

    /// Marks the job as ended; sets the reason unless there is one.
    fn end(&self, why: Option<String>) {
        if let Some(job) = self.jobs.lock().get_mut(&self.id)
            && job.running
        {
            job.running = false;
            job.errors.extend(why);
        }
    }
}

/// A job that has ended, with its audit line.
struct Noted<'a> {
    running: &'a Running,
    line: Line,
}

impl Noted<'_> {
    /// Writes the audit log first, so that a caller that sees the end finds the line.
    async fn note(self, audit: &Audit) {
        audit.write(&self.line).await;
        self.running.end(self.line.error);
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use serde_json::Value;

    use super::*;

    /// When the task of a job ends for any reason, the job's status has ended with a reason, and its slot is free.
    #[tokio::test]
    async fn a_job_ends_with_its_task() {
        let jobs = Jobs::default();
        let status = |id: u64| jobs.get(&id.to_string()).unwrap();
        let line = || Line::new("kick", Value::Null, Value::Null);
        let audit = Audit::new(std::path::Path::new(""));

        let job = jobs.begin("kick", 7).unwrap();
        let id = job.id;
        let step = || Everywhere {
            all: Obeyed {
                done: 2,
                ..Obeyed::default()
            },
            ..Everywhere::default()
        };
        let panics = async {
            job.took(2, step());
            tokio::task::yield_now().await;
            panic!("on purpose");
        };
        let noted = job.watched(panics, 7, line()).await;
        assert_eq!((noted.line.done, noted.line.matched), (Some(2), Some(7)));
        assert_eq!(noted.line.error.as_deref(), Some(BROKE_OFF));
        noted.note(&audit).await;
        let now = status(id);
        assert_eq!((now.running, now.done, now.left), (false, 2, 5));
        assert_eq!(now.errors, [BROKE_OFF]);

        // The runtime ends, or the code that records the end panics too.
        let job = jobs.begin("kick", 1).unwrap();
        let id = job.id;
        let task = tokio::spawn(async move {
            let _job = job;
            std::future::pending::<()>().await;
        });
        assert!(status(id).running);
        task.abort();
        assert!(task.await.is_err());
        assert_eq!(status(id).errors, [BROKE_OFF]);
        assert!(!status(id).running);

        let job = jobs.begin("kick", 1).unwrap();
        let id = job.id;
        job.watched(ready(None), 1, line()).await.note(&audit).await;
        drop(job);
        assert!(!status(id).running && status(id).errors.is_empty());

        // None of them holds a slot.
        let all: Vec<Running> = (0..MOST_JOBS)
            .map(|_| jobs.begin("kick", 1).unwrap())
            .collect();
        assert!(jobs.begin("kick", 1).is_err());
        drop(all);
        assert!(jobs.begin("kick", 1).is_ok());
    }

    #[test]
    fn per_second_limits_the_rate() {
        let odd = [0, 1, 2, 3, 4, 5, 6, 7, 11, 999, 5000, 5001, 123_457];
        for per_second in odd.into_iter().chain([u64::MAX - 1, u64::MAX]) {
            let (step, pause) = pace(per_second);
            assert!((1..=1000).contains(&step), "{per_second}");
            assert!(pause > Duration::ZERO && pause <= Duration::from_secs(1));
            // Over ten seconds, so that fractions of a step count.
            let steps = Duration::from_secs(10).as_nanos() / pause.as_nanos();
            let most = u128::from(per_second.max(1)) * 10;
            let done = steps * step as u128;
            assert!(done <= most, "{per_second}: {done}");
            let is_slow = done * 2 < most && per_second < 1_000_000_000;
            assert!(!is_slow, "{per_second}: {done}");
        }
    }
}
