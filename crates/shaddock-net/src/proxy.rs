//! The PROXY protocol head, v1 and v2, that a load balancer writes in front of a client's bytes. Parsed by `ppp`.

use std::net::SocketAddr;

use bytes::{Buf, BytesMut};
use ppp::{HeaderResult, PartialResult, v1, v2};

/// The longest head that is read, bytes: a v2 head of 16 bytes with addresses and a fair amount of extensions.
pub(crate) const MAX_PROXY_HEAD: usize = 536;

/// The longest v1 head, from the protocol's own text.
const MAX_V1_HEAD: usize = 107;

const V1_START: &[u8] = b"PROXY ";
/// Bytes of a v2 head before its addresses; the last two announce how many follow.
const V2_FIXED: usize = 16;

const V2_START: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// The state of a PROXY head after the bytes so far.
#[derive(Debug, PartialEq, Eq)]
pub enum ProxyHead {
    /// The head has not arrived whole.
    NeedMore,
    /// The head was consumed. `None`: the connection is the balancer's own (`LOCAL`, `UNKNOWN`), so its own address counts.
    Done(Option<SocketAddr>),
    /// No head, or an invalid one.
    Bad,
}

/// Parses the head at the front of `input` and consumes it when it is complete.
pub fn proxy_head(input: &mut BytesMut) -> ProxyHead {
    let start = if input.first() == V2_START.first() {
        V2_START
    } else {
        V1_START
    };
    let known = input.len().min(start.len());
    if input[..known] != start[..known] {
        return ProxyHead::Bad;
    }
    if known < start.len() {
        return ProxyHead::NeedMore;
    }
    if let (true, Some(length)) = (start == V2_START, input.get(14..16))
        && V2_FIXED + usize::from(u16::from_be_bytes([length[0], length[1]])) > MAX_PROXY_HEAD
    {
        // Judged by what it announces, so that it does not matter how much of it has arrived.
        return ProxyHead::Bad;
    }
    let head = if start == V1_START {
        match v1_line(input) {
            Ok(Some(line)) => line,
            Ok(None) => return ProxyHead::NeedMore,
            Err(NoLine) => return ProxyHead::Bad,
        }
    } else {
        &input[..]
    };
    let result = HeaderResult::parse(head);
    if result.is_incomplete() {
        return if start == V1_START || input.len() > MAX_PROXY_HEAD {
            ProxyHead::Bad
        } else {
            ProxyHead::NeedMore
        };
    }
    let (length, address) = match result {
        HeaderResult::V1(Ok(header)) => (header.header.len(), v1_source(&header)),
        HeaderResult::V2(Ok(header)) => (header.len(), v2_source(&header)),
        HeaderResult::V1(Err(_)) | HeaderResult::V2(Err(_)) => return ProxyHead::Bad,
    };
    input.advance(length.min(input.len()));
    ProxyHead::Done(address)
}

/// The bytes so far are no line and will not become one.
struct NoLine;

/// The line of a v1 head, once it is whole. `ppp` judges a line that is cut short, or has more behind it, as if it were another.
fn v1_line(input: &[u8]) -> Result<Option<&[u8]>, NoLine> {
    let first = &input[..input.len().min(MAX_V1_HEAD)];
    match first.iter().position(|byte| *byte == b'\n') {
        Some(end) if first[..end].ends_with(b"\r") => Ok(Some(&first[..=end])),
        None if first.len() < MAX_V1_HEAD => Ok(None),
        _ => Err(NoLine),
    }
}

fn v1_source(header: &v1::Header<'_>) -> Option<SocketAddr> {
    match header.addresses {
        v1::Addresses::Tcp4(ip) => Some((ip.source_address, ip.source_port).into()),
        v1::Addresses::Tcp6(ip) => Some((ip.source_address, ip.source_port).into()),
        v1::Addresses::Unknown => None,
    }
}

fn v2_source(header: &v2::Header<'_>) -> Option<SocketAddr> {
    if header.command == v2::Command::Local {
        return None;
    }
    match header.addresses {
        v2::Addresses::IPv4(ip) => Some((ip.source_address, ip.source_port).into()),
        v2::Addresses::IPv6(ip) => Some((ip.source_address, ip.source_port).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(bytes: &[u8]) -> (ProxyHead, BytesMut) {
        let mut input = BytesMut::from(bytes);
        for cut in 0..bytes.len().saturating_sub(1) {
            let mut short = BytesMut::from(&bytes[..cut]);
            let result = proxy_head(&mut short);
            if result != ProxyHead::NeedMore {
                return (result, short);
            }
        }
        let result = proxy_head(&mut input);
        (result, input)
    }

    #[test]
    fn version_one() {
        let head = b"PROXY TCP4 192.0.2.1 198.51.100.7 4000 443\r\n";
        assert_eq!(
            whole(head).0,
            ProxyHead::Done(Some("192.0.2.1:4000".parse().unwrap()))
        );
        let head = b"PROXY TCP6 2001:db8::1 ::1 4000 443\r\n";
        assert_eq!(
            whole(head).0,
            ProxyHead::Done(Some("[2001:db8::1]:4000".parse().unwrap()))
        );
        assert_eq!(whole(b"PROXY UNKNOWN\r\n").0, ProxyHead::Done(None));
    }

    #[test]
    fn version_two_and_what_follows_stays() {
        let mut head = V2_START.to_vec();
        head.extend_from_slice(&[0x21, 0x11, 0, 12]);
        head.extend_from_slice(&[192, 0, 2, 1, 198, 51, 100, 7, 0x0f, 0xa0, 0x01, 0xbb]);
        assert_eq!(
            whole(&head).0,
            ProxyHead::Done(Some("192.0.2.1:4000".parse().unwrap()))
        );
        head.extend_from_slice(b"\x01\0\0");
        let mut input = BytesMut::from(&head[..]);
        proxy_head(&mut input);
        assert_eq!(&input[..], b"\x01\0\0");
        let local = [V2_START, &[0x20, 0x00, 0, 0]].concat();
        assert_eq!(whole(&local).0, ProxyHead::Done(None));
    }

    #[test]
    fn a_long_version_two_head_is_bad_whole_or_cut() {
        let mut head = [V2_START, &[0x21, 0x21, 3, 0]].concat();
        head.resize(16 + 768, 0);
        for cut in [16, 100, 600, head.len()] {
            let mut input = BytesMut::from(&head[..cut]);
            assert_eq!(proxy_head(&mut input), ProxyHead::Bad, "{cut}");
        }
    }

    #[test]
    fn heads_without_an_address_are_the_balancers_own() {
        for line in [
            "PROXY UNKNOWN ",
            "PROXY UNKNOWN ffff::1 ffff::2 65535 65535",
            "PROXY UNKNOWN any words can follow",
        ] {
            let head = format!("{line}\r\n");
            assert_eq!(whole(head.as_bytes()).0, ProxyHead::Done(None), "{line}");
        }
        // Addresses of Unix sockets, of an unknown family, and of a health check of the balancer.
        for (command, kind, length) in [(0x21, 0x31, 216), (0x21, 0, 8), (0x20, 0x11, 12)] {
            let mut head = [V2_START, &[command, kind, 0, length]].concat();
            head.resize(16 + usize::from(length), 7);
            assert_eq!(whole(&head).0, ProxyHead::Done(None), "{command} {kind}");
        }
    }

    #[test]
    fn version_two_with_extensions() {
        let mut head = [V2_START, &[0x21, 0x22, 0, 41]].concat();
        head.extend_from_slice(&[0xff; 32]);
        head.extend_from_slice(&[0x0f, 0xa0, 0x01, 0xbb]);
        head.extend_from_slice(&[4, 0, 2, 9, 9]);
        let (read, rest) = whole(&head);
        let address = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:4000";
        assert_eq!(read, ProxyHead::Done(Some(address.parse().unwrap())));
        assert!(rest.is_empty());
    }

    #[test]
    fn invalid_fields_of_version_two_are_bad() {
        let good = [V2_START, &[0x21, 0x11, 0, 12], &[1; 12]].concat();
        assert!(matches!(whole(&good).0, ProxyHead::Done(Some(_))));
        // Version, command, family, transport, too few bytes for the addresses.
        for (at, value) in [(12, 0x11), (12, 0x22), (13, 0x41), (13, 0x13), (15, 11)] {
            let mut head = good.clone();
            head[at] = value;
            assert_eq!(whole(&head).0, ProxyHead::Bad, "{at} {value}");
        }
    }

    #[test]
    fn anything_else_is_bad() {
        for bytes in [
            b"PROXY TCP4 192.0.2.1 198.51.100.7 4000 65536\r\n".as_slice(),
            b"PROXY TCP4 192.0.2.1 198.51.100.7 04000 443\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.7 4000\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.7 4000 443 \r\n",
            b"PROXY TCP4 192.0.2.1  198.51.100.7 4000 443\r\n",
            b"PROXY TCP4 2001:db8::1 ::1 4000 443\r\n",
            b"PROXY TCP6 192.0.2.1 198.51.100.7 4000 443\r\n",
            b"PROXY UNKNOWN 1 2 3 4 5\r\n",
            b"PROXY UNKNOWN \xff\r\n",
            b"PROXY UNKNOWN a\rb\r\n",
            b"PROXY tcp4 192.0.2.1 198.51.100.7 4000 443\r\n",
            b"GET / HTTP/1.1\r\n",
            b"\x01\0\0\x02{}",
            b"PROXY TCP9 x\r\n",
            b"PROXY UNKNOWN x\n",
            b"PROXY UNKNOWN x\n y\r\n",
            b"\r\nQ",
        ] {
            assert_eq!(whole(bytes).0, ProxyHead::Bad, "{bytes:?}");
        }
        let endless = [b"PROXY TCP4 ".as_slice(), &[b'1'; MAX_PROXY_HEAD]].concat();
        assert_eq!(
            proxy_head(&mut BytesMut::from(&endless[..])),
            ProxyHead::Bad
        );
    }
}
