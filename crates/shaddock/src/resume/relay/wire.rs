//! The operations of a relay, as they travel between its frontends.

use std::net::SocketAddr;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};
use shaddock_cluster::ServerId;
use shaddock_net::Piece;

use crate::handshake::Login;

/// What the frontend with the socket says.
#[derive(Serialize, Deserialize)]
pub(crate) struct Open {
    pub(super) from: String,
    pub(super) number: u64,
    /// The body of the client's HANDSHAKE.
    pub(super) handshake: Box<RawValue>,
    /// What its application has for the client.
    #[serde(default)]
    pub(super) user: Option<Value>,
    /// What that says of the client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) login: Option<Login>,
    pub(super) address: SocketAddr,
    pub(super) is_tls: bool,
    pub(super) is_websocket: bool,
}

/// What the frontend with the session answers.
#[derive(Serialize, Deserialize)]
pub(super) enum Opened {
    /// The client gets its session.
    Yes,
    /// It does not, for the reason of this name.
    Refused(String),
    /// It has come back on a later connection.
    Elsewhere,
}

/// Some bytes, at their place in the stream.
pub(super) struct Moved {
    pub(super) from: ServerId,
    pub(super) number: u64,
    pub(super) from_home: bool,
    pub(super) place: u64,
    pub(super) piece: Piece,
}

impl Moved {
    pub(super) fn to_bytes(&self) -> Bytes {
        let payload = match &self.piece {
            Piece::Bytes(bytes) => &bytes[..],
            _ => &[],
        };
        let kind = match self.piece {
            Piece::Bytes(_) => 0,
            Piece::Finished => 1,
            Piece::Broken => 2,
        };
        let from = self.from.as_str().as_bytes();
        let mut out = BytesMut::with_capacity(20 + from.len() + payload.len());
        out.put_u8(kind);
        out.put_u8(u8::from(self.from_home));
        out.put_u64(self.number);
        out.put_u64(self.place);
        out.put_u16(u16::try_from(from.len()).unwrap_or(u16::MAX));
        out.put_slice(from);
        out.put_slice(payload);
        out.freeze()
    }

    pub(super) fn read(mut bytes: Bytes) -> Option<Self> {
        let kind = bytes.try_get_u8().ok()?;
        let from_home = bytes.try_get_u8().ok()? == 1;
        let number = bytes.try_get_u64().ok()?;
        let place = bytes.try_get_u64().ok()?;
        let length = usize::from(bytes.try_get_u16().ok()?);
        if bytes.len() < length {
            return None;
        }
        let from = bytes.split_to(length);
        let piece = match kind {
            0 => Piece::Bytes(bytes),
            1 => Piece::Finished,
            2 => Piece::Broken,
            _ => return None,
        };
        Some(Self {
            from: ServerId::new(std::str::from_utf8(&from).ok()?).ok()?,
            number,
            from_home,
            place,
            piece,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_travel_with_their_place() {
        for piece in [
            Piece::Bytes(Bytes::from_static(b"hello")),
            Piece::Bytes(Bytes::new()),
            Piece::Finished,
            Piece::Broken,
        ] {
            let moved = Moved {
                from: ServerId::new("connector-1").unwrap(),
                number: u64::MAX,
                from_home: true,
                place: 1 << 40,
                piece,
            };
            let bytes = moved.to_bytes();
            let read = Moved::read(bytes.clone()).unwrap();
            assert_eq!(
                (
                    read.from,
                    read.number,
                    read.from_home,
                    read.place,
                    read.piece
                ),
                (moved.from, moved.number, true, moved.place, moved.piece)
            );
            let head = bytes.len().min(20 + "connector-1".len());
            for length in 0..head {
                assert!(Moved::read(bytes.slice(..length)).is_none(), "{length}");
            }
        }
    }
}
