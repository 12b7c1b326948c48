//! Handlers whose clients have left.

use std::sync::atomic::Ordering;

use crate::{app::AppHandle, boxed::BoxFuture};

/// A handler that is counted as left behind by its client.
pub(crate) struct LeftBehind(AppHandle);

impl LeftBehind {
    fn new(app: AppHandle) -> Self {
        app.stats().left_behind.fetch_add(1, Ordering::Relaxed);
        Self(app)
    }

    /// Counts a handler whose client has left, until it ends. While there are [`max_concurrent`](crate::app::AppConfig::max_concurrent) of
    /// them, nothing else is served: clients that ask and leave cannot pile up work.
    pub(crate) fn count(app: &AppHandle, handler: BoxFuture<()>) -> BoxFuture<()> {
        let slot = app.requests().slot_of_running();
        let counted = Self::new(app.clone());
        Box::pin(async move {
            let _counted = (slot, counted);
            handler.await;
        })
    }
}

impl Drop for LeftBehind {
    fn drop(&mut self) {
        self.0.stats().left_behind.fetch_sub(1, Ordering::Relaxed);
    }
}
