//! Whether the members that a store remembers are being asked for.

use std::sync::atomic::AtomicBool;

use tokio::sync::Notify;

/// The task that asks for members by name that a store remembers.
#[derive(Debug, Default)]
pub(crate) struct Settling {
    pub(super) runs: AtomicBool,
    /// Something has changed: it looks at once.
    pub(super) look: Notify,
}
