//! The options of a client, as [`ClientBuilder`](crate::ClientBuilder) sets them.

use std::time::Duration;

use serde_json::{Map, Value};
use shaddock_protocol::Dialect;

use crate::{HandshakeCache, Reconnect, SigningKey, TlsOptions};

#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) dialect: Dialect,
    pub(crate) client_type: String,
    pub(crate) client_version: String,
    pub(crate) build_number: String,
    pub(crate) user: Value,
    pub(crate) key: Option<SigningKey>,
    pub(crate) cache: HandshakeCache,
    pub(crate) tls: TlsOptions,
    pub(crate) connect_timeout: Duration,
    pub(crate) request_timeout: Option<Duration>,
    pub(crate) max_package_size: usize,
    pub(crate) max_pending: usize,
    pub(crate) command_capacity: usize,
    pub(crate) push_capacity: usize,
    pub(crate) is_error: fn(i64) -> bool,
    pub(crate) reconnect: Option<Reconnect>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            dialect: Dialect::Pomelo,
            client_type: "shaddock".to_owned(),
            client_version: env!("CARGO_PKG_VERSION").to_owned(),
            build_number: "1".to_owned(),
            // Applications access it without checking whether it is present.
            user: Value::Object(Map::new()),
            key: None,
            cache: HandshakeCache::default(),
            tls: TlsOptions::default(),
            connect_timeout: Duration::from_secs(10),
            request_timeout: Some(Duration::from_secs(30)),
            max_package_size: 1024 * 1024,
            max_pending: 1024,
            command_capacity: 64,
            push_capacity: 256,
            is_error: |code| code >= 400,
            reconnect: None,
        }
    }
}
