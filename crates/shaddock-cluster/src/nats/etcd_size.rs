//! Asks etcd how full it is.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::core::Core;

/// Time between looks at the size of etcd, and while it is full.
const ETCD_SIZE: Duration = Duration::from_secs(60);
const ETCD_FULL: Duration = Duration::from_secs(5);

/// Looks now and then how full etcd is, and often while it takes no writes. For ever.
pub(super) async fn watch(core: Arc<Core>) {
    loop {
        match core.etcd.status().await {
            Ok(status) => core.etcd_size.seen(&status),
            Err(error) => tracing::debug!(%error, "the size of etcd is not known"),
        }
        let pause = if core.etcd_size.is_full() {
            ETCD_FULL
        } else {
            ETCD_SIZE.min(core.config.sync_interval)
        };
        sleep(pause).await;
    }
}
