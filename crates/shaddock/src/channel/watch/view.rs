//! The members at one frontend as a watcher knows them, and what is news to it. Decides, and does nothing else.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use shaddock_cluster::{AudienceKey, AudiencePart, Departure, MemberNotice};

/// The members at one frontend, as it has told.
#[derive(Default)]
pub(super) struct View {
    pub(super) members: HashMap<AudienceKey, HashSet<Arc<str>>>,
    /// The number of its last notice.
    pub(super) last: u64,
    /// It is being asked: notices wait for its answer.
    pub(super) asking: Option<Vec<MemberNotice>>,
    /// It has answered once: differences are news.
    pub(super) is_known: bool,
    /// It could not be asked because too many tasks ran: the next look asks it.
    pub(super) must_ask: bool,
}

/// A user has joined, or has left for this reason.
pub(super) type Change = (AudienceKey, Arc<str>, Option<Departure>);

impl View {
    /// Notes a change. False if it was known.
    fn apply(&mut self, (key, uid, departure): &Change) -> bool {
        if departure.is_none() {
            let members = self.members.entry(key.clone()).or_default();
            return members.insert(Arc::clone(uid));
        }
        let Some(members) = self.members.get_mut(key) else {
            return false;
        };
        let was_in = members.remove(uid);
        if members.is_empty() {
            self.members.remove(key);
        }
        was_in
    }

    /// A notice has come. False if some before it are missing.
    pub(super) fn hear(&mut self, notice: MemberNotice, news: &mut Vec<Change>) -> bool {
        if notice.number <= self.last {
            return true;
        }
        if notice.number > self.last + 1 {
            return false;
        }
        self.last = notice.number;
        let change = (notice.audience, notice.uid, notice.departure);
        if self.apply(&change) {
            news.push(change);
        }
        true
    }

    /// The frontend has said who is in; `last` is the number of the last notice before that. What came meanwhile follows. False if some of
    /// it is missing.
    pub(super) fn learn(
        &mut self,
        parts: Vec<AudiencePart>,
        last: u64,
        news: &mut Vec<Change>,
    ) -> bool {
        let mut now: HashMap<AudienceKey, HashSet<Arc<str>>> = HashMap::new();
        for part in parts {
            let Some(key) = AudienceKey::parse(&part.audience).filter(|_| !part.uids.is_empty())
            else {
                continue;
            };
            // A long list is cut: of members that are not named nothing is news.
            let is_whole = part.uids.len() as u64 >= part.count;
            let known = self.members.get(&key).filter(|_| !is_whole);
            let members = now.entry(key).or_default();
            members.extend(part.uids);
            members.extend(known.into_iter().flatten().cloned());
        }
        let before = std::mem::replace(&mut self.members, now);
        if std::mem::replace(&mut self.is_known, true) {
            let in_it = |all: &HashMap<AudienceKey, HashSet<Arc<str>>>, key, uid| {
                all.get(key).is_some_and(|members| members.contains(uid))
            };
            news.extend(
                pairs(&before)
                    .filter(|(key, uid)| !in_it(&self.members, key, *uid))
                    .map(|(key, uid)| (key.clone(), Arc::clone(uid), Some(Departure::Closed))),
            );
            news.extend(
                pairs(&self.members)
                    .filter(|(key, uid)| !in_it(&before, key, *uid))
                    .map(|(key, uid)| (key.clone(), Arc::clone(uid), None)),
            );
        }
        self.last = last;
        let waiting = self.asking.take().unwrap_or_default();
        waiting.into_iter().all(|notice| self.hear(notice, news))
    }
}

/// Each member of each audience.
pub(super) fn pairs(
    all: &HashMap<AudienceKey, HashSet<Arc<str>>>,
) -> impl Iterator<Item = (&AudienceKey, &Arc<str>)> {
    all.iter()
        .flat_map(|(key, members)| members.iter().map(move |uid| (key, uid)))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, VecDeque};

    use shaddock_cluster::ServerId;

    use super::*;

    /// A small generator of our own: the seed is the case.
    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0 % bound
        }
    }

    fn key(n: u64) -> AudienceKey {
        AudienceKey::topic(&format!("room:{n}")).unwrap()
    }

    type Truth = BTreeSet<(AudienceKey, Arc<str>)>;

    /// A frontend whose notices and answers travel to a watcher, in order, and may be lost.
    #[derive(Default)]
    struct World {
        truth: Truth,
        number: u64,
        way: VecDeque<MemberNotice>,
        view: View,
        /// What a listener of the watcher believes.
        heard: Truth,
    }

    impl World {
        fn change(&mut self, random: &mut Random) {
            let pair = (
                key(random.below(3)),
                Arc::from(format!("user-{}", random.below(4))),
            );
            let departure = if self.truth.remove(&pair) {
                Some(Departure::Left)
            } else {
                self.truth.insert(pair.clone());
                None
            };
            self.number += 1;
            self.way.push_back(MemberNotice {
                frontend: ServerId::new("connector-1").unwrap(),
                number: self.number,
                audience: pair.0,
                uid: pair.1,
                departure,
            });
        }

        fn parts(&self) -> Vec<AudiencePart> {
            let mut parts: Vec<AudiencePart> = Vec::new();
            for (key, uid) in &self.truth {
                if parts
                    .last()
                    .is_none_or(|part| part.audience != *key.shared())
                {
                    parts.push(AudiencePart {
                        audience: Arc::clone(key.shared()),
                        ..AudiencePart::default()
                    });
                }
                if let Some(part) = parts.last_mut() {
                    part.uids.push(Arc::clone(uid));
                    part.count += 1;
                }
            }
            parts
        }

        fn tell(&mut self, news: Vec<Change>, seed: u64) {
            for (key, uid, departure) in news {
                let pair = (key, uid);
                let made_sense = match departure {
                    None => self.heard.insert(pair),
                    Some(_) => self.heard.remove(&pair),
                };
                assert!(made_sense, "seed {seed}: the story is not true");
            }
        }

        /// The next notice comes. True if the frontend has to be asked.
        fn hear(&mut self, seed: u64) -> bool {
            let Some(notice) = self.way.pop_front() else {
                return false;
            };
            if let Some(waiting) = &mut self.view.asking {
                waiting.push(notice);
                return false;
            }
            let mut news = Vec::new();
            let is_whole = self.view.hear(notice, &mut news);
            self.tell(news, seed);
            !is_whole
        }

        /// The frontend was asked when the number was `asked`, answers with what is true now, and the answer comes.
        fn answer(&mut self, asked: u64, seed: u64) -> bool {
            let mut news = Vec::new();
            let parts = self.parts();
            let is_whole = self.view.learn(parts, asked, &mut news);
            self.tell(news, seed);
            !is_whole
        }
    }

    #[test]
    fn members_that_a_cut_list_does_not_name_have_not_left() {
        let uids = ["ann", "bob", "eve"].map(Arc::from);
        let mut view = View {
            members: HashMap::from([(key(1), HashSet::from(uids))]),
            is_known: true,
            ..View::default()
        };
        let part = |uid: &str, count| AudiencePart {
            audience: Arc::clone(key(1).shared()),
            count,
            uids: vec![uid.into()],
        };
        let mut news = Vec::new();
        assert!(view.learn(vec![part("ann", 3)], 7, &mut news));
        assert!(news.is_empty(), "{news:?}");
        assert_eq!(view.members[&key(1)].len(), 3);
        assert!(view.learn(vec![part("ann", 1)], 8, &mut news));
        assert_eq!(news.len(), 2);
    }

    /// Notices are lost, and come before and after answers: a listener hears a true story, and in the end all of it.
    #[test]
    fn lost_notices_never_make_events_inconsistent() {
        for seed in 1..3000_u64 {
            let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            let mut world = World::default();
            world.view.is_known = true;
            let mut asked: Option<u64> = None;
            for _ in 0..60 {
                match random.below(10) {
                    0..=4 => world.change(&mut random),
                    // Never the one that was sent after the answer: the path is one.
                    5 if !world.way.is_empty() => drop(world.way.pop_front()),
                    6..=8 => {
                        if world.hear(seed) && asked.is_none() {
                            world.view.asking = Some(Vec::new());
                            asked = Some(world.number);
                        }
                    }
                    _ => {
                        if let Some(at) = asked.take()
                            && world.answer(at, seed)
                        {
                            world.view.asking = Some(Vec::new());
                            asked = Some(world.number);
                        }
                    }
                }
            }
            // Quiet: the rest comes, or is found missing by its number.
            while !world.way.is_empty() || asked.is_some() || world.view.last != world.number {
                let is_missing = world.hear(seed);
                if let Some(at) = asked.take() {
                    if world.answer(at, seed) {
                        world.view.asking = Some(Vec::new());
                        asked = Some(world.number);
                    }
                } else if is_missing || world.way.is_empty() && world.view.last != world.number {
                    world.view.asking = Some(Vec::new());
                    asked = Some(world.number);
                }
            }
            assert_eq!(world.heard, world.truth, "seed {seed}");
        }
    }
}
