//! Work for operators that delays nothing else.

use shaddock_cluster::{RemoteError, code};

/// Runs work that visits every session on a blocking thread, where it delays no other work.
pub(super) async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, RemoteError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| {
        let text = "the server failed to complete the request; see its log";
        RemoteError::new(code::INTERNAL, text)
    })
}
