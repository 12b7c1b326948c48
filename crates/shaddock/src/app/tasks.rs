//! Background work of an app: every task has a name and an owner, ends at shutdown, and there is a bound on their number.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::{Notify, watch},
    task::JoinHandle,
};

use crate::guarded::{Guarded, Panic, Watch};

/// The tasks of one app.
#[derive(Debug, Clone)]
pub(crate) struct Tasks {
    runtime: Handle,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    alive: AtomicUsize,
    most: usize,
    idle: Notify,
    stop: watch::Sender<bool>,
}

/// No more tasks are taken: too many run, or the app stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpawnError {
    /// The bound of [`AppConfig::max_tasks`](crate::app::AppConfig::max_tasks) is reached.
    #[error("too many background tasks run")]
    TooMany,
    /// The app stops.
    #[error("the app stops")]
    Stopping,
}

struct Alive(Arc<Shared>);

impl Drop for Alive {
    fn drop(&mut self) {
        if self.0.alive.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}

impl Tasks {
    pub(crate) fn new(runtime: Handle, most: usize) -> Self {
        let (stop, _) = watch::channel(false);
        Self {
            runtime,
            shared: Arc::new(Shared {
                alive: AtomicUsize::new(0),
                most,
                idle: Notify::new(),
                stop,
            }),
        }
    }

    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Runs `future` until it is done or the app stops; then it is dropped at its next `.await`.
    pub(crate) fn spawn<F>(
        &self,
        name: &'static str,
        future: F,
    ) -> Result<JoinHandle<Option<F::Output>>, SpawnError>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let alive = self.admit()?;
        let mut stopped = self.shared.stop.subscribe();
        Ok(self.runtime.spawn(async move {
            let _alive = alive;
            tokio::select! {
                biased;
                output = Guarded::new(future, TaskName(name)) => output,
                _ = stopped.wait_for(|stop| *stop) => None,
            }
        }))
    }

    /// Runs `future` to its end, unless it takes longer than the shutdown waits.
    pub(crate) fn finish<F>(
        &self,
        name: &'static str,
        future: F,
    ) -> Result<JoinHandle<Option<F::Output>>, SpawnError>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let alive = self.admit()?;
        Ok(self.runtime.spawn(async move {
            let _alive = alive;
            Guarded::new(future, TaskName(name)).await
        }))
    }

    fn admit(&self) -> Result<Alive, SpawnError> {
        if *self.shared.stop.borrow() {
            return Err(SpawnError::Stopping);
        }
        let before = self.shared.alive.fetch_add(1, Ordering::AcqRel);
        let alive = Alive(Arc::clone(&self.shared));
        if before >= self.shared.most {
            Err(SpawnError::TooMany)
        } else {
            Ok(alive)
        }
    }

    /// Whether another task would be taken now.
    pub(crate) fn has_room(&self) -> bool {
        self.count() < self.shared.most && !*self.shared.stop.borrow()
    }

    /// Tasks that run now.
    pub(crate) fn count(&self) -> usize {
        self.shared.alive.load(Ordering::Acquire)
    }

    /// A future that is done when the app stops.
    pub(crate) fn stopped(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut stopped = self.shared.stop.subscribe();
        async move {
            let _ = stopped.wait_for(|stop| *stop).await;
        }
    }

    /// Tells all tasks to stop, and waits until they have; false if some have not within `deadline`.
    pub(crate) async fn stop(&self, deadline: Duration) -> bool {
        self.shared.stop.send_replace(true);
        self.idle(deadline).await
    }

    /// Waits until no task runs.
    async fn idle(&self, deadline: Duration) -> bool {
        let wait = async {
            loop {
                let idle = self.shared.idle.notified();
                if self.count() == 0 {
                    return;
                }
                idle.await;
            }
        };
        tokio::time::timeout(deadline, wait).await.is_ok()
    }
}

/// A panic ends the task, is logged, and is nobody else's.
struct TaskName(&'static str);

impl Watch for TaskName {
    fn panicked(&self, panic: &Panic) {
        let (task, panic) = (self.0, panic.text());
        tracing::error!(task, panic, "a background task panicked");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tasks_are_bounded_and_stopped() {
        let tasks = Tasks::new(Handle::current(), 2);
        let forever = tasks
            .spawn("forever", std::future::pending::<()>())
            .unwrap();
        let panics = tasks
            .spawn("panics", async { panic!("expected in this test") })
            .unwrap();
        assert_eq!(
            tasks.spawn("third", async {}).unwrap_err(),
            SpawnError::TooMany
        );
        let _: Option<()> = panics.await.unwrap();
        assert_eq!(
            tasks
                .spawn("fits again", async { 7 })
                .unwrap()
                .await
                .unwrap(),
            Some(7)
        );
        assert!(tasks.stop(Duration::from_secs(5)).await);
        assert_eq!(forever.await.unwrap(), None);
        assert_eq!(
            tasks.spawn("late", async {}).unwrap_err(),
            SpawnError::Stopping
        );
        assert_eq!(tasks.count(), 0);
    }
}
