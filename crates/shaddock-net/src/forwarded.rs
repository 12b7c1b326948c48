//! The client's address as trusted proxies wrote it into a header, such as `X-Forwarded-For`.

use std::net::{IpAddr, SocketAddr};

use crate::{access::AccessPolicy, address::canonical};

/// The client's address according to the head of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Client {
    /// No header is believed: the address at the other end of the socket, or the one in the PROXY head.
    Peer,
    /// A trusted proxy wrote this address. The port is 0 if it wrote none.
    Told(SocketAddr),
    /// A trusted proxy ought to have written an address, and there is none, or none that can be read.
    Unknown,
}

/// The client among the hops of all lines of the header, in order.
///
/// Each proxy appends the address from which it was called. So the addresses are read from the right: trusted ones are skipped, and the
/// first other one is the client. Addresses to its left were sent by the client itself, and are ignored. If all are trusted, the first
/// address is the client.
pub(crate) fn client<'a>(
    lines: impl DoubleEndedIterator<Item = &'a [u8]>,
    proxies: &AccessPolicy,
) -> Client {
    let mut found = Client::Unknown;
    for hop in lines
        .rev()
        .flat_map(|line| line.rsplit(|byte| *byte == b','))
    {
        let hop = hop.trim_ascii();
        // Empty elements of a list mean nothing (RFC 9110, 5.6.1).
        if hop.is_empty() {
            continue;
        }
        let Some(address) = std::str::from_utf8(hop).ok().and_then(address) else {
            return Client::Unknown;
        };
        found = Client::Told(address);
        if !proxies.is_trusted_proxy(address.ip()) {
            break;
        }
    }
    found
}

/// `192.0.2.1`, `192.0.2.1:4711`, `2001:db8::1`, `[2001:db8::1]` or `[2001:db8::1]:4711`.
fn address(text: &str) -> Option<SocketAddr> {
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let ip = match bare {
        Some(v6) => v6.parse().map(IpAddr::V6),
        None => text.parse(),
    };
    ip.map(|ip| SocketAddr::new(ip, 0))
        .or_else(|_| text.parse())
        .ok()
        .map(canonical)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&str]) -> Client {
        let proxies = AccessPolicy {
            trusted_proxies: vec![
                "10.0.0.0/8".parse().unwrap(),
                "2001:db8:aa::/48".parse().unwrap(),
            ],
            ..AccessPolicy::default()
        };
        client(lines.iter().map(|line| line.as_bytes()), &proxies)
    }

    #[test]
    fn the_last_hop_that_is_not_trusted_is_the_client() {
        let cases: [(&[&str], &str); 17] = [
            (&["192.0.2.1"], "192.0.2.1:0"),
            (&["192.0.2.1:4711"], "192.0.2.1:4711"),
            (&["2001:db8::1"], "[2001:db8::1]:0"),
            (&["[2001:db8::1]"], "[2001:db8::1]:0"),
            (&["[2001:db8::1]:4711"], "[2001:db8::1]:4711"),
            (&["::ffff:192.0.2.1"], "192.0.2.1:0"),
            (&["[::ffff:192.0.2.1]:4711"], "192.0.2.1:4711"),
            (&["6.6.6.6, 192.0.2.1"], "192.0.2.1:0"),
            (&["6.6.6.6, 192.0.2.1, 10.1.2.3"], "192.0.2.1:0"),
            (
                &["192.0.2.1,10.1.2.3:80,[2001:db8:aa::1]:81"],
                "192.0.2.1:0",
            ),
            (&["6.6.6.6", "192.0.2.1"], "192.0.2.1:0"),
            (&["6.6.6.6, 192.0.2.1", "10.1.2.3"], "192.0.2.1:0"),
            (&["192.0.2.1", "::ffff:10.1.2.3"], "192.0.2.1:0"),
            (&["10.1.1.1, 10.2.2.2"], "10.1.1.1:0"),
            (&["unknown, 192.0.2.1"], "192.0.2.1:0"),
            (&[" , 192.0.2.1 ,, "], "192.0.2.1:0"),
            (&["192.0.2.1", ""], "192.0.2.1:0"),
        ];
        for (lines, wanted) in cases {
            assert_eq!(
                read(lines),
                Client::Told(wanted.parse().unwrap()),
                "{lines:?}"
            );
        }
    }

    #[test]
    fn what_cannot_be_read_is_no_address() {
        let cases: [&[&str]; 12] = [
            &[],
            &[""],
            &[" , "],
            &["unknown"],
            &["_hidden"],
            &["192.0.2.1, unknown"],
            &["192.0.2.1", "unknown"],
            &["192.0.2.1, unknown, 10.1.2.3"],
            &["192.0.2.1:99999"],
            &["[192.0.2.1]"],
            &["192.0.2.1 evil"],
            &["client.example"],
        ];
        for lines in cases {
            assert_eq!(read(lines), Client::Unknown, "{lines:?}");
        }
    }
}
