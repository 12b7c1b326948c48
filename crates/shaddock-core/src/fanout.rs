//! Plans for pushes to many users, by frontend.

use crate::{FrontendId, Uid};
use hashbrown::{HashMap, HashSet};

/// The receivers of a push, grouped by frontend: one message per group is sent over the cluster.
///
/// No group is empty and no user occurs twice in a group, so no user receives the push twice on one frontend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FanOut {
    groups: Vec<FanOutGroup>,
}

/// The receivers on one frontend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FanOutGroup {
    /// The frontend.
    pub frontend: FrontendId,
    /// Its users, each once.
    pub uids: Vec<Uid>,
}

impl FanOut {
    /// A plan for a list of users (Pomelo's `pushMessageByUids`). Groups and users keep the order of the list; a user listed
    /// twice on one frontend counts once.
    ///
    /// ```
    /// use shaddock_core::{FanOut, FrontendId, Uid};
    /// let (one, two) = (FrontendId::new("connector-1")?, FrontendId::new("connector-2")?);
    /// let (ann, bob) = (Uid::new("ann")?, Uid::new("bob")?);
    /// let plan = FanOut::from_targets([
    ///     (ann.clone(), one.clone()),
    ///     (bob.clone(), two.clone()),
    ///     (ann.clone(), one.clone()),
    /// ]);
    /// assert_eq!(plan.groups().len(), 2);
    /// assert_eq!(plan.receivers(), 2);
    /// # Ok::<(), shaddock_core::InvalidId>(())
    /// ```
    pub fn from_targets(targets: impl IntoIterator<Item = (Uid, FrontendId)>) -> Self {
        let mut groups: Vec<FanOutGroup> = Vec::new();
        let mut places: HashMap<FrontendId, usize> = HashMap::new();
        let mut seen: HashSet<(usize, Uid)> = HashSet::new();
        for (uid, frontend) in targets {
            let place = *places.entry(frontend).or_insert_with_key(|frontend| {
                groups.push(FanOutGroup {
                    frontend: frontend.clone(),
                    uids: Vec::new(),
                });
                groups.len() - 1
            });
            if seen.insert((place, uid.clone())) {
                groups[place].uids.push(uid);
            }
        }
        Self { groups }
    }

    pub(crate) const fn from_groups(groups: Vec<FanOutGroup>) -> Self {
        Self { groups }
    }

    /// The groups, in the order in which their frontends first occur.
    pub fn groups(&self) -> &[FanOutGroup] {
        &self.groups
    }

    /// Whether there are no receivers.
    pub const fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Number of receivers; a user on two frontends counts twice.
    pub fn receivers(&self) -> usize {
        self.groups.iter().map(|group| group.uids.len()).sum()
    }
}
