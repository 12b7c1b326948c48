//! What an operator sets for a listener, with defaults and bounds.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use crate::{access::AccessPolicy, tls::TlsReloader, upgrade::UpgradePolicy};

/// One listener: address, encryption and bounds.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ListenConfig {
    /// Address to listen on; port 0 takes a free one.
    pub address: SocketAddr,
    /// Connections that wait in the kernel for `accept`. Default 4096 (the kernel's `somaxconn` may lower it); above it
    /// clients retry by themselves.
    pub backlog: u32,
    /// `TCP_NODELAY`. Default true: a game wants its packet now.
    pub nodelay: bool,
    /// TLS for the whole port.
    pub tls: Option<Arc<TlsReloader>>,
    /// Address lists and connection limits.
    pub access: AccessPolicy,
    /// Trusted proxies must begin with a PROXY protocol head (v1 or v2). Default false.
    pub proxy_protocol: bool,
    /// Whose pages may open a WebSocket, and the header with the client's address.
    pub upgrade: UpgradePolicy,
    /// Bounds of each connection.
    pub limits: ConnectionLimits,
}

impl ListenConfig {
    /// A plain listener on `address` with all defaults.
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

/// Bounds of one connection, besides those of the protocol (`shaddock_protocol::Limits`).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ConnectionLimits {
    /// Messages per second of one session on average, 0 = no limit (default). Above it the session is kicked.
    pub messages_per_second: u32,
    /// Messages that may come at once on top of the average. Default 100.
    pub burst: u32,
    /// WebSocket pings per second, default 20. Above it the connection is closed.
    pub pings_per_second: u32,
    /// Messages that wait while a handler of the same session runs. Default 256; at the bound the connection is not read, so
    /// the client's own socket slows it down. Signs of life, and its end, are seen all the same.
    pub waiting_messages: usize,
    /// Bytes of those messages, with what keeping them takes. Default 256 KiB; as above.
    pub waiting_bytes: usize,
    /// A client whose socket takes nothing of what waits for it for so long is disconnected as slow. Default 5 s.
    pub slow_after: Duration,
    /// How long a closing connection may take to send what is queued. Default 2 s; then the rest is lost.
    pub linger: Duration,
}

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

/// What may change while a listener runs. A connection keeps what there was when it came.
#[derive(Debug, Default)]
pub(crate) struct Live {
    pub(crate) limits: ConnectionLimits,
    pub(crate) upgrade: UpgradePolicy,
}
