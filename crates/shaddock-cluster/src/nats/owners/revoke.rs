//! The end of a user's sessions here.

use std::sync::Arc;

use crate::ServerId;
use crate::nats::core::Core;
use crate::reply::guarded;

/// Another frontend owns this user now: revokes their sessions, and notifies the node.
pub(super) fn revoke_user(core: &Core, uid: &Arc<str>, owner: Option<&ServerId>) {
    core.users.revoke(uid);
    guarded("bound_elsewhere", || core.node.bound_elsewhere(uid, owner));
}
