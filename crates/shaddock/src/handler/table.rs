//! The routes of one app, under `handler.method`: looked up with one hash of a part of the route's text, no string is built. So a route
//! with the own server type and Pitaya's short one find the same handler.

use std::{panic::Location, sync::Arc, time::Duration};

use hashbrown::HashMap;
use shaddock_cluster::RemoteCall;

use crate::{
    app::{AppHandle, requirements::Requirements},
    boxed::BoxFuture,
    filter::Filters,
    reply::Outcome,
    request::RequestContext,
};

/// How one route is served.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RouteOptions {
    /// Need not wait for earlier requests of the session.
    pub(crate) concurrent: bool,
    /// Runs on the app's runtime and not where the client's bytes are read.
    pub(crate) offload: bool,
    /// Instead of the app's.
    pub(crate) timeout: Option<Duration>,
}

/// A handler without its types.
pub(crate) trait Erased: Send + Sync {
    fn to_client(&self, request: Box<RequestContext>, filters: &Arc<Filters>) -> BoxFuture<()>;
    fn to_caller(&self, request: Box<RequestContext>, filters: &Arc<Filters>)
    -> BoxFuture<Outcome>;
    fn to_remote(&self, app: &AppHandle, call: &RemoteCall) -> BoxFuture<Outcome>;
    fn requirements(&self, needs: &mut Requirements);
}

/// One route of the table.
pub(crate) struct HandlerEntry {
    /// Its place among the routes of the table: what is kept by route is found by it, without a second hash.
    pub(crate) number: usize,
    pub(crate) handler: Arc<dyn Erased>,
    pub(crate) options: RouteOptions,
    /// Whether it can answer with a value or an error.
    pub(crate) tells: bool,
}

/// The handlers of one app.
#[derive(Default)]
pub(crate) struct HandlerTable {
    entries: HashMap<Box<str>, HandlerEntry>,
}

impl HandlerTable {
    pub(crate) fn get(&self, short: &str) -> Option<&HandlerEntry> {
        self.entries.get(short)
    }

    /// Short routes with their handlers, in no order.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&str, &HandlerEntry)> {
        self.entries.iter().map(|(route, entry)| (&**route, entry))
    }

    /// Short routes with the numbers of their handlers, in no order.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = (&str, usize)> {
        self.entries().map(|(route, entry)| (route, entry.number))
    }

    /// Adds a handler under `route`, which is `handler.method`. `tells`: whether it can answer with a value or an error.
    ///
    /// # Panics
    /// If the route is taken.
    pub(super) fn insert(
        &mut self,
        route: String,
        handler: Arc<dyn Erased>,
        tells: bool,
        at: &Location<'_>,
    ) -> RouteEntry<'_> {
        let entry = HandlerEntry {
            number: self.entries.len(),
            handler,
            options: RouteOptions::default(),
            tells,
        };
        match self.entries.entry(route.into_boxed_str()) {
            hashbrown::hash_map::Entry::Occupied(taken) => {
                panic!(
                    "the route `{}` has a handler already (second one at {at})",
                    taken.key()
                )
            }
            hashbrown::hash_map::Entry::Vacant(free) => RouteEntry {
                options: &mut free.insert(entry).options,
            },
        }
    }
}

/// A remote that was just added: says how it is served. Calls do not wait for each other, so there is less to say than of a route.
#[derive(Debug)]
pub struct RemoteEntry<'a> {
    options: &'a mut RouteOptions,
}

impl RemoteEntry<'_> {
    /// How long this remote may take, instead of as long as its caller waits; zero is for ever.
    pub fn timeout(&mut self, timeout: Duration) -> &mut Self {
        self.options.timeout = Some(timeout);
        self
    }
}

/// A route that was just added: says how it is served.
#[derive(Debug)]
pub struct RouteEntry<'a> {
    options: &'a mut RouteOptions,
}

impl<'a> RouteEntry<'a> {
    pub(crate) fn into_remote(self) -> RemoteEntry<'a> {
        RemoteEntry {
            options: self.options,
        }
    }

    /// Requests to this route do not wait for earlier requests of the same session, and later ones do not wait for them. Without it, the
    /// requests of one session run one after the other (Pomelo's `serial` filter).
    ///
    /// Of a backend's route the frontends are told, in the metadata of the server, so that they do not let a session wait for it.
    ///
    /// The app bounds how many such requests are at work, see [`AppConfig::max_concurrent`](crate::app::AppConfig::max_concurrent).
    pub fn concurrent(&mut self) -> &mut Self {
        self.options.concurrent = true;
        self
    }

    /// The handler runs on the runtime that started the app, not on the thread that reads the client's bytes. For handlers that compute for
    /// long (above 100 µs). Costs a few microseconds per request. The order of a session's requests stays. On a backend it does not run where
    /// requests of frontends are read.
    ///
    /// Counts for [`AppConfig::max_concurrent`](crate::app::AppConfig::max_concurrent) of the server that runs it.
    pub fn offload(&mut self) -> &mut Self {
        self.options.offload = true;
        self
    }

    /// How long this handler may take, instead of [`AppConfig::handler_timeout`](crate::app::AppConfig::handler_timeout); zero is for ever.
    pub fn timeout(&mut self, timeout: Duration) -> &mut Self {
        self.options.timeout = Some(timeout);
        self
    }
}
