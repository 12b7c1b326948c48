//! Which server gets a message, where the application has to wait for the answer. Functions that answer at once are the
//! [cluster's](shaddock_cluster::Strategy).

use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use shaddock_cluster::{RemoteError, ServerInfo, Strategy};

use super::{App, AppHandle};
use crate::{
    error::HandlerError,
    guarded::{Guarded, Part, guard},
    handler::{BoxFuture, failed},
    session::SessionView,
};

/// A message of a client, or a call, for which [`App::async_route_fn`] chooses a server.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RoutingRequest {
    /// The session that sent it. Of a call without [`by_session`](crate::remote::Rpc::by_session) it has no number, and only the user that
    /// [`by_uid`](crate::remote::Rpc::by_uid) named.
    pub session: SessionView,
    /// The full route.
    pub route: Arc<str>,
    /// The body, or the argument of the call.
    pub body: Bytes,
    /// The servers of the type, sorted by id and never empty. Servers that do not answer are left out while there are others.
    pub servers: Arc<[Arc<ServerInfo>]>,
}

impl RoutingRequest {
    /// The server with this id, if it is one of them.
    pub fn server(&self, id: &str) -> Option<Arc<ServerInfo>> {
        let mut all = self.servers.iter();
        all.find(|server| server.id.as_str() == id).cloned()
    }
}

/// Chooses a server.
pub(crate) type Chooser = Arc<
    dyn Fn(AppHandle, RoutingRequest) -> BoxFuture<Result<Option<Arc<ServerInfo>>, HandlerError>>
        + Send
        + Sync,
>;

/// The functions of the application, by server type.
#[derive(Default)]
pub(crate) struct Choosers(BTreeMap<String, Chooser>);

impl Choosers {
    /// The function for a type. Most applications have none, and pay one comparison.
    #[inline]
    pub(crate) fn of(&self, server_type: &str) -> Option<&Chooser> {
        if self.0.is_empty() {
            return None;
        }
        self.0.get(server_type)
    }
}

impl App {
    /// As [`route_fn`](Self::route_fn), with a function that has the app and may wait, for example for a directory that knows which server has a
    /// room. The last call for a type counts, whether of this, `route_fn` or [`route_by`](Self::route_by).
    ///
    /// ```
    /// # use shaddock::prelude::*;
    /// # let mut app = App::new("connector", "connector-1");
    /// app.async_route_fn("chat", async |app: AppHandle, request: RoutingRequest| {
    ///     let room = request.session.get_as::<String>("room").unwrap_or_default();
    ///     let id: String = app.rpc("directory.rooms.find").call(&room).await?;
    ///     Ok(request.server(&id))
    /// });
    /// ```
    ///
    /// Later messages of the session wait meanwhile. The choice takes its time from the request: together they may take what the request may,
    /// first `handlers.timeout` of this server (or what a filter chose), then what is left of the time of the chosen server's route. A choice
    /// that is too late is `PIT-408`. `None`, and a server that is of another type or not in the list any more, is answered as if there were no
    /// server, an error as it is. If the session is closed before the choice is made, the message is not sent.
    pub fn async_route_fn<F, Fut>(&mut self, server_type: &str, choose: F) -> &mut Self
    where
        F: Fn(AppHandle, RoutingRequest) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Option<Arc<ServerInfo>>, HandlerError>> + Send + 'static,
    {
        let chooser: Chooser = Arc::new(move |app, request| Box::pin(choose(app, request)));
        let choosers = &mut self.hooks.choosers.0;
        choosers.insert(server_type.to_owned(), chooser);
        self
    }

    /// Chooses servers of a type by this strategy. Types that are not named get a random server. The last call for a type counts.
    pub fn route_by(&mut self, server_type: &str, strategy: Strategy) -> &mut Self {
        self.hooks.choosers.0.remove(server_type);
        self.routing.set(server_type, strategy);
        self
    }
}

impl AppHandle {
    /// Asks the function of the application for a server of the type, at most for `limit` (zero: for ever).
    pub(crate) async fn choose(
        &self,
        chooser: &Chooser,
        server_type: &str,
        (session, route, body): (SessionView, Arc<str>, Bytes),
        limit: Duration,
    ) -> Result<Arc<ServerInfo>, HandlerError> {
        let no_server = || HandlerError::from_remote(RemoteError::no_server());
        let members = self
            .membership()
            .map_err(HandlerError::from_remote)?
            .members();
        let request = RoutingRequest {
            session,
            route,
            body,
            servers: members.choices_of(server_type),
        };
        if request.servers.is_empty() {
            return Err(no_server());
        }
        let part = Part {
            app: self.clone(),
            name: "async_route_fn",
        };
        let begun = guard(&part, || chooser(self.clone(), request)).ok_or_else(failed)?;
        let polled = Guarded::new(begun, part);
        let chosen = if limit.is_zero() {
            polled.await
        } else {
            tokio::select! {
                biased;
                chosen = polled => chosen,
                () = self.sleep(limit) => {
                    self.stats().timeouts.add(1);
                    shaddock_net::quiet!(warn, "a server was not chosen in time", server_type, ?limit);
                    return Err(HandlerError::too_late());
                }
            }
        };
        let chosen = chosen.unwrap_or_else(|| Err(failed()))?;
        // It may have left the list meanwhile.
        let listed = chosen.and_then(|server| members.server(server.id.as_str()));
        listed
            .filter(|server| *server.server_type == *server_type)
            .ok_or_else(no_server)
    }
}
