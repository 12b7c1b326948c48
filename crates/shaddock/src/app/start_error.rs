//! Why servers do not start.

use shaddock_cluster::ClusterError;
use shaddock_net::ListenError;
use shaddock_protocol::{DictionaryError, MAX_BODY};

use super::{BoxError, SpawnError, check::MOST_METADATA};

/// Why servers did not start. What was started before has been stopped again.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// There is no app.
    #[error("no app was added")]
    NoApp,
    /// A handler or remote needs something that the app does not have.
    #[error("`{route}` of `{app}` cannot be served: {reason}")]
    Requirement {
        /// The id of the app.
        app: String,
        /// The route.
        route: String,
        /// What is missing.
        reason: String,
    },
    /// A hook of which there is one was set twice. Which one was meant cannot be known.
    #[error(
        "`{hook}` of `{app}` was called twice, at {first} and at {second}; make one function of both"
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
    /// An exception of [`App::require_user`](super::App::require_user) names no route of the server.
    #[error("`{app}` has no route `{route}`, which `require_user().except(..)` names")]
    Exception {
        /// The id of the app.
        app: String,
        /// The route.
        route: String,
    },
    /// An exception of [`App::require_user`](super::App::require_user) is no route.
    #[error(
        "`require_user().except(\"{route}\")` of `{app}` names no route: write `handler.method` for one of this server, or `type.handler.method`"
    )]
    ExceptionRoute {
        /// The id of the app.
        app: String,
        /// What was named.
        route: String,
    },
    /// The metadata of the server is too long: every server of the cluster keeps it, and etcd has a bound.
    #[error(
        "the metadata of `{app}` has {bytes} bytes, and {MOST_METADATA} may be: put less into `App::metadata`, or make fewer routes concurrent or with a timeout of their own"
    )]
    Metadata {
        /// The id of the app.
        app: String,
        /// Its length.
        bytes: usize,
    },
    /// The route dictionary cannot be built.
    #[error(transparent)]
    Dictionary(#[from] DictionaryError),
    /// The answer to handshakes does not fit into a package.
    #[error(
        "handshakes at `{app}` would be answered with {length} bytes of routes and schemas, and a package has at most {MAX_BODY}: \
         put fewer or shorter routes into the dictionary (`DictionaryConfig`), or leave schemas out (`CodecConfig::protos`)"
    )]
    HandshakeAnswer {
        /// The id of the app.
        app: String,
        /// Bytes of the answer.
        length: usize,
    },
    /// A component did not start.
    #[error("component `{component}` of `{app}` did not start: {error}")]
    Component {
        /// The id of the app.
        app: String,
        /// The name of the component.
        component: String,
        /// Why.
        #[source]
        error: BoxError,
    },
    /// A task that the app needs as long as it runs was refused.
    #[error("the task \"{task}\" of `{app}` cannot be started: {error}")]
    Task {
        /// The id of the app.
        app: String,
        /// The task.
        task: &'static str,
        /// Why.
        #[source]
        error: SpawnError,
    },
    /// The cluster does not take the app.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// A port cannot be opened.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The operating system refuses threads.
    #[error("IO workers cannot be started: {0}")]
    Workers(#[source] std::io::Error),
    /// [`Servers::run_blocking`](super::Servers::run_blocking): the operating system refuses a runtime.
    #[error("the runtime cannot be started: {0}")]
    Runtime(#[source] std::io::Error),
}

/// Programs whose `main` returns it print it this way: what was wrong, for people.
impl std::fmt::Debug for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}
