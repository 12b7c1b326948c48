//! Properties of a client with a complete handshake.

use crate::{Millis, Variant};
use std::fmt;
use std::net::SocketAddr;

/// The transport of a connection.
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
    /// In process, for tests.
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

/// Properties of a client with a complete handshake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientInfo {
    /// The encoding of messages to the client.
    pub variant: Variant,
    /// The transport of the connection.
    pub transport: TransportKind,
    /// The client's network address, if it has one.
    pub address: Option<SocketAddr>,
    /// The time of the connection. A session keeps at most 2^40 milliseconds (34 years) after the zero point of the clock.
    pub connected_at: Millis,
}
