//! What a watcher knows of the frontends.

use std::collections::HashMap;

use parking_lot::{Mutex, MutexGuard};
use shaddock_cluster::ServerId;
use tokio::sync::mpsc;

use super::{event::MemberEvent, view::View};

/// The members that a watcher knows, by frontend.
#[derive(Default)]
pub(crate) struct Watch {
    pub(super) frontends: Mutex<HashMap<ServerId, View>>,
    pub(super) events: Mutex<Option<mpsc::Sender<MemberEvent>>>,
}

impl Watch {
    pub(super) fn lock(&self) -> MutexGuard<'_, HashMap<ServerId, View>> {
        self.frontends.lock()
    }
}
