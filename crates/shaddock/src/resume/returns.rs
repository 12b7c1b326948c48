//! Limits on clients that resume sessions, by address.

use std::{collections::HashMap, net::IpAddr};

use parking_lot::Mutex;
use shaddock_protocol::Millis;

use super::ResumePolicy;

/// For so long is counted.
const MINUTE: u64 = 60_000;

/// Addresses that are counted apart. Those that come when there are so many are counted together.
const MAX_ADDRESSES: usize = 10_000;

/// The number of clients that returned in this minute, by address.
#[derive(Debug, Default)]
pub(crate) struct Returns(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    since: Millis,
    by_address: HashMap<IpAddr, Count>,
    others: Count,
}

#[derive(Debug, Default, Clone, Copy)]
struct Count {
    tries: u32,
    refused: u32,
}

impl Counts {
    fn of(&mut self, address: IpAddr, now: Millis) -> &mut Count {
        if now - self.since >= MINUTE {
            *self = Self {
                since: now,
                ..Self::default()
            };
        }
        if self.by_address.len() >= MAX_ADDRESSES && !self.by_address.contains_key(&address) {
            return &mut self.others;
        }
        self.by_address.entry(address).or_default()
    }
}

impl Returns {
    /// Counts a client that comes back. False: too many do from there.
    pub(super) fn comes(&self, address: IpAddr, now: Millis, policy: &ResumePolicy) -> bool {
        let mut counts = self.0.lock();
        let count = counts.of(address, now);
        count.tries = count.tries.saturating_add(1);
        count.tries <= policy.max_returns && count.refused < policy.max_refused
    }

    pub(super) fn refused(&self, address: IpAddr, now: Millis) {
        let mut counts = self.0.lock();
        let count = counts.of(address, now);
        count.refused = count.refused.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_limited_apart_for_a_minute() {
        let policy = ResumePolicy {
            max_refused: 2,
            max_returns: 5,
            ..ResumePolicy::default()
        };
        let (returns, now) = (Returns::default(), Millis(1_000_000));
        let ip = |n: u8| IpAddr::from([192, 0, 2, n]);
        for _ in 0..2 {
            assert!(returns.comes(ip(1), now, &policy));
            returns.refused(ip(1), now);
        }
        assert!(!returns.comes(ip(1), now, &policy), "refused twice");
        for n in 0..7 {
            assert_eq!(returns.comes(ip(2), now, &policy), n < 5);
        }
        assert!(returns.comes(ip(1), now + MINUTE, &policy));
        assert!(returns.comes(ip(2), now + MINUTE, &policy));
    }

    #[test]
    fn the_table_of_addresses_is_bounded() {
        let (returns, now) = (Returns::default(), Millis(1_000_000));
        let policy = ResumePolicy::default();
        for n in 0..u32::try_from(MAX_ADDRESSES).unwrap() + 100 {
            returns.comes(IpAddr::from(n.to_be_bytes()), now, &policy);
        }
        let counts = returns.0.lock();
        assert_eq!(
            (counts.by_address.len(), counts.others.tries),
            (MAX_ADDRESSES, 100)
        );
    }
}
