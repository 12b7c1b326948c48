//! Background work that ends with its session.

use std::{future::Future, sync::Arc};

use shaddock_core::{ListenerError, ListenerId, Session};
use tokio::sync::Notify;

use super::FrontendSession;
use crate::app::{SpawnError, Task, until};

/// A listener that is taken away when its task is over, however that ends.
struct Listening(Arc<Session>, ListenerId);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.off(self.1);
    }
}

impl FrontendSession {
    /// Runs `future` in the background until it is done, the session closes, or the app stops; then it is dropped at its next `.await`. A panic is
    /// logged and ends the task only. `name` is for logs.
    ///
    /// It counts for the app's background tasks, and as a listener of the session until it is over.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use shaddock::prelude::*;
    /// async fn watch(session: FrontendSession) -> Result<(), HandlerError> {
    ///     let view = session.clone();
    ///     session.spawn("clock", async move {
    ///         // Ends by itself when the client leaves.
    ///         while view.push_message("onTick", &"tick").await.is_ok() {
    ///             tokio::time::sleep(Duration::from_secs(1)).await;
    ///         }
    ///     })?;
    ///     Ok(())
    /// }
    /// # App::new("connector", "connector-1").handle("entryHandler.watch", watch);
    /// ```
    ///
    /// # Errors
    /// [`SpawnError`]: too many tasks, too many listeners on this session, the session is closed, or the app stops.
    pub fn spawn<F>(&self, name: &'static str, future: F) -> Result<Task, SpawnError>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let slot = self.app().tasks().slot()?;
        let closed = Arc::new(Notify::new());
        let tell = Arc::clone(&closed);
        let record = Arc::clone(self.record());
        let listener = record.on_closed(move |_, _| tell.notify_one());
        let listening = Listening(record, listener?);
        if listening.0.is_closed() {
            let sid = listening.0.id();
            return Err(ListenerError::SessionClosed { sid }.into());
        }
        let task = slot.spawn(name, until(listening, closed, future));
        Ok(Task::of(&task))
    }
}
