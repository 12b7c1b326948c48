//! Unique sessions across frontends: carries out at NATS and etcd what [`crate::owners`] decides, where the rules are written down.

mod asking;
mod claim;
mod claims;
mod guard;
mod keys;
mod revoke;

pub(super) use self::asking::{asked, bindings, notices};
pub(super) use self::claim::{claim, took_too_long};
pub(super) use self::claims::delete_given_up;
pub(super) use self::guard::{REFUSALS, guard, look_after_refused, notify_fenced};
