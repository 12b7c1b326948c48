//! Limits of resumable sessions.

use std::time::Duration;

/// Limits of resumable sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResumeConfig {
    /// How long a session waits for its client. Default: 60 s. It is then closed.
    pub window: Duration,
    /// Number of packages after which an end acknowledges. Default: 32; 1 to 255.
    pub ack: u8,
    /// Messages that a session keeps for its client. Default: 256. Beyond it the oldest is discarded, and the client is notified of the
    /// gap.
    pub max_messages: usize,
    /// Bytes of those messages. Default: 64 KiB; as above.
    pub max_bytes: usize,
    /// Bytes that all sessions of the service keep together. Default: 256 MiB. At the limit a session that keeps another message discards
    /// its own oldest ones.
    pub max_total_bytes: usize,
    /// Maximum number of suspended sessions. Default: 100,000. Beyond it the session that has waited longest is closed.
    pub max_suspended: usize,
    /// The policy at the limit of kept messages or bytes. Default: [`OnFull::Gap`].
    pub on_full: OnFull,
    /// How long a sender waits for room with [`OnFull::Wait`]. Default: 1 s.
    pub max_wait: Duration,
}

shaddock_protocol::setters!(ResumeConfig {
    window: Duration,
    ack: u8,
    max_messages: usize,
    max_bytes: usize,
    max_total_bytes: usize,
    max_suspended: usize,
    on_full: OnFull,
    max_wait: Duration,
});

/// The policy for a message that is sent to a session which keeps `max_messages` messages or `max_bytes` bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnFull {
    /// The oldest message is discarded, and the client receives the number of missed messages.
    #[default]
    Gap,
    /// Senders that await their pushes wait ([`Room::Full`](crate::Room::Full)); meanwhile up to twice the limits is kept. Above that, and above
    /// `max_total_bytes`, the oldest message is discarded as with `Gap`.
    Wait,
}

impl ResumeConfig {
    /// Messages and bytes above which the oldest are forgotten.
    pub(crate) const fn most_kept(&self) -> (usize, usize) {
        match self.on_full {
            OnFull::Gap => (self.max_messages, self.max_bytes),
            OnFull::Wait => (
                self.max_messages.saturating_mul(2),
                self.max_bytes.saturating_mul(2),
            ),
        }
    }
}

impl Default for ResumeConfig {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(60),
            ack: 32,
            max_messages: 256,
            max_bytes: 64 * 1024,
            max_total_bytes: 256 * 1024 * 1024,
            max_suspended: 100_000,
            on_full: OnFull::Gap,
            max_wait: Duration::from_secs(1),
        }
    }
}
