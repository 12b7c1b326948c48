//! The configuration of a listener, with defaults and limits.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use crate::{access::AccessPolicy, tls::TlsReloader, upgrade::UpgradePolicy};

/// One listener: address, encryption and limits.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ListenConfig {
    /// Address to listen on; port 0 takes a free one.
    pub address: SocketAddr,
    /// Connections that wait in the kernel for `accept`. Default 4096 (the kernel's `somaxconn` may lower it); above it clients retry
    /// automatically.
    pub backlog: u32,
    /// `TCP_NODELAY`. Default true, for low latency.
    pub nodelay: bool,
    /// TLS for the whole port.
    pub tls: Option<Arc<TlsReloader>>,
    /// Address lists and connection limits.
    pub access: AccessPolicy,
    /// Trusted proxies must begin with a PROXY protocol head (v1 or v2). Default false.
    pub proxy_protocol: bool,
    /// Allowed origins of WebSockets, and the header with the client's address.
    pub upgrade: UpgradePolicy,
    /// Limits of each connection.
    pub limits: ConnectionLimits,
}

shaddock_protocol::setters!(ListenConfig {
    address: SocketAddr,
    backlog: u32,
    nodelay: bool,
    tls: impl Into<Option<Arc<TlsReloader>>>,
    access: AccessPolicy,
    proxy_protocol: bool,
    upgrade: UpgradePolicy,
    limits: ConnectionLimits,
});

impl ListenConfig {
    /// Creates a plain listener on `address` with all defaults.
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            backlog: 4096,
            nodelay: true,
            tls: None,
            access: AccessPolicy::default(),
            proxy_protocol: false,
            upgrade: UpgradePolicy::default(),
            limits: ConnectionLimits::default(),
        }
    }
}

/// Limits of one connection, in addition to those of the protocol (`shaddock_protocol::Limits`).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ConnectionLimits {
    /// Messages per second of one session on average, 0 = no limit (default). Above it the session is kicked.
    pub messages_per_second: u32,
    /// Messages that may arrive at once beyond the average. Default 100.
    pub burst: u32,
    /// WebSocket pings per second, default 20. Above it the connection is closed.
    pub pings_per_second: u32,
    /// Messages that wait while a handler of the same session runs. Default 256; at the limit the connection is not read, so TCP flow
    /// control slows the client down. Heartbeats and the end of the connection are still detected.
    pub waiting_messages: usize,
    /// Bytes of those messages, including the overhead of keeping them. Default 256 KiB; as above.
    pub waiting_bytes: usize,
    /// A client whose socket accepts no queued data for this time is disconnected as slow. Default 5 s.
    pub slow_after: Duration,
    /// Time for a closing connection to send its queued data. Default 2 s; then the rest is lost.
    pub linger: Duration,
}

shaddock_protocol::setters!(ConnectionLimits {
    messages_per_second: u32,
    burst: u32,
    pings_per_second: u32,
    waiting_messages: usize,
    waiting_bytes: usize,
    slow_after: Duration,
    linger: Duration,
});

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            messages_per_second: 0,
            burst: 100,
            pings_per_second: 20,
            waiting_messages: 256,
            waiting_bytes: 256 * 1024,
            slow_after: Duration::from_secs(5),
            linger: Duration::from_secs(2),
        }
    }
}

/// The settings that may change while a listener runs. A connection keeps the settings of its beginning.
#[derive(Debug, Default)]
pub(crate) struct Live {
    pub(crate) limits: ConnectionLimits,
    pub(crate) upgrade: UpgradePolicy,
}
