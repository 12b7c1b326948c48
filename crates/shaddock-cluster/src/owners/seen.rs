//! The numbers of claims in requests of users: a request with a smaller number than seen before is from a frontend that has lost the user.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use super::{Moment, Number};

/// Users that are remembered: so many sets of [`WAYS`].
const SETS: usize = 16_384;
const WAYS: usize = 4;

/// How long a revision counts after it was last seen. Far longer than a request may be late (it is not run after its own deadline), and
/// short enough that an etcd restored from an old backup does not lock users out for long.
const REMEMBERED: Duration = Duration::from_secs(60);

/// The largest number seen of each user, for the users that were seen last. Takes 2 MiB from the first number on, and never more.
///
/// At the limit the user of its set that was not seen for the longest time is forgotten; then a late request of a frontend that
/// has lost that user is served, as if the new owner had sent nothing yet.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Empty before the first number. In each set the user that was seen last is first.
    sets: Vec<[Entry; WAYS]>,
    /// Keyed randomly, so that clients cannot choose colliding users.
    hasher: RandomState,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    /// Of the user and the scope; 0 for an empty entry.
    key: u64,
    number: Number,
    at: Moment,
}

impl Seen {
    /// One that remembers few users, for the model, which has two.
    #[cfg(test)]
    pub(super) fn small() -> Self {
        Self {
            sets: vec![[Entry::default(); WAYS]; 4],
            ..Self::default()
        }
    }

    /// Whether work in the name of this user may begin: no frontend of the same type (`scope`) has sent a larger number lately.
    pub(crate) fn admits(&mut self, scope: u32, uid: &str, number: Number, now: Moment) -> bool {
        if self.sets.is_empty() {
            self.sets = vec![[Entry::default(); WAYS]; SETS];
        }
        let key = self.hasher.hash_one((scope, uid)).max(1);
        let sets = self.sets.len() as u64;
        let Some(set) = self.sets.get_mut(usize::try_from(key % sets).unwrap_or(0)) else {
            return true;
        };
        let place = set.iter().position(|entry| entry.key == key);
        if let Some(place) = place {
            let counts_until = set[place].at.after(REMEMBERED);
            if number < set[place].number && now < counts_until {
                return false;
            }
        }
        // To the front; what was in front of it moves on, or the last one falls out.
        set[..=place.unwrap_or(WAYS - 1)].rotate_right(1);
        set[0] = Entry {
            key,
            number,
            at: now,
        };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(era: u64, revision: i64) -> Number {
        Number { era, revision }
    }

    fn at(seconds: u64) -> Moment {
        Moment::default().after(Duration::from_secs(seconds))
    }

    #[test]
    fn the_frontend_that_lost_the_user_is_rejected() {
        let mut seen = Seen::default();
        assert!(seen.admits(1, "u", number(1, 5), at(0)));
        assert!(seen.admits(1, "u", number(1, 5), at(1)));
        assert!(seen.admits(1, "u", number(1, 9), at(1)));
        assert!(!seen.admits(1, "u", number(1, 5), at(2)));
        assert!(seen.admits(1, "v", number(1, 5), at(2)), "another user");
        assert!(seen.admits(2, "u", number(1, 5), at(2)), "another type");
        assert!(
            seen.admits(1, "u", number(2, 1), at(3)),
            "an etcd without memory counts anew"
        );
        assert!(!seen.admits(1, "u", number(1, 9), at(3)));
    }

    #[test]
    fn an_etcd_restored_from_a_backup_blocks_logins_for_a_short_time_only() {
        let mut seen = Seen::default();
        assert!(seen.admits(1, "u", number(1, 9), at(0)));
        assert!(!seen.admits(1, "u", number(1, 5), at(59)));
        assert!(
            seen.admits(1, "u", number(1, 5), at(60)),
            "being refused keeps nothing alive"
        );
        assert!(seen.admits(1, "u", number(1, 6), at(61)));
    }

    /// However many users there are: the last ones are remembered, and the memory stays what it is.
    #[test]
    fn the_last_users_are_remembered() {
        let mut seen = Seen::default();
        for n in 0..3 * SETS * WAYS {
            assert!(seen.admits(1, &n.to_string(), number(1, 9), at(0)));
        }
        assert_eq!(seen.sets.len(), SETS);
        let last = (3 * SETS * WAYS - SETS / 2)..3 * SETS * WAYS;
        let (all, mut refused) = (last.len(), 0);
        for n in last {
            refused += usize::from(!seen.admits(1, &n.to_string(), number(1, 5), at(1)));
        }
        // With half a user for each set of four, hardly any set had five of them.
        assert!(refused * 100 > all * 99, "{refused} of {all}");
    }
}
