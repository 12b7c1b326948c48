//! WebSocket framing for the server side, without IO.
//!
//! Frame heads are parsed and written by `tungstenite`'s [`FrameHeader`]; this module only joins frames to messages. It is not
//! tungstenite's own `WebSocket`, because that keeps read and write buffers for every connection, and an idle session of
//! ours owns none (see the cost model in ARCHITECTURE.md).
//!
//! Rules kept here (RFC 6455): client frames are masked, reserved bits are clear, control frames are whole and at most 125
//! bytes long, fragments do not interleave, a message is bounded, a close has a status that may be sent and a reason in UTF-8. Text
//! frames are taken as the bytes they are.

use std::io::Cursor;

use bytes::{Buf as _, Bytes, BytesMut};
use thiserror::Error;
use tungstenite::protocol::frame::{
    FrameHeader,
    coding::{Control, Data, OpCode},
};

/// The content of a client's frames.
#[derive(Debug, PartialEq, Eq)]
pub enum WsEvent {
    /// A whole message, text or binary.
    Message(Bytes),
    /// A ping, to be answered with a pong of the same payload.
    Ping(Bytes),
    /// A pong; nothing to do.
    Pong,
    /// The client says goodbye, with its status if it gave one. Nothing is read after this.
    Close(Option<u16>),
}

/// The name of [`WsError::TooLong`], which has a close status of its own.
pub(crate) const TOO_LONG: &str = "websocket_message_too_long";

/// The name of [`WsError::CloseNotText`], which has a close status of its own.
pub(crate) const NOT_TEXT: &str = "websocket_close_reason_not_text";

/// Why a client's frames cannot be read further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum WsError {
    /// A client frame without a mask.
    #[error("websocket frame of a client is not masked")]
    Unmasked,
    /// A reserved bit or opcode, for which no extension was agreed.
    #[error("websocket frame uses a reserved bit or opcode")]
    Reserved,
    /// A length in more bytes than it needs (RFC 6455, 5.2).
    #[error("the length of a websocket frame is written in more bytes than it needs")]
    LongLength,
    /// A control frame that is fragmented or longer than 125 bytes.
    #[error("websocket control frame is fragmented or longer than 125 bytes")]
    BadControl,
    /// A close frame of one byte, or with a status that must not be sent.
    #[error("websocket close frame of one byte, or with a status that must not be sent")]
    BadClose,
    /// A close frame whose reason is not UTF-8.
    #[error("the reason in a websocket close frame is not UTF-8")]
    CloseNotText,
    /// A continuation without a beginning, or a beginning inside a fragmented message.
    #[error("websocket fragments are out of order")]
    BadFragment,
    /// A message above the bound.
    #[error("websocket message is longer than {max} bytes")]
    TooLong {
        /// The bound, bytes.
        max: usize,
    },
}

impl WsError {
    /// Short name for counters and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unmasked => "websocket_frame_unmasked",
            Self::Reserved => "websocket_frame_reserved",
            Self::LongLength => "websocket_frame_length",
            Self::BadControl => "websocket_control_frame",
            Self::BadClose => "websocket_close_frame",
            Self::CloseNotText => NOT_TEXT,
            Self::BadFragment => "websocket_fragments",
            Self::TooLong { .. } => TOO_LONG,
        }
    }
}

/// Reads frames of one client. Owns no memory while no frame or message is cut short.
///
/// Bytes from the socket go through [`take`](Self::take); what that returns is read with [`next`](Self::next) until nothing is left.
/// A mask is removed where the byte lies, and the key is zeroed: then a frame is as if it had been sent without a mask, and the messages of
/// a chunk are slices of one copy of it.
#[derive(Debug, Default)]
pub struct WsReader {
    /// Boxed, so that a connection does not pay for what few ever need.
    cut: Option<Box<Cut>>,
}

/// A frame or message that has not arrived completely.
#[derive(Debug, Default)]
struct Cut {
    /// Of a frame, as it came.
    frame: BytesMut,
    /// Of a message in fragments, once there is one.
    message: Option<BytesMut>,
}

impl WsReader {
    /// Takes what came from the socket, and returns the frames that are whole now. The rest is kept.
    ///
    /// `max` bounds a frame, in bytes. Memory grows with what arrives, never with an announced length. A frame that breaks a rule is
    /// returned with all that follows, for [`next`](Self::next) to refuse.
    pub fn take(&mut self, chunk: &mut [u8], max: usize) -> Bytes {
        let Some(cut) = self.cut.as_mut().filter(|cut| !cut.frame.is_empty()) else {
            let whole = unmask_frames(chunk, max);
            let (frames, rest) = chunk.split_at(whole);
            if !rest.is_empty() {
                let cut = self.cut.get_or_insert_default();
                cut.frame.extend_from_slice(rest);
            }
            return Bytes::copy_from_slice(frames);
        };
        cut.frame.extend_from_slice(chunk);
        let whole = unmask_frames(&mut cut.frame, max);
        if whole == 0 {
            return Bytes::new();
        }
        let rest = BytesMut::from(&cut.frame[whole..]);
        let mut frames = std::mem::replace(&mut cut.frame, rest);
        frames.truncate(whole);
        self.drop_if_whole();
        frames.freeze()
    }

    fn drop_if_whole(&mut self) {
        let is_whole = |cut: &Cut| cut.frame.is_empty() && cut.message.is_none();
        if self.cut.as_deref().is_some_and(is_whole) {
            self.cut = None;
        }
    }

    /// The next event in `frames`, which came from [`take`](Self::take), or `None` at their end. Consumed bytes are taken from it.
    ///
    /// `max` bounds a message (all its fragments together), in bytes.
    ///
    /// # Errors
    /// [`WsError`]: the connection cannot go on.
    pub fn next(&mut self, frames: &mut Bytes, max: usize) -> Result<Option<WsEvent>, WsError> {
        while let Some(head) = Head::parse(frames, max)? {
            if frames.len() < head.frame() {
                break;
            }
            let mut payload = frames.split_to(head.frame());
            payload.advance(head.length);
            if let Some(event) = self.join(&head.header, payload, max)? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    fn join(
        &mut self,
        header: &FrameHeader,
        payload: Bytes,
        max: usize,
    ) -> Result<Option<WsEvent>, WsError> {
        match header.opcode {
            OpCode::Control(control) => Ok(Some(match control {
                Control::Ping => WsEvent::Ping(payload),
                Control::Pong => WsEvent::Pong,
                Control::Close => WsEvent::Close(close_status(&payload)?),
                Control::Reserved(_) => return Err(WsError::Reserved),
            })),
            OpCode::Data(Data::Reserved(_)) => Err(WsError::Reserved),
            OpCode::Data(data) => {
                let begun = self.cut.as_ref().is_some_and(|cut| cut.message.is_some());
                if (data == Data::Continue) != begun {
                    return Err(WsError::BadFragment);
                }
                if !begun && header.is_final {
                    return Ok(Some(WsEvent::Message(payload)));
                }
                self.add_fragment(header.is_final, &payload, max)
            }
        }
    }

    fn add_fragment(
        &mut self,
        is_last: bool,
        payload: &[u8],
        max: usize,
    ) -> Result<Option<WsEvent>, WsError> {
        let cut = self.cut.get_or_insert_default();
        let message = cut.message.get_or_insert_default();
        if message.len() + payload.len() > max {
            return Err(WsError::TooLong { max });
        }
        // A copy: a slice would keep the whole chunk it came in, and give a message that grows the capacity of one.
        message.extend_from_slice(payload);
        if !is_last {
            return Ok(None);
        }
        let whole = cut.message.take().unwrap_or_default();
        self.drop_if_whole();
        Ok(Some(WsEvent::Message(whole.freeze())))
    }
}

/// The status in a close frame, if there is one.
fn close_status(payload: &[u8]) -> Result<Option<u16>, WsError> {
    let (status, reason) = match *payload {
        [] => return Ok(None),
        [_] => return Err(WsError::BadClose),
        [high, low, ref reason @ ..] => (u16::from_be_bytes([high, low]), reason),
    };
    // The others are reserved, or only for use in programs (RFC 6455, 7.4, and the registry that it founds).
    if !matches!(status, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(WsError::BadClose);
    }
    match std::str::from_utf8(reason) {
        Ok(_) => Ok(Some(status)),
        Err(_) => Err(WsError::CloseNotText),
    }
}

/// The head of a frame that keeps the rules.
struct Head {
    header: FrameHeader,
    /// Bytes of the head itself.
    length: usize,
    payload: usize,
}

impl Head {
    /// The head at the front of `bytes`, or `None` if it has not arrived whole.
    fn parse(bytes: &[u8], max: usize) -> Result<Option<Self>, WsError> {
        if let Some(short) = Self::short(bytes)
            && short.payload <= max
        {
            return Ok(Some(short));
        }
        let mut cursor = Cursor::new(bytes);
        let parsed = FrameHeader::parse(&mut cursor).map_err(|_| WsError::Reserved)?;
        let Some((header, payload)) = parsed else {
            return Ok(None);
        };
        let length = usize::try_from(cursor.position()).map_err(|_| WsError::TooLong { max })?;
        if header.rsv1 || header.rsv2 || header.rsv3 {
            return Err(WsError::Reserved);
        }
        if header.mask.is_none() {
            return Err(WsError::Unmasked);
        }
        let shortest = match bytes[1] & 0x7f {
            126 => 126,
            127 => 65_536,
            _ => 0,
        };
        if payload < shortest {
            return Err(WsError::LongLength);
        }
        if matches!(header.opcode, OpCode::Control(_)) && (payload > 125 || !header.is_final) {
            return Err(WsError::BadControl);
        }
        let payload = usize::try_from(payload)
            .ok()
            .filter(|payload| *payload <= max)
            .ok_or(WsError::TooLong { max })?;
        Ok(Some(Self {
            header,
            length,
            payload,
        }))
    }

    /// The head of nearly every frame that clients send: a whole message of less than 126 bytes. It is read before all others for
    /// the time that takes: the general way is a twentieth of a small request.
    fn short(bytes: &[u8]) -> Option<Self> {
        let (opcode, length, key) = match *bytes {
            [0x81, length @ 0x80..=0xfd, a, b, c, d, ..] => (Data::Text, length, [a, b, c, d]),
            [0x82, length @ 0x80..=0xfd, a, b, c, d, ..] => (Data::Binary, length, [a, b, c, d]),
            _ => return None,
        };
        Some(Self {
            header: FrameHeader {
                opcode: OpCode::Data(opcode),
                mask: Some(key),
                ..FrameHeader::default()
            },
            length: 6,
            payload: usize::from(length & 0x7f),
        })
    }

    /// Bytes of the whole frame.
    const fn frame(&self) -> usize {
        self.length + self.payload
    }
}

/// Removes the masks of the frames that lie whole in `bytes`, and zeroes their keys. Returns how many bytes are ready to be read: these
/// frames, or everything if one of them breaks a rule.
fn unmask_frames(bytes: &mut [u8], max: usize) -> usize {
    let mut at = 0;
    loop {
        let rest = &mut bytes[at..];
        let head = match Head::parse(rest, max) {
            Ok(Some(head)) if head.frame() <= rest.len() => head,
            Ok(_) => return at,
            Err(_) => return bytes.len(),
        };
        at += head.frame();
        if let Some(key) = head.header.mask {
            let (head_bytes, payload) = rest[..head.frame()].split_at_mut(head.length);
            unmask(payload, key);
            // The key is the end of the head.
            head_bytes[head.length - key.len()..].fill(0);
        }
    }
}

fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let wide = u64::from_ne_bytes([
        mask[0], mask[1], mask[2], mask[3], mask[0], mask[1], mask[2], mask[3],
    ]);
    let mut chunks = payload.chunks_exact_mut(8);
    for chunk in &mut chunks {
        let mut word = [0; 8];
        word.copy_from_slice(chunk);
        chunk.copy_from_slice(&(u64::from_ne_bytes(word) ^ wide).to_ne_bytes());
    }
    for (byte, key) in chunks.into_remainder().iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
}

/// The longest head of a frame that a server sends.
pub(crate) const MAX_HEAD: usize = 10;

/// Writes the head of a binary message of `length` bytes into `head` and returns how many bytes it takes.
pub(crate) fn binary_head(length: usize, head: &mut [u8; MAX_HEAD]) -> usize {
    put_head(OpCode::Data(Data::Binary), length, head)
}

fn put_head(opcode: OpCode, length: usize, head: &mut [u8; MAX_HEAD]) -> usize {
    let header = FrameHeader {
        opcode,
        mask: None,
        ..FrameHeader::default()
    };
    let mut rest = &mut head[..];
    // A head without mask takes at most ten bytes, so the write into the array cannot come up short.
    let written = header.format(length as u64, &mut rest).is_ok();
    debug_assert!(written, "a server's frame head fits in {MAX_HEAD} bytes");
    header.len(length as u64)
}

/// Appends a pong that answers a ping with `payload` (at most 125 bytes).
pub(crate) fn put_pong(payload: &[u8], out: &mut BytesMut) {
    put_control(Control::Pong, payload, out);
}

/// Appends a close frame with `status` and as much of `reason` as fits.
pub(crate) fn put_close(status: u16, reason: &str, out: &mut BytesMut) {
    let mut end = reason.len().min(123);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    let mut payload = Vec::with_capacity(2 + end);
    payload.extend_from_slice(&status.to_be_bytes());
    payload.extend_from_slice(&reason.as_bytes()[..end]);
    put_control(Control::Close, &payload, out);
}

fn put_control(control: Control, payload: &[u8], out: &mut BytesMut) {
    let mut head = [0; MAX_HEAD];
    let length = put_head(OpCode::Control(control), payload.len(), &mut head);
    out.extend_from_slice(&head[..length]);
    out.extend_from_slice(payload);
}

#[cfg(test)]
mod tests;
