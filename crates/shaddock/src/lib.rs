//! The session layer of real-time servers: Pomelo's sessions, channels and handlers, in Rust.
//!
//! A *frontend* holds the connections of clients and makes a session for each; *backends* do the work and reach the clients through the
//! frontends. Both are an [`App`], and several of them run in one process. Clients are those of Pomelo, Pinus and Pitaya.
//!
//! A whole server:
//!
//! ```no_run
//! use shaddock::prelude::*;
//!
//! async fn echo(Json(body): Json<serde_json::Value>) -> Json<serde_json::Value> {
//!     Json(body)
//! }
//!
//! fn main() -> Result<(), StartError> {
//!     let mut app = App::new("connector", "connector-1");
//!     app.listen("127.0.0.1:3010");
//!     app.handle("entryHandler.echo", echo);
//!     Servers::new().add(app).run_blocking()
//! }
//! ```
//!
//! # Where to look
//!
//! | you want to | look at |
//! | --- | --- |
//! | put servers together, start and stop them | [`app`] |
//! | serve a route | [`handler`], [`extract`] for its arguments, [`reply`] for its answer, [`error`] |
//! | know and change who is connected | [`session`] |
//! | send to many | [`channel`] |
//! | look at every request | [`filter`] |
//! | call other servers | [`remote`] |
//! | let clients in, or not | [`handshake`] |
//! | choose how to speak with clients | [`wire`] |
//! | join several processes | [`cluster`] |
//! | have configuration, logs, an admin server and a drain | [`launch`], [`config`], [`admin`], [`metrics`] |
//!
//! # Features
//!
//! | feature | default | what it adds |
//! | --- | --- | --- |
//! | `admin` | no | the [admin server](admin) of a [`Launcher`](launch::Launcher): health checks, metrics, the API for operators, the console; [`App::admin_route`] |
//! | `logs` | no | [`logging`]: a `Launcher` sets up logs as configured. Without it the program installs its own subscriber of `tracing` |
//! | `nats` | no | a [cluster] on NATS and etcd: `cluster.mode = "nats"` |
//! | `otlp` | no | export of [traces](telemetry) to an OpenTelemetry collector |
//! | `protobuf` | yes | typed protobuf messages in handlers and calls |
//! | `testing` | no | [`testing`]: servers in memory, with virtual time |
//!
//! A configuration that sets keys of a part that the program was built without is a mistake, which names the feature.
//!
//! # How a request goes
//!
//! A connector decodes it on the thread of its connection, which is one of a few that only do this. There the [filters](filter) run and the
//! handler is polled. A handler that is done at once costs one allocation for its future and one for its answer. One that waits keeps neither the
//! connection from reading nor other sessions from being served, only the later requests of its own session. A handler that panics
//! or takes too long gets its client an error response, and affects no other session.

#[cfg(feature = "admin")]
pub mod admin;
mod aliases;
mod answer;
pub mod app;
pub mod backend;
mod boxed;
pub mod channel;
pub mod config;
mod dispatch;
pub mod error;
pub mod extract;
pub mod filter;
mod frontend;
mod guarded;
#[cfg(all(doctest, feature = "admin", feature = "nats"))]
mod guide;
pub mod handler;
pub mod handshake;
mod history;
#[cfg(feature = "admin")]
pub mod http;
pub mod launch;
#[cfg(feature = "logs")]
pub mod logging;
#[cfg(not(feature = "logs"))]
#[path = "logging/absent.rs"]
mod logging;
pub mod metrics;
pub mod operations;
pub mod operators;
mod random;
mod received;
pub mod remote;
pub mod reply;
pub mod request;
pub mod resume;
mod series;
pub mod session;
pub mod shutdown;
pub mod signals;
pub mod stats;
pub mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;

/// How frontends speak with clients: dialects, heartbeats, dictionary, schemas, listeners.
pub mod wire {
    pub use shaddock_core::TransportKind;
    pub use shaddock_net::{
        AccessPolicy, Carried, ConnectionLimits, Frontend, ListenConfig, MaybeReady, NetStats,
        Opened, Peer, ResumeTerms, TlsError, TlsFiles, TlsReloader, UpgradePolicy, Verdict,
    };
    pub use shaddock_protocol::{
        Codec, CodecConfig, Dialect, DialectChoice, HandshakeRequest, HashPolicy, Inbound, Limits,
        PitayaSerializer, PomeloErrors, Protos, RefuseReason, Route, Schema, Variant,
    };
}

/// Servers that find and call each other: in one process, or over the network.
pub mod cluster {
    pub use shaddock_cluster::{
        Cluster, Context, Interest, LocalCluster, Located, Members, Membership, RemoteError,
        RemoteErrorKind, RoutingTarget, ServerId, ServerInfo, Strategy, owner_of,
    };
    #[cfg(feature = "nats")]
    pub use shaddock_cluster::{GroupError, Groups, NatsCluster, NatsConfig};
}

pub use app::{App, Servers};
pub use error::HandlerError;
pub use extract::Json;
pub use shaddock_macros::debug_handler;

/// What almost every server uses.
pub mod prelude {
    #[cfg(feature = "protobuf")]
    pub use crate::extract::Protobuf;
    pub use crate::{
        app::{App, AppConfig, AppHandle, Component, RoutingRequest, Running, Servers, StartError},
        channel::{BroadcastOptions, Channel, Channels, MemberEvent, Topic},
        error::HandlerError,
        extract::{Body, Ctx, Extension, Json, RequestId, RoutePath, State, User},
        handshake::{Accept, HandshakeInfo, HandshakeReject},
        reply::Reply,
        resume::ResumePolicy,
        session::{
            BackendSession, BackendSessions, CloseReason, FrontendId, FrontendSession,
            SessionConfig, SessionEvent, SessionView, Sid, Uid,
        },
    };
}
