//! The admin server of a launched process.

use std::time::Duration;

use tokio::{sync::oneshot, task::JoinHandle};

use super::LaunchError;
use crate::{
    admin::{Admin, Tokens},
    config::{AdminSettings, Config},
    operations::Operations,
};

/// How long the admin server may take for its last responses.
const LAST_RESPONSES: Duration = Duration::from_secs(5);

/// The admin server. Dropped, it stops, and its last responses may be cut off by the end of the process.
pub(super) struct AdminServer {
    stop: oneshot::Sender<()>,
    served: JoinHandle<()>,
}

impl AdminServer {
    /// Starts it, if an address is configured. It serves as long as the returned value lives.
    pub(super) async fn start(
        config: &Config,
        operations: Operations,
    ) -> Result<Option<Self>, LaunchError> {
        let Some(address) = config.admin_address() else {
            return Ok(None);
        };
        let admin = Admin::bind(address, &config.admin, operations).await?;
        tracing::info!(address = %admin.local_addr(), "admin server listening");
        let (stop, stopped) = oneshot::channel::<()>();
        let served = tokio::spawn(admin.serve(async move {
            let _ = stopped.await;
        }));
        Ok(Some(Self { stop, served }))
    }

    /// Stops it and waits until its requests are answered, one of which may have asked for this end.
    pub(super) async fn end(self) {
        drop(self.stop);
        if tokio::time::timeout(LAST_RESPONSES, self.served)
            .await
            .is_err()
        {
            tracing::warn!(
                "requests to the admin server were cut off: they took longer than {LAST_RESPONSES:?}"
            );
        }
    }
}

/// Replaces the tokens of the admin server after a reload.
pub(super) fn set_tokens(operations: &Operations, settings: &AdminSettings) {
    operations.guard().set(Tokens::of(settings));
}
