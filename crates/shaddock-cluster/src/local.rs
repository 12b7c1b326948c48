//! A cluster of servers in one process.

mod member;
mod shared;
mod users;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use self::member::LocalMember;
use self::shared::{Seat, Shared};
use crate::{BoxFuture, Cluster, ClusterError, JoinOptions, Membership, Node, ServerInfo};

/// The timeout of callers that do not set one.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// A cluster of servers that share a process. Cheap to clone; every clone is the same cluster.
///
/// A call is the target's own future, polled by the task that awaits the [`Reply`](crate::Reply): no task is started, nothing is serialised. A deadline
/// costs a timer only if the target does not complete immediately. Several clusters in one process are independent.
#[derive(Clone, Debug)]
pub struct LocalCluster(Arc<Shared>);

impl Default for LocalCluster {
    fn default() -> Self {
        Self::new()
    }
}

impl LocalCluster {
    /// Creates a cluster without servers. Callers without a timeout wait 5 s.
    pub fn new() -> Self {
        Self::with_request_timeout(REQUEST_TIMEOUT)
    }

    /// Creates a cluster with a different timeout for callers that do not set one.
    pub fn with_request_timeout(request_timeout: Duration) -> Self {
        Self(Arc::new(Shared::new(request_timeout)))
    }
}

impl Cluster for LocalCluster {
    fn join(
        &self,
        mut info: ServerInfo,
        options: JoinOptions,
        node: Arc<dyn Node>,
    ) -> BoxFuture<'_, Result<Arc<dyn Membership>, ClusterError>> {
        let start_number = if info.frontend {
            let before = self.0.starts.fetch_add(1, Ordering::Relaxed);
            before.wrapping_add(1)
        } else {
            0
        };
        info.announce_node(start_number);
        let seat = Arc::new(Seat {
            info: Arc::new(info),
            options,
            node,
            serving: Arc::default(),
        });
        let joined = self.0.enter(&seat).map(|()| {
            let member = LocalMember::new(Arc::clone(&self.0), seat, start_number);
            Arc::new(member) as Arc<dyn Membership>
        });
        Box::pin(std::future::ready(joined))
    }
}
