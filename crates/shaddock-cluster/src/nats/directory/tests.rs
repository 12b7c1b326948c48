//! The directory and the promises of frontends, driven through every order of steps by seed.

use std::collections::{BTreeMap, BTreeSet};

use super::super::watches::Watches;
use super::*;
use crate::{Conflict, SessionsPerUser};

const TYPE: &str = "connector";

fn server(name: &str, n: usize) -> ServerId {
    ServerId::new(format!("{name}-{n}")).unwrap()
}

/// A generator of numbers; the same seed gives the same story.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % n as u64).unwrap()
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Place {
    frontend: usize,
    user: usize,
}

/// A bind that is under way: who is still to be told, once that was looked up.
struct Bind {
    place: Place,
    to_tell: Option<Vec<ServerId>>,
}

/// A push that is under way.
struct Push {
    sender: usize,
    user: usize,
    /// Where the user is thought to be and has not been sent it yet.
    known: Vec<usize>,
    /// The frontends that are still to be asked.
    asked: Option<Asked>,
    reached: BTreeSet<usize>,
    /// Where the user was when the push was made, and has been ever since.
    must_reach: BTreeSet<usize>,
}

struct Asked {
    question: Question,
    left: Vec<usize>,
    found: Vec<ServerId>,
    leased: bool,
}

struct World {
    random: Random,
    unique: bool,
    now: Moment,
    frontends: Vec<Watches>,
    senders: Vec<Directory>,
    binding: Vec<Bind>,
    /// Users at frontends, as the frontends' tables have them: from the beginning of a bind.
    known: BTreeMap<Place, usize>,
    bound: BTreeSet<Place>,
    pushes: Vec<Push>,
    /// Pushes that no question was asked for.
    directly: usize,
    finished: usize,
}

impl World {
    fn new(seed: u64, unique: bool) -> Self {
        let policy = if unique {
            SessionsPerUser::One(Conflict::ReplaceOld)
        } else {
            SessionsPerUser::Any
        };
        Self {
            random: Random(seed),
            unique,
            now: Moment(1),
            frontends: (0..3).map(|_| Watches::new(policy)).collect(),
            // So few that users are forgotten.
            senders: (0..3).map(|_| Directory::new(2 * SHARDS)).collect(),
            binding: Vec::new(),
            known: BTreeMap::new(),
            bound: BTreeSet::new(),
            pushes: Vec::new(),
            directly: 0,
            finished: 0,
        }
    }

    fn uid(user: usize) -> Arc<str> {
        format!("user-{user}").into()
    }

    fn step(&mut self) {
        match self.random.below(20) {
            0 if self.binding.len() < 3 => {
                let place = Place {
                    frontend: self.random.below(self.frontends.len()),
                    user: self.random.below(3),
                };
                *self.known.entry(place).or_default() += 1;
                self.binding.push(Bind {
                    place,
                    to_tell: None,
                });
            }
            0..8 => self.go_on_with_a_bind(),
            8 => {
                if let Some(place) = self.one_bound() {
                    self.unbind(place);
                }
            }
            9..12 if self.pushes.len() < 3 => {
                let (sender, user) = (self.random.below(3), self.random.below(3));
                self.push(sender, user);
            }
            9..18 => self.go_on_with_a_push(),
            18 if self.random.below(6) == 0 => {
                let seconds = [0, 1, 30, 59, 61][self.random.below(5)];
                self.now = self.now.after(Duration::from_secs(seconds));
            }
            _ => {
                if self.frontends.len() < 5 && self.random.below(10) == 0 {
                    let policy = if self.unique {
                        SessionsPerUser::One(Conflict::ReplaceOld)
                    } else {
                        SessionsPerUser::Any
                    };
                    self.frontends.push(Watches::new(policy));
                    self.senders.iter().for_each(Directory::end_leases);
                }
            }
        }
    }

    fn one_bound(&mut self) -> Option<Place> {
        let n = self.random.below(self.bound.len().max(1));
        self.bound.iter().nth(n).copied()
    }

    fn unbind(&mut self, place: Place) {
        if self.bound.remove(&place) {
            self.forget(place);
            for push in self.pushes.iter_mut().filter(|p| p.user == place.user) {
                push.must_reach.remove(&place.frontend);
            }
        }
    }

    fn forget(&mut self, place: Place) {
        if let Some(times) = self.known.get_mut(&place) {
            *times -= 1;
            if *times == 0 {
                self.known.remove(&place);
            }
        }
    }

    fn go_on_with_a_bind(&mut self) {
        if self.binding.is_empty() {
            return;
        }
        let n = self.random.below(self.binding.len());
        let Place { frontend, user } = self.binding[n].place;
        if let Some(to_tell) = &mut self.binding[n].to_tell {
            if let Some(sender) = to_tell.pop() {
                let sender: usize = sender.as_str()[5..].parse().unwrap();
                let front = server("front", frontend);
                self.senders[sender].bound_at(TYPE, &Self::uid(user), &front, self.unique);
                return;
            }
            let place = self.binding.swap_remove(n).place;
            if self.random.below(8) == 0 || !self.bound.insert(place) {
                // It failed, or another session of the user was there.
                self.forget(place);
            }
            return;
        }
        if self.unique {
            // The claim: from now on no other frontend has the user, or is binding the user.
            let others: Vec<_> = self
                .bound
                .iter()
                .filter(|p| p.user == user)
                .copied()
                .collect();
            for other in others.into_iter().filter(|p| p.frontend != frontend) {
                self.unbind(other);
            }
            let claims = |b: &Bind| b.to_tell.is_some() && b.place.user == user;
            if self.binding.iter().any(claims) {
                return;
            }
        }
        let to_tell = self.frontends[frontend].of(&Self::uid(user), self.now);
        self.binding[n].to_tell = Some(to_tell);
    }

    fn push(&mut self, sender: usize, user: usize) {
        let uid = Self::uid(user);
        let plan = self.senders[sender].plan(
            TYPE,
            std::slice::from_ref(&uid),
            self.unique,
            |_| true,
            self.now,
        );
        let known = plan
            .known
            .iter()
            .map(|(id, _)| id.as_str()[6..].parse().unwrap());
        let mut push = Push {
            sender,
            user,
            known: known.collect(),
            asked: None,
            reached: BTreeSet::new(),
            must_reach: self
                .bound
                .iter()
                .filter(|place| place.user == user)
                .map(|place| place.frontend)
                .collect(),
        };
        if !plan.unknown.is_empty() {
            push.asked = Some(self.ask(plan.question));
        }
        self.pushes.push(push);
    }

    fn ask(&self, question: Question) -> Asked {
        Asked {
            question,
            left: (0..self.frontends.len()).collect(),
            found: Vec::new(),
            leased: true,
        }
    }

    /// The push reaches one frontend, or all its answers have come.
    fn go_on_with_a_push(&mut self) {
        if self.pushes.is_empty() {
            return;
        }
        let n = self.random.below(self.pushes.len());
        let mut push = self.pushes.swap_remove(n);
        let uid = Self::uid(push.user);
        let at = |frontend| Place {
            frontend,
            user: push.user,
        };
        if !push.known.is_empty() {
            let frontend = push.known.swap_remove(self.random.below(push.known.len()));
            if self.bound.contains(&at(frontend)) {
                push.reached.insert(frontend);
            } else {
                let front = server("front", frontend);
                self.senders[push.sender].missed(TYPE, &uid, &front);
            }
            if push.known.is_empty() && push.reached.is_empty() {
                let uids = std::slice::from_ref(&uid);
                let question = self.senders[push.sender].ask_again(TYPE, uids, self.now);
                push.asked = Some(self.ask(question));
            }
            self.pushes.push(push);
            return;
        }
        if let Some(asked) = &mut push.asked
            && !asked.left.is_empty()
        {
            let frontend = asked.left.swap_remove(self.random.below(asked.left.len()));
            let watcher = server("back", push.sender);
            let promised =
                self.frontends[frontend].promise(std::slice::from_ref(&uid), &watcher, self.now);
            let is_there = self.bound.contains(&at(frontend));
            if is_there {
                asked.found.push(server("front", frontend));
                push.reached.insert(frontend);
            }
            asked.leased &= promised && (is_there || !self.known.contains_key(&at(frontend)));
            self.pushes.push(push);
            return;
        }
        self.directly += usize::from(push.asked.is_none());
        if let Some(asked) = push.asked.take() {
            let found = HashMap::from([(Arc::clone(&uid), asked.found)]);
            let uids = std::slice::from_ref(&uid);
            let sender = &self.senders[push.sender];
            sender.settle(
                TYPE,
                &asked.question,
                uids,
                found,
                asked.leased,
                self.unique,
            );
        }
        self.finished += 1;
        let missed: Vec<_> = push.must_reach.difference(&push.reached).collect();
        assert!(
            missed.is_empty(),
            "the user has been at {missed:?} and the push reached {:?}",
            push.reached
        );
    }
}

/// Binds, unbinds and pushes in every order of their steps, leases that end, users that are forgotten, frontends that join: a push reaches every session that was
/// there when it was made and stays.
#[test]
fn no_push_is_lost_because_an_entry_is_old() {
    let (mut directly, mut finished) = (0, 0);
    for seed in 0..2000 {
        let mut world = World::new(seed, seed % 2 == 0);
        for _ in 0..400 {
            world.step();
        }
        directly += world.directly;
        finished += world.finished;
    }
    // Querying all frontends each time would reach them, too.
    assert!(finished > 30_000, "{finished}");
    assert!(directly > finished / 10, "{directly} of {finished}");
}

#[test]
fn it_does_not_grow_beyond_its_size() {
    let directory = Directory::new(1000);
    let front = server("front", 1);
    for n in 0..20_000 {
        directory.seen(TYPE, &format!("user-{n}").into(), &front);
    }
    let users = |shard: MutexGuard<'_, Shard>| shard[TYPE].young.len() + shard[TYPE].old.len();
    let users: usize = directory.shards.each().map(users).sum();
    assert!((500..=1100).contains(&users), "{users}");
    // The last ones are there.
    let last: Vec<_> = (19_990..20_000)
        .map(|n| Arc::from(format!("user-{n}")))
        .collect();
    let plan = directory.plan(TYPE, &last, true, |_| true, Moment(1));
    assert_eq!((plan.known.len(), plan.unknown.len()), (1, 0));
    // Where sessions are not unique, that is no complete answer.
    let plan = directory.plan(TYPE, &last, false, |_| true, Moment(1));
    assert_eq!((plan.known.len(), plan.unknown.len()), (0, 10));

    let none = Directory::new(0);
    none.seen(TYPE, &"user".into(), &front);
    assert!(none.permit().is_none());
}
