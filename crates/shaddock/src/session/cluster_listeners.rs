//! The application's listeners of session events of the cluster, and the events that wait for them.

use std::sync::Arc;

use parking_lot::Mutex;
use shaddock_cluster::{Interest, SessionEvent as RawEvent};
use tokio::sync::mpsc;

use super::ClusterSessionEvent;
use crate::{app::AppHandle, boxed::BoxFuture};

/// A listener of the application, and what it asks for.
pub(super) type Hook = Arc<dyn Fn(AppHandle, ClusterSessionEvent) -> BoxFuture<()> + Send + Sync>;

/// The application's listeners, and the events that wait for them.
#[derive(Default)]
pub(crate) struct ClusterEventHooks {
    pub(super) hooks: Vec<(Interest, Hook)>,
    pub(super) waiting: Mutex<Option<mpsc::Sender<Arrived>>>,
}

/// An event as it came, with the type of its frontend.
pub(super) struct Arrived {
    pub(super) frontend_type: Arc<str>,
    pub(super) event: RawEvent,
}

impl ClusterEventHooks {
    pub(crate) fn add(&mut self, interest: Interest, hook: Hook) {
        self.hooks.push((interest, hook));
    }

    /// What the server asks for when it joins.
    pub(crate) fn interest(&self) -> Interest {
        let each = self.hooks.iter().map(|(interest, _)| interest.clone());
        each.fold(Interest::none(), Interest::or)
    }
}
