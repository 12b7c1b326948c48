//! Members of a channel: pairs of user and frontend, grouped by frontend.

use crate::{FanOutGroup, FrontendId, Uid};
use hashbrown::HashMap;
use std::sync::Arc;

/// The members of one channel. Plain data.
///
/// A member is a user on a frontend, and occurs at most once; the same user on two frontends is two members. Adding and removing take
/// constant time on average, independent of the size.
#[derive(Clone, Debug, Default)]
pub(crate) struct ChannelMembers {
    /// In the order of insertion. There are few, so the search is linear.
    groups: Vec<Group>,
    len: usize,
}

/// The members on one frontend.
#[derive(Clone, Debug)]
struct Group {
    frontend: FrontendId,
    /// In the order of joining, with holes for removed members.
    slots: Vec<Option<Uid>>,
    places: HashMap<Uid, usize>,
}

impl ChannelMembers {
    /// No members.
    pub(crate) const fn new() -> Self {
        Self {
            groups: Vec::new(),
            len: 0,
        }
    }

    /// The number of members.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Adds a member. Returns false for an existing member.
    pub(crate) fn add(&mut self, uid: &Uid, frontend: &FrontendId) -> bool {
        let known = self
            .groups
            .iter_mut()
            .position(|group| group.frontend == *frontend);
        let place = known.unwrap_or_else(|| {
            self.groups.push(Group::new(frontend.clone()));
            self.groups.len() - 1
        });
        let added = self.groups[place].add(uid);
        self.len += usize::from(added);
        added
    }

    /// Removes a member. Returns false if there is no such member.
    pub(crate) fn remove(&mut self, uid: &str, frontend: &str) -> bool {
        let Some(place) = self
            .groups
            .iter()
            .position(|group| group.frontend == *frontend)
        else {
            return false;
        };
        if !self.groups[place].remove(uid) {
            return false;
        }
        self.len -= 1;
        if self.groups[place].places.is_empty() {
            self.groups.remove(place);
        }
        true
    }

    /// All members, grouped by frontend, each group in the order of joining.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Uid, &FrontendId)> {
        self.groups
            .iter()
            .flat_map(|group| group.iter().map(|uid| (uid, &group.frontend)))
    }

    /// The plan for a push to all members.
    pub(crate) fn fan_out(&self) -> Arc<[FanOutGroup]> {
        let group_of = |group: &Group| FanOutGroup {
            frontend: group.frontend.clone(),
            uids: group.iter().cloned().collect(),
        };
        self.groups.iter().map(group_of).collect()
    }
}

impl Group {
    fn new(frontend: FrontendId) -> Self {
        Self {
            frontend,
            slots: Vec::new(),
            places: HashMap::new(),
        }
    }

    fn iter(&self) -> impl Iterator<Item = &Uid> {
        self.slots.iter().flatten()
    }

    fn add(&mut self, uid: &Uid) -> bool {
        if self.places.contains_key(uid) {
            return false;
        }
        self.places.insert(uid.clone(), self.slots.len());
        self.slots.push(Some(uid.clone()));
        true
    }

    fn remove(&mut self, uid: &str) -> bool {
        let Some(place) = self.places.remove(uid) else {
            return false;
        };
        self.slots[place] = None;
        // Half of the slots are holes: compact them. Each removal pays for one slot, so this is constant on average.
        if self.slots.len() > 2 * self.places.len() + 8 {
            self.compact();
        }
        true
    }

    fn compact(&mut self) {
        self.slots.retain(Option::is_some);
        self.slots.shrink_to(2 * self.slots.len());
        for (place, uid) in self.slots.iter().enumerate() {
            if let Some(known) = uid.as_ref().and_then(|uid| self.places.get_mut(uid)) {
                *known = place;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_places_survive_a_lot_of_coming_and_going() {
        let front = FrontendId::new("connector-1").unwrap();
        let user = |n: usize| Uid::new(format!("user-{n}")).unwrap();
        let mut members = ChannelMembers::new();
        let mut expected = Vec::new();
        for n in 0..500 {
            assert!(members.add(&user(n), &front));
            expected.push(n);
            // Two of three leave again, from the middle.
            if n % 3 != 0 {
                let gone = expected.remove(expected.len() / 2);
                assert!(members.remove(user(gone).as_str(), front.as_str()));
                assert!(!members.remove(user(gone).as_str(), front.as_str()));
            }
            let found: Vec<_> = members.iter().map(|(uid, _)| uid.clone()).collect();
            let wanted: Vec<_> = expected.iter().map(|&n| user(n)).collect();
            assert_eq!(found, wanted);
            assert!(members.groups[0].slots.len() <= 2 * expected.len() + 8);
        }
        for n in expected {
            assert!(members.remove(user(n).as_str(), front.as_str()));
        }
        assert!(members.len() == 0 && members.groups.is_empty());
    }
}
