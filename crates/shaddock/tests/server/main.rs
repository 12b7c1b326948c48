//! Whole servers in one process, as an application starts them. Each module is about one part; together they are one program, so that they are
//! linked once.
//!
//! ```sh
//! cargo test -p shaddock --all-features --test server channels::
//! ```
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod backends;
#[cfg(feature = "testing")]
mod background;
mod channels;
mod console_api;
mod defects;
mod destructors;
mod dispatch;
mod filters;
mod forwarded;
mod guides;
mod handshakes;
#[cfg(feature = "testing")]
mod in_memory;
mod metrics;
mod operations;
mod owners;
mod prometheus;
mod restored;
mod resume;
mod resume_cuts;
mod resume_login;
mod resume_storm;
mod resume_types;
mod rooms_model;
mod routing;
mod server_api;
mod sessions;
mod sockets;
#[cfg(feature = "otlp")]
mod telemetry;
mod topics;
mod unsendable;

#[path = "../http/mod.rs"]
mod http;
#[cfg(feature = "otlp")]
#[path = "../otlp/mod.rs"]
mod otlp;
#[cfg(feature = "nats")]
#[path = "../../../shaddock-cluster/tests/support/ports.rs"]
mod ports;
#[cfg(feature = "nats")]
#[allow(
    dead_code,
    unreachable_pub,
    clippy::missing_panics_doc,
    reason = "shared with the tests of shaddock-cluster"
)]
#[path = "../../../shaddock-cluster/tests/support/servers.rs"]
mod servers;
#[path = "../support/mod.rs"]
mod support;

use support::wait;

/// For `servers`: nothing to set up here.
#[cfg(feature = "nats")]
const fn logs() {}
