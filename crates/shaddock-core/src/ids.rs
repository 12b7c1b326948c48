//! Identifiers of sessions, users and frontends.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Borrow;
use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

/// Longest [`Uid`] and [`FrontendId`], in bytes of UTF-8.
pub(crate) const MAX_ID_BYTES: usize = 256;

/// The id of a session: positive, below 2^63, and never reused in a cluster, not even after a restart.
///
/// Between servers a session is always identified by its frontend id and its sid together.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sid(NonZeroU64);

impl Sid {
    /// Creates a sid from a number between 1 and `i64::MAX`.
    pub fn new(number: u64) -> Option<Self> {
        if i64::try_from(number).is_err() {
            return None;
        }
        NonZeroU64::new(number).map(Self)
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0.get()
    }

    /// Whether a shaddock frontend can have allocated this sid: those have the time in the upper bits, and frontends of Pitaya count from 1.
    /// Wrong only for the 2^40th session of a Pitaya frontend.
    pub const fn has_time(self) -> bool {
        self.0.get() >> 40 > 0
    }

    /// The number of the node that allocated it, see [`SidAllocator::new`].
    pub const fn node(self) -> u16 {
        // The mask makes the cast exact.
        #[allow(clippy::cast_possible_truncation)]
        let node = (self.0.get() & 0xffff) as u16;
        node
    }
}

impl fmt::Display for Sid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Sid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sid({})", self.0)
    }
}

/// The number or text is not a sid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a session id is a whole number from 1 to 9223372036854775807")]
pub struct InvalidSid;

impl TryFrom<u64> for Sid {
    type Error = InvalidSid;

    fn try_from(number: u64) -> Result<Self, InvalidSid> {
        Self::new(number).ok_or(InvalidSid)
    }
}

impl TryFrom<i64> for Sid {
    type Error = InvalidSid;

    fn try_from(number: i64) -> Result<Self, InvalidSid> {
        u64::try_from(number)
            .ok()
            .and_then(Self::new)
            .ok_or(InvalidSid)
    }
}

impl FromStr for Sid {
    type Err = InvalidSid;

    fn from_str(text: &str) -> Result<Self, InvalidSid> {
        text.parse::<u64>()
            .ok()
            .and_then(Self::new)
            .ok_or(InvalidSid)
    }
}

impl From<Sid> for u64 {
    fn from(sid: Sid) -> Self {
        sid.get()
    }
}

impl Serialize for Sid {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.get())
    }
}

impl<'de> Deserialize<'de> for Sid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = u64::deserialize(deserializer)?;
        Self::new(number).ok_or_else(|| serde::de::Error::custom(InvalidSid))
    }
}

/// Allocates sids: a ticket of 47 bits, then 16 bits of node. One atomic addition per sid.
///
/// # Why sids are unique
///
/// The first ticket is the start time in units of 1/65,536 s (15 µs), and each sid takes the next. So a start that allocated n sids has
/// used the tickets of the n/65,536 s after it, and never runs ahead of the clock unless it creates more than 65,536 sessions a second on
/// average. A later start of the *same* node begins after all of them. Concurrent starts have *different* nodes: in a cluster all starts of
/// frontends are counted in one place (one key in etcd, in one process a counter), and the node is the lower 16 bits of the count.
///
/// Two starts could share a sid only if both numbers matched: exactly 65,536 starts (or a multiple) lie between them, *and* the earlier one
/// is still running and creates so many sessions that its tickets reach the start time of the later. A cluster that starts a frontend every
/// second reuses a node after 18.2 hours; the earlier start must create 4.3 billion sessions (1,000 a second for 50 days) to reach it. The
/// count need not be kept forever: if etcd is emptied, or a process restarts and counts from 1, the time distinguishes the starts. Only a
/// clock that is set back *and* lands in the short time after an earlier start of the same node (15 s after it, if it created a million
/// sessions) could repeat one.
#[derive(Debug)]
pub struct SidAllocator {
    /// The next ticket. Only its lower 47 bits are used.
    next: AtomicU64,
    node: AtomicU16,
}

impl SidAllocator {
    const TICKET_BITS: u64 = (1 << 47) - 1;

    /// Creates an allocator for a process that started `boot_seconds` after 2024-01-01T00:00:00Z as `node`. Only the lower 31 bits of the
    /// seconds are used (until 2092).
    pub const fn new(boot_seconds: u32, node: u16) -> Self {
        Self::starting_at(Duration::from_secs(boot_seconds as u64), node)
    }

    /// As [`new`](Self::new), with a start time precise to 15 µs: two starts of one node in the same second differ.
    pub const fn starting_at(since_2024: Duration, node: u16) -> Self {
        let fraction = ((since_2024.subsec_nanos() as u64) << 16) / 1_000_000_000;
        let ticket = (since_2024.as_secs() << 16) | fraction;
        Self {
            next: AtomicU64::new(ticket.wrapping_add(1) & Self::TICKET_BITS),
            node: AtomicU16::new(node),
        }
    }

    /// Sets the node, before the first sid.
    pub(crate) fn set_node(&self, node: u16) {
        self.node.store(node, Ordering::Relaxed);
    }

    /// Allocates the next sid.
    pub(crate) fn allocate(&self) -> Sid {
        loop {
            let ticket = self.next.fetch_add(1, Ordering::Relaxed) & Self::TICKET_BITS;
            // Zero occurs once in 2^47 tickets on node 0; the loop ends with the next one.
            let node = u64::from(self.node.load(Ordering::Relaxed));
            if let Some(sid) = Sid::new((ticket << 16) | node) {
                return sid;
            }
        }
    }
}

/// The text is empty or longer than 256 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} must have 1 to {MAX_ID_BYTES} bytes, this one has {len}")]
#[non_exhaustive]
pub struct InvalidId {
    /// The intended type: `uid` or `frontend id`.
    pub what: &'static str,
    /// The length in bytes.
    pub len: usize,
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Validates and stores the text.
            ///
            /// # Errors
            ///
            /// The text is empty or longer than 256 bytes.
            pub fn new(text: impl AsRef<str> + Into<Arc<str>>) -> Result<Self, InvalidId> {
                let len = text.as_ref().len();
                if len == 0 || len > MAX_ID_BYTES {
                    return Err(InvalidId { what: $what, len });
                }
                Ok(Self(text.into()))
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The shared text, for other types that hold one.
            pub const fn shared(&self) -> &Arc<str> {
                &self.0
            }
        }

        impl TryFrom<&str> for $name {
            type Error = InvalidId;

            fn try_from(text: &str) -> Result<Self, InvalidId> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;

            fn try_from(text: String) -> Result<Self, InvalidId> {
                Self::new(text)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Self::new(text)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl PartialEq<str> for $name {
            fn eq(&self, other: &str) -> bool {
                &*self.0 == other
            }
        }

        impl PartialEq<&str> for $name {
            fn eq(&self, other: &&str) -> bool {
                &*self.0 == *other
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:?})"), &*self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                Self::new(&*text).map_err(serde::de::Error::custom)
            }
        }
    };
}

text_id! {
    /// The id of a user, chosen by the application. Text, 1 to 256 bytes; cheap to clone.
    ///
    /// Pomelo also accepted numbers and empty texts, which its index and its comparisons then treated differently.
    ///
    /// ```
    /// use shaddock_core::Uid;
    /// assert_eq!(Uid::new("alice")?.as_str(), "alice");
    /// assert!(Uid::new("").is_err());
    /// # Ok::<(), shaddock_core::InvalidId>(())
    /// ```
    Uid, "uid"
}

text_id! {
    /// The id of a frontend server, such as `connector-1`. Text, 1 to 256 bytes; cheap to clone.
    FrontendId, "frontend id"
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn sids_are_seconds_counter_node() {
        let sids = SidAllocator::new(3, 0x0102);
        assert_eq!(sids.allocate().get(), (3 << 32) | (1 << 16) | 0x0102);
        assert_eq!(sids.allocate().get(), (3 << 32) | (2 << 16) | 0x0102);
        assert_eq!(sids.allocate().node(), 0x0102);
    }

    #[test]
    fn the_counter_carries_into_the_seconds() {
        let sids = SidAllocator::new(3, 9);
        let last = (0..65_536).map(|_| sids.allocate()).last().unwrap();
        assert_eq!(last.get(), (4 << 32) | 9);
    }

    #[test]
    fn sids_stay_positive_to_the_end_of_the_clock() {
        let sids = SidAllocator::new(u32::MAX, u16::MAX);
        let sid = sids.allocate();
        assert_eq!(Sid::try_from(i64::try_from(sid.get()).unwrap()), Ok(sid));
        sids.next
            .store(SidAllocator::TICKET_BITS, Ordering::Relaxed);
        assert_eq!(sids.allocate().get(), i64::MAX as u64);
        let zero = SidAllocator::new(0, 0);
        zero.next.store(1 << 47, Ordering::Relaxed);
        assert_eq!(zero.allocate().get(), 1 << 16);
    }

    #[test]
    fn a_restarted_process_repeats_nothing() {
        let mut seen = HashSet::new();
        for boot in [100, 101, 107] {
            let sids = SidAllocator::new(boot, 1);
            for _ in 0..1000 {
                assert!(seen.insert(sids.allocate()));
            }
        }
    }

    #[test]
    fn starts_in_one_second_differ_by_time_or_by_node() {
        let start = Duration::new(1_000, 500_000_000);
        let later = SidAllocator::starting_at(start + Duration::from_micros(16), 1);
        let (a, b) = (SidAllocator::starting_at(start, 1), SidAllocator::new(0, 1));
        assert_eq!(a.allocate().get(), (1_000 << 32) | (0x8001 << 16) | 1);
        assert_eq!(later.allocate().get(), (1_000 << 32) | (0x8002 << 16) | 1);
        b.set_node(2);
        assert_eq!(b.allocate().node(), 2);
        // The fraction never reaches the next second.
        let last = SidAllocator::starting_at(Duration::new(7, 999_999_999), 0);
        assert_eq!(last.allocate().get(), 8 << 32);
    }

    #[test]
    fn what_is_no_sid() {
        assert!(Sid::new(0).is_none());
        assert!(Sid::new(1 << 63).is_none());
        assert_eq!(Sid::try_from(-1_i64), Err(InvalidSid));
        assert_eq!("12x".parse::<Sid>(), Err(InvalidSid));
        assert_eq!("12".parse::<Sid>().map(u64::from), Ok(12));
        assert!(serde_json::from_str::<Sid>("0").is_err());
        assert_eq!(serde_json::to_string(&Sid::new(7).unwrap()).unwrap(), "7");
    }

    #[test]
    fn ids_have_a_length() {
        assert_eq!(
            Uid::new(""),
            Err(InvalidId {
                what: "uid",
                len: 0
            })
        );
        assert!(Uid::new("a".repeat(256)).is_ok());
        let error = FrontendId::new("a".repeat(257)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "frontend id must have 1 to 256 bytes, this one has 257"
        );
        assert!(serde_json::from_str::<Uid>("\"\"").is_err());
        assert_eq!(serde_json::from_str::<Uid>("\"\\u00e9\"").unwrap(), "é");
    }
}
