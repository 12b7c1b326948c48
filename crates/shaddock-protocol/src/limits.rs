//! Every limit of the protocol, with its default, its unit and the behaviour at the limit.

use core::time::Duration;

/// Limits on the data of one client. Exceeding one closes the connection without a KICK.
///
/// Start with the defaults and set what differs: `Limits::default().max_package_size(128 * 1024)`.
///
/// A JSON body or handshake may nest [`Limits::MAX_JSON_DEPTH`] levels. This limit is fixed: it is that of the JSON parser. The nesting of
/// protobuf bodies has its own fixed limit, in the protobuf module.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Longest body of a package from a client, in bytes. Default 64 KiB (65,536), at most 16,777,215. Checked as soon as the 4 head bytes
    /// have arrived, before the body is read or memory allocated. Keep it at or above 64 KiB.
    pub max_package_size: usize,
    /// Longest body of a package before the handshake, in bytes. Default 64 KiB. Checked with the head, like `max_package_size`, which also
    /// applies. A parsed HANDSHAKE takes a multiple of its length in memory until the session begins: lower this limit if you expect many
    /// unknown clients.
    pub max_handshake_size: usize,
    /// Longest body of a message after inflating it, in bytes (Pitaya clients only). Default 64 KiB. Inflating stops there.
    pub max_inflated_size: usize,
    /// Time for each step of the handshake: accept to HANDSHAKE, HANDSHAKE to the application's response, response to ACK. Default 10 s;
    /// `Duration::MAX` disables it.
    pub handshake_timeout: Duration,
    /// Longest time without a byte in either direction. Default 90 s. Applies before the connection is WORKING, and afterwards only if
    /// heartbeats are off; otherwise the heartbeat timeout applies.
    pub idle_timeout: Duration,
}

crate::setters!(Limits {
    max_package_size: usize,
    max_handshake_size: usize,
    max_inflated_size: usize,
    handshake_timeout: Duration,
    idle_timeout: Duration,
});

impl Limits {
    /// Levels of arrays and objects in a JSON body or handshake. Deeper text is treated as text that is not JSON.
    pub const MAX_JSON_DEPTH: u32 = 127;
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_package_size: 64 * 1024,
            max_handshake_size: 64 * 1024,
            max_inflated_size: 64 * 1024,
            handshake_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(90),
        }
    }
}
