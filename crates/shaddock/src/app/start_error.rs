//! Errors of the start.

use std::future::Future;

use shaddock_cluster::ClusterError;
use shaddock_net::ListenError;
use shaddock_protocol::{DictionaryError, MAX_BODY};

use super::{AppHandle, BoxError, SpawnError, info::MOST_METADATA};

/// The reason why servers did not start. Everything that was started before has been stopped.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// No app was added.
    #[error("no app was added")]
    NoApp,
    /// A handler or remote requires something that the app does not have.
    #[error("`{route}` of `{app}` cannot be served: {reason}")]
    Requirement {
        /// The id of the app.
        app: String,
        /// The route.
        route: String,
        /// The missing requirement.
        reason: String,
    },
    /// A hook that may be set at most once was set twice.
    #[error(
        "`{hook}` of `{app}` was called twice, at {first} and at {second}; combine both functions into one"
    )]
    Twice {
        /// The id of the app.
        app: String,
        /// The method of [`App`](super::App).
        hook: &'static str,
        /// File and line of the first call.
        first: String,
        /// File and line of the second call.
        second: String,
    },
    /// An exception of [`App::require_user`](super::App::require_user) is not a registered route of the server.
    #[error("`{app}` has no route `{route}`, which `require_user().except(..)` names")]
    Exception {
        /// The id of the app.
        app: String,
        /// The route.
        route: String,
    },
    /// An exception of [`App::require_user`](super::App::require_user) is not a valid route.
    #[error(
        "`require_user().except(\"{route}\")` of `{app}` names no route: write `handler.method` for one of this server, or `type.handler.method`"
    )]
    ExceptionRoute {
        /// The id of the app.
        app: String,
        /// The invalid route.
        route: String,
    },
    /// The metadata of the server is too long: every server of the cluster keeps it, and etcd has a limit.
    #[error(
        "the metadata of `{app}` has {bytes} bytes, and the limit is {MOST_METADATA}: reduce `App::metadata`, or the number of routes that are concurrent or have their own timeout"
    )]
    Metadata {
        /// The id of the app.
        app: String,
        /// The length in bytes.
        bytes: usize,
    },
    /// The route dictionary cannot be built.
    #[error(transparent)]
    Dictionary(#[from] DictionaryError),
    /// The response to handshakes does not fit into a package.
    #[error(
        "handshakes at `{app}` would be answered with {length} bytes of routes and schemas, and a package has at most {MAX_BODY}: \
         put fewer or shorter routes into the dictionary (`DictionaryConfig`), or leave schemas out (`CodecConfig::protos`)"
    )]
    HandshakeAnswer {
        /// The id of the app.
        app: String,
        /// The length of the response in bytes.
        length: usize,
    },
    /// A component did not start.
    #[error("component `{component}` of `{app}` did not start: {error}")]
    Component {
        /// The id of the app.
        app: String,
        /// The name of the component.
        component: String,
        /// The error of the component.
        #[source]
        error: BoxError,
    },
    /// A task that the app requires could not be started.
    #[error("the task \"{task}\" of `{app}` cannot be started: {error}")]
    Task {
        /// The id of the app.
        app: String,
        /// The name of the task.
        task: &'static str,
        /// The reason.
        #[source]
        error: SpawnError,
    },
    /// The app could not join the cluster.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// A listener could not be opened.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The operating system could not start threads.
    #[error("IO workers cannot be started: {0}")]
    Workers(#[source] std::io::Error),
    /// [`Servers::run_blocking`](super::Servers::run_blocking): the runtime could not be created.
    #[error("the runtime cannot be started: {0}")]
    Runtime(#[source] std::io::Error),
}

/// Formats as `Display`, because a program whose `main` returns the error prints it with `Debug`.
impl std::fmt::Debug for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// Starts a task that the app requires while it runs.
pub(crate) fn start_task<F>(
    app: &AppHandle,
    task: &'static str,
    future: F,
) -> Result<(), StartError>
where
    F: Future<Output = ()> + Send + 'static,
{
    let started = app.tasks().spawn(task, future).map(drop);
    started.map_err(|error| StartError::Task {
        app: app.id().to_owned(),
        task,
        error,
    })
}
