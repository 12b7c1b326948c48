//! Asynchronous choice of the server for a message by the application. Synchronous functions are part of the [cluster
//! crate](shaddock_cluster::Strategy).

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use shaddock_cluster::{RemoteError, ServerInfo, Strategy};

use super::{App, AppHandle, Chooser, Part, RoutingRequest};
use crate::{
    error::HandlerError,
    guarded::{Guarded, guard},
    session::SessionView,
};

impl App {
    /// As [`balance`](Self::balance), with an asynchronous function that receives the app, for example for a directory that knows the
    /// server of each room. The last call for a type counts, also of `balance` or [`balance_by`](Self::balance_by).
    ///
    /// ```
    /// # use shaddock::prelude::*;
    /// # let mut app = App::new("connector", "connector-1");
    /// app.balance_async("chat", async |app: AppHandle, request: RoutingRequest| {
    ///     let room = request.session.get_as::<String>("room").unwrap_or_default();
    ///     let id: String = app.rpc("directory.rooms.find").call(&room).await?;
    ///     Ok(request.server(&id))
    /// });
    /// ```
    ///
    /// Later messages of the session wait meanwhile. The time of the choice counts towards the time limit of the request: first
    /// `handlers.timeout` of this server (or the limit that a filter chose), then what remains of the limit of the chosen server's route. A
    /// choice that takes too long fails with `PIT-408`. `None`, and a server of another type or one that has left the list, are handled as
    /// if there were no server; an error is the response. If the session is closed before the choice is made, the message is not sent.
    pub fn balance_async<F, Fut>(&mut self, server_type: &str, choose: F) -> &mut Self
    where
        F: Fn(AppHandle, RoutingRequest) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Option<Arc<ServerInfo>>, HandlerError>> + Send + 'static,
    {
        let chooser: Chooser = Arc::new(move |app, request| Box::pin(choose(app, request)));
        let choosers = &mut self.hooks.choosers.0;
        choosers.insert(server_type.to_owned(), chooser);
        self
    }

    /// Sets the strategy for a server type. Types without one use a random server. The last call for a type counts.
    pub fn balance_by(&mut self, server_type: &str, strategy: Strategy) -> &mut Self {
        self.hooks.choosers.0.remove(server_type);
        self.routing.set(server_type, strategy);
        self
    }
}

/// A choice by a function of the application.
pub(crate) struct Choice<'a> {
    pub(crate) app: &'a AppHandle,
    pub(crate) chooser: &'a Chooser,
    pub(crate) server_type: &'a str,
    /// The longest time that the function may take; zero: no limit.
    pub(crate) limit: Duration,
}

impl Choice<'_> {
    /// Calls the function for a message.
    pub(crate) async fn make(
        self,
        session: SessionView,
        route: Arc<str>,
        body: Bytes,
    ) -> Result<Arc<ServerInfo>, HandlerError> {
        let Self {
            app,
            chooser,
            server_type,
            limit,
        } = self;
        let no_server = || HandlerError::from_remote(RemoteError::no_server());
        let members = app
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
        let part = Part::of(app, "async_route_fn");
        let begun = guard(&part, || chooser(app.clone(), request))
            .ok_or_else(HandlerError::handler_failed)?;
        let polled = Guarded::new(begun, part);
        let chosen = if limit.is_zero() {
            polled.await
        } else {
            tokio::select! {
                biased;
                chosen = polled => chosen,
                () = app.sleep(limit) => {
                    app.stats().timeouts.add(1);
                    shaddock_net::quiet!(warn, "a server was not chosen in time", server_type, ?limit);
                    return Err(HandlerError::too_late());
                }
            }
        };
        let chosen = chosen.unwrap_or_else(|| Err(HandlerError::handler_failed()))?;
        // The server may have left the list meanwhile.
        let listed = chosen.and_then(|server| members.server(server.id.as_str()));
        listed
            .filter(|server| *server.server_type == *server_type)
            .ok_or_else(no_server)
    }
}
