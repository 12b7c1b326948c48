//! WebSocket, client side: the upgrade and frames. Heads are read and written by `tungstenite`.

use std::io::Cursor;

use base64::Engine as _;
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use tungstenite::{
    handshake::derive_accept_key,
    protocol::frame::{
        FrameHeader,
        coding::{Control, Data, OpCode},
    },
};

/// Longest response to an upgrade, in bytes.
const MAX_UPGRADE: usize = 8 * 1024;
/// Longest frame of a server, in bytes.
const MAX_FRAME: u64 = 32 * 1024 * 1024;
const MAX_HEAD: usize = 14;

/// Every frame has this mask: a fixed one costs the server as much as any.
const MASK: [u8; 4] = [0x9a, 0x3c, 0x71, 0xe5];

/// The key of the upgrade may be the same each time: there is no cache between client and server.
const KEY: [u8; 16] = *b"shaddock's bench";

/// A violation of the WebSocket protocol by a server.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WsError {
    #[error("the response to the upgrade was: {0}")]
    Refused(String),
    #[error("the response to the upgrade is longer than {MAX_UPGRADE} bytes")]
    UpgradeTooLong,
    #[error("a malformed frame: {0}")]
    Frame(#[from] tungstenite::Error),
    #[error("a frame of {0} bytes")]
    FrameTooLong(u64),
}

/// A frame, as far as packages are concerned.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// Bytes of packages.
    Data(Bytes),
    /// Requires a pong with the same bytes.
    Ping(Bytes),
    /// The server closes.
    Close,
    /// No effect.
    Pong,
}

/// The request for a WebSocket upgrade.
pub(crate) fn upgrade_request(host: &str, path: &str) -> String {
    let key = key_text();
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
}

/// Takes the response from `input` once it is complete. Later bytes stay.
pub(crate) fn take_upgrade(input: &mut Bytes) -> Result<bool, WsError> {
    let Some(end) = input.windows(4).position(|window| window == b"\r\n\r\n") else {
        return if input.len() > MAX_UPGRADE {
            Err(WsError::UpgradeTooLong)
        } else {
            Ok(false)
        };
    };
    let answer = input.split_to(end + 4);
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.lines().next().unwrap_or_default();
    let accept = answer.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("sec-websocket-accept")
            .then(|| value.trim())
    });
    let expected = derive_accept_key(key_text().as_bytes());
    if status.split(' ').nth(1) == Some("101") && accept == Some(&expected) {
        Ok(true)
    } else {
        Err(WsError::Refused(status.to_owned()))
    }
}

/// Takes the next complete frame from `input`.
pub(crate) fn take_frame(input: &mut Bytes) -> Result<Option<Frame>, WsError> {
    let head = &input[..input.len().min(MAX_HEAD)];
    let mut cursor = Cursor::new(head);
    let Some((header, length)) = FrameHeader::parse(&mut cursor)? else {
        return Ok(None);
    };
    if length > MAX_FRAME {
        return Err(WsError::FrameTooLong(length));
    }
    let start = usize::try_from(cursor.position()).unwrap_or(MAX_HEAD);
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if input.len() - start < length {
        return Ok(None);
    }
    input.advance(start);
    let payload = input.split_to(length);
    Ok(Some(match header.opcode {
        OpCode::Data(_) => Frame::Data(payload),
        OpCode::Control(Control::Ping) => Frame::Ping(payload),
        OpCode::Control(Control::Close) => Frame::Close,
        OpCode::Control(_) => Frame::Pong,
    }))
}

/// Appends a binary frame with one package in it, masked.
pub(crate) fn put_package(package: &[u8], out: &mut BytesMut) {
    put_frame(OpCode::Data(Data::Binary), package, out);
}

/// Appends the response to a ping.
pub(crate) fn put_pong(payload: &[u8], out: &mut BytesMut) {
    put_frame(OpCode::Control(Control::Pong), payload, out);
}

/// Appends a close frame without a reason.
pub(crate) fn put_close(out: &mut BytesMut) {
    put_frame(OpCode::Control(Control::Close), &[], out);
}

fn put_frame(opcode: OpCode, payload: &[u8], out: &mut BytesMut) {
    let header = FrameHeader {
        opcode,
        mask: Some(MASK),
        ..FrameHeader::default()
    };
    let length = payload.len() as u64;
    out.reserve(MAX_HEAD + payload.len());
    // Writing to memory cannot fail.
    let _ = header.format(length, &mut out.writer());
    let start = out.len();
    out.extend_from_slice(payload);
    let (words, rest) = out[start..].as_chunks_mut::<4>();
    for word in words {
        *word = (u32::from_ne_bytes(*word) ^ u32::from_ne_bytes(MASK)).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(MASK) {
        *byte ^= mask;
    }
}

fn key_text() -> String {
    base64::engine::general_purpose::STANDARD.encode(KEY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_taken_one_by_one_and_only_when_whole() {
        let bytes = Bytes::from_static(&[0x82, 3, 1, 2, 3, 0x89, 1, 7, 0x8a, 0, 0x88, 0, 0x82]);
        for cut in 0..5 {
            let mut input = bytes.slice(..cut);
            assert_eq!(take_frame(&mut input).unwrap(), None);
            assert_eq!(
                input.len(),
                cut,
                "nothing is taken of a frame that is cut short"
            );
        }
        let mut input = bytes;
        assert_eq!(
            take_frame(&mut input).unwrap(),
            Some(Frame::Data(Bytes::from_static(&[1, 2, 3])))
        );
        assert_eq!(
            take_frame(&mut input).unwrap(),
            Some(Frame::Ping(Bytes::from_static(&[7])))
        );
        assert_eq!(take_frame(&mut input).unwrap(), Some(Frame::Pong));
        assert_eq!(take_frame(&mut input).unwrap(), Some(Frame::Close));
        assert_eq!(take_frame(&mut input).unwrap(), None);
    }

    #[test]
    fn what_is_sent_can_be_unmasked() {
        for length in [0, 1, 3, 4, 125, 126, 70_000] {
            let package: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
            let mut out = BytesMut::new();
            put_package(&package, &mut out);
            let mut cursor = Cursor::new(&out[..]);
            let (header, announced) = FrameHeader::parse(&mut cursor).unwrap().unwrap();
            assert_eq!(announced, length);
            let mask = header.mask.unwrap();
            let start = usize::try_from(cursor.position()).unwrap();
            let plain: Vec<u8> = out[start..]
                .iter()
                .enumerate()
                .map(|(i, byte)| byte ^ mask[i % 4])
                .collect();
            assert_eq!(plain, package);
        }
    }

    #[test]
    fn only_the_right_key_opens_the_socket() {
        let accept = derive_accept_key(key_text().as_bytes());
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nsec-websocket-accept: {accept}\r\n\r\nrest"
        );
        let mut input = Bytes::from(answer.clone());
        assert!(take_upgrade(&mut input).unwrap());
        assert_eq!(&input[..], b"rest");
        let mut cut = Bytes::from(answer.clone()).slice(..30);
        assert!(!take_upgrade(&mut cut).unwrap());
        let mut wrong = Bytes::from(answer.replace(&accept, "AAAA"));
        assert!(take_upgrade(&mut wrong).is_err());
        let mut refused = Bytes::from_static(b"HTTP/1.1 403 Forbidden\r\n\r\n");
        assert!(matches!(
            take_upgrade(&mut refused),
            Err(WsError::Refused(_))
        ));
    }
}
