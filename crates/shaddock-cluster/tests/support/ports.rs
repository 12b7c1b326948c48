//! Ports for servers that a test starts.
#![allow(dead_code, unreachable_pub, clippy::missing_panics_doc)]

use std::collections::BTreeSet;
use std::hash::BuildHasher;
use std::net::{SocketAddr, TcpListener};
use std::sync::Mutex;

static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// A port on which nothing listens, and that this test program was not given before. Not one of those that the system gives to outgoing
/// connections, or that `shaddock demo --cluster` gives to its servers: between this look and the start of the server, or while the server is
/// away for a while, one of those would take it.
pub fn free_port() -> u16 {
    loop {
        let random = std::hash::RandomState::new().hash_one(std::process::id());
        let port = 10_000 + u16::try_from(random % 10_000).unwrap();
        if GIVEN.lock().unwrap().insert(port) && TcpListener::bind(local(port)).is_ok() {
            return port;
        }
    }
}

pub fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}
