//! Random calls on a [`ChannelService`], compared with lists.

// Tests panic on purpose.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

mod support;

use proptest::prelude::*;
use shaddock_core::*;
use std::collections::BTreeMap;
use std::sync::Arc;

use support::by_name;

const NAMES: [&str; 3] = ["lobby", "toString", "a:b"];

#[derive(Clone, Debug)]
enum Op {
    Create(usize),
    Destroy(usize),
    /// Through the channel object, which may be stale.
    DestroyObject(usize),
    Add(usize, usize, usize),
    Leave(usize, usize, usize),
    Gone(usize, usize),
}

fn op() -> impl Strategy<Value = Op> {
    let (n, u, f) = (0..NAMES.len(), 0..12_usize, 0..3_usize);
    prop_oneof![
        2 => n.clone().prop_map(Op::Create),
        1 => n.clone().prop_map(Op::Destroy),
        1 => (0..8_usize).prop_map(Op::DestroyObject),
        12 => (0..8_usize, u.clone(), f.clone()).prop_map(|(c, u, f)| Op::Add(c, u, f)),
        8 => (0..8_usize, u.clone(), f.clone()).prop_map(|(c, u, f)| Op::Leave(c, u, f)),
        2 => (u, f).prop_map(|(u, f)| Op::Gone(u, f)),
    ]
}

fn uid(u: usize) -> Uid {
    Uid::new(format!("user:{u}")).unwrap()
}

fn front(f: usize) -> FrontendId {
    FrontendId::new(format!("connector-{f}")).unwrap()
}

/// A channel object and the members it should have, in order.
struct Naive {
    channel: Arc<Channel>,
    members: Vec<(usize, usize)>,
    destroyed: bool,
}

impl Naive {
    /// By frontend, the frontends in the order in which their oldest stay began.
    fn check(&self) {
        let mut groups: BTreeMap<usize, Vec<Uid>> = BTreeMap::new();
        for &(u, f) in &self.members {
            groups.entry(f).or_default().push(uid(u));
        }
        let plan = self.channel.members_by_frontend();
        assert_eq!(plan.len(), groups.len());
        for group in plan.iter() {
            let f = (0..3).find(|&f| front(f) == group.frontend).unwrap();
            assert_eq!(group.uids, groups[&f], "in the order of joining");
        }
        assert_eq!(self.channel.fan_out().is_err(), self.destroyed);
    }
}

#[derive(Default)]
struct World {
    all: Vec<Naive>,
    live: BTreeMap<&'static str, usize>,
}

impl World {
    fn apply(&mut self, service: &ChannelService, op: &Op) {
        match *op {
            Op::Create(n) => {
                let channel = service.create_channel(NAMES[n]).unwrap();
                if let Some(&known) = self.live.get(NAMES[n]) {
                    assert!(Arc::ptr_eq(&channel, &self.all[known].channel));
                } else {
                    self.live.insert(NAMES[n], self.all.len());
                    self.all.push(Naive {
                        channel,
                        members: vec![],
                        destroyed: false,
                    });
                }
            }
            Op::Destroy(n) => {
                let known = self.live.remove(NAMES[n]);
                let found = service.channel(NAMES[n]);
                assert_eq!(
                    found.is_some_and(|channel| channel.destroy()),
                    known.is_some()
                );
                if let Some(known) = known {
                    self.all[known].destroyed = true;
                }
            }
            Op::Gone(u, f) => {
                let live = self.all.iter_mut().filter(|naive| !naive.destroyed);
                let mut left = 0;
                for naive in live {
                    let before = naive.members.len();
                    naive.members.retain(|member| *member != (u, f));
                    left += before - naive.members.len();
                }
                let removed = service.remove_member_everywhere(uid(u).as_str(), front(f).as_str());
                assert_eq!(removed, left);
            }
            _ if self.all.is_empty() => {}
            Op::DestroyObject(c) => {
                let c = c % self.all.len();
                let naive = &mut self.all[c];
                assert_eq!(naive.channel.destroy(), !naive.destroyed);
                naive.destroyed = true;
                self.live.retain(|_, known| *known != c);
            }
            Op::Add(c, u, f) => {
                let c = c % self.all.len();
                let naive = &mut self.all[c];
                let new = !naive.destroyed && !naive.members.contains(&(u, f));
                assert_eq!(naive.channel.add(&uid(u), &front(f)), new);
                if new {
                    naive.members.push((u, f));
                }
            }
            Op::Leave(c, u, f) => {
                let c = c % self.all.len();
                let naive = &mut self.all[c];
                let known = naive.members.contains(&(u, f));
                assert_eq!(
                    naive.channel.leave(uid(u).as_str(), front(f).as_str()),
                    known
                );
                naive.members.retain(|member| *member != (u, f));
            }
        }
    }

    fn check(&self, service: &ChannelService) {
        self.all.iter().for_each(Naive::check);
        let mut names = service.names();
        names.sort_unstable();
        let mut live: Vec<_> = self.live.keys().copied().collect();
        live.sort_unstable();
        assert_eq!(names.iter().map(|name| &**name).collect::<Vec<_>>(), live);
        assert_eq!(service.channel_count(), live.len());
    }

    /// The index of members has exactly the channels of each.
    fn remove_all(&mut self, service: &ChannelService) {
        for member in 0..12 * 3 {
            self.apply(service, &Op::Gone(member / 3, member % 3));
        }
        self.check(service);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn channels_are_lists_of_members(ops in prop::collection::vec(op(), 0..150)) {
        let store = Arc::new(MemoryStore::default());
        let config = ChannelConfig::default().store(store.clone());
        let service = ChannelService::new("chat-1", config.clone());
        let mut world = World::default();
        for op in &ops {
            world.apply(&service, op);
            world.check(&service);
        }

        // The store knows all that is alive: another process comes up with the same.
        let restored = ChannelService::new("chat-1", config);
        assert_eq!(restored.restore(), Ok(world.live.len()));
        for (name, &known) in &world.live {
            let channel = restored.channel(name).unwrap();
            let (found, expected) = (by_name(&channel), &world.all[known].members);
            assert_eq!(found.len(), expected.len());
            for &(u, f) in expected {
                assert!(found.contains(&(uid(u), front(f))));
            }
        }
        world.remove_all(&service);
    }
}

#[test]
fn a_plan_is_shared_until_a_member_joins_or_leaves() {
    let service = ChannelService::new("chat-1", ChannelConfig::default());
    let room = service.create_channel("lobby").unwrap();
    room.add(&uid(1), &front(1));
    let plan = room.fan_out().unwrap();
    assert!(Arc::ptr_eq(&plan, &room.fan_out().unwrap()));
    room.add(&uid(2), &front(1));
    let after = room.fan_out().unwrap();
    assert_eq!((plan[0].uids.len(), after[0].uids.len()), (1, 2));
    room.leave(uid(1).as_str(), front(1).as_str());
    assert_eq!(room.fan_out().unwrap()[0].uids, [uid(2)]);
}

#[test]
fn names_and_numbers_are_bounded() {
    let config = ChannelConfig::default().max_channels(2);
    let service = ChannelService::new("chat-1", config);
    assert_eq!(
        service.create_channel("").unwrap_err(),
        ChannelError::BadName { len: 0 }
    );
    let long = "x".repeat(257);
    assert_eq!(
        service.create_channel(&long).unwrap_err(),
        ChannelError::BadName { len: 257 }
    );
    let first = service.create_channel("1").unwrap();
    service.create_channel("2").unwrap();
    assert_eq!(
        service.create_channel("3").unwrap_err(),
        ChannelError::TooMany { limit: 2 }
    );
    assert!(Arc::ptr_eq(&service.create_channel("1").unwrap(), &first));
    first.destroy();
    service.create_channel("3").unwrap();
}

#[test]
fn a_place_is_removed_with_its_last_member_unless_a_join_is_under_way() {
    let service = ChannelService::new("chat-1", ChannelConfig::default());
    let room = service.create_channel("lobby").unwrap();
    let place = |frontend, joins| Place { frontend, joins };
    assert!(room.enter_place(&front(1)) && room.enter_place(&front(2)));
    assert!(room.enter_place(&front(1)));
    assert_eq!(room.places(), [place(front(1), 2), place(front(2), 1)]);
    room.leave_place(front(1).as_str(), Some(1));
    assert_eq!(
        room.places().len(),
        2,
        "the second join may have come behind"
    );
    room.leave_place(front(1).as_str(), Some(2));
    assert_eq!(room.places(), [place(front(2), 1)]);
    room.leave_place(front(2).as_str(), None);
    assert!(room.places().is_empty());
    assert!(room.enter_place(&front(3)));
    room.destroy();
    assert!(!room.enter_place(&front(1)));
    assert_eq!(
        room.places(),
        [place(front(3), 1)],
        "they are told of the end"
    );
    let next = service.create_channel("lobby").unwrap();
    assert!(next.places().is_empty() && next.number() != room.number());
}

/// A user by name whose frontend was asked moves there: the store does not notice.
#[test]
fn the_store_follows_members_at_frontends_too() {
    let store = Arc::new(MemoryStore::default());
    let config = ChannelConfig::default().store(store.clone());
    let service = ChannelService::new("chat-1", config);
    let room = service.create_channel("lobby").unwrap();
    let stored = || store.load("pomelo:channel:chat-1:lobby").unwrap();
    assert!(room.add(&uid(1), &front(1)));
    assert!(room.take_by_name(uid(1).as_str(), front(1).as_str()));
    assert!(!room.take_by_name(uid(1).as_str(), front(1).as_str()));
    assert_eq!((by_name(&room).len(), stored().len()), (0, 1));
    room.store_join(uid(2).as_str(), front(1).as_str());
    assert_eq!(stored().len(), 2);
    room.store_leave(uid(1).as_str(), front(1).as_str());
    assert_eq!(stored().len(), 1);
    room.destroy();
    room.store_join(uid(3).as_str(), front(1).as_str());
    assert!(stored().is_empty());
}
