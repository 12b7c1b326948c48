//! Connectors of shaddock on tokio: TCP and WebSocket on one port, with or without TLS.
//!
//! A [`Listener`] accepts on all [`Workers`] and passes messages of clients to a [`Frontend`]. It is independent of handlers; bytes return
//! only through the outbox of a session (`shaddock_core::Outbox`).
//!
//! ```text
//! Listener ── accept ──► Driver (one future per connection, on one worker for life)
//!    │                     │  input: PROXY head → TLS → first byte → HTTP upgrade → frames → packages
//!  Gate (lists, limits)    │  work:  Frontend::handshake / open / message, one at a time
//!    │                     │  output: the session's outbox, in as few writes as possible
//!  NetStats                └─ Wheel: the deadlines of all connections of a worker
//! ```

mod access;
mod address;
pub mod clock;
mod config;
mod current;
pub mod descriptors;
mod driver;
mod forwarded;
mod frontend;
mod io;
mod listener;
#[cfg(feature = "testing")]
pub mod memory;
mod pipe;
mod prefixed;
mod proxy;
pub mod quiet;
pub mod rate;
mod ready;
mod secrets;
mod socket;
mod stats;
mod tls;
mod upgrade;
mod wheel;
mod worker;
mod ws;

pub use access::{AccessPolicy, Gate, Permit, Refusal};
pub use address::{Network, NetworkError, canonical};
pub use clock::now;
pub use config::{ConnectionLimits, ListenConfig};
pub use driver::{RelayAnswer, Relayed};
pub use frontend::{Carried, Frontend, Opened, Peer, ResumeTerms, Verdict};
pub use listener::{ListenError, Listener};
pub use pipe::{Piece, Pipe};
pub use proxy::{ProxyHead, proxy_head};
pub use ready::{BoxFuture, MaybeReady};
pub use stats::NetStats;
pub use tls::{TlsError, TlsFiles, TlsReloader};
pub use upgrade::{UpgradePolicy, is_token};
pub use worker::Workers;
pub use ws::{WsError, WsEvent, WsReader};

/// For `fuzz/` alone: what is not public otherwise.
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing {
    use crate::{
        AccessPolicy, UpgradePolicy,
        forwarded::Client,
        upgrade::{Upgrade, upgrade},
    };
    use std::net::SocketAddr;

    /// The longest HTTP head that is read.
    pub const MAX_HTTP_HEAD: usize = crate::upgrade::MAX_HTTP_HEAD;

    /// An HTTP head: the answer and the client's address, or the refusal. `None`: not whole yet.
    pub type HttpHead = Option<Result<(Vec<u8>, Option<SocketAddr>), &'static [u8]>>;

    /// Reads an HTTP head.
    pub fn http_head(
        input: &mut bytes::BytesMut,
        policy: &UpgradePolicy,
        proxies: Option<&AccessPolicy>,
    ) -> HttpHead {
        Some(match upgrade(input, policy, proxies) {
            Upgrade::NeedMore => return None,
            Upgrade::Accepted { answer, client } => Ok((
                answer,
                match client {
                    Client::Told(address) => Some(address),
                    Client::Peer | Client::Unknown => None,
                },
            )),
            Upgrade::Refused { answer, .. } => Err(answer),
        })
    }
}
