//! Going to another NATS server before the own one ends (its lame duck mode).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::core::Core;

/// NATS waits for 10 s before it closes the first connection, unless it is told otherwise. Until then:
/// servers do not all go in the same moment,
const SPREAD: Duration = Duration::from_secs(1);
/// each waits for a moment in which nothing is on the way to it,
const QUIET: Duration = Duration::from_secs(4);
const LOOK: Duration = Duration::from_millis(5);
/// and for so long what is sent meanwhile waits for the new connection.
const ARRIVAL: Duration = Duration::from_secs(3);

/// Moves each time that the NATS server is about to end, for ever.
pub(super) async fn move_over(core: Arc<Core>) {
    loop {
        core.link.lame_duck().await;
        if !core.link.has_elsewhere().await {
            tracing::warn!(
                server = %core.info.id,
                "the NATS server is about to end and no other one is known; add one to `nats_urls`"
            );
            continue;
        }
        let spread = usize::try_from(SPREAD.as_millis()).unwrap_or(usize::MAX);
        let pause = crate::random::random_below(spread) as u64;
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let quiet = async {
            while core.calls.pending() > 0 || core.serving.now() > 0 {
                tokio::time::sleep(LOOK).await;
            }
        };
        let _ = tokio::time::timeout(QUIET, quiet).await;
        core.moved_at.store(core.calls.mark(), Ordering::Release);
        core.link.move_elsewhere(ARRIVAL).await;
        tracing::info!(server = %core.info.id, up = core.link.is_up(), "went to another NATS server");
    }
}
