//! Plans for pushes to many users, by frontend.

use crate::{FrontendId, Uid};
use hashbrown::{HashMap, HashSet};

/// The receivers of a push on one frontend. A plan is a list of these: one message per group is sent over the cluster.
///
/// No group of a plan is empty and no user occurs twice in a group, so no user receives the push twice on one frontend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FanOutGroup {
    /// The frontend.
    pub frontend: FrontendId,
    /// Its users, each once.
    pub uids: Vec<Uid>,
}

impl FanOutGroup {
    /// The plan for a list of users (Pomelo's `pushMessageByUids`). Groups and users keep the order of the list; a user listed twice on one
    /// frontend counts once.
    ///
    /// ```
    /// use shaddock_core::{FanOutGroup, FrontendId, Uid};
    /// let (one, two) = (FrontendId::new("connector-1")?, FrontendId::new("connector-2")?);
    /// let (ann, bob) = (Uid::new("ann")?, Uid::new("bob")?);
    /// let plan = FanOutGroup::plan([
    ///     (ann.clone(), one.clone()),
    ///     (bob.clone(), two.clone()),
    ///     (ann.clone(), one.clone()),
    /// ]);
    /// assert_eq!(plan.len(), 2);
    /// assert_eq!((&plan[0].frontend, &plan[0].uids[..]), (&one, &[ann][..]));
    /// # Ok::<(), shaddock_core::InvalidId>(())
    /// ```
    pub fn plan(targets: impl IntoIterator<Item = (Uid, FrontendId)>) -> Vec<Self> {
        let mut groups: Vec<Self> = Vec::new();
        let mut places: HashMap<FrontendId, usize> = HashMap::new();
        let mut seen: HashSet<(usize, Uid)> = HashSet::new();
        for (uid, frontend) in targets {
            let place = *places.entry(frontend).or_insert_with_key(|frontend| {
                groups.push(Self {
                    frontend: frontend.clone(),
                    uids: Vec::new(),
                });
                groups.len() - 1
            });
            if seen.insert((place, uid.clone())) {
                groups[place].uids.push(uid);
            }
        }
        groups
    }
}
