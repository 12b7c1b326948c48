//! Addresses of clients as an operator writes them.

use std::net::SocketAddr;

use shaddock_core::Session;
use shaddock_net::{Network, NetworkError, canonical};

/// An address, an address with a port, or a network.
#[derive(Debug, Clone, Copy)]
pub(crate) enum AddressFilter {
    Whole(SocketAddr),
    Network(Network),
}

impl AddressFilter {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        text.parse()
            .map(|address| Self::Whole(canonical(address)))
            .or_else(|_| text.parse().map(Self::Network))
            .map_err(|error| match error {
                NetworkError::HostBits { .. } => error.to_string(),
                _ => format!(
                    "\"{text}\" is not an address; write 192.0.2.7, 192.0.2.7:4711 or 192.0.2.0/24"
                ),
            })
    }

    pub(crate) fn matches(&self, session: &Session) -> bool {
        session
            .client()
            .address
            .is_some_and(|address| self.holds(address))
    }

    pub(crate) fn holds(&self, address: SocketAddr) -> bool {
        let address = canonical(address);
        match self {
            // The scope of a link-local address is not part of what is written.
            Self::Whole(wanted) => (wanted.ip(), wanted.port()) == (address.ip(), address.port()),
            Self::Network(network) => network.contains(address.ip()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `/api/sessions` prints is found, in any form of the same address.
    #[test]
    fn addresses_are_found_in_every_form() {
        let session: SocketAddr = "[::ffff:192.0.2.7]:4711".parse().unwrap();
        for (text, finds) in [
            ("192.0.2.7", true),
            ("::ffff:192.0.2.7", true),
            ("192.0.2.7:4711", true),
            ("[::ffff:192.0.2.7]:4711", true),
            ("192.0.2.0/24", true),
            ("::ffff:192.0.2.0/120", true),
            ("192.0.2.7:4712", false),
            ("192.0.2.8", false),
            ("2001:db8::/32", false),
        ] {
            let filter = AddressFilter::parse(text).unwrap();
            assert_eq!(filter.holds(session), finds, "{text}");
            assert_eq!(filter.holds(canonical(session)), finds, "{text}");
        }
        assert!(
            AddressFilter::parse("192.0.2.7/24").is_err_and(|text| text.contains("192.0.2.0/24"))
        );
        assert!(AddressFilter::parse("here").is_err_and(|text| text.contains("is not an address")));
    }
}
