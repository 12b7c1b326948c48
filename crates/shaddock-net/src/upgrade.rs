//! The HTTP request that turns a connection into a WebSocket, without IO.

use std::net::IpAddr;

use bytes::{Buf, BytesMut};
use tungstenite::handshake::{
    machine::TryParse,
    server::{Request, create_response, write_response},
};

/// The longest HTTP head that is read, bytes. Above it the answer is 431.
pub(crate) const MAX_HTTP_HEAD: usize = 8 * 1024;

/// Headers of a head; more are a bad request. As many as `tungstenite` takes.
const MAX_HEADERS: usize = 124;

/// What the bytes so far amount to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Upgrade {
    /// The head has not arrived whole.
    NeedMore,
    /// Write `answer` and go on with WebSocket frames.
    Accepted {
        /// The HTTP answer, complete.
        answer: Vec<u8>,
        /// The client's address as a trusted proxy wrote it, if asked for and there.
        forwarded_for: Option<IpAddr>,
    },
    /// Write `answer` and close.
    Refused {
        /// The HTTP answer, complete.
        answer: &'static [u8],
        /// For logs and counters.
        why: &'static str,
    },
}

/// Who may upgrade.
#[derive(Debug, Clone, Default)]
pub struct UpgradePolicy {
    /// Origins of pages that browsers may come from, compared without case, such as `https://play.example.com`. Empty: all.
    /// A request without an `Origin` header does not come from a browser's page and passes.
    pub origins: Vec<String>,
    /// Header that carries the client's address, such as `x-forwarded-for`; believed only from trusted addresses.
    pub address_header: Option<String>,
}

const NEEDS_UPGRADE: &[u8] =
    b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nConnection: Upgrade, close\r\n\
Content-Type: text/plain\r\nContent-Length: 43\r\n\r\nThis port speaks WebSocket and TCP, no HTTP";
const BAD_REQUEST: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
const FORBIDDEN: &[u8] =
    b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
const TOO_LARGE: &[u8] =
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

/// Reads the head at the front of `input` and takes it out when it is whole.
pub(crate) fn upgrade(input: &mut BytesMut, policy: &UpgradePolicy, trusted: bool) -> Upgrade {
    let refused = |answer, why| Upgrade::Refused { answer, why };
    match wants_upgrade(input) {
        Ok(Some(true)) => {}
        Ok(Some(false)) => return refused(NEEDS_UPGRADE, "http_without_upgrade"),
        Ok(None) if input.len() > MAX_HTTP_HEAD => {
            return refused(TOO_LARGE, "http_head_too_large");
        }
        Ok(None) => return Upgrade::NeedMore,
        Err(_) => return refused(BAD_REQUEST, "not_http"),
    }
    let Ok(Some((length, request))) = Request::try_parse(input) else {
        return refused(BAD_REQUEST, "bad_websocket_upgrade");
    };
    let Ok(response) = create_response(&request) else {
        return refused(BAD_REQUEST, "bad_websocket_upgrade");
    };
    let header = |name: &str| request.headers().get(name).and_then(|v| v.to_str().ok());
    let allowed = |origin: &str| {
        policy
            .origins
            .iter()
            .any(|known| known.eq_ignore_ascii_case(origin))
    };
    if !policy.origins.is_empty() && request.headers().contains_key("origin") {
        // A header that is no text names no origin of ours.
        if !header("origin").is_some_and(allowed) {
            return refused(FORBIDDEN, "origin_not_allowed");
        }
    }
    let forwarded_for = policy
        .address_header
        .as_deref()
        .filter(|_| trusted)
        .and_then(header)
        .and_then(|list| list.rsplit(',').next())
        .and_then(|address| address.trim().parse().ok());
    let mut answer = Vec::with_capacity(160);
    if write_response(&mut answer, &response).is_err() {
        return refused(BAD_REQUEST, "bad_websocket_upgrade");
    }
    input.advance(length);
    Upgrade::Accepted {
        answer,
        forwarded_for,
    }
}

/// Whether the head, once it is whole, asks for another protocol. `tungstenite` reads only heads that ask for its own.
fn wants_upgrade(input: &[u8]) -> Result<Option<bool>, httparse::Error> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let complete = request.parse(input)?.is_complete();
    let upgrade = |header: &httparse::Header<'_>| header.name.eq_ignore_ascii_case("upgrade");
    Ok(complete.then(|| request.headers.iter().any(upgrade)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "GET /any HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

    fn run(text: &str, policy: &UpgradePolicy, trusted: bool) -> (Upgrade, BytesMut) {
        let mut input = BytesMut::from(text);
        let result = upgrade(&mut input, policy, trusted);
        (result, input)
    }

    #[test]
    fn accepts_and_leaves_what_follows() {
        let (result, rest) = run(
            &format!("{HEAD}\r\n\u{1}x"),
            &UpgradePolicy::default(),
            false,
        );
        let Upgrade::Accepted {
            answer,
            forwarded_for,
        } = result
        else {
            panic!("{result:?}")
        };
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 101 Switching Protocols\r\n"));
        assert!(
            answer
                .to_ascii_lowercase()
                .contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=")
        );
        assert!(answer.ends_with("\r\n\r\n"));
        assert_eq!(forwarded_for, None);
        assert_eq!(&rest[..], b"\x01x");
    }

    #[test]
    fn the_content_length_of_the_426_is_true() {
        let text = std::str::from_utf8(NEEDS_UPGRADE).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}", body.len())));
    }

    #[test]
    fn refusals() {
        let open = UpgradePolicy::default();
        let why = |text: &str, policy: &UpgradePolicy| match run(text, policy, false).0 {
            Upgrade::Refused { why, .. } => why,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            why("GET / HTTP/1.1\r\nHost: a\r\n\r\n", &open),
            "http_without_upgrade"
        );
        assert_eq!(
            why("POST / HTTP/1.1\r\nHost: a\r\n\r\n", &open),
            "http_without_upgrade"
        );
        assert_eq!(
            why("POST / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n", &open),
            "bad_websocket_upgrade"
        );
        assert_eq!(why("PROXY TCP4 1.2.3.4 5 6 7\r\n\r\n", &open), "not_http");
        assert_eq!(
            why(
                &format!("GET / HTTP/1.1\r\nX: {}", "y".repeat(MAX_HTTP_HEAD)),
                &open
            ),
            "http_head_too_large"
        );
        let closed = UpgradePolicy {
            origins: vec!["https://ok.example".into()],
            ..open
        };
        let with = |origin: &str| format!("{HEAD}Origin: {origin}\r\n\r\n");
        assert_eq!(
            why(&with("https://evil.example"), &closed),
            "origin_not_allowed"
        );
        assert!(matches!(
            run(&with("https://OK.example"), &closed, false).0,
            Upgrade::Accepted { .. }
        ));
        assert!(matches!(
            run(&format!("{HEAD}\r\n"), &closed, false).0,
            Upgrade::Accepted { .. }
        ));
        assert_eq!(run(&HEAD[..40], &closed, false).0, Upgrade::NeedMore);
    }

    #[test]
    fn the_forwarded_address_is_believed_from_trusted_peers_only() {
        let policy = UpgradePolicy {
            address_header: Some("x-forwarded-for".into()),
            ..UpgradePolicy::default()
        };
        let text = format!("{HEAD}X-Forwarded-For: 6.6.6.6, 10.1.2.3\r\n\r\n");
        let address = |trusted| match run(&text, &policy, trusted).0 {
            Upgrade::Accepted { forwarded_for, .. } => forwarded_for,
            other => panic!("{other:?}"),
        };
        assert_eq!(address(true), Some("10.1.2.3".parse().unwrap()));
        assert_eq!(address(false), None);
    }
}
