//! What listeners are told, and which of them.

use std::sync::Arc;

use shaddock_cluster::{AudienceKey, Departure};
use shaddock_core::{FrontendId, Uid};

use crate::{app::AppHandle, handler::BoxFuture};

/// A listener of the application.
pub(crate) type MemberHook = Arc<dyn Fn(AppHandle, MemberEvent) -> BoxFuture<()> + Send + Sync>;

/// A user joined or left a channel or topic.
#[derive(Debug, Clone)]
pub struct MemberEvent {
    pub(super) audience: AudienceKey,
    pub(super) uid: Uid,
    pub(super) frontend: FrontendId,
    pub(super) departure: Option<Departure>,
}

impl MemberEvent {
    /// The name of the channel or topic.
    pub fn name(&self) -> &str {
        self.audience.name()
    }

    /// Who.
    pub const fn uid(&self) -> &Uid {
        &self.uid
    }

    /// The frontend on which they joined or left.
    pub const fn frontend(&self) -> &FrontendId {
        &self.frontend
    }

    /// Why they left; `None` if they joined. After a gap in the news it is not known, and given as [`Departure::Closed`].
    pub const fn departure(&self) -> Option<Departure> {
        self.departure
    }
}

/// The application's listeners, each with what the keys begin with.
#[derive(Default)]
pub(crate) struct MemberHooks {
    pub(super) topics: Vec<(String, MemberHook)>,
    pub(super) channels: Vec<(String, MemberHook)>,
}

impl MemberHooks {
    pub(crate) fn add(&mut self, is_topic: bool, prefix: &str, hook: MemberHook) {
        let list = if is_topic {
            &mut self.topics
        } else {
            &mut self.channels
        };
        list.push((prefix.to_owned(), hook));
    }

    pub(super) fn of<'a>(&'a self, key: &'a AudienceKey) -> impl Iterator<Item = &'a MemberHook> {
        let is_topic = key.as_topic().is_some();
        let list = if is_topic {
            &self.topics
        } else {
            &self.channels
        };
        let wants =
            move |(prefix, _): &&(String, MemberHook)| key.name().starts_with(prefix.as_str());
        list.iter().filter(wants).map(|(_, hook)| hook)
    }
}
