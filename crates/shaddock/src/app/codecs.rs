//! The codec of an app, and the limits of new connections.

use std::sync::Arc;

use parking_lot::RwLock;
use shaddock_protocol::{Codec, CodecConfig};

/// The codec of messages, and the same codec with the limits for new connections, which differs after a reload.
pub(crate) struct Codecs {
    messages: Arc<Codec>,
    connections: RwLock<Arc<Codec>>,
}

impl Codecs {
    pub(super) fn new(codec: Codec) -> Self {
        let messages = Arc::new(codec);
        Self {
            connections: RwLock::new(Arc::clone(&messages)),
            messages,
        }
    }

    /// The codec of messages. It never changes, because open connections rely on it.
    pub(crate) const fn messages(&self) -> &Arc<Codec> {
        &self.messages
    }

    /// The codec of a new connection.
    pub(crate) fn of_connection(&self) -> Arc<Codec> {
        self.connections.read().clone()
    }

    /// Takes limits, heartbeats and the requirement of signatures from `config`, for later connections.
    pub(super) fn set_limits(&self, config: &CodecConfig) {
        let fresh = Codec::new(
            self.messages
                .config()
                .clone()
                .limits(config.limits.clone())
                .heartbeat(config.heartbeat)
                .heartbeat_timeout(config.heartbeat_timeout)
                .crypto(config.crypto)
                .unsigned_pitaya(config.unsigned_pitaya),
        );
        *self.connections.write() = Arc::new(fresh);
    }
}
