//! The WebSocket upgrade and frames (RFC 6455), as much as the load tester uses: no fragments, no extensions.

use base64::Engine as _;
use sha1::{Digest as _, Sha1};

use crate::wire::{self, Requests, Verdict};

/// Opcode of a binary frame.
pub(crate) const BINARY: u8 = 2;
const TEXT: u8 = 1;
const PING: u8 = 9;
const PONG: u8 = 10;
const FINAL: u8 = 0x80;
const MASKED: u8 = 0x80;

const KEY_HEADER: &[u8] = b"sec-websocket-key:";
const ACCEPT_GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Answers the upgrade request once it is whole; 0 while it is not.
pub(crate) fn upgrade(data: &[u8], output: &mut Vec<u8>) -> Result<usize, Verdict> {
    let Some(end) = data.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(0);
    };
    let key = data[..end]
        .split(|&byte| byte == b'\n')
        .find_map(|line| {
            let (name, value) = line.split_at_checked(KEY_HEADER.len())?;
            name.eq_ignore_ascii_case(KEY_HEADER)
                .then_some(value.trim_ascii())
        })
        .ok_or(Verdict::Close)?;
    let digest = Sha1::new()
        .chain_update(key)
        .chain_update(ACCEPT_GUID)
        .finalize();
    let accept = base64::engine::general_purpose::STANDARD.encode(digest);
    output.extend_from_slice(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n");
    output.extend_from_slice(b"Connection: Upgrade\r\nSec-WebSocket-Accept: ");
    output.extend_from_slice(accept.as_bytes());
    output.extend_from_slice(b"\r\n\r\n");
    Ok(end + 4)
}

/// Answers every whole frame of `data`, with one frame around all answers, and returns how many bytes they took.
pub(crate) fn answer_all(
    data: &mut [u8],
    output: &mut Vec<u8>,
    requests: &mut Requests,
) -> Result<usize, Verdict> {
    let mut taken = 0;
    let mut answers = Vec::new();
    while let Some((head, length)) = frame_head(&data[taken..])? {
        let start = taken + head;
        let Some(payload) = data.get_mut(start..start + length) else {
            break;
        };
        let opcode = unmask(taken, head, payload.len(), data);
        let payload = &data[start..start + length];
        match opcode {
            BINARY | TEXT => {
                if wire::answer_all(payload, &mut answers, requests)? != length {
                    return Err(Verdict::Close);
                }
            }
            PING => put_frame(PONG, payload, output),
            PONG => {}
            _ => return Err(Verdict::Close),
        }
        taken = start + length;
    }
    if !answers.is_empty() {
        put_frame(BINARY, &answers, output);
    }
    Ok(taken)
}

/// Length of the head and of the payload, or `None` while the head is cut short.
fn frame_head(data: &[u8]) -> Result<Option<(usize, usize)>, Verdict> {
    let Some(&[first, second]) = data.first_chunk() else {
        return Ok(None);
    };
    if first & FINAL == 0 || second & MASKED == 0 {
        return Err(Verdict::Close);
    }
    Ok(match second & !MASKED {
        126 => data
            .get(2..4)
            .map(|b| (8, usize::from(u16::from_be_bytes([b[0], b[1]])))),
        127 => return Err(Verdict::Close),
        short => Some((6, usize::from(short))),
    })
}

/// Removes the mask of the frame at `frame` and returns its opcode.
fn unmask(frame: usize, head: usize, length: usize, data: &mut [u8]) -> u8 {
    let start = frame + head;
    let mut key = [0; 4];
    key.copy_from_slice(&data[start - 4..start]);
    let (words, rest) = data[start..start + length].as_chunks_mut::<4>();
    for word in words {
        *word = (u32::from_ne_bytes(*word) ^ u32::from_ne_bytes(key)).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(key) {
        *byte ^= key;
    }
    data[frame] & 0x0f
}

/// One unmasked frame, as servers send it.
#[expect(
    clippy::cast_possible_truncation,
    reason = "each cast is behind its bound"
)]
pub(crate) fn put_frame(opcode: u8, payload: &[u8], output: &mut Vec<u8>) {
    output.push(FINAL | opcode);
    match payload.len() {
        length @ 0..126 => output.push(length as u8),
        length @ 126..0x1_0000 => {
            output.push(126);
            output.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            output.push(127);
            output.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    output.extend_from_slice(payload);
}
