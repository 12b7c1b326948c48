//! The state that the servers of a local cluster share.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU16;
use std::time::Duration;

use arc_swap::ArcSwap;

use super::users::Users;
use crate::reply::{ServingCount, guarded};
use crate::{
    ClusterError, JoinOptions, MemberChange, Members, Node, ServerId, ServerInfo, SessionEvent,
};
use parking_lot::Mutex;

/// The servers, their list, and the users who are bound.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) members: Members,
    /// Replaced as a whole when a server joins or leaves, so that calls take no lock.
    pub(super) seats: ArcSwap<HashMap<ServerId, Arc<Seat>>>,
    writer: Mutex<()>,
    pub(super) users: Users,
    pub(super) request_timeout: Duration,
    /// Starts of frontends.
    pub(super) starts: AtomicU16,
}

/// A server of the cluster.
pub(super) struct Seat {
    pub(super) info: Arc<ServerInfo>,
    pub(super) options: JoinOptions,
    pub(super) node: Arc<dyn Node>,
    pub(super) serving: Arc<ServingCount>,
}

impl std::fmt::Debug for Seat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seat")
            .field("info", &self.info)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// Callers without a timeout wait for `request_timeout`.
    pub(super) fn new(request_timeout: Duration) -> Self {
        Self {
            members: Members::new(),
            seats: ArcSwap::default(),
            writer: Mutex::new(()),
            users: Users::default(),
            request_timeout,
            starts: AtomicU16::default(),
        }
    }

    pub(super) fn enter(&self, seat: &Arc<Seat>) -> Result<(), ClusterError> {
        {
            let _writer = self.writer.lock();
            let mut seats = HashMap::clone(&self.seats.load());
            if seats.contains_key(&seat.info.id) {
                return Err(ClusterError::IdTaken(seat.info.id.clone()));
            }
            seats.insert(seat.info.id.clone(), Arc::clone(seat));
            self.seats.store(Arc::new(seats));
        }
        if !seat.options.hidden && self.members.add(Arc::clone(&seat.info)) {
            self.notify_others(&seat.info.id, &MemberChange::Joined(Arc::clone(&seat.info)));
        }
        Ok(())
    }

    pub(super) fn seat(&self, id: &str) -> Option<Arc<Seat>> {
        self.seats.load().get(id).cloned()
    }

    pub(super) fn notify_others(&self, about: &ServerId, change: &MemberChange) {
        for (id, seat) in self.seats.load().iter() {
            if id != about {
                guarded("member_changed", || {
                    seat.node.member_changed(change.clone());
                });
            }
        }
    }

    pub(super) fn publish_to_others(&self, frontend_type: &Arc<str>, event: &SessionEvent) {
        for seat in self.seats.load().values() {
            if seat
                .options
                .session_events
                .wants_event(frontend_type, event)
            {
                guarded("session_event", || {
                    seat.node.session_event(frontend_type, event.clone());
                });
            }
        }
    }

    /// Removes a server from the list; true the first time.
    pub(super) fn unlist(&self, id: &ServerId) -> bool {
        let Some(info) = self.members.remove(id.as_str()) else {
            return false;
        };
        self.notify_others(id, &MemberChange::Left(info));
        true
    }

    pub(super) fn remove_seat(&self, id: &ServerId) {
        let _writer = self.writer.lock();
        let mut seats = HashMap::clone(&self.seats.load());
        seats.remove(id);
        self.seats.store(Arc::new(seats));
    }
}
