//! The application's listeners of changes.

use std::sync::Arc;

use shaddock_cluster::AudienceKey;

use super::{MemberEvent, known::Listened};
use crate::{app::AppHandle, boxed::BoxFuture};

/// A listener of the application.
pub(crate) type MemberHook = Arc<dyn Fn(AppHandle, MemberEvent) -> BoxFuture<()> + Send + Sync>;

/// The application's listeners, each with what the keys begin with.
#[derive(Default)]
pub(crate) struct MemberHooks {
    topics: Vec<(String, MemberHook)>,
    channels: Vec<(String, MemberHook)>,
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

    /// The channels and topics that they watch.
    pub(super) fn listened(&self) -> Listened {
        let prefixes = self.topics.iter().map(|(prefix, _)| prefix.clone());
        Listened {
            topics: prefixes.collect(),
            has_channels: !self.channels.is_empty(),
        }
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
