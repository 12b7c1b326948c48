//! What a watcher knows of the frontends.

use std::{collections::HashMap, sync::OnceLock};

use parking_lot::{Mutex, MutexGuard};
use shaddock_cluster::ServerId;
use tokio::sync::mpsc;

use super::{event::MemberEvent, view::View};

/// The members that a watcher knows, by frontend.
#[derive(Default)]
pub(crate) struct Watch {
    pub(super) frontends: Mutex<HashMap<ServerId, View>>,
    /// The audiences of the application's listeners. Set once, at the start.
    pub(super) listened: OnceLock<Listened>,
    pub(super) events: Mutex<Option<mpsc::Sender<MemberEvent>>>,
}

/// The audiences of the application's listeners.
#[derive(Default)]
pub(super) struct Listened {
    /// The prefixes of names of topics.
    pub(super) topics: Vec<String>,
    pub(super) has_channels: bool,
}

impl Watch {
    pub(super) fn lock(&self) -> MutexGuard<'_, HashMap<ServerId, View>> {
        self.frontends.lock()
    }
}
