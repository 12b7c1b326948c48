//! One trait for communication between servers: in one process, or over NATS and etcd.
//!
//! - [`Node`] is the server's side, implemented by the framework.
//! - [`Cluster`] is the connection between servers; [`Cluster::join`] returns a server's [`Membership`], through which it forwards client
//!   messages, calls remotes, operates on sessions of frontends and delivers to their clients.
//! - [`Members`] is the list of servers, [`Routing`] selects one of them.
//! - [`LocalCluster`] joins servers of one process. A forwarded request is a table look-up and the node's own future: no task switch, no
//!   copy of the body.
//! - `NatsCluster`, with the feature `nats`, joins servers on many machines over NATS and etcd. It implements Pitaya v3's protocol, so that
//!   unmodified Go servers can join the same cluster.
//!
//! Bodies are opaque here: JSON text or raw bytes, as [`bytes::Bytes`]. Errors between servers are [`RemoteError`]s with the
//! codes of Pitaya v3 (`PIT-404`, ..).

mod api;
mod audience;
mod bound;
#[cfg(feature = "nats")]
mod clock;
mod context;
mod delivery;
mod error;
#[cfg(feature = "nats")]
mod etcd;
mod info;
mod interest;
mod local;
mod members;
#[cfg(feature = "nats")]
mod nats;
mod owners;
mod quiet;
mod random;
mod reply;
mod route;
mod routing;
#[cfg_attr(
    not(feature = "nats"),
    allow(dead_code, reason = "much of it is for NATS and etcd")
)]
mod secret;
mod session;
mod status;
#[cfg(test)]
mod tests;
#[cfg_attr(
    not(feature = "nats"),
    allow(dead_code, reason = "much of it is for NATS and etcd")
)]
mod uid;

pub use shaddock_core::{Conflict, SessionsPerUser};

pub use api::{Cluster, ForwardedRequest, JoinOptions, MemberChange, Membership, Node, RemoteCall};
pub use audience::{
    AudienceKey, AudiencePart, Departure, JoinAnswer, MAX_AUDIENCE_NAME, MemberNotice, Tie,
};
pub use bound::Bound;
pub use context::{Context, ContextError, format_duration, parse_duration};
pub use delivery::{Delivered, Delivery, FailedDelivery, MAX_LATEST_KEY, Receivers};
pub use error::{BindError, ClusterError, RemoteError, RemoteErrorKind, code};
#[cfg(feature = "nats")]
pub use etcd::{GroupError, Groups};
pub use info::{InvalidServerId, ServerId, ServerInfo};
pub use interest::Interest;
pub use local::LocalCluster;
pub use members::Members;
#[cfg(feature = "nats")]
pub use nats::{NatsCluster, NatsConfig, NatsLogin, TlsFiles};
pub use reply::Reply;
pub use route::split_route;
pub use routing::{RouteFn, Routing, RoutingTarget, Strategy, call_target, owner_of};
pub use secret::{Address, Secret};
pub use session::{
    ForwardedSession, Located, RawSid, SessionAnswer, SessionData, SessionEvent, SessionOp,
};
pub use status::Status;

/// A future on the heap that can be sent between threads.
pub type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;
