//! Channels of a server: their names, the frontends that have members, and the members that no frontend stores. Bookkeeping only; the
//! framework delivers pushes.

mod config;
mod service;
mod tables;

pub use config::ChannelConfig;
pub use service::ChannelService;

use crate::members::ChannelMembers;
use crate::store::member_text;
use crate::sync::Mutex;
use crate::{ChannelError, ChannelStore, FanOutGroup, FrontendId, StoreError, Uid};
use std::fmt;
use std::sync::{Arc, Weak};
use tables::Tables;

/// Whether a channel can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChannelState {
    /// The channel can be used.
    Open,
    /// The channel was destroyed: users cannot join and pushes fail.
    Destroyed,
}

/// A channel of this server.
///
/// The frontends that hold the sessions store the members ([`SessionService::join`](crate::SessionService::join)); the channel remembers
/// its [places](Self::places), the frontends that have members. Only members whose frontend stores no audiences are listed here, *by name*:
/// users of Pitaya servers, and members from a store whose frontend was not asked yet.
pub struct Channel {
    name: Arc<str>,
    number: u64,
    tables: Weak<Tables<Self>>,
    data: Mutex<Data>,
}

/// A listener for the destruction of the channel.
type End = Box<dyn FnOnce() + Send>;

struct Data {
    state: ChannelState,
    /// By name.
    members: ChannelMembers,
    places: Vec<Place>,
    /// The plan of the last push, while it is valid.
    plan: Option<Arc<[FanOutGroup]>>,
    /// The listeners for the destruction, by number.
    ends: Vec<(u64, End)>,
    next_end: u64,
}

/// A frontend that has, or may have, members of a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The frontend.
    pub frontend: FrontendId,
    /// How many joins were sent to the frontend. While this is unchanged, the frontend's last answer about its members is still valid.
    pub joins: u64,
}

impl Channel {
    fn new(name: Arc<str>, number: u64, tables: &Arc<Tables<Self>>) -> Self {
        let data = Data {
            state: ChannelState::Open,
            members: ChannelMembers::new(),
            places: Vec::new(),
            plan: None,
            ends: Vec::new(),
            next_end: 0,
        };
        Self {
            name,
            number,
            tables: Arc::downgrade(tables),
            data: Mutex::new(data),
        }
    }

    /// The name of the channel.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The number of the channel, unique in this service, also among channels of the same name.
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// Whether the channel can be used.
    pub fn state(&self) -> ChannelState {
        self.data.lock().state
    }

    /// Adds a member by name. Returns false for an existing member, and if the channel was destroyed.
    pub fn add(self: &Arc<Self>, uid: &Uid, frontend: &FrontendId) -> bool {
        let Some(tables) = self.tables.upgrade() else {
            return false;
        };
        let _turn = tables.turn(&self.name);
        if !self.enter(&tables, uid, frontend) {
            return false;
        }
        tables.with_store(|store| {
            store.add(
                &tables.members_key(&self.name),
                &member_text(uid.as_str(), frontend.as_str()),
            )
        });
        true
    }

    /// Removes a member by name. Returns false if there is no such member. Works after [`destroy`](Self::destroy).
    pub fn leave(&self, uid: &str, frontend: &str) -> bool {
        let tables = self.tables.upgrade();
        let _turn = tables.as_ref().map(|tables| tables.turn(&self.name));
        if !self.take_by_name(uid, frontend) {
            return false;
        }
        if let Some(tables) = tables
            .as_ref()
            .filter(|_| self.state() == ChannelState::Open)
        {
            tables.with_store(|store| {
                let text = member_text(uid, frontend);
                store.remove(&tables.members_key(&self.name), &text)
            });
        }
        true
    }

    /// As [`leave`](Self::leave), but the store keeps the member, because the frontend now has them.
    pub fn take_by_name(&self, uid: &str, frontend: &str) -> bool {
        let mut data = self.data.lock();
        if !data.members.remove(uid, frontend) {
            return false;
        }
        data.plan = None;
        if let Some(tables) = self.tables.upgrade()
            && data.state == ChannelState::Open
        {
            tables.unlink(uid, frontend, self);
        }
        true
    }

    /// Adds a frontend to the places, before a user joins on it. Returns false if the channel was destroyed.
    pub fn enter_place(&self, frontend: &FrontendId) -> bool {
        let mut data = self.data.lock();
        if data.state == ChannelState::Destroyed {
            return false;
        }
        match data.places.iter_mut().find(|p| p.frontend == *frontend) {
            Some(place) => place.joins += 1,
            None => data.places.push(Place {
                frontend: frontend.clone(),
                joins: 1,
            }),
        }
        true
    }

    /// Removes a frontend without members from the places, given the number of joins that its answer covers: after further joins it stays
    /// one of the places. `None`: the frontend is gone, with all its members.
    pub fn leave_place(&self, frontend: &str, joins: Option<u64>) {
        let is_over = |place: &Place| {
            place.frontend == *frontend && joins.is_none_or(|joins| place.joins == joins)
        };
        self.data.lock().places.retain(|place| !is_over(place));
    }

    /// The frontends that have members, in the order in which they were added. They stay in the object after it is destroyed.
    pub fn places(&self) -> Vec<Place> {
        self.data.lock().places.clone()
    }

    /// Records in the store, if any, that a user has joined on a frontend.
    pub fn store_join(&self, uid: &str, frontend: &str) {
        self.update_store(|store, key| store.add(key, &member_text(uid, frontend)));
    }

    /// Records in the store, if any, that a user has left.
    pub fn store_leave(&self, uid: &str, frontend: &str) {
        self.update_store(|store, key| store.remove(key, &member_text(uid, frontend)));
    }

    fn update_store(&self, update: impl FnOnce(&dyn ChannelStore, &str) -> Result<(), StoreError>) {
        let Some(tables) = self.tables.upgrade() else {
            return;
        };
        let _turn = tables.turn(&self.name);
        if self.state() == ChannelState::Open {
            tables.with_store(|store| update(store, &tables.members_key(&self.name)));
        }
    }

    /// The members by name, by frontend. Shared until the next join or leave.
    pub fn members_by_frontend(&self) -> Arc<[FanOutGroup]> {
        self.data.lock().plan()
    }

    /// The plan for a push to all members by name. Costs a pointer until the next join or leave.
    ///
    /// # Errors
    ///
    /// The channel was destroyed.
    pub fn fan_out(&self) -> Result<Arc<[FanOutGroup]>, ChannelError> {
        let mut data = self.data.lock();
        match data.state {
            ChannelState::Open => Ok(data.plan()),
            ChannelState::Destroyed => Err(ChannelError::Destroyed),
        }
    }

    /// Destroys the channel: the service removes it (but not a newer one of the same name). The members stay in the object.
    ///
    /// Returns false if it was already destroyed.
    pub fn destroy(&self) -> bool {
        let Some(ends) = self.end() else {
            return false;
        };
        for (_, end) in ends {
            end();
        }
        true
    }

    /// Calls `listener` once, when the channel is destroyed, on the thread that destroys it and without a lock. The number is for
    /// [`off_destroyed`](Self::off_destroyed). `None`: the channel was already destroyed.
    pub fn on_destroyed(&self, listener: impl FnOnce() + Send + 'static) -> Option<u64> {
        let mut data = self.data.lock();
        if data.state == ChannelState::Destroyed {
            return None;
        }
        let number = data.next_end;
        data.next_end += 1;
        data.ends.push((number, Box::new(listener)));
        Some(number)
    }

    /// Removes a listener of the destruction.
    pub fn off_destroyed(&self, number: u64) {
        let mut data = self.data.lock();
        let at = data.ends.iter().position(|(other, _)| *other == number);
        let taken = at.map(|at| data.ends.swap_remove(at));
        drop(data);
        // The listener may own values of the application.
        drop(taken);
    }

    /// The listeners, if this call destroys the channel.
    fn end(&self) -> Option<Vec<(u64, End)>> {
        let tables = self.tables.upgrade();
        let _turn = tables.as_ref().map(|tables| tables.turn(&self.name));
        let mut data = self.data.lock();
        if data.state == ChannelState::Destroyed {
            return None;
        }
        data.state = ChannelState::Destroyed;
        let ends = std::mem::take(&mut data.ends);
        if let Some(tables) = &tables {
            for (uid, frontend) in data.members.iter() {
                tables.unlink(uid.as_str(), frontend.as_str(), self);
            }
        }
        drop(data);
        if let Some(tables) = &tables {
            tables.forget(&self.name, self);
            tables.with_store(|store| store.remove_all(&tables.members_key(&self.name)));
            tables.with_store(|store| store.remove(&tables.list_key(), &self.name));
        }
        Some(ends)
    }

    /// Adds a member, here and in the index. The caller holds the turn of the name.
    fn enter(self: &Arc<Self>, tables: &Tables<Self>, uid: &Uid, frontend: &FrontendId) -> bool {
        let mut data = self.data.lock();
        if data.state == ChannelState::Destroyed {
            return false;
        }
        if !data.members.add(uid, frontend) {
            return false;
        }
        data.plan = None;
        tables.link(uid, frontend, self);
        true
    }
}

impl Data {
    fn plan(&mut self) -> Arc<[FanOutGroup]> {
        let Self { members, plan, .. } = self;
        Arc::clone(plan.get_or_insert_with(|| members.fan_out()))
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let data = self.data.lock();
        f.debug_struct("Channel")
            .field("name", &self.name)
            .field("state", &data.state)
            .field("members", &data.members.len())
            .finish_non_exhaustive()
    }
}
