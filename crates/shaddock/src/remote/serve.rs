//! Calls of other servers to the remotes of an app.

use std::sync::Arc;

use shaddock_cluster::{RemoteCall, RemoteError};
use shaddock_protocol::Route;

use crate::{
    app::{AppHandle, Server},
    boxed::BoxFuture,
    error::HandlerError,
    guarded::{Guarded, Panic, Watch, guard},
    handler::HandlerTable,
    reply::Outcome,
};

/// Serves the calls of other servers to the remotes of an app.
#[derive(Clone, Copy)]
pub(crate) struct Remotes<'a> {
    app: &'a AppHandle,
    table: &'a HandlerTable,
}

impl<'a> Remotes<'a> {
    pub(crate) fn of(server: &'a Server) -> Self {
        Self {
            app: &server.app,
            table: server.registered.remotes(),
        }
    }

    /// Runs a remote that another server calls.
    pub(crate) fn serve(self, call: &RemoteCall) -> BoxFuture<Outcome> {
        let route = Route::new(Arc::clone(&call.route));
        let Some(entry) = route.short().and_then(|short| self.table.get(short)) else {
            let error = RemoteError::remote_not_found(route.short().unwrap_or_default());
            return Box::pin(std::future::ready(Err(HandlerError::from_remote(error))));
        };
        let senders = call.context.timeout();
        // The cluster gives the call up by itself when its sender does, and answers the sender.
        let is_senders = entry.options.timeout.is_none() && senders.is_some();
        let own = entry.options.timeout.or(senders);
        let limit = own.unwrap_or(self.app.config().rpc_timeout);
        let app = self.app.clone();
        let watch = RemoteWatch {
            app: self.app.clone(),
            route: route.clone(),
        };
        let made = guard(&watch, || entry.handler.to_remote(self.app, call));
        let future = made.unwrap_or_else(|| Box::pin(std::future::ready(Err(failed()))));
        let future = Guarded::new(future, watch);
        Box::pin(async move {
            let polled = async move { future.await.unwrap_or_else(|| Err(failed())) };
            if limit.is_zero() {
                return polled.await;
            }
            tokio::select! {
                biased;
                outcome = polled => outcome,
                () = app.sleep(limit) => {
                    app.stats().timeouts.add(1);
                    if is_senders {
                        return std::future::pending().await;
                    }
                    Err(HandlerError::too_late())
                }
            }
        })
    }
}

fn failed() -> HandlerError {
    HandlerError::panicked("the remote failed")
}

struct RemoteWatch {
    app: AppHandle,
    route: Route,
}

impl Watch for RemoteWatch {
    fn panicked(&self, panic: &Panic) {
        self.app.stats().panics.add(1);
        let (route, panic) = (self.route.as_str(), panic.text());
        shaddock_net::quiet!(error, "a remote panicked", route, panic);
    }
}
