//! The parts of an app whose panics are counted and logged under a name.

use std::time::Duration;

use super::AppHandle;
use crate::{
    boxed::BoxFuture,
    guarded::{Guarded, Panic, Watch, guard},
};

/// Part of an app that is no request: a hook, a listener.
pub(crate) struct Part {
    app: AppHandle,
    name: &'static str,
}

impl Part {
    /// The part of this name, which is used in logs.
    pub(crate) fn of(app: &AppHandle, name: &'static str) -> Self {
        Self {
            app: app.clone(),
            name,
        }
    }

    /// Runs code of the application: `None` if it panicked or took longer than `limit` (zero: no limit), which is logged.
    pub(crate) async fn run<T, F>(self, limit: Duration, make: F) -> Option<T>
    where
        F: FnOnce() -> BoxFuture<T> + Send,
    {
        let future = guard(&self, make)?;
        let (app, name) = (self.app.clone(), self.name);
        let polled = Guarded::new(future, self);
        if limit.is_zero() {
            return polled.await;
        }
        tokio::select! {
            biased;
            value = polled => value,
            () = app.sleep(limit) => {
                shaddock_net::quiet!(error, "a hook of the application did not end in time", name, ?limit);
                None
            }
        }
    }
}

impl Watch for Part {
    fn panicked(&self, panic: &Panic) {
        self.app.stats().panics.add(1);
        let (name, panic) = (self.name, panic.text());
        shaddock_net::quiet!(error, "code of the application panicked", name, panic);
    }
}
