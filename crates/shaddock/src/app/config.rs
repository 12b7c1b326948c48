//! Limits and times of an app. Set with `app.set(AppConfig::default()..)`, like every other configuration.

use std::time::Duration;

/// Limits and times of one app.
///
/// ```
/// use std::time::Duration;
/// use shaddock::{App, app::AppConfig};
///
/// let mut app = App::new("chat", "chat-1");
/// app.set(AppConfig::default().handler_timeout(Duration::from_secs(5)));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AppConfig {
    /// Time limit of a handler. Default 30 s; zero means no limit. When it expires, the handler is dropped at its next `.await` and the
    /// request receives an error response. It also applies to requests that frontends forward: a server announces the time limits of its
    /// handlers, and frontends wait that long (at most an hour), unless a filter sets another time.
    pub handler_timeout: Duration,
    /// Time limit of a call of a remote, unless the call sets its own. Default 5 s.
    pub rpc_timeout: Duration,
    /// Running requests of [concurrent](crate::handler::RouteEntry::concurrent) and [offloaded](crate::handler::RouteEntry::offload)
    /// routes. Default 10,000. Further requests receive [`codes::TOO_MANY`](crate::error::codes::TOO_MANY).
    pub max_concurrent: usize,
    /// Background tasks ([`AppHandle::spawn`](crate::app::AppHandle::spawn)). Default 10,000. Above this limit spawning fails.
    pub max_tasks: usize,
    /// Events of one session that wait for the app's listeners. Default 64. Above this limit listeners are not notified of a user who was
    /// bound and unbound meanwhile, and both events are counted. They are always notified of the user who is bound last, and of the close.
    pub max_waiting_events: usize,
    /// Recent events of a frontend's sessions (binds, unbinds, lost connections, returns, closes) that are kept for operators. Default
    /// 4,096. Above this limit the oldest is dropped; 0 keeps none.
    pub kept_events: usize,
    /// Time limit of one event listener. Default 30 s; then it is dropped at its next `.await`, and the session's next event follows.
    pub event_timeout: Duration,
    /// Time limit of a handshake hook. Default 10 s; then the client is rejected.
    pub handshake_timeout: Duration,
    /// Bytes of user data in a client's handshake that are kept with its session, in addition to its kind, version and platform
    /// ([`SessionView::claims`](crate::session::SessionView::claims)). Default 1 KiB. Longer data is not kept; 0 keeps nothing of the
    /// handshake.
    pub handshake_bytes: usize,
    /// Time limit for starting a component. Default 60 s; then the start fails.
    pub start_timeout: Duration,
    /// Time limit of each step of a shutdown. Default 5 s; then the remaining work is dropped and logged.
    pub stop_timeout: Duration,
}

shaddock_protocol::setters!(AppConfig {
    handler_timeout: Duration,
    rpc_timeout: Duration,
    max_concurrent: usize,
    max_tasks: usize,
    max_waiting_events: usize,
    kept_events: usize,
    event_timeout: Duration,
    handshake_timeout: Duration,
    handshake_bytes: usize,
    start_timeout: Duration,
    stop_timeout: Duration,
});

impl Default for AppConfig {
    fn default() -> Self {
        Self {
            handler_timeout: Duration::from_secs(30),
            rpc_timeout: Duration::from_secs(5),
            max_concurrent: 10_000,
            max_tasks: 10_000,
            max_waiting_events: 64,
            kept_events: 4096,
            event_timeout: Duration::from_secs(30),
            handshake_timeout: Duration::from_secs(10),
            handshake_bytes: 1024,
            start_timeout: Duration::from_secs(60),
            stop_timeout: Duration::from_secs(5),
        }
    }
}

/// The route dictionary of a frontend: two-byte codes instead of routes. Off unless it is set in the app.
///
/// The routes of all handlers of the servers in this process get codes, and so do `routes` and `handlers`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DictionaryConfig {
    /// Routes of pushes, and other routes that get codes (Pomelo's `dictionary.json`), in this order.
    pub routes: Vec<String>,
    /// Routes `type.handler.method` of servers in other processes.
    pub handlers: Vec<String>,
}

shaddock_protocol::setters!(DictionaryConfig {
    routes: Vec<String>,
    handlers: Vec<String>,
});
