//! Channels of a server: their names, the frontends that have members, and the members that no frontend keeps. Bookkeeping only; delivery is the
//! framework's.

mod service;

pub use service::ChannelService;

use crate::store::member_text;
use crate::sync::Mutex;
use crate::{ChannelMembers, ChannelStore, FanOut, FrontendId, MAX_ID_BYTES, StoreError, Uid};
use service::Inner;
use std::fmt;
use std::sync::{Arc, Weak};

/// Bounds and persistence of the channels of one server.
#[derive(Clone)]
pub struct ChannelConfig {
    /// Channels that may exist at once. Default: 100,000. Over it none is created.
    pub max_channels: usize,
    /// First part of the keys in the store. Default: `pomelo:channel`.
    pub prefix: String,
    /// Where channels are kept over a restart. Default: nowhere.
    pub store: Option<Arc<dyn ChannelStore>>,
}

impl Default for ChannelConfig {
    fn default() -> Self {
        Self {
            max_channels: 100_000,
            prefix: "pomelo:channel".to_owned(),
            store: None,
        }
    }
}

impl fmt::Debug for ChannelConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelConfig")
            .field("max_channels", &self.max_channels)
            .field("prefix", &self.prefix)
            .field("store", &self.store.is_some())
            .finish()
    }
}

/// A call on a channel, or for one, failed. Nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChannelError {
    /// The name is empty or longer than 256 bytes.
    #[error("a channel name must have 1 to {MAX_ID_BYTES} bytes, this one has {len}")]
    BadName {
        /// Its length in bytes.
        len: usize,
    },
    /// There are [`max_channels`](ChannelConfig::max_channels) already.
    #[error("there may be at most {limit} channels")]
    TooMany {
        /// The bound.
        limit: usize,
    },
    /// The channel was destroyed.
    #[error("channel is not running now")]
    Destroyed,
}

/// Whether a channel can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChannelState {
    /// It can.
    Inited,
    /// It was destroyed: nobody can join and nothing can be pushed.
    Destroyed,
}

/// A channel of this server.
///
/// Its members are known at the frontends that hold their sessions ([`SessionService::join`](crate::SessionService::join)); the channel
/// remembers its [places](Self::places), the frontends that have some. Only members whose frontend keeps no audiences are listed here, *by
/// name*: users of Pitaya servers, and those that a store remembers and whose frontend was not asked yet.
pub struct Channel {
    name: Arc<str>,
    number: u64,
    service: Weak<Inner>,
    data: Mutex<Data>,
}

/// Is told of the end.
type End = Box<dyn FnOnce() + Send>;

struct Data {
    state: ChannelState,
    /// By name.
    members: ChannelMembers,
    places: Vec<Place>,
    /// The plan of the last push, while it is still right.
    plan: Option<Arc<FanOut>>,
    /// Who is told of the end, by number.
    ends: Vec<(u64, End)>,
    next_end: u64,
}

/// A frontend that has members of a channel, or may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The frontend.
    pub frontend: FrontendId,
    /// How often members were sent there to join: as long as that stays the same, what the frontend said of its members before still holds.
    pub joins: u64,
}

impl Channel {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// No other channel of this service has the same number, also not a later one of the same name.
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// Whether it can be used.
    pub fn state(&self) -> ChannelState {
        self.data.lock().state
    }

    /// Adds a member by name. False if it is one already, or if the channel was destroyed.
    pub fn add(self: &Arc<Self>, uid: &Uid, frontend: &FrontendId) -> bool {
        let Some(service) = self.service.upgrade() else {
            return false;
        };
        let _turn = service.turn(&self.name);
        if !self.enter(&service, uid, frontend) {
            return false;
        }
        service.ask_store(|store| {
            store.add(
                &service.members_key(&self.name),
                &member_text(uid.as_str(), frontend.as_str()),
            )
        });
        true
    }

    /// Takes a member by name out. False if there is none. Works after [`destroy`](Self::destroy).
    pub fn leave(&self, uid: &str, frontend: &str) -> bool {
        let service = self.service.upgrade();
        let _turn = service.as_ref().map(|service| service.turn(&self.name));
        if !self.take_by_name(uid, frontend) {
            return false;
        }
        if let Some(service) = service
            .as_ref()
            .filter(|_| self.state() == ChannelState::Inited)
        {
            service.ask_store(|store| {
                let text = member_text(uid, frontend);
                store.remove(&service.members_key(&self.name), &text)
            });
        }
        true
    }

    /// As [`leave`](Self::leave), and the store keeps the member: the frontend has them now.
    pub fn take_by_name(&self, uid: &str, frontend: &str) -> bool {
        let mut data = self.data.lock();
        if !data.members.remove(uid, frontend) {
            return false;
        }
        data.plan = None;
        if let Some(service) = self.service.upgrade()
            && data.state == ChannelState::Inited
        {
            service.unlink(uid, frontend, self);
        }
        true
    }

    /// A user is about to join at this frontend, or has: it is one of the places from now on. False if the channel was destroyed.
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

    /// A frontend said that it has no members, when so many had been sent there to join. If more were sent since, it stays one of the places.
    pub fn leave_place(&self, frontend: &str, joins: u64) {
        let is_over = |place: &Place| place.frontend == *frontend && place.joins == joins;
        self.data.lock().places.retain(|place| !is_over(place));
    }

    /// A frontend is gone, and all members with it.
    pub fn forget_place(&self, frontend: &str) {
        let mut data = self.data.lock();
        data.places.retain(|place| place.frontend != *frontend);
    }

    /// The frontends that have members, in the order in which they came. They stay in the object when it is destroyed.
    pub fn places(&self) -> Vec<Place> {
        self.data.lock().places.clone()
    }

    /// Tells the store, if there is one, that a user has joined at their frontend.
    pub fn store_join(&self, uid: &str, frontend: &str) {
        self.tell_store(|store, key| store.add(key, &member_text(uid, frontend)));
    }

    /// Tells the store, if there is one, that a user has left.
    pub fn store_leave(&self, uid: &str, frontend: &str) {
        self.tell_store(|store, key| store.remove(key, &member_text(uid, frontend)));
    }

    fn tell_store(&self, tell: impl FnOnce(&dyn ChannelStore, &str) -> Result<(), StoreError>) {
        let Some(service) = self.service.upgrade() else {
            return;
        };
        let _turn = service.turn(&self.name);
        if self.state() == ChannelState::Inited {
            service.ask_store(|store| tell(store, &service.members_key(&self.name)));
        }
    }

    /// The uids of the members by name, grouped by frontend, each group in the order of joining.
    pub fn members(&self) -> Vec<Uid> {
        self.data
            .lock()
            .members
            .iter()
            .map(|(uid, _)| uid.clone())
            .collect()
    }

    /// The members by name, by frontend. Shared with others as long as nobody joins or leaves.
    pub fn members_by_frontend(&self) -> Arc<FanOut> {
        self.data.lock().plan()
    }

    /// The frontends on which this user is a member by name.
    pub fn member(&self, uid: &str) -> Vec<FrontendId> {
        self.data.lock().members.frontends_of(uid)
    }

    /// Number of members by name.
    pub fn user_amount(&self) -> usize {
        self.data.lock().members.len()
    }

    /// The plan for a push to all members by name. Costs a pointer as long as nobody joins or leaves.
    ///
    /// # Errors
    ///
    /// The channel was destroyed.
    pub fn fan_out(&self) -> Result<Arc<FanOut>, ChannelError> {
        let mut data = self.data.lock();
        match data.state {
            ChannelState::Inited => Ok(data.plan()),
            ChannelState::Destroyed => Err(ChannelError::Destroyed),
        }
    }

    /// Ends the channel: the service forgets it (and not a newer one of the same name). The members stay in the object.
    ///
    /// False if it was destroyed before.
    pub fn destroy(&self) -> bool {
        let Some(ends) = self.end() else {
            return false;
        };
        for (_, end) in ends {
            end();
        }
        true
    }

    /// Calls `listener` once, when the channel is destroyed, on the thread that destroys it and outside of every lock. The number is for
    /// [`off_destroyed`](Self::off_destroyed). `None`: it was destroyed before.
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

    /// Takes a listener of the end away again.
    pub fn off_destroyed(&self, number: u64) {
        let mut data = self.data.lock();
        let at = data.ends.iter().position(|(other, _)| *other == number);
        let taken = at.map(|at| data.ends.swap_remove(at));
        drop(data);
        // What it holds is not ours.
        drop(taken);
    }

    /// The listeners, if this is the end.
    fn end(&self) -> Option<Vec<(u64, End)>> {
        let service = self.service.upgrade();
        let _turn = service.as_ref().map(|service| service.turn(&self.name));
        let mut data = self.data.lock();
        if data.state == ChannelState::Destroyed {
            return None;
        }
        data.state = ChannelState::Destroyed;
        let ends = std::mem::take(&mut data.ends);
        if let Some(service) = &service {
            for (uid, frontend) in data.members.iter() {
                service.unlink(uid.as_str(), frontend.as_str(), self);
            }
        }
        drop(data);
        if let Some(service) = &service {
            service.forget(self);
            service.ask_store(|store| store.remove_all(&service.members_key(&self.name)));
            service.ask_store(|store| store.remove(&service.list_key(), &self.name));
        }
        Some(ends)
    }

    /// Makes somebody a member, here and in the index. The caller has the turn of the name.
    fn enter(self: &Arc<Self>, service: &Inner, uid: &Uid, frontend: &FrontendId) -> bool {
        let mut data = self.data.lock();
        if data.state == ChannelState::Destroyed {
            return false;
        }
        if !data.members.add(uid, frontend) {
            return false;
        }
        data.plan = None;
        service.link(uid, frontend, self);
        true
    }
}

impl Data {
    fn plan(&mut self) -> Arc<FanOut> {
        let Self { members, plan, .. } = self;
        Arc::clone(plan.get_or_insert_with(|| Arc::new(members.fan_out())))
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
