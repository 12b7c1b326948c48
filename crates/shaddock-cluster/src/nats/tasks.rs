//! The background tasks of a membership.

use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

/// Background work of a membership; ends with it.
#[derive(Default)]
pub(super) struct Tasks(Vec<AbortHandle>);

impl Tasks {
    /// Starts a task on the current runtime.
    pub(super) fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.spawn_on(&Handle::current(), task);
    }

    /// Starts a task on another runtime.
    pub(super) fn spawn_on(
        &mut self,
        runtime: &Handle,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        self.0.push(runtime.spawn(task).abort_handle());
    }

    /// Ends all of it.
    pub(super) fn stop(&self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The task that takes requests of other servers.
pub(super) struct Requests {
    stop: oneshot::Sender<()>,
    finished: oneshot::Receiver<()>,
}

impl Requests {
    /// `stop` tells the task to stop; it sends `finished` when it has.
    pub(super) fn new(stop: oneshot::Sender<()>, finished: oneshot::Receiver<()>) -> Self {
        Self { stop, finished }
    }

    /// Takes the requests that are on their way, and no more of them. Waits for that for `within` at most.
    pub(super) async fn end(self, within: Duration) {
        let _ = self.stop.send(());
        let _ = tokio::time::timeout(within, self.finished).await;
    }
}
