//! Servers: an [`App`] is one server, [`Servers`] runs one or several in a process.
//!
//! An `App` is configured first and runs afterwards. During configuration it is a plain value; mistakes such as a route that is registered
//! twice panic with the place of the call. [`Servers::start`] checks the requirements of handlers, joins the cluster, opens the listeners,
//! and returns an [`AppHandle`] for each app: the running server, cheap to clone, which handlers receive as [`Ctx`](crate::extract::Ctx).
//!
//! There are no globals: several apps of the same or of different types run in one process.

mod application;
mod assemble;
mod callbacks;
mod check;
mod chooser;
mod codecs;
mod component;
mod config;
mod context;
mod facade;
mod handle;
mod hooks;
mod info;
mod join;
mod listeners;
mod part;
mod place;
mod refusals;
mod registrations;
mod reload;
pub(crate) mod requirements;
mod routing;
mod running;
mod servers;
mod single;
mod start_error;
mod tasks;
mod timer;

use std::{
    future::Future,
    net::{SocketAddr, ToSocketAddrs},
    panic::Location,
    sync::Arc,
    time::Duration,
};

use shaddock_cluster::{Routing, RoutingTarget, ServerInfo, Strategy};
use shaddock_net::ListenConfig;

#[cfg(feature = "admin")]
pub(crate) use self::hooks::AdminHook;
#[cfg(feature = "testing")]
pub(crate) use self::place::Network;
pub use self::{
    callbacks::UserRequired,
    chooser::RoutingRequest,
    component::{BoxError, Component},
    config::{AppConfig, DictionaryConfig},
    handle::AppHandle,
    running::Running,
    servers::Servers,
    start_error::StartError,
    tasks::{SpawnError, Task},
};
pub(crate) use self::{
    chooser::{Chooser, Choosers},
    codecs::Codecs,
    component::ErasedComponent,
    context::TypeMap,
    handle::AppInner,
    hooks::{Hooks, ResumeHook},
    listeners::Listeners,
    part::Part,
    registrations::{Registrations, Server, WeakServer},
    routing::Choice,
    running::Stopping,
    single::Single,
    start_error::start_task,
    tasks::{Slot, Tasks, until},
    timer::{Timer, Work},
};
use crate::{
    backend::Backends,
    filter::{AsyncFilter, ErrorHandler, Filter, Filters, Waiter},
    handler::{Handler, HandlerTable, RemoteEntry, RouteEntry, Typed},
    operators::OPERATE,
};

/// The configuration of one server. Pomelo's `app`, before `app.start()`.
///
/// ```
/// use shaddock::prelude::*;
///
/// async fn echo(Json(body): Json<serde_json::Value>) -> Json<serde_json::Value> {
///     Json(body)
/// }
///
/// let mut app = App::new("connector", "connector-1");
/// app.listen("127.0.0.1:0");
/// app.set(SessionConfig::default().max_settings(64));
/// app.handle("entryHandler.echo", echo);
/// ```
pub struct App {
    pub(crate) info: ServerInfo,
    pub(crate) values: TypeMap,
    pub(crate) handlers: HandlerTable,
    pub(crate) remotes: HandlerTable,
    pub(crate) filters: Filters,
    pub(crate) routing: Routing,
    pub(crate) listeners: Vec<ListenConfig>,
    pub(crate) components: Vec<Arc<dyn ErasedComponent>>,
    pub(crate) hooks: Hooks,
    pub(crate) backends: Backends,
}

impl App {
    /// Creates a server of this type with this id. The id is unique in the cluster; the type is the first part of the routes that it
    /// serves.
    ///
    /// # Panics
    /// If the type or the id is empty, longer than 128 bytes, or has a `.`, `/`, `*`, `>`, white space or a control character in it.
    #[track_caller]
    pub fn new(server_type: &str, id: &str) -> Self {
        let info = match ServerInfo::new(id, server_type, false) {
            Ok(info) => info,
            Err(error) => panic!("{error}"),
        };
        Self {
            info,
            values: TypeMap::default(),
            handlers: HandlerTable::default(),
            remotes: HandlerTable::default(),
            filters: Filters::default(),
            routing: Routing::new(),
            listeners: Vec::new(),
            components: Vec::new(),
            hooks: Hooks::default(),
            backends: Backends::default(),
        }
    }

    /// The server type.
    pub fn server_type(&self) -> &str {
        &self.info.server_type
    }

    /// The server id.
    pub fn id(&self) -> &str {
        self.info.id.as_str()
    }

    /// Whether the server accepts connections of clients.
    pub fn is_frontend(&self) -> bool {
        self.info.frontend
    }

    /// Listens for clients, which makes the server a frontend. TCP and WebSocket on one port; port 0 takes a free one.
    ///
    /// # Panics
    /// If `address` is not a valid address. Names are resolved immediately.
    #[track_caller]
    pub fn listen(&mut self, address: impl ToSocketAddrs + std::fmt::Debug) -> &mut Self {
        let found: Option<SocketAddr> = address
            .to_socket_addrs()
            .ok()
            .and_then(|mut all| all.next());
        match found {
            Some(address) => self.listen_with(ListenConfig::new(address)),
            None => {
                panic!("{address:?} is not a valid IP:PORT; write it as \"0.0.0.0:3010\"")
            }
        }
    }

    /// Listens for clients with all options of a listener: TLS, address lists, limits.
    pub fn listen_with(&mut self, config: ListenConfig) -> &mut Self {
        self.listeners.push(config);
        self.info.frontend = true;
        self
    }

    /// Makes the server a frontend without a listener: the application's own connectors accept clients, through [`AppHandle::connector`].
    pub fn frontend(&mut self) -> &mut Self {
        self.info.frontend = true;
        self
    }

    /// Sets a value in the context of the app, replacing a value of the same type. Handlers take it as [`State`](crate::extract::State).
    ///
    /// Configuration is set the same way: [`AppConfig`], [`SessionConfig`](crate::session::SessionConfig),
    /// [`CodecConfig`](crate::wire::CodecConfig), [`DictionaryConfig`], [`PushConfig`](crate::channel::PushConfig).
    pub fn set<T: Send + Sync + 'static>(&mut self, value: T) -> &mut Self {
        self.set_shared(Arc::new(value))
    }

    /// As [`set`](Self::set), for a shared value.
    pub fn set_shared<T: Send + Sync + 'static>(&mut self, value: Arc<T>) -> &mut Self {
        drop(self.values.set(value));
        self
    }

    /// A value of the context.
    pub fn get<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        self.values.get()
    }

    /// Adds metadata of this server, which other servers of the cluster can read. Together with what the framework announces, such as
    /// [concurrent](RouteEntry::concurrent) routes, it may have at most 64 KiB, or the server does not start.
    pub fn metadata(&mut self, key: impl Into<String>, value: impl Into<String>) -> &mut Self {
        self.info.metadata.insert(key.into(), value.into());
        self
    }

    /// Registers a handler for `handler.method`, or `type.handler.method` if the type is this server's. The result sets options of the
    /// route.
    ///
    /// # Panics
    /// If the route is malformed, of another server type, or registered already.
    #[track_caller]
    pub fn handle<H, T>(&mut self, route: &str, handler: H) -> RouteEntry<'_>
    where
        H: Handler<T>,
        T: 'static,
    {
        let short = self.own_route(route);
        Typed::add_to(&mut self.handlers, short, handler, Location::caller())
    }

    /// Registers a remote, which other servers call as `type.remote.method`. See [`crate::remote`].
    ///
    /// # Panics
    /// As [`handle`](Self::handle).
    #[track_caller]
    pub fn remote<H, T>(&mut self, route: &str, remote: H) -> RemoteEntry<'_>
    where
        H: Handler<T>,
        T: 'static,
    {
        let short = self.own_route(route);
        assert!(
            short != OPERATE,
            "the remote `{OPERATE}` is answered by the framework"
        );
        Typed::add_to(&mut self.remotes, short, remote, Location::caller()).into_remote()
    }

    #[track_caller]
    fn own_route(&self, route: &str) -> String {
        let parts: Vec<&str> = route.split('.').collect();
        assert!(
            parts.iter().all(|part| !part.trim().is_empty()),
            "the route `{route}` has an empty part"
        );
        match parts[..] {
            [handler, method] => format!("{handler}.{method}"),
            [own, handler, method] if own == self.server_type() => format!("{handler}.{method}"),
            [other, ..] if parts.len() == 3 => panic!(
                "the route `{route}` belongs to servers of type `{other}`, this one is a `{}`",
                self.server_type()
            ),
            _ => panic!(
                "the route `{route}` is malformed: write `handler.method` or `type.handler.method`"
            ),
        }
    }

    /// Adds a filter for every request of this app's clients, including forwarded requests.
    pub fn global_filter(&mut self, filter: impl Filter) -> &mut Self {
        self.filters.global.filters.push(Arc::new(filter));
        self
    }

    /// Adds a filter for every request that this app handles.
    pub fn filter(&mut self, filter: impl Filter) -> &mut Self {
        self.filters.own.filters.push(Arc::new(filter));
        self
    }

    /// Adds an asynchronous filter for every request of this app's clients; it may change the request.
    pub fn global_async_filter(&mut self, filter: impl AsyncFilter) -> &mut Self {
        self.global_filter(Waiter(filter))
    }

    /// Adds an asynchronous filter for every request that this app handles; it may change the request. An example is in
    /// [`filter`](crate::filter#filters-that-wait).
    pub fn async_filter(&mut self, filter: impl AsyncFilter) -> &mut Self {
        self.filter(Waiter(filter))
    }

    /// Handles errors of global before-filters only. At most one may be set: with a second one the app does not start.
    #[track_caller]
    pub fn global_error_handler(&mut self, handler: impl ErrorHandler) -> &mut Self {
        let handlers = &mut self.filters.global.error_handler;
        handlers.set(Arc::new(handler), Location::caller());
        self
    }

    /// Handles errors of the app's own filters and handlers. At most one may be set: with a second one the app does not start.
    #[track_caller]
    pub fn error_handler(&mut self, handler: impl ErrorHandler) -> &mut Self {
        let handlers = &mut self.filters.own.error_handler;
        handlers.set(Arc::new(handler), Location::caller());
        self
    }

    /// Sets the function that chooses the server of type `server_type` for a request (Pomelo's `app.route`). The servers are sorted by id
    /// and never empty; for `None` the request receives an error response. Asynchronous functions are set with
    /// [`balance_async`](Self::balance_async).
    pub fn balance<F>(&mut self, server_type: &str, choose: F) -> &mut Self
    where
        F: for<'a> Fn(&RoutingTarget<'a>, &'a [Arc<ServerInfo>]) -> Option<&'a Arc<ServerInfo>>
            + Send
            + Sync
            + 'static,
    {
        self.balance_by(server_type, Strategy::Function(Arc::new(choose)))
    }

    /// Sets the strategy for server types without one of their own ([`balance_by`](Self::balance_by)). Default: random.
    pub fn balance_others_by(&mut self, strategy: Strategy) -> &mut Self {
        self.routing.set_default(strategy);
        self
    }

    /// Runs `work` every `period` from the time when clients are accepted until the app stops. As [`AppHandle::every`](AppHandle::every),
    /// which can start a timer later and stop it.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use shaddock::prelude::*;
    /// let mut app = App::new("lobby", "lobby-1");
    /// app.every("tidy up", Duration::from_secs(60), async |app: AppHandle| {
    ///     println!("{} rooms", app.channels().names().len());
    /// });
    /// ```
    pub fn every<F, Fut>(&mut self, name: &'static str, period: Duration, work: F) -> &mut Self
    where
        F: Fn(AppHandle) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let work: Work = Arc::new(move |app| Box::pin(work(app)));
        self.hooks.timers.push(Timer { name, period, work });
        self
    }

    /// Adds a component, which is started after the components added before.
    pub fn component(&mut self, component: impl Component) -> &mut Self {
        self.components.push(Arc::new(component));
        self
    }
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("App")
            .field("info", &self.info)
            .field("values", &self.values)
            .field("listeners", &self.listeners)
            .finish_non_exhaustive()
    }
}
