//! Background tasks of an app: every task has a name and an owner, ends at shutdown, and their number is limited.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::{Notify, watch},
    task::{AbortHandle, JoinHandle},
    time::Sleep,
};

use crate::guarded::{Guarded, Panic, Watch};

/// The tasks of one app. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Tasks(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    runtime: Handle,
    gate: Gate,
    idle: Notify,
    stop: watch::Sender<bool>,
}

/// A counter with a limit, until it is closed.
///
/// The count and the closed flag are one word, so that a check and the following change are atomic: after [`close`](Self::close) the count
/// only falls, and zero is final.
#[derive(Debug)]
struct Gate {
    word: AtomicUsize,
    most: usize,
}

const CLOSED: usize = !(usize::MAX >> 1);

impl Gate {
    fn new(most: usize) -> Self {
        Self {
            word: AtomicUsize::new(0),
            most: most.min(CLOSED - 1),
        }
    }

    fn enter(&self) -> Result<(), SpawnError> {
        let step = |word: usize| (word < self.most).then(|| word + 1);
        let entered = self
            .word
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, step);
        match entered {
            Ok(_) => Ok(()),
            Err(word) if word >= CLOSED => Err(SpawnError::Stopping),
            Err(_) => Err(SpawnError::TooMany),
        }
    }

    /// Counts a task that is running already, also above the limit. False once closed.
    fn count_in(&self) -> bool {
        let step = |word: usize| (word < CLOSED - 1).then(|| word + 1);
        self.word
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, step)
            .is_ok()
    }

    /// Removes one; returns whether it was the last.
    fn leave(&self) -> bool {
        self.word.fetch_sub(1, Ordering::AcqRel) & !CLOSED == 1
    }

    fn close(&self) {
        self.word.fetch_or(CLOSED, Ordering::AcqRel);
    }

    fn count(&self) -> usize {
        self.word.load(Ordering::Acquire) & !CLOSED
    }
}

/// The task could not be started: too many are running, or the app is stopping.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpawnError {
    /// The limit [`AppConfig::max_tasks`](crate::app::AppConfig::max_tasks) is reached.
    #[error("too many background tasks; raise `handlers.max_tasks`")]
    TooMany,
    /// The app is stopping.
    #[error("the app is stopping")]
    Stopping,
    /// The session is closed, or has as many listeners and tasks as `session.max_listeners` allows.
    #[error(transparent)]
    Session(#[from] shaddock_core::ListenerError),
    /// The channel was destroyed.
    #[error("the channel was destroyed")]
    ChannelDestroyed,
}

/// A reserved slot for a task, released when dropped. It is reserved before the task is created.
#[derive(Debug)]
#[must_use = "a place that is dropped is free again"]
pub(crate) struct Slot(Arc<Shared>);

impl Drop for Slot {
    fn drop(&mut self) {
        if self.0.gate.leave() {
            self.0.idle.notify_waiters();
        }
    }
}

impl Slot {
    /// Runs `future` until it completes or the app stops; then it is dropped at its next `.await`.
    pub(crate) fn spawn<F>(self, name: &'static str, future: F) -> JoinHandle<Option<F::Output>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let mut stopped = self.0.stop.subscribe();
        let runtime = self.0.runtime.clone();
        let guarded = Guarded::new(future, TaskName(name));
        runtime.spawn(async move {
            let _slot = self;
            tokio::select! {
                biased;
                output = guarded => output,
                _ = stopped.wait_for(|stop| *stop) => None,
            }
        })
    }

    /// Runs `future` to completion, unless it takes longer than the shutdown waits.
    pub(crate) fn finish<F>(self, name: &'static str, future: F) -> JoinHandle<Option<F::Output>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let runtime = self.0.runtime.clone();
        let guarded = Guarded::new(future, TaskName(name));
        runtime.spawn(async move {
            let _slot = self;
            guarded.await
        })
    }
}

impl Tasks {
    pub(crate) fn new(runtime: Handle, most: usize) -> Self {
        let (stop, _) = watch::channel(false);
        Self(Arc::new(Shared {
            runtime,
            gate: Gate::new(most),
            idle: Notify::new(),
            stop,
        }))
    }

    pub(crate) fn runtime(&self) -> &Handle {
        &self.0.runtime
    }

    /// A timer of the runtime that polls it, or of this one if there is none.
    pub(crate) fn sleep(&self, duration: Duration) -> Pin<Box<Sleep>> {
        if Handle::try_current().is_ok() {
            return Box::pin(tokio::time::sleep(duration));
        }
        let _runtime = self.runtime().enter();
        Box::pin(tokio::time::sleep(duration))
    }

    /// Reserves a slot for a task.
    pub(crate) fn slot(&self) -> Result<Slot, SpawnError> {
        self.0.gate.enter()?;
        Ok(Slot(Arc::clone(&self.0)))
    }

    /// A slot for work that is running already and has no other limit. It is counted also above the limit, and then keeps other tasks from
    /// starting. `None` while the app stops.
    pub(crate) fn slot_of_running(&self) -> Option<Slot> {
        self.0.gate.count_in().then(|| Slot(Arc::clone(&self.0)))
    }

    /// As [`Slot::spawn`].
    pub(crate) fn spawn<F>(
        &self,
        name: &'static str,
        future: F,
    ) -> Result<JoinHandle<Option<F::Output>>, SpawnError>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        Ok(self.slot()?.spawn(name, future))
    }

    /// The number of running tasks.
    pub(crate) fn count(&self) -> usize {
        self.0.gate.count()
    }

    /// Completes when the app stops.
    pub(crate) fn stopped(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut stopped = self.0.stop.subscribe();
        async move {
            let _ = stopped.wait_for(|stop| *stop).await;
        }
    }

    /// Accepts no more tasks, and notifies the running ones.
    pub(crate) fn signal_stop(&self) {
        self.0.gate.close();
        self.0.stop.send_replace(true);
    }

    /// Completes when no task is running.
    pub(crate) async fn idle(&self) {
        loop {
            let idle = self.0.idle.notified();
            if self.count() == 0 {
                return;
            }
            idle.await;
        }
    }
}

/// Runs `future` until its owner ends.
pub(crate) async fn until<O>(owner: O, ended: Arc<Notify>, future: impl Future<Output = ()>) {
    // Dropped when the work ends, for any reason.
    let _owner = owner;
    tokio::select! {
        biased;
        () = ended.notified() => {}
        () = future => {}
    }
}

/// A background task. It continues when this is dropped; [`abort`](Self::abort) ends it.
#[derive(Debug, Clone)]
pub struct Task(AbortHandle);

impl Task {
    pub(crate) fn of<T>(handle: &JoinHandle<T>) -> Self {
        Self(handle.abort_handle())
    }

    /// Drops the task at its next `.await`.
    pub fn abort(&self) {
        self.0.abort();
    }

    /// Whether the task has ended.
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

/// Contains a panic of the task: it ends the task and is logged.
struct TaskName(&'static str);

impl Watch for TaskName {
    fn panicked(&self, panic: &Panic) {
        let (task, panic) = (self.0, panic.text());
        shaddock_net::quiet!(error, "a background task panicked", task, panic);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Barrier, atomic::AtomicBool};

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
        tasks.signal_stop();
        tasks.idle().await;
        assert_eq!(forever.await.unwrap(), None);
        assert_eq!(
            tasks.spawn("late", async {}).unwrap_err(),
            SpawnError::Stopping
        );
        assert_eq!(tasks.count(), 0);
    }

    /// Iterations of a race that takes a few nanoseconds.
    const ROUNDS: usize = 1000;

    #[test]
    fn a_closed_and_empty_gate_admits_no_task() {
        for _ in 0..ROUNDS {
            let (gate, over) = (Gate::new(1000), AtomicBool::new(false));
            let start = Barrier::new(3);
            std::thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| {
                        start.wait();
                        while gate.enter() != Err(SpawnError::Stopping) {
                            assert!(!over.load(Ordering::SeqCst), "in after the end");
                            gate.leave();
                        }
                    });
                }
                start.wait();
                gate.close();
                while gate.count() > 0 {
                    std::hint::spin_loop();
                }
                over.store(true, Ordering::SeqCst);
            });
        }
    }

    #[test]
    fn the_bound_holds_from_several_threads() {
        let (gate, inside) = (Gate::new(2), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut entered = 0;
                    while entered < 10_000 {
                        if gate.enter().is_ok() {
                            assert!(inside.fetch_add(1, Ordering::SeqCst) < 2);
                            entered += 1;
                            inside.fetch_sub(1, Ordering::SeqCst);
                            gate.leave();
                        }
                    }
                });
            }
        });
        assert_eq!(gate.count(), 0);
    }
}
