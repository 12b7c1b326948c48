//! The HTTP request that turns a connection into a WebSocket (RFC 9112, RFC 6455 section 4.2), without IO.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::{Buf, BytesMut};
use httparse::Status;
use ring::digest;

use crate::{
    access::AccessPolicy,
    forwarded::{self, Client},
};

/// The longest HTTP head that is read, bytes, its empty line included. Above it the answer is 431.
pub(crate) const MAX_HTTP_HEAD: usize = 8 * 1024;

/// Headers of a head; with more the answer is 431.
const MAX_HEADERS: usize = 124;

/// The state of an HTTP upgrade after the bytes so far.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Upgrade {
    /// The head has not arrived whole.
    NeedMore,
    /// Write `answer` and go on with WebSocket frames, if the client may come in.
    Accepted {
        /// The HTTP answer, complete.
        answer: Vec<u8>,
        /// The client's address, as far as the request tells it.
        client: Client,
    },
    /// Write `answer` and close.
    Refused {
        /// The HTTP answer, complete.
        answer: &'static [u8],
        /// For logs and counters.
        why: &'static str,
    },
}

/// The allowed origins and subprotocols of upgrades.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct UpgradePolicy {
    /// Allowed origins of browsers' pages, compared without case, such as `https://play.example.com`. Empty: all. A request without an
    /// `Origin` header does not come from a browser's page and is accepted.
    pub origins: Vec<String>,
    /// Header with the client's address, such as `x-forwarded-for`; trusted only from trusted addresses, which must send it: their requests
    /// without a readable address are rejected.
    pub address_header: Option<String>,
    /// Supported subprotocols (`Sec-WebSocket-Protocol`). A client that offers any receives the first of its own list that is in this one,
    /// or none. Empty: the first that it offers.
    pub subprotocols: Vec<String>,
}

shaddock_protocol::setters!(UpgradePolicy {
    origins: Vec<String>,
    address_header: impl Into<Option<String>>,
    subprotocols: Vec<String>,
});

const NEEDS_UPGRADE: &[u8] =
    b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nConnection: Upgrade, close\r\n\
Content-Type: text/plain\r\nContent-Length: 43\r\n\r\nThis port speaks WebSocket and TCP, no HTTP";
const NEEDS_VERSION: &[u8] =
    b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nConnection: Upgrade, close\r\n\
Sec-WebSocket-Version: 13\r\nContent-Length: 0\r\n\r\n";
const BAD_REQUEST: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
/// Also for clients that the lists turn away.
pub(crate) const FORBIDDEN: &[u8] =
    b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
/// For clients beyond the limits of connections.
pub(crate) const UNAVAILABLE: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
const TOO_LARGE: &[u8] =
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

/// The answer that refuses, and its name for logs and counters.
struct No(&'static [u8], &'static str);

const BAD_UPGRADE: No = No(BAD_REQUEST, "bad_websocket_upgrade");

/// Reads the head at the front of `input` and takes it out when it is whole. `proxies`: the peer is one of them, so its address header is
/// believed.
///
/// Only the first [`MAX_HTTP_HEAD`] bytes are looked at, and what they are does not change with what follows: so the verdict does not depend on
/// how the head was cut on its way.
pub(crate) fn upgrade(
    input: &mut BytesMut,
    policy: &UpgradePolicy,
    proxies: Option<&AccessPolicy>,
) -> Upgrade {
    let seen = &input[..input.len().min(MAX_HTTP_HEAD)];
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let judged = match request.parse(seen) {
        Ok(Status::Complete(length)) => {
            validate(&request, policy, proxies).map(|accepted| (length, accepted))
        }
        Ok(Status::Partial) if seen.len() < MAX_HTTP_HEAD => return Upgrade::NeedMore,
        Ok(Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
            Err(No(TOO_LARGE, "http_head_too_large"))
        }
        Err(_) => Err(No(BAD_REQUEST, "not_http")),
    };
    match judged {
        Ok((length, (answer, client))) => {
            input.advance(length);
            Upgrade::Accepted { answer, client }
        }
        Err(No(answer, why)) => Upgrade::Refused { answer, why },
    }
}

fn validate(
    request: &httparse::Request<'_, '_>,
    policy: &UpgradePolicy,
    proxies: Option<&AccessPolicy>,
) -> Result<(Vec<u8>, Client), No> {
    let head = Head(request.headers);
    let is_current = request.version == Some(1);
    // HTTP/1.1 demands it, and one only, that can be one (RFC 9112, 3.2).
    if is_current && !head.one("host").is_some_and(is_host) {
        return Err(No(BAD_REQUEST, "http_without_host"));
    }
    if !head.names("upgrade", "websocket") {
        return Err(No(NEEDS_UPGRADE, "http_without_upgrade"));
    }
    if !is_current || request.method != Some("GET") || !head.names("connection", "upgrade") {
        return Err(BAD_UPGRADE);
    }
    if head.one("sec-websocket-version") != Some(b"13") {
        return Err(No(NEEDS_VERSION, "websocket_version"));
    }
    let key = head
        .one("sec-websocket-key")
        .filter(|key| is_key(key))
        .ok_or(BAD_UPGRADE)?;
    // Its bytes would be taken for frames.
    if head.has_body() {
        return Err(BAD_UPGRADE);
    }
    check_origin(&head, policy)?;
    let subprotocol = subprotocol(&head, policy)?;
    let client = match (&policy.address_header, proxies) {
        (Some(name), Some(proxies)) => forwarded::client(head.lines(name), proxies),
        _ => Client::Peer,
    };
    Ok((answer(key, subprotocol), client))
}

/// Headers of a request. A list may be spread over several lines (RFC 9110, 5.3).
struct Head<'a>(&'a [httparse::Header<'a>]);

impl<'a> Head<'a> {
    fn lines(&self, name: &str) -> impl DoubleEndedIterator<Item = &'a [u8]> {
        let is_it = move |header: &&httparse::Header<'_>| header.name.eq_ignore_ascii_case(name);
        self.0.iter().filter(is_it).map(|header| header.value)
    }

    /// The value of a header that must not come twice.
    fn one(&self, name: &str) -> Option<&'a [u8]> {
        let mut lines = self.lines(name);
        let value = lines.next()?.trim_ascii();
        lines.next().is_none().then_some(value)
    }

    /// The elements of a list, in order.
    fn list(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.lines(name)
            .flat_map(|line| line.split(|byte| *byte == b','))
            .map(<[u8]>::trim_ascii)
            .filter(|element| !element.is_empty())
    }

    /// Whether a list has an element, compared without case.
    fn names(&self, name: &str, element: &str) -> bool {
        self.list(name)
            .any(|found| found.eq_ignore_ascii_case(element.as_bytes()))
    }

    fn has_body(&self) -> bool {
        self.lines("transfer-encoding").next().is_some()
            || self
                .lines("content-length")
                .any(|length| length.trim_ascii() != b"0")
    }
}

/// Made of the characters that a name, an address and a port can have (RFC 3986, 3.2.2 and 3.2.3).
fn is_host(host: &[u8]) -> bool {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:[]".contains(byte);
    host.iter().all(is_part)
}

/// 16 bytes in base64 (RFC 6455, 4.1).
fn is_key(key: &[u8]) -> bool {
    let digit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    key.len() == 24 && key.ends_with(b"==") && key[..22].iter().all(digit)
}

fn check_origin(head: &Head<'_>, policy: &UpgradePolicy) -> Result<(), No> {
    if policy.origins.is_empty() || head.lines("origin").next().is_none() {
        return Ok(());
    }
    // Two origins, or one that is no text, are none of ours.
    let is_allowed = head.one("origin").is_some_and(|origin| {
        policy
            .origins
            .iter()
            .any(|known| known.as_bytes().eq_ignore_ascii_case(origin))
    });
    is_allowed
        .then_some(())
        .ok_or(No(FORBIDDEN, "origin_not_allowed"))
}

/// The subprotocol to speak, if the client offers one.
fn subprotocol<'a>(head: &Head<'a>, policy: &UpgradePolicy) -> Result<Option<&'a [u8]>, No> {
    if !head.list("sec-websocket-protocol").all(is_token) {
        return Err(BAD_UPGRADE);
    }
    let is_spoken = |offered: &&[u8]| {
        policy.subprotocols.is_empty()
            || policy
                .subprotocols
                .iter()
                .any(|known| known.as_bytes() == *offered)
    };
    Ok(head.list("sec-websocket-protocol").find(is_spoken))
}

/// A word of HTTP (RFC 9110, 5.6.2): what names of headers and of subprotocols are made of.
pub fn is_token(word: &[u8]) -> bool {
    let is_token_byte =
        |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !word.is_empty() && word.iter().all(is_token_byte)
}

/// `Sec-WebSocket-Accept` for a key (RFC 6455, 4.2.2). SHA-1 is not there for security.
fn accept(key: &[u8]) -> String {
    let mut hash = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key);
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(hash.finish())
}

fn answer(key: &[u8], subprotocol: Option<&[u8]>) -> Vec<u8> {
    let accept = accept(key);
    let mut answer = Vec::with_capacity(192);
    answer.extend_from_slice(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: ",
    );
    answer.extend_from_slice(accept.as_bytes());
    if let Some(subprotocol) = subprotocol {
        answer.extend_from_slice(b"\r\nSec-WebSocket-Protocol: ");
        answer.extend_from_slice(subprotocol);
    }
    answer.extend_from_slice(b"\r\n\r\n");
    answer
}

#[cfg(test)]
mod tests;
