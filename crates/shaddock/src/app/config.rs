//! Bounds and times of an app. Set with `app.set(AppConfig { .. })`, like every other configuration.

use std::time::Duration;

/// Bounds and times of one app.
///
/// ```
/// use std::time::Duration;
/// use shaddock::{App, app::AppConfig};
///
/// let mut app = App::new("chat", "chat-1");
/// app.set(AppConfig { handler_timeout: Duration::from_secs(5), ..AppConfig::default() });
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppConfig {
    /// How long a handler may take. Default 30 s, zero is for ever. Above it the handler is dropped at its next `.await` and the request is
    /// answered with an error. The same holds for requests that frontends forward: a server announces the times of its handlers, and
    /// frontends wait for so long (at most an hour), unless a filter chose another time.
    pub handler_timeout: Duration,
    /// How long a call of a remote may take, unless the call says otherwise. Default 5 s.
    pub rpc_timeout: Duration,
    /// Requests of [concurrent](crate::handler::RouteEntry::concurrent) and [offloaded](crate::handler::RouteEntry::offload) routes at work.
    /// Default 10,000. Above it they are answered with [`codes::TOO_MANY`](crate::error::codes::TOO_MANY).
    pub max_concurrent: usize,
    /// Background tasks ([`AppHandle::spawn`](crate::app::AppHandle::spawn)). Default 10,000. Above it spawning fails.
    pub max_tasks: usize,
    /// Events of one session that wait for the app's listeners. Default 64. Above it a user who was bound and unbound again meanwhile is not
    /// told of, and both events are counted; who is bound in the end is told, and so is the close.
    pub max_waiting_events: usize,
    /// What happened to sessions of a frontend lately (binds, unbinds, lost connections, returns, closes) and is kept for operators. Default
    /// 4,096. Above it the oldest is forgotten; 0 keeps nothing.
    pub kept_events: usize,
    /// How long one event listener may take. Default 30 s; then it is dropped at its next `.await`, and the session's next event comes.
    pub event_timeout: Duration,
    /// How long a handshake hook may take. Default 10 s; then the client is refused.
    pub handshake_timeout: Duration,
    /// Bytes of user data in a client's handshake that are kept with its session, beside its kind, version and platform
    /// ([`SessionView::claims`](crate::session::SessionView::claims)). Default 1 KiB. Longer data are left out; 0 keeps nothing at all.
    pub handshake_bytes: usize,
    /// How long a component may take to start. Default 60 s; then the start fails.
    pub start_timeout: Duration,
    /// How long each step of a shutdown may take. Default 5 s; then what is left is abandoned and logged.
    pub stop_timeout: Duration,
}

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

/// The route dictionary of a frontend: two-byte codes in the place of routes. Off unless it is set in the app.
///
/// The routes of all handlers of the servers that run in this process get codes; so do `routes` and `handlers`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DictionaryConfig {
    /// Routes of pushes and whatever else should have a code (Pomelo's `dictionary.json`), in this order.
    pub routes: Vec<String>,
    /// Routes `type.handler.method` of servers in other processes.
    pub handlers: Vec<String>,
}
