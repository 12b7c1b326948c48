//! The canonical form of addresses and networks: an IPv4 address mapped into IPv6 (`::ffff:192.0.2.1`, as sockets for both families return
//! it) is the IPv4 address.
//!
//! Every client address passes through [`canonical`] on input: from the socket, from a PROXY head, from an HTTP header. Every network in a
//! configuration is a [`Network`]. So all comparisons, counts, logs and outputs use the same form.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use ipnet::{IpNet, Ipv4Net};

/// The canonical form of an address.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    let ip = address.ip().to_canonical();
    if ip == address.ip() {
        // Other parts of an IPv6 address (its scope) stay.
        return address;
    }
    SocketAddr::new(ip, address.port())
}

/// A network in CIDR form, or a single address, in canonical form: `::ffff:10.0.0.0/104` is `10.0.0.0/8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Network(IpNet);

/// Why a text is not a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// The text cannot be parsed.
    #[error("\"{0}\" is not a network; write \"10.0.0.0/8\", \"2001:db8::/32\" or one address")]
    Unreadable(String),
    /// Bits after the prefix are set, so the meaning is ambiguous.
    #[error(
        "\"{text}\" has bits set after its prefix; write \"{network}\" for the network or \"{address}\" for the one address"
    )]
    HostBits {
        /// The text.
        text: String,
        /// The network around it.
        network: Network,
        /// The address in it.
        address: IpAddr,
    },
}

impl Network {
    /// Whether `address` is in the network.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }

    /// Whether all of `other` is in the network.
    pub fn covers(&self, other: &Self) -> bool {
        self.0.contains(&other.0)
    }
}

impl From<IpNet> for Network {
    fn from(network: IpNet) -> Self {
        /// Bits in front of an IPv4 address that is mapped into IPv6.
        const MAPPED: u8 = 96;
        if let IpNet::V6(v6) = network
            && let Some(v4) = v6.addr().to_ipv4_mapped()
            && let Some(prefix) = v6.prefix_len().checked_sub(MAPPED)
            && let Ok(v4) = Ipv4Net::new(v4, prefix)
        {
            return Self(IpNet::V4(v4));
        }
        Self(network)
    }
}

impl From<IpAddr> for Network {
    fn from(address: IpAddr) -> Self {
        Self(address.to_canonical().into())
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(address.into());
        }
        let network: IpNet = text
            .parse()
            .map_err(|_| NetworkError::Unreadable(text.to_owned()))?;
        if network.addr() != network.network() {
            return Err(NetworkError::HostBits {
                text: text.to_owned(),
                network: network.trunc().into(),
                address: network.addr(),
            });
        }
        Ok(network.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_and_addresses_have_one_form() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.1.2.3", "11.0.0.1"),
            ("::ffff:10.0.0.0/104", "10.1.2.3", "11.0.0.1"),
            ("127.0.0.2", "127.0.0.2", "127.0.0.1"),
            ("::ffff:127.0.0.2", "127.0.0.2", "127.0.0.1"),
            ("::ffff:127.0.0.2/128", "127.0.0.2", "127.0.0.1"),
            ("::ffff:0:0/96", "192.0.2.1", "2001:db8::1"),
            ("0.0.0.0/0", "192.0.2.1", "2001:db8::1"),
        ] {
            let network: Network = network.parse().unwrap();
            for (address, is_in) in [(inside, true), (outside, false)] {
                let address: IpAddr = address.parse().unwrap();
                assert_eq!(network.contains(address), is_in, "{network} {address}");
                if let IpAddr::V4(v4) = address {
                    let mapped = IpAddr::V6(v4.to_ipv6_mapped());
                    assert_eq!(network.contains(mapped), is_in, "{network} {mapped}");
                }
            }
            assert_eq!(network.to_string().parse(), Ok(network));
        }
        let v6: Network = "2001:db8::/32".parse().unwrap();
        assert!(v6.contains("2001:db8::1".parse().unwrap()));
        let mapped = "[::ffff:192.0.2.1]:4711".parse().unwrap();
        assert_eq!(canonical(mapped).to_string(), "192.0.2.1:4711");
        let scoped: SocketAddr = "[fe80::1%3]:4711".parse().unwrap();
        assert_eq!(canonical(scoped), scoped);
    }

    #[test]
    fn a_malformed_network_is_an_error_with_a_hint() {
        let error = |text: &str| text.parse::<Network>().unwrap_err().to_string();
        assert!(error("10.0.0.5/8").contains("\"10.0.0.0/8\""));
        assert!(error("10.0.0.5/8").contains("\"10.0.0.5\""));
        assert!(error("10.0.0.0/33").contains("is not a network"));
        assert!(error("localhost").contains("is not a network"));
    }
}
