//! How the bytes of a connection are framed.

use shaddock_protocol::Conn;

use crate::{rate::Bucket, ws::WsReader};

/// How the bytes of a connection are framed, as far as it is known.
pub(super) enum Wire {
    /// A trusted proxy still owes its head.
    Proxy,
    /// Nothing has arrived: the first byte decides.
    Unknown,
    /// An HTTP head is arriving.
    Http,
    /// Packages back to back.
    Tcp,
    /// Packages in WebSocket messages.
    Ws(Box<Ws>),
    /// The socket is gone.
    Closed,
}

/// The WebSocket part of a connection; boxed, so that TCP does not pay for it.
pub(super) struct Ws {
    pub(super) reader: WsReader,
    pub(super) pings: Bucket,
    /// The status that the client closed with, for the answer.
    pub(super) goodbye: Option<u16>,
    /// The client has closed, with a status or without.
    pub(super) is_closed: bool,
}

impl Wire {
    pub(super) fn new(proxy_head_expected: bool) -> Self {
        if proxy_head_expected {
            Self::Proxy
        } else {
            Self::Unknown
        }
    }

    pub(super) fn is_proxy(&self) -> bool {
        matches!(self, Self::Proxy)
    }
}

/// The longest WebSocket message: it may hold several packages, so it may be a little longer than one.
pub(super) fn max_message(conn: &Conn) -> usize {
    conn.codec().limits().max_package_size + 1024
}
