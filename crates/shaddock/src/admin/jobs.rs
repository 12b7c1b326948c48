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

use super::{commands::Api, error::ApiError};
use crate::{
    operations::Phase,
    operators::{Act, Order, Select},
};

/// Jobs that are known, running and ended. Above it the oldest that has ended is forgotten; if none has, no new one begins.
const MOST_JOBS: usize = 64;
/// Time between two steps.
const STEP: Duration = Duration::from_millis(200);
const STEPS_A_SECOND: u64 = 5;

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
    /// To how many it could not be done.
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

    /// It ends after the step that it is at.
    pub(super) fn stop(&self, id: &str) {
        let Ok(id) = id.parse() else { return };
        if let Some(job) = self.lock().get_mut(&id)
            && job.running
        {
            job.running = false;
            job.errors.push("it was stopped".to_owned());
        }
    }

    /// Begins one, and returns its id.
    pub(super) fn start(
        &self,
        api: Api,
        command: &str,
        act: Act,
        sids: Vec<String>,
        per_second: u64,
    ) -> Result<String, ApiError> {
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
                command: command.to_owned(),
                matched: sids.len() as u64,
                done: 0,
                failed: 0,
                left: sids.len() as u64,
                running: true,
                errors: Vec::new(),
            };
            all.insert(number, status);
        }
        let jobs = self.clone();
        tokio::spawn(async move { jobs.run(number, api, act, sids, per_second).await });
        Ok(id)
    }

    async fn run(&self, id: u64, api: Api, act: Act, sids: Vec<String>, per_second: u64) {
        let step = usize::try_from(per_second.div_ceil(STEPS_A_SECOND)).unwrap_or(usize::MAX);
        // A pace below five a second takes longer steps of one session.
        let pause = if per_second < STEPS_A_SECOND {
            Duration::from_secs(1) / u32::try_from(per_second.max(1)).unwrap_or(1)
        } else {
            STEP
        };
        let mut ticks = tokio::time::interval(pause);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for some in sids.chunks(step.max(1)) {
            ticks.tick().await;
            if !self.goes_on(id, &api) {
                break;
            }
            let order = Order {
                select: Select::Sids(some.to_vec()),
                act: act.clone(),
            };
            let ended = match api.view() {
                Ok(view) => view.obey(&order).await,
                Err(error) => {
                    self.end(id, Some(error.into_info().message));
                    return;
                }
            };
            let mut all = self.lock();
            let Some(job) = all.get_mut(&id) else { return };
            job.done += ended.all.done;
            job.failed += ended.all.failed;
            job.left = job.left.saturating_sub(some.len() as u64);
            let silent = ended
                .unanswered
                .iter()
                .map(|one| format!("{}: {}", one.server, one.reason));
            let reasons = ended.all.errors.into_iter().chain(silent);
            let room = 3_usize.saturating_sub(job.errors.len());
            job.errors.extend(reasons.take(room));
        }
        self.end(id, None);
    }

    fn goes_on(&self, id: u64, api: &Api) -> bool {
        if api.operations.phase() != Phase::Running {
            self.end(id, Some("the process drains".to_owned()));
        }
        self.lock().get(&id).is_some_and(|job| job.running)
    }

    fn end(&self, id: u64, why: Option<String>) {
        if let Some(job) = self.lock().get_mut(&id) {
            job.running = false;
            job.errors.extend(why);
        }
    }
}
