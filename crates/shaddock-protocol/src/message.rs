//! Messages: the body of a DATA package. Flag byte, id, route, body.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Longest route in text form, in bytes: its length is one byte on the wire.
pub const MAX_ROUTE_LEN: usize = 255;

const ROUTE_IS_CODE: u8 = 0x01;
const COMPRESSED: u8 = 0x10;
const ERROR: u8 = 0x20;

/// The sender, and whether a response is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum MessageType {
    /// From the client, expects a response with its id.
    Request = 0,
    /// From the client, expects no response.
    Notify = 1,
    /// From the server, the response to a request.
    Response = 2,
    /// From the server, unrequested.
    Push = 3,
}

/// A route in its wire form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WireRoute {
    /// Responses carry no route.
    None,
    /// A code of the route dictionary.
    Code(u16),
    /// Text, not yet checked for UTF-8.
    Name(Bytes),
}

/// A decoded message. Its bytes are slices of the package it came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The kind of the message.
    pub kind: MessageType,
    /// The request's id; 0 for notifies and pushes, which have none. A request with id 0 expects no response.
    pub id: u64,
    /// Its route. [`WireRoute::None`] for a response, always.
    pub route: WireRoute,
    /// Everything after the route.
    pub body: Bytes,
    /// Flag bit `10`: the body is a zlib stream (Pitaya only; Pomelo ignores the bit).
    pub compressed: bool,
    /// Flag bit `20`: this response reports an error (Pitaya only).
    pub error: bool,
}

/// Invalid bytes, or a message that cannot be encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// No flag byte.
    #[error("empty message")]
    Empty,
    /// Type 4 to 7. The content after the flag is undefined.
    #[error("invalid message type {0}")]
    InvalidType(u8),
    /// The id does not end within the message.
    #[error("message id is cut short")]
    IdCut,
    /// The id needs more than 64 bits, or more than 10 bytes.
    #[error("message id does not fit into 64 bits")]
    IdOverflow,
    /// The route, its length or its code does not end within the message.
    #[error("route is cut short")]
    RouteCut,
    /// Encoding only: a request, notify or push without a route.
    #[error("message without a route")]
    RouteMissing,
    /// Encoding only: a route of more than [`MAX_ROUTE_LEN`] bytes, which the wire cannot express.
    #[error("route of {0} bytes, at most {MAX_ROUTE_LEN} can be sent")]
    RouteTooLong(usize),
}

impl Message {
    /// A message with neither compression nor error.
    pub const fn new(kind: MessageType, id: u64, route: WireRoute, body: Bytes) -> Self {
        Self {
            kind,
            id,
            route,
            body,
            compressed: false,
            error: false,
        }
    }

    /// Decodes a message without copying.
    ///
    /// # Errors
    ///
    /// The bytes end too early, or the id or type is invalid.
    pub fn decode(mut bytes: Bytes) -> Result<Self, MessageError> {
        let head = Head::read(&bytes)?;
        let route = match head.route {
            RouteAt::None => WireRoute::None,
            RouteAt::Code(code) => WireRoute::Code(code),
            RouteAt::Name { start, end } => WireRoute::Name(bytes.slice(start..end)),
        };
        bytes.advance(head.body);
        Ok(Self {
            kind: head.kind,
            id: head.id,
            route,
            body: bytes,
            compressed: head.compressed,
            error: head.error,
        })
    }

    /// Appends the message to `out`. The id is written in its shortest form; a response's route is left out.
    ///
    /// # Errors
    ///
    /// The route is missing or too long; `out` is unchanged.
    pub fn encode(&self, out: &mut BytesMut) -> Result<(), MessageError> {
        let route = match &self.route {
            WireRoute::None => RouteRef::None,
            WireRoute::Code(code) => RouteRef::Code(*code),
            WireRoute::Name(name) => RouteRef::Name(name),
        };
        let flags = flag_bits(self.compressed, self.error);
        put_head(self.kind, flags, self.id, route, out)?;
        out.put_slice(&self.body);
        Ok(())
    }
}

/// The head of a message, and the positions of its parts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    pub(crate) kind: MessageType,
    pub(crate) id: u64,
    pub(crate) route: RouteAt,
    /// Where the body begins.
    pub(crate) body: usize,
    pub(crate) compressed: bool,
    pub(crate) error: bool,
}

/// A route on the wire. The range of a name lies within the message.
#[derive(Clone, Copy, Debug)]
pub(crate) enum RouteAt {
    None,
    Code(u16),
    Name { start: usize, end: usize },
}

impl Head {
    pub(crate) fn read(message: &[u8]) -> Result<Self, MessageError> {
        let (&flag, rest) = message.split_first().ok_or(MessageError::Empty)?;
        let kind = match flag >> 1 & 7 {
            0 => MessageType::Request,
            1 => MessageType::Notify,
            2 => MessageType::Response,
            3 => MessageType::Push,
            other => return Err(MessageError::InvalidType(other)),
        };
        let (id, id_len) = if has_id(kind) { read_id(rest)? } else { (0, 0) };
        let at = 1 + id_len;
        let (route, body) = if kind == MessageType::Response {
            (RouteAt::None, at)
        } else if flag & ROUTE_IS_CODE != 0 {
            let code = message[at..].first_chunk().ok_or(MessageError::RouteCut)?;
            (RouteAt::Code(u16::from_be_bytes(*code)), at + 2)
        } else {
            let &len = message.get(at).ok_or(MessageError::RouteCut)?;
            let (start, end) = (at + 1, at + 1 + usize::from(len));
            if message.len() < end {
                return Err(MessageError::RouteCut);
            }
            (RouteAt::Name { start, end }, end)
        };
        Ok(Self {
            kind,
            id,
            route,
            body,
            compressed: flag & COMPRESSED != 0,
            error: flag & ERROR != 0,
        })
    }
}

/// A route to be written.
#[derive(Clone, Copy, Debug)]
pub(crate) enum RouteRef<'a> {
    None,
    Code(u16),
    Name(&'a [u8]),
}

/// Appends flag, id and route. `flags` holds the compression and error bits; a response's route is left out.
#[inline]
pub(crate) fn put_head(
    kind: MessageType,
    flags: u8,
    id: u64,
    route: RouteRef<'_>,
    out: &mut BytesMut,
) -> Result<(), MessageError> {
    let flag = flags | (kind as u8) << 1;
    match route {
        _ if kind == MessageType::Response => put_flag_and_id(kind, flag, id, out),
        RouteRef::None => return Err(MessageError::RouteMissing),
        RouteRef::Code(code) => {
            put_flag_and_id(kind, flag | ROUTE_IS_CODE, id, out);
            out.put_u16(code);
        }
        RouteRef::Name(name) => {
            let Ok(len) = u8::try_from(name.len()) else {
                return Err(MessageError::RouteTooLong(name.len()));
            };
            put_flag_and_id(kind, flag, id, out);
            out.put_u8(len);
            out.put_slice(name);
        }
    }
    Ok(())
}

fn put_flag_and_id(kind: MessageType, flag: u8, id: u64, out: &mut BytesMut) {
    out.put_u8(flag);
    if has_id(kind) {
        put_varint(id, out);
    }
}

/// The flag bits for compression and error.
pub(crate) const fn flag_bits(compressed: bool, error: bool) -> u8 {
    (if compressed { COMPRESSED } else { 0 }) | (if error { ERROR } else { 0 })
}

const fn has_id(kind: MessageType) -> bool {
    matches!(kind, MessageType::Request | MessageType::Response)
}

/// Base 128, least significant group first.
pub(crate) fn put_varint(mut value: u64, out: &mut impl BufMut) {
    while value >= 0x80 {
        out.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8((value & 0x7f) as u8);
}

/// An id and its length: up to 10 bytes; padded forms are accepted.
fn read_id(bytes: &[u8]) -> Result<(u64, usize), MessageError> {
    let mut id = 0_u64;
    for (index, &byte) in bytes.iter().enumerate() {
        // The tenth group holds the top bit only.
        if index == 10 || index == 9 && byte & 0x7f > 1 {
            return Err(MessageError::IdOverflow);
        }
        id |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok((id, index + 1));
        }
    }
    Err(if bytes.len() >= 10 {
        MessageError::IdOverflow
    } else {
        MessageError::IdCut
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(bytes: &'static [u8]) -> Result<Message, MessageError> {
        Message::decode(Bytes::from_static(bytes))
    }

    #[test]
    fn ids_take_their_shortest_form() {
        for (id, bytes) in [
            (0, &b"\x00"[..]),
            (127, b"\x7f"),
            (128, b"\x80\x01"),
            (0x7fff_ffff, b"\xff\xff\xff\xff\x07"),
            (u64::MAX, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
        ] {
            let mut out = BytesMut::new();
            put_varint(id, &mut out);
            assert_eq!(out, bytes);
        }
    }

    #[test]
    fn cut_messages() {
        for (bytes, error) in [
            (&b""[..], MessageError::Empty),
            (b"\x00", MessageError::IdCut),
            (b"\x04\x80", MessageError::IdCut),
            (
                b"\x00\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x00",
                MessageError::IdOverflow,
            ),
            (
                b"\x00\x80\x80\x80\x80\x80\x80\x80\x80\x80\x02",
                MessageError::IdOverflow,
            ),
            (b"\x00\x01", MessageError::RouteCut),
            (b"\x02", MessageError::RouteCut),
            (b"\x02\x02a", MessageError::RouteCut),
            (b"\x03\x00", MessageError::RouteCut),
            (b"\x08", MessageError::InvalidType(4)),
        ] {
            assert_eq!(decode(bytes), Err(error), "{bytes:02x?}");
        }
    }

    #[test]
    fn flags_are_read_bit_by_bit() {
        let message = decode(b"\xf7\x01\x02").unwrap();
        assert_eq!(message.kind, MessageType::Push);
        assert_eq!(message.route, WireRoute::Code(258));
        assert!(message.compressed && message.error);
        // On a response bit 0 means nothing.
        let response = decode(b"\x05\x01\x02").unwrap();
        assert_eq!(
            (response.route, &response.body[..]),
            (WireRoute::None, &b"\x02"[..])
        );
    }

    #[test]
    fn routes_that_cannot_be_written() {
        let name = |len| WireRoute::Name(Bytes::from(alloc::vec![b'r'; len]));
        for (route, expected) in [
            (WireRoute::None, Err(MessageError::RouteMissing)),
            (name(256), Err(MessageError::RouteTooLong(256))),
            (name(255), Ok(())),
        ] {
            let mut out = BytesMut::from(&b"before"[..]);
            let message = Message::new(MessageType::Notify, 0, route, Bytes::new());
            assert_eq!(message.encode(&mut out), expected);
            assert!(expected.is_ok() || &out[..] == b"before");
        }
    }
}
