//! Messages of Pitaya servers to users of this frontend, by the users' own subjects.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::SelectAll;
use tokio::sync::mpsc;

use super::core::Core;
use super::delivery;
use super::users::{ForUser, UserStream};
use super::wire::{KickMsg, decode_or_log};
use crate::SessionOp;
use crate::reply::guarded;

/// Reads the subjects of all users, for ever.
pub(super) async fn read_all(core: Arc<Core>, mut tasks: mpsc::Receiver<UserStream>) {
    let mut all = SelectAll::new();
    loop {
        tokio::select! {
            opened = tasks.recv() => match opened {
                Some(stream) => all.push(stream),
                None => return,
            },
            Some(message) = all.next(), if !all.is_empty() => match message {
                ForUser::Push(message) => delivery::received_plain(&core, message),
                ForUser::Kick(message) => kicked(&core, &message),
            },
        }
    }
}

fn kicked(core: &Core, message: &async_nats::Message) {
    let Some(kick) = decode_or_log::<KickMsg>(message) else {
        return;
    };
    if kick.not_for_shaddock {
        return;
    }
    // Pitaya has no reasons, and always a KICK package.
    let op = SessionOp::KickUser {
        uid: kick.user_id.into(),
        reason: Some("kick".into()),
    };
    if let Some(operation) = guarded("session_op", || Some(Arc::clone(&core.node).session_op(op))) {
        core.home.spawn(operation);
    }
}
