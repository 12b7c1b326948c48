//! Commands that take their time: so many sessions a second, in the background.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::http::StatusCode;
use serde::{Deserialize, Serialize};

use super::{
    audit::{self, Line},
    commands::Api,
    error::ApiError,
};
use crate::{operations::Phase, operators::Act};

/// Jobs that are known, running and ended. Above it the oldest that has ended is forgotten; if none has, no new one begins.
const MOST_JOBS: usize = 64;
/// Steps are so many a second, at a pace that allows it.
const STEPS_A_SECOND: u64 = 5;
/// Sessions of one step.
const MOST_A_STEP: u64 = 1000;

/// How many sessions are a step, and the time from one step to the next: never more in a second than was said.
fn pace(per_second: u64) -> (usize, Duration) {
    let per_second = per_second.max(1);
    let step = per_second.div_ceil(STEPS_A_SECOND).min(MOST_A_STEP);
    // No overflow: a step is 1,000 at most.
    let pause = Duration::from_nanos((step * 1_000_000_000).div_ceil(per_second));
    (usize::try_from(step).unwrap_or(1), pause)
}

/// What a job does.
pub(super) struct Job {
    pub(super) act: Act,
    pub(super) sids: Vec<String>,
    pub(super) per_second: u64,
    /// The command, for the line in the audit log when the job ends.
    pub(super) line: Line,
}

/// How far a job is.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct JobStatus {
    /// Its id.
    pub id: String,
    /// The command.
    pub command: String,
    /// Sessions it is about: those that were there when it began.
    pub matched: u64,
    /// To how many it was done.
    pub done: u64,
    /// To how many it could not be done, those of frontends that did not answer among them.
    pub failed: u64,
    /// Sessions that are still to come.
    pub left: u64,
    /// Whether it goes on.
    pub running: bool,
    /// Why it could not be done, for the first of them, and why it ended early.
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
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, id: &str) -> Option<JobStatus> {
        self.lock().get(&id.parse().ok()?).cloned()
    }

    /// How many are at work.
    pub(super) fn running(&self) -> u64 {
        self.lock().values().filter(|job| job.running).count() as u64
    }

    /// It ends after the step that it is at. Whether it was running.
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

    /// Begins one, and returns its id.
    pub(super) fn start(&self, api: Api, job: Job) -> Result<String, ApiError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let id = number.to_string();
        {
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
                id: id.clone(),
                command: job.line.command.to_owned(),
                matched: job.sids.len() as u64,
                done: 0,
                failed: 0,
                left: job.sids.len() as u64,
                running: true,
                errors: Vec::new(),
            };
            all.insert(number, status);
        }
        let jobs = self.clone();
        tokio::spawn(async move { jobs.run(number, api, job).await });
        Ok(id)
    }

    async fn run(&self, id: u64, api: Api, job: Job) {
        let mut line = job.line.clone();
        line.job = Some(id.to_string());
        line.matched = Some(job.sids.len() as u64);
        line.done = Some(0);
        line.error = self.steps(id, &api, &job, &mut line).await;
        line.time_ms = audit::now_ms();
        api.audit.write(&line).await;
        self.end(id, line.error);
    }

    /// Does it step by step; returns why it ended early.
    async fn steps(&self, id: u64, api: &Api, job: &Job, line: &mut Line) -> Option<String> {
        let (step, pause) = pace(job.per_second);
        let mut ticks = tokio::time::interval(pause);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for some in job.sids.chunks(step) {
            ticks.tick().await;
            if api.operations.phase() != Phase::Running {
                return Some("the process drains".to_owned());
            }
            if !self.goes_on(id) {
                return Some("it was stopped".to_owned());
            }
            let ended = match api.view() {
                Ok(view) => view.obey_each(some, &job.act).await,
                Err(error) => return Some(error.into_info().message),
            };
            line.done = line.done.map(|done| done + ended.all.done);
            line.failed += ended.all.failed;
            for one in &ended.unanswered {
                if !line.unanswered.contains(&one.server) {
                    line.unanswered.push(one.server.clone());
                }
            }
            let mut all = self.lock();
            // One that was stopped may have been forgotten.
            let Some(status) = all.get_mut(&id) else {
                continue;
            };
            status.done += ended.all.done;
            status.failed += ended.all.failed;
            status.left = status.left.saturating_sub(some.len() as u64);
            let silent = ended
                .unanswered
                .iter()
                .map(|one| format!("{}: {}", one.server, one.reason));
            let reasons = ended.all.errors.into_iter().chain(silent);
            let room = 3_usize.saturating_sub(status.errors.len());
            status.errors.extend(reasons.take(room));
        }
        None
    }

    fn goes_on(&self, id: u64) -> bool {
        self.lock().get(&id).is_some_and(|job| job.running)
    }

    fn end(&self, id: u64, why: Option<String>) {
        if let Some(job) = self.lock().get_mut(&id)
            && job.running
        {
            job.running = false;
            job.errors.extend(why);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_in_a_second_than_was_said() {
        let odd = [0, 1, 2, 3, 4, 5, 6, 7, 11, 999, 5000, 5001, 123_457];
        for per_second in odd.into_iter().chain([u64::MAX - 1, u64::MAX]) {
            let (step, pause) = pace(per_second);
            assert!((1..=1000).contains(&step), "{per_second}");
            assert!(pause > Duration::ZERO && pause <= Duration::from_secs(1));
            // In ten seconds, so that a part of a step counts.
            let steps = Duration::from_secs(10).as_nanos() / pause.as_nanos();
            let most = u128::from(per_second.max(1)) * 10;
            let done = steps * step as u128;
            assert!(done <= most, "{per_second}: {done}");
            let is_slow = done * 2 < most && per_second < 1_000_000_000;
            assert!(!is_slow, "{per_second}: {done}");
        }
    }
}
