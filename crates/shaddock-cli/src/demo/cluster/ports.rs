//! Free ports for servers without a configured one.

use std::{
    hash::{BuildHasher as _, RandomState},
    net::{IpAddr, SocketAddr, TcpListener},
};

/// The first of the ports for servers without a configured port, and the one after the last.
const PORTS: (u16, u16) = (20_000, 32_000);
/// How many of them are tried.
const TRIES: usize = 100;

/// A port that is free, and stays reserved until the listener is dropped and a child takes the port.
///
/// The kernel would choose one of those that it gives to outgoing connections as well, which may happen in between. So it is one
/// below them.
pub(super) fn free_address(host: IpAddr) -> std::io::Result<(TcpListener, SocketAddr)> {
    let mut last = None;
    for _ in 0..TRIES {
        // The standard library's hasher has a random key.
        let random = RandomState::new().hash_one(std::process::id()) % u64::from(PORTS.1 - PORTS.0);
        let port = PORTS.0 + u16::try_from(random).unwrap_or_default();
        match TcpListener::bind((host, port)) {
            Ok(listener) => {
                let address = listener.local_addr()?;
                return Ok((listener, address));
            }
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| std::io::ErrorKind::AddrInUse.into()))
}
