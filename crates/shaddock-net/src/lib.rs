//! Connectors of shaddock on tokio: TCP and WebSocket on one port, with or without TLS.
//!
//! A [`Listener`] accepts on every one of the [`Workers`] and gives what clients say to a [`Frontend`]. It knows nothing of
//! handlers; bytes go back only through the outbox of a session (`shaddock_core::Outbox`).
//!
//! ```text
//! Listener ── accept ──► Driver (one future per connection, on one worker for life)
//!    │                     │  input: PROXY head → TLS → first byte → HTTP upgrade → frames → packages
//!  Gate (lists, limits)    │  work:  Frontend::handshake / open / message, one at a time
//!    │                     │  output: the session's outbox, in as few writes as possible
//!  NetStats                └─ Wheel: the deadlines of all connections of a worker
//! ```

mod access;
pub mod clock;
mod config;
mod driver;
mod frontend;
mod io;
mod listener;
#[cfg(feature = "testing")]
pub mod memory;
mod proxy;
mod rate;
mod socket;
mod stats;
mod tls;
mod upgrade;
mod wheel;
mod worker;
mod ws;

pub use access::{AccessPolicy, Gate, Permit, Refusal};
pub use clock::now;
pub use config::{ConnectionLimits, ListenConfig};
pub use frontend::{BoxFuture, Flow, Frontend, Handled, Opened, Peer, Verdict};
pub use listener::{ListenError, Listener};
pub use proxy::{ProxyHead, proxy_head};
pub use stats::NetStats;
pub use tls::{TlsError, TlsFiles, TlsReloader};
pub use upgrade::UpgradePolicy;
pub use worker::Workers;
pub use ws::{WsError, WsEvent, WsReader};

/// For `fuzz/` alone: what is not public otherwise.
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing {
    use crate::upgrade::{Upgrade, upgrade};
    use std::net::IpAddr;

    /// An HTTP head: the answer and the client's address, or the refusal. `None`: not whole yet.
    pub type HttpHead = Option<Result<(Vec<u8>, Option<IpAddr>), &'static [u8]>>;

    /// Reads an HTTP head.
    pub fn http_head(
        input: &mut bytes::BytesMut,
        policy: &crate::UpgradePolicy,
        trusted: bool,
    ) -> HttpHead {
        Some(match upgrade(input, policy, trusted) {
            Upgrade::NeedMore => return None,
            Upgrade::Accepted {
                answer,
                forwarded_for,
            } => Ok((answer, forwarded_for)),
            Upgrade::Refused { answer, .. } => Err(answer),
        })
    }
}
