//! Whole servers on several frontends, with a real NATS and etcd between them. The tests of the cluster's own parts are in `shaddock-cluster`.
//!
//! ```sh
//! cargo test -p shaddock --all-features --test nats rooms_on_nats::
//! ```
#![cfg(feature = "nats")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod drain_elsewhere;
mod latest;
mod resume_elsewhere;
mod resume_full;
mod rooms_on_nats;

#[path = "../../../shaddock-cluster/tests/support/balancer.rs"]
mod balancer;
#[path = "../../../shaddock-cluster/tests/support/ports.rs"]
mod ports;
#[allow(
    dead_code,
    unreachable_pub,
    reason = "shared with the tests of shaddock-cluster"
)]
#[path = "../../../shaddock-cluster/tests/support/proxy.rs"]
mod proxy;
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
const fn logs() {}
