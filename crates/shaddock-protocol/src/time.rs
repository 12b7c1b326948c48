//! Time as data: milliseconds on whatever monotonic clock the caller has.

use core::fmt;
use core::ops::{Add, Sub};
use core::time::Duration;

/// Milliseconds on a monotonic clock chosen by the caller. All deadlines are of this type.
///
/// The zero point is the caller's. Sums saturate: a deadline beyond `u64::MAX` is "never", not a wrap into the past.
///
/// ```
/// use core::time::Duration;
/// use shaddock_protocol::Millis;
/// assert_eq!(Millis(5) + Duration::from_secs(1), Millis(1005));
/// assert_eq!(Millis(5) + 1, Millis(6));
/// assert_eq!(Millis(5) - Millis(7), 0);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millis(pub u64);

impl Millis {
    /// The later of two times never comes: the end of the clock.
    pub const MAX: Self = Self(u64::MAX);
}

impl Add<u64> for Millis {
    type Output = Self;

    fn add(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis))
    }
}

impl Add<Duration> for Millis {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        self + u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
    }
}

/// Milliseconds from `earlier` to `self`, 0 if it is not earlier.
impl Sub for Millis {
    type Output = u64;

    fn sub(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.0)
    }
}
