//! Address lists and connection limits of a listener.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use parking_lot::{Mutex, MutexGuard};

use crate::{address::Network, current::Current};

/// Limits and lists of one listener. They can be replaced while it runs; open connections stay.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct AccessPolicy {
    /// If not empty, only these networks may connect.
    pub allow: Vec<Network>,
    /// These networks may not connect, also when they are allowed above.
    pub deny: Vec<Network>,
    /// Load balancers whose PROXY head or address header is trusted.
    pub trusted_proxies: Vec<Network>,
    /// Open connections of the listener, 0 = no limit.
    pub max_connections: usize,
    /// Open connections from one client address, 0 = no limit.
    pub max_connections_per_address: usize,
}

shaddock_protocol::setters!(AccessPolicy {
    allow: Vec<Network>,
    deny: Vec<Network>,
    trusted_proxies: Vec<Network>,
    max_connections: usize,
    max_connections_per_address: usize,
});

/// Why a connection was rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// On the deny list, or not on the allow list.
    Denied,
    /// The listener has reached its limit of connections.
    TooMany,
    /// The address has reached its limit of connections.
    TooManyFromAddress,
    /// A trusted proxy sent no PROXY head, or an invalid one.
    BadProxyHead,
    /// A trusted proxy did not name the client: the configured header is missing, or its address cannot be read.
    NoClientAddress,
    /// All file descriptors but the [reserve](crate::descriptors) are taken.
    OutOfDescriptors,
}

impl Refusal {
    /// The name for logs and counters.
    pub fn name(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::TooMany => "too_many_connections",
            Self::TooManyFromAddress => "too_many_from_address",
            Self::BadProxyHead => "bad_proxy_head",
            Self::NoClientAddress => "no_client_address",
            Self::OutOfDescriptors => "out_of_descriptors",
        }
    }
}

fn contains(networks: &[Network], address: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(address))
}

impl AccessPolicy {
    /// Checks whether the lists allow `address`. An IPv4 address mapped into IPv6 counts as IPv4.
    ///
    /// # Errors
    /// [`Refusal::Denied`].
    pub fn check(&self, address: IpAddr) -> Result<(), Refusal> {
        let allowed = self.allow.is_empty() || contains(&self.allow, address);
        if allowed && !contains(&self.deny, address) {
            Ok(())
        } else {
            Err(Refusal::Denied)
        }
    }

    /// Whether `address` is a trusted proxy.
    pub fn is_trusted_proxy(&self, address: IpAddr) -> bool {
        contains(&self.trusted_proxies, address)
    }
}

/// The admission control of one listener: the current policy and its counts.
#[derive(Debug, Default)]
pub struct Gate {
    policy: Current<AccessPolicy>,
    open: AtomicUsize,
    /// Of those, the connections whose socket is closed and whose handler is still running.
    outlived: AtomicUsize,
    by_address: Mutex<HashMap<IpAddr, usize>>,
}

impl Gate {
    /// Creates a gate without connections.
    pub fn new(policy: AccessPolicy) -> Arc<Self> {
        Arc::new(Self {
            policy: Current::new(Arc::new(policy)),
            ..Self::default()
        })
    }

    /// The current policy.
    pub fn policy(&self) -> Arc<AccessPolicy> {
        self.policy.get()
    }

    /// Replaces the policy for new connections.
    pub fn set_policy(&self, policy: AccessPolicy) {
        self.policy.set(Arc::new(policy));
    }

    /// Open connections. Connections whose client has disconnected and whose handler is still running count for the limits, but not here.
    pub fn open(&self) -> usize {
        let counted = self.open.load(Ordering::Relaxed);
        counted.saturating_sub(self.outlived.load(Ordering::Relaxed))
    }

    /// Counts a connection, unless the limit is reached.
    ///
    /// # Errors
    /// [`Refusal::TooMany`]; nothing remains counted.
    pub fn enter(self: &Arc<Self>) -> Result<Permit, Refusal> {
        let max = self.policy().max_connections;
        // Count first, then check: the permit reverts its count, so a rejection cannot leak.
        let before = self.open.fetch_add(1, Ordering::Relaxed);
        let permit = Permit {
            gate: self.clone(),
            address: None,
        };
        if max != 0 && before >= max {
            return Err(Refusal::TooMany);
        }
        Ok(permit)
    }

    fn count_address(
        self: &Arc<Self>,
        address: IpAddr,
        max: usize,
    ) -> Result<AddressCount, Refusal> {
        let mut counts = self.counts();
        let count = counts.entry(address).or_insert(0);
        if *count >= max {
            return Err(Refusal::TooManyFromAddress);
        }
        *count += 1;
        Ok(AddressCount {
            gate: self.clone(),
            address,
        })
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.by_address.lock()
    }
}

/// A connection in the count of its address; dropping it reverts the count.
#[derive(Debug)]
struct AddressCount {
    gate: Arc<Gate>,
    address: IpAddr,
}

impl Drop for AddressCount {
    fn drop(&mut self) {
        let mut counts = self.gate.counts();
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

/// A counted connection; dropping it reverts the count.
#[derive(Debug)]
pub struct Permit {
    gate: Arc<Gate>,
    /// Boxed: most listeners have no limit for an address.
    address: Option<Box<AddressCount>>,
}

impl Permit {
    /// Checks the client's address, once it is known, against lists and limits. A connection counts for one address: if it is checked again
    /// with a more precise address, the first count is released.
    ///
    /// # Errors
    /// The [`Refusal`]; the connection must be closed.
    pub fn admit(&mut self, address: IpAddr) -> Result<(), Refusal> {
        // Before the new count: the address may be the same.
        self.address = None;
        let policy = self.gate.policy();
        policy.check(address)?;
        let max = policy.max_connections_per_address;
        if max != 0 {
            let count = self.gate.count_address(address.to_canonical(), max)?;
            self.address = Some(Box::new(count));
        }
        Ok(())
    }
}

impl Permit {
    /// The client has disconnected, and a handler is still running for it: this counts for the limits until the permit is dropped.
    pub(crate) fn outlive_socket(&self) {
        self.gate.outlived.fetch_add(1, Ordering::Relaxed);
    }

    /// The handler of [`outlive_socket`](Self::outlive_socket) has ended.
    pub(crate) fn outlived(&self) {
        self.gate.outlived.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.gate.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn lists() {
        let policy = AccessPolicy {
            allow: vec!["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()],
            deny: vec!["10.9.0.0/16".parse().unwrap()],
            ..AccessPolicy::default()
        };
        assert_eq!(policy.check(ip("10.1.2.3")), Ok(()));
        assert_eq!(policy.check(ip("::ffff:10.1.2.3")), Ok(()));
        assert_eq!(policy.check(ip("10.9.2.3")), Err(Refusal::Denied));
        assert_eq!(policy.check(ip("192.0.2.1")), Err(Refusal::Denied));
        assert_eq!(AccessPolicy::default().check(ip("192.0.2.1")), Ok(()));
    }

    /// Defect 21 of the original: rejected connections stayed counted until the server rejected all clients.
    #[test]
    fn defect_21_refused_connections_are_not_counted() {
        let gate = Gate::new(AccessPolicy {
            max_connections: 1,
            ..AccessPolicy::default()
        });
        let first = gate.enter().unwrap();
        for _ in 0..10 {
            assert_eq!(gate.enter().unwrap_err(), Refusal::TooMany);
        }
        assert_eq!(gate.open(), 1);
        drop(first);
        assert_eq!(gate.open(), 0);
        assert!(gate.enter().is_ok());
    }

    #[test]
    fn per_address_counts_come_back() {
        let gate = Gate::new(AccessPolicy {
            max_connections_per_address: 2,
            ..AccessPolicy::default()
        });
        let enter = || {
            let mut permit = gate.enter().unwrap();
            permit.admit(ip("192.0.2.1")).map(|()| permit)
        };
        let first = enter().unwrap();
        let _second = enter().unwrap();
        assert_eq!(enter().unwrap_err(), Refusal::TooManyFromAddress);
        assert!(gate.enter().unwrap().admit(ip("192.0.2.2")).is_ok());
        drop(first);
        assert!(enter().is_ok());
        assert_eq!(gate.by_address.lock().len(), 1, "no entry for who has left");
    }
    /// A PROXY head and then a header tell two addresses: the connection counts for one of them, and for none once it is gone.
    #[test]
    fn a_connection_counts_for_one_address_however_often_it_is_judged() {
        let gate = Gate::new(AccessPolicy {
            deny: vec!["192.0.2.9".parse().unwrap()],
            max_connections_per_address: 1,
            ..AccessPolicy::default()
        });
        let addresses = ["192.0.2.1", "192.0.2.2", "::ffff:192.0.2.2", "192.0.2.9"];
        for first in addresses {
            for second in addresses {
                let mut permit = gate.enter().unwrap();
                for address in [first, second] {
                    let judged = permit.admit(ip(address));
                    assert_eq!(judged.is_ok(), address != "192.0.2.9", "{first} {second}");
                    let counts = gate.counts();
                    assert!(counts.values().all(|count| *count == 1), "{counts:?}");
                    assert_eq!(counts.len(), usize::from(judged.is_ok()), "{counts:?}");
                }
                drop(permit);
                assert!(gate.counts().is_empty(), "{first} {second}");
            }
        }
        let mut held = gate.enter().unwrap();
        held.admit(ip("192.0.2.1")).unwrap();
        let mut late = gate.enter().unwrap();
        late.admit(ip("192.0.2.2")).unwrap();
        assert_eq!(
            late.admit(ip("192.0.2.1")),
            Err(Refusal::TooManyFromAddress)
        );
        assert_eq!(
            gate.counts().len(),
            1,
            "a refused connection counts for no address"
        );
    }

    #[test]
    fn lists_match_addresses_mapped_into_ipv6() {
        for deny in ["127.0.0.2", "::ffff:127.0.0.2"] {
            let policy = AccessPolicy {
                deny: vec![deny.parse().unwrap()],
                trusted_proxies: vec![deny.parse().unwrap()],
                ..AccessPolicy::default()
            };
            for address in ["127.0.0.2", "::ffff:127.0.0.2"] {
                assert_eq!(
                    policy.check(ip(address)),
                    Err(Refusal::Denied),
                    "{deny} {address}"
                );
                assert!(policy.is_trusted_proxy(ip(address)), "{deny} {address}");
            }
        }
    }
}
