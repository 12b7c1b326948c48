//! Connections in a simulated world: no sockets, no sleeps, one thread, time that the test moves.
//!
//! `world.rs` is the server with handlers that a test controls; `client.rs` is a client that can be made to fail in every way; `cases.rs` has
//! one case for each phase and fault, `random.rs` finds the ones that were not thought of. `traveller.rs` is a client that comes back to its
//! session, and `resume.rs` cuts its connections at every byte, also those of TLS (`tls.rs`);
//! `suspended.rs` has cases of what happens to a session between its connections.
//!
//! ```sh
//! cargo test -p shaddock-net --all-features --test sim                       # cases, and 1,000 seeds
//! SEED=17 cargo test -p shaddock-net --all-features --test sim seeds         # one seed again, with its story
//! SEEDS=100000 cargo test --release -p shaddock-net --all-features --test sim seeds
//! ```
#![allow(clippy::unwrap_used, unreachable_pub)]

mod cases;
mod client;
mod random;
mod resume;
mod suspended;
mod tls;
mod traveller;
mod world;
