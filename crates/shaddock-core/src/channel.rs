//! Channels: named sets of members that messages can be pushed to. Bookkeeping only; delivery is the framework's.

mod service;

pub use service::{ChannelService, MemberStamp};

use crate::store::member_text;
use crate::sync::Mutex;
use crate::{ChannelMembers, ChannelStore, FanOut, FrontendId, MAX_ID_BYTES, Uid};
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

/// A named set of members: pairs of user and frontend.
///
/// Known to the process that made it only. A member whose last session closes is taken out by
/// [`ChannelService::remove_member_everywhere_if`], which the framework calls.
pub struct Channel {
    name: Arc<str>,
    service: Weak<Inner>,
    data: Mutex<Data>,
}

struct Data {
    state: ChannelState,
    members: ChannelMembers,
    /// The plan of the last push, while it is still right.
    plan: Option<Arc<FanOut>>,
}

impl Channel {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it can be used.
    pub fn state(&self) -> ChannelState {
        self.data.lock().state
    }

    /// Adds a member. False if it is one already, or if the channel was destroyed.
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

    /// Adds a member who may be going away right now: `still_there`, whether the *user* has a session on that frontend, is asked after
    /// the member was added, and if it says no, the user is taken out of all channels, unless one more attempt to join came meanwhile, which
    /// asks for itself. No lock is held while it is asked.
    ///
    /// Together with a [`remove_member_everywhere_if`] after each close, no user without a session stays a member, and none
    /// with a session is taken out, in whatever order things happen.
    ///
    /// [`remove_member_everywhere_if`]: ChannelService::remove_member_everywhere_if
    pub fn add_if(
        self: &Arc<Self>,
        uid: &Uid,
        frontend: &FrontendId,
        still_there: impl FnOnce() -> bool,
    ) -> bool {
        let added = self.add(uid, frontend);
        let Some(service) = self.service.upgrade() else {
            return false;
        };
        // Also if the user was a member: this attempt has told earlier removals that they come too late.
        let stamp = service.stamp(uid.as_str(), frontend.as_str());
        if still_there() {
            return added;
        }
        if let Some(stamp) = stamp {
            ChannelService::of(service).remove_member_since(uid.as_str(), frontend.as_str(), stamp);
        }
        false
    }

    /// Takes a member out. False if it is none. Works after [`destroy`](Self::destroy).
    pub fn leave(&self, uid: &str, frontend: &str) -> bool {
        self.leave_when(uid, frontend, |_| true)
    }

    /// Takes a member out if `gone` says so. No lock is held while it is asked: who tries to join between the question and the deed stays.
    pub fn leave_if(&self, uid: &str, frontend: &str, gone: impl FnOnce() -> bool) -> bool {
        let stamp = |service: &Inner| service.stamp(uid, frontend);
        let before = self.service.upgrade().map(|service| stamp(&service));
        gone() && self.leave_when(uid, frontend, |service| before == service.map(stamp))
    }

    /// `is_right` is asked under the lock of the channel, which whoever joins it has to take. It is ours.
    fn leave_when(
        &self,
        uid: &str,
        frontend: &str,
        is_right: impl FnOnce(Option<&Inner>) -> bool,
    ) -> bool {
        let service = self.service.upgrade();
        let _turn = service.as_ref().map(|service| service.turn(&self.name));
        let mut data = self.data.lock();
        if !data.members.contains(uid, frontend) || !is_right(service.as_deref()) {
            return false;
        }
        data.members.remove(uid, frontend);
        data.plan = None;
        let live = data.state == ChannelState::Inited;
        let Some(service) = service.as_ref().filter(|_| live) else {
            return true;
        };
        service.unlink(uid, frontend, self);
        drop(data);
        service.ask_store(|store| {
            store.remove(
                &service.members_key(&self.name),
                &member_text(uid, frontend),
            )
        });
        true
    }

    /// The members' uids, grouped by frontend, each group in the order of joining.
    pub fn members(&self) -> Vec<Uid> {
        self.data
            .lock()
            .members
            .iter()
            .map(|(uid, _)| uid.clone())
            .collect()
    }

    /// The members by frontend. Shared with others as long as nobody joins or leaves.
    pub fn members_by_frontend(&self) -> Arc<FanOut> {
        self.data.lock().plan()
    }

    /// The frontends on which this user is a member; none if he is no member.
    pub fn member(&self, uid: &str) -> Vec<FrontendId> {
        self.data.lock().members.frontends_of(uid)
    }

    /// Number of members.
    pub fn user_amount(&self) -> usize {
        self.data.lock().members.len()
    }

    /// The plan for a push to all members. Costs a pointer as long as nobody joins or leaves.
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
        let service = self.service.upgrade();
        let _turn = service.as_ref().map(|service| service.turn(&self.name));
        let mut data = self.data.lock();
        if data.state == ChannelState::Destroyed {
            return false;
        }
        data.state = ChannelState::Destroyed;
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
        true
    }

    /// Makes somebody a member, here and in the index. The caller has the turn of the name.
    fn enter(self: &Arc<Self>, service: &Inner, uid: &Uid, frontend: &FrontendId) -> bool {
        let mut data = self.data.lock();
        if data.state == ChannelState::Destroyed {
            return false;
        }
        if !data.members.add(uid, frontend) {
            // A second session of the user joins: a removal on behalf of the first one comes too late.
            service.touch(uid.as_str(), frontend.as_str());
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
