//! Helpers of the tests: a node that behaves like a server with sessions, real NATS and etcd servers, and a network that can
//! be cut.
#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::missing_panics_doc,
    clippy::unwrap_used,
    clippy::unused_self
)]

pub mod node;
#[cfg(feature = "nats")]
pub mod ports;
#[cfg(feature = "nats")]
pub mod proxy;
#[cfg(feature = "nats")]
pub mod servers;
pub mod wait;

pub use wait::until;

/// Logs of the code under test when `RUST_LOG`-like debugging is wanted: set `SHADDOCK_TEST_LOG`.
pub fn logs() {
    if std::env::var_os("SHADDOCK_TEST_LOG").is_some() {
        let _ = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::DEBUG)
            .with_test_writer()
            .try_init();
    }
}
