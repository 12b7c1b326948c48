//! The public methods of [`AppHandle`]: each hands on to the type that is named for the concept.

use std::{
    any::{Any, TypeId},
    future::Future,
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use shaddock_cluster::{Membership, RemoteError, Secret, ServerInfo};
use shaddock_core::{ConnectionStats, SessionService, Sid, StatisticsInfo, Uid};
use shaddock_net::{
    AccessPolicy, ConnectionLimits, Frontend, Listener, NetStats, TlsError, UpgradePolicy,
};
use shaddock_protocol::{Codec, CodecConfig};
use tokio::runtime::Handle;

use super::{AppConfig, AppHandle, SpawnError, Task, Timer, Work};
use crate::{
    backend::BackendError,
    channel::{Channels, Topic},
    metrics::Metrics,
    remote::Rpc,
    session::{BackendSessions, Binder, SessionError},
    stats::AppStats,
};

/// # Identity
impl AppHandle {
    /// The server type.
    pub fn server_type(&self) -> &str {
        &self.inner().info.server_type
    }

    /// The server id.
    pub fn id(&self) -> &str {
        self.inner().info.id.as_str()
    }

    /// The information that other servers have about this one.
    pub fn info(&self) -> &Arc<ServerInfo> {
        &self.inner().info
    }

    /// Whether the server is a frontend.
    pub fn is_frontend(&self) -> bool {
        self.inner().info.frontend
    }

    /// The limits and times of the app.
    pub fn config(&self) -> &AppConfig {
        &self.inner().config
    }

    /// Metrics of the application, which the admin server exports with those of the framework.
    pub fn metrics(&self) -> &Metrics {
        &self.inner().metrics
    }

    /// The counters of the app.
    pub fn stats(&self) -> &AppStats {
        &self.inner().stats
    }
}

/// # The context
impl AppHandle {
    /// Sets a value in the context, replacing a value of the same type. Configuration is read when the app starts: setting it later has no
    /// effect.
    pub fn set<T: Send + Sync + 'static>(&self, value: T) {
        self.set_shared(Arc::new(value));
    }

    /// As [`set`](Self::set), for a shared value.
    pub fn set_shared<T: Send + Sync + 'static>(&self, value: Arc<T>) {
        self.inner().values.set(value);
    }

    /// Returns a value of the context: one that was set, or one of the app's services: [`SessionService`] and [`ConnectionStats`]
    /// (frontends), [`Channels`], [`BackendSessions`].
    pub fn get<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        self.inner()
            .values
            .get()
            .or_else(|| self.service(TypeId::of::<T>())?.downcast().ok())
    }

    /// Services that hold the app, which therefore cannot be stored in its context.
    fn service(&self, key: TypeId) -> Option<Arc<dyn Any + Send + Sync>> {
        if key == TypeId::of::<Channels>() {
            Some(Arc::new(self.channels()))
        } else if key == TypeId::of::<BackendSessions>() {
            Some(Arc::new(self.backend_sessions()))
        } else {
            None
        }
    }

    /// The sessions of this frontend; `None` on other servers.
    pub fn session_service(&self) -> Option<&SessionService> {
        self.inner().sessions.as_ref()
    }

    /// Who is logged in at this frontend; `None` on other servers.
    pub fn connection_stats(&self) -> Option<&ConnectionStats> {
        self.inner().connections.as_ref()
    }

    /// Connections and logins, for operators; `None` on servers that are no frontends. (Pomelo `connectionService.getStatisticsInfo`.)
    pub fn connection_statistics(&self) -> Option<StatisticsInfo> {
        let stats = self.inner().connections.as_ref()?;
        Some(stats.statistics(self.open_connections()))
    }

    /// The place of this server in the cluster.
    ///
    /// # Errors
    /// The app has not joined yet, or could not.
    pub fn membership(&self) -> Result<&Arc<dyn Membership>, RemoteError> {
        self.joined()
    }
}

/// # Sessions, channels and other servers
impl AppHandle {
    /// Binds a session of this frontend to a user, as [`SessionView::bind`](crate::session::SessionView::bind) does. For code that has no view,
    /// such as background work.
    ///
    /// # Errors
    /// [`SessionError`].
    pub async fn bind(&self, sid: Sid, uid: Uid) -> Result<(), SessionError> {
        Binder::of(self).bind_sid(sid, uid).await
    }

    /// Sessions anywhere in the cluster.
    pub fn backend_sessions(&self) -> BackendSessions {
        BackendSessions::of(self)
    }

    /// The channels of this app.
    pub fn channels(&self) -> Channels {
        Channels::of(self)
    }

    /// The topic of that name: a room that no server owns, and the same one for all servers. Nothing is made or kept here. It begins with its first
    /// member, on whichever frontend, and ends with its last; members leave with their sessions.
    ///
    /// Use a topic where several servers push to the same room, or where it must survive the server that opened it, and a
    /// [channel](crate::channel::Channels::create) where one server owns the room.
    ///
    /// A name may be any text of 1 to 256 bytes; with another one every call fails.
    pub fn topic(&self, name: &str) -> Topic {
        Topic::of(self, name)
    }

    /// Sends the pushes that push schedulers hold back.
    pub fn flush_pushes(&self) {
        self.scheduler().flush();
    }

    /// Starts a call of the remote `type.remote.method`. Without anything else it goes to the server that the routing of this app chooses.
    ///
    /// Inside a handler or remote that another server called, the call propagates the context of that request (`request.id`, trace ids,
    /// values of the application), and waits no longer than the caller of that request waits.
    pub fn rpc(&self, route: &str) -> Rpc {
        Rpc::of(self, route)
    }

    /// Signs the requests to this type's HTTP backend with other secrets from now on, also those that are sent again; with two during a
    /// rotation. `false` if the type has no HTTP backend. SIGHUP does this with `backends.<type>.secret`.
    ///
    /// # Errors
    /// [`BackendError`]: an invalid secret, or more than two. The old secrets stay.
    pub fn set_backend_secrets<'a>(
        &self,
        server_type: &str,
        secrets: impl IntoIterator<Item = &'a Secret>,
    ) -> Result<bool, BackendError> {
        crate::backend::set_secrets(self.backends(), server_type, secrets)
    }
}

/// # Background work
impl AppHandle {
    /// Runs `future` in the background, until it is done or the app stops; then it is dropped at its next `.await`. A panic is logged and ends
    /// the task only. `name` is for logs.
    ///
    /// Work that belongs to a session or a channel ends with it if they spawn it:
    /// [`FrontendSession::spawn`](crate::session::FrontendSession::spawn), [`Channel::spawn`](crate::channel::Channel::spawn).
    ///
    /// # Errors
    /// [`SpawnError`]: too many tasks, or the app is stopping.
    pub fn spawn<F>(&self, name: &'static str, future: F) -> Result<Task, SpawnError>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let task = self.tasks().spawn(name, future)?;
        Ok(Task::of(&task))
    }

    /// Runs `work` repeatedly: first after `period`, then every `period`, until the app stops. A run that takes longer than a period skips
    /// the periods that it overlaps; a panic is logged and counted, and the next run follows. `name` is used in logs.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use shaddock::prelude::*;
    /// # fn start(app: &AppHandle) -> Result<(), Box<dyn std::error::Error>> {
    /// let ticks = app.every("world", Duration::from_millis(100), async |app: AppHandle| {
    ///     let sent = app.channels().broadcast("connector", "onWorld", &"tick", BroadcastOptions::bound()).await;
    ///     if let Err(error) = sent {
    ///         eprintln!("{error}");
    ///     }
    /// })?;
    /// # ticks.abort();
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`SpawnError`]: too many tasks, or the app is stopping.
    pub fn every<F, Fut>(
        &self,
        name: &'static str,
        period: Duration,
        work: F,
    ) -> Result<Task, SpawnError>
    where
        F: Fn(Self) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let work: Work = Arc::new(move |app| Box::pin(work(app)));
        Timer { name, period, work }.start(self)
    }

    /// Completes when the app stops, for background work that ends on its own.
    pub fn stopping(&self) -> impl Future<Output = ()> + Send + 'static {
        self.tasks().stopped()
    }

    /// The runtime that started the app.
    pub fn runtime(&self) -> &Handle {
        self.tasks().runtime()
    }
}

/// # Listeners
impl AppHandle {
    /// The addresses of the listeners, with the real ports, in the order of [`App::listen`](crate::App::listen).
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.listeners()
            .look(|all| all.iter().map(Listener::local_addr).collect())
    }

    /// The number of open connections, including those whose handshake is not complete.
    pub fn open_connections(&self) -> usize {
        self.listeners().open_connections()
    }

    /// Whether all listeners accept connections. False while the task of a worker restarts after a fault.
    pub fn is_serving(&self) -> bool {
        self.listeners()
            .look(|all| all.iter().all(Listener::is_serving))
    }

    /// The counters of the listeners, in their order.
    pub fn net_stats(&self) -> Vec<NetStats> {
        self.listeners()
            .look(|all| all.iter().map(Listener::stats).collect())
    }

    /// Replaces address lists and connection limits of all listeners. Open connections are kept.
    pub fn set_access(&self, policy: &AccessPolicy) {
        self.listeners().look(|all| {
            for listener in all {
                listener.set_access(policy.clone());
            }
        });
    }

    /// Replaces the limits of connections and the rules for WebSocket upgrades of all listeners. Open connections keep their limits.
    pub fn set_limits(&self, limits: &ConnectionLimits, upgrade: &UpgradePolicy) {
        self.listeners().look(|all| {
            for listener in all {
                listener.set_limits(limits.clone(), upgrade.clone());
            }
        });
    }

    /// Takes limits, heartbeats and the requirement of signatures from `config`, for later connections. The encoding of messages
    /// (dictionary, schemas, serializer, compression) does not change, because open connections rely on it.
    pub fn set_protocol_limits(&self, config: &CodecConfig) {
        self.inner().codecs.set_limits(config);
    }

    /// Reads certificates and keys again.
    ///
    /// # Errors
    /// The [`TlsError`] of the first listener that failed; the others are reloaded.
    pub fn reload_tls(&self) -> Result<(), TlsError> {
        self.listeners().look(|all| {
            all.iter()
                .map(Listener::reload_tls)
                .fold(Ok(()), Result::and)
        })
    }

    /// The interface of connectors: the app as a [`Frontend`](crate::wire::Frontend). The listeners of [`App::listen`](crate::App::listen)
    /// use it, and so can connectors of the application, and tests without sockets. `None` if this server is not a frontend.
    pub fn connector(&self) -> Option<Arc<dyn Frontend>> {
        self.inner().sessions.as_ref()?;
        Some(Arc::clone(self.application()).connector(self))
    }

    /// The codec for clients.
    pub fn codec(&self) -> &Arc<Codec> {
        self.codecs().messages()
    }

    /// Closes the listening sockets. Open connections continue. This is the first step of a drain; the readiness probe should fail before.
    pub fn stop_accepting(&self) {
        self.listeners()
            .look(|all| all.iter().for_each(Listener::stop_accepting));
    }
}
