//! The hooks of the application.

#[cfg(feature = "admin")]
use std::collections::BTreeMap;
use std::sync::Arc;

use shaddock_core::Uid;

use super::{AppHandle, Choosers, Single, Timer};
#[cfg(feature = "admin")]
use crate::{admin::AdminRequest, reply::Outcome};
use crate::{
    boxed::BoxFuture,
    channel::MemberHooks,
    config::Config,
    error::HandlerError,
    handshake::{Accept, HandshakeInfo, HandshakeReject},
    session::{ClusterEventHooks, EventHooks, FrontendSession},
};

/// Checks clients by kind and version.
pub(crate) type ClientCheck = Arc<dyn Fn(Option<&str>, Option<&str>) -> bool + Send + Sync>;

/// Decides on handshakes.
pub(crate) type HandshakeHook =
    Arc<dyn Fn(HandshakeInfo) -> BoxFuture<Result<Accept, HandshakeReject>> + Send + Sync>;

/// Runs before a session is bound, and may reject the bind.
pub(crate) type BindHook = Arc<
    dyn Fn(AppHandle, FrontendSession, Uid) -> BoxFuture<Result<(), HandlerError>> + Send + Sync,
>;

/// Runs before a client resumes its session, and may reject it.
pub(crate) type ResumeHook = Arc<
    dyn Fn(AppHandle, FrontendSession, HandshakeInfo) -> BoxFuture<Result<(), HandshakeReject>>
        + Send
        + Sync,
>;

/// Runs after the configuration was reloaded.
pub(crate) type ReloadHook = Arc<dyn Fn(AppHandle, Arc<Config>) -> BoxFuture<()> + Send + Sync>;

/// Serves an admin route.
#[cfg(feature = "admin")]
pub(crate) type AdminHook =
    Arc<dyn Fn(AppHandle, AdminRequest) -> BoxFuture<Outcome> + Send + Sync>;

/// The hooks of one app.
#[derive(Default)]
pub(crate) struct Hooks {
    pub(crate) client_check: Single<ClientCheck>,
    pub(crate) handshake: Single<HandshakeHook>,
    pub(crate) before_bind: Single<BindHook>,
    pub(crate) before_resume: Single<ResumeHook>,
    pub(crate) events: EventHooks,
    pub(crate) members: MemberHooks,
    pub(crate) cluster_events: ClusterEventHooks,
    pub(crate) timers: Vec<Timer>,
    #[cfg(feature = "admin")]
    pub(crate) admin_routes: BTreeMap<String, AdminHook>,
    pub(crate) reloads: Vec<ReloadHook>,
    pub(crate) choosers: Choosers,
    /// Requests of sessions without a user are rejected, except for these routes.
    pub(crate) users_only: Option<Vec<String>>,
}
