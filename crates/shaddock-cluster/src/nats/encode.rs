//! Requests and answers, written straight into one buffer from what the caller has: no copy of a text, no message in between.
//!
//! The bytes are those of [`wire::Request`](super::wire::Request) and [`wire::Response`](super::wire::Response), which the tests compare.

use bytes::Bytes;
use prost::encoding::encoded_len_varint;

use super::wire::{MsgType, RpcType, Stamp};
use crate::RawSid;

/// The key of the field with the stamp: number 1000, wire type 2.
const STAMP: [u8; 2] = [0xc2, 0x3e];

/// A request, borrowed from its caller.
pub(crate) struct RequestParts<'a> {
    pub(crate) kind: RpcType,
    pub(crate) session: Option<SessionParts<'a>>,
    /// The client's number; 0 for none.
    pub(crate) id: u64,
    pub(crate) route: &'a str,
    pub(crate) body: &'a [u8],
    pub(crate) msg_type: MsgType,
    pub(crate) frontend: &'a str,
    pub(crate) metadata: &'a [u8],
    /// For servers of ours.
    pub(crate) stamp: Option<Stamp>,
}

/// A session as it travels.
pub(crate) struct SessionParts<'a> {
    pub(crate) sid: Option<RawSid>,
    pub(crate) uid: &'a str,
    pub(crate) data: &'a [u8],
}

/// Wire type 2: a length, then so many bytes.
const fn long(tag: u8) -> u8 {
    tag << 3 | 2
}

/// Wire type 0.
const fn number(tag: u8) -> u8 {
    tag << 3
}

/// Of a field with one-byte key that is left out when it is empty.
fn bytes_len(bytes: &[u8]) -> usize {
    if bytes.is_empty() {
        0
    } else {
        nested_len(bytes.len())
    }
}

fn nested_len(len: usize) -> usize {
    1 + encoded_len_varint(len as u64) + len
}

fn number_len(value: u64) -> usize {
    if value == 0 {
        0
    } else {
        1 + encoded_len_varint(value)
    }
}

fn put_bytes(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    if !bytes.is_empty() {
        put_head(out, tag, bytes.len());
        out.extend_from_slice(bytes);
    }
}

fn put_head(out: &mut Vec<u8>, tag: u8, len: usize) {
    out.push(long(tag));
    put_varint(out, len as u64);
}

fn put_number(out: &mut Vec<u8>, tag: u8, value: u64) {
    if value != 0 {
        out.push(number(tag));
        put_varint(out, value);
    }
}

/// Seven bits in each byte, the lowest first.
#[inline]
fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

impl Stamp {
    fn len(&self) -> usize {
        let clock = if self.clock == 0 { 0 } else { 9 };
        let scope = if self.scope == 0 { 0 } else { 5 };
        let numbers = [self.sent, self.revision.cast_unsigned(), self.era];
        clock + scope + numbers.into_iter().map(number_len).sum::<usize>()
    }

    fn put(&self, out: &mut Vec<u8>) {
        if self.clock != 0 {
            out.push(number(1) | 1);
            out.extend_from_slice(&self.clock.to_le_bytes());
        }
        put_number(out, 2, self.sent);
        if self.scope != 0 {
            out.push(number(3) | 5);
            out.extend_from_slice(&self.scope.to_le_bytes());
        }
        put_number(out, 4, self.revision.cast_unsigned());
        put_number(out, 5, self.era);
    }
}

impl SessionParts<'_> {
    fn number(&self) -> u64 {
        self.sid.map_or(0, RawSid::get)
    }

    fn len(&self) -> usize {
        number_len(self.number()) + bytes_len(self.uid.as_bytes()) + bytes_len(self.data)
    }

    fn put(&self, out: &mut Vec<u8>) {
        put_number(out, 1, self.number());
        put_bytes(out, 2, self.uid.as_bytes());
        put_bytes(out, 3, self.data);
    }
}

impl RequestParts<'_> {
    /// The numbers of the enumerations are not negative.
    fn kind(&self) -> u64 {
        u64::from((self.kind as i32).unsigned_abs())
    }

    fn msg_type(&self) -> u64 {
        u64::from((self.msg_type as i32).unsigned_abs())
    }

    /// The bytes of the request.
    pub(crate) fn encode(&self) -> Bytes {
        let session = self.session.as_ref().map(SessionParts::len);
        let msg = number_len(self.id)
            + bytes_len(self.route.as_bytes())
            + bytes_len(self.body)
            + number_len(self.msg_type());
        let stamp = self.stamp.as_ref().map(Stamp::len);
        let whole = number_len(self.kind())
            + session.map_or(0, nested_len)
            + nested_len(msg)
            + bytes_len(self.frontend.as_bytes())
            + bytes_len(self.metadata)
            + stamp.map_or(0, |len| 1 + nested_len(len));
        let mut out = Vec::with_capacity(whole);
        put_number(&mut out, 1, self.kind());
        if let (Some(session), Some(len)) = (&self.session, session) {
            put_head(&mut out, 2, len);
            session.put(&mut out);
        }
        put_head(&mut out, 3, msg);
        put_number(&mut out, 1, self.id);
        put_bytes(&mut out, 2, self.route.as_bytes());
        put_bytes(&mut out, 3, self.body);
        put_number(&mut out, 5, self.msg_type());
        put_bytes(&mut out, 4, self.frontend.as_bytes());
        put_bytes(&mut out, 5, self.metadata);
        if let (Some(stamp), Some(len)) = (&self.stamp, stamp) {
            out.extend_from_slice(&STAMP);
            put_varint(&mut out, len as u64);
            stamp.put(&mut out);
        }
        out.into()
    }
}

/// The bytes of an answer without an error.
pub(crate) fn success(data: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(bytes_len(data));
    put_bytes(&mut out, 1, data);
    out.into()
}

#[cfg(test)]
mod tests {
    use super::super::wire::{self, Msg, Request, Response, Session};
    use super::*;

    #[test]
    fn the_bytes_are_those_of_the_messages() {
        let long_body = "x".repeat(300);
        let stamps = [
            None,
            Some(Stamp::default()),
            Some(Stamp {
                clock: u64::MAX,
                sent: 1_234_567_890,
                scope: 7,
                revision: 42,
                era: 1_764_000_000_000,
            }),
            Some(Stamp {
                clock: 1,
                sent: 128,
                scope: u32::MAX,
                revision: -1,
                era: u64::MAX,
            }),
        ];
        for (sid, uid, data) in [(0, "", ""), (7, "u42", "{\"a\":1}"), (i64::MAX, "ü", "{}")] {
            for (id, route, body) in [(0, "a.b.c", ""), (3, "game.room.join", &*long_body)] {
                for (kind, msg_type) in [
                    (RpcType::Sys, MsgType::Notify),
                    (RpcType::User, MsgType::Request),
                ] {
                    for (with_session, stamp) in stamps
                        .iter()
                        .flat_map(|stamp| [(false, *stamp), (true, *stamp)])
                    {
                        let parts = RequestParts {
                            kind,
                            session: with_session.then(|| SessionParts {
                                sid: RawSid::new(u64::try_from(sid).unwrap()),
                                uid,
                                data: data.as_bytes(),
                            }),
                            id,
                            route,
                            body: body.as_bytes(),
                            msg_type,
                            frontend: uid,
                            metadata: b"{}",
                            stamp,
                        };
                        let message = Request {
                            r#type: kind as i32,
                            session: with_session.then(|| Session {
                                id: sid,
                                uid: uid.to_owned(),
                                data: data.to_owned().into(),
                            }),
                            msg: Some(Msg {
                                id,
                                route: route.to_owned(),
                                data: body.to_owned().into(),
                                reply: String::new(),
                                r#type: msg_type as i32,
                            }),
                            frontend_id: uid.to_owned(),
                            metadata: Bytes::from_static(b"{}"),
                            stamp,
                        };
                        assert_eq!(parts.encode(), wire::encode(&message));
                    }
                }
            }
        }
        for data in ["", "ack", &long_body] {
            let response = Response {
                data: data.to_owned().into(),
                error: None,
            };
            assert_eq!(success(data.as_bytes()), wire::encode(&response));
        }
    }
}
