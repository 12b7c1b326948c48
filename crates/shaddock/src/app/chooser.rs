//! Functions of the application that choose the server for a message.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use shaddock_cluster::ServerInfo;

use super::AppHandle;
use crate::{boxed::BoxFuture, error::HandlerError, session::SessionView};

/// A message of a client, or a call, for which [`App::balance_async`](crate::App::balance_async) chooses a server.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RoutingRequest {
    /// The session that sent it. For a call without [`by_session`](crate::remote::Rpc::by_session), it has no sid, and only the user of
    /// [`by_uid`](crate::remote::Rpc::by_uid).
    pub session: SessionView,
    /// The full route.
    pub route: Arc<str>,
    /// The body, or the argument of the call.
    pub body: Bytes,
    /// The servers of the type, sorted by id and never empty. Suspected servers are left out while there are others.
    pub servers: Arc<[Arc<ServerInfo>]>,
}

impl RoutingRequest {
    /// Returns the server with this id, if it is one of them.
    pub fn server(&self, id: &str) -> Option<Arc<ServerInfo>> {
        let mut all = self.servers.iter();
        all.find(|server| server.id.as_str() == id).cloned()
    }
}

/// A function that chooses a server.
pub(crate) type Chooser = Arc<
    dyn Fn(AppHandle, RoutingRequest) -> BoxFuture<Result<Option<Arc<ServerInfo>>, HandlerError>>
        + Send
        + Sync,
>;

/// The functions of the application, by server type.
#[derive(Default)]
pub(crate) struct Choosers(pub(super) BTreeMap<String, Chooser>);

impl Choosers {
    /// The function for a type. Most applications have none, which costs one comparison.
    #[inline]
    pub(crate) fn of(&self, server_type: &str) -> Option<&Chooser> {
        if self.0.is_empty() {
            return None;
        }
        self.0.get(server_type)
    }
}
