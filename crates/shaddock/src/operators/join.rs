//! A tool that joins the cluster without being listed.

use std::sync::Arc;

use bytes::Bytes;
use shaddock_cluster::{
    BoxFuture, Cluster, ClusterError, ForwardedRequest, JoinOptions, Membership, Node, RemoteCall,
    RemoteError, ServerInfo,
};

use crate::random::random;

/// A member without any service.
struct NoServices;

impl Node for NoServices {
    fn serve_request(
        self: Arc<Self>,
        request: ForwardedRequest,
    ) -> BoxFuture<'static, Result<Bytes, RemoteError>> {
        let error = RemoteError::handler_not_found(&request.route);
        Box::pin(std::future::ready(Err(error)))
    }

    fn serve_call(
        self: Arc<Self>,
        call: RemoteCall,
    ) -> BoxFuture<'static, Result<Bytes, RemoteError>> {
        let error = RemoteError::remote_not_found(&call.route);
        Box::pin(std::future::ready(Err(error)))
    }
}

/// Joins under a new id of type `operator`.
pub(crate) async fn hidden(cluster: &dyn Cluster) -> Result<Arc<dyn Membership>, ClusterError> {
    let info = ServerInfo::new(&format!("operator-{:016x}", random()), "operator", false);
    let info = info.map_err(|error| ClusterError::Setting {
        key: "id",
        reason: error.to_string(),
    })?;
    cluster
        .join(info, JoinOptions::new().hidden(), Arc::new(NoServices))
        .await
}
