//! Work of the application that is repeated.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, MissedTickBehavior};

use super::{AppHandle, Part, SpawnError, Task};
use crate::boxed::BoxFuture;

/// The longest time between two runs of a timer: 30 years.
const LONGEST_PERIOD: Duration = Duration::from_secs(30 * 365 * 86_400);

/// The work of a timer.
pub(crate) type Work = Arc<dyn Fn(AppHandle) -> BoxFuture<()> + Send + Sync>;

/// Work that is repeated.
#[derive(Clone)]
pub(crate) struct Timer {
    pub(crate) name: &'static str,
    pub(crate) period: Duration,
    pub(crate) work: Work,
}

impl Timer {
    /// Runs the work until the app stops: first after the period.
    ///
    /// # Errors
    /// Too many tasks, or the app is stopping.
    pub(super) fn start(self, app: &AppHandle) -> Result<Task, SpawnError> {
        let Self { name, period, work } = self;
        // A period of zero would starve everything else, and the clock cannot represent every time.
        let period = period.clamp(Duration::from_millis(1), LONGEST_PERIOD);
        let first = Instant::now() + period;
        let owner = app.clone();
        let repeated = async move {
            let mut ticks = tokio::time::interval_at(first, period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            loop {
                ticks.tick().await;
                let (one, work) = (owner.clone(), Arc::clone(&work));
                // The panic was logged and counted.
                let _ = Part::of(&owner, name)
                    .run(Duration::ZERO, move || work(one))
                    .await;
            }
        };
        let task = app.tasks().spawn(name, repeated)?;
        Ok(Task::of(&task))
    }
}
