//! Sessions as applications see them.
//!
//! [`SessionView`] is what handlers get, wherever they run. It is a view, as in Pomelo: user and settings are those of the moment it was made,
//! [`set`](SessionView::set) changes the view only, and [`save`](SessionView::save) writes a setting back to the session, over the cluster
//! if the session is on another server. What goes to the *client* is called [`push_message`](SessionView::push_message).
//!
//! [`FrontendSession`] and [`BackendSession`] are the same view, for handlers to which it matters where they run.
//!
//! The sessions of a frontend are in its [`SessionService`], see
//! [`AppHandle::session_service`](crate::app::AppHandle::session_service). Bind through the view or through
//! [`AppHandle::bind`](crate::app::AppHandle::bind), not through the service: the service knows this frontend only, while the view also asks the
//! app's [hook](crate::App::before_bind) and makes the user known to the other servers.

mod actions;
mod backend;
mod binding;
mod calls;
mod claims;
mod cluster_event;
mod cluster_events;
mod cluster_listeners;
mod error;
mod event;
mod event_kind;
mod events;
mod expiry;
mod listeners;
mod ops;
mod spawn;
mod typed;

mod view;

pub use shaddock_core::{
    ClientClaims, CloseReason, Conflict, ConnectionStats, FrontendId, ListenerId, OnFull,
    ResumeConfig, Session, SessionConfig, SessionService, SessionState, SessionStatistics,
    SessionsPerUser, Settings, Sid, Uid,
};

pub use self::{
    backend::BackendSessions,
    cluster_event::{ClusterEventKind, ClusterSessionEvent},
    error::{SessionError, WrongSetting},
    event::SessionEvent,
    event_kind::EventKind,
    typed::Setting,
    view::{BackendSession, FrontendSession, SessionView},
};
pub(crate) use self::{
    binding::Binder,
    calls::SessionCalls,
    claims::claims_of,
    cluster_events::ClusterEvents,
    cluster_listeners::ClusterEventHooks,
    events::FrontendEvents,
    expiry::Expiries,
    listeners::{EventHook, EventHooks},
    ops::SessionOps,
    view::raw as raw_sid,
};
