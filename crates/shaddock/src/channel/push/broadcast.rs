//! Pushes to all clients of a server type.

use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;
use shaddock_cluster::{
    BoxFuture, Delivered as ClusterDelivered, Membership, Receivers, RemoteError, RemoteErrorKind,
    ServerId, ServerInfo, SessionAnswer, SessionOp,
};
use shaddock_core::FrontendId;

use super::{Content, Push, Pushes, Sent, collect};
use crate::{
    channel::deliver::{BROADCAST, FilteredAnswer, FilteredBroadcast},
    received,
};

/// Whom a broadcast reaches.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct BroadcastOptions {
    /// Only sessions that are bound to a user.
    pub bound_only: bool,
    /// Given to the [filter](crate::channel::PushConfig::filter) of each frontend, which decides for each session. Without it the filter is not asked.
    pub filter: Option<Value>,
}

impl BroadcastOptions {
    /// All sessions.
    pub fn all() -> Self {
        Self::default()
    }

    /// All sessions that are bound to a user.
    pub fn bound() -> Self {
        Self {
            bound_only: true,
            filter: None,
        }
    }

    /// Asks the frontends' filters, with this parameter.
    #[must_use]
    pub fn filtered(mut self, parameter: impl Into<Value>) -> Self {
        self.filter = Some(parameter.into());
        self
    }
}

impl Pushes<'_> {
    pub(in crate::channel) fn broadcast<T: Serialize + ?Sized>(
        self,
        frontend_type: &str,
        content: &Content<'_, T>,
        options: &BroadcastOptions,
    ) -> Push {
        let (message, membership) = match content
            .message()
            .and_then(|message| Ok((message, self.app.membership()?)))
        {
            Ok(both) => both,
            Err(error) => return Push::failed(error),
        };
        let servers = servers_with_clients(&**membership, frontend_type);
        // The message must be valid for all receivers, or none receives it.
        if servers
            .iter()
            .any(|server| server.id.as_str() != self.app.id())
            && let Err(error) = membership.check_delivery(&message.route, &message.body)
        {
            return Push::failed(error.into());
        }
        let filtered = match &options.filter {
            None => None,
            Some(_) if !is_json(&message.body) => return Push::failed(no_json().into()),
            Some(parameter) => {
                let broadcast = FilteredBroadcast::new(&message, options.bound_only, parameter);
                Some(broadcast)
            }
        };
        let sent = servers
            .iter()
            .filter(|server| server.frontend)
            .filter_map(|server| {
                let answer = match &filtered {
                    None => membership.deliver(
                        &server.id,
                        message.to(Receivers::All {
                            bound_only: options.bound_only,
                        }),
                    ),
                    Some(broadcast) => self.send_filtered(&**membership, &server.id, broadcast),
                };
                let frontend = FrontendId::new(server.id.as_str()).ok()?;
                Some(Sent {
                    frontend,
                    uids: Vec::new(),
                    place: None,
                    answer,
                })
            });
        collect(sent.collect())
    }

    /// Sends a broadcast to one frontend, whose filter decides for each session.
    fn send_filtered(
        self,
        membership: &dyn Membership,
        frontend: &ServerId,
        broadcast: &FilteredBroadcast,
    ) -> BoxFuture<'static, Result<ClusterDelivered, RemoteError>> {
        let op = SessionOp::Custom {
            name: BROADCAST.into(),
            argument: broadcast.to_json(),
        };
        let wait = self.app.config().rpc_timeout.min(membership.push_timeout());
        let asked = membership.session_op(frontend, op, received::for_call(wait));
        Box::pin(async move { asked.await.map(|answer| filtered_answer(&answer)) })
    }
}

/// The servers of a type that may have clients: one that drains has left the list and still has some.
fn servers_with_clients(membership: &dyn Membership, server_type: &str) -> Vec<Arc<ServerInfo>> {
    let mut servers = membership.departing();
    servers.extend(membership.members().servers_of(server_type).iter().cloned());
    servers.retain(|server| *server.server_type == *server_type);
    servers
}

fn is_json(body: &[u8]) -> bool {
    serde_json::from_slice::<&serde_json::value::RawValue>(body).is_ok()
}

fn no_json() -> RemoteError {
    let text = "a broadcast through the filters of frontends must be JSON";
    RemoteError::of(
        RemoteErrorKind::Refused,
        shaddock_cluster::code::UNKNOWN,
        text,
    )
}

fn filtered_answer(answer: &SessionAnswer) -> ClusterDelivered {
    let answer = match answer {
        SessionAnswer::Custom(json) => serde_json::from_slice::<FilteredAnswer>(json).ok(),
        _ => None,
    };
    answer.map_or_else(ClusterDelivered::default, |answer| ClusterDelivered {
        queued: answer.queued,
        refused: answer.refused.map(Arc::from),
        ..ClusterDelivered::default()
    })
}
