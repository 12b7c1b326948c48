//! Background work that ends with its channel.

use std::{future::Future, sync::Arc};

use tokio::sync::Notify;

use super::Channel;
use crate::app::{SpawnError, Task, until};

/// A listener that is taken away when its task is over, however that ends.
struct Listening(Arc<shaddock_core::Channel>, u64);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.off_destroyed(self.1);
    }
}

impl Channel {
    /// Runs `future` in the background until it is done, the channel is [destroyed](Self::destroy), or the app stops; then it is dropped at its
    /// next `.await`. A panic is logged and ends the task only. `name` is for logs. It counts for the app's background tasks.
    ///
    /// A game that is played in a room ends with the room:
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use shaddock::prelude::*;
    /// async fn open(channels: Channels, Json(name): Json<String>) -> Result<(), HandlerError> {
    ///     let room = channels.create(&name)?;
    ///     let world = room.clone();
    ///     room.spawn("world", async move {
    ///         let mut ticks = tokio::time::interval(Duration::from_millis(100));
    ///         while world.push_message("onWorld", &"tick").await.is_ok() {
    ///             ticks.tick().await;
    ///         }
    ///     })?;
    ///     Ok(())
    /// }
    /// # App::new("lobby", "lobby-1").handle("room.open", open);
    /// ```
    ///
    /// # Errors
    /// [`SpawnError`]: too many tasks, the channel was destroyed, or the app stops.
    pub fn spawn<F>(&self, name: &'static str, future: F) -> Result<Task, SpawnError>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let slot = self.app.tasks().slot()?;
        let ended = Arc::new(Notify::new());
        let tell = Arc::clone(&ended);
        let number = self.data.on_destroyed(move || tell.notify_one());
        let number = number.ok_or(SpawnError::ChannelDestroyed)?;
        let listening = Listening(Arc::clone(&self.data), number);
        let task = slot.spawn(name, until(listening, ended, future));
        Ok(Task::of(&task))
    }
}
