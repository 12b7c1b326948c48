//! The configuration of channels.

use crate::ChannelStore;
use std::fmt;
use std::sync::Arc;

/// Limits and persistence of the channels of one server.
#[derive(Clone)]
#[non_exhaustive]
pub struct ChannelConfig {
    /// Maximum number of channels. Default: 100,000. Above it no channel is created.
    pub max_channels: usize,
    /// Prefix of the keys in the store. Default: `pomelo:channel`.
    pub prefix: String,
    /// Store that keeps channels over a restart. Default: none.
    pub store: Option<Arc<dyn ChannelStore>>,
}

shaddock_protocol::setters!(ChannelConfig {
    max_channels: usize,
    prefix: String,
    store: Arc<dyn ChannelStore>,
});

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
