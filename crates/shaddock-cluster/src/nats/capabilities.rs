//! The capabilities beyond Pitaya's protocol that servers of this crate announce.

use crate::ServerInfo;

/// A server understands this crate's own subjects.
const DIRECT: &str = "direct";
/// A frontend keeps audiences.
pub(super) const AUDIENCES: &str = "audiences";
/// On a frontend, a user has one session at most. Announced only where that is configured.
pub(super) const UNIQUE: &str = "unique";
/// The capabilities of each server of this version.
pub(super) const CAPABILITIES: [&str; 4] = ["mpush", "bysid", DIRECT, AUDIENCES];

impl ServerInfo {
    /// Whether this server understands this crate's own subjects. A Pitaya server does not.
    pub(crate) fn is_shaddock(&self) -> bool {
        self.can(DIRECT)
    }
}
