//! What is known of a client when its handshake is complete.

use crate::{Millis, Variant};
use std::fmt;
use std::net::SocketAddr;

/// What a connection is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TransportKind {
    /// Plain TCP.
    #[default]
    Tcp,
    /// TCP under TLS.
    Tls,
    /// WebSocket.
    WebSocket,
    /// WebSocket under TLS.
    WebSocketTls,
    /// In the process, for tests.
    Memory,
}

impl TransportKind {
    /// `tcp`, `tls`, `ws`, `wss` or `memory`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::WebSocket => "ws",
            Self::WebSocketTls => "wss",
            Self::Memory => "memory",
        }
    }
}

impl fmt::Display for TransportKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What is known of a client when its handshake is complete.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientInfo {
    /// How its messages are encoded.
    pub variant: Variant,
    /// What it is connected by.
    pub transport: TransportKind,
    /// Where it comes from, if it comes from the network.
    pub address: Option<SocketAddr>,
    /// When it connected.
    pub connected_at: Millis,
}
