//! Components: parts of an app with a life cycle.

use std::future::Future;

use super::AppHandle;
use crate::boxed::BoxFuture;

/// Any error, for callers that only report it.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A part of an app that is started and stopped with it, such as a connection to a database.
///
/// Components start in the order in which they were added, one after the other; clients are accepted after all of them have started. They
/// stop in reverse order, after the clients are gone. A component that takes longer than
/// [`AppConfig::stop_timeout`](crate::app::AppConfig::stop_timeout) to stop is dropped.
///
/// ```
/// use shaddock::{App, app::{AppHandle, BoxError, Component}};
///
/// struct Scores;
///
/// impl Component for Scores {
///     fn name(&self) -> &str {
///         "scores"
///     }
///
///     async fn start(&self, app: &AppHandle) -> Result<(), BoxError> {
///         app.set(Vec::<u32>::new());
///         Ok(())
///     }
/// }
///
/// App::new("game", "game-1").component(Scores);
/// ```
pub trait Component: Send + Sync + 'static {
    /// The name in logs and errors.
    fn name(&self) -> &str;

    /// Starts the component. Other servers cannot be called yet.
    ///
    /// # Errors
    /// Any error; then the app does not start, and the components that were started before are stopped.
    fn start(&self, app: &AppHandle) -> impl Future<Output = Result<(), BoxError>> + Send {
        let _ = app;
        async { Ok(()) }
    }

    /// Runs when all servers of the process are started and clients are accepted.
    ///
    /// # Errors
    /// As for [`start`](Self::start).
    fn after_start(&self, app: &AppHandle) -> impl Future<Output = Result<(), BoxError>> + Send {
        let _ = app;
        async { Ok(()) }
    }

    /// Stops the component. Not called if its start failed.
    fn stop(&self, app: &AppHandle) -> impl Future<Output = ()> + Send {
        let _ = app;
        async {}
    }
}

/// A component with its type erased.
pub(crate) trait ErasedComponent: Send + Sync {
    fn name(&self) -> &str;
    fn start(self: std::sync::Arc<Self>, app: AppHandle) -> BoxFuture<Result<(), BoxError>>;
    fn after_start(self: std::sync::Arc<Self>, app: AppHandle) -> BoxFuture<Result<(), BoxError>>;
    fn stop(self: std::sync::Arc<Self>, app: AppHandle) -> BoxFuture<()>;
}

impl<C: Component> ErasedComponent for C {
    fn name(&self) -> &str {
        Component::name(self)
    }

    fn start(self: std::sync::Arc<Self>, app: AppHandle) -> BoxFuture<Result<(), BoxError>> {
        Box::pin(async move { Component::start(&*self, &app).await })
    }

    fn after_start(self: std::sync::Arc<Self>, app: AppHandle) -> BoxFuture<Result<(), BoxError>> {
        Box::pin(async move { Component::after_start(&*self, &app).await })
    }

    fn stop(self: std::sync::Arc<Self>, app: AppHandle) -> BoxFuture<()> {
        Box::pin(async move { Component::stop(&*self, &app).await })
    }
}
