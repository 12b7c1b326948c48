//! Senders that wait while the messages that are kept for a client are at their limit.

use std::time::Duration;

use shaddock_cluster::RawSid;
use shaddock_core::{SessionService, Sid};

/// How often is looked whether a client has taken what is kept for it.
const LOOK: Duration = Duration::from_millis(10);

/// Waits until there is room for more in what is kept for each of these clients ([`OnFull::Wait`](shaddock_core::OnFull)), for at most the time
/// that the configuration has.
pub(crate) async fn kept_room(service: Option<SessionService>, sessions: Vec<RawSid>) {
    let Some(service) = service else {
        return;
    };
    let is_full = |sid: &RawSid| {
        let session = Sid::new(sid.get()).and_then(|sid| service.get(sid));
        session
            .and_then(|session| session.resumable())
            .is_some_and(|state| state.is_full)
    };
    let all_have_room = async {
        for sid in &sessions {
            while is_full(sid) {
                tokio::time::sleep(LOOK).await;
            }
        }
    };
    let limit = service.config().resume.max_wait;
    let _ = tokio::time::timeout(limit, all_have_room).await;
}
