//! Where claims and notices are in etcd.

use crate::ServerId;
use crate::etcd::pb::KeyValue;
use crate::nats::core::Core;
use crate::owners::Found;

/// The key of the claim on a user.
pub(super) fn binding_key(core: &Core, uid: &str) -> String {
    core.etcd.binding_key(&core.info.server_type, uid)
}

/// The key of the notice for the owner of a user.
pub(super) fn notice_key(core: &Core, owner: &ServerId, uid: &str) -> String {
    format!("{}{uid}", core.etcd.asks_key(owner.as_str()))
}

/// Reads a claim.
pub(super) fn found(kv: &KeyValue) -> Found {
    Found {
        owner: ServerId::new(String::from_utf8_lossy(&kv.value)).ok(),
        lease: kv.lease,
        revision: kv.mod_revision,
    }
}
